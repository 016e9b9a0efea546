//! Operator scripts that read like a runbook: commands in, what is planned and said out.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use drydock_api::{DockMark, UpgradePolicySpec};
use drydock_plan::{Action, Controller, Keep, Plan, SpecChange, StatusChange, plan};
use jiff::{SignedDuration, Timestamp};

use crate::{
    checker::Checker,
    machine::Power,
    model::{Cluster, digest},
};

struct Runner {
    cluster: Cluster,
    out: String,
    saved: BTreeMap<String, UpgradePolicySpec>,
    /// What was last said, so that what is asked again and again is said once.
    said: String,
}

fn run(script: &str) -> String {
    let start: Timestamp = "2026-11-02T08:00:00Z".parse().unwrap();
    let mut runner = Runner {
        cluster: Cluster::new(start),
        out: String::new(),
        saved: BTreeMap::new(),
        said: String::new(),
    };
    for line in script.lines() {
        writeln!(
            runner.out,
            "{}{line}",
            if line.is_empty() || line.starts_with('#') {
                ""
            } else {
                "> "
            }
        )
        .unwrap();
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            runner.command(line);
        }
    }
    runner.out
}

fn seconds(text: &str) -> i64 {
    let span: drydock_api::SpanText = text.trim_start_matches('+').parse().unwrap();
    i64::try_from(span.duration().as_secs()).unwrap()
}

fn short(text: &str) -> String {
    // sha256:000...02.0 reads as its version.
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 7..];
        let end = tail.len().min(64);
        out.push_str(tail[..end].trim_start_matches('0'));
        rest = &tail[end..];
    }
    out + rest
}

