//! Everything that the planner asks, read once by a person's own rights. Nothing is written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use drydock_api::{ImageRepository, NodeUpgrade, ReleaseHalt, UpgradePolicy};
use drydock_images::Unwatched;
use drydock_plan::{
    ApiHealth, ChannelRelease, DrainView, Myself, NodeView, Phase, Plan, PodView, Reason, ReleaseView,
    RepositoryView, Timings, Version, VolumesView, World, fence::highest_term, plan,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use crate::{
    clock::SystemClock,
    link::Link,
    metrics::Metrics,
    observe::{Attachment, Bound, attachment, bind, put},
    repository::{Cache, Floor, Order, load},
};

/// Objects per page.
const PAGE: u32 = 500;
/// How long a repository may take before its status in the cluster is believed instead.
const REPOSITORY_WITHIN: Duration = Duration::from_secs(10);

/// What evictions were answered with: known to who evicts, and to nobody who only reads.
const ANSWERS: [Reason; 7] = [
    Reason::EvictForbidden,
    Reason::ManyBudgets,
    Reason::WebhookDenies,
    Reason::BudgetBlocks,
    Reason::EvictFails,
    Reason::ApiBusy,
    Reason::NamespaceTerminating,
];

/// What was read, and what the planner says of it.
pub struct Snapshot {
    /// What was read.
    pub world: World,
    /// What the planner says.
    pub plan: Plan,
    /// Repositories whose metadata this machine could not read: what is said of them is the
    /// coordinator's last word.
    pub second_hand: Vec<String>,
}

impl Snapshot {
    /// Reads everything and plans once.
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub async fn read(config: kube::Config) -> anyhow::Result<Self> {
        let link = Link::new(Arc::new(SystemClock), Metrics::new());
        let client = link.client(config).context("no client can be made")?;
        let policies: Vec<UpgradePolicy> = all(&client, Some).await?;
        let upgrades: Vec<NodeUpgrade> = all(&client, Some).await?;
        let halts: Vec<ReleaseHalt> = all(&client, Some).await?;
        let images: Vec<ImageRepository> = all(&client, Some).await?;
        let nodes: Vec<NodeView> = all(&client, |node: Node| NodeView::of(&node)).await?;
        let term = highest_term(&policies, &upgrades, &nodes);
        let policies: BTreeMap<_, _> = policies.into_iter().map(|p| (p.name_any(), p)).collect();
        let upgrades: BTreeMap<_, _> = upgrades.into_iter().map(|u| (u.name_any(), u)).collect();
        let mut repositories = BTreeMap::new();
        let mut second_hand = Vec::new();
        for image in images {
            let (name, (view, own)) = (image.name_any(), repository(&client, image, &upgrades).await);
            if !own {
                second_hand.push(name.clone());
            }
            repositories.insert(name, view);
        }
        let waits = |policy: &UpgradePolicy| policy.spec.drain.wait_for_volume_detach;
        let attached = if policies.values().any(waits) {
            attachments(&client).await
        } else {
            Err("nobody asked".to_owned())
        };
        let drains = drains(&client, &upgrades, &attached).await?;
        let version = client.apiserver_version().await.ok();
        let now = Timestamp::now();
        let watches = [
            "nodes",
            "nodeupgrades",
            "upgradepolicies",
            "imagerepositories",
            "releasehalts",
        ];
        let world = World {
            now,
            term,
            timings: Timings::default(),
            api: ApiHealth {
                server_version: version.map(|info| info.git_version),
                watches: watches.map(|kind| (kind.to_owned(), Some(now))).into(),
                skew: link.skew().map(|ahead| SignedDuration::ZERO - ahead),
                outages: Vec::new(),
            },
            me: Myself::default(),
            nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
            halts: halts
                .into_iter()
                .map(|halt| (halt.spec.digest.clone(), halt))
                .collect(),
            policies,
            upgrades,
            repositories,
            drains,
        };
        let mut plan = plan(&world);
        add_answers(&mut plan, &world.policies);
        Ok(Self {
            world,
            plan,
            second_hand,
        })
    }
}

/// Says of draining nodes what the coordinator has written of them in its policy's status, where that is
/// what an eviction was answered with. It goes first, as it did there.
fn add_answers(plan: &mut Plan, policies: &BTreeMap<String, UpgradePolicy>) {
    for (name, node) in &mut plan.nodes {
        let [policy] = node.policies.as_slice() else {
            continue;
        };
        let status = policies.get(policy).and_then(|policy| policy.status.as_ref());
        let mut counts = status.iter().flat_map(|status| &status.reasons);
        let told = counts
            .find(|count| count.names.contains(name))
            .and_then(|count| count.name.parse().ok())
            .filter(|reason| ANSWERS.contains(reason));
        if let (Phase::Draining, Some(reason)) = (node.phase, told) {
            node.notes.insert(0, reason.into());
        }
    }
}

async fn all<K, V>(client: &Client, keep: impl Fn(K) -> Option<V>) -> anyhow::Result<Vec<V>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let kind = K::plural(&());
    let mut params = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api.list(&params).await.with_context(|| {
            format!("{kind} cannot be listed; are Drydock's CRDs applied, and may you read them?")
        })?;
        found.extend(page.items.into_iter().filter_map(&keep));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
}

