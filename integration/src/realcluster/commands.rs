//! The command lines of a control plane's processes, and the files that they name. Starts nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use rcgen::KeyPair;

use super::Options;
use super::audit;
use super::certificates::{Authority, Pair};
use super::folder::Folder;
use super::identity::{Credential, kubeconfig};
use super::ports::Port;

/// What a QEMU guest with user networking calls the host's loopback: nodes in VMs meet the server there.
pub const QEMU_HOST: &str = "10.0.2.2";
/// The first address of the services' range is the API server's own service.
const SERVICES: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";
const ISSUER: &str = "https://kubernetes.default.svc";

/// Files that the processes read.
pub struct Files {
    ca: PathBuf,
    ca_key: PathBuf,
    server: PairFiles,
    kubelet_client: PairFiles,
    tokens_key: PathBuf,
    tokens_public_key: PathBuf,
    audit_policy: PathBuf,
    /// Where the audit log goes.
    pub audit_log: PathBuf,
    controller_manager: PathBuf,
    scheduler: PathBuf,
}

struct PairFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// The ports of the processes that have one.
pub struct Ports {
    etcd: Port,
    etcd_peer: Port,
    api_server: Port,
}

impl Ports {
    /// Take free ones.
    ///
    /// # Errors
    /// When there are none.
    pub fn take() -> anyhow::Result<Ports> {
        Ok(Ports {
            etcd: Port::take()?,
            etcd_peer: Port::take()?,
            api_server: Port::take()?,
        })
    }

    /// Where the API server is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_server.number())
    }

    /// etcd's port for clients.
    #[must_use]
    pub fn etcd(&self) -> u16 {
        self.etcd.number()
    }

    /// The API server's port.
    #[must_use]
    pub fn api_server(&self) -> u16 {
        self.api_server.number()
    }
}

impl Files {
    /// Write them.
    ///
    /// # Errors
    /// When one cannot be made or written.
    pub fn write(folder: &Folder, ca: &Authority, options: &Options, url: &str) -> anyhow::Result<Files> {
        let pair = |name: &str, pair: &Pair| {
            Ok::<_, anyhow::Error>(PairFiles {
                certificate: folder.write(&format!("{name}.crt"), &pair.certificate)?,
                key: folder.write(&format!("{name}.key"), &pair.key)?,
            })
        };
        let mut names: Vec<String> = [
            "localhost",
            "127.0.0.1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            API_SERVICE,
            QEMU_HOST,
        ]
        .map(str::to_owned)
        .to_vec();
        names.push(options.advertise.to_string());
        names.extend(options.names.iter().cloned());
        names.sort();
        names.dedup();
        let kubelet_client = ca.client("kube-apiserver-kubelet-client", &["system:masters".to_owned()])?;
        let tokens = KeyPair::generate().context("the key that signs tokens")?;
        let component = |name: &str| {
            let user = format!("system:{name}");
            let credential = Credential::Certificate(ca.client(&user, &[])?);
            let config = kubeconfig(url, &ca.certificate(), &user, credential);
            folder.write(&format!("{name}.kubeconfig"), &config)
        };
        Ok(Files {
            ca: folder.write("ca.crt", &ca.certificate())?,
            ca_key: folder.write("ca.key", &ca.key())?,
            server: pair("kube-apiserver", &ca.server(names)?)?,
            kubelet_client: pair("kubelet-client", &kubelet_client)?,
            tokens_key: folder.write("tokens.key", &tokens.serialize_pem())?,
            tokens_public_key: folder.write("tokens.pub", &tokens.public_key_pem())?,
            audit_policy: folder.write("audit-policy.yaml", audit::POLICY)?,
            audit_log: folder.path().join("logs").join("audit.log"),
            controller_manager: component("kube-controller-manager")?,
            scheduler: component("kube-scheduler")?,
        })
    }
}

