//! What can be written on the command line.

mod verity;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use drydock_images::build::DEFAULT_LEVEL;
use drydock_images::delta::DEFAULT_LEVEL as DEFAULT_DELTA_LEVEL;
use drydock_images::publish::{Lifetimes, Signing};
use drydock_images::{Arch, ArtifactName, Board, ChannelName, Digest, ReleaseName, Version};
use drydock_images::{Severity, StateFormat, Vulnerability};
use jiff::Timestamp;

pub use verity::{RootArgs, VerityArgs};

/// Turn partition images into signed releases, and verify them to the last byte.
#[derive(Debug, Parser)]
#[command(name = "drydock-images", version, about, max_term_width = 100)]
pub struct Cli {
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make signing keys and the first root.
    Keygen(KeygenArgs),
    /// Make the next root: other keys, another threshold, or only more time.
    RotateRoot(RotateArgs),
    /// Make the dm-verity hash tree of an image, and print its root hash.
    Verity(VerityArgs),
    /// Make a release from partition images.
    Build(BuildArgs),
    /// Sign a release into a repository, a folder that any static web server can serve.
    Publish(PublishArgs),
    /// Put a published release into a channel.
    Promote(PromoteArgs),
    /// Make the file by which nodes get from one published release to another with few bytes. Needs
    /// room for two images in TMPDIR.
    Delta(DeltaArgs),
    /// Withdraw a release: no node stages or arms it any more.
    Withdraw(WithdrawArgs),
    /// Set the notes on a release and the vulnerabilities that it fixes.
    Advise(AdviseArgs),
    /// Do what a node does: check a release from the trusted root to its last byte.
    Verify(VerifyArgs),
    /// Show a release, a repository, a manifest or a chunk index.
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// The folder for keys and root; nothing in it is ever overwritten.
    #[arg(long)]
    pub out: PathBuf,
    /// How many root and targets keys must sign.
    #[arg(long, default_value_t = 1)]
    pub threshold: u32,
    /// How many root and targets keys to make.
    #[arg(long, default_value_t = 1)]
    pub keys: u32,
    /// Days until the root expires.
    #[arg(long, default_value_t = days(Lifetimes::default().root))]
    pub root_days: u32,
}

/// Which repository to change, with which keys.
#[derive(Debug, Args)]
pub struct SigningArgs {
    /// The repository's folder.
    #[arg(long)]
    pub repo: PathBuf,
    /// The folder of the signing keys.
    #[arg(long)]
    pub keys: PathBuf,
    /// Days until root.json expires.
    #[arg(long, default_value_t = days(Lifetimes::default().root))]
    pub root_days: u32,
    /// Days until targets.json expires.
    #[arg(long, default_value_t = days(Lifetimes::default().targets))]
    pub targets_days: u32,
    /// Days until snapshot.json expires.
    #[arg(long, default_value_t = days(Lifetimes::default().snapshot))]
    pub snapshot_days: u32,
    /// Days until timestamp.json expires.
    #[arg(long, default_value_t = days(Lifetimes::default().timestamp))]
    pub timestamp_days: u32,
}

impl SigningArgs {
    pub fn signing(&self) -> Signing {
        Signing {
            repo: self.repo.clone(),
            keys: self.keys.clone(),
            lifetimes: Lifetimes {
                root: lifetime(self.root_days),
                targets: lifetime(self.targets_days),
                snapshot: lifetime(self.snapshot_days),
                timestamp: lifetime(self.timestamp_days),
            },
            now: Timestamp::now(),
        }
    }
}

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

fn days(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs() / SECONDS_PER_DAY).unwrap_or(u32::MAX)
}

pub fn lifetime(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * SECONDS_PER_DAY)
}

#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    pub signing: SigningArgs,
    /// The folder of the keys to trust from now on, as keygen makes it. Without it the keys stay and
    /// the root gets more time.
    #[arg(long)]
    pub new_keys: Option<PathBuf>,
    /// How many of the new root and targets keys must sign.
    #[arg(long, default_value_t = 1, requires = "new_keys")]
    pub threshold: u32,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The OS.
    #[arg(long)]
    pub name: ReleaseName,
    /// Its version (UAPI.10 order: 1.2~rc1 before 1.2).
    #[arg(long = "version", id = "release-version")]
    pub version: Version,
    /// The kind of machine it is for.
    #[arg(long)]
    pub board: Board,
    /// The processor architecture it is for.
    #[arg(long)]
    pub arch: Arch,
    /// Once this release was marked good, a node refuses versions below this one.
    #[arg(long)]
    pub floor: Option<Version>,
    /// The oldest version to come from.
    #[arg(long)]
    pub min_from: Option<Version>,
    /// The folder of a release that nodes come from, as build made it: what is new since then is stored
    /// together, so that those nodes fetch little else. May be said several times; any node gets the release.
    #[arg(long)]
    pub after: Vec<PathBuf>,
    /// The kubelet's version inside.
    #[arg(long)]
    pub kubelet: Option<Version>,
    /// The SHA-256 of the kernel inside.
    #[arg(long)]
    pub kernel_digest: Option<Digest>,
    /// The images carry the guard (the default).
    #[arg(long, overrides_with = "no_guard")]
    pub guard: bool,
    /// The images carry no guard; nodes will not stage this release.
    #[arg(long)]
    pub no_guard: bool,
    /// The protocol that the guard speaks with the agent.
    #[arg(long, default_value_t = 1)]
    pub guard_protocol: u32,
    /// A piece of shared state that changed its format: journal, slotRecords, trustStore or config,
    /// the format written and the oldest read.
    #[arg(long, value_name = "PIECE=WRITES:OLDEST")]
    pub state: Vec<StateArg>,
    /// A partition image or block device; may be given again.
    #[arg(long, required = true, value_name = "NAME=PATH")]
    pub artifact: Vec<NamedPath>,
    #[command(flatten)]
    pub roots: RootArgs,
    /// The zstd level, 1 to 19; readers do not care which.
    #[arg(long, default_value_t = DEFAULT_LEVEL)]
    pub level: i32,
    /// The folder to make.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    #[command(flatten)]
    pub signing: SigningArgs,
    /// The release's folder.
    #[arg(long, required_unless_present = "timestamp_only")]
    pub release: Option<PathBuf>,
    /// A channel to put it into.
    #[arg(long, conflicts_with = "timestamp_only")]
    pub channel: Option<ChannelName>,
    /// In that channel, nodes below it go through it.
    #[arg(long, requires = "channel")]
    pub stepping_stone: bool,
    /// Publish nothing new; sign a fresh timestamp, with the timestamp key alone.
    #[arg(long, conflicts_with = "release")]
    pub timestamp_only: bool,
}

