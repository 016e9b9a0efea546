//! The coordinator's shell: observe, plan, execute. A shell never decides (that is `drydock-plan`), and
//! nothing that lasts is kept in memory: a replica can be killed at any instruction and another goes on.

pub mod clock;
pub mod command;
pub mod execute;
pub mod install;
pub mod kubectl;
pub mod lead;
pub mod link;
pub mod metrics;
pub mod observe;
pub mod repository;
mod run;
pub mod serve;
pub mod settings;

pub use clock::{Clock, SystemClock};
pub use lead::LeaseSettings;
pub use run::{RunError, run};
pub use settings::Settings;
