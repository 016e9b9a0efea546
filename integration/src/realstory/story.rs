//! The story that is told on real nodes: four releases after the first, one of them good, and what goes wrong
//! meanwhile.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use drydock_api::ReleaseHalt;
use jiff::Timestamp;

use super::berths::{APP, BUDGET, Berths, PODS, VERSIONS, Yard};
use super::diary::Diary;
use super::pods::{Excuse, PodCount};
use super::report::{Bad, Report};
use crate::cluster::{Built, SHOP};
use crate::demo::{Insight, Screen, Snapshot, short};
use crate::realcluster::Identity;
use crate::realnode::{Boot, End};

/// Between two looks at the cluster.
pub(super) const LOOK: Duration = Duration::from_millis(700);
/// Between two plans that are made to say why nodes wait.
const PLAN: Duration = Duration::from_secs(3);
/// What three nodes may take to come up on a busy machine.
const COMING_UP: Duration = Duration::from_secs(420);
/// What a bad release may take from its publication until the node that tried it is back.
const BAD: Duration = Duration::from_secs(900);
/// Time for whoever would make a mistake after a halt.
const LINGER: Duration = Duration::from_secs(5);

/// A story under way.
pub struct Story {
    /// The cluster.
    pub berths: Berths,
    diary: Diary,
    insight: Insight,
    pods: Option<PodCount>,
    counted_from: Timestamp,
    pub(super) excuses: Vec<Excuse>,
    bad: Vec<Bad>,
    pub(super) unconfirmed: Vec<String>,
    pub(super) last: Snapshot,
}

