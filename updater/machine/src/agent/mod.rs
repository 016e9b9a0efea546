//! What the agent decides: which of its orders is the next to be carried out, and whether a grant holds.
//! It adopts nothing by itself and never arms without [`check_grant`] on an object read from the server.

mod decide;
mod grant;
mod order;

pub use decide::{Decision, Facts, NotStaged, agent_state, decide, may_stage};
pub use grant::{GrantRefusal, check_grant};
pub use order::{Asked, Grant, Order, Wish};

#[cfg(test)]
mod tests;
