//! The clock of one replica: the wall's instant as an argument, so that a simulation can turn it.
//! Lengths of time that decide about leading or staleness are never taken from here but from the
//! runtime's monotonic clock.

use jiff::Timestamp;

/// Where `now` comes from.
pub trait Clock: Send + Sync + 'static {
    /// The instant that this machine believes it is.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
