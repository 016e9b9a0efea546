//! The style that a reader relies on, as a test: modules say what they are, pure crates stay pure, and
//! dependencies run one way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&path, out);
        } else if name.ends_with(".rs") {
            out.push(path);
        }
    }
}

fn all_rust_files() -> Vec<PathBuf> {
    let mut out = Vec::new();
    rust_files(&root(), &mut out);
    assert!(out.len() > 50, "the walk found {} files only", out.len());
    out
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<_> = all_rust_files()
        .into_iter()
        .filter(|path| !fs::read_to_string(path).unwrap().trim_start().starts_with("//!"))
        .collect();
    assert!(
        silent.is_empty(),
        "these files do not begin with a `//!` line: {silent:#?}"
    );
}

#[test]
fn no_module_is_a_drawer_for_odds_and_ends() {
    let drawers: Vec<_> = all_rust_files()
        .into_iter()
        .filter(|path| {
            path.with_extension("").iter().any(|part| {
                ["utils", "util", "common", "helpers", "misc"]
                    .iter()
                    .any(|bad| part == *bad)
            })
        })
        .collect();
    assert!(
        drawers.is_empty(),
        "name these after a noun of the field: {drawers:#?}"
    );
}

/// What each crate of the workspace says it needs, tests apart.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let dirs = [
        "images",
        "updater/machine",
        "updater",
        "coordinator/api",
        "coordinator/plan",
        "coordinator",
        "integration",
    ];
    dirs.iter()
        .map(|dir| {
            let text = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
            let section = text.split("\n[dependencies]").nth(1).unwrap_or_default();
            let section = section.split("\n[").next().unwrap_or_default();
            let names = section
                .lines()
                .filter_map(|line| {
                    line.split_once('=')
                        .map(|(name, _)| name.trim().trim_end_matches(".workspace").to_owned())
                })
                .collect();
            ((*dir).to_owned(), names)
        })
        .collect()
}

#[test]
fn pure_crates_cannot_reach_a_runtime_a_client_or_a_disk() {
    let impure = [
        "tokio",
        "tokio-util",
        "kube",
        "reqwest",
        "nix",
        "axum",
        "hyper",
        "tempfile",
        "gptman",
        "tough",
    ];
    let all = dependencies();
    for pure in ["updater/machine", "coordinator/plan"] {
        let found: Vec<_> = all[pure]
            .iter()
            .filter(|name| impure.contains(&name.as_str()))
            .collect();
        assert!(found.is_empty(), "{pure} is pure and must not use {found:?}");
    }
}

#[test]
fn dependencies_run_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("images", &[] as &[&str]),
        ("updater/machine", &["drydock-images"]),
        ("updater", &["drydock-images", "drydock-machine", "drydock-api"]),
        ("coordinator/api", &[]),
        ("coordinator/plan", &["drydock-api"]),
        ("coordinator", &["drydock-api", "drydock-plan", "drydock-images"]),
    ]);
    let all = dependencies();
    for (dir, may) in allowed {
        let found: Vec<_> = all[dir]
            .iter()
            .filter(|name| name.starts_with("drydock-") && !may.contains(&name.as_str()))
            .collect();
        assert!(found.is_empty(), "{dir} must not use {found:?}");
    }
}

#[test]
fn nothing_unfinished_is_left_in_the_code() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
    ];
    let mut found = Vec::new();
    for path in all_rust_files() {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Test names in the table of `docs/security.md`.
#[test]
fn every_attack_that_is_said_to_be_tested_has_its_test() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let section = page.split("\n## Attacks that are tested\n").nth(1).unwrap();
    let table = section
        .split("\n## ")
        .next()
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| "));
    // The tests are the last cell of each row; backticks hold their names.
    let named: Vec<_> = table
        .skip(1)
        .flat_map(|row| row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .collect();
    assert!(named.len() > 30, "{named:#?}");
    let code: Vec<_> = all_rust_files()
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let missing: Vec<_> = named
        .iter()
        .filter(|name| {
            let function = format!("fn {name}()");
            !code.iter().any(|file| file.contains(&function))
        })
        .collect();
    assert!(missing.is_empty(), "no test has these names: {missing:#?}");
}

#[test]
fn no_page_keeps_the_marks_of_a_merge() {
    let output = std::process::Command::new("git")
        .args(["grep", "-lE", "^(<{7} |>{7} |\\|{7} |={7}$)"])
        .current_dir(root())
        .output()
        .unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(
        found.is_empty(),
        "these files hold the marks of a merge:\n{found}"
    );
}
