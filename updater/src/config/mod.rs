//! The updater's configuration: files and folders of files, later ones over earlier ones, checked as a
//! whole into [`Settings`].
//!
//! A field that is not known is never silently ignored: [`load`] lists it, and the caller decides.
//! Guard and agent start all the same (they must be able to go back) but stage nothing; every other
//! command refuses.

mod fragment;
mod settings;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drydock_images::DEFAULT_PARALLEL_REQUESTS;
use url::Url;

use crate::disk::{Loader, SlotSelectors};

use fragment::{CheckFragment, Fragment, KubernetesFragment, RepositoryFragment, SlotFragment};
pub use settings::{HealthCheck, KubernetesAccess, RepositorySettings, RunningFrom, Settings, Span};

/// Where a node's image and its owner put the configuration; missing ones are skipped.
pub const DEFAULT_PATHS: [&str; 3] = [
    "/usr/lib/drydock/updater.toml",
    "/etc/drydock/updater.toml",
    "/etc/drydock/updater.d",
];
/// Bound on one file, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Bound on the number of files.
pub const MAX_FILES: usize = 64;

const MAX_CHECKS: usize = 32;
const MAX_REPOSITORIES: usize = 16;
const MAX_MIRRORS: usize = 8;
const MAX_FETCHES_AT_ONCE: usize = 32;
/// Below this a release would take weeks, and no one means it.
const LEAST_LIMIT_BYTES_PER_SECOND: u64 = 1000;
const DEFAULT_CONFIRM_WAIT: Duration = Duration::from_secs(15 * 60);
const DEFAULT_HEALTH_DEADLINE: Duration = Duration::from_secs(10 * 60);
const DEFAULT_CHECK_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_STATE_DIR: &str = "/var/lib/drydock";
const DEFAULT_RUN_DIR: &str = "/run/drydock";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("the configuration {} has more than {MAX_FILE_BYTES} bytes; it is not Drydock's", path.display())]
    TooLong { path: PathBuf },

    #[error("there are more than {MAX_FILES} configuration files; put them together")]
    TooManyFiles,

    #[error("no configuration was found; looked for {looked_for}. Start from docs/updater.example.toml")]
    None { looked_for: String },

    #[error("the configuration {} is no TOML: {problem}", path.display())]
    Syntax { path: PathBuf, problem: String },

    #[error("the configuration is wrong: {problem}. (Read: {files}.) See docs/updater.example.toml")]
    Wrong { problem: String, files: String },
}

/// What was read.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    pub settings: Settings,
    /// Paths of fields that this version does not know, as `table.field`.
    pub unknown_fields: Vec<String>,
    /// The files, in the order in which they were laid over each other.
    pub files: Vec<PathBuf>,
}

