//! Steps Granted and TakingBack: the node may reboot, is on trial, has come back, or has not. After the
//! reboot the attempt ends by its own copied deadlines, whatever becomes of policy, window, pause or halt.

use drydock_api::{Ask, AttemptClass, Decision, DockMark, DockStep, Outcome, Verdict, agent_state, outcome};
use jiff::Timestamp;

use super::{Case, Step, policy_holds, release_holds, unknown_agent};
use crate::{
    action::{Action, ObjectRef, SpecChange},
    phase::Phase,
    reason::{Note, Reason},
    records,
    windows::add,
};

impl Case<'_, '_> {
    fn report(&self) -> Option<&Outcome> {
        records::report(self.upgrade, &self.dock.attempt)
    }

    pub(super) fn report_is(&self, states: &[&str]) -> bool {
        self.report()
            .is_some_and(|report| states.contains(&report.state.as_str()))
    }

    /// The boot that was granted its end is over, by what the Node or the agent says.
    pub(super) fn rebooted(&self) -> bool {
        let old = self.dock.boot_id.as_str();
        let differs = |boot: &str| !old.is_empty() && !boot.is_empty() && boot != old;
        differs(&self.node.boot_id)
            || self.status.boot_id.as_deref().is_some_and(differs)
            || self.report_is(&[
                outcome::TRYING,
                outcome::GOING_BACK,
                outcome::COMMITTED,
                outcome::FAILED,
                outcome::UNCONFIRMED,
                outcome::STUCK,
            ])
    }

    /// The Node was Ready when it was granted its reboot, and is not any more.
    pub(super) fn went_down(&self) -> bool {
        let lost = self.node.ready_since.filter(|_| !self.node.is_ready());
        lost.zip(self.dock.granted)
            .is_some_and(|(lost, granted)| lost >= granted)
    }

    pub(super) fn granted(&self) -> Step {
        if let Some(step) = self.over().or_else(|| self.cordon_again()) {
            return step;
        }
        if self.rebooted() {
            return self.judge_rebooted();
        }
        let not_after = self.dock.not_after.unwrap_or(self.dock.since);
        if let Some(why) = self.take_back_reason(not_after) {
            let now = self.now();
            let action = self.write(SpecChange::TakeBack(why.reason), |spec| {
                spec.grant = None;
                spec.stage = false;
                if let Some(dock) = &mut spec.dock {
                    dock.step = DockStep::TakingBack;
                    dock.since = now;
                    dock.why = Some(why.reason.name().to_owned());
                }
            });
            return Step::act(Phase::TakingBack, why, action);
        }
        let phase = self.phase_by_agent();
        let reason = match phase {
            Phase::Rebooting => Reason::Rebooting,
            _ => Reason::Granted,
        };
        Step::wait(phase, Note::new(reason, format!("until {not_after}"))).until(not_after)
    }

    pub(super) fn taking_back(&self) -> Step {
        if let Some(step) = self.over().or_else(|| self.cordon_again()) {
            return step;
        }
        if self.rebooted() {
            return self.judge_rebooted();
        }
        let now = self.now();
        let why = self.why().unwrap_or(Reason::GrantOver);
        if let Some(Ok(Ask::Release { attempt })) = &self.node.ask
            && *attempt == self.dock.attempt
            && why != Reason::Released
        {
            let action = self.write_dock(SpecChange::TakeBack(Reason::Released), |dock| {
                dock.why = Some(Reason::Released.name().to_owned());
            });
            return Step::act(Phase::TakingBack, Reason::Released, action);
        }
        let class = if why == Reason::Released {
            AttemptClass::Released
        } else {
            AttemptClass::NotTried
        };
        let quiet = !self.report_is(&[outcome::ARMED, outcome::TRYING])
            && self.status.agent_state.as_deref() != Some(agent_state::REBOOTING)
            && unknown_agent(&self.status).is_none();
        let same_boot = self.dock.boot_id.is_empty()
            || self.status.boot_id.as_deref() == Some(self.dock.boot_id.as_str());
        if self.answered() && quiet && same_boot {
            return self.leave(Phase::TakingBack, why, class);
        }
        let limit = add(
            self.dock.not_after.unwrap_or(self.dock.since),
            self.scene.world.timings.margin,
        );
        // A node that nobody hears of may have rebooted in the last moment: its silence ends nothing.
        if now >= limit && (self.node.is_ready() || class == AttemptClass::Released) {
            return self.leave(Phase::TakingBack, why, class);
        }
        if now >= limit && now >= self.deadline() {
            return self.not_back(self.deadline());
        }
        let phase = match self.phase_by_agent() {
            Phase::Rebooting => Phase::Rebooting,
            _ => Phase::TakingBack,
        };
        Step::wait(
            phase,
            Note::new(Reason::TakingBack, format!("{why}, until {limit}")),
        )
        .until(if now < limit { limit } else { self.deadline() })
    }

