//! One plan: what is done first, and what is left for a later plan. Never does anything itself.

use std::collections::{BTreeMap, BTreeSet};

use drydock_api::{DockEntry, PolicyStatus};
use jiff::Timestamp;

use crate::{
    action::{Action, EventTarget, ObjectRef, SpecChange, StatusChange},
    attempt::{self, Place, Step},
    budget::{self, Given},
    fence::fence,
    halt,
    idle::{self, Idle},
    node::NodeView,
    phase::Phase,
    reason::{Note, Reason},
    report,
    scene::{PolicyScene, Scene},
    take,
    windows::add,
    world::World,
};

/// What may happen now, and why the rest does not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// To be done in this order; the first that fails throws the rest away.
    pub actions: Vec<Action>,
    /// Every Node that a policy selects or that is in dock, by name.
    pub nodes: BTreeMap<String, NodeAssessment>,
    /// Every policy, by name.
    pub policies: BTreeMap<String, PolicyAssessment>,
    /// What holds everything (stale watches, terms).
    pub notes: Vec<Note>,
    /// When to plan again even if nothing is seen by then.
    pub wake_at: Option<Timestamp>,
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeAssessment {
    /// Where it is in its life.
    pub phase: Phase,
    /// The policies that select it.
    pub policies: Vec<String>,
    /// What it waits for, the most telling first.
    pub notes: Vec<Note>,
    /// It is to take a release, or is taking one, and nothing but time keeps it from that.
    pub pending: bool,
    /// When something about it changes even if nothing is seen by then.
    pub wake_at: Option<Timestamp>,
}

/// What is known of one policy.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyAssessment {
    /// What holds the whole policy.
    pub notes: Vec<Note>,
    /// The status that describes it now (also when it is not worth a write).
    pub status: PolicyStatus,
}

/// Plans what may be done on one snapshot of the world.
///
/// Planned from the same world twice, it says the same. It never plans more than that one snapshot allows:
/// what depends on another action's success comes in a later plan.
#[must_use]
pub fn plan(world: &World) -> Plan {
    let first = fence(world);
    if !first.is_empty() {
        let reason = match first.first() {
            Some(Action::StepDown { .. }) => Reason::Superseded,
            Some(Action::RebuildDock { .. }) => Reason::Rebuilding,
            _ => Reason::Fencing,
        };
        return Plan {
            actions: first,
            notes: vec![reason.into()],
            ..Plan::default()
        };
    }
    let no_status = PolicyStatus::default();
    let scene = Scene::new(world, &no_status);
    let mut draft = Draft::new(&scene);
    draft.judge_nodes();
    draft.place_nodes();
    draft.report_policies();
    draft.finish()
}

/// A plan in the making.
struct Draft<'s, 'a> {
    scene: &'s Scene<'a>,
    plan: Plan,
    idles: BTreeMap<&'a str, Idle>,
    /// Places that steps want changed.
    places: Vec<(&'a str, Place)>,
    /// Objects that this plan already writes.
    written: BTreeSet<(&'static str, String)>,
    /// Grants that this plan gives of releases that no canary has proven: policy and digest.
    on_trial: BTreeSet<(String, String)>,
    give_up: bool,
}

impl<'s, 'a> Draft<'s, 'a> {
    fn new(scene: &'s Scene<'a>) -> Self {
        Self {
            scene,
            plan: Plan {
                notes: scene.stale.clone(),
                ..Plan::default()
            },
            idles: BTreeMap::new(),
            places: Vec::new(),
            written: BTreeSet::new(),
            on_trial: BTreeSet::new(),
            give_up: false,
        }
    }

    /// Adds an action unless the plan already writes that object.
    fn add(&mut self, action: Action) -> bool {
        if action == Action::GiveUpLease {
            self.give_up = true;
            return true;
        }
        if let Some(key) = object_of(&action)
            && !self.written.insert(key)
        {
            return false;
        }
        let event = event_of(&action);
        self.plan.actions.push(action);
        self.plan.actions.extend(event);
        true
    }

    fn wake(&mut self, at: Option<Timestamp>) {
        let now = self.scene.world.now;
        if let Some(at) = at.filter(|at| *at > now) {
            self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |old| old.min(at)));
        }
    }

