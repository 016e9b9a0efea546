//! All rounds as a table in Markdown, in the order in which things were first measured: medians, and of memory
//! the most, since that is what a node must have.

use super::measure::{Run, mib};
use super::releases::Release;

/// All runs, by what was done.
#[derive(Debug, Default)]
pub struct Sheet {
    rows: Vec<(&'static str, Vec<Run>)>,
}

impl Sheet {
    pub fn add(&mut self, what: &'static str, run: Run) {
        match self.rows.iter_mut().find(|(name, _)| *name == what) {
            Some((_, runs)) => runs.push(run),
            None => self.rows.push((what, vec![run])),
        }
    }

    /// The first row is what the others' times are held against.
    pub fn print(&self, file_system: &str, release: &Release) -> String {
        let mut text = format!(
            "\n{file_system}: medians of {} runs, {} of {:.1} MiB\n\n\
             | | time | least to most | against dd | written after | against dd | CPU | peak memory, most | fetched | requests \
             | device read | device wrote |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
            self.rows.first().map_or(0, |(_, runs)| runs.len()),
            release.name,
            mib(release.image_bytes),
        );
        let wall = |run: &Run| run.wall.as_secs_f64();
        let peer = self.rows.first().map_or(f64::NAN, |(_, runs)| median(runs, wall));
        for (what, runs) in &self.rows {
            let least = runs.iter().map(wall).fold(f64::INFINITY, f64::min);
            let most = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).fold(0.0, f64::max);
            let time = median(runs, wall);
            let written = median(runs, |run| run.until_written.as_secs_f64());
            text += &format!(
                "| {what} | {time:.2} s | {least:.2} to {:.2} s | {:.2} | {written:.2} s | {:.2} | {:.2} s | {:.1} MiB | \
                 {:.2} MB | {} | {:.1} MiB | {:.1} MiB |\n",
                most(&wall),
                time / peer,
                written / peer,
                median(runs, |run| run.cpu.as_secs_f64()),
                most(&|run| mib(run.peak_bytes)),
                median(runs, |run| run.fetched().bytes as f64 / 1e6),
                median(runs, |run| run.fetched().requests as f64),
                median(runs, |run| mib(run.read_bytes)),
                median(runs, |run| mib(run.written_bytes)),
            );
        }
        text
    }
}

/// Of an even number of runs, the lower one of the two in the middle.
fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}
