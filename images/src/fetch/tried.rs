//! What all tries of one transfer came to, and the one error that they are told as.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use super::error::FetchError;
use super::mirrors::Source;

/// How each mirror's last try ended.
#[derive(Debug)]
enum Last {
    /// It may be asked again.
    Failed { url: Url, detail: String },
    /// It will say nothing else.
    Settled(FetchError),
}

/// The tries of one transfer.
#[derive(Debug)]
pub(super) struct Tried {
    sources: usize,
    tries: u32,
    last: BTreeMap<usize, Last>,
    /// After which time no other try may begin.
    late: Option<Duration>,
}

impl Tried {
    pub const fn new(sources: usize) -> Self {
        Self {
            sources,
            tries: 0,
            last: BTreeMap::new(),
            late: None,
        }
    }

    pub const fn begin(&mut self) {
        self.tries = self.tries.saturating_add(1);
    }

    pub fn failed(&mut self, source: &Source, detail: String) {
        let url = source.url.clone();
        self.last.insert(source.mirror, Last::Failed { url, detail });
    }

    pub fn settled(&mut self, source: &Source, error: FetchError) {
        self.last.insert(source.mirror, Last::Settled(error));
    }

    pub const fn out_of_time(&mut self, total: Duration) {
        self.late = Some(total);
    }

    pub fn may_ask(&self, source: &Source) -> bool {
        match self.last.get(&source.mirror) {
            Some(Last::Settled(_)) => false,
            Some(Last::Failed { .. }) | None => true,
        }
    }

    /// Whether another round may come to something.
    pub fn may_go_on(&self) -> bool {
        let settled = |last: &&Last| matches!(last, Last::Settled(_));
        self.late.is_none() && self.last.values().filter(settled).count() < self.sources
    }

    /// The mirrors that said that a file does not exist which another one has.
    pub fn lagging(&self) -> Vec<usize> {
        let lags = |last: &Last| matches!(last, Last::Settled(FetchError::NotFound { .. }));
        let lagging = self.last.iter().filter(|(_, last)| lags(last));
        lagging.map(|(mirror, _)| *mirror).collect()
    }

    /// The one error of all. A mirror that could not be asked might have the file: only if every one
    /// says that it does not exist, it does not.
    pub fn into_error(self, url: &Url) -> FetchError {
        let mut passing = Vec::new();
        let mut settled = Vec::new();
        for last in self.last.into_values() {
            match last {
                Last::Failed { url, detail } if self.sources > 1 => passing.push(format!("{url}: {detail}")),
                Last::Failed { detail, .. } => passing.push(detail),
                Last::Settled(error) => settled.push(error),
            }
        }
        if let Some(total) = self.late {
            passing.push(format!("not done within {total:?}"));
        }
        let worse = settled.iter().position(|error| !error.is_not_found());
        if !passing.is_empty() || settled.is_empty() {
            return FetchError::Unreachable {
                url: url.to_string(),
                tries: self.tries,
                detail: passing.join("; "),
            };
        }
        settled.swap_remove(worse.unwrap_or(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn source(mirror: usize) -> Source {
        let url = format!("https://mirror-{mirror}.test/x").parse().unwrap();
        Source { mirror, url }
    }

    fn not_found(mirror: usize) -> FetchError {
        let url = source(mirror).url.to_string();
        FetchError::NotFound { url }
    }

    #[test]
    fn only_when_every_mirror_says_so_a_file_does_not_exist() {
        let url: Url = "https://mirror-0.test/x".parse().unwrap();
        let mut tried = Tried::new(2);
        tried.settled(&source(0), not_found(0));
        assert!(tried.may_go_on());
        tried.failed(&source(1), "no route".to_owned());
        assert!(tried.may_go_on() && !tried.may_ask(&source(0)) && tried.may_ask(&source(1)));
        let text = tried.into_error(&url).to_string();
        assert!(text.contains("https://mirror-1.test/x: no route"), "{text}");

        let mut tried = Tried::new(2);
        tried.settled(&source(0), not_found(0));
        tried.settled(&source(1), not_found(1));
        assert!(!tried.may_go_on());
        assert_eq!(tried.into_error(&url), not_found(0));

        let mut tried = Tried::new(2);
        let refused = FetchError::Refused {
            url: url.to_string(),
            detail: "401".to_owned(),
        };
        tried.settled(&source(0), not_found(0));
        tried.settled(&source(1), refused.clone());
        assert_eq!(tried.into_error(&url), refused);

        let mut tried = Tried::new(1);
        tried.settled(&source(0), not_found(0));
        tried.out_of_time(Duration::from_secs(300));
        assert!(!tried.into_error(&url).is_not_found());
    }
}
