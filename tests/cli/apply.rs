//! `admin apply`: a directory brought to a real broker, and what it refuses before anything is sent.

use crate::world::{VALUE, World, copy_directory, write};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The documented example, which ends long after any run of this test.
fn example(world: &World) -> PathBuf {
    let directory = world.at("apply");
    copy_directory(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/apply").as_ref(), &directory);
    for file in ["reference/payments.toml", "nodes/payments.toml"] {
        let text = fs::read_to_string(directory.join(file)).unwrap();
        assert!(text.contains("2027-"), "{text}");
        write(&directory.join(file), text.replace("2027-", "2097-"), 0o644);
    }
    directory
}

fn put(world: &World, path: &str) {
    world.admin(&["secret", "put", path, "--field", &format!("value=@{}", world.path("value"))]).must(0);
}

fn apply(world: &World, more: &[&str]) -> crate::world::Ended {
    world.admin(&[&["apply", &world.path("apply")], more].concat())
}

fn change(world: &World, file: &str, from: &str, to: &str) {
    let path = world.at("apply").join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    write(&path, text.replace(from, to), 0o644);
}

/// Verb and target of each change that was begun, in their order.
fn intents(world: &World) -> Vec<String> {
    let records = world.records(&["--administrator", "ada", "--kind", "admin-intent"]);
    let text = |record: &Value| {
        let act = find(record, "verb").unwrap_or_else(|| panic!("{record}"));
        format!("{} {}", act["verb"].as_str().unwrap(), act["target"].as_str().unwrap())
    };
    records.iter().map(text).collect()
}

/// The object that has this member, wherever it stands.
fn find<'a>(value: &'a Value, member: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) if object.contains_key(member) => Some(value),
        Value::Object(object) => object.values().find_map(|inner| find(inner, member)),
        Value::Array(array) => array.iter().find_map(|inner| find(inner, member)),
        _ => None,
    }
}

#[test]
fn the_documented_example_is_shown_then_applied_and_a_second_time_changes_nothing() {
    let world = World::bare();
    example(&world);
    put(&world, "kv/payments/stripe");
    let before = intents(&world);
    let shown = apply(&world, &["--dry-run"]).must(1);
    for line in [
        "~ secret kv/payments/stripe",
        "    + labels.tier: production",
        "    - lease_maximum_seconds: ",
        "! secret kv/shared/licence is not there",
        "+ policy\n",
        "    + payments-api: permit (",
        "+ reference set pay-2.4",
        "    + process.uids: [1000]",
        "+ node pay-node-1",
        "    + not_after: 2097-03-01T00:00:00",
        "3 to add, 1 to change, 0 to remove, 1 without a value",
    ] {
        assert!(shown.text().contains(line), "{line}: {}", shown.text());
    }
    assert_eq!(intents(&world), before, "looking changes nothing");
    let json = apply(&world, &["--dry-run", "--output", "json"]).must(1).json();
    assert_eq!(json["changes"].as_array().map(Vec::len), Some(5), "{json}");
    // All is done but for the secret whose value nobody has put.
    let done = apply(&world, &["--yes"]).must(1);
    assert!(done.text().contains("5 done, 0 wait"), "{}", done.text());
    assert!(done.stderr.contains("1 secrets wait for their values"), "{}", done.stderr);
    assert!(world.admin(&["policy", "show"]).must(0).text().contains("@id(\"production-is-bound\")"));
    assert!(world.admin(&["node", "list"]).must(0).text().contains("pay-node-1 until 2097-03-01"));
    assert!(world.admin(&["reference", "list"]).must(0).text().contains("pay-2.4 for"));
    let secret = world.admin(&["secret", "describe", "kv/payments/stripe"]).must(0).text();
    assert!(secret.contains("lease 120 to 300 s, exporter demanded, labels tier=production"), "{secret}");
    put(&world, "kv/shared/licence");
    let rest = apply(&world, &["--yes", "--output", "json"]).must(0).json();
    assert_eq!(rest["taken"].as_array().map(Vec::len), Some(1), "{rest}");
    assert_eq!(rest["not_taken"], serde_json::json!([]));
    let before = intents(&world);
    let equal = apply(&world, &["--dry-run", "--prune"]).must(0);
    assert_eq!(equal.text(), "the broker has what the directory says\n");
    apply(&world, &["--yes"]).must(0);
    assert_eq!(intents(&world), before);
}

