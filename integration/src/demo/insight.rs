//! Why each node waits, in the planner's own words: read and planned from outside, just as
//! `kubectl drydock` does it. It writes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use drydock_coordinator::kubectl;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::view::{clock, short};

/// Each node's reasons with their particulars, as (name, text).
type Notes = BTreeMap<String, Vec<(String, String)>>;

/// A reader that plans again and again until it is dropped.
pub struct Insight {
    notes: watch::Receiver<Notes>,
    task: JoinHandle<()>,
}

impl Insight {
    /// Begins to read and to plan with the rights of `config`, with a pause of `every` in between.
    #[must_use]
    pub fn begin(config: kube::Config, every: Duration) -> Self {
        let (told, notes) = watch::channel(Notes::new());
        let task = tokio::spawn(async move {
            loop {
                // A moment in which the API cannot be read is bridged by what was read before.
                if let Ok(read) = kubectl::Snapshot::read(config.clone()).await {
                    let nodes = read.plan.nodes.into_iter();
                    let notes = nodes.map(|(name, node)| {
                        let notes = node
                            .notes
                            .iter()
                            .map(|note| (note.reason.name().to_owned(), note.text.clone()));
                        (name, notes.collect())
                    });
                    told.send_replace(notes.collect());
                }
                tokio::time::sleep(every).await;
            }
        });
        Self { notes, task }
    }

    /// `reason`, as the policy's status has it, with the particulars that the planner knows of it.
    #[must_use]
    pub fn why(&self, node: &str, reason: &str) -> String {
        let notes = self.notes.borrow();
        let found = notes
            .get(node)
            .and_then(|notes| notes.iter().find(|(name, _)| name == reason));
        match found {
            Some((_, text)) if !text.is_empty() => format!("{reason}: {}", readable(text)),
            _ => reason.to_owned(),
        }
    }
}

impl Drop for Insight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Instants and digests, cut to what people read of them.
fn readable(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_end_matches([',', ';', ')']);
        let rest = &word[bare.len()..];
        match bare.parse::<Timestamp>() {
            Ok(at) => format!("{}{rest}", clock(at)),
            Err(_) if bare.starts_with("sha256:") => format!("{}{rest}", short(bare)),
            Err(_) => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