#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    pub signing: SigningArgs,
    /// The channel.
    #[arg(long)]
    pub channel: ChannelName,
    /// The release.
    #[arg(long)]
    pub digest: Digest,
    /// Nodes below it go through it.
    #[arg(long)]
    pub stepping_stone: bool,
}

#[derive(Debug, Args)]
pub struct DeltaArgs {
    #[command(flatten)]
    pub signing: SigningArgs,
    /// The release that nodes run.
    #[arg(long)]
    pub from: Digest,
    /// The release that they get.
    #[arg(long)]
    pub to: Digest,
    /// The zstd level, 9 to 22; readers do not care which.
    #[arg(long, default_value_t = DEFAULT_DELTA_LEVEL, conflicts_with = "best")]
    pub level: i32,
    /// Make it as small as can be, however long that takes.
    #[arg(long)]
    pub best: bool,
    /// Leave what is packed with zstd in the images (in a squashfs) as it is: nodes need not pack it again, and
    /// fetch more.
    #[arg(long)]
    pub keep_packed: bool,
}

#[derive(Debug, Args)]
pub struct WithdrawArgs {
    #[command(flatten)]
    pub signing: SigningArgs,
    /// The release.
    #[arg(long)]
    pub digest: Digest,
    /// Why, in words for people.
    #[arg(long)]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct AdviseArgs {
    #[command(flatten)]
    pub signing: SigningArgs,
    /// The release.
    #[arg(long)]
    pub digest: Digest,
    /// Notes for people.
    #[arg(long, default_value = "")]
    pub notes: String,
    /// A vulnerability that it fixes; may be given again.
    #[arg(long, value_name = "CVE=SEVERITY")]
    pub fixes: Vec<FixArg>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The repository's URL or folder.
    #[arg(long)]
    pub repo: String,
    /// The root.json to start trust from.
    #[arg(long)]
    pub root: PathBuf,
    /// Where to remember the newest metadata; without it, older ones than before cannot be told.
    #[arg(long)]
    pub datastore: Option<PathBuf>,
    /// The release.
    #[arg(long, conflicts_with = "channel")]
    pub release: Option<Digest>,
    /// The latest release of this channel. Without a release and a channel, all that are listed and
    /// not withdrawn are checked.
    #[arg(long)]
    pub channel: Option<ChannelName>,
    /// An image or partition on this machine that should be that artifact; may be given again.
    #[arg(long, value_name = "NAME=PATH")]
    pub image: Vec<NamedPath>,
    /// Further certificate authorities for https, in PEM.
    #[arg(long)]
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A release's folder, a repository's folder or URL, a manifest, or a chunk index.
    pub what: String,
    /// For a repository: the root.json to start trust from. Without it, its own first root.
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// For a chunk index: list every page.
    #[arg(long)]
    pub pages: bool,
}

/// `NAME=PATH`.
#[derive(Debug, Clone)]
pub struct NamedPath {
    pub name: ArtifactName,
    pub path: PathBuf,
}

impl FromStr for NamedPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("write NAME=PATH")?;
        Ok(Self {
            name: parse(name)?,
            path: path.into(),
        })
    }
}

/// `PIECE=WRITES:OLDEST`.
#[derive(Debug, Clone)]
pub struct StateArg {
    pub piece: String,
    pub format: StateFormat,
}

impl FromStr for StateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = "write PIECE=WRITES:OLDEST, for example journal=2:1";
        let (piece, formats) = text.split_once('=').ok_or(shape)?;
        let (writes, oldest) = formats.split_once(':').ok_or(shape)?;
        let format = StateFormat {
            writes: parse(writes)?,
            reads_from: parse(oldest)?,
        };
        Ok(Self {
            piece: piece.to_owned(),
            format,
        })
    }
}

/// `CVE=SEVERITY`.
#[derive(Debug, Clone)]
pub struct FixArg(pub Vulnerability);

impl FromStr for FixArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, severity) = text.split_once('=').ok_or("write CVE=SEVERITY")?;
        let severity: Severity = parse(severity)?;
        Ok(Self(Vulnerability {
            id: id.to_owned(),
            severity,
        }))
    }
}

fn parse<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
