//! The rollout of the good release, and what goes wrong in it: each accident waits for its occasion, as the
//! cluster, the consoles and the loaders show it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use drydock_api::agent_state;
use jiff::Timestamp;

use super::berths::{NODES, VERSIONS, boots};
use super::pods::Excuse;
use super::story::{LOOK, Story};
use crate::demo::{NodeRow, Screen, Snapshot};
use crate::realnode::Boot;

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(120);
/// What a rollout to three nodes with all its accidents may take; 25 minutes were too few where a boot under
/// emulation takes nearly three.
const ROLLOUT: Duration = Duration::from_secs(2100);
/// What the guard says when it has written down that a trial boot has begun.
const GUARD_HAS_STARTED: &str = "attempt: Checking";
/// What it says when its checks have passed and only the cluster's word is missing.
const GUARD_WAITS: &str = "attempt: Confirming";

/// What goes wrong in the rollout of the good release.
#[derive(Default)]
struct Accidents {
    /// The machine that was killed while it staged.
    staging: Option<String>,
    /// The leader that was killed while a node drained.
    leader: Option<String>,
    /// Nodes in the order of their first trial boot.
    tried: Vec<String>,
    /// How often the second of them was killed in a trial boot.
    cuts: usize,
    /// The API server's absence while the third waits for its verdict.
    outage: Outage,
}

#[derive(Default, PartialEq)]
enum Outage {
    #[default]
    ToCome,
    Since(Instant, Timestamp),
    Over,
}

impl Story {
    /// The second release arrives everywhere, though a machine dies while it stages, the leader in mid-drain,
    /// another machine in both its trial boots, and the API server while a node waits for its verdict.
    ///
    /// # Errors
    /// If it does not arrive, or an accident found no occasion.
    pub async fn good_release(&mut self, screen: &mut dyn Screen) -> anyhow::Result<String> {
        let built = self.publish(1, "a few packages are newer", screen).await?;
        let digest = built.digest.clone();
        let begun = Instant::now();
        let mut accidents = Accidents::default();
        loop {
            let now = self.look(screen).await?;
            if accidents.outage != Outage::ToCome {
                self.end_outage(&mut accidents, screen).await?;
            }
            if let Some(now) = &now {
                self.while_staging(now, &digest, &mut accidents, screen);
                self.in_mid_drain(now, &mut accidents, screen).await?;
                self.note_unconfirmed(now, &digest);
            }
            self.in_trial(&mut accidents, screen).await?;
            let there = |now: &Snapshot| {
                now.nodes.iter().all(|node| node.runs(&digest) && node.at_rest()) && now.all_pods_ready()
            };
            if accidents.outage == Outage::Over && now.as_ref().is_some_and(there) {
                break;
            }
            anyhow::ensure!(
                begun.elapsed() < ROLLOUT,
                "{} has not arrived everywhere after {ROLLOUT:?}: {:#?}\n{}",
                VERSIONS[1],
                self.last,
                self.berths.tails()
            );
            tokio::time::sleep(LOOK).await;
        }
        anyhow::ensure!(
            accidents.staging.is_some() && accidents.leader.is_some() && accidents.cuts == 2,
            "not every accident found its occasion"
        );
        anyhow::ensure!(
            !self.unconfirmed.is_empty(),
            "nobody has reported Unconfirmed, though both trial boots of a node were cut"
        );
        screen.say(&format!(
            "every node runs {}; boots: {:?}",
            VERSIONS[1],
            boots(&self.berths.machines)
        ));
        Ok(digest)
    }

    fn while_staging(
        &mut self,
        now: &Snapshot,
        digest: &str,
        accidents: &mut Accidents,
        screen: &mut dyn Screen,
    ) {
        if accidents.staging.is_some() {
            return;
        }
        let writes = |node: &&NodeRow| {
            node.status.agent_state.as_deref() == Some(agent_state::STAGING)
                && node.status.staged.as_deref() != Some(digest)
                && node
                    .status
                    .progress
                    .as_ref()
                    .is_some_and(|progress| progress.done_bytes > 0)
        };
        let Some(node) = now.nodes.iter().rev().find(writes) else {
            return;
        };
        let Some(machine) = self.berths.machine_of(&node.name) else {
            return;
        };
        screen.alarm(&format!("the power of {} is cut while it stages", node.name));
        machine.cut_power();
        accidents.staging = Some(node.name.clone());
        // Its pods are gone with it until its kubelet has started them again.
        self.excuse(Duration::from_secs(150), "a machine lost its power");
    }