    pub(super) fn why(&self) -> Option<Reason> {
        self.dock.why.as_deref()?.parse().ok()
    }

    fn deadline(&self) -> Timestamp {
        add(
            self.dock.granted.unwrap_or(self.dock.since),
            self.dock.deadlines.health.duration(),
        )
    }

    /// What ends an attempt at this step whatever else holds: it committed, or a person lets the node go.
    fn over(&self) -> Option<Step> {
        if let Some(report) = self.report()
            && report.state == outcome::COMMITTED
            && report.digest == self.digest()
            && super::reported(self.upgrade)
        {
            return Some(self.leave(Phase::Committed, Reason::Committed, AttemptClass::Committed));
        }
        match &self.node.ask {
            Some(Ok(Ask::Release { attempt })) if *attempt == self.dock.attempt && self.rebooted() => {
                Some(self.leave(Phase::Leaving, Reason::Released, AttemptClass::Released))
            }
            _ => None,
        }
    }

    /// An attempt that was built again has no cordon noted: it gets one, and the note.
    fn cordon_again(&self) -> Option<Step> {
        if self.dock.cordoned.is_some() {
            return None;
        }
        let now = self.now();
        if self.node.mark_of(&self.dock.attempt).is_some() {
            let action = self.write_dock(SpecChange::Rebuild, |dock| dock.cordoned = Some(now));
            return Some(Step::act(self.phase_by_agent(), Reason::Rebuilding, action));
        }
        let cordon = Action::CordonNode {
            node: ObjectRef::of_node(self.node),
            mark: DockMark {
                attempt: self.dock.attempt.clone(),
                policy: self.dock.policy.clone(),
                kept: self.kept(),
            },
            term: self.scene.world.term,
        };
        Some(Step::act(self.phase_by_agent(), Reason::Rebuilding, Some(cordon)))
    }

    /// Whether the Node was unschedulable before Drydock came: a mark of another attempt knows it.
    fn kept(&self) -> bool {
        match &self.node.mark {
            Some(Ok(mark)) => mark.kept,
            Some(Err(_)) | None => self.node.unschedulable,
        }
    }

    /// Why a grant that was not yet used must not be used any more.
    fn take_back_reason(&self, not_after: Timestamp) -> Option<Note> {
        if self.now() >= not_after {
            return Some(Reason::GrantOver.into());
        }
        if self.upgrade.spec.grant.is_none() {
            return Some(Reason::GrantLost.into());
        }
        if let Some(report) = self.report()
            && report.state == outcome::NOT_TRIED
        {
            let text = report.text.clone().or(report.code.clone()).unwrap_or_default();
            return Some(Note::new(Reason::GrantRefused, text));
        }
        match &self.node.ask {
            Some(Ok(Ask::Cancel { attempt })) if *attempt == self.dock.attempt => {
                return Some(Reason::Canceled.into());
            }
            Some(Ok(Ask::Release { attempt })) if *attempt == self.dock.attempt => {
                return Some(Reason::Released.into());
            }
            _ => {}
        }
        let policy = match policy_holds(self.scene, self.node, &self.dock.policy) {
            Ok(policy) => policy,
            Err(note) => return Some(note),
        };
        release_holds(self.scene, policy, self.upgrade, &self.dock.digest)
            .err()
            .filter(|note| {
                matches!(
                    note.reason,
                    Reason::Halted | Reason::Withdrawn | Reason::FailedHere
                )
            })
    }

