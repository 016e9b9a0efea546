//! Building the control plane from `integration/control-plane`, a Go module that pins Kubernetes, and
//! keeping what was built under the hash of that module. Go fetches the sources by its own configured
//! means; nothing here names a host.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::process::{Keeper, tail};
use super::say::say;

/// The program, which is one of these by the name it is called with.
const PROGRAM: &str = "control-plane";
const NAMES: [&str; 5] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
];
/// How it is built; part of the hash.
const FLAGS: [&str; 4] = ["build", "-trimpath", "-buildvcs=false", "-mod=readonly"];
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(200);
/// A build that takes longer has hung: it is five minutes on two idle cores.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// Where the Go module is.
#[must_use]
pub fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("control-plane")
}

/// `go`, if this machine has it.
#[must_use]
pub fn go() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("go"))
        .find(|go| go.is_file())
}

/// The folder of programs that was built from this module as it is now, if there is one.
///
/// # Errors
/// When the module cannot be read.
pub fn built(module: &Path) -> anyhow::Result<Option<PathBuf>> {
    let folder = cache()?.join(hash(module)?);
    Ok(Some(folder).filter(|folder| folder.join(PROGRAM).is_file()))
}

/// Build it, and give the folder of programs. Whoever else builds at the same time is waited for.
///
/// # Errors
/// When Go fails: with the end of what it said.
pub fn build(module: &Path, go: &Path) -> anyhow::Result<PathBuf> {
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let _lock = lock(&cache)?;
    if let Some(folder) = built(module)? {
        return Ok(folder);
    }
    let making = tempfile::Builder::new()
        .prefix("building-")
        .tempdir_in(&cache)
        .with_context(|| format!("a folder to build in, in {}", cache.display()))?;
    let version = version(module)?;
    let started = Instant::now();
    say(&format!(
        "building Kubernetes {version} from its Go module, once: about five minutes on two idle cores"
    ));
    compile(module, go, &version, making.path())?;
    for name in NAMES {
        symlink(PROGRAM, making.path().join(name)).with_context(|| format!("a link named {name}"))?;
    }
    let folder = cache.join(hash(module)?);
    fs::rename(making.keep(), &folder).with_context(|| format!("put the build at {}", folder.display()))?;
    let bytes = fs::metadata(folder.join(PROGRAM)).map_or(0, |meta| meta.len());
    say(&format!(
        "built in {}: {} MB in {}",
        minutes(started.elapsed()),
        bytes / 1_000_000,
        folder.display()
    ));
    Ok(folder)
}

fn compile(module: &Path, go: &Path, version: &str, folder: &Path) -> anyhow::Result<()> {
    // Niced, so that a person goes on working while it builds.
    let mut command = Command::new("nice");
    command
        .args(["-n", "10"])
        .arg(go)
        .args(FLAGS)
        .args(["-v", "-ldflags", &linking(version), "-o"])
        .arg(folder.join(PROGRAM))
        .arg(".")
        .current_dir(module)
        // Without C it runs anywhere.
        .env("CGO_ENABLED", "0");
    let log = folder.join("build.log");
    let keeper = Keeper::new()?;
    let mut process = keeper.start("go build", command, &log)?;
    let (started, mut said) = (Instant::now(), Instant::now());
    let status = loop {
        if let Some(status) = process.ended()? {
            break status;
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "go build has not ended after {}:\n{}",
            minutes(PATIENCE),
            process.tail(10)
        );
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            say(&progress(&log, started.elapsed()));
        }
        std::thread::sleep(LOOK);
    };
    anyhow::ensure!(
        status.success(),
        "go build in {} failed ({status}); it needs Go 1.26 or newer, and the modules in Go's cache or a way to fetch them:\n{}",
        module.display(),
        tail("go build", &log, 30)
    );
    Ok(())
}

/// Without symbols, a third smaller. And with a version: without one the server calls itself v0.0.0, and
/// clients that compare versions trip over it.
pub(crate) fn linking(version: &str) -> String {
    let variable = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"));
    [
        "-s -w".to_owned(),
        variable("gitVersion", version),
        variable("gitMajor", major),
        variable("gitMinor", minor),
    ]
    .join(" ")
}

/// With `-v` Go names each package as it comes to it.
fn progress(log: &Path, elapsed: Duration) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let (fetched, compiled): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("go: downloading"));
    format!(
        "building for {}: {} modules fetched, {} packages compiled, now {}",
        minutes(elapsed),
        fetched.len(),
        compiled.len(),
        text.lines()
            .next_back()
            .unwrap_or("reading the module, or linking")
    )
}

pub(super) fn minutes(time: Duration) -> String {
    format!("{}m{:02}s", time.as_secs() / 60, time.as_secs() % 60)
}

/// `$XDG_CACHE_HOME/drydock/control-plane`, by default in `~/.cache`; without a home, in `target/`.
pub(super) fn cache() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    match base {
        Some(base) => Ok(base.join("drydock").join(PROGRAM)),
        None => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
            Ok(root
                .context("the workspace's folder")?
                .join("target")
                .join(PROGRAM))
        }
    }
}

/// Held by who builds; the file stays.
pub(super) fn lock(cache: &Path) -> anyhow::Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    let (started, mut said) = (Instant::now(), None::<Instant>);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "another build holds {} for {}",
            path.display(),
            minutes(PATIENCE)
        );
        if said.is_none_or(|said| said.elapsed() >= PROGRESS) {
            said = Some(Instant::now());
            say(&format!(
                "another build is waited for: {} so far",
                minutes(started.elapsed())
            ));
        }
        std::thread::sleep(LOOK);
    }
}

/// Kubernetes' version, as the module requires it: `v1.2.3`.
///
/// # Errors
/// When the module cannot be read.
pub fn version(module: &Path) -> anyhow::Result<String> {
    let path = module.join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"))
        .map(|version| format!("v{}", version.trim()))
        .with_context(|| format!("{} requires no k8s.io/kubernetes", path.display()))
}

/// The hash of what is built: every Go file of the module, go.mod, go.sum, and how.
fn hash(module: &Path) -> anyhow::Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(module)
        .with_context(|| format!("read {}", module.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|kind| ["go", "mod", "sum"].iter().any(|known| kind == *known))
    });
    files.sort();
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(FLAGS.join(" ").as_bytes());
    part(linking(&version(module)?).as_bytes());
    part(std::env::consts::ARCH.as_bytes());
    for path in files {
        part(path.file_name().unwrap_or_default().as_encoded_bytes());
        part(&fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(hex::encode(hash.finalize())[..16].to_owned())
}
