//! The demo's last page: what was checked, how often, and what was found.

use crate::observer::{Invariant, Report};

/// Whether everything held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Every check was made at least once, and held.
    AllHeld,
    /// Something was violated, or never put to the test.
    Failed,
}

/// A check that was never made proves nothing, so it counts as failed.
pub fn judge(report: &Report) -> Verdict {
    if report.findings().is_empty() && report.untested().is_empty() {
        Verdict::AllHeld
    } else {
        Verdict::Failed
    }
}

/// The page as text.
#[must_use]
pub fn print(report: &Report) -> String {
    let mut page = format!(
        "{:<5}{:<62}{:>8}{:>10}\n",
        "", "WHAT MUST HOLD", "CHECKED", "VIOLATED"
    );
    for invariant in Invariant::ALL {
        let tally = report.tally(invariant);
        let checked = if tally.evaluated == 0 {
            "never".to_owned()
        } else {
            tally.evaluated.to_string()
        };
        page.push_str(&format!(
            "{invariant:<5}{:<62}{checked:>8}{:>10}\n",
            invariant.title(),
            tally.violated
        ));
    }
    for finding in report.findings() {
        page.push_str(&format!("\nVIOLATED {finding}"));
    }
    page
}
