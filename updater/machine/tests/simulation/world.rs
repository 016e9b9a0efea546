//! The model world of one node, and what must hold in it after every event.

mod acts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use drydock_machine::{Effect, Event, Journal, Origin, Phase, Seen, Slot, SlotSeen, Timing, latest, step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    GptPrio,
    Vboot,
    GptPriority,
}

impl Loader {
    fn bootable(self, bits: &SlotSeen) -> bool {
        bits.priority > 0 && (self == Self::GptPriority || bits.tries > 0 || bits.successful)
    }

    fn next(self, a: &SlotSeen, b: &SlotSeen) -> Option<Slot> {
        match (self.bootable(a), self.bootable(b)) {
            (true, true) if b.priority > a.priority => Some(Slot::B),
            (true, _) => Some(Slot::A),
            (false, true) => Some(Slot::B),
            (false, false) => None,
        }
    }

    fn takes(self, bits: &mut SlotSeen) {
        match self {
            Self::GptPrio => bits.tries = bits.tries.saturating_sub(1),
            Self::Vboot if !bits.successful && bits.tries > 1 => bits.tries -= 1,
            Self::Vboot if !bits.successful => (bits.tries, bits.priority) = (0, 0),
            Self::Vboot | Self::GptPriority => {}
        }
    }
}

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// What the release under trial is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Good,
    FailsChecks,
    NeverStarts,
}

/// Killed, or the power went: the rest of the act does not happen.
pub struct Died;

