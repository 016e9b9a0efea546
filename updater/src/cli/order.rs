//! Root's own orders: arm, roll back, disarm, mark good, forgive. Local checks alone commit what they start.

use drydock_machine::{ArmRequest, GoodRequest, GuardStatus, Origin, PhaseName, Request, Slot};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Answer;
use super::session::{CliError, Session, short};
use super::slot::must_be_listed;
use crate::agent::highest_floor;
use crate::disk::SlotName;
use crate::guard::machine_slot;
use crate::stage::read_back_async;
use crate::state::{LockName, SlotRecord};

pub(super) async fn arm(session: &Session, reboot: bool) -> Result<Answer, CliError> {
    // First the guard: without one nothing would ever go back.
    let status = session.guard.ask(&Request::Status).await?;
    let (target, record) = session.target()?;
    must_be_listed(session, &record).await?;
    let request = session.read_back(&status, target, &record).await?;
    let attempt = request.attempt.clone();
    let status = session.guard.ask(&Request::Arm(request)).await?;
    session.armed(&attempt, target, &record, &status, reboot).await
}

pub(super) async fn rollback(session: &Session, reboot: bool) -> Result<Answer, CliError> {
    let (status, guarded) = session.stands().await?;
    let (target, record) = session.target()?;
    let good = status
        .slot(machine_slot(target))
        .is_some_and(|slot| slot.successful && slot.bootable);
    if !good {
        return Err(CliError::Refused(format!(
            "slot {target} is not a way back: it was never marked good, or is not bootable. `arm` tries a staged \
             release"
        )));
    }
    let request = session.read_back(&status, target, &record).await?;
    let attempt = request.attempt.clone();
    let status = session.follow(Request::Rollback(request)).await?;
    if reboot && !guarded {
        let (outside, failed) = (&session.env.outside, |text| CliError::Failed {
            word: "Reboot",
            text,
        });
        outside.flush().await.map_err(failed)?;
        outside.reboot().await.map_err(failed)?;
        return Ok(armed_answer(&attempt, target, &record, true));
    }
    session.armed(&attempt, target, &record, &status, reboot).await
}

pub(super) async fn disarm(session: &Session) -> Result<Answer, CliError> {
    let (status, _) = session.stands().await?;
    let armed = status.attempt.filter(|attempt| {
        matches!(
            attempt.phase,
            PhaseName::Arming | PhaseName::Armed | PhaseName::Used | PhaseName::Disarming
        )
    });
    let Some(armed) = armed else {
        let text = "nothing is armed\n".to_owned();
        return Ok(Answer {
            text,
            json: json!({ "disarmed": null }),
        });
    };
    let attempt = armed.attempt;
    session
        .follow(Request::Disarm {
            attempt: attempt.clone(),
        })
        .await?;
    Ok(Answer {
        text: format!("attempt {attempt} is disarmed: the running release is booted next\n"),
        json: json!({ "disarmed": attempt }),
    })
}

pub(super) async fn mark_good(session: &Session) -> Result<Answer, CliError> {
    let running = session.running()?;
    let (status, _) = session.stands().await?;
    let view = session.view.clone();
    let record = tokio::task::spawn_blocking(move || view.record(running)).await?;
    session.mark_running_good(&status, record.as_ref()).await?;
    Ok(Answer {
        text: format!("the required checks passed; slot {running} is marked good and booted from now on\n"),
        json: json!({ "markedGood": running }),
    })
}

pub(super) async fn forgive(session: &Session, what: &[String]) -> Result<Answer, CliError> {
    let (status, _) = session.stands().await?;
    let named = |digest: &str, attempt: &str| {
        what.is_empty() || what.iter().any(|word| word == digest || word == attempt)
    };
    let failed = status
        .failed
        .iter()
        .filter(|failed| named(&failed.digest, &failed.attempt));
    let attempts: Vec<String> = failed.map(|failed| failed.attempt.clone()).collect();
    if attempts.is_empty() {
        let text = "nothing to forgive: no such release failed here\n".to_owned();
        return Ok(Answer {
            text,
            json: json!({ "forgiven": [] }),
        });
    }
    session
        .follow(Request::Forgive {
            attempts: attempts.clone(),
        })
        .await?;
    Ok(Answer {
        text: format!("forgiven on this node: {}\n", attempts.join(", ")),
        json: json!({ "forgiven": attempts }),
    })
}

impl Session {
    /// The slot that does not run, and what it is known to hold.
    fn target(&self) -> Result<(SlotName, SlotRecord), CliError> {
        let target = self.running()?.other();
        let record = self.view.record(target).ok_or_else(|| {
            CliError::Refused(format!(
                "slot {target} holds no verified release; `stage` one first"
            ))
        })?;
        Ok((target, record))
    }

    /// Every byte of the target once more (S2), then root's leave to arm it.
    async fn read_back(
        &self,
        status: &GuardStatus,
        target: SlotName,
        record: &SlotRecord,
    ) -> Result<ArmRequest, CliError> {
        let node = self.view.node();
        let _lock = node.state.try_lock(LockName::Slot)?;
        let never = CancellationToken::new();
        read_back_async(node.control.clone(), target, record.clone(), never).await?;
        let floor = highest_floor(record.floor.as_ref(), status.floor.as_ref());
        Ok(ArmRequest {
            attempt: root_attempt(),
            digest: record.release.to_string(),
            origin: Origin::Root,
            target: machine_slot(target),
            remaining: None,
            counted_at: None,
            confirm_wait: self.settings().confirm_wait,
            floor: floor.map(|floor| floor.to_string()),
        })
    }

    async fn armed(
        &self,
        attempt: &str,
        target: SlotName,
        record: &SlotRecord,
        status: &GuardStatus,
        reboot: bool,
    ) -> Result<Answer, CliError> {
        if status.next != Some(machine_slot(target)) {
            let next = status
                .next
                .map_or_else(|| "neither slot".to_owned(), |slot: Slot| format!("slot {slot}"));
            return Err(CliError::Failed {
                word: "NotArmed",
                text: format!("slot {target} was armed, but the loader would boot {next}"),
            });
        }
        if reboot {
            self.guard
                .ask(&Request::Reboot {
                    attempt: attempt.to_owned(),
                })
                .await?;
        }
        Ok(armed_answer(attempt, target, record, reboot))
    }

    /// Marks the running slot good, after the required checks.
    pub(super) async fn mark_running_good(
        &self,
        status: &GuardStatus,
        record: Option<&SlotRecord>,
    ) -> Result<(), CliError> {
        let floor = highest_floor(record.and_then(|r| r.floor.as_ref()), status.floor.as_ref());
        let good = GoodRequest {
            attempt: root_attempt(),
            digest: record.map_or_else(|| "unknown".to_owned(), |record| record.release.to_string()),
            floor: floor.map(|floor| floor.to_string()),
        };
        self.follow(Request::MarkGood(good)).await.map(|_| ())
    }
}

fn armed_answer(attempt: &str, target: SlotName, record: &SlotRecord, rebooting: bool) -> Answer {
    let (version, release) = (&record.version, record.release.to_string());
    let then = if rebooting {
        "the node reboots now"
    } else {
        "reboot to try it, or `disarm`"
    };
    Answer {
        text: format!(
            "slot {target} is armed with release {version} ({}); {then}\nattempt {attempt}\n",
            short(&release)
        ),
        json: json!({ "attempt": attempt, "slot": target, "release": release, "rebooting": rebooting }),
    }
}

fn root_attempt() -> String {
    format!("root-{}", uuid::Uuid::new_v4())
}
