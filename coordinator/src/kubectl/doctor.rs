//! `kubectl drydock doctor`: whether an installation is whole and at work, and what to do where it is not.
//! Reads, and writes nothing.

use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use drydock_api::{ImageRepository, NodeUpgrade, PROTOCOL, UpgradePolicy};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::install::resource_of;
use super::{Output, show};
use crate::install::{AGENT, Agents, COORDINATOR, Installation, NAMESPACE, first_difference};

/// ValidatingAdmissionPolicy is v1 since then.
const OLDEST_SERVER: (u32, u32) = (1, 30);
/// A leader renews its Lease every two seconds.
const LEASE_FRESH: Duration = Duration::from_secs(20);
/// Objects per page.
const PAGE: u32 = 500;
/// Nodes named in one line.
const NAMED: usize = 5;

/// Which installation is looked at.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Namespace of the coordinator.
    #[arg(long, default_value = NAMESPACE)]
    namespace: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Look,
    Bad,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Look => "look",
            Self::Bad => "BAD",
        }
    }
}

/// One thing that was looked at.
struct Finding {
    verdict: Verdict,
    what: String,
    /// What is wrong and what to do; for what is good, a figure.
    text: String,
}

/// Looks, and says all that was found.
///
/// # Errors
/// When the cluster cannot be read, or something is wrong.
pub(super) async fn main(
    args: Args,
    config: kube::Config,
    output: Output,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let mut doctor = Doctor {
        client: super::client(config)?,
        namespace: args.namespace,
        found: Vec::new(),
    };
    doctor.server().await?;
    doctor.objects().await;
    doctor.coordinator().await;
    doctor.repositories().await;
    doctor.policies().await;
    doctor.agents().await;
    match output {
        Output::Json => {
            let found = doctor.found.iter().map(
                |found| json!({"verdict": found.verdict.word(), "what": found.what, "text": found.text}),
            );
            show::write_json(&Value::Array(found.collect()), out)?;
        }
        Output::Table => {
            let mut table = show::table(&["", "what", ""]);
            for found in &doctor.found {
                table.add_row([found.verdict.word(), &found.what, &found.text]);
            }
            show::write_table(&table, out)?;
        }
    }
    let bad = doctor
        .found
        .iter()
        .filter(|found| found.verdict == Verdict::Bad)
        .count();
    anyhow::ensure!(
        bad == 0,
        "{bad} of {} are not as they should be",
        doctor.found.len()
    );
    Ok(())
}

struct Doctor {
    client: Client,
    namespace: String,
    found: Vec<Finding>,
}

impl Doctor {
    fn find(&mut self, verdict: Verdict, what: &str, text: impl Into<String>) {
        self.found.push(Finding {
            verdict,
            what: what.to_owned(),
            text: text.into(),
        });
    }

