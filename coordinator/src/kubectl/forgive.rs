//! `kubectl drydock forgive`: failures of a digest count no more. First every node's order says so; the
//! ReleaseHalt goes last, so that no node is ever left that would halt the release again at once.

use std::{collections::BTreeSet, io::Write, time::Duration};

use anyhow::Context as _;
use drydock_api::{Ask, AttemptClass, NodeUpgrade, ReleaseHalt, SpanText};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Preconditions},
};
use tokio::time::Instant;

use super::{ask, halt::digest};

/// Objects per page.
const PAGE: u32 = 500;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is forgiven.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The release: `sha256:` and 64 hexadecimal digits.
    #[arg(value_parser = digest)]
    digest: String,
    /// On this node only; the halt then stays.
    #[arg(long)]
    node: Option<String>,
    /// How long the coordinator is waited for.
    #[arg(long, default_value = "2m")]
    timeout: SpanText,
}

/// Asks every node that holds a failure of the digest, waits until the coordinator has taken it up
/// everywhere, and then deletes the halt.
pub(super) async fn main(
    args: Args,
    config: kube::Config,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let client = super::client(config)?;
    let until = Instant::now() + args.timeout.duration();
    let mut asked = BTreeSet::new();
    loop {
        let holding = holding(&client, &args).await?;
        if holding.is_empty() {
            break;
        }
        for node in &holding {
            if !asked.contains(node) {
                let ask = Ask::Forgive {
                    digest: args.digest.clone(),
                };
                ask::write(&client, node, &ask).await?;
                writeln!(out, "Node {node}: asked to {ask}.")?;
                asked.insert(node.clone());
            }
        }
        anyhow::ensure!(
            Instant::now() < until,
            "after {} these nodes still hold a failure of {}: {}. Is a coordinator leading? The halt was left as it is; run this again",
            args.timeout,
            args.digest,
            holding.into_iter().collect::<Vec<_>>().join(", ")
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    writeln!(out, "Forgiven on {} nodes.", asked.len())?;
    if args.node.is_none() {
        lift(&client, &args.digest, out).await?;
    }
    Ok(())
}

/// The nodes that hold a failure of the digest that is not forgiven yet.
async fn holding(client: &Client, args: &Args) -> anyhow::Result<BTreeSet<String>> {
    let api = Api::<NodeUpgrade>::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    if let Some(node) = &args.node {
        params = params.fields(&format!("metadata.name={node}"));
    }
    let mut found = BTreeSet::new();
    loop {
        let page = api.list(&params).await.context("nodeupgrades cannot be listed")?;
        let holders = page.items.iter().filter(|upgrade| holds(upgrade, &args.digest));
        found.extend(holders.map(|upgrade| upgrade.name_any()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
}

fn holds(upgrade: &NodeUpgrade, digest: &str) -> bool {
    let counts = |class| matches!(class, AttemptClass::Failed | AttemptClass::Unconfirmed);
    let recorded = upgrade
        .spec
        .records
        .iter()
        .filter(|record| record.digest == digest && counts(record.class))
        .map(|record| &record.attempt);
    let reported = upgrade
        .status
        .iter()
        .flat_map(|status| &status.failed)
        .filter(|failed| failed.digest == digest)
        .map(|failed| &failed.attempt);
    recorded
        .chain(reported)
        .any(|attempt| !upgrade.spec.forgiven.contains(attempt))
}

/// Deletes the halt that was seen, not one that was made meanwhile.
async fn lift(client: &Client, digest: &str, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    let halts = Api::<ReleaseHalt>::all(client.clone());
    let name = digest.replace(':', "-");
    let found = halts
        .get_opt(&name)
        .await
        .with_context(|| format!("ReleaseHalt {name} cannot be read"))?;
    let Some(halt) = found else {
        writeln!(out, "There is no halt of {digest}.")?;
        return Ok(());
    };
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: halt.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    halts
        .delete(&name, &params)
        .await
        .with_context(|| format!("ReleaseHalt {name} was not deleted; may you delete releasehalts?"))?;
    writeln!(out, "The halt of {digest} is lifted: {}", halt.spec.reason)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_asked_while_any_failure_of_the_digest_is_not_forgiven() {
        let upgrade = |forgiven: &[&str]| -> NodeUpgrade {
            serde_json::from_value(json!({
                "apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade", "metadata": {"name": "n"},
                "spec": {
                    "forgiven": forgiven,
                    "records": [
                        {"digest": "d", "attempt": "a1", "class": "Failed", "at": "2026-01-01T00:00:00Z"},
                        {"digest": "d", "attempt": "a2", "class": "Committed", "at": "2026-01-01T00:00:00Z"},
                        {"digest": "e", "attempt": "a3", "class": "Failed", "at": "2026-01-01T00:00:00Z"},
                    ]
                },
                "status": {"failed": [{"digest": "d", "attempt": "a0", "code": "HealthCheck"}]}
            }))
            .unwrap()
        };
        assert!(holds(&upgrade(&[]), "d"));
        assert!(holds(&upgrade(&["a1"]), "d"), "the agent still reports a0");
        assert!(!holds(&upgrade(&["a0", "a1"]), "d"));
        assert!(holds(&upgrade(&["a0", "a1"]), "e"));
    }
}
