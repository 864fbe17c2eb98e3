//! Keys: each source with the real program, and what `admin key` does while it serves.

use crate::world::{OPEN, Place, World, portcullis, run, run_with_input, until, write};
use std::fs;

const PASSPHRASE: &str = "correct horse battery staple";
const KEY_LINE: &str = "key_file = \"store.key\"";

fn put(world: &World, path: &str) {
    let value = format!("value=@{}", world.path("value"));
    world.admin(&["secret", "put", path, "--field", &value]).must(0);
}

fn status(world: &World) -> serde_json::Value {
    world.admin(&["key", "status", "--output", "json"]).must(0).json()
}

fn terms(world: &World) -> Vec<u64> {
    let status = status(world);
    status["terms"].as_array().unwrap().iter().map(|one| one["term"].as_u64().unwrap()).collect()
}

/// A file as systemd makes a credential, in a directory as it makes one.
fn credential(place: &Place, name: &str, content: &str) {
    let directory = place.at("credentials");
    fs::create_dir_all(&directory).unwrap();
    write(&directory.join(name), content, 0o400);
}

#[test]
fn a_term_is_rotated_and_everything_sealed_anew_over_a_kill() {
    let mut world = World::bare();
    for index in 0..30 {
        put(&world, &format!("kv/app/{index}"));
    }
    assert!(world.admin(&["key", "rewrap"]).must(64).stderr.contains("rotate"));
    world.admin(&["key", "rotate"]).must(0);
    assert_eq!(terms(&world), [1, 2]);
    world.admin(&["key", "rewrap"]).must(0);
    world.kill();
    world.start();
    until("the old term is dropped", || terms(&world) == [2]);
    assert_eq!(status(&world)["stuck"], serde_json::json!([]));
    let described = world.admin(&["secret", "describe", "kv/app/29"]).must(0);
    assert!(described.text().contains("sealed sha256"));
    put(&world, "kv/app/29");
    let done = world.records(&["--kind", "admin-intent"]);
    let text = done.iter().map(ToString::to_string).collect::<String>();
    for words in ["key rotate", "key rewrap", "\"dropped_terms\":[1]"] {
        assert!(text.contains(words), "{words}");
    }
}

#[test]
fn a_rekey_moves_to_the_next_source_and_either_configuration_starts() {
    let mut world = World::bare();
    put(&world, OPEN);
    assert!(world.admin(&["key", "rekey"]).must(75).stderr.contains("key_source_next"));
    world.stop();
    credential(&world, "store.key", &"5c".repeat(32));
    world.reconfigure(KEY_LINE, &format!("{KEY_LINE}\nkey_source_next = \"credential:store.key\""));
    world.start();
    world.admin(&["key", "rekey"]).must(0);
    assert!(world.admin(&["key", "rekey"]).must(64).stderr.contains("in use already"));
    // As after a crash: the configuration is still the one that names both.
    world.kill();
    world.start();
    world.admin(&["secret", "describe", OPEN]).must(0);
    world.stop();
    world.reconfigure(KEY_LINE, "key_source = \"credential:store.key\"");
    world.reconfigure("key_source_next = \"credential:store.key\"\n", "");
    fs::rename(world.at("credentials"), world.at("away")).unwrap();
    world.does_not_start("there is no $CREDENTIALS_DIRECTORY");
    fs::rename(world.at("away"), world.at("credentials")).unwrap();
    world.start();
    world.admin(&["secret", "describe", OPEN]).must(0);
    world.stop();
    world.reconfigure("key_source = \"credential:store.key\"", KEY_LINE);
    world.does_not_start("does not open the keyring");
}

#[test]
fn a_systemd_credential_holds_the_stores_key_and_the_logs() {
    let mut world = World::bare();
    put(&world, OPEN);
    world.stop();
    // As deploy/keys.md says: the files that `init` made, and gone from the disk afterwards.
    for name in ["store.key", "audit.key"] {
        let path = world.at("etc").join(name);
        credential(&world, name, &fs::read_to_string(&path).unwrap());
        fs::remove_file(path).unwrap();
    }
    world.reconfigure(KEY_LINE, "key_source = \"credential:store.key\"");
    world.reconfigure("audit_key_file = \"audit.key\"", "audit_key_credential = \"audit.key\"");
    assert!(world.check().must(0).text().contains("shows at the start"));
    world.start();
    world.admin(&["secret", "describe", OPEN]).must(0);
}

#[test]
fn a_passphrase_opens_the_store_from_a_descriptor_and_no_other_does() {
    let place = Place::unmade();
    credential(&place, "pass", PASSPHRASE);
    let mut init = place.init();
    init.args(["--key-source", "passphrase:fd:0"]);
    assert!(run_with_input(&mut init, b"too short\n").must(78).stderr.contains("16 to 1024 bytes"));
    let made = run_with_input(&mut init, format!("{PASSPHRASE}\n").as_bytes()).must(0);
    assert!(made.text().contains("Back up the passphrase"), "{}", made.text());
    place.write_files();
    assert!(!place.at("etc/store.key").exists());
    place.does_not_start("the passphrase cannot be read");
    place.reconfigure("passphrase:fd:0", "passphrase:credential:pass");
    let mut world = World::over(place);
    put(&world, OPEN);
    let said = status(&world)["locked_with"].as_str().unwrap().to_owned();
    assert!(said.contains("argon2id, 262144 KiB, 3 passes, 4 lanes"), "{said}");
    world.admin(&["key", "rotate"]).must(0);
    world.stop();
    assert!(world.check().must(0).text().contains("asked for at the start"));
    fs::remove_file(world.at("credentials/pass")).unwrap();
    credential(&world, "pass", "correct horse battery stable");
    let ended = run(&mut world.serve()).must(78);
    assert!(ended.stderr.contains("does not open the keyring"), "{}", ended.stderr);
    for text in [&ended.stderr, &fs::read_to_string(world.at("broker.log")).unwrap()] {
        assert!(!text.contains("correct horse"));
    }
}

#[test]
fn a_passphrase_is_never_an_argument() {
    let place = Place::unmade();
    let mut init = place.init();
    let ended = run(init.args(["--key-source", "passphrase:correct horse battery staple"])).must(64);
    assert!(ended.stderr.contains("a key source is"), "{}", ended.stderr);
    assert!(!place.at("etc").exists() && !place.at("var").exists());
    let help = run(portcullis().args(["init", "--help"])).must(0);
    assert!(help.text().contains("--key-source shares"));
}
