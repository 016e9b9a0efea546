//! An agent that answers as `docs/PROTOCOL.md` says, without a disk: it stages in no time, reboots by
//! writing a new boot ID, and commits when it is told to. It notes every reboot.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use drydock_api::{Decision, NodeUpgrade, NodeUpgradeStatus, Outcome, PROTOCOL, agent_state, outcome};
use drydock_integration::apiserver::ApiServer;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

/// What the node would keep on its disk.
struct Machine {
    name: String,
    boot: u32,
    running: String,
    attempt: Option<Outcome>,
    reboots: Arc<Mutex<Vec<String>>>,
}

/// A running agent.
pub struct Agent {
    /// The attempts that rebooted the node.
    pub reboots: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Agent {
    /// Starts the agent of that node, which runs `running`.
    pub async fn start(server: &ApiServer, name: &str, running: &str) -> Self {
        let client = server.client(&format!("agent-{name}")).await.unwrap();
        let reboots = Arc::default();
        let machine = Machine {
            name: name.to_owned(),
            boot: 1,
            running: running.to_owned(),
            attempt: None,
            reboots: Arc::clone(&reboots),
        };
        Self {
            reboots,
            _task: AbortOnDropHandle::new(tokio::spawn(machine.run(client))),
        }
    }
}

impl Machine {
    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    async fn run(mut self, client: Client) {
        let upgrades = Api::<NodeUpgrade>::all(client.clone());
        let nodes = Api::<Node>::all(client);
        loop {
            if let Ok(Some(upgrade)) = upgrades.get_opt(&self.name).await {
                self.obey(&upgrade, &nodes).await;
                let status = self.report(&upgrade);
                if upgrade.status.as_ref() != Some(&status) {
                    let patch = json!({"status": status});
                    // A conflict, or no server: the next round does it.
                    let _ = upgrades
                        .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
                        .await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn obey(&mut self, upgrade: &NodeUpgrade, nodes: &Api<Node>) {
        let ended = |attempt: &str| {
            self.attempt
                .as_ref()
                .is_some_and(|known| known.attempt == attempt)
        };
        if let Some(grant) = &upgrade.spec.grant
            && grant.boot_id == self.boot_id()
            && !ended(&grant.attempt)
        {
            let boot = format!("boot-{}", self.boot + 1);
            let patch = json!({"status": {"nodeInfo": {"bootID": boot}}});
            let patched = nodes
                .patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(&patch))
                .await;
            if patched.is_err() {
                return;
            }
            self.boot += 1;
            self.reboots.lock().unwrap().push(grant.attempt.clone());
            self.running.clone_from(&grant.digest);
            self.attempt = Some(Outcome {
                attempt: grant.attempt.clone(),
                digest: grant.digest.clone(),
                state: outcome::TRYING.to_owned(),
                boot_id: Some(boot),
                code: None,
                text: None,
            });
        }
        let boot = self.boot_id();
        if let (Some(verdict), Some(attempt)) = (&upgrade.spec.verdict, self.attempt.as_mut())
            && verdict.attempt == attempt.attempt
            && verdict.boot_id == boot
            && verdict.decision == Decision::Confirm
        {
            outcome::COMMITTED.clone_into(&mut attempt.state);
        }
    }

    fn report(&self, upgrade: &NodeUpgrade) -> NodeUpgradeStatus {
        let wish = upgrade.spec.wish.as_ref().map(|wish| wish.digest.clone());
        let trying = self
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.state == outcome::TRYING);
        let staged = wish
            .clone()
            .filter(|wish| upgrade.spec.stage || *wish == self.running);
        let earlier = upgrade.status.as_ref().and_then(|status| status.staged.clone());
        let staged = staged.or(earlier);
        let state = match (&wish, &staged) {
            _ if trying => agent_state::CONFIRMING,
            (Some(wish), _) if *wish == self.running => agent_state::IDLE,
            (Some(wish), Some(staged)) if wish == staged => agent_state::STAGED,
            _ => agent_state::IDLE,
        };
        NodeUpgradeStatus {
            observed_generation: upgrade.metadata.generation,
            observed_uid: upgrade.metadata.uid.clone(),
            agent_state: Some(state.to_owned()),
            boot_id: Some(self.boot_id()),
            running: Some(self.running.clone()),
            running_version: Some(if self.boot == 1 { "1.0" } else { "2.0" }.to_owned()),
            running_good: Some(!trying),
            staged,
            attempt: self.attempt.clone(),
            guard: Some("full".to_owned()),
            protocol: Some(PROTOCOL),
            ..NodeUpgradeStatus::default()
        }
    }
}
