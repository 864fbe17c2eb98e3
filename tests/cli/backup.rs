//! `admin backup`, `backup verify`, `restore`: a restored yesterday un-revokes nothing (catalogue row 39).

use crate::world::{
    BROKER, Ended, FORBIDDEN, NODE, OPEN, PLAIN, Place, TWO_FIELDS, VALUE, WORKLOAD, World, copy_directory,
    files_below, holds, portcullis, run, until, write,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROTATED: &str = "kv/app/rotated";
const ENDED: &str = "kv/app/ended";

/// A backup of a running broker.
fn backup(world: &World, name: &str) -> PathBuf {
    let path = world.at(name);
    let ended = world.admin(&["backup", "--out", path.to_str().unwrap()]).must(0);
    assert!(ended.text().contains("backed up at commit "), "{ended:?}");
    path
}

fn restore(place: &Place, from: &Path, more: &[&str]) -> Ended {
    let mut command = portcullis();
    command.arg("restore").arg("--config").arg(place.configuration()).arg("--from").arg(from).args(more);
    run(&mut command)
}

fn verify(file: &Path, config: Option<&Path>) -> Ended {
    let mut command = portcullis();
    command.args(["backup", "verify"]).arg(file);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    run(&mut command)
}

fn exec(world: &World, name: &str, secret: &str) -> i32 {
    world.exec_as(name, &[&format!("--secret={secret}:value=A")], "exit 0").code
}

/// Proposes to accept a restore, and gives what waits.
fn accept(world: &World) -> String {
    let answer = world.admin(&["restore", "accept", "--output", "json"]).must(0).json();
    let waits = answer["proposal"].as_str().unwrap().to_owned();
    assert_eq!(waits.len(), 32, "{answer}");
    waits
}

fn put(world: &World, secret: &str) {
    let value = format!("value=@{}", world.path("value"));
    world.admin(&["secret", "put", secret, "--field", &value]).must(0);
}

/// Every file below with its content.
fn state(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    files_below(directory, &mut files);
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn put_operator(world: &World, name: &str) -> Value {
    world.operator(name, 3_600_000);
    let certificate = world.path(&format!("{name}.pem"));
    let all = ["--role", "operations", "--role", "audit", "--role", "secrets", "--output", "json"];
    let put = ["administrator", "put", name, "--certificate", &certificate, "--days", "1"];
    world.admin(&[&put[..], &all[..]].concat()).must(0).json()
}

/// The second with those roles: from then on they take two.
fn add_operator(world: &World, name: &str) {
    assert_eq!(put_operator(world, name)["proposal"], "");
}

/// A third, who waits for the second.
fn propose_operator(world: &World, name: &str) -> String {
    put_operator(world, name)["proposal"].as_str().unwrap().to_owned()
}

#[test]
fn a_restored_yesterday_un_revokes_un_disables_re_enrols_and_revives_nothing() {
    let mut world = World::whole();
    for secret in [ROTATED, ENDED] {
        put(&world, secret);
    }
    // Who stays: from now on accepting a restore takes two, and so does putting another with such roles.
    add_operator(&world, "eve");
    let waits = propose_operator(&world, "bob");
    world.admin_as("eve", &["pending", "approve", &waits]).must(0);
    world.admin_as("bob", &["latch", "list"]).must(0);
    let key = world.path("node.pub");
    let second = world.at("node2.key");
    let made = run(portcullis().args(["agent", "--generate-key", "--key"]).arg(&second)).must(0);
    write(&world.at("node2.pub"), made.stdout, 0o644);
    let below = "spiffe://cli.example/ns/*";
    let enrol = |name: &str, key: &str| {
        let node = ["node", "enrol", name, "--public-key", key, "--days", "1", "--may-vouch-for", below];
        world.admin(&node).must(0);
    };
    enrol("node-2.cli.example", &world.path("node2.pub"));
    for secret in [OPEN, ROTATED, ENDED] {
        assert_eq!(exec(&world, "api", secret), 0, "{secret}");
    }
    assert_eq!(exec(&world, "plain", OPEN), 0);
    let old_list = fs::read(world.at("etc/list.crl")).unwrap();
    let yesterday = backup(&world, "yesterday.bkp");

    // What happens after the backup.
    world.admin(&["revoke", "--identity", PLAIN, "--why", "host taken"]).must(0);
    world.admin(&["secret", "disable", TWO_FIELDS]).must(0);
    world.admin(&["secret", "destroy", ENDED, "--all"]).must(0);
    put(&world, ROTATED);
    world.admin(&["node", "remove", "node-2.cli.example"]).must(0);
    world.admin(&["administrator", "remove", "--name", "bob"]).must(0);
    assert_eq!(exec(&world, "api", FORBIDDEN), 77);
    world.publish_list(&[]);
    until("the newer list is admitted", || {
        let marks = world.records(&["--kind", "mark"]);
        let lists =
            marks.iter().filter(|record| record["event"]["name"].as_str().unwrap().starts_with("crl/"));
        lists.map(|record| record["event"]["value"].to_string()).collect::<BTreeSet<_>>().len() == 2
    });
    world.stop();

    let ended = restore(&world, &yesterday, &[]).must(0);
    let text = ended.text();
    for line in [
        "revoked again: identity spiffe://cli.example/ns/app/plain",
        "secret kv/app/two was disabled, and is again",
        "secret kv/app/ended: version 1 was destroyed, and is again",
        "secret kv/app/rotated: its newest version, 2, is not in the backup (which ends at 1)",
        "node `node-2.cli.example` was removed or enrolled anew",
        "was removed, and is again",
        "nothing is released until `portcullis admin restore accept`",
    ] {
        assert!(text.contains(line), "`{line}` is not in {text}");
    }
    world.start();

    // Not accepted: everything is denied, and said to be so.
    assert_eq!(exec(&world, "api", OPEN), 75);
    assert_eq!(world.records(&["--denial", "RestoreNotAccepted"]).len(), 1);
    assert!(world.admin(&["status"]).must(0).text().contains("RESTORED AND NOT ACCEPTED"));
    assert!(world.admin(&["restore", "show"]).must(0).text().contains("revoked again: identity"));
    world.stop();
    world.start();
    assert_eq!(exec(&world, "api", OPEN), 75, "a restart accepts nothing");
    let waits = accept(&world);
    world.admin(&["pending", "approve", &waits]).must(75);
    assert_eq!(exec(&world, "api", OPEN), 75, "one person accepts nothing");
    world.admin_as("eve", &["pending", "approve", &waits]).must(0);
    world.admin(&["restore", "accept"]).must(1);

    assert_eq!(exec(&world, "api", OPEN), 0);
    // Un-revokes nothing, un-disables nothing, revives no value that was destroyed or replaced.
    assert_eq!(exec(&world, "plain", OPEN), 77);
    for secret in [TWO_FIELDS, ENDED, ROTATED] {
        assert_eq!(exec(&world, "api", secret), 77, "{secret}");
    }
    // Re-enrols nobody.
    let nodes = world.admin(&["node", "list"]).must(0).text();
    assert!(nodes.contains(NODE) && !nodes.contains("node-2"), "{nodes}");
    world.admin_as("bob", &["latch", "list"]).must(77);
    // Forgets no latch.
    let latches = world.admin(&["latch", "list"]).must(0).text();
    assert!(latches.contains(FORBIDDEN), "{latches}");
    // Lowers no mark: the list of yesterday is still one that went back.
    write(&world.at("etc/list.old"), old_list, 0o644);
    fs::rename(world.at("etc/list.old"), world.at("etc/list.crl")).unwrap();
    until("the old list is met", || exec(&world, "api", OPEN) == 75);
    assert!(!world.records(&["--denial", "RevocationUnknown"]).is_empty());
    // The number of a version that was lost is not given again.
    put(&world, ROTATED);
    let described = world.admin(&["secret", "describe", ROTATED, "--output", "json"]).must(0).json();
    assert_eq!(described["secret"]["current_version"], 3);
    assert!(fs::read_to_string(&key).is_ok());
    let proof = ["verify", "--key", &world.path("etc/audit.pub")];
    world.audit(&proof).must(0);
}

#[test]
fn what_was_replaced_since_is_gone_until_it_is_put_anew() {
    let mut world = World::whole();
    let early = backup(&world, "early.bkp");
    world.admin(&["policy", "put", &world.path("policy.cedar")]).must(0);
    world.put_reference(&[]);
    world.admin(&["secret", "configure", OPEN, "--lease-default", "60", "--lease-maximum", "120"]).must(0);
    put(&world, "kv/app/new");
    add_operator(&world, "carol");
    world.stop();
    let text = restore(&world, &early, &[]).must(0).text();
    for line in [
        "the policy was replaced",
        "reference set `api-1` was replaced",
        "secret kv/app/one: labels and terms are those that were set last",
        "secret kv/app/new is not in the backup",
        "was put: put it anew",
    ] {
        assert!(text.contains(line), "`{line}` is not in {text}");
    }
    // There were two with that role, so it takes two to accept it, and she who was put since is not there: the host has a say.
    world.operator("dora", 3_600_000);
    let mut recover = portcullis();
    recover.args(["init", "--directory", &world.path("etc"), "--administrator", "dora"]);
    run(recover.args(["--recover-admin", &world.path("dora.pem")])).must(0);
    world.start();
    let waits = accept(&world);
    world.admin_as("carol", &["pending", "approve", &waits]).must(77);
    world.admin(&["pending", "approve", &waits]).must(75);
    assert_eq!(exec(&world, "api", OPEN), 75);
    world.admin_as("dora", &["pending", "approve", &waits]).must(0);
    assert_ne!(exec(&world, "api", OPEN), 0);
    assert_eq!(world.admin(&["policy", "show"]).must(0).text().trim(), "");
    // What widens takes two from now on, for dora has every role.
    for put in
        [["policy", "put", &world.path("policy.cedar")], ["reference", "put", &world.path("reference.toml")]]
    {
        let answer = world.admin(&[&put[..], &["--output", "json"]].concat()).must(0).json();
        let waits = answer["proposal"].as_str().or(answer["change"]["proposal"].as_str()).unwrap();
        world.admin_as("dora", &["pending", "approve", waits]).must(0);
    }
    until("released again", || exec(&world, "api", OPEN) == 0);
    let described = world.admin(&["secret", "describe", OPEN, "--output", "json"]).must(0).json();
    assert_eq!(described["secret"]["lease_maximum_seconds"], 120);
    // The store that was replaced, put back, is behind the log.
    world.stop();
    let replaced = fs::read_dir(world.at("var")).unwrap().map(|entry| entry.unwrap().path());
    let replaced =
        replaced.into_iter().find(|path| path.to_string_lossy().contains("store.replaced-")).unwrap();
    fs::rename(world.at("var/store"), world.at("var/aside")).unwrap();
    copy_directory(&replaced, &world.at("var/store"));
    world.does_not_start("was acknowledged: keep");
}

#[test]
fn a_backup_holds_no_value_and_no_name_and_is_made_beside_changes() {
    let world = World::whole();
    let file = backup(&world, "one.bkp");
    let bytes = fs::read(&file).unwrap();
    for text in [VALUE, OPEN.as_bytes(), WORKLOAD.as_bytes(), NODE.as_bytes(), b"permit"] {
        assert!(!holds(&bytes, text), "{}", String::from_utf8_lossy(text));
    }
    let whole = verify(&file, None).must(0).text();
    assert!(whole.starts_with("whole: store "), "{whole}");
    assert!(verify(&file, Some(&world.configuration())).must(0).text().starts_with("verified: "));
    // To standard output it is the same format.
    let ended = world.admin(&["backup", "--out", "-"]).must(0);
    assert!(ended.stderr.contains("backed up at commit "), "{ended:?}");
    let second = world.at("two.bkp");
    write(&second, &ended.stdout, 0o600);
    verify(&second, Some(&world.configuration())).must(0);
    // A file that is there stays; the log names each backup by its digest.
    world.admin(&["backup", "--out", file.to_str().unwrap()]).must(1);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let records = world.records(&["--kind", "admin-read"]);
    let digest = crate::world::sha256(&file);
    assert!(records.iter().any(|record| record["event"]["act"]["details"]["sha256"] == digest.as_str()));
    // Only who operates may.
    add_operator(&world, "dave");
    let dave = world.path("dave.pem");
    world
        .admin(&[
            "administrator",
            "put",
            "dave",
            "--certificate",
            &dave,
            "--days",
            "1",
            "--role",
            "keys",
            "--role",
            "audit",
        ])
        .must(0);
    let out = world.path("three.bkp");
    world.admin_as("dave", &["backup", "--out", &out]).must(77);
    assert!(!Path::new(&out).exists() && !world.at("three.bkp.partial").exists());
    assert!(BROKER.starts_with("spiffe://"));
}

#[test]
fn a_backup_that_is_not_whole_is_refused_by_name_and_nothing_is_changed() {
    let mut world = World::bare();
    put(&world, OPEN);
    let file = backup(&world, "good.bkp");
    let in_use = restore(&world, &file, &[]).must(78);
    assert!(in_use.stderr.contains("another process has the store open"), "{in_use:?}");
    world.stop();
    let before = (state(&world.at("var")), state(&world.at("etc")));
    let good = fs::read(&file).unwrap();
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("cut", good[..good.len() - 40].to_vec(), "was cut off"),
        ("short", good[..good.len() / 2].to_vec(), "was cut off"),
        (
            "flipped",
            {
                let mut bytes = good.clone();
                bytes[good.len() / 2] ^= 1;
                bytes
            },
            "was changed",
        ),
        ("longer", [&good[..], b"\0"].concat(), "something follows"),
        ("other", b"#!/bin/sh\nexit 0\n".to_vec(), "not a backup"),
    ];
    for (name, bytes, why) in cases {
        let path = world.at(&format!("{name}.bkp"));
        write(&path, bytes, 0o600);
        for ended in [verify(&path, None).must(1), restore(&world, &path, &[]).must(1)] {
            assert!(ended.stderr.contains(why), "{name}: {ended:?}");
        }
    }
    // Of another store, under another key: its keyring does not open here.
    let mut other = World::bare();
    let foreign = backup(&other, "foreign.bkp");
    other.stop();
    verify(&foreign, None).must(0);
    assert!(
        verify(&foreign, Some(&world.configuration())).must(1).stderr.contains("does not open the keyring")
    );
    let ended = restore(&world, &foreign, &[]).must(78);
    assert!(ended.stderr.contains("the checkpoint in the backup"), "{ended:?}");
    // The right log, another key source.
    let key = fs::read(world.at("etc/store.key")).unwrap();
    write(&world.at("etc/store.key"), fs::read(other.at("etc/store.key")).unwrap(), 0o600);
    let ended = restore(&world, &file, &[]).must(1);
    assert!(ended.stderr.contains("sealed under another key"), "{ended:?}");
    write(&world.at("etc/store.key"), key, 0o600);
    assert!((state(&world.at("var")), state(&world.at("etc"))) == before, "something was changed");
    world.start();
}

#[test]
fn a_lost_log_wants_its_last_checkpoint_or_a_word_that_none_was_kept() {
    let mut world = World::bare();
    put(&world, OPEN);
    let key = world.path("etc/audit.pub");
    let early = world.audit(&["checkpoint", "--key", &key]).must(0).stdout;
    write(&world.at("early"), early, 0o644);
    let file = backup(&world, "one.bkp");
    put(&world, OPEN);
    world.stop();
    let note = world.audit(&["checkpoint", "--key", &key]).must(0).stdout;
    write(&world.at("kept"), note, 0o644);
    // There, it cannot be said to be lost; cut back to before the backup, it does not go with it.
    assert!(restore(&world, &file, &["--log-lost"]).must(78).stderr.contains("it is not lost"));
    fs::rename(world.at("var/audit"), world.at("log")).unwrap();
    let older = Place::new();
    copy_directory(&older.at("var/audit"), &world.at("var/audit"));
    assert!(restore(&world, &file, &[]).must(78).stderr.contains("does not go with the backup"));
    fs::remove_dir_all(world.at("var/audit")).unwrap();
    let ended = restore(&world, &file, &[]).must(64);
    assert!(ended.stderr.contains("--log-lost") && ended.stderr.contains("--checkpoint"), "{ended:?}");
    world.does_not_start("the audit log is missing");
    let early = world.path("early");
    let ended = restore(&world, &file, &["--checkpoint", &early]).must(78);
    assert!(ended.stderr.contains("it is not the last one"), "{ended:?}");
    let kept = world.path("kept");
    let ended = restore(&world, &file, &["--checkpoint", &kept]).must(0);
    assert!(ended.text().contains("the audit log was lost"), "{ended:?}");
    world.start();
    let shown = world.admin(&["restore", "show", "--output", "json"]).must(0).json();
    assert_eq!((&shown["pending"], &shown["log_lost"]), (&true.into(), &true.into()));
    let first = &world.records(&["--kind", "admin-intent"])[0];
    let details = &first["event"]["act"]["details"];
    assert!(details["log"]["lost"].as_str().unwrap().contains("portcullis/cli.example"), "{details}");
    // Without a checkpoint it is a word, and that is recorded too.
    world.stop();
    fs::remove_dir_all(world.at("var/audit")).unwrap();
    restore(&world, &file, &["--log-lost"]).must(0);
    world.start();
    assert_eq!(world.records(&["--kind", "admin-intent"])[0]["event"]["act"]["details"]["log"], "lost");
}