#[test]
fn a_fault_anywhere_in_the_directory_is_named_with_its_place_and_nothing_is_sent() {
    let world = World::bare();
    let before = intents(&world);
    // File, what stands there, what stands there instead; what is said of it.
    let faults = [
        (
            "secrets/payments.toml",
            "labels = { tier",
            "colour = { tier",
            "secrets/payments.toml:4: unknown field `colour`",
        ),
        (
            "secrets/payments.toml",
            "seconds = 120",
            "seconds = 901",
            "secrets/payments.toml:2: a lease is 1 to 900 seconds",
        ),
        (
            "secrets/payments.toml",
            "kv/shared/licence",
            "kv/payments/stripe",
            "payments.toml:9: secret `kv/payments/stripe` stands at",
        ),
        (
            "secrets/payments.toml",
            "exporter_demanded = true",
            "value = \"v4lue-th4t-must-n3ver-be-seen\"",
            "payments.toml:7: `value`: a value never",
        ),
        ("policy/payments.cedar", "context.process.node", "context.process.knot", "policy/payments.cedar:"),
        (
            "policy/everywhere.cedar",
            "@id(\"shared\")",
            "@id(\"payments-api\")",
            "policy `payments-api` stands in",
        ),
        ("policy/cases.toml", "expect = \"silent\"", "expect = \"permit\"", "policy/cases.toml: "),
        (
            "reference/payments.toml",
            "2097-03-08",
            "1999-03-08",
            "reference/payments.toml:1: set `pay-2.4`: not_after",
        ),
        (
            "reference/payments.toml",
            "uids = [1000]",
            "uids = []",
            "reference/payments.toml:1: set `pay-2.4`: `uids` is empty",
        ),
        ("nodes/payments.toml", "pay-node-1.pub", "../nodes/pay-node-1.pub", "nodes/payments.toml:1: "),
        (
            "nodes/payments.toml",
            "[\"spiffe://example.org/ns/payments/*\"]",
            "[\"*\"]",
            "nodes/payments.toml:6: ",
        ),
    ];
    for (file, from, to, said) in faults {
        let directory = example(&world);
        change(&world, file, from, to);
        let refused = apply(&world, &["--yes"]).must(64);
        assert!(refused.stdout.is_empty() && refused.stderr.contains(said), "{said}: {}", refused.stderr);
        fs::remove_dir_all(directory).unwrap();
    }
    for (name, mode) in [
        ("secrets/notes.txt", "file"),
        ("nodes/other.pub", "file"),
        ("extra", "directory"),
        ("nodes/l.toml", "link"),
    ] {
        let directory = example(&world);
        match mode {
            "file" => write(&directory.join(name), "x", 0o644),
            "directory" => fs::create_dir(directory.join(name)).unwrap(),
            _ => std::os::unix::fs::symlink("payments.toml", directory.join(name)).unwrap(),
        }
        let refused = apply(&world, &["--yes"]).must(64);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
        fs::remove_dir_all(directory).unwrap();
    }
    fs::create_dir(world.at("apply")).unwrap();
    assert!(apply(&world, &["--yes"]).must(64).stderr.contains("nothing to apply"));
    fs::remove_dir_all(world.at("apply")).unwrap();
    // Nobody can be asked, and nobody said yes.
    example(&world);
    assert!(apply(&world, &[]).must(64).stderr.contains("--yes"));
    assert_eq!(intents(&world), before);
    let printed = world.printed.lock().unwrap();
    assert!(!crate::world::holds(&printed, VALUE));
}

#[test]
fn what_narrows_goes_first_and_an_enabled_secret_comes_last() {
    let world = World::bare();
    example(&world);
    for path in ["kv/payments/stripe", "kv/shared/licence", "kv/elsewhere"] {
        put(&world, path);
    }
    apply(&world, &["--yes"]).must(0);
    world.admin(&["secret", "disable", "kv/shared/licence"]).must(0);
    change(
        &world,
        "secrets/payments.toml",
        "exporter_demanded = true",
        "exporter_demanded = false\ndisabled = true",
    );
    change(
        &world,
        "secrets/payments.toml",
        "{ audience = \"all\" }",
        "{ audience = \"all\", x = \"y\" }\ndisabled = false",
    );
    change(&world, "policy/everywhere.cedar", "<= 600", "<= 300");
    change(&world, "policy/cases.toml", "ttl_seconds = 600", "ttl_seconds = 300");
    change(&world, "reference/payments.toml", "pay-2.4", "pay-2.5");
    change(&world, "nodes/payments.toml", "pay-node-1\"", "pay-node-2\"");
    let before = intents(&world).len();
    // Without `--prune` nothing goes; the node's key is one node's alone, so that its new name waits for that.
    let kept = apply(&world, &["--dry-run"]).must(1).text();
    for line in
        ["reference set pay-2.4 is not in", "node pay-node-1 is not in", "secret kv/elsewhere is not in"]
    {
        assert!(kept.contains(line), "{kept}");
    }
    let text = apply(&world, &["--yes", "--prune"]).must(0).text();
    assert!(text.contains("secret kv/elsewhere is not in the directory, and stays"), "{text}");
    let order = [
        "secret set-disabled kv/payments/stripe",
        "node remove pay-node-1",
        "secret configure kv/shared/licence",
        "policy put policy",
        "secret configure kv/payments/stripe",
        "reference put pay-2.5",
        "node enrol pay-node-2",
        "reference remove pay-2.4",
        "secret set-disabled kv/shared/licence",
    ];
    assert_eq!(intents(&world)[before..], order, "{text}");
    apply(&world, &["--dry-run", "--prune"]).must(0);
    // A kind without a file is left alone; one that is emptied is a mistake, more likely than a wish.
    fs::remove_dir_all(world.at("apply/nodes")).unwrap();
    apply(&world, &["--dry-run", "--prune"]).must(0);
    write(&world.at("apply/nodes.toml"), "", 0o644);
    assert!(apply(&world, &["--dry-run", "--prune"]).must(64).stderr.contains("would remove every one"));
}

