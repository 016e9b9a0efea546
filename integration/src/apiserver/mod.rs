//! An embedded Kubernetes API: an HTTPS server on a free loopback port for the demo, tests and the
//! simulation. It serves what Drydock and `kubectl` use of the real one (see `docs/embedded-api.md`
//! for the two lists) and answers 404, 415 or 501 to the rest. It authorizes nobody, runs no pods and
//! schedules none, and keeps everything in memory.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use drydock_integration::apiserver::{ApiServer, ServerConfig};
//! let server = ApiServer::start(ServerConfig::default()).await?;
//! let client = server.client("coordinator").await?;
//! # Ok(()) }
//! ```

pub mod audit;
pub mod hooks;
pub mod resources;
pub mod status;
pub mod store;

mod answer;
mod binding;
mod builtin;
mod call;
mod core;
mod crd;
mod decoding;
mod deletes;
mod details;
mod discovery;
mod events;
mod eviction;
mod gc;
mod job;
mod jsonpath;
mod list;
mod object;
mod openapi;
mod patch;
mod pdb;
mod query;
mod routes;
mod schema;
mod selector;
mod serve;
mod strategy;
mod table;
mod tls;
mod watch;
mod writes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use self::audit::{AuditTrail, Verb};
use self::core::Core;
use self::deletes::{DeleteOptions, system_writer};
use self::hooks::Hooks;
use self::resources::{GroupResource, Resource};
use self::status::ApiError;
use self::store::{Key, Object};
use self::writes::{Part, UpdateFrom};

/// The user of [`ApiServer::put`] and [`ApiServer::delete`] in the audit trail.
pub const SEEDER: &str = "system:seed";
/// How many changes a slow machine may see `put` lose against others before it gives up.
const PUT_TRIES: usize = 100;

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// How far the server's clock is off; [`ApiServer::set_clock_offset`] changes it later.
    pub clock_offset: SignedDuration,
    /// How often a watch with `allowWatchBookmarks` gets one.
    pub bookmark_interval: Duration,
    /// Changes kept per collection; a watch or a page of a list from before them answers 410.
    pub watch_history: usize,
    /// Entries kept by the audit trail.
    pub audit_limit: usize,
    /// None: a pod on a node stays until its kubelet deletes it with grace period 0. Some: the server
    /// removes it itself after its grace period, and at the latest after this.
    pub pod_grace_cap: Option<Duration>,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            clock_offset: SignedDuration::ZERO,
            bookmark_interval: Duration::from_secs(10),
            watch_history: 16_384,
            audit_limit: 65_536,
            pod_grace_cap: None,
        }
    }
}

/// A running server. It ends, with all its connections and tasks, when this is dropped.
pub struct ApiServer {
    core: Arc<Core>,
    address: SocketAddr,
    identity: tls::Identity,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.core.shutdown.cancel();
    }
}

