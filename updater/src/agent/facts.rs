//! What the agent knows of its node, gathered anew for each decision. Changes nothing.

use std::sync::Arc;

use drydock_machine::agent::{Facts, Order};
use drydock_machine::{FailedDigest, GuardStatus, Journal, Request, Seen};

use super::report::Local;
use super::{Agent, AgentError, Own};
use crate::guard::{JOURNAL_FILE, NodeView, machine_slot};
use crate::node::NodeEnv;
use crate::stage::{Hashing, identify_running};
use crate::state::{SlotRecord, Store};

use crate::disk::SlotName;

/// What is read from disk and state.
struct OnDisk {
    a: Option<SlotRecord>,
    b: Option<SlotRecord>,
    /// The journal's words, read where the guard does not answer.
    journal: Option<GuardStatus>,
}

impl Agent {
    pub(super) async fn gather(&self, order: &Order) -> Result<(Facts, Local), AgentError> {
        let answer = self.guard.ask(&Request::Status).await.ok();
        let (view, env, ask_disk) = (self.view.clone(), self.env.clone(), answer.is_none());
        let counts = self.config.settings.loader.counts_tries();
        let on_disk =
            tokio::task::spawn_blocking(move || OnDisk::read(&view, &env, ask_disk, counts)).await?;
        let node = self.view.node();
        let running = node.running.as_ref().ok().copied();
        let guard = answer.clone().or(on_disk.journal);
        let record = |slot: SlotName| match slot {
            SlotName::A => on_disk.a.as_ref(),
            SlotName::B => on_disk.b.as_ref(),
        };
        let other = running.map(SlotName::other).and_then(record);
        let permitted = order.wish.as_ref().is_some_and(|wish| {
            let known = self.config.settings.repository(&wish.repository);
            let same = |url: &str| url.trim_end_matches('/') == wish.url.trim_end_matches('/');
            known.is_some_and(|known| same(known.url.as_str()))
        });
        let staging = self.staging.digest().cloned();
        let facts = Facts {
            boot_id: node.boot_id.clone(),
            running: guard.as_ref().and_then(|guard| guard.running_digest.clone()),
            // While a slot is written its record is of what it held before.
            staged: other
                .filter(|_| staging.is_none())
                .map(|record| record.release.to_string()),
            staging,
            failed: self.failed(order, guard.as_ref()),
            guard: answer.clone(),
            config_unknown: !self.config.unknown_fields.is_empty(),
            permitted,
            given_up: self.given_up.clone(),
        };
        let local = Local {
            guard,
            guard_answers: answer.is_some(),
            running: running.map(machine_slot),
            record_a: on_disk.a,
            record_b: on_disk.b,
            image_version: self.env.outside.image_version(),
            progress: self.staging.progress(),
            versions: self.versions,
            error: self.errors.values().next().cloned(),
            arming: None,
            answered: self.answered.clone(),
        };
        Ok((facts, local))
    }

    /// The journal's and the status's together: a journal that was lost does not shorten what stands on the
    /// server. What was forgiven is in it only as long as the guard has it.
    fn failed(&self, order: &Order, guard: Option<&GuardStatus>) -> Vec<FailedDigest> {
        let held = match &self.own {
            Own::Present(object) => object
                .status
                .iter()
                .flat_map(|status| status.failed.clone())
                .collect(),
            Own::Unknown | Own::Missing => Vec::new(),
        };
        let mut all: Vec<FailedDigest> = held
            .into_iter()
            .filter(|failed| !order.forgiven.contains(&failed.attempt))
            .map(|failed| FailedDigest {
                digest: failed.digest,
                attempt: failed.attempt,
                code: failed.code,
            })
            .collect();
        for failed in guard.iter().flat_map(|guard| &guard.failed) {
            if !all
                .iter()
                .any(|known| known.attempt == failed.attempt && known.digest == failed.digest)
            {
                all.push(failed.clone());
            }
        }
        all
    }
}

impl OnDisk {
    fn read(view: &Arc<NodeView>, env: &NodeEnv, ask_disk: bool, counts: bool) -> Self {
        Self {
            a: view.record(SlotName::A),
            b: view.record(SlotName::B),
            journal: if ask_disk {
                unheard_status(view, env, counts)
            } else {
                None
            },
        }
    }
}

/// What journal and table say, where the guard does not answer: for reports only, never to act on.
fn unheard_status(view: &Arc<NodeView>, env: &NodeEnv, loader_counts: bool) -> Option<GuardStatus> {
    let node = view.node();
    let journal = Store::<Journal>::new(&node.state, JOURNAL_FILE)
        .peek()
        .ok()?
        .split()
        .0?;
    let bits = view.bits().ok()?;
    let running = node.running.as_ref().ok().copied();
    let proven = running.and_then(|slot| {
        let never = tokio_util::sync::CancellationToken::new();
        let by_root = identify_running(
            &node.control,
            view.records(),
            slot,
            &node.cmdline,
            Hashing::No,
            &never,
        );
        by_root.ok()?.release()
    });
    let seen = Seen {
        boot_id: node.boot_id.clone(),
        running: running.map(machine_slot),
        running_digest: proven.map(|digest| digest.to_string()),
        a: bits.a,
        b: bits.b,
        next: bits.next,
        loader_counts,
        checks_running: false,
        now: env.outside.since_boot(),
    };
    Some(GuardStatus::new(&journal, &seen, Vec::new()))
}
