//! The status that the agent wants to stand on the server: a function of what it knows. Every text is cut
//! to the bound that the CRD sets, so that no word of a guard or a disk can make a status unwritable.

use drydock_api::{FailedDigest, LastError, NodeUpgradeStatus, Outcome, PROTOCOL, Progress, SlotReport};
use drydock_images::MetadataVersions;
use drydock_machine::agent::{Facts, Order, agent_state, may_stage};
use drydock_machine::{AttemptReport, GuardStatus, PhaseName, Slot, SlotSeen};

use crate::state::SlotRecord;

const MAX_TEXT: usize = 1024;
const MAX_OUTCOME_TEXT: usize = 512;
const MAX_WORD: usize = 64;
const MAX_FAILED: usize = 32;

/// What the report is made of, beside the facts.
#[derive(Debug, Clone, Default)]
pub(super) struct Local {
    /// The guard's answer, or what the journal and the table say where it does not answer.
    pub guard: Option<GuardStatus>,
    pub guard_answers: bool,
    pub running: Option<Slot>,
    pub record_a: Option<SlotRecord>,
    pub record_b: Option<SlotRecord>,
    pub image_version: Option<String>,
    pub progress: Option<Progress>,
    pub versions: Option<MetadataVersions>,
    /// The most important error that stands.
    pub error: Option<LastError>,
    /// The attempt whose slot is being read back.
    pub arming: Option<String>,
    /// UID and generation that were acted on.
    pub answered: Option<(String, i64)>,
}

impl Local {
    pub fn record(&self, slot: Slot) -> Option<&SlotRecord> {
        match slot {
            Slot::A => self.record_a.as_ref(),
            Slot::B => self.record_b.as_ref(),
        }
    }
}

/// See the module. `held` is the status on the server: what is not known anew is kept from it.
pub(super) fn report(
    order: &Order,
    facts: &Facts,
    local: &Local,
    held: &NodeUpgradeStatus,
) -> NodeUpgradeStatus {
    let running_record = local.running.and_then(|slot| local.record(slot));
    let proven = running_record.filter(|record| facts.running.as_ref() == Some(&record.release.to_string()));
    let hint = || local.image_version.clone();
    let attempt = local.guard.as_ref().and_then(|guard| guard.attempt.as_ref());
    let answered = local.answered.as_ref().filter(|(uid, _)| *uid == order.uid);
    let counted = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    NodeUpgradeStatus {
        observed_generation: answered.map(|(_, generation)| *generation),
        observed_uid: answered.map(|(uid, _)| uid.clone()),
        agent_state: Some(agent_state(Some(order), facts, local.arming.as_deref()).to_owned()),
        boot_id: Some(cut(&facts.boot_id, MAX_WORD)),
        running: Some(facts.running.clone().unwrap_or_else(|| "unknown".to_owned())),
        running_version: proven
            .map(|record| record.version.to_string())
            .or_else(hint)
            .map(|version| cut(&version, 128)),
        running_good: local.guard.as_ref().and_then(GuardStatus::running_good),
        staged: facts.staged.clone(),
        slots: slots(facts, local, attempt),
        progress: local.progress.clone().or_else(|| held.progress.clone()),
        last_error: error(order, facts, local),
        attempt: attempt.map(outcome).or_else(|| unheard(order, facts, held)),
        failed: failed(facts),
        root_version: local.versions.map(|v| counted(v.root)).or(held.root_version),
        timestamp_version: local
            .versions
            .map(|v| counted(v.timestamp))
            .or(held.timestamp_version),
        guard: Some(guard_word(local)),
        protocol: Some(PROTOCOL),
    }
}

/// With no guard and no journal to read, what the server holds of the attempt is not taken away.
fn unheard(order: &Order, facts: &Facts, held: &NodeUpgradeStatus) -> Option<Outcome> {
    let last = held
        .attempt
        .as_ref()
        .filter(|last| !order.forgiven.contains(&last.attempt))?;
    facts.guard.is_none().then(|| last.clone())
}

fn guard_word(local: &Local) -> String {
    match (&local.guard, local.guard_answers) {
        (Some(guard), true) => match guard.kind {
            drydock_machine::GuardKind::Full => "full",
            drydock_machine::GuardKind::UserspaceOnly => "userspace only",
        },
        _ => "none",
    }
    .to_owned()
}

fn slots(facts: &Facts, local: &Local, attempt: Option<&AttemptReport>) -> Vec<SlotReport> {
    let Some(guard) = &local.guard else {
        return Vec::new();
    };
    let report = |slot: &drydock_machine::SlotStatus| {
        let record = local.record(slot.name);
        SlotReport {
            name: slot.name.to_string(),
            state: slot_state(slot.name, &slot.seen, facts, local, attempt).to_owned(),
            digest: record.map(|record| record.release.to_string()),
            version: record.map(|record| cut(record.version.as_str(), 128)),
            priority: i32::from(slot.seen.priority),
            tries: i32::from(slot.seen.tries),
            successful: slot.seen.successful,
        }
    };
    guard.slots.iter().take(4).map(report).collect()
}

