//! The real Helm, built from `integration/helm`, a Go module that pins it, and kept under that module's hash.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::build::{cache, go, lock};
use super::say::say;

/// The package of the program.
const PACKAGE: &str = "helm.sh/helm/v3/cmd/helm";
/// How it is built; part of the hash.
const FLAGS: [&str; 6] = [
    "build",
    "-trimpath",
    "-buildvcs=false",
    "-mod=readonly",
    "-ldflags",
    "-s -w",
];

/// Helm: built before, or now. None: this machine has no Go; that was said on standard error.
///
/// # Errors
/// When the build fails, and, with `CI=true`, instead of none.
pub fn helm() -> anyhow::Result<Option<PathBuf>> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm");
    let cache = cache()?.with_file_name("helm");
    let program = cache.join(hash(&module)?);
    if program.is_file() {
        return Ok(Some(program));
    }
    let Some(go) = go() else {
        let lack = "there is no `go` to build Helm with; install Go 1.26 or newer";
        anyhow::ensure!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{lack}: in CI nothing is skipped"
        );
        say(&format!("SKIPPED: {lack}. Drydock's chart was NOT tested"));
        return Ok(None);
    };
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let _lock = lock(&cache)?;
    if program.is_file() {
        return Ok(Some(program));
    }
    say("building Helm from its Go module, once: about two minutes");
    let making = tempfile::Builder::new()
        .prefix("building-")
        .tempdir_in(&cache)
        .with_context(|| format!("a folder to build in, in {}", cache.display()))?;
    let made = making.path().join("helm");
    let output = Command::new("nice")
        .args(["-n", "10"])
        .arg(go)
        .args(FLAGS)
        .arg("-o")
        .arg(&made)
        .arg(PACKAGE)
        .current_dir(&module)
        .env("CGO_ENABLED", "0")
        .output()
        .context("start nice")?;
    anyhow::ensure!(
        output.status.success(),
        "go build in {} failed ({}); it needs Go 1.26 or newer, and the modules in Go's cache or a way to fetch them:\n{}",
        module.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&made, &program).with_context(|| format!("put Helm at {}", program.display()))?;
    Ok(Some(program))
}

fn hash(module: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    hash.update(FLAGS.join(" "));
    hash.update(std::env::consts::ARCH);
    for name in ["go.mod", "go.sum"] {
        let path = module.join(name);
        hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(hex::encode(hash.finalize())[..16].to_owned())
}
