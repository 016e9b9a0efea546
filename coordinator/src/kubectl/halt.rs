//! `kubectl drydock halt`: a ReleaseHalt by a person.

use std::io::Write;

use anyhow::Context as _;
use drydock_api::{ReleaseHalt, ReleaseHaltSpec};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, Client, api::PostParams};

/// What is halted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The release: `sha256:` and 64 hexadecimal digits.
    #[arg(value_parser = digest)]
    digest: String,
    /// Why, in a sentence.
    #[arg(long)]
    reason: String,
}

/// Checks the form of a digest.
pub(super) fn digest(text: &str) -> Result<String, drydock_images::InvalidDigest> {
    text.parse::<drydock_images::Digest>()
        .map(|digest| digest.to_string())
}

/// Creates the ReleaseHalt.
pub(super) async fn main(
    args: Args,
    config: kube::Config,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let client = super::client(config)?;
    let name = args.digest.replace(':', "-");
    let spec = ReleaseHaltSpec {
        digest: args.digest.clone(),
        repository: None,
        version: None,
        reason: args.reason,
        evidence: Vec::new(),
        by: whoami(&client).await,
        at: Timestamp::now(),
    };
    let halts = Api::<ReleaseHalt>::all(client);
    match halts
        .create(&PostParams::default(), &ReleaseHalt::new(&name, spec))
        .await
    {
        Ok(_) => writeln!(
            out,
            "Halted {}. Nothing of it is staged or granted any more; what already runs it stays. `kubectl drydock forgive` lifts it.",
            args.digest
        )?,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            writeln!(out, "{} is halted already.", args.digest)?;
        }
        Err(error) => {
            return Err(error).context("the ReleaseHalt was not created; may you create releasehalts?");
        }
    }
    Ok(())
}

/// The person's name as the API server knows it.
async fn whoami(client: &Client) -> String {
    let api = Api::<SelfSubjectReview>::all(client.clone());
    let asked = api
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await;
    let name = asked
        .ok()
        .and_then(|review| review.status)
        .and_then(|status| status.user_info)
        .and_then(|user| user.username);
    let name = name.or_else(|| std::env::var("USER").ok());
    name.unwrap_or_else(|| "unknown".to_owned())
}
