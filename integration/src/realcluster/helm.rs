//! The real Helm, built from `integration/helm`, a Go module that pins it.

use std::path::PathBuf;

use super::programs::GoPrograms;

/// Helm: built before, or now. None: this machine has no Go; that was said on standard error.
///
/// # Errors
/// When the build fails, and, with `CI=true`, instead of none.
pub fn helm() -> anyhow::Result<Option<PathBuf>> {
    let programs = GoPrograms {
        name: "helm",
        takes: "about two minutes",
        module: "helm",
        programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
        tags: "",
        linking: "-s -w".to_owned(),
    };
    Ok(programs.find()?.map(|folder| folder.join("helm")))
}