impl Runner {
    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let cluster = &mut self.cluster;
        match words.as_slice() {
            ["release", version] => cluster.release(version),
            ["release", version, "bad"] => {
                cluster.bad.insert(digest(version));
            }
            ["release", version, "withdrawn"] => {
                let list = cluster.repository.channels.get_mut("stable").unwrap();
                list.iter_mut()
                    .filter(|release| release.digest == digest(version))
                    .for_each(|release| release.withdrawn = true);
            }
            ["release", version, "stone"] => {
                let list = cluster.repository.channels.get_mut("stable").unwrap();
                list.iter_mut()
                    .filter(|release| release.digest == digest(version))
                    .for_each(|release| release.stepping_stone = true);
            }
            ["release", version, "kubelet", kubelet] => {
                let release = cluster.repository.releases.get_mut(&digest(version)).unwrap();
                release.kubelet = Some((*kubelet).to_owned());
            }
            ["node", name, "runs", version, labels @ ..] => {
                let labels = labels
                    .iter()
                    .filter_map(|label| label.split_once('='))
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect();
                cluster.join(name, version, labels);
            }
            ["policy", name, ..] => {
                let text = line.splitn(3, ' ').nth(2).unwrap_or("{}");
                let spec = policy(name, text);
                self.saved.insert((*name).to_owned(), spec.clone());
                cluster.apply(name, spec);
            }
            ["delete-policy", name] => {
                cluster.policies.remove(*name);
            }
            ["reapply", name] => cluster.apply(name, self.saved[*name].clone()),
            ["wipe", name] => cluster.wipe_policy(name),
            ["pod", node, name, rest @ ..] => {
                let controller = if rest.contains(&"daemonset") {
                    Controller::DaemonSet { gone: false }
                } else if rest.contains(&"bare") {
                    Controller::None
                } else {
                    Controller::Other {
                        name: format!("ReplicaSet/{name}"),
                    }
                };
                let pod = cluster.pod(node, name, controller);
                pod.empty_dir = rest.contains(&"emptydir");
                pod.coordinator = rest.contains(&"coordinator");
                if rest.contains(&"stubborn") {
                    pod.labels.insert("stubborn".to_owned(), String::new());
                }
            }
            ["volume", volume, "of", node] => cluster.attach(node, volume),
            ["volume", volume, "stuck"] => {
                cluster.stuck_volumes.insert((*volume).to_owned());
            }
            ["volume", volume, "detached"] => {
                cluster.stuck_volumes.remove(*volume);
            }
            ["volumes", "hidden"] => cluster.volumes_hidden = true,
            ["volumes", "seen"] => cluster.volumes_hidden = false,
            ["pod-gone", node, name] => {
                cluster
                    .pods
                    .get_mut(*node)
                    .unwrap()
                    .retain(|pod| pod.name != *name);
            }
            ["node-lost", name] => {
                cluster.part(name);
            }
            ["upgrade-lost", name] => {
                cluster.upgrades.remove(*name);
            }
            ["human", "cordon", name] => {
                cluster.checker.by_hand.insert((*name).to_owned());
                cluster.touch_node(name, |node| node.unschedulable = true);
            }
            ["human", "uncordon", name] => {
                cluster.checker.by_hand.remove(*name);
                cluster.touch_node(name, |node| node.unschedulable = false);
            }
            ["agent", name, "silent"] => cluster.machines.get_mut(*name).unwrap().silent = true,
            ["agent", name, "talks"] => cluster.machines.get_mut(*name).unwrap().silent = false,
            ["machine", name, "cuts", times] => {
                cluster.machines.get_mut(*name).unwrap().cuts = times.parse().unwrap();
            }
            ["kubelet", name, state @ ("up" | "down")] => {
                cluster.machines.get_mut(*name).unwrap().kubelet_down = *state == "down";
            }
            ["kubelet", name, "down", "after", "reboot"] => {
                cluster.machines.get_mut(*name).unwrap().kubelet_down_next = true;
            }
            ["machine", name, "deaf"] => cluster.machines.get_mut(*name).unwrap().deaf = true,
            ["machine", name, "bricks"] => cluster.machines.get_mut(*name).unwrap().bricks = true,
            ["machine", name, "repaired"] => cluster.revive(name),
            ["machine", name, "down"] => cluster.machines.get_mut(*name).unwrap().power = Power::Dead,
            ["machine", name, "reboots"] => {
                let now = cluster.now;
                cluster.machines.get_mut(*name).unwrap().reboot_by_hand(now);
            }
            ["ask", name, "forgive", version] => {
                let digest = digest(version);
                cluster.touch_node(name, |node| {
                    node.ask = Some(Ok(drydock_api::Ask::Forgive { digest }))
                });
                cluster.tick();
            }
            ["ask", name, verb @ ("cancel" | "release")] => {
                let mark: Option<DockMark> = cluster.nodes[*name].mark.clone().map(Result::unwrap);
                let statuses = cluster
                    .policies
                    .values()
                    .filter_map(|policy| policy.status.as_ref());
                let mut places = statuses.flat_map(|status| &status.dock);
                let place = places.find(|entry| entry.node == *name);
                let attempt = mark.map(|mark| mark.attempt);
                let attempt = attempt.or(place.map(|entry| entry.attempt.clone())).unwrap();
                let ask = format!("{verb} {attempt}").parse().unwrap();
                cluster.checker.released.insert(attempt);
                cluster.touch_node(name, |node| node.ask = Some(Ok(ask)));
            }
            ["unhalt", version] => {
                cluster.halts.remove(&digest(version));
            }
            ["halt", version] => {
                let halt = Action::CreateHalt {
                    halt: Box::new(drydock_api::ReleaseHaltSpec {
                        digest: digest(version),
                        repository: None,
                        version: None,
                        reason: "by hand".to_owned(),
                        evidence: Vec::new(),
                        by: "operator".to_owned(),
                        at: cluster.now,
                    }),
                };
                let plan = Plan {
                    actions: vec![halt],
                    ..Plan::default()
                };
                cluster.execute(&plan, 1, 1).unwrap();
            }
            ["coordinator", "restarts"] => cluster.term += 1,
            ["coordinator", "on", name, rest @ ..] => {
                cluster.me.node = Some((*name).to_owned());
                cluster.me.other_replica = rest.contains(&"replica");
            }
            ["repository", "unread"] => {
                cluster.repository.loaded = false;
                cluster.repository.error = None;
            }
            ["repository", "unreachable"] => {
                cluster.repository.loaded = false;
                cluster.repository.error = Some("no answer".to_owned());
            }
            ["repository", "read"] => {
                cluster.repository.loaded = true;
                cluster.repository.error = None;
            }
            ["watch", "stale"] => cluster.watches_since = Some(cluster.now - SignedDuration::from_secs(121)),
            ["watch", "fresh"] => cluster.watches_since = None,
            ["at", instant] => cluster.now = instant.parse().unwrap(),
            ["now", span] => {
                cluster.now += SignedDuration::from_secs(seconds(span));
            }
            ["run", span] => self.run_for(seconds(span)),
            ["until", what @ ..] => self.run_until(&what.join(" ")),
            ["plan"] => self.show(),
            ["status", name] => self.status(name),
            ["rest"] => Checker::at_rest(cluster, &std::collections::BTreeSet::new()),
            other => panic!("unknown command {other:?}"),
        }
    }

    fn step(&mut self) {
        let world = self.cluster.world();
        let made = plan(&world);
        assert_eq!(made, plan(&world), "a plan must be a function of the world");
        let clock = self.cluster.now.strftime("%d %H:%M:%S").to_string();
        for line in made.actions.iter().filter_map(describe) {
            if line != self.said {
                writeln!(self.out, "  {clock}  {}", short(&line)).unwrap();
                self.said = line;
            }
        }
        let term = self.cluster.term;
        self.cluster.execute(&made, term, usize::MAX).unwrap();
        self.cluster.tick();
    }

    fn run_for(&mut self, secs: i64) {
        let end = self.cluster.now + SignedDuration::from_secs(secs);
        while self.cluster.now < end {
            self.step();
        }
    }

    /// Runs until a line of the output has the text.
    fn run_until(&mut self, text: &str) {
        for _ in 0..2000 {
            let before = self.out.len();
            self.step();
            if self.out[before..].contains(text) {
                return;
            }
        }
        panic!("never happened: {text}\n{}", self.out);
    }

    fn show(&mut self) {
        let made = plan(&self.cluster.world());
        for action in &made.actions {
            if let Some(line) = describe(action) {
                writeln!(self.out, "  would  {}", short(&line)).unwrap();
            }
        }
        for note in &made.notes {
            writeln!(self.out, "  all: {}", short(&note.to_string())).unwrap();
        }
        for (name, policy) in &made.policies {
            for note in &policy.notes {
                writeln!(self.out, "  policy {name}: {}", short(&note.to_string())).unwrap();
            }
        }
        for (name, node) in &made.nodes {
            let notes: Vec<String> = node.notes.iter().map(|note| short(&note.to_string())).collect();
            writeln!(self.out, "  {name}: {} - {}", node.phase, notes.join("; ")).unwrap();
        }
    }

    fn status(&mut self, name: &str) {
        let made = plan(&self.cluster.world());
        let status = &made.policies[name].status;
        writeln!(
            self.out,
            "  updated {}, target {}, dock {:?}",
            status.progress.clone().unwrap_or_default(),
            status
                .target
                .as_ref()
                .map_or("none", |target| target.version.as_str()),
            status
                .dock
                .iter()
                .map(|entry| entry.node.as_str())
                .collect::<Vec<_>>()
        )
        .unwrap();
        for count in &status.reasons {
            writeln!(self.out, "  waits for {}: {}", count.name, count.names.join(", ")).unwrap();
        }
        for condition in &status.conditions {
            writeln!(
                self.out,
                "  {}={} {}: {}",
                condition.type_,
                condition.status,
                condition.reason,
                short(&condition.message)
            )
            .unwrap();
        }
        if let Some(window) = &status.next_window {
            writeln!(self.out, "  window {} to {}", window.start, window.end).unwrap();
        }
        if let Some(end) = &status.forecast_end {
            writeln!(self.out, "  done at {end}").unwrap();
        }
    }
}