/// etcd, for one server alone, that forgets what was not yet written when the machine dies.
pub fn etcd(program: &Path, folder: &Folder, ports: &Ports) -> Command {
    let client = format!("http://127.0.0.1:{}", ports.etcd.number());
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer.number());
    let mut command = Command::new(program);
    command
        .arg(flag("name", "drydock"))
        .arg(flag("data-dir", folder.path().join("etcd")))
        .arg(flag("listen-client-urls", &client))
        .arg(flag("advertise-client-urls", &client))
        .arg(flag("listen-peer-urls", &peer))
        .arg(flag("initial-advertise-peer-urls", &peer))
        .arg(flag("initial-cluster", format!("drydock={peer}")))
        .arg(flag("log-level", "warn"))
        .arg("--unsafe-no-fsync");
    command
}

/// The API server, which judges as a production one does: RBAC, the Node authorizer, NodeRestriction.
pub fn api_server(
    program: &Path,
    folder: &Folder,
    files: &Files,
    ports: &Ports,
    options: &Options,
) -> Command {
    let mut command = Command::new(program);
    command
        .arg(flag(
            "etcd-servers",
            format!("http://127.0.0.1:{}", ports.etcd.number()),
        ))
        .arg(flag("bind-address", "127.0.0.1"))
        .arg(flag("secure-port", ports.api_server.number().to_string()))
        .arg(flag("advertise-address", options.advertise.to_string()))
        .arg(flag("cert-dir", folder.path().join("certificates")))
        .arg(flag("tls-cert-file", &files.server.certificate))
        .arg(flag("tls-private-key-file", &files.server.key))
        .arg(flag("client-ca-file", &files.ca))
        .arg(flag(
            "kubelet-client-certificate",
            &files.kubelet_client.certificate,
        ))
        .arg(flag("kubelet-client-key", &files.kubelet_client.key))
        .arg(flag("authorization-mode", "Node,RBAC"))
        .arg(flag("enable-admission-plugins", "NodeRestriction"))
        .arg(flag("service-account-issuer", ISSUER))
        .arg(flag("service-account-signing-key-file", &files.tokens_key))
        .arg(flag("service-account-key-file", &files.tokens_public_key))
        .arg(flag("service-cluster-ip-range", SERVICES))
        .arg(flag("audit-policy-file", &files.audit_policy))
        .arg(flag("audit-log-path", &files.audit_log))
        .arg(flag("audit-log-mode", "blocking"))
        .arg("--allow-privileged");
    if options.advertise.is_loopback() {
        // No pod could reach a loopback address, and the server refuses to write it into endpoints.
        command.arg(flag("endpoint-reconciler-type", "none"));
    }
    command.args(&options.api_server_flags);
    command
}

/// The controllers, each with a service account of its own, so that RBAC and the audit log tell them apart.
pub fn controller_manager(program: &Path, files: &Files, options: &Options) -> Command {
    let mut command = Command::new(program);
    command
        .arg(flag("kubeconfig", &files.controller_manager))
        .arg(flag("root-ca-file", &files.ca))
        .arg(flag("cluster-signing-cert-file", &files.ca))
        .arg(flag("cluster-signing-key-file", &files.ca_key))
        .arg(flag("service-account-private-key-file", &files.tokens_key))
        // It starts its controllers one after the other, and each asks what the server has: with the
        // default limits that alone is four seconds.
        .arg(flag("kube-api-qps", "200"))
        .arg(flag("kube-api-burst", "300"))
        .arg("--use-service-account-credentials")
        .arg("--leader-elect=false")
        .arg("--secure-port=0")
        .args(&options.controller_manager_flags);
    command
}

/// The scheduler.
pub fn scheduler(program: &Path, files: &Files, options: &Options) -> Command {
    let mut command = Command::new(program);
    command
        .arg(flag("kubeconfig", &files.scheduler))
        .arg("--leader-elect=false")
        .arg("--secure-port=0")
        .args(&options.scheduler_flags);
    command
}

fn flag(name: &str, value: impl Into<OsString>) -> OsString {
    let mut out = OsString::from(format!("--{name}="));
    out.push(value.into());
    out
}
