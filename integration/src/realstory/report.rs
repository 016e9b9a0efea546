//! What was seen in the story, for people; and whether all of it was as it must be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::pods::{Count, Excuse};
use crate::realcluster::Memory;
use crate::realnode::{Boot, End};

/// What became of a bad release.
#[derive(Debug, Clone)]
pub struct Bad {
    /// Its version.
    pub version: String,
    /// The only node that tried it.
    pub node: String,
    /// Its trial boots.
    pub trials: usize,
    /// How each of them ended.
    pub ended: End,
    /// The word that the node says for it.
    pub code: String,
    /// What the node says.
    pub text: String,
    /// What the halt says.
    pub halt: String,
}

/// Everything that was seen.
pub struct Report {
    /// The table of acts and phases.
    pub times: String,
    /// Pods that the budget demands.
    pub budget: usize,
    /// The fewest that there ever were.
    pub lowest: usize,
    /// How often the number changed.
    pub counts: usize,
    /// Counts below the budget that nothing excuses.
    pub violations: Vec<Count>,
    /// What excuses others.
    pub excuses: Vec<Excuse>,
    /// How many pods there ever were, and on how many nodes.
    pub pods_and_nodes: (usize, usize),
    /// The bad releases.
    pub bad: Vec<Bad>,
    /// Nodes that reported an attempt of the good release as Unconfirmed.
    pub unconfirmed: Vec<String>,
    /// Every boot of each machine.
    pub boots: BTreeMap<String, Vec<Boot>>,
    /// The most memory of each coordinator, in bytes.
    pub coordinators: BTreeMap<String, u64>,
    /// The most memory of each QEMU, in bytes.
    pub machines: BTreeMap<String, u64>,
    /// The most memory of guard and agent on each node, in KiB.
    pub agents: BTreeMap<String, BTreeMap<String, u64>>,
    /// The control plane's memory.
    pub plane: BTreeMap<&'static str, Memory>,
    /// Bytes that the web server has sent.
    pub sent_bytes: u64,
}

impl Report {
    /// Whether everything that is counted was as it must be.
    #[must_use]
    pub fn all_held(&self) -> bool {
        self.violations.is_empty()
    }

    /// All of it, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("What it took\n{}\n", self.times);
        // Writing into a String does not fail.
        let mut line = |words: String| {
            let _infallible = writeln!(text, "{words}");
        };
        line("Boots, as the loader chose them".to_owned());
        for (node, boots) in &self.boots {
            for boot in boots {
                let end = boot
                    .end
                    .as_ref()
                    .map_or_else(|| "it runs".to_owned(), |(_, end)| format!("{end:?}"));
                let trial = if boot.on_trial() {
                    format!("on trial, {} tries left before", boot.bits.tries)
                } else {
                    "marked good".to_owned()
                };
                let sign = boot.first_sign.map_or_else(
                    || "no sign of life".to_owned(),
                    |time| format!("userspace after {:.1} s", time.as_secs_f64()),
                );
                line(format!(
                    "  {} {node} slot {:?} ({trial}), {sign}, {end}",
                    boot.at.strftime("%H:%M:%S"),
                    boot.slot
                ));
            }
        }
        line("\nBad releases".to_owned());
        for bad in &self.bad {
            line(format!(
                "  {}: tried by {} alone, {} trial boot(s) that ended by {:?}; it says {}: {}",
                bad.version, bad.node, bad.trials, bad.ended, bad.code, bad.text
            ));
            line(format!("         halted: {}", bad.halt));
        }
        line(format!(
            "\nUnconfirmed, and tried once more: {}",
            self.unconfirmed.join(", ")
        ));
        let (pods, nodes) = self.pods_and_nodes;
        line(format!(
            "Pods: {} demanded by the budget, {} at the fewest in {} changes, {} not excused below it; {pods} pods on {nodes} nodes in all",
            self.budget,
            self.lowest,
            self.counts,
            self.violations.len()
        ));
        for count in &self.violations {
            line(format!("  VIOLATION {}: {} pods", count.at, count.available));
        }
        for excuse in &self.excuses {
            line(format!(
                "  excused {} to {}: {}",
                excuse.from, excuse.to, excuse.what
            ));
        }
        line("Memory at its peak, MiB".to_owned());
        for (name, bytes) in self.coordinators.iter().chain(&self.machines) {
            line(format!("  {name}: {}", bytes >> 20));
        }
        for (name, memory) in &self.plane {
            line(format!("  {name}: {}", memory.peak_bytes >> 20));
        }
        for (node, programs) in &self.agents {
            for (program, kib) in programs {
                line(format!("  {program} on {node}: {:.1}", *kib as f64 / 1024.0));
            }
        }
        line(format!(
            "Sent by the web server: {:.1} MB",
            self.sent_bytes as f64 / 1e6
        ));
        text
    }
}
