//! A node's machine as the protocol describes it: slots, journal, guard and agent in a few fields.

use drydock_api::{Decision, FailedDigest, NodeUpgrade, NodeUpgradeStatus, Outcome, agent_state, outcome};
use jiff::{SignedDuration, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    On,
    /// Off until then; then it boots.
    Off(Timestamp),
    Dead,
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    pub boots: u32,
    pub power: Power,
    pub running: String,
    pub good: bool,
    pub other: Option<String>,
    pub silent: bool,
    /// Loses power in its next trial, this many times.
    pub cuts: u32,
    /// Hears nothing in its trials.
    pub deaf: bool,
    /// Its kubelet is not up; from its next boot on.
    pub kubelet_down: bool,
    pub kubelet_down_next: bool,
    /// Never comes up on its trial boot.
    pub bricks: bool,
    pub journal: Option<Outcome>,
    pub used: Vec<String>,
    pub failed: Vec<FailedDigest>,
    not_after: Option<Timestamp>,
    wait_until: Option<Timestamp>,
    /// What it ran before its trial.
    old: Option<String>,
    pub trials: Vec<String>,
}

pub const BOOT_SECS: i64 = 40;

impl Machine {
    pub fn new(name: &str, running: &str) -> Self {
        Self {
            name: name.to_owned(),
            boots: 1,
            power: Power::On,
            running: running.to_owned(),
            good: true,
            other: None,
            silent: false,
            cuts: 0,
            deaf: false,
            kubelet_down: false,
            kubelet_down_next: false,
            bricks: false,
            journal: None,
            used: Vec::new(),
            failed: Vec::new(),
            not_after: None,
            wait_until: None,
            old: None,
            trials: Vec::new(),
        }
    }

    pub fn boot_id(&self) -> String {
        format!("{}-boot{}", self.name, self.boots)
    }

    pub fn on(&self) -> bool {
        self.power == Power::On
    }

    pub fn ready(&self) -> bool {
        self.on() && !self.kubelet_down
    }

    fn state(&self) -> &str {
        self.journal.as_ref().map_or("", |journal| journal.state.as_str())
    }

    pub fn trying(&self) -> bool {
        self.state() == outcome::TRYING
    }

    pub fn armed(&self) -> bool {
        self.state() == outcome::ARMED
    }

    fn set(&mut self, state: &str, code: Option<&str>) {
        let boot = self.boot_id();
        if let Some(journal) = &mut self.journal {
            journal.state = state.to_owned();
            journal.code = code.map(str::to_owned);
            journal.boot_id = Some(boot);
        }
    }

    fn off(&mut self, now: Timestamp) {
        self.power = Power::Off(now + SignedDuration::from_secs(BOOT_SECS));
    }

    pub fn reboot_by_hand(&mut self, now: Timestamp) {
        if self.on() {
            self.off(now);
        }
    }

    /// The guard's and the loader's part.
    pub fn guard(&mut self, now: Timestamp, bad: &dyn Fn(&str) -> bool) {
        if let Power::Off(until) = self.power
            && now >= until
        {
            self.boot(now);
        }
        if !self.on() {
            return;
        }
        if self.armed() && self.not_after.is_some_and(|at| now >= at) {
            self.set(outcome::NOT_TRIED, Some("GrantOver"));
        }
        if self.trying() {
            if bad(&self.running) {
                self.go_back(now, outcome::FAILED, "HealthCheck");
            } else if self.cuts > 0 {
                self.cuts -= 1;
                self.go_back(now, outcome::UNCONFIRMED, "PowerCut");
            } else if self.wait_until.is_some_and(|at| now >= at) {
                self.go_back(now, outcome::UNCONFIRMED, "ConfirmTimeout");
            }
        }
    }

    fn boot(&mut self, now: Timestamp) {
        let armed_for = self
            .journal
            .as_ref()
            .filter(|journal| journal.state == "Used")
            .map(|journal| journal.digest.clone());
        if self.bricks && armed_for.is_some() {
            self.power = Power::Dead;
            return;
        }
        self.power = Power::On;
        self.kubelet_down |= std::mem::take(&mut self.kubelet_down_next);
        self.boots += 1;
        if let Some(digest) = armed_for {
            self.old = Some(std::mem::replace(&mut self.running, digest.clone()));
            self.good = false;
            self.trials.push(digest);
            self.set(outcome::TRYING, None);
            self.wait_until = Some(now + SignedDuration::from_secs(900));
        } else if self.armed() {
            self.set(outcome::NOT_TRIED, Some("Rebooted"));
        }
    }

    fn go_back(&mut self, now: Timestamp, state: &str, code: &str) {
        self.set(state, Some(code));
        if state == outcome::FAILED
            && let Some(journal) = &self.journal
        {
            self.failed.push(FailedDigest {
                digest: journal.digest.clone(),
                attempt: journal.attempt.clone(),
                code: code.to_owned(),
            });
        }
        if let Some(old) = self.old.take() {
            self.other = None;
            self.running = old;
            self.good = true;
        }
        self.off(now);
    }

