//! What must hold of the configuration.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use super::*;

const EXAMPLE: &str = include_str!("../../../docs/updater.example.toml");

fn load_text(text: &str) -> Result<LoadedConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("updater.toml");
    std::fs::write(&path, text).unwrap();
    load(&[path], "host-1")
}

#[test]
fn the_documented_example_is_valid_and_shows_every_field() {
    let loaded = load_text(EXAMPLE).unwrap();
    assert_eq!(loaded.unknown_fields, Vec::<String>::new());
    insta::assert_debug_snapshot!(loaded.settings);
    // The lines that are shown switched off are valid too.
    let lines = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("#- ").unwrap_or(line));
    let all = load_text(&lines.collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!(all.unknown_fields, Vec::<String>::new());
    assert_ne!(all.settings, loaded.settings);
}

#[test]
fn unknown_fields_are_named_wherever_they_stand_and_lose_nothing_else() {
    let text = format!("{EXAMPLE}\n[surprise]\nx = 1\n").replacen("[disk]", "[disk]\ncolour = \"red\"", 1);
    let loaded = load_text(&text).unwrap();
    assert_eq!(loaded.unknown_fields, ["disk.colour", "surprise"]);
    assert_eq!(loaded.settings, load_text(EXAMPLE).unwrap().settings);
}

#[test]
fn later_files_are_laid_over_earlier_ones_and_missing_ones_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("base.toml"), EXAMPLE).unwrap();
    std::fs::create_dir(path("updater.d")).unwrap();
    std::fs::write(path("updater.d/20-b.toml"), "[node]\nname = \"second\"\n").unwrap();
    std::fs::write(
        path("updater.d/10-a.toml"),
        "[node]\nname = \"first\"\nboard = \"other\"\n",
    )
    .unwrap();
    std::fs::write(path("updater.d/notes.txt"), "not read").unwrap();
    let paths = [path("missing.toml"), path("base.toml"), path("updater.d")];
    let loaded = load(&paths, "host-1").unwrap();
    assert_eq!(loaded.settings.node_name, "second");
    assert_eq!(loaded.settings.board.as_str(), "other");
    assert_eq!(
        loaded.settings.arch.as_str(),
        "amd64",
        "what was not laid over stays"
    );
    assert_eq!(loaded.files.len(), 3);
    assert!(matches!(
        load(&[path("missing.toml")], "h"),
        Err(ConfigError::None { .. })
    ));
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let table = [
        (
            "loader = \"vboot\"",
            "loader = \"lilo\"",
            "unknown variant `lilo`",
        ),
        (
            "loader = \"vboot\"",
            "loader = \"vboot\"\nunguarded_kernel = true",
            "gptpriority alone",
        ),
        ("path = \"/dev/sda\"", "path = \"sda\"", "not an absolute path"),
        ("PARTLABEL=KERN-A", "/dev/sda2", "PARTLABEL=NAME"),
        ("[slots.B]", "[slots.C]", "`slots.B`"),
        (
            "confirm_wait = \"15min\"",
            "confirm_wait = \"0s\"",
            "no length of time",
        ),
        ("confirm_wait = \"15min\"", "confirm_wait = 15", "string"),
        (
            "https://releases.example.com/stable/",
            "ftp://example.com/",
            "neither https, http nor file",
        ),
        (
            "root = \"/usr/share/drydock/stable.root.json\"",
            "root = \"/r\"\nmirrors = [\"https://releases.example.com/stable\"]",
            "is named twice",
        ),
        (
            "root = \"/usr/share/drydock/stable.root.json\"",
            "root = \"/r\"\nmirrors = [\"https://a.example.com/\", \"ftp://b.example.com/\"]",
            "neither https, http nor file",
        ),
        (
            "root = \"/usr/share/drydock/stable.root.json\"",
            "root = \"/r\"\nmirrors = [\"https://a.example.com/?key=1\"]",
            "has a query",
        ),
        (
            "root = \"/usr/share/drydock/stable.root.json\"",
            "root = \"/r\"\nmirrors = [\"somewhere\"]",
            "`somewhere` is no URL",
        ),
        (
            "allow_downgrade = false",
            "max_bytes_per_second = 999",
            "fewer than 1000",
        ),
        (
            "allow_downgrade = false",
            "max_bytes_per_second = -1",
            "max_bytes_per_second",
        ),
        (
            "[\"systemctl\", \"is-active\", \"--quiet\", \"kubelet\"]",
            "[]",
            "has no command",
        ),
        ("arch = \"amd64\"", "", "`node.arch` is missing"),
        ("arch = \"amd64\"", "arch = \"AMD 64\"", "architecture"),
        ("[disk]", "[disk", "TOML"),
    ];
    for (find, replace, words) in table {
        assert!(EXAMPLE.contains(find), "{find}");
        let said = load_text(&EXAMPLE.replacen(find, replace, 1))
            .unwrap_err()
            .to_string();
        assert!(said.contains(words), "{find} -> {replace}: {said}");
    }
}

#[test]
fn a_file_is_read_to_its_bound_and_the_host_names_the_node() {
    let endless = load(&[PathBuf::from("/dev/zero")], "host-1").unwrap_err();
    assert!(matches!(endless, ConfigError::TooLong { ref path } if path == Path::new("/dev/zero")));
    assert_eq!(load_text(EXAMPLE).unwrap().settings.node_name, "host-1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("updater.toml");
    std::fs::write(&path, EXAMPLE).unwrap();
    let said = load(&[path], "Not A Name").unwrap_err().to_string();
    assert!(said.contains("node.name"), "{said}");
}