fn describe(action: &Action) -> Option<String> {
    Some(match action {
        Action::StepDown { seen } => format!("stop: term {seen} was read"),
        Action::GiveUpLease => "give the Lease up".to_owned(),
        Action::WritePolicyStatus { policy, change, .. } => match change {
            StatusChange::Fence => format!("policy {}: fence", policy.name),
            StatusChange::Take(entry) => {
                format!("policy {}: take {} as {}", policy.name, entry.node, entry.attempt)
            }
            StatusChange::Restore(entry) => {
                format!(
                    "policy {}: place of {} again, {}",
                    policy.name, entry.node, entry.attempt
                )
            }
            StatusChange::Free(entry) => format!("policy {}: free the place of {}", policy.name, entry.node),
            StatusChange::Report => return None,
        },
        Action::RebuildDock { policy } => format!("policy {}: build its dock again", policy.name),
        Action::CreateNodeUpgrade { node, .. } => format!("{node}: create its NodeUpgrade"),
        Action::WriteSpec {
            upgrade,
            spec,
            change,
        } => {
            let text = match change {
                SpecChange::Wish => format!(
                    "wish {}, stage {}",
                    spec.wish.as_ref().map_or("none", |wish| wish.version.as_str()),
                    spec.stage
                ),
                SpecChange::Grant => {
                    let grant = spec.grant.as_ref().unwrap();
                    format!("grant {} until {}", grant.digest, grant.not_after)
                }
                SpecChange::Verdict => format!("verdict {:?}", spec.verdict.as_ref().unwrap().decision),
                SpecChange::Leave(reason) => {
                    let class = spec.records.last().map(|record| record.class);
                    let hold = spec
                        .hold
                        .as_ref()
                        .map_or(String::new(), |hold| format!(", held until {}", hold.until));
                    format!("leaves: {reason}, recorded {class:?}{hold}")
                }
                SpecChange::Soak => format!("soak {:?}", spec.soak.as_ref().map(|soak| soak.passed)),
                other => format!("{other:?}"),
            };
            format!("{}: {text}", upgrade.name)
        }
        Action::FenceNode { node, term } => format!("{}: fence, term {term}", node.name),
        Action::CordonNode { node, mark, .. } => format!("{}: cordon, {mark}", node.name),
        Action::UncordonNode { node, keep, .. } => match keep {
            Keep::Nothing => format!("{}: uncordon", node.name),
            Keep::Unschedulable => format!("{}: take the mark away, leave the cordon", node.name),
        },
        Action::EvictPods { node, pods, .. } => {
            let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
            format!("{node}: evict {}", names.join(", "))
        }
        Action::ListPods { node, .. } => format!("{node}: list its pods"),
        Action::CreateHalt { halt } => format!("HALT {}: {}", halt.digest, halt.reason),
        Action::ClearAsk { node, ask } => format!("{}: done with `{ask}`", node.name),
        Action::Event { .. } => return None,
    })
}

