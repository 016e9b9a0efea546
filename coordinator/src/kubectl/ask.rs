//! `kubectl drydock cancel` and `release`: an annotation on the Node, which the coordinator takes up.

use std::io::Write;

use anyhow::Context as _;
use drydock_api::{Ask, NodeUpgrade, annotation};
use drydock_plan::NodeView;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// Which node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node.
    node: String,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// End the attempt.
    Cancel,
    /// Let the node go.
    Release,
}

/// Asks it.
pub(super) async fn main(
    args: Args,
    verb: Verb,
    config: kube::Config,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let client = super::client(config)?;
    let attempt = attempt_of(&client, &args.node).await?;
    let ask = match verb {
        Verb::Cancel => Ask::Cancel { attempt },
        Verb::Release => Ask::Release { attempt },
    };
    write(&client, &args.node, &ask).await?;
    writeln!(
        out,
        "Node {}: asked to {ask}. The coordinator takes it up; see `kubectl drydock explain {}`.",
        args.node, args.node
    )?;
    Ok(())
}

/// The attempt that holds the node, by its order or its mark.
async fn attempt_of(client: &Client, node: &str) -> anyhow::Result<String> {
    let upgrades = Api::<NodeUpgrade>::all(client.clone());
    let upgrade = upgrades
        .get_opt(node)
        .await
        .with_context(|| format!("NodeUpgrade {node} cannot be read"))?;
    if let Some(dock) = upgrade.and_then(|upgrade| upgrade.spec.dock) {
        return Ok(dock.attempt);
    }
    let (_, view) = view(client, node).await?;
    match view.mark {
        Some(Ok(mark)) => Ok(mark.attempt),
        _ => anyhow::bail!("node {node} is not in dock: there is no attempt to end"),
    }
}

async fn view(client: &Client, node: &str) -> anyhow::Result<(Api<Node>, NodeView)> {
    let nodes = Api::<Node>::all(client.clone());
    let found = nodes
        .get(node)
        .await
        .with_context(|| format!("Node {node} cannot be read"))?;
    let view = NodeView::of(&found).with_context(|| format!("Node {node} has no UID"))?;
    Ok((nodes, view))
}

/// Leaves the annotation on the Node. What another person asked is not written over.
pub(super) async fn write(client: &Client, node: &str, ask: &Ask) -> anyhow::Result<()> {
    let (nodes, view) = view(client, node).await?;
    match &view.ask {
        None => {}
        Some(Ok(asked)) if asked == ask => return Ok(()),
        Some(Ok(asked)) => anyhow::bail!(
            "node {node} still has `{asked}` to be taken up; try again when the coordinator has done so"
        ),
        Some(Err(text)) => anyhow::bail!(
            "the annotation {} of node {node} is `{text}`, which is not of Drydock's form; remove it first",
            annotation::ASK
        ),
    }
    let patch = json!({"metadata": {
        "uid": view.uid,
        "resourceVersion": view.resource_version,
        "annotations": {annotation::ASK: ask.to_string()},
    }});
    nodes
        .patch_metadata(node, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .with_context(|| format!("Node {node} was not annotated; may you patch Nodes? Else try again"))?;
    Ok(())
}
