//! What goes wrong in one run, and how far it has. What befalls a write to disk or state is in `trap`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use drydock_api::GROUP;
use serde_json::Value;

use super::case::{Case, Group, Phase, Writer};
use super::course::NODE;
use super::trap::StoreTrap;
use crate::apiserver::audit::Verb;
use crate::apiserver::hooks::{Action, Held, Rule, RuleHandle, Stage, WriteMatch};
use crate::cluster::{Freezer, SimCluster, agent_user};

/// What a leader that thawed might still do wrong it does in this time.
const AFTER_THAW: Duration = Duration::from_millis(1500);
/// A new leader that has nothing to write (all is done) is one all the same.
const IDLE_LEADER: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Accident {
    case: Case,
    rule: Option<RuleHandle>,
    store: Arc<StoreTrap>,
    leader: String,
    sleep: Option<Sleep>,
    happened: bool,
}

/// A leader that is frozen while its write is on the way.
struct Sleep {
    held: Held,
    freezer: Freezer,
    /// When another was first seen to lead, and the trail's number then.
    succeeded: Option<(Instant, u64)>,
    /// When it woke, and the trail's number then.
    woke: Option<(Instant, u64)>,
}

/// Writes of this kind by this user.
fn writes(user: &str, group: &Group) -> WriteMatch {
    let verb = match group.verb.as_str() {
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        _ => Verb::Delete,
    };
    WriteMatch::any()
        .user(user)
        .verb(verb)
        .resource(&group.resource)
        .subresource(&group.subresource)
}

fn sequence(cluster: &SimCluster) -> u64 {
    let entries = cluster.api.audit().entries();
    entries.last().map_or(0, |entry| entry.sequence)
}

impl Accident {
    pub(super) fn prepare(cluster: &SimCluster, case: &Case, store: Arc<StoreTrap>) -> anyhow::Result<Self> {
        let leader = cluster.leader().context("nobody leads")?;
        let hooks = cluster.api.hooks();
        let mut sleep = None;
        let rule = match case {
            Case::Api {
                writer,
                group,
                nth,
                side,
            } => {
                let user = match writer {
                    Writer::Coordinator => leader.clone(),
                    Writer::Agent => agent_user(NODE),
                };
                let stage = match side {
                    crate::node::Side::Before => Stage::Before,
                    crate::node::Side::After => Stage::After,
                };
                Some(hooks.add(Rule::new(writes(&user, group), stage, Action::Stall).nth(*nth)))
            }
            Case::OldLeader { group, nth } => {
                let held = Held::new();
                let freezer = cluster.freezer(&leader).context("the leader is gone")?;
                let hold = Action::Hold(held.clone());
                let rule = hooks.add(Rule::new(writes(&leader, group), Stage::Before, hold).nth(*nth));
                // At once, not when this run looks next.
                let (arrived, ice) = (rule.clone(), freezer.clone());
                tokio::spawn(async move {
                    arrived.acted(1).await;
                    ice.freeze();
                });
                sleep = Some(Sleep {
                    held,
                    freezer,
                    succeeded: None,
                    woke: None,
                });
                Some(rule)
            }
            Case::Baseline
            | Case::Disk { .. }
            | Case::Store { .. }
            | Case::Power { .. }
            | Case::Wipe { .. }
            | Case::Reapply { .. } => None,
        };
        Ok(Self {
            case: case.clone(),
            rule,
            store,
            leader,
            sleep,
            happened: false,
        })
    }

    pub(super) fn happened(&self) -> bool {
        self.happened
    }

    /// Lets it happen when this phase is its moment.
    pub(super) async fn at(&mut self, cluster: &mut SimCluster, now: &Phase) -> anyhow::Result<()> {
        let kill_leader = match &self.case {
            Case::Wipe { phase, kill_leader } if !self.happened && now == phase => {
                wipe(cluster).await?;
                *kill_leader
            }
            Case::Reapply { phase, kill_leader } if !self.happened && now == phase => {
                reapply(cluster)?;
                *kill_leader
            }
            Case::Baseline
            | Case::Api { .. }
            | Case::Disk { .. }
            | Case::Store { .. }
            | Case::Power { .. }
            | Case::OldLeader { .. }
            | Case::Wipe { .. }
            | Case::Reapply { .. } => return Ok(()),
        };
        self.happened = true;
        if kill_leader {
            self.change_leader(cluster).await?;
        }
        Ok(())
    }

