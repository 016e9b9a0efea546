//! How results, errors and progress reach a person or a program. Results go to standard output, all
//! else to standard error.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use drydock_images::{Progress, ReleaseError, TrustError, verify::VerifyError, verity::VerityError};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

/// Where output goes.
pub struct Show {
    json: bool,
}

impl Show {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: `value` as JSON, or `text`.
    pub fn result(&self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        let line = if self.json {
            serde_json::to_string_pretty(value)?
        } else {
            text.trim_end().to_owned()
        };
        writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
    }

    /// Prints an error with its code, if it has one.
    pub fn error(&self, error: &anyhow::Error) {
        let code = code(error);
        let line = if self.json {
            serde_json::json!({ "error": { "code": code, "message": format!("{error:#}") } }).to_string()
        } else {
            match code {
                Some(code) => format!("error ({code}): {error:#}"),
                None => format!("error: {error:#}"),
            }
        };
        // Nothing is left to do where even this fails.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// A bar of bytes on a terminal; nothing for programs and pipes.
    pub fn bar(&self, total_bytes: u64, message: &'static str) -> (Progress, ProgressBar) {
        if self.json || !std::io::stderr().is_terminal() {
            return (Progress::none(), ProgressBar::hidden());
        }
        let template = "{msg} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total_bytes)
            .with_style(style)
            .with_message(message);
        let told = bar.clone();
        (Progress::new(move |bytes| told.inc(bytes)), bar)
    }
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

fn code(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(trust) = error.downcast_ref::<TrustError>() {
        return Some(trust.code());
    }
    match error.downcast_ref::<VerifyError>() {
        Some(VerifyError::Trust(trust)) => return Some(trust.code()),
        Some(VerifyError::Image { .. }) => return Some("ImageDiffers"),
        None => {}
    }
    if let Some(verity) = error.downcast_ref::<VerityError>() {
        return verity.code();
    }
    match error.downcast_ref::<ReleaseError>()? {
        ReleaseError::Busy { .. } => Some("Busy"),
        ReleaseError::Exists { .. } => Some("Exists"),
        ReleaseError::KeysMissing { .. } => Some("UnderThreshold"),
        ReleaseError::NotListed { .. } => Some("NotListed"),
        ReleaseError::Withdrawn { .. } => Some("Withdrawn"),
        ReleaseError::SavesTooLittle { .. } => Some("SavesTooLittle"),
        ReleaseError::Io { .. }
        | ReleaseError::Request(_)
        | ReleaseError::Key { .. }
        | ReleaseError::Repository { .. }
        | ReleaseError::Release { .. }
        | ReleaseError::Manifest(_)
        | ReleaseError::Document(_)
        | ReleaseError::Index(_)
        | ReleaseError::Page(_) => None,
    }
}
