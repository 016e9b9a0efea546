//! What a release of the OS is: its format, its digests, the signed metadata around it, and how to
//! make, publish, fetch and verify one. The bytes on the wire and every bound are in
//! `docs/release-format.md`.
//!
//! A reader starts with [`Repository::load`]; a release engineer with [`build`] and [`publish`].
//! This crate never writes to a partition and never decides whether a release should run.

pub mod build;
mod canonical;
pub mod channel;
pub mod chunk;
pub mod delta;
mod digest;
mod error;
mod fetch;
pub mod keys;
pub mod layout;
pub mod manifest;
mod names;
mod progress;
pub mod publish;
mod release;
mod repository;
mod trust;
pub mod verify;
pub mod verity;
mod version;

pub use channel::{Advisory, Channel, ChannelRelease, Severity, Vulnerability, Withdrawal, WithdrawnMark};
pub use chunk::{ChunkIndex, Chunker, CutChunk, Cuts, chunk_reader};
pub use digest::{Digest, Hasher, InvalidDigest, SPAN_BYTES};
pub use error::ReleaseError;
pub use fetch::{FetchError, Fetcher, MIRROR_REST, RetryPolicy, Timeouts, Traffic};
pub use manifest::{
    Artifact, Carries, Guard, Manifest, ManifestBody, ManifestError, SharedState, StateFormat, VerityRoot,
};
pub use names::{Arch, ArtifactName, Board, ChannelName, InvalidName, ReleaseName};
pub use progress::Progress;
pub use release::ReleaseDir;
pub use repository::{DEFAULT_PARALLEL_REQUESTS, Limits, MAX_RANGE_BYTES, Repository, RepositoryConfig};
pub use trust::{MetadataVersions, StoreStep, StoreWatch, StoreWrite, TrustError, Unwatched};
pub use version::{InvalidVersion, MAX_VERSION_BYTES, Version};
