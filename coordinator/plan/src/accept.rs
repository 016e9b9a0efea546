//! Whether a policy can work as it is written. What CEL can judge is refused by the API server; the rest is
//! judged here, with the arithmetic. Never judges a moment.

use std::time::Duration;

use drydock_api::{SpanText, UpgradePolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{expected::guess, windows::Calendar, world::World};

/// The judgement.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    /// What is wrong, each in a sentence. Empty: accepted.
    pub wrong: Vec<String>,
    /// Its windows and freezes, if they could be understood.
    pub calendar: Option<Calendar>,
}

impl Accepted {
    pub(crate) fn yes(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// Judges a policy.
pub(crate) fn judge(world: &World, spec: &UpgradePolicySpec) -> Accepted {
    let mut wrong = Vec::new();
    let choice = &spec.release;
    let named = [
        choice.channel.is_some(),
        choice.digest.is_some(),
        choice.version.is_some(),
    ];
    if named.iter().filter(|named| **named).count() != 1 {
        wrong.push("spec.release must name exactly one of channel, digest and version".to_owned());
    }
    if !world.repositories.contains_key(&spec.repository) {
        wrong.push(format!("there is no ImageRepository {}", spec.repository));
    }
    if let Err(text) = max_unavailable(&spec.strategy.max_unavailable, 1) {
        wrong.push(text);
    }
    let calendar = match Calendar::new(spec, world.now) {
        Ok(calendar) => Some(calendar),
        Err(all) => {
            wrong.extend(all);
            None
        }
    };
    if let Some(longest) = calendar.as_ref().and_then(Calendar::longest) {
        let estimate = guess(spec);
        if longest.is_zero() {
            wrong.push("no window of the policy ever comes".to_owned());
        } else if longest < estimate.need() {
            wrong.push(format!(
                "no window can fit a node: drain {} + reboot {} + way back {} = {}, but the longest window is {}",
                text(estimate.drain),
                text(estimate.reboot),
                text(estimate.way_back),
                text(estimate.need()),
                text(longest),
            ));
        }
    }
    Accepted { wrong, calendar }
}

/// How many of `nodes` may be unavailable: a number, or a percentage rounded down, at least 1 unless it
/// is 0.
pub(crate) fn max_unavailable(value: &IntOrString, nodes: usize) -> Result<usize, String> {
    match value {
        IntOrString::Int(number) => usize::try_from(*number)
            .map_err(|_| format!("spec.strategy.maxUnavailable is {number}; it must not be negative")),
        IntOrString::String(written) => {
            let percent = written
                .strip_suffix('%')
                .and_then(|number| number.parse::<usize>().ok())
                .filter(|percent| *percent <= 100)
                .ok_or_else(|| {
                    format!("spec.strategy.maxUnavailable is `{written}`; write a number, or 0% to 100%")
                })?;
            Ok(match percent {
                0 => 0,
                percent => (nodes * percent / 100).max(1),
            })
        }
    }
}

/// A length of time for people.
pub(crate) fn text(length: Duration) -> String {
    SpanText::from_secs(length.as_secs()).to_string()
}