pub fn policy(name: &str, text: &str) -> UpgradePolicySpec {
    let mut spec = serde_json::json!({
        "repository": "os",
        "release": {"channel": "stable"},
        "nodeSelector": {"matchLabels": {"pool": name}},
        "strategy": {"soak": "2m"},
    });
    let over: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    for (key, value) in over.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

#[test]
fn scripts_read_as_they_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/scripts");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let script = std::fs::read_to_string(&file).unwrap();
        println!("script {name}");
        insta::with_settings!({prepend_module_to_snapshot => false, snapshot_path => "scripts", omit_expression => true}, {
            insta::assert_snapshot!(name, run(&script));
        });
    }
}

/// The guide's list of reasons is this build's: written again with `DRYDOCK_WRITE_DOCS=1`.
#[test]
fn the_guide_lists_every_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let guide = std::fs::read_to_string(&path).unwrap();
    let (head, _) = guide
        .split_once("<!-- reasons -->")
        .expect("the guide marks where its reasons begin");
    let mut wanted = format!("{head}<!-- reasons -->\n\n| reason | what it means |\n|---|---|\n");
    for reason in drydock_plan::Reason::ALL {
        writeln!(wanted, "| `{reason}` | {} |", reason.explain()).unwrap();
    }
    if std::env::var_os("DRYDOCK_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    assert!(
        guide == wanted,
        "docs/policy.md is not up to date: run with DRYDOCK_WRITE_DOCS=1"
    );
}
