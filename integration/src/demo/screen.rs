//! How the demo looks: a table that is drawn again and again on a terminal, or plain lines of what
//! changed. It shows what it is given and decides nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::view::{NodeRow, Snapshot, bytes, clock, short};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Where the story is told.
pub trait Screen: Send {
    /// A new act begins.
    fn act(&mut self, title: &str, text: &str);
    /// Something worth a line happened.
    fn say(&mut self, line: &str);
    /// Something bad happened, as it should or not.
    fn alarm(&mut self, line: &str);
    /// The cluster as it is now.
    fn show(&mut self, now: &Snapshot);
    /// The table is not needed any more.
    fn close(&mut self);
}

/// What changed of the nodes from one look to the next, as lines.
#[derive(Default)]
struct Changes {
    phases: BTreeMap<String, (String, String)>,
    leader: Option<String>,
}

impl Changes {
    fn since(&mut self, now: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for node in &now.nodes {
            // The particulars change all the time; the reason is what counts.
            let reason = node.why.split(':').next().unwrap_or_default().to_owned();
            let is = (node.phase.clone(), reason);
            if self.phases.get(&node.name) != Some(&is) && !node.phase.is_empty() {
                lines.push(format!("{:<8} {:<11} {}", node.name, node.phase, why(node)));
                self.phases.insert(node.name.clone(), is);
            }
        }
        if self.leader != now.leader {
            match &now.leader {
                Some(leader) => lines.push(format!("{leader} leads")),
                None => lines.push("nobody leads".to_owned()),
            }
            self.leader.clone_from(&now.leader);
        }
        lines
    }
}

/// Why a node waits, in a few words: the planner's reason, or what the agent says went wrong.
fn why(node: &NodeRow) -> String {
    let failed = node
        .status
        .attempt
        .as_ref()
        .filter(|attempt| attempt.state == drydock_api::outcome::FAILED);
    match (&node.status.last_error, failed) {
        (Some(error), _) => format!("{}: {}", error.code, error.text),
        (None, Some(failed)) if matches!(node.phase.as_str(), "Idle" | "GoingBack" | "Leaving") => {
            let code = failed.code.clone().unwrap_or_default();
            format!("{} failed here: {code}", short(&failed.digest))
        }
        _ if node.why.is_empty() && node.phase == "Idle" && node.ready => "up to date".to_owned(),
        _ => node.why.clone(),
    }
}

/// Lines on standard output.
#[derive(Default)]
pub struct PlainScreen {
    changes: Changes,
}

impl PlainScreen {
    fn line(line: &str) {
        println!("{}  {line}", clock(Timestamp::now()));
    }
}

impl Screen for PlainScreen {
    fn act(&mut self, title: &str, text: &str) {
        println!();
        Self::line(&format!("== {title}"));
        for line in text.lines() {
            println!("          {line}");
        }
    }

    fn say(&mut self, line: &str) {
        Self::line(line);
    }

    fn alarm(&mut self, line: &str) {
        Self::line(&format!("!! {line}"));
    }

    fn show(&mut self, now: &Snapshot) {
        for line in self.changes.since(now) {
            Self::line(&line);
        }
    }

    fn close(&mut self) {}
}

/// A table on a terminal, drawn in place; what happens scrolls by above it.
pub struct LiveScreen {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
    title: String,
    text: Vec<String>,
    begun: Instant,
    drawn: Option<Instant>,
    changes: Changes,
}

/// Not drawn more often than this.
const FRAME: Duration = Duration::from_millis(90);

impl Default for LiveScreen {
    fn default() -> Self {
        Self {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(15)),
            lines: Vec::new(),
            title: String::new(),
            text: Vec::new(),
            begun: Instant::now(),
            drawn: None,
            changes: Changes::default(),
        }
    }
}

impl LiveScreen {
    fn print(&self, line: &str) {
        // A terminal that is gone needs no lines.
        let _gone = self.bars.println(line);
    }

    fn draw(&mut self, lines: &[String]) {
        let style =
            ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        while self.lines.len() < lines.len() {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(style.clone());
            self.lines.push(bar);
        }
        for (bar, line) in self
            .lines
            .iter()
            .zip(lines.iter().map(String::as_str).chain(std::iter::repeat("")))
        {
            // An empty message would take its line away.
            bar.set_message(if line.is_empty() {
                " ".to_owned()
            } else {
                line.to_owned()
            });
            bar.tick();
        }
    }
}

impl Screen for LiveScreen {
    fn act(&mut self, title: &str, text: &str) {
        self.title = title.to_owned();
        self.text = text.lines().map(str::to_owned).collect();
        self.print(&format!(
            "{DIM}{}{PLAIN}  {BOLD}{CYAN}{title}{PLAIN}",
            clock(Timestamp::now())
        ));
    }

    fn say(&mut self, line: &str) {
        self.print(&format!("{DIM}{}{PLAIN}  {line}", clock(Timestamp::now())));
    }

    fn alarm(&mut self, line: &str) {
        self.print(&format!(
            "{DIM}{}{PLAIN}  {BOLD}{RED}{line}{PLAIN}",
            clock(Timestamp::now())
        ));
    }

