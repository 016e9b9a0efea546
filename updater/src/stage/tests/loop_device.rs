//! Staging onto a real block device: a loop device with the kernel's own partition nodes. Needs root, and
//! says so where it does not run. The nodes are added one by one, as a kernel need not know GPT.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::super::*;
use super::fixture::{Fixture, Node, control, root_image};
use crate::disk::gate::OpenGate;
use crate::disk::sim::SimDisk;
use crate::disk::*;
use crate::state::StateDir;

/// Detached when dropped, also when the test fails.
struct LoopDevice {
    node: PathBuf,
    partitions: Vec<u32>,
}

fn succeeds(program: &str, arguments: &[&str], node: &Path, more: &[String]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .arg(node)
        .args(more)
        .status();
    status.is_ok_and(|status| status.success())
}

impl LoopDevice {
    fn attach(image: &Path, sector_bytes: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: loop devices need root");
            return None;
        }
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector_bytes.to_string()])
            .arg(image)
            .output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            eprintln!("SKIPPED: losetup gives no loop device here");
            return None;
        };
        let node = String::from_utf8(output.stdout).unwrap().trim().into();
        Some(Self {
            node,
            partitions: Vec::new(),
        })
    }

    /// Shows the kernel the partitions of the table; the node of the last one, or `None` with a word why.
    fn show_partitions(&mut self, table: &Table) -> Option<PathBuf> {
        let mut last = None;
        for partition in table.partitions() {
            let place = [
                u64::from(partition.number),
                partition.start_bytes / 512,
                partition.len_bytes / 512,
            ];
            if !succeeds(
                "addpart",
                &[],
                &self.node,
                &place.map(|number| number.to_string()),
            ) {
                eprintln!("SKIPPED in part: no partition nodes here, the whole device is written");
                return None;
            }
            self.partitions.push(partition.number);
            let mut node = self.node.clone().into_os_string();
            node.push(format!("p{}", partition.number));
            last = Some(PathBuf::from(node));
        }
        last.filter(|node| node.exists())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        for number in &self.partitions {
            succeeds("delpart", &[], &self.node, &[number.to_string()]);
        }
        if !succeeds("losetup", &["--detach"], &self.node, &[]) {
            eprintln!("{} is still attached", self.node.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_staged_onto_a_block_device_through_its_partition_nodes() {
    let fixture = Fixture::new(&[1, 2]).await;
    for sector_bytes in [512, 4096] {
        stages_onto(&fixture, sector_bytes).await;
    }
}

async fn stages_onto(fixture: &Fixture, sector_bytes: u64) {
    let path = |name: &str| fixture.path(&format!("{name}-{sector_bytes}"));
    let image = path("disk.img");
    std::fs::write(&image, fixture.disk_image_of(1, sector_bytes)).unwrap();
    let Some(mut device) = LoopDevice::attach(&image, sector_bytes) else {
        return;
    };
    let disk = Device::open(&device.node, Access::ReadWrite, Arc::new(OpenGate)).unwrap();
    assert_eq!(disk.raw().sector_bytes(), Some(sector_bytes));
    let control = control(disk);
    let state = StateDir::open(&path("state"), Arc::new(OpenGate)).unwrap();
    let sim = Node::on(fixture.disk_image(1), path("unused"), Arc::new(OpenGate));
    let job = || StageJob {
        control: control.clone(),
        state: state.clone(),
        ..fixture.job(2, &sim)
    };
    let run = |job| stage(job, super::fixture::now(), Default::default());

    if let Some(root_b) = device.show_partitions(&Table::read(control.device()).unwrap()) {
        // Somebody has the target open for himself, as a mount does: refused before the first write.
        let held = FileDisk::open(&root_b, Access::ReadWriteExclusive).unwrap();
        let before = std::fs::read(&image).unwrap();
        let error = run(job()).await.unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        assert!(before == std::fs::read(&image).unwrap());
        drop(held);
    }
    let record = run(job()).await.unwrap();
    let again = read_back_async(control.clone(), SlotName::B, record.clone(), Default::default());
    again.await.unwrap();
    control.arm(SlotName::B, SlotName::A).unwrap();
    if let Some(kernel_b) = device.partitions.iter().position(|number| *number == 4) {
        // A kernel that does not know one of the partitions: its view is stale, nothing is opened.
        succeeds("delpart", &[], &device.node, &["4".to_owned()]);
        device.partitions.remove(kernel_b);
        let stale = read_back_async(control.clone(), SlotName::B, record, Default::default()).await;
        assert!(
            stale.unwrap_err().to_string().contains("partx"),
            "says what to do"
        );
    }
    drop((control, device));

    // What the image file holds once nothing is attached to it any more.
    let after = std::fs::read(&image).unwrap();
    let start = usize::try_from(sim.slots().b.artifact("root").unwrap().start_bytes).unwrap();
    assert!(after[start..start + root_image(2).len()] == root_image(2));
    let disk = Arc::new(SimDisk::new(after, sector_bytes));
    let state = Node::with(disk, path("reread"), Arc::new(OpenGate))
        .control
        .state()
        .unwrap();
    assert_eq!(
        (state.next, state.health),
        (Some(SlotName::B), GptHealth::Healthy)
    );
}
