//! What took how long: acts of the story, and the phases of each node in each release.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::demo::Snapshot;

/// A phase that a node went through.
#[derive(Debug, Clone)]
struct Stay {
    act: String,
    node: String,
    phase: String,
    took: Duration,
}

/// Times, as they were seen from outside.
#[derive(Default)]
pub struct Diary {
    acts: Vec<(String, Instant)>,
    ended: Option<Instant>,
    now: BTreeMap<String, (String, Instant)>,
    stays: Vec<Stay>,
}

impl Diary {
    /// A new act begins.
    pub fn act(&mut self, title: &str) {
        self.acts.push((title.to_owned(), Instant::now()));
    }

    /// The story is over.
    pub fn end(&mut self) {
        self.ended = Some(Instant::now());
    }

    /// One look at the cluster.
    pub fn see(&mut self, now: &Snapshot) {
        let act = self
            .acts
            .last()
            .map(|(title, _)| title.clone())
            .unwrap_or_default();
        for node in &now.nodes {
            if node.phase.is_empty() {
                continue;
            }
            if let Some((phase, _)) = self.now.get(&node.name)
                && *phase == node.phase
            {
                continue;
            }
            let entered = (node.phase.clone(), Instant::now());
            if let Some((phase, since)) = self.now.insert(node.name.clone(), entered) {
                self.stays.push(Stay {
                    act: act.clone(),
                    node: node.name.clone(),
                    phase,
                    took: since.elapsed(),
                });
            }
        }
    }

    /// A table of acts, each with its nodes' phases in the order in which they were gone through.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let ends = self.acts.iter().skip(1).map(|(_, begun)| *begun);
        let last = self.ended.unwrap_or_else(Instant::now);
        for ((title, begun), end) in self.acts.iter().zip(ends.chain([last])) {
            let _infallible = writeln!(text, "{:>7.1} s  {title}", (end - *begun).as_secs_f64());
            let mut nodes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            let stays = self.stays.iter().filter(|stay| stay.act == *title);
            // How long a node had nothing to do says nothing.
            for stay in stays.filter(|stay| stay.phase != "Idle") {
                let words = format!("{} {:.0}", stay.phase, stay.took.as_secs_f64());
                nodes.entry(&stay.node).or_default().push(words);
            }
            for (node, phases) in nodes {
                let _infallible = writeln!(text, "             {node}: {}", phases.join(", "));
            }
        }
        if let Some((_, begun)) = self.acts.first() {
            let _infallible = writeln!(text, "{:>7.1} s  in all", (last - *begun).as_secs_f64());
        }
        text
    }
}