impl ApiServer {
    /// Start on a free port of 127.0.0.1, with the namespaces every cluster has.
    pub async fn start(config: ServerConfig) -> anyhow::Result<ApiServer> {
        let identity = tls::identity().context("make the server's certificate")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("listen on a free loopback port")?;
        let address = listener.local_addr().context("the port listened on")?;
        let core = Arc::new(Core::new(config));
        let server = ApiServer {
            core: core.clone(),
            address,
            identity,
        };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
        }
        let acceptor = TlsAcceptor::from(server.identity.config.clone());
        core.tasks.spawn(gc::run(core.clone()));
        core.tasks.spawn(pdb::run(core.clone()));
        core.tasks.spawn(serve::accept(core.clone(), listener, acceptor));
        Ok(server)
    }

    /// End it and wait until every task is gone.
    pub async fn shutdown(self) {
        self.core.shutdown.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The CA that signed the server's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.identity.ca_pem
    }

    /// The bearer token of this user; any name is a user.
    pub fn token(&self, user: &str) -> String {
        self.core.users.token(user)
    }

    /// A kubeconfig file (YAML) for this user.
    pub fn kubeconfig(&self, user: &str) -> String {
        let ca = k8s_openapi::ByteString(self.identity.ca_pem.clone().into_bytes());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "drydock", "cluster": {"server": self.url(), "certificate-authority-data": ca}}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "drydock", "context": {"cluster": "drydock", "user": user, "namespace": "default"}}],
            "current-context": "drydock",
        });
        // JSON is YAML; what is written has no text that YAML would read otherwise.
        config.to_string()
    }

    /// A client configuration for this user, with kube's hidden retries off.
    pub async fn config(&self, user: &str) -> anyhow::Result<kube::Config> {
        let kubeconfig =
            Kubeconfig::from_yaml(&self.kubeconfig(user)).context("read the kubeconfig just written")?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("a client configuration from the kubeconfig")?;
        config.default_retry = false;
        Ok(config)
    }

    /// A client for this user, with kube's hidden retries off.
    pub async fn client(&self, user: &str) -> anyhow::Result<kube::Client> {
        let config = self.config(user).await?;
        kube::Client::try_from(config).context("a client of the embedded API")
    }

    /// Fail, delay, stall, hold back, cut off.
    pub fn hooks(&self) -> Hooks {
        self.core.hooks.clone()
    }

    /// The trail of writes.
    pub fn audit(&self) -> Arc<AuditTrail> {
        self.core.audit.clone()
    }

    /// What the server believes the time to be.
    pub fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    /// Set the server's clock off against the machine's.
    pub fn set_clock_offset(&self, offset: SignedDuration) {
        self.core.clock.set_offset(offset);
    }

    /// Forget the history: running lists and watches from before answer 410.
    pub fn compact(&self) {
        self.core.store.compact();
    }

    /// The newest resourceVersion.
    pub fn version(&self) -> u64 {
        self.core.store.version()
    }

    /// The object of this group (empty for core) and plural; `namespace` empty for cluster scope.
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        self.core
            .store
            .get(&GroupResource::new(group, plural), &Key::new(namespace, name))
    }

    /// All objects of this group and plural, of one namespace or (empty) of all.
    pub fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Object> {
        self.core
            .store
            .list(&GroupResource::new(group, plural), namespace)
    }

    /// Create this object, or replace what is there, status included; `resourceVersion` is ignored. No
    /// hook sees it. The same rules hold as for a client, but that unknown fields are dropped silently.
    pub fn put(&self, object: Value) -> Result<Object, ApiError> {
        let resource = self.resource_of(&object)?;
        let namespace = match (resource.namespaced, object::namespace(&object)) {
            (false, _) => String::new(),
            (true, "") => "default".to_owned(),
            (true, namespace) => namespace.to_owned(),
        };
        let name = object::name(&object).to_owned();
        let mut body = object;
        for key in ["resourceVersion", "uid"] {
            object::set_meta(&mut body, key, Value::Null);
        }
        let mut raced = None;
        for _ in 0..PUT_TRIES {
            match self.put_once(&resource, &namespace, &name, &mut body) {
                Err(error) if error.code == 409 => raced = Some(error),
                other => return other,
            }
        }
        Err(raced.unwrap_or_else(|| ApiError::internal("no try was made")))
    }

    fn put_once(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        body: &mut Value,
    ) -> Result<Object, ApiError> {
        let writer = |verb, sub| system_writer(&self.core, SEEDER, verb, sub, resource, namespace);
        let mut stored = match self
            .core
            .store
            .get(&resource.stored_as, &Key::new(namespace, name))
        {
            None => writer(Verb::Create, "").create(body)?,
            Some(old) => {
                object::set_meta(
                    body,
                    "resourceVersion",
                    old["metadata"]["resourceVersion"].clone(),
                );
                writer(Verb::Update, "")
                    .update(name, Part::Main, &UpdateFrom::Body(body))?
                    .0
            }
        };
        let crd = resource.is("apiextensions.k8s.io", "customresourcedefinitions");
        if resource.has_status && !crd && body.get("status").is_some_and(|s| *s != stored["status"]) {
            object::set_meta(
                body,
                "resourceVersion",
                stored["metadata"]["resourceVersion"].clone(),
            );
            stored = writer(Verb::Update, "status")
                .update(object::name(&stored), Part::Status, &UpdateFrom::Body(body))?
                .0;
        }
        Ok(stored)
    }

    /// Delete an object at once (grace period 0), as a client would with background propagation.
    pub fn delete(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Result<(), ApiError> {
        let options = DeleteOptions {
            grace_period: Some(0),
            propagation: Some("Background".to_owned()),
            ..DeleteOptions::default()
        };
        let gr = GroupResource::new(group, plural);
        deletes::delete_as(&self.core, SEEDER, &gr, namespace, name, &options).map(drop)
    }

    fn resource_of(&self, object: &Value) -> Result<Arc<Resource>, ApiError> {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        self.core
            .registry
            .by_kind(text("apiVersion"), text("kind"))
            .ok_or_else(|| {
                let kind = format!("{} {}", text("apiVersion"), text("kind"));
                ApiError::bad_request(format!(
                    "no kind {kind:?} is served: create its CRD first, or see docs/embedded-api.md"
                ))
            })
    }
}