    /// The agent's part: reads its object, acts, says what it would report. None: it does not report.
    pub fn agent(&mut self, now: Timestamp, object: Option<&NodeUpgrade>) -> Option<NodeUpgradeStatus> {
        if !self.on() || self.silent || (self.deaf && self.trying()) {
            return None;
        }
        let object = object?;
        self.forget(&object.spec.forgiven);
        self.stage(object);
        self.verdict(now, object);
        if !self.on() {
            return None;
        }
        let before = self.state().to_owned();
        self.grant(now, object, &before);
        if !self.on() {
            return None;
        }
        Some(self.report(object))
    }

    fn forget(&mut self, forgiven: &[String]) {
        self.failed.retain(|failed| !forgiven.contains(&failed.attempt));
        if self.journal.as_ref().is_some_and(|journal| {
            forgiven.contains(&journal.attempt)
                && (journal.state == outcome::FAILED || journal.state == outcome::UNCONFIRMED)
        }) {
            self.journal = None;
        }
    }

    fn stage(&mut self, object: &NodeUpgrade) {
        let busy = self.armed() || self.trying() || self.state() == "Used";
        if object.spec.stage
            && !busy
            && let Some(wish) = &object.spec.wish
            && wish.digest != self.running
        {
            assert!(self.good, "S14: {} staged while running is not good", self.name);
            self.other = Some(wish.digest.clone());
        }
    }

    fn verdict(&mut self, now: Timestamp, object: &NodeUpgrade) {
        if !self.trying() {
            return;
        }
        let Some(verdict) = &object.spec.verdict else {
            return;
        };
        let journal = self.journal.clone().unwrap();
        if verdict.attempt != journal.attempt {
            return;
        }
        match verdict.decision {
            Decision::Confirm if verdict.boot_id == self.boot_id() && verdict.digest == self.running => {
                self.good = true;
                self.other = self.old.take();
                self.set(outcome::COMMITTED, None);
            }
            Decision::Confirm => {}
            Decision::GoBack => self.go_back(now, outcome::FAILED, "CoordinatorGoBack"),
        }
    }

    fn grant(&mut self, now: Timestamp, object: &NodeUpgrade, before: &str) {
        let valid = object.spec.grant.as_ref().filter(|grant| {
            let dock = object.spec.dock.as_ref();
            dock.is_some_and(|dock| dock.attempt == grant.attempt && dock.digest == grant.digest)
                && grant.boot_id == self.boot_id()
                && Some(grant.digest.as_str()) == self.other.as_deref()
                && now < grant.not_after
        });
        if self.armed() {
            let same = valid.is_some_and(|grant| {
                self.journal
                    .as_ref()
                    .is_some_and(|journal| journal.attempt == grant.attempt)
            });
            if !same {
                self.set(outcome::NOT_TRIED, Some("NoGrant"));
            } else if before == outcome::ARMED {
                let attempt = self.journal.as_ref().unwrap().attempt.clone();
                self.used.push(attempt);
                self.set("Used", None);
                self.off(now);
            }
            return;
        }
        if let Some(grant) = valid
            && !self.used.contains(&grant.attempt)
            && self
                .journal
                .as_ref()
                .is_none_or(|journal| journal.attempt != grant.attempt)
        {
            self.journal = Some(Outcome {
                attempt: grant.attempt.clone(),
                digest: grant.digest.clone(),
                state: outcome::ARMED.to_owned(),
                boot_id: Some(self.boot_id()),
                code: None,
                text: None,
            });
            self.not_after = Some(grant.not_after);
        }
    }

    fn report(&self, object: &NodeUpgrade) -> NodeUpgradeStatus {
        let wish = object.spec.wish.as_ref().map(|wish| wish.digest.as_str());
        let state = match self.state() {
            outcome::ARMED => agent_state::ARMING,
            outcome::TRYING => agent_state::CONFIRMING,
            _ if self.other.is_some() && self.other.as_deref() == wish => agent_state::STAGED,
            _ => agent_state::IDLE,
        };
        NodeUpgradeStatus {
            observed_generation: object.metadata.generation,
            observed_uid: object.metadata.uid.clone(),
            agent_state: Some(state.to_owned()),
            boot_id: Some(self.boot_id()),
            running: Some(self.running.clone()),
            running_version: None,
            running_good: Some(self.good),
            staged: self.other.clone().filter(|other| Some(other.as_str()) == wish),
            attempt: self.journal.clone().filter(|journal| journal.state != "Used"),
            failed: self.failed.clone(),
            guard: Some("full".to_owned()),
            protocol: Some(1),
            ..NodeUpgradeStatus::default()
        }
    }
}
