//! How slow a fetch may be and how often it is tried again: what a configuration may say, with what
//! counts where it says nothing.

use std::time::Duration;

/// How fast one try must go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a single byte coming in.
    pub idle: Duration,
    /// A try ends when in a time of this length fewer bytes came than `least_bytes_per_second` makes,
    /// so that a trickle ends too. What this machine's own bandwidth limit takes is not counted.
    pub window: Duration,
    /// The least rate, on average over `window`; at least one.
    pub least_bytes_per_second: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(20),
            window: Duration::from_secs(60),
            least_bytes_per_second: 1024,
        }
    }
}

/// How often a fetch is tried again after an error that may pass. Pauses double, with jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries at each mirror, the first one included.
    pub tries: u32,
    /// The pause after the first try at every mirror.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// No try begins, and none goes on, after this long. Every byte that came in adds what it takes at
    /// [`Timeouts::least_bytes_per_second`], so n bytes end within `total` and n times that; what this
    /// machine's own bandwidth limit takes is not counted.
    pub total: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(15),
            total: Duration::from_secs(300),
        }
    }
}