fn slot_state(
    slot: Slot,
    seen: &SlotSeen,
    facts: &Facts,
    local: &Local,
    attempt: Option<&AttemptReport>,
) -> &'static str {
    let armed = attempt.is_some_and(|attempt| {
        matches!(
            attempt.phase,
            PhaseName::Arming | PhaseName::Armed | PhaseName::Used
        )
    });
    let next = local.guard.as_ref().and_then(|guard| guard.next);
    match () {
        () if local.running == Some(slot) => "running",
        () if armed && next == Some(slot) => "armed",
        () if seen.record.is_some() && seen.successful => "previous",
        () if seen.record.is_some() => "staged",
        () if seen.successful => "previous",
        () if facts.staging.is_some() => "unbootable",
        () if seen.priority == 0 && seen.tries == 0 => "empty",
        () => "unbootable",
    }
}

fn outcome(attempt: &AttemptReport) -> Outcome {
    Outcome {
        attempt: cut(&attempt.attempt, 128),
        digest: cut(&attempt.digest, 71),
        state: attempt.state.as_str().to_owned(),
        boot_id: attempt.boot_id.as_ref().map(|id| cut(id, MAX_WORD)),
        code: attempt.code.as_ref().map(|code| cut(code, MAX_WORD)),
        text: attempt.text.as_ref().map(|text| cut(text, MAX_OUTCOME_TEXT)),
    }
}

fn failed(facts: &Facts) -> Vec<FailedDigest> {
    let newest = facts.failed.len().saturating_sub(MAX_FAILED);
    let report = |failed: &drydock_machine::FailedDigest| FailedDigest {
        digest: cut(&failed.digest, 71),
        attempt: cut(&failed.attempt, 128),
        code: cut(&failed.code, MAX_WORD),
    };
    facts.failed.iter().skip(newest).map(report).collect()
}

fn error(order: &Order, facts: &Facts, local: &Local) -> Option<LastError> {
    let there = order.wish.as_ref().is_none_or(|wish| {
        facts.running.as_ref() == Some(&wish.digest) || facts.staged.as_ref() == Some(&wish.digest)
    });
    let refused = (order.stage && !there)
        .then(|| may_stage(order, facts).err())
        .flatten();
    let refused = refused.map(|why| LastError {
        code: why.code().to_owned(),
        text: why.to_string(),
    });
    let problem = || {
        let text = local.guard.as_ref()?.problems.first()?;
        Some(LastError {
            code: "Guard".to_owned(),
            text: text.clone(),
        })
    };
    let error = local.error.clone().or(refused).or_else(problem)?;
    Some(LastError {
        code: cut(&error.code, MAX_WORD),
        text: cut(&error.text, MAX_TEXT),
    })
}

/// At most `max` characters, as the CRD counts them.
pub(super) fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_failed_digest_is_reported_until_it_is_forgiven_and_texts_are_cut() {
        let many = (0..40).map(|n| drydock_machine::FailedDigest {
            digest: format!("sha256:{n:064}"),
            attempt: format!("a{n}"),
            code: "x".repeat(200),
        });
        let facts = Facts {
            failed: many.collect(),
            ..Facts::default()
        };
        let error = LastError {
            code: "Disk".to_owned(),
            text: "ä".repeat(5_000),
        };
        let local = Local {
            error: Some(error),
            ..Local::default()
        };
        let status = report(&Order::default(), &facts, &local, &NodeUpgradeStatus::default());
        assert_eq!(
            (status.failed.len(), status.failed[0].attempt.as_str()),
            (32, "a8")
        );
        assert_eq!(status.failed[0].code.len(), 64);
        assert_eq!(status.last_error.unwrap().text.chars().count(), 1024);
        assert_eq!(status.running.as_deref(), Some("unknown"));
        assert_eq!(status.guard.as_deref(), Some("none"));
    }

    #[test]
    fn an_agent_that_hears_no_guard_leaves_the_attempt_on_the_server_alone() {
        let last = Outcome {
            attempt: "a1".to_owned(),
            digest: "d".to_owned(),
            state: "Committed".to_owned(),
            boot_id: None,
            code: None,
            text: None,
        };
        let held = NodeUpgradeStatus {
            attempt: Some(last.clone()),
            ..NodeUpgradeStatus::default()
        };
        let status = |order| report(&order, &Facts::default(), &Local::default(), &held);
        assert_eq!(status(Order::default()).attempt, Some(last));
        let forgiven = Order {
            forgiven: vec!["a1".to_owned()],
            ..Order::default()
        };
        assert_eq!(status(forgiven).attempt, None);
    }
}
