//! The demo: a cluster upgrades itself before one's eyes, loses its coordinator in the middle, meets a
//! bad release and stops by itself; an observer checks all the way that nothing happened that must not.

mod images;
mod insight;
mod options;
mod screen;
mod story;
mod summary;
mod view;

pub use images::StoryImages;
pub use insight::Insight;
pub use options::DemoOptions;
pub use screen::{LiveScreen, PlainScreen, Screen};
pub use story::{Story, plan};
pub use summary::{Verdict, judge, print};
pub use view::{NodeRow, Objects, Snapshot, short};
