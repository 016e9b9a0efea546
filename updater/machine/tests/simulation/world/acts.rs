//! What befalls the node: orders of agent and coordinator, right and wrong, kills, power cuts, time.

use std::time::Duration;

use drydock_machine::{ArmRequest, Event, Origin, Verdict, Word};

use super::{Release, World};

const WAIT: Duration = Duration::from_secs(900);

impl World {
    fn grant(&mut self) {
        self.attempts += 1;
        let name = format!("a1-{}-0", self.attempts);
        self.grants
            .insert(name.clone(), (self.boot, self.now + Duration::from_secs(600)));
        self.ask_arm(&name);
    }

    fn ask_arm(&mut self, name: &str) {
        let target = self.running.other();
        let (boot, until) = self.grants[name];
        if boot != self.boot || self.now >= until {
            return;
        }
        let digest = self.slot(target).record.clone().unwrap();
        let counted_at = self.now;
        // The way from the API server's answer to the guard.
        self.stall();
        self.happen(Event::Arm(ArmRequest {
            attempt: name.to_owned(),
            digest,
            origin: Origin::Cluster,
            target,
            remaining: Some(until - counted_at),
            counted_at: Some(counted_at),
            confirm_wait: WAIT,
            floor: None,
        }));
    }

    fn word(&mut self, word: Word, right: bool) {
        let Some(current) = self.journal().current else {
            return;
        };
        let boot = if right { self.boot } else { self.boot - 1 };
        let verdict = Verdict {
            attempt: current.name.clone(),
            boot_id: format!("boot-{boot}"),
            digest: current.digest.clone(),
            word,
        };
        if word == Word::Confirm && right {
            self.confirmed.insert((current.name.clone(), self.boot));
        }
        self.happen(Event::Verdict(verdict));
    }

    fn finish_checks(&mut self) {
        if !self.checks || !self.alive {
            return;
        }
        self.checks = false;
        if self.release == Release::FailsChecks && !self.slot(self.running).successful {
            self.happen(Event::ChecksFailed {
                text: "kubelet is down".to_owned(),
            });
        } else {
            self.passed.insert(self.boot);
            self.happen(Event::ChecksPassed);
        }
    }

    fn start_guard(&mut self) {
        let up = self.slot(self.running).successful || self.release != Release::NeverStarts;
        if !self.alive && up {
            self.alive = true;
            self.happen(Event::Started);
        }
    }

    pub fn random_act(&mut self) {
        let last = format!("a1-{}-0", self.attempts);
        match self.dice.roll(16) {
            0 | 1 => self.grant(),
            2 if self.attempts > 0 => self.ask_arm(&last),
            3 | 4 => {
                self.happen(Event::Reboot { attempt: last });
            }
            5 => {
                self.happen(Event::Disarm { attempt: last });
            }
            6 => self.word(Word::Confirm, true),
            7 => self.word(Word::Confirm, false),
            8 if self.dice.roll(4) == 0 => self.word(Word::GoBack, true),
            9 | 10 => self.finish_checks(),
            11 => {
                self.log.push("kill".to_owned());
                (self.alive, self.checks) = (false, false);
            }
            12 if self.dice.roll(4) == 0 => {
                self.log.push("power cut".to_owned());
                self.power_cycle();
            }
            13 => {
                self.now += Duration::from_secs(self.dice.roll(1_200));
                self.happen(Event::Tick);
            }
            14 if self.dice.roll(3) == 0 => {
                let failed = self.journal().failed.iter().map(|f| f.attempt.clone()).collect();
                self.happen(Event::Forgive { attempts: failed });
            }
            _ => self.start_guard(),
        }
        self.always();
    }

    /// No more faults, no more orders: time passes, the guard runs.
    pub fn heal(&mut self) {
        self.faults = false;
        for _ in 0..60 {
            if self.release == Release::NeverStarts && !self.slot(self.running).successful {
                // gptpriority: a person has to boot the other slot by hand.
                self.running = self.running.other();
                self.boot += 1;
                (self.alive, self.checks) = (false, false);
            }
            self.start_guard();
            self.finish_checks();
            self.now += Duration::from_secs(1_000);
            self.happen(Event::Tick);
            if self.alive && self.journal().current.is_none() {
                return;
            }
        }
        panic!("no outcome: {:#?}", self.journal().current);
    }
}
