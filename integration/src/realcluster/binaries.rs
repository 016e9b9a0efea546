//! Where the programs of a control plane come from: the folder that `KUBEBUILDER_ASSETS` names, a build
//! made before, or a build now. A machine without any of them is told so, loudly; CI is failed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::build;
use super::say::say;

/// envtest's name for the folder with etcd, kube-apiserver and kubectl.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The programs of a control plane.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub api_server: PathBuf,
    /// kube-controller-manager; envtest has none, and then nobody collects garbage, makes default service
    /// accounts or signs certificates.
    pub controller_manager: Option<PathBuf>,
    /// kube-scheduler; envtest has none.
    pub scheduler: Option<PathBuf>,
    /// kubectl, of the API server's version.
    pub kubectl: PathBuf,
    /// Where all of this came from, for people.
    pub origin: String,
}

impl Binaries {
    /// Find them, or build them (minutes, with progress on standard error). None: this machine has none
    /// and no Go to build them with; that was said on standard error, and what needs them is skipped.
    ///
    /// # Errors
    /// When the folder named lacks a program, when the build fails, and, with `CI=true`, instead of none.
    pub fn find() -> anyhow::Result<Option<Binaries>> {
        if let Some(folder) = std::env::var_os(ASSETS).filter(|folder| !folder.is_empty()) {
            return Binaries::in_folder(Path::new(&folder), ASSETS).map(Some);
        }
        let module = build::module();
        if let Some(folder) = build::built(&module)? {
            return Binaries::in_folder(&folder, "built before").map(Some);
        }
        match build::go() {
            Some(go) => {
                let folder = build::build(&module, &go)?;
                Binaries::in_folder(&folder, "built now").map(Some)
            }
            None => {
                let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
                for line in skipped(if is_ci { Runner::Ci } else { Runner::Person })? {
                    say(&line);
                }
                Ok(None)
            }
        }
    }

    /// Those in this folder.
    ///
    /// # Errors
    /// When it lacks etcd, kube-apiserver or kubectl.
    pub fn in_folder(folder: &Path, origin: &str) -> anyhow::Result<Binaries> {
        let program = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let needed = |name: &str| {
            program(name).with_context(|| {
                format!(
                    "{} has no {name} ({origin}): put it there, or unset {ASSETS} to have one built",
                    folder.display()
                )
            })
        };
        Ok(Binaries {
            etcd: needed("etcd")?,
            api_server: needed("kube-apiserver")?,
            controller_manager: program("kube-controller-manager"),
            scheduler: program("kube-scheduler"),
            kubectl: needed("kubectl")?,
            origin: format!("{origin}: {}", folder.display()),
        })
    }
}

/// Who runs this.
#[derive(Clone, Copy)]
enum Runner {
    Person,
    Ci,
}

/// What a person is told who has no control plane; CI is failed.
fn skipped(runner: Runner) -> anyhow::Result<[String; 4]> {
    let lack = format!("{ASSETS} is not set, none was built before, and there is no `go` to build one with");
    let mend = format!("install Go 1.26 or newer, or set {ASSETS} (see docs/real-cluster.md)");
    match runner {
        Runner::Ci => {
            anyhow::bail!("no control plane here: {lack}; in CI (CI=true) nothing is skipped: {mend}")
        }
        Runner::Person => Ok([
            "################ SKIPPED: no control plane here ################".to_owned(),
            format!("{lack}."),
            format!("What needs a real API server was NOT tested: {mend}."),
            "################################################################".to_owned(),
        ]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn without_go_a_person_is_told_and_ci_is_failed() {
        assert!(skipped(Runner::Person).unwrap().join(" ").contains("SKIPPED"));
        let error = skipped(Runner::Ci).unwrap_err().to_string();
        assert!(error.contains("nothing is skipped"), "{error}");
    }

    #[test]
    fn a_folder_that_lacks_a_program_is_named_with_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("etcd"), "").unwrap();
        let error = Binaries::in_folder(folder.path(), ASSETS)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("has no kube-apiserver") && error.contains(ASSETS),
            "{error}"
        );
        for name in ["kube-apiserver", "kubectl"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = Binaries::in_folder(folder.path(), ASSETS).unwrap();
        assert!(found.controller_manager.is_none() && found.scheduler.is_none());
    }
}