    fn judge_rebooted(&self) -> Step {
        if let Some(note) = unknown_agent(&self.status) {
            return Step::wait(self.late_phase(), note);
        }
        if let Some(step) = self.back() {
            return step;
        }
        if let Some(step) = self.confirm() {
            return step;
        }
        let deadline = self.deadline();
        if self.now() >= deadline {
            return self.past_deadline(deadline);
        }
        let phase = match self.phase_by_agent() {
            Phase::Granted | Phase::TakingBack => Phase::Rebooting,
            phase => phase,
        };
        let reason = match phase {
            Phase::Checking => Reason::OnTrial,
            Phase::Confirming => Reason::Confirming,
            Phase::GoingBack => Reason::GoingBack,
            _ => Reason::Rebooting,
        };
        Step::wait(phase, Note::new(reason, format!("until {deadline}"))).until(deadline)
    }

    /// Agent and Node speak of the same, new boot.
    pub(super) fn same_new_boot(&self) -> bool {
        !self.node.boot_id.is_empty()
            && self.node.boot_id != self.dock.boot_id
            && self.status.boot_id.as_deref() == Some(self.node.boot_id.as_str())
    }

    /// PROTOCOL 12: back on the old release, and Ready.
    fn back(&self) -> Option<Step> {
        let running = self.status.running.as_deref();
        let digest = self.digest();
        let elsewhere = running.is_some_and(|running| running != digest);
        if !self.node.is_ready() || !self.same_new_boot() || !elsewhere || !super::reported(self.upgrade) {
            return None;
        }
        let Some(report) = self.report() else {
            return self.back_without_report(&digest);
        };
        if !self.report_is(&[outcome::FAILED, outcome::UNCONFIRMED, outcome::NOT_TRIED]) {
            return None;
        }
        let (class, code) = records::class_of(
            self.scene.world,
            self.node,
            self.upgrade,
            report,
            self.dock.granted,
        );
        Some(self.leave_with(Phase::GoingBack, reason_of(class), class, code))
    }

    /// The journal was lost: back, and nobody knows why.
    fn back_without_report(&self, digest: &str) -> Option<Step> {
        let at_rest = matches!(
            self.status.agent_state.as_deref(),
            Some(agent_state::IDLE | agent_state::STAGING | agent_state::STAGED | agent_state::FAILED)
        );
        if !self.answered() || !at_rest {
            return None;
        }
        let class = records::unconfirmed(
            self.scene.world,
            self.node,
            self.upgrade,
            digest,
            self.dock.granted,
        );
        Some(self.leave_with(
            Phase::GoingBack,
            reason_of(class),
            class,
            Some("NoReport".to_owned()),
        ))
    }

    /// PROTOCOL 11: the verdict, where the Node is Ready in a new boot on the release.
    fn confirm(&self) -> Option<Step> {
        let digest = self.digest();
        let ready = self.node.is_ready()
            && self.same_new_boot()
            && self.status.running.as_deref() == Some(digest.as_str())
            && self.status.agent_state.as_deref() == Some(agent_state::CONFIRMING)
            && super::reported(self.upgrade);
        if !ready {
            return None;
        }
        let given = self
            .upgrade
            .spec
            .verdict
            .as_ref()
            .filter(|verdict| verdict.attempt == self.dock.attempt);
        match given.map(|verdict| verdict.decision) {
            Some(Decision::GoBack) if !self.report_is(&[outcome::STUCK]) => return None,
            Some(Decision::Confirm) if given.is_some_and(|verdict| verdict.boot_id == self.node.boot_id) => {
                return None;
            }
            _ => {}
        }
        if let Some(note) = self.scene.stale.first() {
            return Some(Step::wait(Phase::Confirming, note.clone()));
        }
        Some(Step::act(
            Phase::Confirming,
            Reason::Confirming,
            self.verdict(Decision::Confirm, digest),
        ))
    }

    pub(super) fn verdict(&self, decision: Decision, digest: String) -> Option<Action> {
        let boot_id = self
            .status
            .boot_id
            .clone()
            .unwrap_or_else(|| self.node.boot_id.clone());
        self.write(SpecChange::Verdict, |spec| {
            spec.verdict = Some(Verdict {
                attempt: self.dock.attempt.clone(),
                boot_id,
                digest,
                decision,
            });
        })
    }
}

fn reason_of(class: AttemptClass) -> Reason {
    match class {
        AttemptClass::Committed => Reason::Committed,
        AttemptClass::Failed => Reason::Failed,
        AttemptClass::Unconfirmed => Reason::Unconfirmed,
        AttemptClass::Excused => Reason::Excused,
        AttemptClass::NotTried => Reason::NotTried,
        AttemptClass::Released => Reason::Released,
    }
}
