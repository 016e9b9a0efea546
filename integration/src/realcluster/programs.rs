//! Programs that tests need and that come as Go modules: built once with the Go of this machine from a
//! module of ours that pins them, and kept under the hash of that module and of how they are built. Go
//! fetches the sources by its own configured means; nothing here names a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::build::{cache, go, lock, minutes};
use super::say::say;

/// How each is built; part of the hash.
const FLAGS: [&str; 4] = ["build", "-trimpath", "-buildvcs=false", "-mod=readonly"];

/// Programs of one Go module.
#[derive(Debug, Clone)]
pub struct GoPrograms {
    /// What people call them, and the folder in the cache.
    pub name: &'static str,
    /// What it takes to build them, in words.
    pub takes: &'static str,
    /// The folder of the module, below `integration`.
    pub module: &'static str,
    /// The name of each program, and the package that it is built from.
    pub programs: &'static [(&'static str, &'static str)],
    /// Build tags, with blanks between them.
    pub tags: &'static str,
    /// For the linker.
    pub linking: String,
}

impl GoPrograms {
    /// The folder that holds them: built before, or now. None: this machine has no Go; that was said on
    /// standard error.
    ///
    /// # Errors
    /// When the build fails, and, with `CI=true`, instead of none.
    pub fn find(&self) -> anyhow::Result<Option<PathBuf>> {
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.module);
        let cache = cache()?.with_file_name(self.name);
        let folder = cache.join(self.hash(&module)?);
        if folder.is_dir() {
            return Ok(Some(folder));
        }
        let Some(go) = go() else {
            let lack = format!(
                "there is no `go` to build {} with; install Go 1.26 or newer",
                self.name
            );
            anyhow::ensure!(
                std::env::var("CI").as_deref() != Ok("true"),
                "{lack}: in CI nothing is skipped"
            );
            say(&format!("SKIPPED: {lack}. What needs it was NOT tested"));
            return Ok(None);
        };
        fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
        let _lock = lock(&cache)?;
        if folder.is_dir() {
            return Ok(Some(folder));
        }
        say(&format!(
            "building {} from its Go module, once: {}",
            self.name, self.takes
        ));
        let started = Instant::now();
        let making = tempfile::Builder::new()
            .prefix("building-")
            .tempdir_in(&cache)
            .with_context(|| format!("a folder to build in, in {}", cache.display()))?;
        for (program, package) in self.programs {
            self.compile(&go, &module, package, &making.path().join(program))?;
        }
        fs::rename(making.keep(), &folder)
            .with_context(|| format!("put {} at {}", self.name, folder.display()))?;
        say(&format!("built {} in {}", self.name, minutes(started.elapsed())));
        Ok(Some(folder))
    }

    fn compile(&self, go: &Path, module: &Path, package: &str, out: &Path) -> anyhow::Result<()> {
        let output = Command::new("nice")
            .args(["-n", "10"])
            .arg(go)
            .args(FLAGS)
            .args(["-tags", self.tags, "-ldflags", &self.linking, "-o"])
            .arg(out)
            .arg(package)
            .current_dir(module)
            // Without C it runs anywhere.
            .env("CGO_ENABLED", "0")
            .output()
            .context("start nice")?;
        anyhow::ensure!(
            output.status.success(),
            "go build of {package} in {} failed ({}); it needs Go 1.26 or newer, and the modules in Go's cache or a \
             way to fetch them:\n{}",
            module.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn hash(&self, module: &Path) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for text in [&FLAGS.join(" "), self.tags, &self.linking, std::env::consts::ARCH] {
            part(text.as_bytes());
        }
        for (program, package) in self.programs {
            part(program.as_bytes());
            part(package.as_bytes());
        }
        for name in ["go.mod", "go.sum"] {
            let path = module.join(name);
            part(&fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        Ok(hex::encode(hash.finalize())[..16].to_owned())
    }
}
