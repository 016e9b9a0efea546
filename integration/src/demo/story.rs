//! The story that the demo tells, and that a test plays in small: two releases and a bad one.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drydock_api::DrainMode;
use drydock_plan::Timings;
use jiff::Timestamp;

use super::images::{StoryImages, VERSIONS};
use super::insight::Insight;
use super::screen::Screen;
use super::view::{NodeRow, Snapshot, bytes, short};
use crate::cluster::{Built, ClusterPlan, OpenWindow, PolicyPace, ReleaseImages, ReplicaPace, SimCluster};
use crate::firmware::LoaderKind;
use crate::node::{NoSabotage, NodePace, OtherKernels};
use crate::workload;

/// How often the cluster is looked at while something is waited for.
const LOOK: Duration = Duration::from_millis(60);
/// Between two plans that are made to say why nodes wait.
const PLAN: Duration = Duration::from_millis(250);

/// A story under way: the cluster, and where it is told.
pub struct Story {
    /// The cluster.
    pub cluster: SimCluster,
    insight: Insight,
    images: StoryImages,
    /// The release that was published last.
    last: Built,
    patience: Duration,
}

impl Story {
    /// Starts the cluster with the first release, and waits until all is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn begin(
        folder: &Path,
        images: StoryImages,
        nodes: usize,
        screen: &mut dyn Screen,
    ) -> anyhow::Result<Self> {
        let loaders = [LoaderKind::GptPrio, LoaderKind::Vboot];
        Self::begin_with(folder, images, nodes, &loaders, screen).await
    }

    /// The same on nodes with these loaders, in turn.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn begin_with(
        folder: &Path,
        images: StoryImages,
        nodes: usize,
        loaders: &[LoaderKind],
        screen: &mut dyn Screen,
    ) -> anyhow::Result<Self> {
        screen.act(
            &format!("A cluster of {nodes} on {}", VERSIONS[0]),
            "An embedded Kubernetes API, two coordinators, and on every node the real\n\
             guard and agent on a disk image with two slots. Each node's loader picks\n\
             the slot by the disk's boot bits.",
        );
        screen.say("building and signing the first release; installing the nodes");
        let plan = ClusterPlan {
            loaders: loaders.to_vec(),
            ..plan(folder, &images.releases()[0], images.room(), nodes)
        };
        let cluster = SimCluster::start(plan).await?;
        let patience = Duration::from_secs(60) + Duration::from_secs(20) * u32::try_from(nodes)?;
        let insight = Insight::begin(cluster.api.config("onlooker").await?, PLAN);
        let story = Self {
            last: cluster.first.clone(),
            cluster,
            insight,
            images,
            patience,
        };
        story
            .until(screen, "every node to be Ready", |now| {
                now.nodes.iter().all(|node| node.ready)
            })
            .await?;
        story.cluster.apply_workloads()?;
        story
            .until(screen, "every node to be Ready and all pods to run", |now| {
                now.nodes.iter().all(|node| node.ready) && now.all_pods_ready()
            })
            .await?;
        story.cluster.apply_policy()?;
        let digest = story.cluster.first.digest.clone();
        story
            .until(screen, "every agent to report the first release", |now| {
                now.nodes.iter().all(|node| node.runs(&digest)) && now.leader.is_some()
            })
            .await?;
        screen.say(&format!(
            "all {nodes} nodes run {}, proven by hashing their slots",
            VERSIONS[0]
        ));
        Ok(story)
    }

    /// The second release is published; in the middle of the first drain the leader dies.
    ///
    /// # Errors
    /// If not every node comes to run it.
    pub async fn good_release(&mut self, screen: &mut dyn Screen) -> anyhow::Result<()> {
        let built = self.publish(1, screen).await?;
        screen.act(
            &format!("{} is rolled out, one node at a time", VERSIONS[1]),
            "Every agent writes the release into the slot that is not running, mostly\n\
             from what the node has already. Then, inside the window: cordon, drain,\n\
             reboot, prove, commit, uncordon.",
        );
        let digest = built.digest.clone();
        let drained = self
            .until(screen, "pods to leave a node", |now| {
                now.nodes.iter().any(NodeRow::drains) || now.nodes.iter().all(|node| node.runs(&digest))
            })
            .await?;
        if drained.nodes.iter().any(NodeRow::drains) {
            self.kill_leader(screen).await?;
        }
        let digest = built.digest;
        self.until(screen, "every node to run the second release", |now| {
            now.nodes.iter().all(|node| node.runs(&digest) && node.at_rest())
        })
        .await?;
        let (reused, fetched) = self.bytes();
        screen.say(&format!(
            "every node runs {}: {} taken from the node itself, {} fetched",
            VERSIONS[1],
            bytes(reused),
            bytes(fetched)
        ));
        Ok(())
    }

    async fn kill_leader(&mut self, screen: &mut dyn Screen) -> anyhow::Result<()> {
        let Some(leader) = self.cluster.leader() else {
            return Ok(());
        };
        screen.alarm(&format!(
            "{leader}, which leads, is killed in the middle of a drain"
        ));
        self.cluster.kill_replica(&leader);
        self.until(screen, "the other coordinator to lead", |now| {
            now.leader.as_ref().is_some_and(|now| *now != leader)
        })
        .await?;
        // As a Deployment would: another pod takes the dead one's place.
        self.cluster.start_replica("coordinator-3").await
    }

    /// The third release boots but is not healthy: the first node goes back, and nobody follows.
    ///
    /// # Errors
    /// If that is not what happens.
    pub async fn bad_release(&mut self, screen: &mut dyn Screen) -> anyhow::Result<()> {
        let before: Vec<String> = self
            .look()
            .nodes
            .iter()
            .filter_map(|node| node.status.running.clone())
            .collect();
        let built = self.publish(2, screen).await?;
        screen.act(
            &format!("{} boots, but a required check fails", VERSIONS[2]),
            "The first node goes back to the other slot by itself: its guard needs\n\
             neither network nor cluster for that. The release is halted; no other\n\
             node is asked.",
        );
        let digest = built.digest.clone();
        let halted = self
            .until(screen, "the release to be halted", |now| {
                now.halts.iter().any(|halt| halt.spec.digest == digest)
            })
            .await?;
        // What runs is unknown until the slot was hashed, which a busy machine takes its time for.
        self.until(screen, "the node to be back, uncordoned, and known", |now| {
            now.nodes.iter().all(|node| {
                let running = node.status.running.as_ref();
                node.at_rest() && running.is_some_and(|running| before.contains(running))
            })
        })
        .await?;
        for halt in &halted.halts {
            for evidence in &halt.spec.evidence {
                screen.alarm(&format!(
                    "{} is halted: {} failed on {} ({})",
                    VERSIONS[2],
                    short(&halt.spec.digest),
                    evidence.node,
                    evidence.code
                ));
            }
        }
        // Time for whoever would make a mistake now.
        self.linger(screen, Duration::from_secs(3)).await;
        let now = self.look();
        let after: Vec<String> = now
            .nodes
            .iter()
            .filter_map(|node| node.status.running.clone())
            .collect();
        anyhow::ensure!(
            before == after,
            "after the halt the nodes run {after:?}, before they ran {before:?}"
        );
        let boots: Vec<u32> = self
            .cluster
            .nodes
            .iter()
            .map(|node| node.status().boots)
            .collect();
        screen.say(&format!(
            "every node runs {} again; boots of each node: {boots:?}",
            VERSIONS[1]
        ));
        Ok(())
    }

    async fn publish(&mut self, index: usize, screen: &mut dyn Screen) -> anyhow::Result<Built> {
        let images = self.images.releases()[index].clone();
        screen.act(
            &format!("Release {} is built, signed and published", images.version),
            "Cut into chunks by content, so that whoever has the release before fetches\n\
             only what is new; and a delta is made for the nodes that run it.",
        );
        let before = [&self.last];
        let working = self.cluster.build_after(&images, &before);
        let built = self.meanwhile(screen, working).await?;
        let working = self.cluster.workshop.publish_with_delta(&self.last, &built);
        let (published, delta) = self.meanwhile(screen, working).await?;
        screen.say(&format!(
            "release {} is {}: {} in {} chunks, {} stored",
            images.version,
            short(&built.digest),
            bytes(i64::try_from(built.stats.image_bytes)?),
            built.stats.chunks,
            bytes(i64::try_from(published.new_bytes)?),
        ));
        let kept = delta.iter().flat_map(|delta| &delta.artifacts);
        let kept: u64 = kept.filter(|of| of.kept).map(|of| of.delta_bytes).sum();
        screen.say(&match kept {
            0 => format!(
                "from {} it is fetched in chunks: a delta would save too little",
                short(&self.last.digest)
            ),
            kept => format!(
                "the delta from {} has {}",
                short(&self.last.digest),
                bytes(i64::try_from(kept)?)
            ),
        });
        self.last = built.clone();
        Ok(built)
    }

    /// The cluster as it is now.
    #[must_use]
    pub fn look(&self) -> Snapshot {
        Snapshot::take(&self.cluster).told(&self.insight)
    }

    /// Reused and fetched bytes of all nodes together.
    fn bytes(&self) -> (i64, i64) {
        let now = self.look();
        let progress = now.nodes.iter().filter_map(|node| node.status.progress.as_ref());
        progress.fold((0, 0), |(reused, fetched), progress| {
            (reused + progress.reused_bytes, fetched + progress.fetched_bytes)
        })
    }

    /// Shows the cluster while something else is worked at.
    async fn meanwhile<T>(&self, screen: &mut dyn Screen, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(LOOK) => screen.show(&self.look()),
            }
        }
    }

    /// Shows the cluster for so long.
    pub async fn linger(&self, screen: &mut dyn Screen, time: Duration) {
        self.meanwhile(screen, tokio::time::sleep(time)).await;
    }

    /// Shows the cluster until something is so.
    ///
    /// # Errors
    /// If it does not come about in time; then what was waited for, and what the nodes did instead.
    pub async fn until(
        &self,
        screen: &mut dyn Screen,
        what: &str,
        so: impl Fn(&Snapshot) -> bool,
    ) -> anyhow::Result<Snapshot> {
        let begun = Instant::now();
        loop {
            let now = self.look();
            screen.show(&now);
            if so(&now) {
                return Ok(now);
            }
            if begun.elapsed() > self.patience {
                anyhow::bail!(
                    "waited {:?} for {what}; this is how things stand: {now:#?}",
                    self.patience
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A cluster whose lengths of time are short enough to be watched.
#[must_use]
pub fn plan(folder: &Path, first: &ReleaseImages, room: (u64, u64), nodes: usize) -> ClusterPlan {
    let secs = Duration::from_secs;
    let millis = Duration::from_millis;
    ClusterPlan {
        nodes,
        coordinators: 2,
        folder: folder.to_owned(),
        first: first.clone(),
        room,
        loaders: vec![LoaderKind::GptPrio, LoaderKind::Vboot],
        other_kernels: OtherKernels::Accepted,
        node_pace: NodePace {
            boot: millis(1200),
            hang: secs(5),
            restart: millis(300),
            heartbeat: millis(500),
            pod_start: millis(700),
            pod_stop: millis(300),
            updater: drydock_updater::node::Pace {
                guard_retry: millis(500),
                check_retry: millis(300),
                shutdown: secs(10),
                guard_poll: millis(150),
                guard_answer: secs(10),
                api_answer: secs(5),
                resync: secs(10),
                status_every: millis(200),
                retry_first: millis(300),
                retry_longest: secs(2),
            },
        },
        replica_pace: ReplicaPace {
            lease: secs(4),
            timings: Timings {
                question: secs(10),
                grant: secs(30),
                margin: secs(5),
                silent_hold: secs(10),
                pause_base: secs(1),
                pause_cap: secs(10),
                evict_again: millis(300),
                ..Timings::default()
            },
            poll: secs(1),
            refresh: secs(1),
        },
        policy_pace: PolicyPace {
            drain: secs(60),
            health: secs(60),
            confirm_wait: secs(40),
            checks: secs(3),
            soak: secs(2),
            expected: secs(60),
            // The pods of the only node have nowhere to go.
            drain_mode: if nodes == 1 {
                DrainMode::None
            } else {
                DrainMode::Evict
            },
        },
        window: OpenWindow::around(Timestamp::now()),
        controllers: workload::Pace::default(),
        only: None,
        saboteur: Arc::new(NoSabotage),
        stores: Arc::new(NoSabotage),
    }
}
