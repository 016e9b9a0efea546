//! The agent's own NodeUpgrade: read straight from the server with the answer's date, turned into the
//! machine's [`Order`], and its status written by merge patch. Reaches no other object.

use std::time::Duration;

use drydock_api::{AttemptClass, Decision, NodeUpgrade, NodeUpgradeStatus};
use drydock_machine::agent::{Asked, Grant, Order, Wish};
use drydock_machine::{Verdict, Word};
use jiff::Timestamp;
use kube::api::{GetParams, Patch, PatchParams};
use kube::client::Body;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::patch::merge_patch;

/// Why the server's word could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("the API server does not answer: {0}")]
    Kube(#[from] kube::Error),
    #[error("the API server did not answer within {0:?}")]
    Late(Duration),
    #[error("the API server answered {0}")]
    Status(http::StatusCode),
    #[error("the API server's answer has no usable Date header, so no grant can be judged by it")]
    NoDate,
    #[error("the API server's answer is no NodeUpgrade: {0}")]
    Shape(#[from] serde_json::Error),
}

/// The object of one node.
#[derive(Clone)]
pub(super) struct OwnObject {
    client: Client,
    pub api: Api<NodeUpgrade>,
    pub name: String,
    patience: Duration,
}

impl OwnObject {
    pub fn new(client: Client, name: &str, patience: Duration) -> Self {
        Self {
            api: Api::all(client.clone()),
            client,
            name: name.to_owned(),
            patience,
        }
    }

    /// The object as the server has it now (no cache), and the server's time. `None`: there is none.
    pub async fn read(&self) -> Result<Option<(NodeUpgrade, Timestamp)>, ServerError> {
        let late = |_| ServerError::Late(self.patience);
        tokio::time::timeout(self.patience, self.read_now())
            .await
            .map_err(late)?
    }

    async fn read_now(&self) -> Result<Option<(NodeUpgrade, Timestamp)>, ServerError> {
        let path = NodeUpgrade::url_path(&(), None);
        let request = kube::core::Request::new(path).get(&self.name, &GetParams::default());
        let request = request.map_err(kube::Error::BuildRequest)?;
        let answer = self.client.send(request.map(Body::from)).await?;
        let status = answer.status();
        if status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(ServerError::Status(status));
        }
        let date = answer
            .headers()
            .get(http::header::DATE)
            .and_then(|date| date.to_str().ok());
        let date = date
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
            .ok_or(ServerError::NoDate)?;
        let object = serde_json::from_slice(&answer.into_body().collect_bytes().await?)?;
        Ok(Some((object, date.timestamp())))
    }

    /// Makes the server's status the one that is wanted; `None` if it is that already.
    pub async fn write(
        &self,
        object: &NodeUpgrade,
        wanted: &NodeUpgradeStatus,
    ) -> Result<Option<NodeUpgrade>, ServerError> {
        let held = serde_json::to_value(object.status.clone().unwrap_or_default())?;
        let Some(change) = merge_patch(&held, &serde_json::to_value(wanted)?) else {
            return Ok(None);
        };
        // With the UID an object made again is not given what was seen of the old one.
        let patch: Value = json!({ "metadata": { "uid": object.uid() }, "status": change });
        let params = PatchParams {
            field_manager: Some("drydock-agent".to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(&patch);
        let written = self.api.patch_status(&self.name, &params, &patch);
        let late = |_| ServerError::Late(self.patience);
        Ok(Some(
            tokio::time::timeout(self.patience, written)
                .await
                .map_err(late)??,
        ))
    }
}

/// The object in the machine's words.
pub(super) fn order(object: &NodeUpgrade) -> Order {
    let spec = &object.spec;
    let owner = object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.kind == "Node");
    let failed = spec
        .records
        .iter()
        .filter(|record| record.class == AttemptClass::Failed && !spec.forgiven.contains(&record.attempt));
    Order {
        uid: object.uid().unwrap_or_default(),
        generation: object.meta().generation.unwrap_or_default(),
        owner_uid: owner.map(|owner| owner.uid.clone()),
        wish: spec.wish.as_ref().map(|wish| Wish {
            repository: wish.repository.clone(),
            url: wish.url.clone(),
            digest: wish.digest.clone(),
            version: wish.version.clone(),
            allow_downgrade: wish.allow_downgrade,
        }),
        stage: spec.stage,
        dock: spec.dock.as_ref().map(|dock| Asked {
            attempt: dock.attempt.clone(),
            digest: dock.digest.clone(),
        }),
        grant: spec.grant.as_ref().map(|grant| Grant {
            attempt: grant.attempt.clone(),
            node_uid: grant.node_uid.clone(),
            boot_id: grant.boot_id.clone(),
            digest: grant.digest.clone(),
            not_after: grant.not_after,
            confirm_wait: grant.confirm_wait.duration(),
        }),
        verdict: spec.verdict.as_ref().map(|verdict| Verdict {
            attempt: verdict.attempt.clone(),
            boot_id: verdict.boot_id.clone(),
            digest: verdict.digest.clone(),
            word: match verdict.decision {
                Decision::Confirm => Word::Confirm,
                Decision::GoBack => Word::GoBack,
            },
        }),
        forgiven: spec.forgiven.clone(),
        failed: failed.map(|record| record.digest.clone()).collect(),
    }
}
