//! A server under the contract: the embedded API, or a real control plane that runs no kubelet and none of
//! the controllers that would act on nodes and pods of their own accord.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drydock_integration::apiserver::{ApiServer, ServerConfig};
use drydock_integration::realcluster::{Binaries, ControlPlane, Identity, Options};
use kube::client::Body;
use serde_json::{Value, json};

/// Which of the two.
pub enum Server {
    Embedded(ApiServer),
    Real(Box<ControlPlane>),
}

/// A server, and how it is spoken to.
pub struct Subject {
    pub server: Server,
    pub client: kube::Client,
    pub kubectl: Option<PathBuf>,
    /// kubectl's home, with a kubeconfig.
    pub home: tempfile::TempDir,
}

/// Pods that carry this label are ended as a kubelet ends them.
pub const KUBELET: &str = "kubelet";

impl Subject {
    pub fn name(&self) -> &'static str {
        match self.server {
            Server::Embedded(_) => "embedded",
            Server::Real(_) => "real",
        }
    }

    /// The embedded API; kubectl is the real server's, or the one that is installed.
    pub async fn embedded(kubectl: Option<PathBuf>) -> Arc<Subject> {
        // A short history, so that there is a version from before it.
        let config = ServerConfig {
            watch_history: 500,
            ..ServerConfig::default()
        };
        let server = ApiServer::start(config).await.unwrap();
        let client = server.client("drydock:admin").await.unwrap();
        let home = home(&server.kubeconfig("drydock:admin"));
        let subject = Subject {
            server: Server::Embedded(server),
            client,
            kubectl,
            home,
        };
        subject.prepare().await
    }

    /// A real one. Without the controllers that make objects in each namespace, make pods of ReplicaSets,
    /// or take nodes without a heartbeat for broken: what they would do, the cases play.
    pub async fn real(binaries: Binaries) -> Arc<Subject> {
        let mut options = Options::new(binaries);
        options
            .api_server_flags
            .push("--disable-admission-plugins=ServiceAccount".to_owned());
        options.controller_manager_flags.push(format!(
            "--controllers=*{}",
            [
                "daemonset-controller",
                "deployment-controller",
                "node-lifecycle-controller",
                "persistentvolume-attach-detach-controller",
                "pod-garbage-collector-controller",
                "replicaset-controller",
                "root-ca-certificate-publisher-controller",
                "taint-eviction-controller",
                "ttl-controller",
            ]
            .map(|name| format!(",-{name}"))
            .concat()
        ));
        let cluster = ControlPlane::start(options).await.unwrap();
        println!("real: ready after {:.1} s", cluster.time_to_ready().as_secs_f64());
        let client = cluster.client(&Identity::Admin).await.unwrap();
        let home = home(&cluster.kubeconfig(&Identity::Admin).await.unwrap());
        let kubectl = Some(cluster.kubectl().to_owned());
        let subject = Subject {
            server: Server::Real(Box::new(cluster)),
            client,
            kubectl,
            home,
        };
        subject.prepare().await
    }

    /// Drydock's CRDs, and a kubelet.
    async fn prepare(self) -> Arc<Subject> {
        let subject = Arc::new(self);
        for crd in drydock_api::crds() {
            subject.establish(&serde_json::to_value(crd).unwrap()).await;
        }
        subject.establish(&super::custom::crd("widgets", "Widget")).await;
        tokio::spawn(kubelet(subject.client.clone()));
        subject
    }

    /// Create a CRD and wait until its objects are served.
    pub async fn establish(&self, crd: &Value) {
        const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (code, body) = send(&self.client, "POST", CRDS, Some(crd)).await;
        assert_eq!(code, 201, "{body}");
        let text = |pointer| crd.pointer(pointer).unwrap().as_str().unwrap();
        let (group, version) = (text("/spec/group"), text("/spec/versions/0/name"));
        let path = format!("/apis/{group}/{version}/{}", text("/spec/names/plural"));
        for _ in 0..300 {
            if send(&self.client, "GET", &path, None).await.0 == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path} is not served in time");
    }

    /// Forget the history.
    pub async fn compact(&self) {
        match &self.server {
            Server::Embedded(server) => server.compact(),
            Server::Real(cluster) => super::compaction::of_etcd(cluster).await,
        }
    }
}

fn home(kubeconfig: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config"), kubeconfig).unwrap();
    home
}

/// Removes the pods that are being deleted and carry the label, as kubelets do. Ends with its runtime.
async fn kubelet(client: kube::Client) {
    let path = format!("/api/v1/pods?labelSelector={KUBELET}");
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (_, list) = send(&client, "GET", &path, None).await;
        for pod in list["items"].as_array().into_iter().flatten() {
            let meta = &pod["metadata"];
            if meta["deletionTimestamp"].is_null() {
                continue;
            }
            let text = |key: &str| meta[key].as_str().unwrap().to_owned();
            let path = format!("/api/v1/namespaces/{}/pods/{}", text("namespace"), text("name"));
            let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}});
            send(&client, "DELETE", &path, Some(&options)).await;
        }
    }
}

/// One request; code and body.
async fn send(client: &kube::Client, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    let Ok(answer) = client.send(request.body(Body::from(bytes)).unwrap()).await else {
        return (0, Value::Null);
    };
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await.unwrap_or_default();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}
