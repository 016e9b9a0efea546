//! The settings of one replica. They decide nothing about nodes: that is the policies'.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use drydock_images::{StoreWatch, Unwatched};
use drydock_plan::Timings;

use crate::lead::LeaseSettings;

/// The settings of one replica.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name under which it stands for election. No other process may ever have had it: a pod's name
    /// with a random part is one.
    pub identity: String,
    /// The namespace of the Lease, and of the coordinator's own pods.
    pub namespace: String,
    /// How the leader is elected.
    pub lease: LeaseSettings,
    /// The planner's lengths of time.
    pub timings: Timings,
    /// A plan is made at least this often.
    pub poll_ceiling: Duration,
    /// And not more often than this.
    pub min_interval: Duration,
    /// Where the newest trusted metadata of each repository is kept. An emptyDir will do: the versions
    /// are also in the ImageRepositories' status.
    pub data_dir: PathBuf,
    /// Told of every write there; nobody outside of tests.
    pub store_watch: Arc<dyn StoreWatch>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; None: nowhere.
    pub listen: Option<SocketAddr>,
    /// The Node that this replica runs on; None outside a cluster.
    pub node: Option<String>,
    /// Label selector of the coordinator's own pods in its namespace.
    pub replica_selector: String,
    /// How many requests of one plan are under way at once.
    pub parallel: usize,
}

/// Label selector of the coordinator's own pods, as `docs/` deploys them.
pub const REPLICA_SELECTOR: &str = "app.kubernetes.io/name=drydock-coordinator";

impl Settings {
    /// The usual settings under an identity that no other process has: `name` and a random part.
    #[must_use]
    pub fn new(name: &str, namespace: &str, data_dir: PathBuf) -> Self {
        Self {
            identity: format!("{name}_{}", uuid::Uuid::new_v4()),
            namespace: namespace.to_owned(),
            lease: LeaseSettings::default(),
            timings: Timings::default(),
            poll_ceiling: Duration::from_secs(30),
            min_interval: Duration::from_millis(50),
            data_dir,
            store_watch: Arc::new(Unwatched),
            listen: None,
            node: None,
            replica_selector: REPLICA_SELECTOR.to_owned(),
            parallel: 8,
        }
    }
}
