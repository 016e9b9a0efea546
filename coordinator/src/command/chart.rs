//! `drydock-coordinator chart`: the Helm chart as files. Talks to no cluster.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::install::chart;

/// Where the chart goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder; it must not exist yet.
    folder: PathBuf,
}

/// Writes the chart of this version.
///
/// # Errors
/// When the folder exists or a file cannot be written.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let folder = &args.folder;
    std::fs::create_dir(folder).with_context(|| {
        format!(
            "the folder {} cannot be made; name one that is not there",
            folder.display()
        )
    })?;
    for file in chart()? {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        std::fs::write(&path, file.text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
