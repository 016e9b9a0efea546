//! The places that hold the same repository: which of them is asked first, and what a URL is called
//! at each. What a mirror says is never believed more than what any other says.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

/// How long a mirror that failed is asked after all others.
pub const MIRROR_REST: Duration = Duration::from_secs(300);

/// What a server does with a request for a part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranges {
    /// It answers with that part.
    Served,
    /// It answers with the whole file.
    Ignored,
}

/// A file at one mirror.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Its place in the list of mirrors; the repository's own URL is 0.
    pub mirror: usize,
    pub url: Url,
}

#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    rests_until: Option<Instant>,
    ranges: Option<Ranges>,
}

/// All mirrors of a repository, and how each did of late.
#[derive(Debug)]
pub(super) struct Mirrors {
    bases: Vec<Url>,
    standing: Mutex<Vec<Standing>>,
}

impl Mirrors {
    /// Folder URLs that end with a slash, the one that callers use first. Without any, every URL
    /// stands for itself.
    pub fn new(bases: Vec<Url>) -> Self {
        let standing = vec![Standing::default(); bases.len().max(1)];
        Self {
            bases,
            standing: Mutex::new(standing),
        }
    }

    /// `url` at every mirror, by their list. One that is not below the first base has no mirrors.
    pub fn sources(&self, url: &Url) -> Vec<Source> {
        let itself = || Source {
            mirror: 0,
            url: url.clone(),
        };
        let Some(path) = self
            .bases
            .first()
            .and_then(|base| url.as_str().strip_prefix(base.as_str()))
        else {
            return vec![itself()];
        };
        let at = |(mirror, base): (usize, &Url)| {
            let url = Url::parse(&format!("{base}{path}")).ok()?;
            Some(Source { mirror, url })
        };
        self.bases.iter().enumerate().filter_map(at).collect()
    }

    /// Puts sources into the order in which they are asked at `now`: those that rest come last, the
    /// one that rests longest first.
    pub fn sort(&self, sources: &mut [Source], now: Instant) {
        let standing = self.lock();
        sources.sort_by_key(|source| (rest(&standing, source.mirror, now), source.mirror));
    }

    /// As [`Mirrors::sort`], but a mirror that ignores ranges is asked after one that does not.
    pub fn sort_for_range(&self, sources: &mut [Source], now: Instant) {
        let standing = self.lock();
        let ignores = |mirror: usize| ranges(&standing, mirror) == Some(Ranges::Ignored);
        sources.sort_by_key(|source| {
            let resting = rest(&standing, source.mirror, now);
            (resting, ignores(source.mirror), source.mirror)
        });
    }

    /// A mirror failed, or said what was not so: it rests.
    pub fn failed(&self, mirror: usize, now: Instant) {
        let mut standing = self.lock();
        let alone = standing.len() < 2;
        if let Some(of) = standing.get_mut(mirror) {
            if !alone && of.rests_until.is_none_or(|until| until <= now) {
                let url = self.bases.get(mirror).map_or("", Url::as_str);
                tracing::warn!(mirror = %url, rest = ?MIRROR_REST, "a mirror failed and is asked last for a while");
            }
            of.rests_until = Some(now + MIRROR_REST);
        }
    }

    /// A mirror was seen to serve ranges, or to ignore them.
    pub fn saw(&self, mirror: usize, seen: Ranges) {
        if let Some(of) = self.lock().get_mut(mirror) {
            of.ranges = Some(seen);
        }
    }

    /// All mirrors in the order in which they are asked at `now`.
    pub fn order(&self, now: Instant) -> Vec<usize> {
        let standing = self.lock();
        let mut all: Vec<_> = (0..standing.len()).collect();
        all.sort_by_key(|mirror| (rest(&standing, *mirror, now), *mirror));
        all
    }

    /// What is known of the mirror that a request for a range asks first at `now`.
    pub fn ranges(&self, now: Instant) -> Option<Ranges> {
        let standing = self.lock();
        let ignores = |mirror: usize| ranges(&standing, mirror) == Some(Ranges::Ignored);
        let first = (0..standing.len())
            .min_by_key(|mirror| (rest(&standing, *mirror, now), ignores(*mirror), *mirror))?;
        ranges(&standing, first)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Standing>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when a mirror rests; None, which sorts first, for one that does not.
fn rest(standing: &[Standing], mirror: usize, now: Instant) -> Option<Instant> {
    standing
        .get(mirror)
        .and_then(|of| of.rests_until)
        .filter(|until| *until > now)
}

fn ranges(standing: &[Standing], mirror: usize) -> Option<Ranges> {
    standing.get(mirror).and_then(|of| of.ranges)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn mirrors() -> Mirrors {
        let bases = ["https://a.test/os/", "http://b.test/", "file:///srv/os/"];
        Mirrors::new(bases.iter().map(|url| url.parse().unwrap()).collect())
    }

    fn order(mirrors: &Mirrors, now: Instant) -> Vec<usize> {
        let url = "https://a.test/os/x".parse().unwrap();
        let mut sources = mirrors.sources(&url);
        mirrors.sort(&mut sources, now);
        sources.iter().map(|source| source.mirror).collect()
    }

    #[test]
    fn a_url_below_the_first_base_is_the_same_file_at_every_other() {
        let sources = mirrors().sources(&"https://a.test/os/packs/abx".parse().unwrap());
        let urls: Vec<_> = sources.iter().map(|source| source.url.as_str()).collect();
        assert_eq!(
            urls,
            [
                "https://a.test/os/packs/abx",
                "http://b.test/packs/abx",
                "file:///srv/os/packs/abx"
            ]
        );
        let elsewhere: Url = "https://a.test/other/x".parse().unwrap();
        assert_eq!(mirrors().sources(&elsewhere)[0].url, elsewhere);
        assert_eq!(mirrors().sources(&elsewhere).len(), 1);
    }

    #[test]
    fn a_mirror_that_failed_is_asked_last_for_the_stated_time() {
        let (mirrors, now) = (mirrors(), Instant::now());
        assert_eq!(order(&mirrors, now), [0, 1, 2]);
        mirrors.failed(0, now);
        assert_eq!(order(&mirrors, now), [1, 2, 0]);
        mirrors.failed(1, now + Duration::from_secs(1));
        assert_eq!(order(&mirrors, now), [2, 0, 1]);
        assert_eq!(mirrors.order(now), [2, 0, 1]);
        let later = now + MIRROR_REST;
        assert_eq!(order(&mirrors, later), [0, 2, 1]);
    }

    #[test]
    fn ranges_are_asked_where_they_are_served() {
        let (mirrors, now) = (mirrors(), Instant::now());
        assert_eq!(mirrors.ranges(now), None);
        mirrors.saw(0, Ranges::Ignored);
        mirrors.saw(1, Ranges::Served);
        assert_eq!(mirrors.ranges(now), Some(Ranges::Served));
        mirrors.failed(1, now);
        mirrors.failed(2, now);
        assert_eq!(mirrors.ranges(now), Some(Ranges::Ignored));
    }
}