    fn show(&mut self, now: &Snapshot) {
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < FRAME) {
            return;
        }
        self.drawn = Some(Instant::now());
        let before = self.changes.leader.clone();
        self.changes.since(now);
        if let Some(leader) = now.leader.as_ref().filter(|_| before != now.leader) {
            self.say(&format!("{leader} leads now"));
        }
        let seconds = self.begun.elapsed().as_secs();
        let mut lines = vec![
            " ".to_owned(),
            format!(
                " {BOLD}{CYAN}{}{PLAIN}  {DIM}{}:{:02}{PLAIN}",
                self.title,
                seconds / 60,
                seconds % 60
            ),
        ];
        lines.extend(self.text.iter().map(|line| format!(" {line}")));
        lines.push(" ".to_owned());
        lines.extend(table(now));
        self.draw(&lines);
    }

    fn close(&mut self) {
        for bar in self.lines.drain(..) {
            bar.finish();
        }
    }
}

fn table(now: &Snapshot) -> Vec<String> {
    let mut lines = vec![policy_line(now), apps_line(now), " ".to_owned()];
    lines.push(format!(
        " {DIM}{:<9}{:<12}{:<SLOTS$}{:>9}{:>10}{:>5}  {}{PLAIN}",
        "NODE", "PHASE", "SLOTS", "REUSED", "FETCHED", "PODS", "WHY IT WAITS"
    ));
    lines.extend(now.nodes.iter().map(node_line));
    lines.push(format!(
        " {DIM}* runs   + marked good   ? on trial   # cordoned{PLAIN}"
    ));
    for halt in &now.halts {
        lines.push(" ".to_owned());
        let version = halt.spec.version.clone().unwrap_or_default();
        lines.push(format!(
            " {BOLD}{RED}HALTED{PLAIN} {version} ({}): {}",
            short(&halt.spec.digest),
            halt.spec.reason
        ));
    }
    lines
}

fn policy_line(now: &Snapshot) -> String {
    let policy = &now.policy;
    let target = match &policy.target {
        Some(target) => format!(
            "{BOLD}{}{PLAIN} {DIM}{}{PLAIN}",
            target.version,
            short(&target.digest)
        ),
        None => "nothing yet".to_owned(),
    };
    let window = match &policy.next_window {
        Some(window) if window.start <= Timestamp::now() => {
            format!("window open until {} UTC", &clock(window.end)[..5])
        }
        Some(window) => format!("next window {} UTC", &clock(window.start)[..5]),
        None => "no window known".to_owned(),
    };
    let progress = policy.progress.clone().unwrap_or_else(|| "-".to_owned());
    let leader = now
        .leader
        .clone()
        .unwrap_or_else(|| format!("{YELLOW}nobody leads{PLAIN}"));
    let term = policy
        .term
        .map(|term| format!(" (term {term})"))
        .unwrap_or_default();
    format!(" wanted {target}   updated {BOLD}{progress}{PLAIN}   {window}   {leader}{DIM}{term}{PLAIN}")
}

fn apps_line(now: &Snapshot) -> String {
    let apps = now.apps.iter().map(|app| {
        let colour = match app.budget {
            Some(budget) if app.ready < budget => RED,
            _ if app.ready < app.wanted => YELLOW,
            _ => GREEN,
        };
        let budget = app
            .budget
            .map(|budget| format!("{DIM}, budget {budget}{PLAIN}"))
            .unwrap_or_default();
        format!(
            "{} {colour}{}/{}{PLAIN} ready{budget}",
            app.name, app.ready, app.wanted
        )
    });
    format!(" pods   {}", apps.collect::<Vec<_>>().join("   "))
}

fn node_line(node: &NodeRow) -> String {
    let colour = match node.phase.as_str() {
        "" | "Idle" | "Staged" => PLAIN,
        "Staging" | "Soaking" => CYAN,
        "GoingBack" | "NotBack" | "Undecided" => RED,
        "Committed" | "Leaving" => GREEN,
        _ => YELLOW,
    };
    let phase = if node.phase.is_empty() { "-" } else { &node.phase };
    let cordon = if node.cordoned {
        format!("{YELLOW}#{PLAIN}")
    } else {
        " ".to_owned()
    };
    let up = if node.ready {
        String::new()
    } else {
        format!("{RED}not ready{PLAIN} ")
    };
    let progress = node.status.progress.clone().unwrap_or_default();
    format!(
        " {:<8}{cordon}{colour}{phase:<12}{PLAIN}{}{:>9}{:>10}{:>5}  {up}{}",
        node.name,
        slots(node),
        bytes(progress.reused_bytes),
        bytes(progress.fetched_bytes),
        node.pods,
        why(node),
    )
}

/// The width of both slots' column: the whole table, but for long reasons, fits into 80.
const SLOTS: usize = 20;

/// Both slots: `*` runs, `+` is marked good, `?` is on trial.
fn slots(node: &NodeRow) -> String {
    let mut text = String::new();
    let mut width = 0;
    for slot in &node.status.slots {
        let version = slot.version.clone().unwrap_or_else(|| "-".to_owned());
        let mark = match (slot.successful, slot.tries > 0) {
            (true, _) => "+",
            (false, true) => "?",
            (false, false) => " ",
        };
        let running = slot.state == "running";
        let cell = format!("{}{} {version}{mark}", if running { "*" } else { " " }, slot.name);
        width += cell.chars().count() + 1;
        let colour = if running { BOLD } else { DIM };
        text.push_str(&format!("{colour}{cell}{PLAIN} "));
    }
    text.push_str(&" ".repeat(SLOTS.saturating_sub(width)));
    text
}
