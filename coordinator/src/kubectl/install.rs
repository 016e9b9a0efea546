//! `kubectl drydock install`: prints the manifests of an installation, or has the API server try them.

use std::io::Write;

use anyhow::Context as _;
use clap::ValueEnum;
use kube::api::{DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::Value;

use crate::install::{Agents, Installation, NAMESPACE, Number};

/// Who wrote the objects, for server-side apply.
const MANAGER: &str = "kubectl-drydock";
/// A namespace that every cluster has: where objects of a namespace that is not there yet are tried.
const STANDIN: &str = "default";

/// What to install.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespace of the coordinator.
    #[arg(long, default_value = NAMESPACE)]
    namespace: String,
    /// Image with drydock-coordinator and drydock-updater in /usr/bin.
    #[arg(long, default_value = concat!("drydock:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Replicas of the coordinator; one leads, the others wait.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=9))]
    replicas: u32,
    /// How agents run: as units of the nodes' image, or as pods.
    #[arg(long, value_enum, default_value_t = Agents::Unit)]
    agents: Agents,
    /// Which manifests. Who deletes `rest` alone keeps policies, repositories, halts and what is known of nodes.
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    /// `none` prints the manifests; `server` has the API server judge each, and changes nothing.
    #[arg(long, value_enum, default_value_t = DryRun::None, num_args = 0..=1, default_missing_value = "server")]
    dry_run: DryRun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything.
    All,
    /// The CustomResourceDefinitions: deleted, they take what they hold with them.
    Resources,
    /// Everything else.
    Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DryRun {
    None,
    Server,
}

impl Args {
    fn installation(&self) -> Installation {
        Installation {
            namespace: self.namespace.clone(),
            replicas: Number::Is(self.replicas),
            agents: self.agents,
            ..Installation::new(&self.image)
        }
    }

    fn manifests(&self) -> Vec<Value> {
        let mut all = self.installation().manifests();
        all.retain(|object| {
            let is_resource = object["kind"] == "CustomResourceDefinition";
            match self.part {
                Part::All => true,
                Part::Resources => is_resource,
                Part::Rest => !is_resource,
            }
        });
        all
    }

    /// Whether a cluster is needed at all.
    pub(super) fn is_offline(&self) -> bool {
        self.dry_run == DryRun::None
    }
}

/// Prints every manifest as YAML, in the order in which they are to be applied.
///
/// # Errors
/// When `out` cannot be written.
pub(super) fn print(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    for object in args.manifests() {
        let text = serde_saphyr::to_string(&object).context("a manifest as YAML")?;
        writeln!(out, "---\n{}", text.trim_end())?;
    }
    Ok(())
}

/// Has the API server judge every manifest without keeping it.
pub(super) async fn dry_run(
    args: &Args,
    config: kube::Config,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let client = super::client(config)?;
    let mut refused = 0_usize;
    for object in args.manifests() {
        let name = format!(
            "{} {}",
            object["kind"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        match try_on_server(&client, object).await {
            Ok(at) => writeln!(out, "ok       {name}{at}")?,
            Err(error) => {
                refused += 1;
                writeln!(out, "REFUSED  {name}: {error}")?;
            }
        }
    }
    anyhow::ensure!(
        refused == 0,
        "the API server refuses {refused} of the manifests; nothing was changed"
    );
    Ok(())
}

/// Where objects of this kind are.
pub(super) fn resource_of(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

async fn try_on_server(client: &Client, mut object: Value) -> Result<String, kube::Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = resource_of(&text(&object["apiVersion"]), &text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
    let params = PatchParams::apply(MANAGER).dry_run().force();
    let Some(namespace) = namespace else {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        api.patch(&name, &params, &Patch::Apply(&object)).await?;
        return Ok(String::new());
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    match api.patch(&name, &params, &Patch::Apply(&object)).await {
        Ok(_) => Ok(format!(" in {namespace}")),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            object["metadata"]["namespace"] = STANDIN.into();
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), STANDIN, &resource);
            api.patch(&name, &params, &Patch::Apply(&object)).await?;
            Ok(format!(" (tried in {STANDIN}: {namespace} is not there yet)"))
        }
        Err(error) => Err(error),
    }
}