#[test]
fn an_error_in_the_middle_says_what_was_done_and_applying_again_does_the_rest() {
    let world = World::bare();
    example(&world);
    put(&world, "kv/payments/stripe");
    put(&world, "kv/shared/licence");
    // The same key under another name: the broker alone sees that.
    let key = world.path("apply/nodes/pay-node-1.pub");
    let other = ["node", "enroll", "other", "--public-key", &key, "--days", "1", "--may-vouch-for"];
    world.admin(&[&other[..], &["spiffe://example.org/x"]].concat()).must(0);
    let stopped = apply(&world, &["--yes"]).must(1);
    assert!(
        stopped.stderr.contains("enroll node pay-node-1: this key is enrolled as `other`"),
        "{stopped:?}"
    );
    let text = stopped.text();
    assert!(text.contains("done: put policy (record "), "{text}");
    assert!(text.contains("not done: enroll node pay-node-1") && text.contains("1 not done"), "{text}");
    world.admin(&["node", "remove", "other"]).must(0);
    let rest = apply(&world, &["--yes"]).must(0).text();
    assert!(rest.contains("1 done, 0 wait for a second person, 0 not done"), "{rest}");
}

#[test]
fn where_two_persons_are_needed_each_change_waits_and_what_follows_waits_for_it() {
    let world = World::bare();
    example(&world);
    put(&world, "kv/payments/stripe");
    put(&world, "kv/shared/licence");
    world.operator("bob", 3_600_000);
    let certificate = world.path("bob.pem");
    let bob =
        ["administrator", "put", "bob", "--certificate", &certificate, "--days", "9", "--role", "policy"];
    world.admin(&bob).must(0);
    let mut rounds = 0;
    let last = loop {
        let round = apply(&world, &["--yes", "--output", "json"]);
        let report = round.json();
        let taken = report["taken"].as_array().unwrap().clone();
        let waiting: Vec<&Value> = taken.iter().filter(|one| one["proposal"] != "").collect();
        if waiting.is_empty() {
            round.must(0);
            break report;
        }
        assert_eq!(round.code, 1, "{report}");
        rounds += 1;
        assert!(rounds <= 3 && !report["not_taken"].as_array().unwrap().is_empty(), "{report}");
        // What was not approved is proposed again, and is the same proposal.
        let again = apply(&world, &["--yes"]).must(1);
        for one in waiting {
            let id = one["proposal"].as_str().unwrap();
            assert!(again.text().contains(&format!("proposed {id}")), "{}", again.text());
            world.admin_as("bob", &["pending", "approve", id]).must(0);
        }
    };
    // Terms that narrow; labels and policy; then all else is ada's alone.
    assert_eq!(rounds, 2, "{last}");
    assert!(world.admin(&["node", "list"]).must(0).text().contains("pay-node-1"));
}

/// `apply` at a terminal (script(1) lends one): what happens once it has asked, then the answer; exit code and all that it said.
fn at_a_terminal(world: &World, meanwhile: impl FnOnce(), answer: &str) -> (Option<i32>, String) {
    let apply = world.admin_command("etc/ada", &["apply", &world.path("apply")]);
    let words = std::iter::once(apply.get_program()).chain(apply.get_args());
    let line: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    for (name, value) in apply.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        script.env(name, value);
    }
    let mut child = script.spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"Type `yes`: ") {
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    meanwhile();
    writeln!(input, "{answer}").unwrap();
    output.read_to_end(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    drop(input);
    (code, String::from_utf8(said).unwrap())
}

#[test]
fn at_a_terminal_it_asks_and_what_another_changed_meanwhile_stops_it() {
    let world = World::bare();
    example(&world);
    put(&world, "kv/payments/stripe");
    put(&world, "kv/shared/licence");
    let before = intents(&world).len();
    let (code, said) = at_a_terminal(&world, || (), "no");
    assert!(code == Some(1) && said.contains("nothing was sent"), "{code:?} {said}");
    assert_eq!(intents(&world).len(), before);
    let another =
        || drop(world.admin(&["secret", "configure", "kv/payments/stripe", "--label", "a=b"]).must(0));
    let (code, said) = at_a_terminal(&world, another, "yes");
    assert!(code == Some(1) && said.contains("another changed the broker meanwhile"), "{code:?} {said}");
    assert_eq!(intents(&world).len(), before + 1);
    let (code, said) = at_a_terminal(&world, || (), "yes");
    assert!(code == Some(0) && said.contains("0 not done"), "{code:?} {said}");
    apply(&world, &["--dry-run"]).must(0);
}
