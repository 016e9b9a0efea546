//! Parts of files: exactly what was asked for, from servers with and without ranges, and going on where
//! a try broke off.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use drydock_images::FetchError;
use url::Url;

use super::wire::{Reply, Seen, Wire, fetcher, hasty};
use crate::support::noise;

const LENGTH: usize = 10_000;

fn file() -> Vec<u8> {
    noise(7, LENGTH)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_ranges_is_asked_for_exactly_the_range() {
    let server = Wire::serve(|seen, _| Reply::ranged(&file(), seen)).await;
    let fetcher = fetcher();
    assert_eq!(fetcher.serves_ranges(), None);
    for (start, end) in [(0, 1), (100, 300), (9_000, 10_000), (0, 10_000)] {
        let got = fetcher
            .fetch_range(&server.file(), start as u64..end as u64)
            .await;
        assert_eq!(got.unwrap(), file()[start..end]);
    }
    let asked = ["bytes=0-0", "bytes=100-299", "bytes=9000-9999", "bytes=0-9999"];
    assert_eq!(server.ranges(), asked);
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.encoding.as_deref() == Some("identity"))
    );
    assert_eq!(fetcher.serves_ranges(), Some(true));
    let traffic = fetcher.traffic();
    assert_eq!(
        (traffic.requests, traffic.body_bytes),
        (4, 1 + 200 + 1000 + 10_000)
    );
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::reversed_empty_ranges)]
async fn an_empty_range_is_asked_of_no_one() {
    let server = Wire::serve(|_, _| Reply::status("500 Oh")).await;
    let fetcher = fetcher();
    for range in [5..5, 6..5] {
        let got = fetcher.fetch_range(&server.file(), range).await.unwrap();
        assert!(got.is_empty());
    }
    assert_eq!(fetcher.traffic().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_is_read_to_the_end_of_the_range_and_remembered() {
    let server = Wire::serve(|_, _| Reply::status("200 OK").body(&file()).endless()).await;
    let fetcher = fetcher();
    let got = fetcher.fetch_range(&server.file(), 5_000..6_000).await;
    assert_eq!(got.unwrap(), file()[5_000..6_000]);
    assert_eq!(fetcher.serves_ranges(), Some(false));
    // What lay before the range came over the wire too.
    assert!(fetcher.traffic().body_bytes >= 6_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_the_range_is_refused() {
    let part = |said: &str, body: usize| {
        Reply::status("206 Partial Content")
            .header("Content-Range", said)
            .body(&vec![1; body])
    };
    let several = "multipart/byteranges; boundary=x";
    let table = [
        ("another range", part("bytes 0-99/10000", 100), "Refused"),
        ("a longer range", part("bytes 100-300/10000", 201), "Refused"),
        ("a shorter range", part("bytes 100-198/10000", 99), "Refused"),
        (
            "no range",
            Reply::status("206 Partial Content").body(&[1; 100]),
            "Refused",
        ),
        (
            "several ranges",
            part("bytes 100-199/10000", 100).header("Content-Type", several),
            "Refused",
        ),
        ("more than it says", part("bytes 100-199/10000", 101), "TooLong"),
        (
            "without an end",
            part("bytes 100-199/10000", 100).endless(),
            "TooLong",
        ),
        ("the file's end", part("bytes 100-149/150", 50), "TooShort"),
        (
            "behind the file's end",
            Reply::status("416 Range Not Satisfiable").header("Content-Range", "bytes */7"),
            "TooShort",
        ),
        (
            "a whole file that is shorter",
            Reply::whole(&[1; 150]),
            "TooShort",
        ),
        (
            "a shorter one of unstated length",
            Reply::status("200 OK").body(&[1; 150]),
            "TooShort",
        ),
        ("nothing of the kind", Reply::status("204 No Content"), "Refused"),
        ("no such file", Reply::status("404 Not Found"), "NotFound"),
    ];
    for (what, reply, wanted) in table {
        let server = Wire::serve(move |_, _| reply.clone()).await;
        let error = fetcher().fetch_range(&server.file(), 100..200).await.unwrap_err();
        let found = match &error {
            FetchError::Refused { .. } => "Refused",
            FetchError::TooLong { .. } => "TooLong",
            FetchError::TooShort { .. } => "TooShort",
            FetchError::NotFound { .. } => "NotFound",
            FetchError::NotAsSigned { .. } | FetchError::Scheme { .. } | FetchError::Unreachable { .. } => {
                "other"
            }
        };
        assert_eq!(found, wanted, "{what}: {error}");
        assert_eq!(server.seen().len(), 1, "{what} is not tried again");
    }
    let unasked = Wire::serve(|_, _| {
        Reply::status("206 Partial Content")
            .header("Content-Range", "bytes 0-9/10")
            .body(&[1; 10])
    })
    .await;
    let error = fetcher().fetch(&unasked.file(), 100).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_file_in_a_folder_is_read_where_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, file()).unwrap();
    let url = Url::from_file_path(&path).unwrap();
    let fetcher = fetcher();
    let got = fetcher.fetch_range(&url, 9_990..10_000).await.unwrap();
    assert_eq!(got, file()[9_990..]);
    assert_eq!(fetcher.serves_ranges(), Some(true));
    let error = fetcher.fetch_range(&url, 9_990..10_001).await.unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::TooShort {
                wanted_bytes: 10_001,
                found_bytes: Some(10_000),
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_break_only_the_rest_is_asked_for() {
    let breaks = |seen: &Seen, number: usize| {
        let reply = Reply::ranged(&file(), seen).header("ETag", "\"v1\"");
        match number {
            0 => reply.broken_after(1_000),
            1 => reply.broken_after(2_000),
            _ => reply,
        }
    };
    let server = Wire::serve(breaks).await;
    let fetcher_of_all = fetcher();
    let got = fetcher_of_all.fetch(&server.file(), LENGTH as u64).await;
    assert_eq!(got.unwrap(), file());
    assert_eq!(server.ranges(), ["", "bytes=1000-", "bytes=3000-"]);
    let conditions: Vec<_> = server.seen().into_iter().map(|seen| seen.if_range).collect();
    let same = Some("\"v1\"".to_owned());
    assert_eq!(conditions, [None, same.clone(), same.clone()]);
    assert_eq!(fetcher_of_all.traffic().body_bytes, LENGTH as u64);

    let server = Wire::serve(breaks).await;
    let got = fetcher().fetch_range(&server.file(), 5_000..9_000).await;
    assert_eq!(got.unwrap(), file()[5_000..9_000]);
    assert_eq!(
        server.ranges(),
        ["bytes=5000-8999", "bytes=6000-8999", "bytes=8000-8999"]
    );
    assert_eq!(server.seen()[1].if_range, same);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weak_validator_or_none_is_no_condition() {
    for tag in ["W/\"v1\"", ""] {
        let server = Wire::serve(move |seen, number| {
            let reply = Reply::ranged(&file(), seen).header("ETag", tag);
            if number == 0 {
                reply.broken_after(10)
            } else {
                reply
            }
        })
        .await;
        let got = fetcher().fetch(&server.file(), LENGTH as u64).await;
        assert_eq!(got.unwrap(), file());
        assert_eq!(server.seen()[1].range.as_deref(), Some("bytes=10-"));
        assert_eq!(server.seen()[1].if_range, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let server = Wire::serve(|_, number| {
        if number == 0 {
            Reply::whole(&file()).header("ETag", "\"v1\"").broken_after(1_000)
        } else {
            Reply::whole(b"the new one").header("ETag", "\"v2\"")
        }
    })
    .await;
    let fetcher = fetcher();
    let got = fetcher.fetch(&server.file(), LENGTH as u64).await.unwrap();
    assert_eq!(&got[..], b"the new one");
    // An answer with the whole because it changed says nothing about ranges.
    assert_eq!(fetcher.serves_ranges(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ranges_a_break_costs_the_way_there_but_loses_nothing() {
    let server = Wire::serve(|_, number| {
        let reply = Reply::whole(&file());
        if number == 0 {
            reply.broken_after(4_000)
        } else {
            reply
        }
    })
    .await;
    let got = fetcher().fetch(&server.file(), LENGTH as u64).await;
    assert_eq!(got.unwrap(), file());
    assert_eq!(server.ranges(), ["", "bytes=4000-"]);

    let server = Wire::serve(|_, number| {
        let breaks = [4_000, 3_000, 7_000];
        Reply::whole(&file()).broken_after(breaks[number])
    })
    .await;
    let got = fetcher().fetch_range(&server.file(), 2_000..6_500).await;
    assert_eq!(got.unwrap(), file()[2_000..6_500]);
    let asked = ["bytes=2000-6499", "bytes=4000-6499", "bytes=4000-6499"];
    assert_eq!(server.ranges(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_on_elsewhere_than_asked_is_asked_for_all_of_it() {
    let server = Wire::serve(|seen, number| match (number, &seen.range) {
        (0, _) => Reply::whole(&file()).broken_after(1_000),
        (_, Some(_)) => Reply::status("206 Partial Content")
            .header("Content-Range", "bytes 0-9999/10000")
            .body(&file()),
        (_, None) => Reply::whole(&file()),
    })
    .await;
    let got = fetcher().fetch(&server.file(), LENGTH as u64).await;
    assert_eq!(got.unwrap(), file());
    assert_eq!(server.ranges(), ["", "bytes=1000-", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_a_trickle_in_a_range_end_by_the_timeouts() {
    let (soon, late) = (Duration::from_millis(300), Duration::from_secs(30));
    for trickles in [false, true] {
        let fetcher = if trickles {
            hasty(late, soon)
        } else {
            hasty(soon, late)
        };
        let server = Wire::serve(move |seen, _| {
            let reply = Reply::ranged(&file(), seen).broken_after(10);
            if trickles {
                reply.trickling()
            } else {
                reply.silent()
            }
        })
        .await;
        let error = fetcher.fetch_range(&server.file(), 0..9_000).await.unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, FetchError::Unreachable { tries: 3, .. }),
            "{text}"
        );
        let why = if trickles {
            "1024 bytes a second"
        } else {
            "nothing came"
        };
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_follows_a_redirect_and_stays_a_range() {
    let behind = Wire::serve(|seen, _| Reply::ranged(&file(), seen)).await;
    let to = behind.file();
    let server = Wire::serve(move |_, _| Reply::status("302 Found").header("Location", &to)).await;
    let fetcher = fetcher();
    let got = fetcher.fetch_range(&server.file(), 100..200).await;
    assert_eq!(got.unwrap(), file()[100..200]);
    assert_eq!(behind.ranges(), ["bytes=100-199"]);
    assert_eq!(fetcher.traffic().requests, 2);

    for elsewhere in ["file:///etc/passwd", "/file", "ftp://127.0.0.1/"] {
        let server = Wire::serve(move |_, _| Reply::status("302 Found").header("Location", elsewhere)).await;
        let error = fetcher.fetch_range(&server.file(), 100..200).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Refused { .. }),
            "{elsewhere}: {error}"
        );
        assert!(server.seen().len() <= 4, "a loop ends and is not tried again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_bandwidth_limit_holds_and_is_no_timeout() {
    let server = Wire::serve(|seen, _| Reply::ranged(&noise(9, 400_000), seen)).await;
    // 400 kB at 200 kB a second, of which 50 kB are saved up: longer than may pass without a byte.
    let second = Duration::from_secs(1);
    let fetcher = hasty(second, second).with_limit(NonZeroU64::new(200_000).unwrap());
    let begun = Instant::now();
    let got = fetcher.fetch_range(&server.file(), 0..400_000).await.unwrap();
    assert_eq!(got, noise(9, 400_000));
    assert!(
        begun.elapsed() >= Duration::from_millis(1_700),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(server.seen().len(), 1);
}
