//! The state partition is full, at each write of state: the node goes on booting something that was
//! verified, says so, and goes on where it was when there is room again (S5).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use drydock_machine::{AttemptState, Request};
use drydock_updater::disk::gate::{WriteEvent, WriteGate, WriteKind};
use drydock_updater::disk::{BootControl, Loader, SlotName};
use drydock_updater::guard::{self, GuardClient};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::attempt::{client, push};
use crate::node_world::World;
use crate::real_node::RealNode;

/// Rounds in which nothing can be written, before there is room again.
const ROUNDS_FULL: u32 = 40;

/// There is no room from the nth file on, until somebody makes room.
#[derive(Debug)]
struct FullFrom {
    nth: u64,
    seen: AtomicU64,
    room: AtomicBool,
}

impl FullFrom {
    fn new(nth: u64) -> Self {
        Self {
            nth,
            seen: AtomicU64::new(0),
            room: AtomicBool::new(false),
        }
    }

    fn is_full(&self) -> bool {
        self.seen.load(Ordering::SeqCst) > self.nth && !self.room.load(Ordering::SeqCst)
    }
}

impl WriteGate for FullFrom {
    fn before(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        if event.kind != WriteKind::FileWrite {
            return Ok(());
        }
        self.seen.fetch_add(1, Ordering::SeqCst);
        if self.is_full() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

struct Node {
    world: World,
    gate: Arc<FullFrom>,
    client: GuardClient,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    reboots: u64,
}

impl Node {
    fn new(nth: u64, loader: Loader) -> Self {
        let world = World::new(loader);
        let mut node = Self {
            client: client(&world),
            gate: Arc::new(FullFrom::new(nth)),
            running: None,
            reboots: 0,
            world,
        };
        node.start();
        node
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        let (config, env, told) = (
            self.world.config.clone(),
            self.world.env(self.gate.clone()),
            stop.clone(),
        );
        let task = tokio::spawn(async move { guard::run(config, env, told).await.unwrap() });
        self.running = Some((stop, task));
    }

    async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    /// If the system called for a reboot: it happens, and the loader finds something to boot.
    async fn reboot_if_called(&mut self) {
        let called = self.world.machine.reboots.load(Ordering::SeqCst);
        if called > self.reboots {
            self.reboots = called;
            self.stop().await;
            self.world.boot();
            self.start();
        }
    }

    /// What would be booted now is marked good, or armed with what was verified.
    fn boots_something_verified(&self) {
        let state = self.world.control().state().unwrap();
        let next = state.next.expect("S5: nothing would be booted");
        let bits = state.bits(next);
        let verified = bits.successful || (next == SlotName::B && bits.priority > 0);
        assert!(verified, "S5: {state:?}");
    }
}

/// The attempt's end, and whether the guard ever spoke of the full disk.
async fn live(node: &mut Node) -> (AttemptState, bool) {
    let (mut full, mut said) = (0, false);
    for _ in 0..5_000 {
        node.reboot_if_called().await;
        node.boots_something_verified();
        if node.gate.is_full() {
            full += 1;
            if full > ROUNDS_FULL {
                node.gate.room.store(true, Ordering::SeqCst);
            }
        }
        if let Ok(status) = node.client.ask(&Request::Status).await {
            said |= status
                .problems
                .iter()
                .any(|text| text.contains("no storage space") && text.contains("has room"));
            if let Some(state) = push(&node.world, &node.client, &status).await {
                node.stop().await;
                return (state, said);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no end: {:#?}", node.client.ask(&Request::Status).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_at_any_write_of_a_good_release_it_is_committed_when_there_is_room_again() {
    for nth in 0.. {
        let mut node = Node::new(nth, Loader::GptPrio);
        let (state, said) = live(&mut node).await;
        let (full, bits) = (
            node.gate.seen.load(Ordering::SeqCst) > nth,
            node.world.control().state().unwrap(),
        );
        match state {
            AttemptState::Committed => assert!(bits.b.successful, "write {nth}: {bits:?}"),
            AttemptState::NotTried => assert!(!bits.bootable_b && bits.a.successful, "write {nth}: {bits:?}"),
            other => panic!("write {nth}: {other:?}"),
        }
        if !full {
            assert!(nth > 5, "only {nth} writes of state were seen");
            assert_eq!(state, AttemptState::Committed);
            break;
        }
        assert!(said, "write {nth}: the guard did not say that there is no room");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_at_any_write_a_release_that_fails_is_left_all_the_same() {
    for loader in [Loader::GptPrio, Loader::Vboot, Loader::GptPriority] {
        for nth in 0.. {
            let mut node = Node::new(nth, loader);
            node.world.machine.healthy.store(false, Ordering::SeqCst);
            let (state, _) = live(&mut node).await;
            let bits = node.world.control().state().unwrap();
            assert_eq!(bits.next, Some(SlotName::A), "{loader:?} write {nth}: {bits:?}");
            assert!(
                bits.a.successful && !bits.b.successful,
                "{loader:?} write {nth}: {bits:?}"
            );
            assert_ne!(state, AttemptState::Committed, "{loader:?} write {nth}");
            if node.gate.seen.load(Ordering::SeqCst) <= nth {
                assert_eq!(state, AttemptState::Failed);
                break;
            }
        }
    }
}

/// A small file system, gone when this is dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=128k,mode=0700", "tmpfs"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("SKIPPED: a small file system can be mounted by root alone");
        None
    }

    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        // Until there is no room for another byte.
        while io::Write::write_all(&mut ballast, &[1; 512]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(&self.0).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

#[test]
fn on_a_full_file_system_every_command_says_so_and_is_done_when_there_is_room_again() {
    let node = RealNode::installed();
    let Some(state) = Small::mount(&node.path("state")) else {
        return;
    };
    let mut met = String::new();
    let mut meets = |words: &[&str], next: &str| {
        state.fill();
        let said = node.run(words);
        let boots = |node: &RealNode| node.does(&["status"]).contains(&format!("next boot  {next}"));
        assert_eq!(said.code, 1, "{words:?}: {}", said.text);
        assert!(
            said.text.contains("No space left on device") && boots(&node),
            "{words:?}: {}",
            said.text
        );
        state.make_room();
        met += &format!("$ drydock-updater {}\n{}", words.join(" "), said.text);
    };
    meets(&["adopt"], "slot A");
    node.does(&["adopt"]);
    meets(&["mark-good"], "slot A");
    meets(&["stage", "--channel", "stable"], "slot A");
    node.does(&["stage", "--channel", "stable"]);
    node.runs("quiet drydock.slot=B ro");
    meets(&["mark-good"], "slot A");
    node.does(&["mark-good"]);
    meets(&["rollback"], "slot B");
    node.does(&["rollback"]);
    meets(&["disarm"], "slot A");
    node.does(&["disarm"]);
    // A guard starts on a full disk, refuses what it could not remember, and does it later.
    state.fill();
    let guard = node.start("guard");
    let said = node.run(&["rollback"]);
    assert!(
        said.code == 3 && said.text.contains("No space left on device"),
        "{}",
        said.text
    );
    assert!(node.does(&["status"]).contains("next boot  slot B"));
    state.make_room();
    node.does(&["rollback"]);
    assert!(node.does(&["status"]).contains("next boot  slot A"));
    drop(guard);
    insta::assert_snapshot!(node.plain(&met));
}