/// Reads `paths` (files, and folders whose `*.toml` are taken by name) and checks the whole. Tables of
/// later files are laid over earlier ones field by field; arrays replace. Missing paths are skipped.
/// `host_name` names the node where the configuration does not.
///
/// # Errors
/// See [`ConfigError`]. Unknown fields are none: they are in the result.
pub fn load(paths: &[PathBuf], host_name: &str) -> Result<LoadedConfig, ConfigError> {
    let mut files = Vec::new();
    for path in paths {
        list(path, &mut files)?;
    }
    if files.is_empty() {
        let looked_for = paths
            .iter()
            .map(|p| p.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        return Err(ConfigError::None { looked_for });
    }
    if files.len() > MAX_FILES {
        return Err(ConfigError::TooManyFiles);
    }
    let mut merged = toml::Table::new();
    for path in &files {
        let text = read(path)?;
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| syntax(path, &e))?;
        lay_over(&mut merged, table);
    }
    let wrong = |problem: String| {
        let files = files
            .iter()
            .map(|p| p.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        ConfigError::Wrong { problem, files }
    };
    let mut unknown_fields = Vec::new();
    let fragment: Fragment = serde_ignored::deserialize(merged, |path| unknown_fields.push(path.to_string()))
        .map_err(|e: toml::de::Error| wrong(e.to_string().trim().to_owned()))?;
    let settings = check(fragment, host_name).map_err(wrong)?;
    Ok(LoadedConfig {
        settings,
        unknown_fields,
        files,
    })
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(read(e)),
        Ok(metadata) if metadata.is_dir() => {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(path).map_err(read)? {
                let file = entry.map_err(read)?.path();
                if file.extension().is_some_and(|extension| extension == "toml") {
                    found.push(file);
                }
            }
            found.sort();
            files.append(&mut found);
            Ok(())
        }
        Ok(_) => {
            files.push(path.to_owned());
            Ok(())
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

fn syntax(path: &Path, error: &toml::de::Error) -> ConfigError {
    ConfigError::Syntax {
        path: path.to_owned(),
        problem: error.to_string().trim().to_owned(),
    }
}

fn lay_over(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => lay_over(old, new),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

fn check(fragment: Fragment, host_name: &str) -> Result<Settings, String> {
    let mut slots = fragment.slots;
    let mut slot = |name| {
        let found = slots
            .remove(&name)
            .ok_or_else(|| format!("`slots.{name}` is missing"))?;
        check_slot(found)
    };
    use crate::disk::SlotName::{A, B};
    let (slot_a, slot_b) = (slot(A)?, slot(B)?);
    let loader = fragment
        .disk
        .loader
        .ok_or("`disk.loader` is missing: gptprio, vboot or gptpriority")?;
    if fragment.disk.unguarded_kernel && loader != Loader::GptPriority {
        return Err(
            "`disk.unguarded_kernel` is for the loader gptpriority alone; the others count tries".into(),
        );
    }
    let disk = absolute("disk.path", fragment.disk.path, None)?;
    if let RunningFrom::File(path) = &fragment.disk.running {
        absolute("disk.running.file", Some(path.clone()), None)?;
    }
    let fetches_at_once = fragment
        .releases
        .fetches_at_once
        .unwrap_or(DEFAULT_PARALLEL_REQUESTS);
    if !(1..=MAX_FETCHES_AT_ONCE).contains(&fetches_at_once) {
        return Err(format!(
            "`releases.fetches_at_once` is {fetches_at_once}, not 1 to {MAX_FETCHES_AT_ONCE}"
        ));
    }
    Ok(Settings {
        node_name: check_node_name(fragment.node.name.unwrap_or_else(|| host_name.to_owned()))?,
        board: fragment.node.board.ok_or("`node.board` is missing")?,
        arch: fragment.node.arch.ok_or("`node.arch` is missing")?,
        disk,
        loader,
        slot_a,
        slot_b,
        running: fragment.disk.running,
        state_dir: absolute("paths.state", fragment.paths.state, Some(DEFAULT_STATE_DIR))?,
        run_dir: absolute("paths.run", fragment.paths.run, Some(DEFAULT_RUN_DIR))?,
        repositories: check_repositories(fragment.repositories)?,
        floor: fragment.releases.floor,
        allow_downgrade: fragment.releases.allow_downgrade,
        unguarded_kernel: fragment.disk.unguarded_kernel,
        fetches_at_once,
        max_bytes_per_second: fragment
            .releases
            .max_bytes_per_second
            .map(check_limit)
            .transpose()?,
        checks: check_checks(fragment.health.checks)?,
        confirm_wait: fragment
            .health
            .confirm_wait
            .map_or(DEFAULT_CONFIRM_WAIT, |span| span.0),
        health_deadline: fragment
            .health
            .deadline
            .map_or(DEFAULT_HEALTH_DEADLINE, |span| span.0),
        kubernetes: fragment.kubernetes.map(check_kubernetes).transpose()?,
    })
}

fn check_slot(slot: SlotFragment) -> Result<SlotSelectors, String> {
    for name in slot.artifacts.keys() {
        name.parse::<drydock_images::ArtifactName>()
            .map_err(|e| e.to_string())?;
    }
    Ok(SlotSelectors {
        boot: slot.boot,
        artifacts: slot.artifacts,
    })
}

fn absolute(field: &str, path: Option<PathBuf>, default: Option<&str>) -> Result<PathBuf, String> {
    let path = path
        .or(default.map(PathBuf::from))
        .ok_or_else(|| format!("`{field}` is missing"))?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("`{field}` is {path:?}, not an absolute path"))
    }
}

/// A DNS subdomain (RFC 1123), as Kubernetes names nodes.
fn check_node_name(name: String) -> Result<String, String> {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(plain) && label.ends_with(plain) && label.chars().all(|c| plain(c) || c == '-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(name)
    } else {
        Err(format!(
            "{name:?} is no node name; set `node.name` as `kubectl get nodes` shows it"
        ))
    }
}

fn check_repositories(all: Vec<RepositoryFragment>) -> Result<Vec<RepositorySettings>, String> {
    if all.len() > MAX_REPOSITORIES {
        return Err(format!(
            "{} repositories, more than {MAX_REPOSITORIES}",
            all.len()
        ));
    }
    let mut names = BTreeSet::new();
    let check = |repository: RepositoryFragment| {
        let RepositoryFragment {
            name,
            url,
            mirrors,
            root,
            ca_certificates,
        } = repository;
        // The same words as a channel's name, for the same reason: it becomes a folder's name.
        name.parse::<drydock_images::ChannelName>()
            .map_err(|e| format!("a repository's name: {e}"))?;
        check_urls(&name, &url, &mirrors)?;
        if !names.insert(name.clone()) {
            return Err(format!("two repositories are named {name}"));
        }
        let root = absolute(&format!("root of repository {name}"), Some(root), None)?;
        Ok(RepositorySettings {
            name,
            url,
            mirrors,
            root,
            ca_certificates,
        })
    };
    all.into_iter().map(check).collect()
}

fn check_urls(name: &str, url: &Url, mirrors: &[Url]) -> Result<(), String> {
    if mirrors.len() > MAX_MIRRORS {
        let found = mirrors.len();
        return Err(format!(
            "repository {name}: {found} mirrors, more than {MAX_MIRRORS}"
        ));
    }
    let mut seen = BTreeSet::new();
    for url in std::iter::once(url).chain(mirrors) {
        if !matches!(url.scheme(), "https" | "http" | "file") {
            return Err(format!(
                "repository {name}: its URL {url} is neither https, http nor file"
            ));
        }
        if !seen.insert(url.as_str().trim_end_matches('/')) {
            return Err(format!("repository {name}: {url} is named twice"));
        }
    }
    // Of the URL itself this is said when it is loaded: a guard starts without it.
    let unfit = |url: &&Url| url.query().is_some() || url.fragment().is_some();
    mirrors.iter().find(unfit).map_or(Ok(()), |url| {
        Err(format!(
            "repository {name}: its mirror {url} has a query or a fragment, to which no file can be joined"
        ))
    })
}

fn check_limit(bytes_per_second: u64) -> Result<NonZeroU64, String> {
    let limit = NonZeroU64::new(bytes_per_second);
    limit
        .filter(|limit| limit.get() >= LEAST_LIMIT_BYTES_PER_SECOND)
        .ok_or_else(|| {
            format!(
                "`releases.max_bytes_per_second` is {bytes_per_second}, fewer than {LEAST_LIMIT_BYTES_PER_SECOND}; leave it out for no limit"
            )
        })
}

fn check_checks(all: Vec<CheckFragment>) -> Result<Vec<HealthCheck>, String> {
    if all.len() > MAX_CHECKS {
        return Err(format!("{} health checks, more than {MAX_CHECKS}", all.len()));
    }
    let mut names = BTreeSet::new();
    let check = |check: CheckFragment| {
        let CheckFragment {
            name,
            command,
            timeout,
        } = check;
        if name.is_empty() || name.len() > 63 || !names.insert(name.clone()) {
            return Err(format!(
                "a health check is named {name:?}; names are 1 to 63 bytes, each once"
            ));
        }
        if command.first().is_none_or(String::is_empty) {
            return Err(format!("health check {name} has no command"));
        }
        Ok(HealthCheck {
            name,
            command,
            timeout: timeout.map_or(DEFAULT_CHECK_TIMEOUT, |span| span.0),
        })
    };
    all.into_iter().map(check).collect()
}

fn check_kubernetes(found: KubernetesFragment) -> Result<KubernetesAccess, String> {
    match (found.kubeconfig, found.in_cluster) {
        (Some(path), false) => {
            absolute("kubernetes.kubeconfig", Some(path), None).map(KubernetesAccess::Kubeconfig)
        }
        (None, true) => Ok(KubernetesAccess::InCluster),
        _ => Err(
            "`kubernetes` needs either `kubeconfig` or `in_cluster = true`; leave it out without a cluster"
                .into(),
        ),
    }
}
