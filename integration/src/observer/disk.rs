//! What is checked when a disk is written, a node boots, or a reboot is called.

use jiff::Timestamp;

use super::{Content, Invariant, NodeMemory, Observer, Place, SlotId, TableView};

impl Observer {
    pub(super) fn see_device_write(
        &mut self,
        now: Timestamp,
        node: &str,
        place: Place,
        offset: u64,
        len: u64,
    ) {
        let memory = self.nodes.entry(node.to_owned()).or_default().clone();
        let running = memory.running.as_ref().map(|(slot, _)| *slot);
        let allowed = match place {
            Place::Slot(slot) => running.is_some_and(|running| running != slot),
            Place::Table => true,
            Place::Elsewhere => false,
        };
        self.check(now, Invariant::S1, allowed, || {
            format!("{node}: {len} bytes at {offset} went to {place:?} while {running:?} was running")
        });
        let (Place::Slot(slot), Some(table)) = (place, &memory.table) else {
            return;
        };
        if running == Some(slot) {
            return;
        }
        let good = table.bits(slot.other()).successful;
        self.check(now, Invariant::S14, good, || {
            format!("{node}: slot {slot} is overwritten while the running one is not marked good")
        });
        let bits = table.bits(slot);
        self.check(now, Invariant::S5, bits.priority == 0, || {
            format!("{node}: slot {slot} is overwritten while the loader could boot it ({bits:?})")
        });
    }

    pub(super) fn see_table(
        &mut self,
        now: Timestamp,
        node: &str,
        table: Option<TableView>,
        other: &Content,
    ) {
        let memory = self.nodes.entry(node.to_owned()).or_default().clone();
        let Some(table) = table else {
            self.check(now, Invariant::S5, false, || {
                format!("{node}: neither copy of the table is whole")
            });
            return;
        };
        if memory.table.as_ref() == Some(&table) {
            return;
        }
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.table = Some(table.clone());
        }
        let (Some(before), Some((running, content))) = (memory.table.clone(), memory.running.clone()) else {
            return;
        };
        self.check(now, Invariant::S1, before.rest == table.rest, || {
            format!("{node}: more than the loader's bits of the slots changed in the partition table")
        });
        let next_content = match table.next {
            Some(next) if next == running => Some(&content),
            Some(_) => Some(other),
            None => None,
        };
        let boots = matches!(next_content, Some(Content::Release(_)));
        self.check(now, Invariant::S5, boots, || {
            format!(
                "{node}: the loader would now boot {:?}, which holds {next_content:?}",
                table.next
            )
        });
        self.check_way_back(now, node, running, &before, &table);
        if table.next == Some(running.other()) && before.next != table.next && before.bits(running).successful
        {
            self.check_arming(now, node, running.other(), other);
        }
        if table.bits(running).successful && !before.bits(running).successful {
            self.check_marked_good(now, node, &memory, &content);
        }
    }

    /// S14: while the running slot is not marked good, the other one keeps its bits.
    fn check_way_back(
        &mut self,
        now: Timestamp,
        node: &str,
        running: SlotId,
        before: &TableView,
        after: &TableView,
    ) {
        let (was, is) = (before.bits(running.other()), after.bits(running.other()));
        let lowered = is.priority < was.priority || (was.successful && !is.successful);
        if lowered {
            let good = before.bits(running).successful;
            self.check(now, Invariant::S14, good, || {
                format!(
                    "{node}: slot {} went from {was:?} to {is:?} on trial",
                    running.other()
                )
            });
        }
    }

    fn check_arming(&mut self, now: Timestamp, node: &str, slot: SlotId, content: &Content) {
        let grant = self.grant_stands(now, node);
        let why = grant.as_ref().err().cloned();
        self.check(now, Invariant::S3, why.is_none(), || {
            format!("{node}: slot {slot} was armed, but {}", why.unwrap_or_default())
        });
        let Ok(grant) = grant else { return };
        let right =
            *content == Content::Release(grant.digest.clone()) && self.release(&grant.digest).is_some();
        self.check(now, Invariant::S2, right, || {
            format!(
                "{node}: slot {slot} was armed for {} and holds {content:?}",
                grant.digest
            )
        });
    }

    fn check_marked_good(&mut self, now: Timestamp, node: &str, memory: &NodeMemory, content: &Content) {
        let Content::Release(running) = content else {
            self.check(now, Invariant::S4, false, || {
                format!("{node}: an unknown system was marked good")
            });
            return;
        };
        let healthy = self.release(running).is_some_and(|release| release.healthy);
        let confirmed = memory.verdict.as_ref().is_some_and(|verdict| {
            verdict.decision == drydock_api::Decision::Confirm
                && verdict.boot_id == memory.boot_id
                && verdict.digest == *running
        });
        self.check(now, Invariant::S4, healthy && confirmed, || {
            format!(
                "{node}: {running} was marked good in boot {}; healthy: {healthy}, verdict: {:?}",
                memory.boot_id, memory.verdict
            )
        });
    }

    pub(super) fn see_boot(
        &mut self,
        now: Timestamp,
        node: &str,
        boot_id: String,
        slot: SlotId,
        content: Content,
        table: TableView,
    ) {
        let known = matches!(&content, Content::Release(digest) if self.release(digest).is_some());
        self.check(now, Invariant::S5, known, || {
            format!("{node} booted slot {slot}, which holds {content:?}")
        });
        let memory = self.nodes.entry(node.to_owned()).or_default();
        memory.boot_id = boot_id;
        memory.running = Some((slot, content));
        memory.table = Some(table);
    }

    pub(super) fn see_reboot(&mut self, now: Timestamp, node: &str) {
        let memory = self.nodes.entry(node.to_owned()).or_default();
        let (Some(table), Some((running, _))) = (&memory.table, &memory.running) else {
            return;
        };
        // Going back asks no grant.
        if !table.bits(*running).successful {
            return;
        }
        let armed = table.next == Some(running.other());
        let why = match self.grant_stands(now, node) {
            Ok(_) if armed => None,
            Ok(_) => Some("nothing is armed".to_owned()),
            Err(why) => Some(why),
        };
        self.check(now, Invariant::S3, why.is_none(), || {
            format!("{node} is rebooted, but {}", why.unwrap_or_default())
        });
    }
}