impl Story {
    /// Starts the cluster, and waits until every node runs the first release and says so.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn begin(yard: Yard, screen: &mut dyn Screen) -> anyhow::Result<Self> {
        let mut diary = Diary::default();
        let title = format!("Three real nodes come up on {}", VERSIONS[0]);
        diary.act(&title);
        screen.act(
            &title,
            "A real control plane; three machines under QEMU with a real kernel, systemd,\n\
             containerd and kubelet, each on a disk with two slots. The agent shows the\n\
             kubelet's own credential.",
        );
        screen.say("building the first release; installing the disks; power on");
        let berths = Berths::start(yard).await?;
        let config = berths.plane.config(&Identity::Admin).await?;
        let mut story = Self {
            berths,
            diary,
            insight: Insight::begin(config, PLAN),
            pods: None,
            counted_from: Timestamp::now(),
            excuses: Vec::new(),
            bad: Vec::new(),
            unconfirmed: Vec::new(),
            last: Snapshot::default(),
        };
        story
            .until(screen, COMING_UP, "every node to be Ready", |now| {
                now.nodes.iter().all(|node| node.ready)
            })
            .await?;
        story.berths.apply_app().await?;
        story.pods = Some(PodCount::begin(story.berths.admin.clone(), SHOP, APP));
        for name in ["coordinator-1", "coordinator-2"] {
            story.berths.start_replica(name).await?;
        }
        story.berths.apply_policy().await?;
        let digest = story.berths.first.digest.clone();
        story
            .until(
                screen,
                COMING_UP,
                "all pods to run and every agent to report",
                |now| {
                    now.all_pods_ready()
                        && now.nodes.iter().all(|node| node.runs(&digest))
                        && now.leader.is_some()
                },
            )
            .await?;
        story.counted_from = Timestamp::now();
        screen.say(&format!(
            "all nodes run {}, proven by hashing their slots; {PODS} pods run, and their budget demands {BUDGET}",
            VERSIONS[0]
        ));
        Ok(story)
    }

    /// A release that must be halted after one node, which goes back by itself; with this code, and after
    /// trial boots that ended like this.
    ///
    /// # Errors
    /// If that is not what happens.
    pub async fn bad_release(
        &mut self,
        index: usize,
        what: &str,
        (code, ended): (&str, End),
        good: &str,
        screen: &mut dyn Screen,
    ) -> anyhow::Result<()> {
        let before: Vec<usize> = self
            .berths
            .machines
            .iter()
            .map(|machine| machine.boots().len())
            .collect();
        let built = self.publish(index, what, screen).await?;
        let digest = built.digest.clone();
        let halted = self
            .until(screen, BAD, "the release to be halted", |now| {
                halt(now, &digest).is_some()
            })
            .await?;
        let halt = halt(&halted, &digest).context("the halt")?.clone();
        screen.alarm(&format!("{} is halted: {}", VERSIONS[index], halt.spec.reason));
        self.until(screen, BAD, "the node to be back, uncordoned, and known", |now| {
            now.nodes.iter().all(|node| node.runs(good) && node.at_rest()) && now.all_pods_ready()
        })
        .await?;
        self.meanwhile(screen, tokio::time::sleep(LINGER)).await?;
        let now = self
            .look(screen)
            .await?
            .context("the API server does not answer")?;
        let mut tried = Vec::new();
        for (machine, before) in self.berths.machines.iter().zip(before) {
            let boots = machine.boots();
            let since = boots.get(before..).unwrap_or_default();
            let trials: Vec<&Boot> = since.iter().filter(|boot| boot.on_trial()).collect();
            if !trials.is_empty() {
                let ends = trials
                    .iter()
                    .map(|boot| boot.end.as_ref().map(|(_, end)| end.clone()));
                anyhow::ensure!(
                    ends.clone().all(|end| end.as_ref() == Some(&ended)),
                    "its trial boots should end by {ended:?}: {:?}",
                    ends.collect::<Vec<_>>()
                );
                tried.push((machine.name().to_owned(), trials.len()));
            }
        }
        anyhow::ensure!(tried.len() == 1, "{} was tried by {tried:?}", VERSIONS[index]);
        let (node, trials) = tried.remove(0);
        let row = now.node(&node).context("the node that tried it")?;
        let says = row
            .status
            .attempt
            .as_ref()
            .filter(|attempt| attempt.digest == digest)
            .context("the node does not say what became of the attempt")?;
        anyhow::ensure!(
            says.code.as_deref() == Some(code)
                && row.status.failed.iter().any(|failed| failed.digest == digest),
            "the node should say {code}: {:#?}",
            row.status
        );
        self.bad.push(Bad {
            version: VERSIONS[index].to_owned(),
            node,
            trials,
            ended,
            code: code.to_owned(),
            text: says.text.clone().unwrap_or_default(),
            halt: halt.spec.reason,
        });
        Ok(())
    }

    /// From agents as units to agents as pods.
    ///
    /// # Errors
    /// If it does not come about.
    pub async fn agents_as_pods(&mut self, good: &str, screen: &mut dyn Screen) -> anyhow::Result<()> {
        let title = "Agents become pods of a DaemonSet";
        self.diary.act(title);
        screen.act(
            title,
            "Each shows the API server a token that is bound to its pod and names its\n\
             node; to the guard it speaks over the local socket.",
        );
        self.berths.agents_as_pods().await?;
        let good = good.to_owned();
        self.until(
            screen,
            BAD,
            "the agents' pods to be ready, and to report",
            |now| now.nodes.iter().all(|node| node.runs(&good) && node.at_rest()),
        )
        .await?;
        self.berths.agent_pods_ready().await
    }

    /// What was seen.
    #[must_use]
    pub fn report(&mut self) -> Report {
        self.diary.end();
        let (lowest, counts) = self
            .pods
            .as_ref()
            .map_or((0, 0), |pods| pods.lowest(self.counted_from));
        let violations = self.pods.as_ref().map_or_else(Vec::new, |pods| {
            pods.violations(BUDGET, self.counted_from, &self.excuses)
        });
        Report {
            times: self.diary.table(),
            budget: BUDGET,
            lowest,
            counts,
            violations,
            excuses: self.excuses.clone(),
            pods_and_nodes: self.pods.as_ref().map_or((0, 0), PodCount::pods_and_nodes),
            bad: self.bad.clone(),
            unconfirmed: self.unconfirmed.clone(),
            boots: self
                .berths
                .machines
                .iter()
                .map(|machine| (machine.name().to_owned(), machine.boots()))
                .collect(),
            coordinators: self.berths.replicas.peaks().clone(),
            machines: self
                .berths
                .machines
                .iter()
                .map(|machine| (machine.name().to_owned(), machine.peak_bytes()))
                .collect(),
            agents: self.berths.memory_in_guests(),
            plane: self.berths.plane.memory(),
            sent_bytes: self.berths.sent_bytes(),
        }
    }

    pub(super) async fn publish(
        &mut self,
        index: usize,
        what: &str,
        screen: &mut dyn Screen,
    ) -> anyhow::Result<Built> {
        let title = format!("Release {}: {what}", VERSIONS[index]);
        self.diary.act(&title);
        screen.act(&title, "");
        let built = self.berths.publish(index).await?;
        screen.say(&format!(
            "{} is {}, signed and published",
            VERSIONS[index],
            short(&built.digest)
        ));
        Ok(built)
    }

    pub(super) fn excuse(&mut self, length: Duration, what: &str) {
        let from = Timestamp::now();
        self.excuses.push(Excuse {
            from,
            to: from + length,
            what: what.to_owned(),
        });
    }

    /// One look; none while the API server is away.
    pub(super) async fn look(&mut self, screen: &mut dyn Screen) -> anyhow::Result<Option<Snapshot>> {
        self.berths.all_run()?;
        let Some(now) = self.berths.look().await else {
            return Ok(None);
        };
        let now = now.told(&self.insight);
        self.diary.see(&now);
        screen.show(&now);
        one_at_a_time(&now)?;
        self.last = now.clone();
        Ok(Some(now))
    }

    async fn meanwhile<T>(
        &mut self,
        screen: &mut dyn Screen,
        work: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(LOOK) => { self.look(screen).await?; }
            }
        }
    }

    async fn until(
        &mut self,
        screen: &mut dyn Screen,
        patience: Duration,
        what: &str,
        so: impl Fn(&Snapshot) -> bool,
    ) -> anyhow::Result<Snapshot> {
        let begun = Instant::now();
        loop {
            if let Some(now) = self.look(screen).await?
                && so(&now)
            {
                return Ok(now);
            }
            anyhow::ensure!(
                begun.elapsed() < patience,
                "waited {patience:?} for {what}; this is how things stand: {:#?}\n{}",
                self.last,
                self.berths.tails()
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The policy lets one node be in dock at a time.
fn one_at_a_time(now: &Snapshot) -> anyhow::Result<()> {
    let docked: BTreeSet<&str> = now
        .nodes
        .iter()
        .filter(|node| node.cordoned)
        .map(|node| node.name.as_str())
        .collect();
    anyhow::ensure!(docked.len() <= 1, "{docked:?} are cordoned at the same time");
    Ok(())
}

fn halt<'a>(now: &'a Snapshot, digest: &str) -> Option<&'a ReleaseHalt> {
    now.halts.iter().find(|halt| halt.spec.digest == digest)
}