    fn judge_nodes(&mut self) {
        let scene = self.scene;
        for node in scene.world.nodes.values() {
            let upgrade = scene.world.upgrades.get(&node.name);
            let policies = scene
                .selected_by
                .get(node.name.as_str())
                .map(|all| all.iter().map(|name| (*name).to_owned()).collect())
                .unwrap_or_default();
            let mut assessment = if let Some(step) = attempt::next(scene, node) {
                self.in_dock(node, step, policies)
            } else if let Some(upgrade) = upgrade {
                let idle = idle::judge(scene, node, upgrade);
                self.not_in_dock(node, idle, policies)
            } else if node.ask.is_some() {
                NodeAssessment {
                    phase: Phase::Idle,
                    policies,
                    notes: Vec::new(),
                    pending: false,
                    wake_at: None,
                }
            } else {
                continue;
            };
            match idle::asked(scene, node, upgrade) {
                Some(Ok(action)) => {
                    self.add(action);
                }
                Some(Err(note)) => assessment.notes.push(note),
                None => {}
            }
            self.wake(assessment.wake_at);
            self.plan.nodes.insert(node.name.clone(), assessment);
        }
    }

    fn in_dock(&mut self, node: &'a NodeView, mut step: Step, policies: Vec<String>) -> NodeAssessment {
        for action in step.actions {
            if self.counts_already(&action) {
                let text = "another node is granted its reboot by this very plan";
                step.notes.insert(0, Note::new(Reason::CanaryFirst, text));
            } else {
                self.add(action);
            }
        }
        if let Some(place) = step.place {
            self.places.push((node.name.as_str(), place));
        }
        let docked = self.scene.in_dock.contains_key(node.name.as_str());
        NodeAssessment {
            phase: step.phase,
            policies,
            notes: step.notes,
            pending: docked && !report::stuck(step.phase),
            wake_at: step.wake_at,
        }
    }

    /// A second grant of a release on trial was judged without the first: it waits for the next plan, which
    /// sees that one.
    fn counts_already(&mut self, action: &Action) -> bool {
        let Action::WriteSpec {
            spec,
            change: SpecChange::Grant,
            ..
        } = action
        else {
            return false;
        };
        let Some(dock) = &spec.dock else { return false };
        let policy = self.scene.policies.get(dock.policy.as_str());
        policy.is_some_and(|policy| !budget::proven(self.scene, policy, &dock.digest))
            && !self.on_trial.insert((dock.policy.clone(), dock.digest.clone()))
    }

    fn not_in_dock(&mut self, node: &'a NodeView, idle: Idle, policies: Vec<String>) -> NodeAssessment {
        if let Some(action) = idle.action.clone() {
            self.add(action);
        }
        let assessment = NodeAssessment {
            phase: idle.phase,
            policies,
            notes: idle.notes.clone(),
            pending: idle.pending,
            wake_at: idle.wake_at,
        };
        self.idles.insert(node.name.as_str(), idle);
        assessment
    }

    /// Places: at most one change per policy; what ends or was lost before what is new.
    fn place_nodes(&mut self) {
        let scene = self.scene;
        let mut given: Given<'a> = Given::new();
        for policy in scene.policies.values() {
            let others_pending = self.others_pending();
            if let Some((status, change)) = self.place_change(policy) {
                self.write_status(policy, status, change);
            }
            let free_hand = !self.writes_policy(policy.name);
            let (taken, notes) = take::choose(scene, policy, &self.idles, &given, others_pending);
            for (node, note) in notes {
                self.say(node, note);
            }
            let Some(entry) = taken else { continue };
            self.say(&entry.node, Reason::Next.into());
            if free_hand {
                if let Some(node) = scene.world.nodes.get(&entry.node) {
                    given.insert(node.name.as_str(), policy.name);
                }
                let mut status = policy.status.clone();
                status.dock.push(entry.clone());
                self.write_status(policy, status, StatusChange::Take(entry));
                if policy.guessing {
                    self.plan.actions.push(Action::Event {
                        on: EventTarget::Policy(policy.name.to_owned()),
                        reason: Reason::GuessInsteadOfHistory,
                        text: Reason::GuessInsteadOfHistory.explain().to_owned(),
                    });
                }
            }
        }
    }

    fn writes_policy(&self, name: &str) -> bool {
        self.written.contains(&("policy", name.to_owned()))
    }

    /// Whether a node other than the coordinator's own is still on its way.
    fn others_pending(&self) -> bool {
        let own = self.scene.world.me.node.as_deref();
        self.plan
            .nodes
            .iter()
            .any(|(name, node)| node.pending && Some(name.as_str()) != own)
    }

