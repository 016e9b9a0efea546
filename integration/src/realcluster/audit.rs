//! The API server's audit log: who asked for what, as whom, and what the answer was. Metadata alone is
//! logged, never a body: bodies hold tokens and Secrets.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

/// Between two looks at a log that does not yet say what is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// What is logged: everything, without bodies; not that a request came, only what became of it.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: Metadata
";

/// A place in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditMark(u64);

/// How far a request had come when the entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum Stage {
    /// The headers of a long answer (a watch) are out.
    ResponseStarted,
    /// The answer is out.
    ResponseComplete,
    /// The server broke.
    Panic,
}

/// One request, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// How far it had come: a watch has an entry for its start and one for its end.
    pub stage: Stage,
    /// Who sent it.
    pub user: String,
    /// That user's groups.
    pub groups: Vec<String>,
    /// As whom, where it impersonated somebody.
    pub impersonated: Option<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for what is no
    /// resource the HTTP method in small letters.
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// API group; empty for core, and for what is no resource.
    pub api_group: String,
    /// Plural; empty for what is no resource.
    pub resource: String,
    /// `status`, `eviction`...; empty for none.
    pub subresource: String,
    /// Empty for cluster-scoped objects, and for lists over all namespaces.
    pub namespace: String,
    /// The object's name; empty for lists and for a create whose name the server makes.
    pub name: String,
    /// The answer's HTTP code; none where the answer was never begun.
    pub code: Option<u16>,
    /// `User-Agent`.
    pub user_agent: String,
    /// When the request came.
    pub at: jiff::Timestamp,
    /// What the authorizer said, and why: `allow` and which RBAC rule, or `forbid`.
    pub decision: Option<String>,
    /// Its reason.
    pub reason: Option<String>,
}

/// The log of one control plane.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    pub(super) fn new(path: PathBuf) -> AuditLog {
        AuditLog { path }
    }

    /// Where it is: JSON, one event a line.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log as it is now. An entry is written when its answer is out, so that of a request
    /// just answered may still come after it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn mark(&self) -> anyhow::Result<AuditMark> {
        let length = self.open()?.metadata().context("the audit log's length")?.len();
        Ok(AuditMark(length))
    }

    /// The entries from this mark on, and the mark behind the last of them.
    ///
    /// # Errors
    /// When the log cannot be read, or has a line that is no event.
    pub fn since(&self, mark: AuditMark) -> anyhow::Result<(Vec<AuditEntry>, AuditMark)> {
        let mut file = self.open()?;
        file.seek(SeekFrom::Start(mark.0))
            .context("go to the mark in the audit log")?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context("read the audit log")?;
        // A line that is being written is left for the next time.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let entries = bytes[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                let event: Event = serde_json::from_slice(line)
                    .with_context(|| format!("no audit event: {}", String::from_utf8_lossy(line)))?;
                Ok(event.into())
            })
            .collect::<anyhow::Result<_>>()?;
        Ok((entries, AuditMark(mark.0 + whole as u64)))
    }

    /// The first entry from this mark on that is meant; it is waited for.
    ///
    /// # Errors
    /// When there is none after `patience`: with all that there was.
    pub async fn wait_for(
        &self,
        mark: AuditMark,
        patience: Duration,
        is_meant: impl Fn(&AuditEntry) -> bool,
    ) -> anyhow::Result<AuditEntry> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let (entries, _) = self.since(mark)?;
            if let Some(found) = entries.iter().find(|entry| is_meant(entry)) {
                return Ok(found.clone());
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < until,
                "no such entry in the audit log after {patience:?}; there is: {entries:#?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    fn open(&self) -> anyhow::Result<File> {
        File::open(&self.path).with_context(|| format!("open the audit log {}", self.path.display()))
    }
}

/// An event as `audit.k8s.io/v1` has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: Stage,
    #[serde(rename = "requestURI", default)]
    uri: String,
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: jiff::Timestamp,
    #[serde(default)]
    annotations: Value,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    namespace: String,
    name: String,
    api_group: String,
    subresource: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    code: Option<u16>,
}

impl From<Event> for AuditEntry {
    fn from(event: Event) -> AuditEntry {
        let annotation = |name: &str| event.annotations[name].as_str().map(str::to_owned);
        AuditEntry {
            decision: annotation("authorization.k8s.io/decision"),
            reason: annotation("authorization.k8s.io/reason"),
            stage: event.stage,
            user: event.user.username,
            groups: event.user.groups,
            impersonated: event.impersonated_user.map(|user| user.username),
            verb: event.verb,
            uri: event.uri,
            api_group: event.object_ref.api_group,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.and_then(|status| status.code),
            user_agent: event.user_agent,
            at: event.request_received_timestamp,
        }
    }
}
