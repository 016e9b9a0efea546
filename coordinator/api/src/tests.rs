//! What must hold of the wire types: the CRDs are structural enough to be served, bounded, and texts
//! read back as they were written.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

#[test]
fn every_string_and_list_of_every_crd_is_bounded() {
    fn walk(path: &str, schema: &serde_json::Value, out: &mut Vec<String>) {
        let kind = schema.get("type").and_then(|t| t.as_str());
        let bounded = ["maxLength", "enum", "format", "pattern"]
            .iter()
            .any(|k| schema.get(k).is_some());
        if kind == Some("string") && !bounded {
            out.push(format!("{path}: string without a bound"));
        }
        if kind == Some("array") && schema.get("maxItems").is_none() {
            out.push(format!("{path}: list without a bound"));
        }
        if let Some(props) = schema.get("properties").and_then(|p| p.as_object()) {
            for (name, sub) in props {
                walk(&format!("{path}.{name}"), sub, out);
            }
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, out);
        }
    }
    let mut unbounded = Vec::new();
    for crd in crds() {
        let json = serde_json::to_value(&crd).unwrap();
        let kind = json["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        let schema = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            walk(
                &format!("{kind}.{part}"),
                &schema["properties"][part],
                &mut unbounded,
            );
        }
    }
    // Selectors and conditions are Kubernetes' own types, with Kubernetes' own bounds.
    unbounded.retain(|line| !line.contains("elector") && !line.contains("conditions"));
    assert!(unbounded.is_empty(), "{unbounded:#?}");
}

#[test]
fn spans_read_back_as_written_and_nonsense_is_refused() {
    for text in ["0s", "90s", "15m", "1h30m", "2d", "366d"] {
        let span: SpanText = text.parse().unwrap();
        assert_eq!(span.to_string().parse::<SpanText>().unwrap(), span, "{text}");
    }
    assert_eq!("90s".parse::<SpanText>().unwrap().to_string(), "1m30s");
    for text in [
        "",
        "5",
        "m",
        "5x",
        "5s1m",
        "1m1m",
        "367d",
        "99999999999999999999s",
        "-1s",
        "1.5h",
    ] {
        assert!(text.parse::<SpanText>().is_err(), "{text}");
    }
}

#[test]
fn marks_read_back_as_written_and_nonsense_is_refused() {
    for kept in [false, true] {
        let mark = DockMark {
            attempt: "a3-77".into(),
            policy: "workers".into(),
            kept,
        };
        assert_eq!(mark.to_string().parse::<DockMark>().unwrap(), mark);
    }
    for text in [
        "",
        "a",
        "a policy=",
        "a kept",
        "a policy=x kept more",
        "a policy=x maybe",
    ] {
        assert!(text.parse::<DockMark>().is_err(), "{text}");
    }
    for text in ["forgive sha256:00", "cancel a1-2", "release a1-2"] {
        assert_eq!(text.parse::<Ask>().unwrap().to_string(), text);
    }
    assert!("destroy x".parse::<Ask>().is_err());
}
