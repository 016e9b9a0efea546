//! What may happen next in the cluster: a snapshot of the world and `now` in, typed actions with typed
//! reasons out.
//!
//! Nothing here reads a clock, draws a random number, talks to a server or remembers anything between two
//! plans. [`plan`] is a pure function; [`World`] says what the shell must keep for its actions to be safe.
//! The rules are those of `docs/PROTOCOL.md`; S1-S14, L1 and L2 are named where they are kept.

mod accept;
pub mod action;
mod attempt;
mod budget;
mod drain;
mod expected;
pub mod fence;
mod halt;
mod idle;
pub mod node;
pub mod phase;
mod planner;
pub mod pod;
pub mod reason;
pub mod rebuild;
mod records;
mod report;
mod scene;
pub mod selector;
mod take;
mod target;
pub mod version;
pub mod volumes;
pub mod windows;
pub mod world;

pub use action::{Action, EventTarget, Keep, ObjectRef, PodRef, SpecChange, StatusChange};
pub use node::{NodeView, Readiness};
pub use phase::Phase;
pub use planner::{NodeAssessment, Plan, PolicyAssessment, plan};
pub use pod::{Answer, Controller, DrainView, PodView, RawAnswer};
pub use reason::{Note, Reason};
pub use version::Version;
pub use volumes::{ClaimView, VolumesView};
pub use world::{
    ApiHealth, ChannelRelease, Myself, ReleaseView, RepositoryView, StateFormat, Timings, World,
};
