//! `get`: one secret, whole, to whoever was allowed to have it raw.

use crate::world::{FORBIDDEN, OPEN, Shared, TWO_FIELDS, VALUE, World, run, write};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;

fn world() -> &'static World {
    static WORLD: OnceLock<Shared> = OnceLock::new();
    &WORLD.get_or_init(|| Shared::new(World::whole())).world
}

#[test]
fn the_only_field_is_printed_byte_for_byte() {
    assert_eq!(world().get(&[OPEN]).must(0).stdout, VALUE);
    assert_eq!(world().get(&[OPEN, "--field", "value"]).must(0).stdout, VALUE);
    assert_eq!(world().get(&[TWO_FIELDS, "--field", "user"]).must(0).stdout, b"app-user");
}

#[test]
fn json_holds_the_lease_and_the_fields_that_were_asked_for() {
    let value = std::str::from_utf8(VALUE).unwrap();
    for arguments in [&[TWO_FIELDS][..], &[TWO_FIELDS, "--output", "json"]] {
        let all = world().get(arguments).must(0).json();
        assert_eq!(all["fields"], serde_json::json!({"user": "app-user", "value": value}));
        assert_eq!((&all["path"], &all["version"]), (&TWO_FIELDS.into(), &1.into()));
        assert!(all["lease_id"].is_string() && all["not_after"].is_string(), "{all}");
    }
    let one = world().get(&[TWO_FIELDS, "--field", "user", "--output", "json"]).must(0).json();
    assert_eq!(one["fields"], serde_json::json!({"user": "app-user"}));
}

#[test]
fn a_file_is_its_owners_alone_and_replaced_whole() {
    let folder = world().at("out");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("secret");
    let name = path.to_str().unwrap();
    for before in [None, Some("something longer than the secret that takes its place, and readable by all")] {
        if let Some(before) = before {
            write(&path, before, 0o644);
        }
        let ended = world().get(&[OPEN, "--out", name]).must(0);
        assert!(ended.stdout.is_empty(), "{ended:?}");
        assert_eq!(fs::read(&path).unwrap(), VALUE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

#[test]
fn without_a_release_or_a_field_a_file_is_left_as_it_was() {
    let folder = world().at("kept");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("secret");
    write(&path, "as it was", 0o640);
    let name = path.to_str().unwrap();
    for (arguments, code) in [
        (&[FORBIDDEN, "--out", name][..], 77),
        (&[TWO_FIELDS, "--field", "other", "--out", name], 64),
        (&[OPEN, "--out", name, "--attester", "/nonexistent.sock"], 75),
        (&[OPEN, "--out", name, "--broker", "127.0.0.1:1"], 69),
    ] {
        let ended = world().get(arguments).must(code);
        assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{ended:?}");
        assert_eq!(fs::read(&path).unwrap(), b"as it was", "{arguments:?}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_said_and_nothing_is_left() {
    let folder = world().at("taken");
    fs::create_dir_all(folder.join("secret/full")).unwrap();
    let nowhere = world().path("nowhere/secret");
    for name in [folder.join("secret").to_str().unwrap(), &nowhere] {
        let ended = world().get(&[OPEN, "--out", name]).must(70);
        assert!(ended.stdout.is_empty() && ended.stderr.contains("not written"), "{ended:?}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_denial_prints_nothing_and_says_which_decision_it_was() {
    let ended = world().get(&[FORBIDDEN, "--output", "json"]).must(77);
    assert!(ended.stdout.is_empty());
    let complaint = ended.complaint();
    assert_eq!(complaint["reason"], "NOT_RELEASED");
    assert!(complaint["decision_id"].is_string(), "{complaint}");
}

#[test]
fn where_only_exec_is_allowed_get_is_denied() {
    let user = format!("--secret={TWO_FIELDS}:user=A");
    world().exec_as("plain", &[&user], "exit 0").must(0);
    let ended = run(&mut world().as_workload("plain", &["get", TWO_FIELDS])).must(77);
    assert!(ended.stdout.is_empty(), "{ended:?}");
    assert_eq!(world().records(&["--denial", "MeasurementMismatch"]).len(), 1);
}

#[test]
fn a_path_that_cannot_be_is_64() {
    for path in ["kv/App", "/kv/app", "kv//app", ""] {
        assert!(world().get(&[path]).must(64).stdout.is_empty(), "{path}");
    }
}