pub struct World {
    dice: Dice,
    faults: bool,
    pub loader: Loader,
    pub release: Release,
    a: SlotSeen,
    b: SlotSeen,
    running: Slot,
    boot: u64,
    now: Duration,
    disk: Option<String>,
    alive: bool,
    checks: bool,
    /// Facts to hold the machine against.
    attempts: u64,
    grants: BTreeMap<String, (u64, Duration)>,
    granted_reboots: BTreeMap<String, BTreeSet<u64>>,
    trial_boots: BTreeMap<String, BTreeSet<u64>>,
    passed: BTreeSet<u64>,
    confirmed: BTreeSet<(String, u64)>,
    pub log: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let loader = [Loader::GptPrio, Loader::Vboot, Loader::GptPriority][dice.roll(3) as usize];
        let release = [
            Release::Good,
            Release::Good,
            Release::FailsChecks,
            Release::NeverStarts,
        ][dice.roll(4) as usize];
        let good = SlotSeen {
            priority: 2,
            successful: true,
            record: Some(digest(0)),
            ..SlotSeen::default()
        };
        Self {
            dice,
            faults: true,
            loader,
            release,
            a: good,
            b: SlotSeen {
                record: Some(digest(1)),
                ..SlotSeen::default()
            },
            running: Slot::A,
            boot: 1,
            now: Duration::from_secs(30),
            disk: None,
            alive: false,
            checks: false,
            attempts: 0,
            grants: BTreeMap::new(),
            granted_reboots: BTreeMap::new(),
            trial_boots: BTreeMap::new(),
            passed: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    pub fn journal(&self) -> Journal {
        self.disk
            .as_ref()
            .map(|text| serde_json::from_str(text).unwrap())
            .unwrap_or_default()
    }

    pub fn seen(&self) -> Seen {
        let with = |bits: &SlotSeen| SlotSeen {
            bootable: self.loader.bootable(bits),
            ..bits.clone()
        };
        Seen {
            boot_id: self.boot_id(),
            running: Some(self.running),
            running_digest: self.slot(self.running).record.clone(),
            a: with(&self.a),
            b: with(&self.b),
            next: self.loader.next(&self.a, &self.b),
            loader_counts: self.loader != Loader::GptPriority,
            checks_running: self.checks,
            now: self.now,
        }
    }

    fn slot(&self, slot: Slot) -> &SlotSeen {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut SlotSeen {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }

    fn set(&mut self, slot: Slot, priority: u8, tries: u8, successful: bool) {
        let bits = self.slot_mut(slot);
        (bits.priority, bits.tries, bits.successful) = (priority, tries, successful);
    }

    fn fate(&mut self, sides: u64) -> Result<(), Died> {
        if self.faults && self.dice.roll(sides) == 0 {
            Err(Died)
        } else {
            Ok(())
        }
    }

    /// A disk that takes its time, a process that waits for a CPU.
    fn stall(&mut self) {
        if self.faults && self.dice.roll(20) == 0 {
            self.now += Duration::from_secs(self.dice.roll(1_200));
        }
    }

    /// The guard's shell, as `updater/src/guard` has it: journal, effect, what follows.
    fn happen(&mut self, event: Event) -> bool {
        if !self.alive {
            return false;
        }
        self.log
            .push(format!("{} {:?} {event:?}", self.boot_id(), self.now));
        let mut events = VecDeque::from([event]);
        let mut accepted = true;
        while let Some(event) = events.pop_front() {
            match self.one(event, &mut events) {
                Ok(ok) => accepted &= ok,
                Err(Died) => {
                    self.log.push("killed".to_owned());
                    (self.alive, self.checks) = (false, false);
                    return false;
                }
            }
            if !self.alive {
                return false;
            }
        }
        accepted
    }

    fn one(&mut self, event: Event, events: &mut VecDeque<Event>) -> Result<bool, Died> {
        let before = self.journal();
        let done = step(&before, &self.seen(), &Timing::default(), event);
        self.hold(&before, &done.journal);
        if done.journal != before {
            self.fate(40)?;
            self.disk = Some(serde_json::to_string(&done.journal).unwrap());
            self.fate(40)?;
            self.stall();
        }
        if let Some(effect) = done.effect {
            let outcome = self.perform(effect, &done.journal)?;
            self.fate(40)?;
            if !self.alive {
                return Ok(true);
            }
            events.push_back(outcome);
        }
        Ok(done.refused.is_none())
    }

    fn perform(&mut self, effect: Effect, journal: &Journal) -> Result<Event, Died> {
        if latest(journal, &self.boot_id(), effect).is_some_and(|end| self.now >= end) {
            self.log.push(format!("  too late: {effect:?}"));
            return Ok(Event::TooLate(effect));
        }
        self.log.push(format!("  {effect:?}"));
        let current = journal.current.as_ref();
        if effect != Effect::RunChecks && self.faults && self.dice.roll(12) == 0 {
            return Ok(Event::EffectFailed {
                effect,
                text: "the disk is full".to_owned(),
            });
        }
        match effect {
            Effect::ArmSlot { target, running } => {
                let attempt = current.unwrap();
                let (boot, until) = self.grants[&attempt.name];
                assert!(
                    boot == self.boot && self.now < until,
                    "S3: armed without a valid grant"
                );
                assert!(
                    self.slot(running).successful,
                    "S14: the running slot was not good"
                );
                let tries = if self.loader == Loader::GptPriority { 0 } else { 2 };
                self.set(target, 2, tries, false);
                self.slot_mut(running).priority = 1;
            }
            Effect::Disarm {
                target,
                running,
                was_good,
            } => {
                assert!(self.slot(running).successful, "S14: disarm leaves no good slot");
                self.set(target, u8::from(was_good), 0, was_good);
                self.slot_mut(running).priority = 2;
            }
            Effect::MarkGood { slot } => {
                let attempt = current.unwrap();
                assert_eq!(slot, self.running);
                if attempt.origin == Origin::Cluster {
                    assert!(
                        self.passed.contains(&self.boot),
                        "S4: marked good before the checks passed"
                    );
                    let heard = self.confirmed.contains(&(attempt.name.clone(), self.boot));
                    assert!(heard, "S4: marked good without the word for this boot");
                }
                self.set(slot, 2, 0, true);
                let other = self.slot_mut(slot.other());
                other.priority = other.priority.min(1);
            }
            Effect::GoBack { to, running } => {
                assert!(
                    self.slot(to).successful && self.seen().slot(to).bootable,
                    "S5: no way back"
                );
                self.set(to, 2, 0, true);
                let good = self.slot(running).successful;
                let priority = if good { 1 } else { 0 };
                self.set(running, priority, 0, good);
            }
            Effect::Reboot => {
                let attempt = current.unwrap();
                if attempt.phase == Phase::Used && self.running != attempt.target {
                    let boots = self.granted_reboots.entry(attempt.name.clone()).or_default();
                    boots.insert(self.boot);
                    assert_eq!(boots.len(), 1, "S3: two reboots for one grant");
                    let (boot, until) = self.grants[&attempt.name];
                    assert!(
                        boot == self.boot && self.now < until,
                        "S3: rebooted without a valid grant"
                    );
                }
                self.power_cycle();
            }
            Effect::RunChecks => {
                self.checks = true;
                let attempt = current.unwrap();
                assert_eq!(attempt.target, self.running);
                if matches!(attempt.phase, Phase::Trying) {
                    let boots = self.trial_boots.entry(attempt.name.clone()).or_default();
                    boots.insert(self.boot);
                    assert!(boots.len() <= 2, "a third trial boot");
                }
            }
        }
        self.always();
        Ok(Event::EffectDone(effect))
    }

    /// What holds at every moment.
    fn always(&self) {
        let seen = self.seen();
        let good = Slot::BOTH
            .iter()
            .any(|slot| seen.slot(*slot).successful && seen.slot(*slot).bootable);
        assert!(good, "S5: no slot that is known to boot is left");
        assert!(seen.next.is_some(), "S5: the loader finds nothing");
    }

    /// What holds between two journals.
    fn hold(&self, before: &Journal, after: &Journal) {
        if let Some(current) = &after.current {
            let armed = matches!(current.phase, Phase::Armed { .. });
            assert!(
                !(armed && before.is_spent(&current.name)),
                "a spent name is armed again"
            );
            assert!(current.trials.len() <= 2);
        }
        assert!(after.ended.len() <= 32 && after.failed.len() <= 32);
    }

    fn power_cycle(&mut self) {
        for _ in 0..6 {
            self.boot += 1;
            self.now = Duration::from_secs(5 + self.dice.roll(60));
            (self.alive, self.checks) = (false, false);
            let next = self.loader.next(&self.a, &self.b).expect("S5: nothing boots");
            let loader = self.loader;
            loader.takes(self.slot_mut(next));
            self.running = next;
            let trial = !self.slot(next).successful;
            // A board's watchdog ends a boot that never comes up; without counted tries nothing else helps.
            if !(trial && self.release == Release::NeverStarts && self.loader != Loader::GptPriority) {
                break;
            }
        }
        self.log.push(format!("boot {} into {}", self.boot, self.running));
    }
}

pub fn digest(n: u8) -> String {
    format!("sha256:{}", format!("{n:02x}").repeat(32))
}
