//! Whole repositories: made, published, served, attacked, read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod delta;
mod fetching;
mod publishing;
mod refusals;
mod round_trip;
mod support;
mod trust_store;
mod verity;
mod verity_refusals;
