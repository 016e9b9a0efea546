//! `status`: all there is to know about a node, for someone who has never seen one. Changes nothing.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use drydock_machine::{AttemptReport, GuardKind, GuardStatus, Slot, SlotStatus};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Answer;
use super::session::{CliError, Session, short};
use crate::disk::BootControl;
use crate::guard::{boot_slot, machine_slot, offline};
use crate::stage::{Hashing, Identity, Proof, identify_running};

/// Bound on a repository's trust store, in bytes.
const MAX_STORE_BYTES: u64 = 16 << 20;

/// What was found out.
struct Found {
    status: GuardStatus,
    guarded: bool,
    /// How the running release was proven, or why not.
    identity: String,
    versions: [Option<String>; 2],
    table: String,
    trust: Vec<(String, Option<u64>, Option<u64>)>,
    running_problem: Option<String>,
}

pub(super) async fn status(session: &Session) -> Result<Answer, CliError> {
    let (status, guarded) = session.stands().await?;
    let (view, env, config) = (session.view.clone(), session.env.clone(), session.config.clone());
    let found = tokio::task::spawn_blocking(move || -> Result<Found, CliError> {
        let node = view.node();
        let mut status = status;
        let running = node.running.as_ref().ok().copied();
        let mut identity = "which slot runs is not known".to_owned();
        if let Some(running) = running {
            let never = CancellationToken::new();
            let proven = identify_running(
                &node.control,
                view.records(),
                running,
                &node.cmdline,
                Hashing::No,
                &never,
            )?;
            identity = match &proven {
                Identity::Proven {
                    by: Proof::VerityRoot,
                    ..
                } => "proven by its dm-verity root hash".to_owned(),
                Identity::Proven {
                    by: Proof::Content, ..
                } => "proven by its content".to_owned(),
                Identity::Unknown(_) if status.running_digest.is_some() => "proven by its content".to_owned(),
                Identity::Unknown(why) => why.to_string(),
            };
            if !guarded {
                let digest = proven.release().map(|digest| digest.to_string());
                status = offline::look(&view, &config.settings, &env, digest)?;
            }
        }
        let version = |slot| view.record(slot).map(|record| record.version.to_string());
        let table = node
            .control
            .state()
            .map_err(offline::OfflineError::from)?
            .health
            .to_string();
        Ok(Found {
            status,
            guarded,
            identity,
            versions: crate::disk::SlotName::BOTH.map(version),
            table,
            trust: trust(&config.settings),
            running_problem: node.running.as_ref().err().map(ToString::to_string),
        })
    });
    let found = found.await??;
    Ok(Answer {
        text: text(session, &found),
        json: as_json(session, &found),
    })
}

impl Found {
    fn version(&self, slot: Slot) -> Option<&str> {
        match slot {
            Slot::A => self.versions[0].as_deref(),
            Slot::B => self.versions[1].as_deref(),
        }
    }

    fn release(&self, slot: &SlotStatus) -> String {
        match (&slot.seen.record, self.version(slot.name)) {
            (Some(digest), Some(version)) => format!("release {version} ({})", short(digest)),
            (Some(digest), None) => format!("release {}", short(digest)),
            (None, _) => "unknown content".to_owned(),
        }
    }

    /// What the node would go back to.
    fn way_back(&self) -> Result<String, String> {
        let running = self.status.running.ok_or("which slot runs is not known")?;
        let other = self.status.slots.iter().find(|slot| slot.name == running.other());
        match other {
            Some(other) if other.seen.successful && other.seen.bootable => {
                Ok(format!("slot {} with {}", other.name, self.release(other)))
            }
            Some(other) => Err(format!(
                "none: slot {} is not marked good and bootable",
                other.name
            )),
            None => Err("none".to_owned()),
        }
    }
}

