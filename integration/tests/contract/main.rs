//! One contract, two servers: what Drydock's clients and the named kubectl commands rely on, asked of the
//! embedded API and of a real control plane in the same words. Each case writes down what it was told;
//! both must have been told the same, but for what `differences.rs` declares. See `docs/contract.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod budgets;
mod compaction;
mod custom;
mod deletion;
mod differences;
mod discovery;
mod evictions;
mod kubectl;
mod leases;
mod lists;
mod patches;
mod rules;
mod runner;
mod statuses;
mod subject;
mod talk;
mod transcript;
mod versions;
mod watches;
mod writes;

use futures::future::BoxFuture;

use self::talk::Talk;

/// What is asked of each server.
pub struct Case {
    pub name: &'static str,
    pub run: fn(Talk) -> BoxFuture<'static, ()>,
}

macro_rules! cases {
    ($($module:ident: $($case:ident),+;)+) => {
        &[$($(Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            run: |talk| Box::pin($module::$case(talk)),
        }),+),+]
    };
}

/// In namespaces and with names of their own, so that they run beside each other.
const CASES: &[Case] = cases! {
    lists: pages, label_selectors, field_selectors;
    versions: options, pages_of_one_version, gets;
    watches: from_a_version, selectors, streaming_list, too_old, one_object, ends, table;
    writes: creates, replaces, names, dry_runs, field_validation, deletes_collection;
    patches: merge, json, strategic, conflicts;
    statuses: nodes, pods, budgets, generations;
    custom: defaults_and_pruning, validation, status_and_generation, selectable_fields, establishing;
    rules: drydock;
    budgets: numbers, changes, selectors;
    evictions: answers, budget_of_one, two_budgets, passing_by, unhealthy, terminating_namespace;
    leases: held, gone;
    leases: events_series, events_views;
    deletion: preconditions, propagation, orphans, foreground, finalizers, pods_grace, namespaces;
    discovery: groups, identities, openapi, tables, partial;
    kubectl: get, describe, create_apply, cordon_drain, wait, watch;
};

/// Alone, when all others are done: they forget the server's history.
const LAST: &[Case] = cases! {
    compaction: old_pages, old_watch;
};

#[test]
fn both_servers_keep_one_contract() {
    runner::run(CASES, LAST);
}

#[test]
fn the_docs_show_the_declared_differences() {
    let docs = include_str!("../../../docs/contract.md");
    for line in differences::table().lines() {
        assert!(
            docs.contains(line),
            "docs/contract.md lacks this line of the table: copy it\n{}",
            differences::table()
        );
    }
}
