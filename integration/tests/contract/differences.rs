//! Where the embedded API is known to differ from the real one, step by step, and why that is left so.
//! `docs/contract.md` shows this table; a difference that is gone must be struck here.

use std::fmt::Write as _;

/// A step of a case in which the two are told different things.
pub struct Difference {
    pub case: &'static str,
    pub step: &'static str,
    pub reason: &'static str,
}

const fn differs(case: &'static str, step: &'static str, reason: &'static str) -> Difference {
    Difference { case, step, reason }
}

pub const DIFFERENCES: &[Difference] = &[
    differs(
        "versions::gets",
        "no such group",
        "the embedded server answers each 404 with a Status; the real one writes plain text where it serves no such group",
    ),
    differs("custom::establishing", "not there", "the same"),
    differs(
        "watches::ends",
        "a bookmark before the end",
        "bookmarks come at the interval alone",
    ),
    differs(
        "writes::field_validation",
        "a field twice",
        "JSON is read into maps, where a field that stands twice is one",
    ),
    differs(
        "writes::field_validation",
        "policy, metadata",
        "unknown fields in a custom resource's metadata are kept silently",
    ),
    differs(
        "patches::json",
        "no such operation",
        "refused when the patch is read (400), not when it is applied (422)",
    ),
    differs(
        "patches::json",
        "replace what is not there",
        "refused, as RFC 6902 has it; the real server's library adds it",
    ),
    differs(
        "patches::strategic",
        "a directive",
        "strategic merge serves maps and plain lists, without directives",
    ),
    differs(
        "patches::strategic",
        "conditions by type",
        "strategic merge serves no list with a merge key",
    ),
    differs(
        "patches::strategic",
        "finalizers",
        "strategic merge serves no list that is merged",
    ),
    differs("patches::strategic", "server-side apply", "not served"),
    differs(
        "statuses::nodes",
        "taints of a new node",
        "no admission taints new nodes",
    ),
    differs(
        "statuses::pods",
        "default tolerations",
        "no admission gives default tolerations",
    ),
    differs(
        "custom::validation",
        "a fraction for an integer",
        "the real server's second reader adds a cause of its own",
    ),
    differs(
        "custom::validation",
        "a patch of the status",
        "the real server leaves `status` out of the words, not out of the field",
    ),
    differs(
        "custom::validation",
        "another version",
        "the real server warns of a field of a version it does not serve",
    ),
    differs(
        "rules::drydock",
        "a misnamed halt",
        "CEL rules are stored; only the fall of a NodeUpgrade's term is judged",
    ),
    differs("rules::drydock", "no release", "the same rule holds: not judged"),
    differs(
        "rules::drydock",
        "two releases",
        "the same rule holds: not judged",
    ),
    differs(
        "discovery::groups",
        "aggregated discovery",
        "not served; clients fall back",
    ),
    differs(
        "discovery::identities",
        "as one without rights",
        "nobody is authorized, nobody impersonated",
    ),
    differs("discovery::identities", "who am I", "no reviews are served"),
    differs(
        "discovery::openapi",
        "/openapi/v2",
        "not served; kubectl before v1.27 asked for it",
    ),
    differs(
        "discovery::tables",
        "daemon sets",
        "the wide columns of workloads and the node selector are not there",
    ),
    differs(
        "discovery::tables",
        "deployments",
        "the wide columns of workloads are not there",
    ),
    differs(
        "discovery::tables",
        "replica sets",
        "the wide columns of workloads are not there",
    ),
    differs(
        "discovery::tables",
        "events",
        "the wide columns Subobject and First Seen are not there",
    ),
    differs(
        "discovery::partial",
        "an object as a list",
        "an object is an object, whichever form was asked for",
    ),
    differs("discovery::partial", "yaml", "answers are JSON"),
    differs("kubectl::describe", "a pod", "no admission gives a priority"),
    differs(
        "kubectl::create_apply",
        "apply a change",
        "the schemas of built-in kinds have no fields; kubectl says so and goes by its own",
    ),
    differs("kubectl::create_apply", "apply again", "the same warning"),
    differs("kubectl::create_apply", "apply it once more", "the same warning"),
    differs("kubectl::create_apply", "apply over it", "the same warning"),
    differs("kubectl::create_apply", "diff", "the same warning"),
    differs("kubectl::create_apply", "dry run", "the same warning"),
    differs("kubectl::create_apply", "apply server-side", "not served"),
    differs(
        "kubectl::create_apply",
        "create an imperative",
        "protobuf bodies are not served",
    ),
];

/// As Markdown.
pub fn table() -> String {
    let mut table = String::from("| case | step | why |\n|---|---|---|\n");
    for Difference { case, step, reason } in DIFFERENCES {
        writeln!(table, "| {case} | {step} | {reason} |").unwrap();
    }
    table
}