fn text(session: &Session, found: &Found) -> String {
    let settings = session.settings();
    let status = &found.status;
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _written = writeln!(out, "{name:<11}{value}");
    };
    line(
        "node",
        &format!(
            "{} (board {}, {})",
            settings.node_name, settings.board, settings.arch
        ),
    );
    line("boot", &status.boot_id);
    let good = if status.running_good() == Some(true) {
        "marked good"
    } else {
        "not marked good"
    };
    match status.slots.iter().find(|slot| Some(slot.name) == status.running) {
        Some(slot) => {
            line(
                "running",
                &format!("slot {}: {}, {good}", slot.name, found.release(slot)),
            );
            line("", &found.identity);
        }
        None => line("running", found.running_problem.as_deref().unwrap_or("not known")),
    }
    for slot in &status.slots {
        let bits = &slot.seen;
        let boot = if bits.bootable { "bootable" } else { "not bootable" };
        let good = if bits.successful {
            "good"
        } else {
            "not marked good"
        };
        let bits = format!(
            "{boot}, {good} (priority {}, tries {})",
            bits.priority, bits.tries
        );
        line(
            &format!("slot {}", slot.name),
            &format!("{}; {bits}", found.release(slot)),
        );
    }
    line("way back", &found.way_back().unwrap_or_else(|why| why));
    line(
        "next boot",
        &status
            .next
            .map_or_else(|| "neither slot".to_owned(), |slot| format!("slot {slot}")),
    );
    line("guard", &guard_text(found));
    line("attempt", &attempt_text(status.attempt.as_ref()));
    for failed in &status.failed {
        let what = format!(
            "{} in attempt {} ({})",
            short(&failed.digest),
            failed.attempt,
            failed.code
        );
        line("failed", &format!("{what}; `forgive` lets it be tried again"));
    }
    if let Some(floor) = &status.floor {
        line("floor", &format!("{floor}: no release below it is taken"));
    }
    line("table", &found.table);
    for (name, root, timestamp) in &found.trust {
        let seen = |version: &Option<u64>| version.map_or_else(|| "none yet".to_owned(), |v| v.to_string());
        line(
            "trust",
            &format!(
                "repository {name}: root {}, timestamp {}",
                seen(root),
                seen(timestamp)
            ),
        );
    }
    for problem in &status.problems {
        line("problem", problem);
    }
    out
}

fn guard_text(found: &Found) -> String {
    if !found.guarded {
        return "does not answer; start it with `systemctl start drydock-guard.service`".to_owned();
    }
    match found.status.kind {
        GuardKind::Full => "runs; the loader counts boots too".to_owned(),
        GuardKind::UserspaceOnly => {
            "runs; userspace only: this loader counts no boots, a kernel that hangs is not left again"
                .to_owned()
        }
    }
}

fn attempt_text(attempt: Option<&AttemptReport>) -> String {
    let Some(attempt) = attempt else {
        return "none".to_owned();
    };
    let why = match (&attempt.code, &attempt.text) {
        (Some(code), Some(text)) => format!(": {code}, {text}"),
        (Some(code), None) => format!(": {code}"),
        (None, _) => String::new(),
    };
    format!(
        "{} of {}: {}{why}",
        attempt.attempt,
        short(&attempt.digest),
        attempt.state.as_str()
    )
}

fn as_json(session: &Session, found: &Found) -> Value {
    let settings = session.settings();
    let versions = |slot| found.version(machine_slot(slot)).map(ToOwned::to_owned);
    json!({
        "node": settings.node_name,
        "board": settings.board,
        "arch": settings.arch,
        "status": found.status,
        "guardAnswers": found.guarded,
        "identity": found.identity,
        "versions": { "A": versions(boot_slot(Slot::A)), "B": versions(boot_slot(Slot::B)) },
        "wayBack": found.way_back().ok(),
        "table": found.table,
        "trust": found.trust.iter().map(|(name, root, timestamp)| {
            json!({ "repository": name, "root": root, "timestamp": timestamp })
        }).collect::<Vec<_>>(),
    })
}

/// Versions that the trust store has seen; what is trusted is judged elsewhere.
fn trust(settings: &crate::config::Settings) -> Vec<(String, Option<u64>, Option<u64>)> {
    let read = |path: &Path| -> Option<Value> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .ok()?
            .take(MAX_STORE_BYTES)
            .read_to_end(&mut bytes)
            .ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let repository = |name: &String| {
        let store = read(&settings.state_dir.join("trust").join(name).join("trust.json"));
        // Each piece is the text of the signed file.
        let version = |piece: &str| -> Option<u64> {
            let signed: Value = serde_json::from_str(store.as_ref()?[piece].as_str()?).ok()?;
            signed["signed"]["version"].as_u64()
        };
        (name.clone(), version("root"), version("timestamp"))
    };
    settings
        .repositories
        .iter()
        .map(|known| repository(&known.name))
        .collect()
}