    /// A place that ends, or that must be there again.
    fn place_change(&self, policy: &PolicyScene<'a>) -> Option<(PolicyStatus, StatusChange)> {
        let world = self.scene.world;
        let mut status = policy.status.clone();
        // Of a Node that is no more, or was made again.
        let gone = status.dock.iter().position(|entry| {
            self.scene.fresh()
                && world
                    .nodes
                    .get(&entry.node)
                    .is_none_or(|node| node.uid != entry.uid)
        });
        let free = self.places.iter().find_map(|(node, place)| match place {
            Place::Free {
                policy: name,
                attempt,
            } if name == policy.name => status
                .dock
                .iter()
                .position(|entry| entry.node == *node && entry.attempt == *attempt),
            _ => None,
        });
        if let Some(index) = gone.or(free) {
            let entry = status.dock.remove(index);
            report::remember(self.scene, &mut status, &entry);
            return Some((status, StatusChange::Free(entry)));
        }
        let (node, attempt) = self.places.iter().find_map(|(node, place)| match place {
            Place::Restore {
                policy: name,
                attempt,
            } if name == policy.name => Some((node, attempt)),
            _ => None,
        })?;
        let entry = DockEntry {
            node: (*node).to_owned(),
            uid: world.nodes.get(*node)?.uid.clone(),
            attempt: attempt.clone(),
            since: world.now,
        };
        status.dock.push(entry.clone());
        Some((status, StatusChange::Restore(entry)))
    }

    fn write_status(&mut self, policy: &PolicyScene<'a>, status: PolicyStatus, change: StatusChange) {
        if let Some(policy) = ObjectRef::of(&policy.object.metadata) {
            self.add(Action::WritePolicyStatus {
                policy,
                status: Box::new(status),
                change,
            });
        }
    }

    /// What keeps a ready node from being taken.
    fn say(&mut self, node: &str, note: Note) {
        if let Some(assessment) = self.plan.nodes.get_mut(node) {
            assessment.notes.insert(0, note);
        }
    }

    fn report_policies(&mut self) {
        let scene = self.scene;
        for policy in scene.policies.values() {
            let notes = take::held(scene, policy);
            let status = report::status(scene, policy, &notes, &self.plan.nodes);
            if !self.writes_policy(policy.name) && report::worth_writing(policy.status, &status) {
                self.write_status(policy, status.clone(), StatusChange::Report);
            }
            if report::has_calendar(&policy.object.spec) {
                self.wake(report::next_edge(policy, scene.world.now));
            }
            if let Ok(goal) = &policy.goal {
                self.wake(goal.next);
            }
            self.plan
                .policies
                .insert(policy.name.to_owned(), PolicyAssessment { notes, status });
        }
        let oldest = scene.world.api.watches.values().filter_map(|last| *last).min();
        self.wake(oldest.map(|last| add(last, scene.world.timings.stale)));
    }

    fn finish(mut self) -> Plan {
        let halts = halt::due(self.scene);
        if !halts.is_empty() {
            // Before anything else after the failure that halts: the next plan sees them.
            self.plan.actions = halts;
        } else if self.give_up {
            self.plan.actions.push(Action::GiveUpLease);
        }
        self.plan
    }
}

/// The object that an action writes.
fn object_of(action: &Action) -> Option<(&'static str, String)> {
    match action {
        Action::WritePolicyStatus { policy, .. } | Action::RebuildDock { policy } => {
            Some(("policy", policy.name.clone()))
        }
        Action::WriteSpec { upgrade, .. } => Some(("upgrade", upgrade.name.clone())),
        Action::CreateNodeUpgrade { node, .. } => Some(("upgrade", node.clone())),
        Action::FenceNode { node, .. }
        | Action::CordonNode { node, .. }
        | Action::UncordonNode { node, .. }
        | Action::ClearAsk { node, .. } => Some(("node", node.name.clone())),
        Action::StepDown { .. }
        | Action::GiveUpLease
        | Action::EvictPods { .. }
        | Action::ListPods { .. }
        | Action::CreateHalt { .. }
        | Action::Event { .. } => None,
    }
}

/// What people are told of an action: turns in a node's life, not every write.
fn event_of(action: &Action) -> Option<Action> {
    let on_node = |node: &str, reason: Reason, text: String| {
        Some(Action::Event {
            on: EventTarget::Node(node.to_owned()),
            reason,
            text,
        })
    };
    match action {
        Action::WritePolicyStatus {
            policy,
            change: StatusChange::Take(entry),
            ..
        } => on_node(
            &entry.node,
            Reason::Next,
            format!("policy {} takes it into dock: {}", policy.name, entry.attempt),
        ),
        Action::WriteSpec {
            upgrade,
            change: SpecChange::Grant,
            spec,
        } => on_node(
            &upgrade.name,
            Reason::Granted,
            spec.grant
                .as_ref()
                .map(|grant| format!("may reboot into {} until {}", grant.digest, grant.not_after))
                .unwrap_or_default(),
        ),
        Action::WriteSpec {
            upgrade,
            change: SpecChange::Leave(reason) | SpecChange::TakeBack(reason) | SpecChange::Late(reason),
            ..
        } => on_node(&upgrade.name, *reason, reason.explain().to_owned()),
        _ => None,
    }
}
