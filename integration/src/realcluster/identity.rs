//! Who speaks to the API server, and how it knows: by a client certificate of the cluster's CA, or by a
//! service account's token.

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::certificates::Pair;

/// Who speaks to the API server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// May do everything: a certificate of the group `system:masters`.
    Admin,
    /// A person or a program, in these groups (and in `system:authenticated`, as everyone).
    User {
        /// The name.
        name: String,
        /// The groups.
        groups: Vec<String>,
    },
    /// The kubelet of this node: `system:node:NAME` in `system:nodes`.
    Node(String),
    /// A service account, by a token that is asked for each time a client or kubeconfig is made.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The pod that the token is for: it ends with it, and names its node.
        pod: Option<BoundPod>,
    },
}

/// A pod that a token is bound to; it must run under that service account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BoundPod {
    /// Its name.
    pub name: String,
    /// Its UID; none: whatever it is now.
    pub uid: Option<String>,
}

/// How long a token lasts; the shortest that the server gives is 10 minutes.
const TOKEN_SECS: u64 = 3600;

impl Identity {
    /// A user in these groups.
    #[must_use]
    pub fn user(name: &str, groups: &[&str]) -> Identity {
        Identity::User {
            name: name.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        }
    }

    /// A node's kubelet.
    #[must_use]
    pub fn node(name: &str) -> Identity {
        Identity::Node(name.to_owned())
    }

    /// A service account, with a token of its own.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Identity {
        Identity::ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            pod: None,
        }
    }

    /// A service account, with a token such as this pod would have.
    #[must_use]
    pub fn pod(namespace: &str, service_account: &str, pod: &str) -> Identity {
        Identity::ServiceAccount {
            namespace: namespace.to_owned(),
            name: service_account.to_owned(),
            pod: Some(BoundPod {
                name: pod.to_owned(),
                uid: None,
            }),
        }
    }

    /// The name under which the server knows it, in reviews and in the audit log.
    #[must_use]
    pub fn username(&self) -> String {
        match self {
            Identity::Admin => "drydock:admin".to_owned(),
            Identity::User { name, .. } => name.clone(),
            Identity::Node(name) => format!("system:node:{name}"),
            Identity::ServiceAccount { namespace, name, .. } => {
                format!("system:serviceaccount:{namespace}:{name}")
            }
        }
    }
}

/// What a client shows.
pub(super) enum Credential {
    Certificate(Pair),
    Token(String),
}

/// What the TokenRequest of a service account says.
pub(super) fn token_request(pod: Option<&BoundPod>) -> Value {
    let mut request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": TOKEN_SECS},
    });
    if let Some(pod) = pod {
        request["spec"]["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name});
        if let Some(uid) = &pod.uid {
            request["spec"]["boundObjectRef"]["uid"] = json!(uid);
        }
    }
    request
}

/// A kubeconfig (YAML: JSON is YAML) for one user of the server at `url`.
pub(super) fn kubeconfig(url: &str, ca: &str, username: &str, credential: Credential) -> String {
    let bytes = |pem: String| ByteString(pem.into_bytes());
    let user = match credential {
        Credential::Certificate(pair) => json!({
            "client-certificate-data": bytes(pair.certificate),
            "client-key-data": bytes(pair.key),
        }),
        Credential::Token(token) => json!({"token": token}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "drydock", "cluster": {
            "server": url, "certificate-authority-data": bytes(ca.to_owned()),
        }}],
        "users": [{"name": username, "user": user}],
        "contexts": [{"name": "drydock", "context": {
            "cluster": "drydock", "user": username, "namespace": "default",
        }}],
        "current-context": "drydock",
    })
    .to_string()
}
