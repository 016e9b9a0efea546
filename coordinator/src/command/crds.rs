//! `drydock-coordinator crds`: the CustomResourceDefinitions as YAML. Talks to no cluster.

use std::io::Write;

use anyhow::Context as _;

/// Writes every CustomResourceDefinition, one document each, in the order of `drydock_api::crds`.
///
/// # Errors
/// When `out` cannot be written.
pub fn main(out: &mut impl Write) -> anyhow::Result<()> {
    for crd in drydock_api::crds() {
        let text = serde_saphyr::to_string(&crd).context("a CustomResourceDefinition as YAML")?;
        writeln!(out, "---")?;
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            writeln!(out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    #[test]
    fn what_is_printed_is_what_the_api_crate_defines() {
        let mut out = Vec::new();
        super::main(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let documents: Vec<serde_json::Value> = text
            .split("---\n")
            .filter(|document| !document.is_empty())
            .map(|document| serde_saphyr::from_str(document).unwrap())
            .collect();
        let defined: Vec<serde_json::Value> = drydock_api::crds()
            .iter()
            .map(|crd| serde_json::to_value(crd).unwrap())
            .collect();
        assert_eq!(documents, defined);
    }
}
