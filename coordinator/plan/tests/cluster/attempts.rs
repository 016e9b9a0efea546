//! Attempts whose objects somebody changed in their midst.

use drydock_api::DockMark;
use drydock_plan::{Action, SpecChange, plan};

use crate::{model::Cluster, script::policy};

/// S10: what is cordoned under another attempt's mark is not somebody else's cordon.
#[test]
fn a_cordon_that_is_written_again_keeps_what_the_old_mark_knew() {
    for kept in [false, true] {
        let mut cluster = Cluster::new("2026-11-02T08:00:00Z".parse().unwrap());
        cluster.release("1.0");
        cluster.release("2.0");
        cluster.apply("a", policy("a", "{}"));
        cluster.join("n1", "1.0", [("pool".to_owned(), "a".to_owned())].into());
        loop {
            let made = plan(&cluster.world());
            cluster.execute(&made, 1, usize::MAX).unwrap();
            let grants = |action: &Action| {
                matches!(
                    action,
                    Action::WriteSpec {
                        change: SpecChange::Grant,
                        ..
                    }
                )
            };
            if made.actions.iter().any(grants) {
                break;
            }
            cluster.tick();
        }
        // Somebody put the Node back as it was in an older attempt; the dock was built again.
        let mark = DockMark {
            attempt: "a0-1-0".to_owned(),
            policy: "a".to_owned(),
            kept,
        };
        cluster.touch_node("n1", |node| node.mark = Some(Ok(mark)));
        cluster.touch_upgrade("n1", |upgrade| {
            upgrade.spec.dock.as_mut().unwrap().cordoned = None;
        });
        let made = plan(&cluster.world());
        let cordon = made.actions.iter().find_map(|action| match action {
            Action::CordonNode { mark, .. } => Some(mark),
            _ => None,
        });
        assert_eq!(cordon.unwrap().kept, kept, "{made:?}");
    }
}