    async fn in_mid_drain(
        &mut self,
        now: &Snapshot,
        accidents: &mut Accidents,
        screen: &mut dyn Screen,
    ) -> anyhow::Result<()> {
        let Some(leader) = now.leader.clone() else {
            return Ok(());
        };
        if accidents.leader.is_some() || !now.nodes.iter().any(NodeRow::drains) {
            return Ok(());
        }
        screen.alarm(&format!(
            "{leader}, which leads, is killed in the middle of a drain"
        ));
        self.berths.replicas.kill(&leader)?;
        accidents.leader = Some(leader);
        // As a Deployment would: another takes the dead one's place.
        self.berths.start_replica("coordinator-3").await
    }

    /// The second node to try the release loses its power in both trial boots, each time after its guard has
    /// started; for the third the API server goes away.
    async fn in_trial(&mut self, accidents: &mut Accidents, screen: &mut dyn Screen) -> anyhow::Result<()> {
        for machine in &self.berths.machines {
            let boots = machine.boots();
            let name = machine.name().to_owned();
            let trials: Vec<&Boot> = boots.iter().filter(|boot| boot.on_trial()).collect();
            if !trials.is_empty() && !accidents.tried.contains(&name) {
                screen.say(&format!(
                    "{name} boots {} on trial, from slot {:?}",
                    VERSIONS[1], trials[0].slot
                ));
                accidents.tried.push(name.clone());
            }
            let is_second = accidents.tried.get(1) == Some(&name);
            if is_second
                && let Some(trial) = trials.get(accidents.cuts).filter(|_| accidents.cuts < 2)
                && trial.end.is_none()
                && trial.said(GUARD_HAS_STARTED)
            {
                accidents.cuts += 1;
                screen.alarm(&format!(
                    "the power of {name} is cut in its trial boot {}, after its guard has started",
                    accidents.cuts
                ));
                machine.cut_power();
            }
        }
        if accidents.tried.len() == NODES.len() && accidents.outage == Outage::ToCome {
            screen.alarm("the API server goes away while a node is in its trial boot");
            self.berths.plane.stop_api_server().await?;
            accidents.outage = Outage::Since(Instant::now(), Timestamp::now());
        }
        Ok(())
    }

    async fn end_outage(&mut self, accidents: &mut Accidents, screen: &mut dyn Screen) -> anyhow::Result<()> {
        let Outage::Since(since, from) = accidents.outage else {
            return Ok(());
        };
        let third = accidents.tried.last().cloned().unwrap_or_default();
        let machine = self.berths.machine_of(&third).context("the third node")?;
        let waits = machine.boots().last().is_some_and(|boot| boot.said(GUARD_WAITS));
        if since.elapsed() < OUTAGE || !waits {
            return Ok(());
        }
        self.berths.plane.start_api_server().await?;
        screen.say(&format!(
            "the API server is back after {:.0} s, in which {third} has waited for its verdict",
            since.elapsed().as_secs_f64()
        ));
        self.excuses.push(Excuse {
            from,
            to: Timestamp::now() + Duration::from_secs(90),
            what: "no kubelet could renew its lease while the API server was away".to_owned(),
        });
        accidents.outage = Outage::Over;
        Ok(())
    }

    fn note_unconfirmed(&mut self, now: &Snapshot, digest: &str) {
        for node in &now.nodes {
            let Some(attempt) = &node.status.attempt else {
                continue;
            };
            if attempt.state == drydock_api::outcome::UNCONFIRMED && attempt.digest == digest {
                let code = attempt.code.clone().unwrap_or_default();
                let words = format!("{}: {code}", node.name);
                if !self.unconfirmed.contains(&words) {
                    self.unconfirmed.push(words);
                }
            }
        }
    }
}
