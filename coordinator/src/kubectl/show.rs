//! Tables and JSON. Nothing is computed here.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use drydock_plan::Note;
use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

/// A table without lines, as kubectl's are.
pub(super) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().map(|name| name.to_uppercase()));
    table
}

pub(super) fn write_table(table: &Table, out: &mut impl Write) -> anyhow::Result<()> {
    for line in table.to_string().lines() {
        // The table's own margin; kubectl's tables have none.
        let line = line.strip_prefix(' ').unwrap_or(line);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub(super) fn write_json(value: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

pub(super) fn notes_json(notes: &[Note]) -> Value {
    let notes = notes.iter().map(
        |note| json!({"reason": note.reason.name(), "text": note.text, "explain": note.reason.explain()}),
    );
    Value::Array(notes.collect())
}

/// An instant as people read it: to the second.
pub(super) fn instant(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}

/// A digest as people compare it.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}

pub(super) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}