    /// Goes on with it when the write that it waits for has come.
    pub(super) async fn look(&mut self, cluster: &mut SimCluster) -> anyhow::Result<()> {
        let acted = self.rule.as_ref().is_some_and(|rule| rule.acted_so_far() > 0);
        if !acted && !self.store.sprung() {
            return Ok(());
        }
        let first_look = !std::mem::replace(&mut self.happened, true);
        match &self.case {
            Case::Api { writer, .. } if first_look => match writer {
                Writer::Coordinator => self.change_leader(cluster).await?,
                Writer::Agent => cluster
                    .nodes
                    .iter()
                    .filter(|n| n.name() == NODE)
                    .for_each(|n| n.kill_agent()),
            },
            Case::Store { .. } if first_look => self.change_leader(cluster).await?,
            Case::OldLeader { .. } => self.sleep_on(cluster),
            Case::Baseline
            | Case::Api { .. }
            | Case::Disk { .. }
            | Case::Store { .. }
            | Case::Power { .. }
            | Case::Wipe { .. }
            | Case::Reapply { .. } => {}
        }
        Ok(())
    }

    /// The old leader wakes once another has led and written; its write arrives in that instant.
    fn sleep_on(&mut self, cluster: &SimCluster) {
        let Some(sleep) = self.sleep.as_mut().filter(|sleep| sleep.woke.is_none()) else {
            return;
        };
        let Some(leader) = cluster.leader().filter(|leader| *leader != self.leader) else {
            return;
        };
        let (since, number) = *sleep
            .succeeded
            .get_or_insert_with(|| (Instant::now(), sequence(cluster)));
        let wrote = cluster
            .api
            .audit()
            .since(number)
            .iter()
            .any(|entry| *entry.user == *leader && *entry.resource.resource != *"leases");
        if wrote || since.elapsed() > IDLE_LEADER {
            sleep.woke = Some((Instant::now(), sequence(cluster)));
            sleep.held.let_go();
            sleep.freezer.thaw();
        }
    }

    /// The fresh one goes on with the dead one's files, as a container that is started again does.
    async fn change_leader(&self, cluster: &mut SimCluster) -> anyhow::Result<()> {
        cluster.kill_replica(&self.leader);
        cluster.start_replica_in("coordinator-3", &self.leader).await
    }

    /// Nothing of it is still to come.
    pub(super) fn over(&self) -> bool {
        let Some(sleep) = &self.sleep else { return true };
        if !self.happened {
            return true;
        }
        sleep.woke.is_some_and(|(at, _)| at.elapsed() > AFTER_THAW)
    }

    /// What the old leader wrote after it woke and before it led again, beyond what was on its way: its
    /// own clock must have shut its gate. Evictions are sent together, all others one by one.
    pub(super) fn written_out_of_term(&self, cluster: &SimCluster) -> Vec<String> {
        let Some((_, number)) = self.sleep.as_ref().and_then(|sleep| sleep.woke) else {
            return Vec::new();
        };
        let sent_together = match &self.case {
            Case::OldLeader { group, .. } => group.subresource == "eviction",
            Case::Baseline
            | Case::Api { .. }
            | Case::Disk { .. }
            | Case::Store { .. }
            | Case::Power { .. }
            | Case::Wipe { .. }
            | Case::Reapply { .. } => false,
        };
        let entries = cluster.api.audit().since(number);
        let own = entries.iter().filter(|entry| *entry.user == *self.leader);
        let until_it_leads = own.take_while(|entry| *entry.resource.resource != *"leases");
        let written: Vec<String> = until_it_leads
            .filter(|entry| *entry.resource.resource != *"events")
            .filter(|entry| !sent_together || entry.subresource != "eviction")
            .map(|entry| {
                format!(
                    "{:?} {} {} {}",
                    entry.verb, entry.resource.resource, entry.subresource, entry.name
                )
            })
            .collect();
        match written.get(usize::from(!sent_together)..) {
            None | Some([]) => Vec::new(),
            Some(more) => vec![format!("the leader that slept wrote after it woke: {more:?}")],
        }
    }
}

async fn wipe(cluster: &SimCluster) -> anyhow::Result<()> {
    let client = cluster.api.client("admin").await?;
    for plural in ["upgradepolicies", "nodeupgrades", "imagerepositories"] {
        for object in cluster.api.list(GROUP, plural, "") {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/apis/{GROUP}/v1alpha1/{plural}/{name}/status");
            let request = http::Request::patch(path)
                .header("content-type", "application/merge-patch+json")
                .body(br#"{"status":null}"#.to_vec())?;
            client
                .request::<Value>(request)
                .await
                .with_context(|| format!("wiping {plural} {name}"))?;
        }
    }
    Ok(())
}

fn reapply(cluster: &SimCluster) -> anyhow::Result<()> {
    for plural in ["upgradepolicies", "nodeupgrades"] {
        for object in cluster.api.list(GROUP, plural, "") {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            // The coordinator may have been quicker with a NodeUpgrade of its own.
            let _gone = cluster.api.delete(GROUP, plural, "", name);
        }
    }
    cluster.apply_policy()
}