/// All VolumeAttachments. Whoever may not read them is told so where that matters.
async fn attachments(client: &Client) -> Result<Vec<Attachment>, String> {
    let found = all(client, attachment).await;
    found.map_err(|error| error.root_cause().to_string())
}

/// The pods of nodes in dock.
async fn drains(
    client: &Client,
    upgrades: &BTreeMap<String, NodeUpgrade>,
    attached: &Result<Vec<Attachment>, String>,
) -> anyhow::Result<BTreeMap<String, DrainView>> {
    let api = Api::<Pod>::all(client.clone());
    let mut drains = BTreeMap::new();
    let docked = upgrades.iter().filter(|(_, upgrade)| upgrade.spec.dock.is_some());
    for (node, _) in docked {
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = api
            .list(&params)
            .await
            .with_context(|| format!("the pods of node {node} cannot be listed; may you read pods?"))?;
        let mut pods: Vec<PodView> = pods.items.iter().filter_map(PodView::of).collect();
        let volumes = match attached {
            Ok(attached) => {
                let mut bound = Bound::default();
                bind(client, &pods, &mut bound).await;
                pods.iter_mut().for_each(|pod| put(pod, &bound));
                let here = attached.iter().filter(|attachment| attachment.node == *node);
                VolumesView::Seen {
                    attached: here.map(|attachment| attachment.volume.clone()).collect(),
                    heard: Timestamp::now(),
                }
            }
            Err(error) => VolumesView::Unseen {
                error: Some(error.clone()),
            },
        };
        let view = DrainView {
            pods,
            volumes,
            listed: Some(Timestamp::now()),
            busy_until: None,
        };
        drains.insert(node.clone(), view);
    }
    Ok(drains)
}

/// The repository's metadata, verified here; or what the coordinator last said of it.
async fn repository(
    client: &Client,
    image: ImageRepository,
    upgrades: &BTreeMap<String, NodeUpgrade>,
) -> (RepositoryView, bool) {
    let second_hand = from_status(&image);
    let Ok(dir) = tempfile::tempdir() else {
        return (second_hand, false);
    };
    let order = Order {
        client: client.clone(),
        floor: Floor::of(&image, upgrades),
        repository: image,
        datastore: dir.path().join("store"),
        watch: Arc::new(Unwatched),
        now: Timestamp::now(),
        cache: Cache::default(),
    };
    match tokio::time::timeout(REPOSITORY_WITHIN, load(order)).await {
        Ok(Ok(loaded)) => (loaded.view, true),
        Ok(Err(_)) | Err(_) => (second_hand, false),
    }
}

/// The newest release of each channel is all that a status says of releases.
fn from_status(image: &ImageRepository) -> RepositoryView {
    let status = image.status.clone().unwrap_or_default();
    let mut view = RepositoryView {
        url: image.spec.url.clone(),
        loaded: status.expires.is_some(),
        error: status.last_error,
        expires: status.expires,
        ..RepositoryView::default()
    };
    for channel in status.channels {
        let release = ReleaseView {
            version: Version::from(channel.version),
            min_from: None,
            floor: None,
            kubelet: None,
            guard: true,
            state: BTreeMap::new(),
            security: false,
        };
        let place = ChannelRelease {
            digest: channel.digest.clone(),
            published_at: None,
            withdrawn: false,
            stepping_stone: false,
        };
        view.releases.insert(channel.digest, release);
        view.channels.insert(channel.name, vec![place]);
    }
    view
}
