//! What is wrong with the node: its disk, its configuration, what it was told to do.

use std::fs;

use drydock_updater::disk::layout::DiskLayout;

use super::releases::{replay, withdraw};
use super::{Begin, Row, STAGE, arm, stage};
use crate::real_node::{RealNode, TableCopy};

pub(super) fn disk_rows() -> Vec<Row> {
    let mut rows = vec![
        stage(
            "a disk without an expected partition",
            |node| {
                let mut layout = DiskLayout::cos_like(7, 1 << 20, 1 << 20, 1 << 20);
                layout.partitions.truncate(4);
                node.make_disk(&layout);
            },
            &["PARTLABEL=ROOT-B", "DIR/disk.img", "KERN-B"],
        ),
        stage(
            "a configuration that names no partition of the disk",
            |node| {
                node.configure(|text| text.replace("PARTLABEL=KERN-B", "PARTLABEL=KERN-C"));
            },
            &["PARTLABEL=KERN-C", "slots.B"],
        ),
        stage(
            "a disk with both copies of its table broken",
            |node| {
                node.break_table(TableCopy::Primary);
                node.break_table(TableCopy::Backup);
            },
            &["neither copy", "DIR/disk.img", "nothing is written"],
        ),
        Row {
            exit: 1,
            ..stage(
                "a disk that is not there",
                |node| fs::remove_file(node.path("disk.img")).unwrap(),
                &["DIR/disk.img", "disk.path"],
            )
        },
        stage(
            "the running slot as the target: slots that share a partition",
            |node| {
                node.configure(|text| text.replace("PARTLABEL=ROOT-B", "PARTLABEL=ROOT-A"));
            },
            &["same partition", "ROOT-A"],
        ),
        stage(
            "the running slot as the target: nobody says which slot runs",
            |node| node.runs("quiet ro"),
            &["names no partition", "drydock.slot="],
        ),
        stage(
            "the running slot as the target: both slots are said to run",
            |node| {
                node.runs("root=PARTLABEL=ROOT-A usr=PARTLABEL=ROOT-B");
            },
            &["both slots", "drydock.slot="],
        ),
        Row {
            begin: Begin::Installed,
            ..stage(
                "the other slot while the running one is not marked good",
                |_| {},
                &["slot A is not marked good", "mark-good"],
            )
        },
    ];
    for command in [
        &["status"][..],
        &["check"],
        STAGE,
        &["adopt"],
        &["arm"],
        &["disarm"],
        &["mark-good"],
        &["rollback"],
        &["forgive"],
    ] {
        let spoil = |node: &RealNode| {
            node.configure(|text| text.replace("[health]", "[health]\nconfrim_wait = \"1s\""))
        };
        rows.push(Row {
            command,
            ..stage(
                "a configuration with an unknown field",
                spoil,
                &["health.confrim_wait"],
            )
        });
    }
    rows
}

pub(super) fn arm_rows() -> Vec<Row> {
    vec![
        arm(
            "arming what was withdrawn after it was staged",
            withdraw,
            &["was withdrawn"],
        ),
        arm(
            "arming with metadata that expired",
            |node| node.yard().let_expire(),
            &["expired at"],
        ),
        arm(
            "arming with metadata older than seen",
            replay,
            &["older metadata than was accepted before"],
        ),
        arm(
            "arming what is not what was staged",
            |node| node.write("ROOT-B", 700_000, &[1, 2, 3]),
            &["slot B", "artifact root", "Stage the release again"],
        ),
        Row {
            guarded: false,
            exit: 4,
            ..arm(
                "arming without a guard",
                |_| {},
                &["guard does not answer", "systemctl start drydock-guard.service"],
            )
        },
        Row {
            begin: Begin::Good,
            ..arm(
                "arming what was never staged",
                |_| {},
                &["slot B holds no verified release", "stage"],
            )
        },
        arm(
            "arming another kernel where the loader counts no tries",
            |node| {
                node.configure(|text| text.replace("\"gptprio\"", "\"gptpriority\""));
            },
            &["another kernel", "disk.unguarded_kernel = true"],
        ),
        Row {
            command: &["rollback"],
            ..arm(
                "going back to a slot that was never good",
                |_| {},
                &["slot B is not a way back"],
            )
        },
    ]
}
