//! The node's state machine: what the guard and the agent of one node decide.
//!
//! Pure: no clock, no file, no network, no runtime. The shell around it (`drydock-updater`) says what was
//! seen and what happened, writes the journal it gets back, and only then performs the effects. A kill
//! between any two of these is mended by the next [`Event::Started`].
//!
//! The steps are those of `docs/PROTOCOL.md`, "One attempt, step by step", 8 to 12.

pub mod agent;
mod event;
mod guard;
mod journal;
mod millis;
mod seen;
mod status;
mod wire;

pub use event::{ArmRequest, Effect, Event, GoodRequest, Refusal, Step, Verdict, Word};
pub use guard::{NextTick, latest, next_tick, step};
pub use journal::{
    Attempt, Checks, Class, CommittedRelease, Deadline, EndState, Ended, FailedDigest, JOURNAL_MAJOR,
    Journal, MAX_ENDED, MAX_FAILED, MAX_TRIAL_BOOTS, Origin, Phase, TrialBoot,
};
pub use seen::{Seen, Slot, SlotSeen, Timing};
pub use status::{AttemptReport, AttemptState, GuardKind, GuardStatus, PhaseName, SlotStatus};
pub use wire::{MAX_LINE_BYTES, Reply, Request};