    async fn server(&mut self) -> anyhow::Result<()> {
        let version = self
            .client
            .apiserver_version()
            .await
            .context("the API server does not answer")?;
        let number = |text: &str| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().unwrap_or(0)
        };
        let is = (number(&version.major), number(&version.minor));
        let (verdict, text) = if is < OLDEST_SERVER {
            let (major, minor) = OLDEST_SERVER;
            (
                Verdict::Bad,
                format!(
                    "{} has no ValidatingAdmissionPolicy v1, so nothing keeps an agent to its own object; \
                     Drydock needs {major}.{minor}",
                    version.git_version
                ),
            )
        } else {
            (Verdict::Good, version.git_version)
        };
        self.find(verdict, "API server", text);
        Ok(())
    }

    /// Every object of the installation is there, and is what this version would put there.
    async fn objects(&mut self) {
        let as_pods = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            &format!("{}-agents", self.namespace),
            &resource_of("apps/v1", "DaemonSet"),
        );
        let agents = match as_pods.get_opt(AGENT).await {
            Ok(Some(_)) => Agents::DaemonSet,
            Ok(None) | Err(_) => Agents::Unit,
        };
        let installation = Installation {
            namespace: self.namespace.clone(),
            agents,
            ..Installation::new("any")
        };
        let mut good = 0;
        let mut all = installation.manifests();
        // Their size and image are the operator's.
        all.retain(|object| !matches!(object["kind"].as_str(), Some("Deployment" | "DaemonSet")));
        let count = all.len();
        for ours in all {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, name) = (text(&ours["kind"]), text(&ours["metadata"]["name"]));
            let resource = resource_of(&text(&ours["apiVersion"]), &kind);
            let api: Api<DynamicObject> = match ours["metadata"]["namespace"].as_str() {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            let what = format!("{kind} {name}");
            match api.get_opt(&name).await {
                Ok(Some(theirs)) => match serde_json::to_value(&theirs) {
                    Ok(theirs) => match first_difference(&ours, &theirs) {
                        // One that Helm made has no labels; Drydock works in it all the same.
                        Some(path) if kind == "Namespace" => self.find(
                            Verdict::Look,
                            &what,
                            format!("{path} is not as this version has it; label it as `kubectl drydock install` does"),
                        ),
                        Some(path) => self.find(
                            Verdict::Bad,
                            &what,
                            format!(
                                "{path} is not as this version has it; apply `kubectl drydock install` again"
                            ),
                        ),
                        None => good += 1,
                    },
                    Err(error) => self.find(Verdict::Look, &what, format!("cannot be read: {error}")),
                },
                Ok(None) => self.find(
                    Verdict::Bad,
                    &what,
                    "is missing; apply `kubectl drydock install` again",
                ),
                Err(error) => self.find(Verdict::Look, &what, format!("cannot be looked at: {error}")),
            }
        }
        if good == count {
            self.find(
                Verdict::Good,
                "resources, rights, admission policies",
                format!("{good} objects, as this version has them"),
            );
        }
    }

    async fn coordinator(&mut self) {
        let api = Api::<Deployment>::namespaced(self.client.clone(), &self.namespace);
        match api.get_opt(COORDINATOR).await {
            Ok(Some(deployment)) => {
                let wanted = deployment.spec.replicas.unwrap_or(1);
                let ready = deployment
                    .status
                    .and_then(|status| status.ready_replicas)
                    .unwrap_or(0);
                let (verdict, text) = if ready == wanted {
                    (Verdict::Good, format!("{ready} of {wanted} replicas are ready"))
                } else {
                    let verdict = if ready == 0 { Verdict::Bad } else { Verdict::Look };
                    let text = format!(
                        "{ready} of {wanted} replicas are ready; see `kubectl -n {} describe pods`",
                        self.namespace
                    );
                    (verdict, text)
                };
                self.find(verdict, "coordinator", text);
            }
            Ok(None) => self.find(
                Verdict::Look,
                "coordinator",
                format!(
                    "there is no Deployment {COORDINATOR} in {}; it may run elsewhere",
                    self.namespace
                ),
            ),
            Err(error) => self.find(
                Verdict::Look,
                "coordinator",
                format!("cannot be looked at: {error}"),
            ),
        }
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        match api.get_opt(COORDINATOR).await {
            Ok(Some(lease)) => {
                let spec = lease.spec.unwrap_or_default();
                let renewed = spec.renew_time.map(|time| time.0);
                let age = renewed.map(|at| Timestamp::now().duration_since(at));
                let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
                let fresh = age.is_some_and(|age| age.unsigned_abs() < LEASE_FRESH);
                match (holder, fresh) {
                    (Some(holder), true) => self.find(Verdict::Good, "leader", holder),
                    (Some(holder), false) => self.find(
                        Verdict::Bad,
                        "leader",
                        format!("{holder} has not renewed its Lease, and nobody took it; is a coordinator running?"),
                    ),
                    (None, _) => {
                        self.find(Verdict::Bad, "leader", "nobody leads; is a coordinator running?");
                    }
                }
            }
            Ok(None) => self.find(
                Verdict::Bad,
                "leader",
                "nobody has ever led; is a coordinator running?",
            ),
            Err(error) => self.find(Verdict::Look, "leader", format!("cannot be looked at: {error}")),
        }
    }

    async fn repositories(&mut self) {
        let api = Api::<ImageRepository>::all(self.client.clone());
        let Ok(list) = api.list(&ListParams::default().limit(PAGE)).await else {
            return self.find(Verdict::Bad, "ImageRepositories", "cannot be listed");
        };
        if list.items.is_empty() {
            self.find(
                Verdict::Look,
                "ImageRepositories",
                "there is none yet, so there is nothing to upgrade to",
            );
        }
        for repository in list {
            let what = format!("ImageRepository {}", repository.name_any());
            let status = repository.status.unwrap_or_default();
            let (verdict, text) = match (status.last_error, status.expires) {
                (Some(error), _) => (Verdict::Bad, error),
                (None, None) => (Verdict::Look, "the coordinator has not read it yet".to_owned()),
                (None, Some(expires)) if expires <= Timestamp::now() => (
                    Verdict::Bad,
                    format!(
                        "its metadata expired at {expires}; the release engineer must sign a new timestamp"
                    ),
                ),
                (None, Some(expires)) => (Verdict::Good, format!("current until {expires}")),
            };
            self.find(verdict, &what, text);
        }
    }

    async fn policies(&mut self) {
        let api = Api::<UpgradePolicy>::all(self.client.clone());
        let Ok(list) = api.list(&ListParams::default().limit(PAGE)).await else {
            return self.find(Verdict::Bad, "UpgradePolicies", "cannot be listed");
        };
        if list.items.is_empty() {
            self.find(
                Verdict::Look,
                "UpgradePolicies",
                "there is none yet, so no node is upgraded",
            );
        }
        for policy in list {
            let what = format!("UpgradePolicy {}", policy.name_any());
            let status = policy.status.unwrap_or_default();
            let accepted = status
                .conditions
                .iter()
                .find(|condition| condition.type_ == "Accepted");
            let (verdict, text) = match accepted {
                None => (
                    Verdict::Look,
                    "the coordinator has not looked at it yet".to_owned(),
                ),
                Some(condition) if condition.status == "True" => {
                    (Verdict::Good, status.progress.unwrap_or_default())
                }
                Some(condition) => (Verdict::Bad, condition.message.clone()),
            };
            self.find(verdict, &what, text);
        }
    }

    /// Agents: who is silent, who has no guard, who speaks another protocol, who reports an error.
    async fn agents(&mut self) {
        let api = Api::<NodeUpgrade>::all(self.client.clone());
        let mut params = ListParams::default().limit(PAGE);
        let (mut silent, mut unguarded, mut foreign, mut troubled) = (vec![], vec![], vec![], vec![]);
        let mut count = 0_usize;
        loop {
            let Ok(page) = api.list(&params).await else {
                return self.find(Verdict::Bad, "NodeUpgrades", "cannot be listed");
            };
            for upgrade in page.items {
                count += 1;
                let name = upgrade.name_any();
                let Some(status) = upgrade.status.filter(|status| status.agent_state.is_some()) else {
                    silent.push(name);
                    continue;
                };
                if status.guard.is_none() {
                    unguarded.push(name.clone());
                }
                if status.protocol != Some(PROTOCOL) {
                    foreign.push(name.clone());
                }
                if let Some(error) = status.last_error {
                    troubled.push(format!("{name} ({})", error.code));
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break,
            }
        }
        if count == 0 {
            let text = "there is no NodeUpgrade yet; the coordinator makes one for each node of a policy";
            return self.find(Verdict::Look, "agents", text);
        }
        if silent.is_empty() && unguarded.is_empty() && foreign.is_empty() && troubled.is_empty() {
            return self.find(Verdict::Good, "agents", format!("{count} report"));
        }
        let kinds = [
            (
                Verdict::Bad,
                silent,
                "have not reported; is drydock-updater agent running there?",
            ),
            (
                Verdict::Bad,
                unguarded,
                "have no guard; start drydock-guard.service there",
            ),
            (
                Verdict::Look,
                foreign,
                "speak another protocol; upgrade resources, coordinator, agents, in that order",
            ),
            (
                Verdict::Look,
                troubled,
                "report an error; see `kubectl drydock explain NODE`",
            ),
        ];
        for (verdict, names, what) in kinds {
            if !names.is_empty() {
                let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
                let more = names.len().saturating_sub(NAMED);
                let more = if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                };
                self.find(verdict, "agents", format!("{shown}{more} {what}"));
            }
        }
    }
}
