//! Windows: tables of what must hold at DST changes, midnight and leap days, and laws over random rules.

use drydock_api::{Recurrence, Span, UpgradePolicySpec};
use drydock_plan::windows::{Calendar, Kind, Recurring, add, fits, open_until};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use crate::script::policy;

const ALL: Kind = Kind {
    minor: true,
    security: false,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn recurrence(start: &str, zone: &str, duration: &str, rule: Option<&str>) -> Recurrence {
    Recurrence {
        start: start.to_owned(),
        time_zone: zone.to_owned(),
        duration: duration.parse().unwrap(),
        rrule: rule.map(str::to_owned),
    }
}

fn starts(when: &Recurrence, from: &str, to: &str) -> Vec<String> {
    Recurring::parse(when)
        .unwrap()
        .spans(at(from), at(to))
        .iter()
        .map(|span| span.start.to_string())
        .collect()
}

#[test]
fn starts_are_placed_in_local_time_over_dst_midnight_and_leap_days() {
    let daily = Some("FREQ=DAILY");
    let table = [
        // Berlin, 02:30 does not exist on 29 March 2026: the first instant that does is 03:00 summer time.
        (
            recurrence("2026-03-01T02:30:00", "Europe/Berlin", "1h", daily),
            ("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z"),
            vec!["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        // Berlin, 02:30 comes twice on 25 October 2026: the first of the two, once.
        (
            recurrence("2026-10-01T02:30:00", "Europe/Berlin", "1h", daily),
            ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
            vec!["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        // New York, gap on 8 March 2026 and overlap on 1 November 2026.
        (
            recurrence("2026-03-01T02:15:00", "America/New_York", "1h", daily),
            ("2026-03-08T00:00:00Z", "2026-03-09T12:00:00Z"),
            vec!["2026-03-08T07:00:00Z", "2026-03-09T06:15:00Z"],
        ),
        (
            recurrence("2026-10-01T01:30:00", "America/New_York", "30m", daily),
            ("2026-11-01T00:00:00Z", "2026-11-02T12:00:00Z"),
            vec!["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        // Friday's window past midnight belongs to Friday: none begins on Saturday.
        (
            recurrence(
                "2026-11-06T22:00:00",
                "Europe/Berlin",
                "6h",
                Some("FREQ=WEEKLY;BYDAY=FR"),
            ),
            ("2026-11-07T01:00:00Z", "2026-11-08T23:00:00Z"),
            vec!["2026-11-06T21:00:00Z"],
        ),
        // A leap day recurs in leap years.
        (
            recurrence(
                "2024-02-29T01:00:00",
                "UTC",
                "2h",
                Some("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29"),
            ),
            ("2026-01-01T00:00:00Z", "2033-01-01T00:00:00Z"),
            vec!["2028-02-29T01:00:00Z", "2032-02-29T01:00:00Z"],
        ),
        // UNTIL in UTC is an instant, not local time.
        (
            recurrence(
                "2026-11-02T00:30:00",
                "Europe/Berlin",
                "1h",
                Some("FREQ=DAILY;UNTIL=20261103T233000Z"),
            ),
            ("2026-11-01T00:00:00Z", "2026-11-10T00:00:00Z"),
            vec![
                "2026-11-01T23:30:00Z",
                "2026-11-02T23:30:00Z",
                "2026-11-03T23:30:00Z",
            ],
        ),
        // Every other week keeps its parity years later.
        (
            recurrence("2020-01-06T08:00:00", "UTC", "1h", Some("FREQ=WEEKLY;INTERVAL=2")),
            ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            vec![
                "2026-11-02T08:00:00Z",
                "2026-11-16T08:00:00Z",
                "2026-11-30T08:00:00Z",
            ],
        ),
        // Once.
        (
            recurrence("2026-12-24T00:00:00", "UTC", "3d", None),
            ("2026-12-25T00:00:00Z", "2027-01-01T00:00:00Z"),
            vec!["2026-12-24T00:00:00Z"],
        ),
        // COUNT counts from the first.
        (
            recurrence("2026-11-01T00:00:00", "UTC", "1h", Some("FREQ=DAILY;COUNT=3")),
            ("2026-11-02T00:00:00Z", "2026-12-01T00:00:00Z"),
            vec!["2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"],
        ),
    ];
    for (when, (from, to), wanted) in table {
        assert_eq!(starts(&when, from, to), wanted, "{when:?}");
    }
}

#[test]
fn what_cannot_be_understood_is_refused_with_what_to_write() {
    let table = [
        (recurrence("2026-13-01T00:00:00", "UTC", "1h", None), "local time"),
        (
            recurrence("2026-11-01T00:00:00", "Europe/Atlantis", "1h", None),
            "IANA",
        ),
        (recurrence("2026-11-01T00:00:00", "UTC", "30s", None), "minute"),
        (
            recurrence("2026-11-01T00:00:00", "UTC", "1h", Some("FREQ=HOURLY")),
            "finer",
        ),
        (
            recurrence("2026-11-01T00:00:00", "UTC", "1h", Some("BYDAY=MO")),
            "cannot be used",
        ),
        (
            recurrence("2026-11-01T00:00:00", "UTC", "1h", Some("FREQ=DAILY;UNTIL=soon")),
            "UNTIL",
        ),
    ];
    for (when, wanted) in table {
        let said = Recurring::parse(&when).unwrap_err().to_string();
        assert!(said.contains(wanted), "{said}");
    }
}

fn calendar(text: &str, now: &str) -> (UpgradePolicySpec, Calendar) {
    let spec = policy("workers", text);
    let calendar = Calendar::new(&spec, at(now)).unwrap();
    (spec, calendar)
}

#[test]
fn adjacent_windows_are_one_and_freezes_cut_them() {
    let (_, calendar) = calendar(
        "{windows: [{start: '2026-11-02T20:00:00', duration: 4h, rrule: FREQ=DAILY}, \
          {start: '2026-11-03T00:00:00', duration: 2h, rrule: FREQ=DAILY}], \
          freezes: [{start: '2026-11-04T23:00:00', duration: 30m}, \
          {start: '2026-11-05T20:00:00', duration: 1d, scope: OnlySecurity}]}",
        "2026-11-02T12:00:00Z",
    );
    let open = calendar.open(ALL);
    let need = std::time::Duration::from_secs(6 * 3600);
    assert!(fits(&open, at("2026-11-02T20:00:00Z"), need));
    assert!(!fits(&open, at("2026-11-02T20:00:01Z"), need));
    assert_eq!(
        open_until(&open, at("2026-11-04T22:59:59Z")),
        Some(at("2026-11-04T23:00:00Z"))
    );
    assert_eq!(open_until(&open, at("2026-11-04T23:00:00Z")), None);
    assert_eq!(
        open_until(&open, at("2026-11-04T23:30:00Z")),
        Some(at("2026-11-05T02:00:00Z"))
    );
    let secure = Kind {
        minor: true,
        security: true,
    };
    assert_eq!(open_until(&open, at("2026-11-05T21:00:00Z")), None);
    assert!(open_until(&calendar.open(secure), at("2026-11-05T21:00:00Z")).is_some());
}

fn rules() -> impl Strategy<Value = Recurrence> {
    let zone = prop::sample::select(vec![
        "Europe/Berlin",
        "America/New_York",
        "UTC",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
    ]);
    let rule = prop::sample::select(vec![
        None,
        Some("FREQ=DAILY"),
        Some("FREQ=DAILY;INTERVAL=3"),
        Some("FREQ=WEEKLY;BYDAY=SU,WE"),
        Some("FREQ=WEEKLY;INTERVAL=2"),
        Some("FREQ=MONTHLY;BYDAY=-1SU"),
        Some("FREQ=MONTHLY;BYMONTHDAY=31"),
        Some("FREQ=YEARLY;BYMONTH=3,10;BYDAY=-1SU"),
    ]);
    (zone, rule, 0i64..1000, 0i64..1440, 1u64..3000).prop_map(|(zone, rule, day, minute, length)| {
        let start =
            jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0) + SignedDuration::from_mins(day * 1440 + minute);
        Recurrence {
            start: start.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
            time_zone: zone.to_owned(),
            duration: drydock_api::SpanText::from_secs(length * 60),
            rrule: rule.map(str::to_owned),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_half_open_sorted_apart_and_the_same_from_wherever_one_looks(
        rule in rules(), other in rules(), day in 0i64..1200, step in 1i64..20,
    ) {
        let now = at("2024-01-01T00:00:00Z") + SignedDuration::from_hours(24 * day);
        let mut spec = policy("workers", "{}");
        spec.windows = [rule.clone(), other].map(|when| drydock_api::Window { name: None, when }).into();
        let calendar = Calendar::new(&spec, now).unwrap();
        let open: Vec<Span> = calendar.open(ALL);
        for pair in open.windows(2) {
            // Touching ones would be one.
            prop_assert!(pair[0].end < pair[1].start);
        }
        for span in &open {
            prop_assert!(span.start < span.end);
            prop_assert_eq!(open_until(&open, span.start), Some(span.end));
            prop_assert_eq!(open_until(&open, span.end), None);
            prop_assert!(!fits(&open, span.end, std::time::Duration::from_secs(1)));
        }
        // An occurrence is the same one, seen from later on.
        let recurring = Recurring::parse(&rule).unwrap();
        let end = now + SignedDuration::from_hours(24 * 40);
        let all = recurring.spans(now, end);
        let later = now + SignedDuration::from_hours(24 * step);
        let wanted: Vec<Span> = all.iter().filter(|span| span.end > later).cloned().collect();
        prop_assert_eq!(recurring.spans(later, end), wanted);
        for pair in all.windows(2) {
            prop_assert!(pair[0].start < pair[1].start);
        }
        for span in &all {
            prop_assert_eq!(add(span.start, rule.duration.duration()), span.end);
        }
    }
}
