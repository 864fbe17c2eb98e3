//! `admin`: every verb in both forms, by those who may and those who may not; and no value anywhere.

use crate::world::{
    BINARY, BROKER, Ended, NODE, OPEN, POLICY, Place, VALUE, WORKLOAD, World, files_below, holds, portcullis,
    run, sha256, wall, write,
};
use base64::Engine;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

#[path = "../support/tdx.rs"]
mod intel;
#[path = "../support/tpm2.rs"]
mod soft;
mod tpm;

/// One verb: its words in the log, what its text must contain, its arguments.
struct Act {
    words: &'static str,
    says: &'static str,
    arguments: Vec<String>,
}

fn act(words: &'static str, says: &'static str, arguments: &str) -> Act {
    Act { words, says, arguments: arguments.split_whitespace().map(str::to_owned).collect() }
}

/// Every verb of the API, in an order in which each can succeed; twice in a row too.
fn acts(world: &World, lease: &str, decision: &str) -> Vec<Act> {
    let [approved, rejected, withdrawn] = waiting(world);
    let root = world.root.display();
    vec![
        // First: what comes later changes what the refusal rests on, which ends it.
        act("latch list", "rests on", "latch list --ended"),
        act("latch clear", "cleared 1", &format!("latch clear {WORKLOAD}")),
        act("secret put", "put version", &format!("secret put kv/t/a --field value=@{root}/value")),
        act(
            "secret put",
            "put version",
            &format!("secret put kv/t/{lease} --field value=@{root}/value --label t=1"),
        ),
        act("secret list", "kv/t/a", "secret list --prefix kv/t/"),
        act("secret describe", "sealed sha256", "secret describe kv/t/a"),
        act(
            "secret configure",
            "done",
            "secret configure kv/t/a --lease-default 60 --lease-maximum 120 --label a=b",
        ),
        act("secret set-disabled", "done", "secret disable kv/t/a"),
        // Two persons have the role `secrets`.
        act("secret set-disabled", "proposed", "secret enable kv/t/a"),
        act("secret destroy", "done", &format!("secret destroy kv/t/{lease} --all")),
        act("policy put", "put 2 policies", &format!("policy put {root}/policy.cedar")),
        act("policy show", "@id(\"app\")", "policy show"),
        act("reference put", "done", &format!("reference put {root}/more.toml")),
        act(
            "reference import",
            "done",
            &format!(
                "reference import {root}/more.corim --signer {root}/acme.pem --format nitro --name more-2 --days 3 \
                 --workload spiffe://cli.example/b/*"
            ),
        ),
        act("reference list", "more-1 for", "reference list"),
        act("reference remove", "done", "reference remove more-1"),
        act(
            "node enrol",
            "enrolled, key sha256",
            &format!(
                "node enrol node-2 --public-key {root}/second.pub --days 3 --may-vouch-for spiffe://cli.example/b/*"
            ),
        ),
        act("node enrol tpm", "challenged attestation key", &tpm::begin(world, lease)),
        act("node enrol proof", "attestation key", &tpm::finish(world, lease)),
        act("node list", "node-2 until", "node list"),
        act("node remove", "done", "node remove node-2"),
        act("lease list", WORKLOAD, "lease list"),
        act("lease revoke", "revoked", &format!("lease revoke {lease} --why test")),
        act("revoke", "revoked", "revoke --identity spiffe://cli.example/gone --why test"),
        act("revocation list", "spiffe://cli.example/gone: test", "revocation list"),
        act("unrevoke", "done", "unrevoke --identity spiffe://cli.example/gone"),
        act("clock accept", "accepted as", "clock accept"),
        act("crl accept", "accepted", &format!("crl accept cli.example --issuer {root}/etc/bundle.pem")),
        act("bundle accept", "accepted", "bundle accept cli.example"),
        act("backup", "backed up at commit", &format!("backup --out {root}/{lease}.bkp")),
        act("restore show", "no restore waits", "restore show"),
        act(
            "collateral import",
            "intermediate for vcek of Milan until",
            &format!("collateral import --kind sev-snp-intermediate {ASK}"),
        ),
        act("collateral accept", "TCB info", &format!("collateral accept --kind dcap {root}/intel.json")),
        act("collateral status", "intermediate for vcek of Milan until", "collateral status"),
        act("collateral refresh", "asked for all", "collateral refresh"),
        act("status", "audit log: written", "status"),
        act("explain", "PolicyForbids", &format!("explain --decision {decision}")),
        act("explain", "Policy", &format!("explain --identity {WORKLOAD} --secret {OPEN}")),
        act(
            "administrator put",
            "done",
            &format!("administrator put bob --certificate {root}/bob.pem --role audit --days 9"),
        ),
        act("administrator list", "bob until", "administrator list"),
        act("administrator remove", "done", "administrator remove --name bob"),
        act("two-persons set", "done", "two-persons on"),
        act("pending list", "secret set-disabled kv/w/1 by nora", "pending list"),
        act("pending show", "disabled: false", &format!("pending show {approved}")),
        act("pending approve", "done", &format!("pending approve {approved}")),
        act("pending reject", "done", &format!("pending reject {rejected} --why test")),
        act("pending withdraw", "done", &format!("pending withdraw {withdrawn}")),
        act("key rotate", "has begun", "key rotate"),
        act("key rewrap", "sealing all anew", "key rewrap"),
        act("key status", "opened by a key", "key status"),
        // Kit has the role, too: a second person's approval is waited for.
        act("key rekey", "proposed", "key rekey"),
    ]
}

/// An intermediate of AMD's, as it is.
const ASK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/amd/ask-milan.der");

/// Reports of AMD's guests are taken, too.
fn with_sev_snp(place: &Place, more: &str) {
    let text = fs::read_to_string(place.configuration()).unwrap();
    let text = format!("{text}\n[evidence]\nformats = [\"process\", \"sev-snp\", \"tdx\", \"tpm2\"]\n{more}");
    write(&place.configuration(), text, 0o644);
}

/// Three changes that wait: two of nora's, one of ada's; their ids.
fn waiting(world: &World) -> [String; 3] {
    if !world.at("nora.pem").exists() {
        put_operator(world, "nora", &["secrets"], 3_600_000);
    }
    let value = format!("value=@{}", world.path("value"));
    [("kv/w/1", "nora"), ("kv/w/2", "nora"), ("kv/w/3", "etc/ada")].map(|(path, who)| {
        world.admin(&["secret", "put", path, "--field", &value]).must(0);
        world.admin(&["secret", "disable", path]).must(0);
        let waits = world.admin_as(who, &["secret", "enable", path, "--output", "json"]).must(0).json();
        waits["proposal"].as_str().unwrap().to_owned()
    })
}

/// A world in which each verb has something to be about: a lease, a latch; their ids.
fn prepared(world: &World) -> (String, String) {
    let second = run(portcullis().args(["agent", "--generate-key", "--key", &world.path("second.key")]));
    if second.code == 0 {
        write(&world.at("second.pub"), second.stdout, 0o644);
        world.operator("bob", 3_600_000);
        let publisher = crate::corim::Publisher::new();
        let enclave = crate::corim::sha384(crate::corim::unsigned(0), 1);
        let manifest = crate::corim::Manifest::of(vec![crate::corim::triple("m", &[enclave])]);
        write(&world.at("more.corim"), publisher.sign(&manifest), 0o644);
        write(&world.at("acme.pem"), publisher.pem(), 0o644);
        write(&world.at("more.toml"), reference("more-1", "programs = [[{ sha256 = \"SHELL\" }]]"), 0o644);
    }
    world.exec(&[&format!("--secret={OPEN}:value=A")], "exit 0").must(0);
    let forbidden = format!("--secret={}:value=A", crate::world::FORBIDDEN);
    let denied = world.exec(&[&forbidden, "--output=json"], "exit 0").must(77).complaint();
    let leases = world.admin(&["lease", "list", "--output", "json"]).must(0).json();
    let lease = leases["leases"][0]["id"].as_str().unwrap().to_owned();
    (lease, denied["decision_id"].as_str().unwrap().to_owned())
}

fn reference(name: &str, rest: &str) -> String {
    format!(
        "[[set]]\nname = \"{name}\"\nworkload = \"{WORKLOAD}\"\nnot_after = {}\n[set.process]\n\
         executables = [{{ sha256 = \"{}\" }}]\n{}\n",
        wall().plus(86_400_000),
        sha256(BINARY),
        rest.replace("programs", "launcher = true\nprograms").replace("SHELL", &sha256("/bin/sh")),
    )
}

fn put_operator(world: &World, name: &str, roles: &[&str], life_ms: u64) {
    world.operator(name, life_ms);
    let certificate = world.path(&format!("{name}.pem"));
    let mut arguments = vec!["administrator", "put", name, "--certificate", &certificate, "--days", "9"];
    roles.iter().for_each(|role| arguments.extend(["--role", role]));
    world.admin(&arguments).must(0);
}

#[track_caller]
fn ran(world: &World, who: &str, act: &Act, more: &[&str]) -> Ended {
    let arguments: Vec<&str> = act.arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    tpm::prove(world, act);
    let ended = world.admin_as(who, &arguments);
    println!("{arguments:?}: {}", ended.code);
    ended
}

#[test]
fn every_verb_answers_in_both_forms_refuses_others_and_shows_no_value() {
    let place = Place::new();
    let intel = intel::Plan::at(wall().0 / 1000).make();
    write(&PathBuf::from(place.path("intel.der")), &intel.root_der, 0o644);
    write(&PathBuf::from(place.path("intel.json")), &intel.collateral, 0o644);
    with_sev_snp(&place, &format!("[evidence.tdx]\nroots = [\"{}\"]\n", place.path("intel.der")));

    let (next, line) = (place.path("etc/next.key"), "audit_key_file = \"audit.key\"");
    write(&place.at("etc/next.key"), "7a".repeat(32), 0o600);
    place.reconfigure(line, &format!("{line}\nkey_source_next = \"file:{next}\""));
    let world = World::whole_over(place);
    let (lease, decision) = prepared(&world);
    // A role that few verbs ask for: whoever has nothing else may do nothing else.
    put_operator(&world, "kit", &["keys"], 3_600_000);
    let mut all = acts(&world, &lease, &decision);
    // There is nothing to accept here: `backup::` tries it after a restore.
    all.push(act("restore accept", "", "restore accept"));
    let foreign: Vec<&Act> = all.iter().filter(|act| !everyones(act)).collect();
    for act in &foreign {
        let who = if act.words.starts_with("key ") { "nora" } else { "kit" };
        let ended = ran(&world, who, act, &[]).must(77);
        assert!(ended.stdout.is_empty() && ended.stderr.contains("ROLE_MISSING"), "{ended:?}");
    }
    every_refusal_is_recorded(&world, &foreign);
    every_verb_is_tried(&all);
    all.pop();
    for act in &all {
        let ended = ran(&world, "etc/ada", act, &[]).must(0);
        assert!(ended.text().contains(act.says), "{}: {}", act.words, ended.text());
    }
    let (lease, decision) = prepared(&world);
    crate::world::until("the rewrap has ended", || {
        world.admin(&["key", "status", "--output", "json"]).must(0).json()["rewrapping"] == false
    });
    for act in acts(&world, &lease, &decision) {
        let json = ran(&world, "etc/ada", &act, &["--output", "json"]).must(0).json();
        assert!(json.as_object().is_some_and(|object| !object.is_empty()), "{}: {json}", act.words);
    }
    no_value_anywhere(&world);
}

#[track_caller]
fn every_refusal_is_recorded(world: &World, all: &[&Act]) {
    let mut reads = world.records(&["--administrator", "kit", "--kind", "admin-read"]);
    reads.extend(world.records(&["--administrator", "nora", "--kind", "admin-read"]));
    reads.sort_by_key(|record| record["sequence"].as_u64());
    assert_eq!(reads.len(), all.len());
    for (record, act) in reads.iter().zip(all) {
        let text = record.to_string();
        assert!(text.contains(&format!("\"verb\":\"{}\"", act.words)), "{}: {text}", act.words);
        assert!(text.contains("\"refused\":\""), "{text}");
    }
    assert!(world.records(&["--administrator", "kit", "--kind", "admin-intent"]).is_empty());
}

/// Whether a role that is nobody's but kit's may do it: what waits is looked at by every role that can approve something.
fn everyones(act: &Act) -> bool {
    act.words.starts_with("pending ")
}

#[track_caller]
fn every_verb_is_tried(all: &[Act]) {
    let mut verbs: std::collections::BTreeSet<&str> = all.iter().map(|act| act.words).collect();
    // It needs shares that were dealt: `key::shares_are_dealt_while_serving_…` tries it, refused and made.
    verbs.insert("key confirm");
    let known: std::collections::BTreeSet<&str> =
        portcullis::api::admin::Verb::ALL.iter().map(|verb| verb.words()).collect();
    assert_eq!(verbs, known, "a verb is not tried here");
}

/// Neither as it is, nor in hex or base64.
#[track_caller]
fn no_value_anywhere(world: &World) {
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(VALUE);
    let hex = hex::encode(VALUE);
    let forms = [VALUE, hex.as_bytes(), &base64.as_bytes()[..base64.len() - 1]];
    let mut files = vec![world.at("broker.log"), world.at("agent.log")];
    files_below(&world.at("var"), &mut files);
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        let content = fs::read(&file).unwrap();
        assert!(!forms.iter().any(|form| holds(&content, form)), "{}", file.display());
    }
    let printed = world.printed.lock().unwrap();
    assert!(printed.len() > 10_000 && !forms.iter().any(|form| holds(&printed, form)));
}

#[test]
fn each_role_may_do_its_own_and_nothing_of_another() {
    let world = World::bare();
    let value = format!("value=@{}", world.path("value"));
    let policy = world.path("policy.cedar");
    world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    let own: [(&str, &[&str]); 6] = [
        ("secrets", &["secret", "disable", OPEN]),
        ("policy", &["policy", "put", &policy]),
        ("reference", &["reference", "list"]),
        ("nodes", &["node", "list"]),
        ("operations", &["clock", "accept"]),
        ("administrators", &["administrator", "list"]),
    ];
    put_operator(&world, "auditor", &["audit"], 3_600_000);
    for (role, _) in own {
        put_operator(&world, role, &[role], 3_600_000);
    }
    for (role, _) in own {
        for (other, arguments) in own {
            let expected = if role == other { 0 } else { 77 };
            world.admin_as(role, arguments).must(expected);
        }
    }
    for (_, arguments) in own {
        let expected = if arguments.contains(&"list") { 0 } else { 77 };
        world.admin_as("auditor", arguments).must(expected);
    }
}

#[test]
fn a_strangers_certificate_does_not_get_through_the_handshake() {
    let world = World::bare();
    world.stranger("mallory");
    let ended = world.admin_as("mallory", &["status"]).must(77);
    assert!(
        ended.stdout.is_empty() && ended.stderr.contains("no authority that the broker trusts"),
        "{ended:?}"
    );
    // A workload is no operator, even the broker itself.
    world.admin_as("etc/broker", &["status"]).must(77);
    // Of the operators' own root, and put by nobody.
    world.operator("nobody", 3_600_000);
    let ended = world.admin_as("nobody", &["secret", "list"]).must(77);
    assert!(ended.stdout.is_empty(), "{ended:?}");
}

#[test]
fn an_expired_administrator_is_refused() {
    let world = World::bare();
    // The certificate goes on, the administrator does not.
    world.operator("eve", 3_600_000);
    let (certificate, soon) = (world.path("eve.pem"), wall().plus(1_500).to_string());
    let put =
        ["administrator", "put", "eve", "--certificate", &certificate, "--role", "audit", "--not-after"];
    world.admin(&[&put[..], &[&soon]].concat()).must(0);
    world.admin_as("eve", &["secret", "list"]).must(0);
    std::thread::sleep(std::time::Duration::from_millis(1_600));
    world.admin_as("eve", &["secret", "list"]).must(77);
    assert!(world.admin(&["administrator", "list"]).must(0).text().contains("(ended)"));
    // The certificate itself has ended.
    put_operator(&world, "old", &["audit"], 2_500);
    std::thread::sleep(std::time::Duration::from_millis(3_000));
    let ended = world.admin_as("old", &["secret", "list"]).must(77);
    assert!(ended.stderr.contains("it has expired"), "{ended:?}");
    // One who would have ended before it was put.
    let past = wall().0.saturating_sub(60_000);
    let past = portcullis::time::WallTime(past).to_string();
    world.admin(&[&put[..], &[&past]].concat()).must(64);
}

#[test]
fn a_removed_administrator_is_refused_at_once_and_the_last_cannot_be_removed() {
    let world = World::bare();
    put_operator(&world, "bob", &["audit", "secrets"], 3_600_000);
    world.admin_as("bob", &["secret", "list"]).must(0);
    world.admin(&["administrator", "remove", "--name", "bob"]).must(0);
    world.admin_as("bob", &["secret", "list"]).must(77);
    world.admin(&["administrator", "remove", "--name", "bob"]).must(1);
    let last = world.admin(&["administrator", "remove", "--name", "ada"]).must(75);
    assert!(last.stderr.contains("LAST_ADMINISTRATOR"), "{last:?}");
    world.admin(&["secret", "list"]).must(0);
}

#[test]
fn a_value_on_the_command_line_is_refused_with_the_reason_and_not_repeated() {
    let world = World::bare();
    for field in ["value=hunter2", "value=", "value=@", "value=@/nonexistent", "value"] {
        let ended = world.admin(&["secret", "put", OPEN, "--field", field]).must(64);
        assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
    }
    let ended = world.admin(&["secret", "put", OPEN, "--field", "value=hunter2"]).must(64);
    assert!(ended.stderr.contains("can be read by every process"), "{ended:?}");
    world.admin(&["secret", "describe", OPEN]).must(1);
    world.admin_with_input(&["secret", "put", OPEN, "--field", "value=-"], VALUE).must(0);
    let described = world.admin(&["secret", "describe", OPEN, "--output", "json"]).must(0).json();
    assert_eq!(described["versions"].as_array().unwrap().len(), 1, "{described}");
    let twice = ["secret", "put", OPEN, "--field", "a=-", "--field", "b=-"];
    world.admin_with_input(&twice, VALUE).must(64);
}

#[test]
fn versions_are_counted_expected_and_destroyed_one_by_one() {
    let world = World::bare();
    let value = format!("value=@{}", world.path("value"));
    let put = |more: &[&str]| world.admin(&[&["secret", "put", OPEN, "--field", &value], more].concat());
    put(&["--expected-version", "0"]).must(0);
    put(&["--expected-version", "0"]).must(75);
    put(&["--expected-version", "1"]).must(0);
    world.admin(&["secret", "destroy", OPEN, "--version", "1"]).must(0);
    let text = world.admin(&["secret", "describe", OPEN]).must(0).text();
    let state =
        |number: u8| text.lines().find(|line| line.contains(&format!("version {number} put"))).unwrap();
    assert!(state(1).contains("destroyed ") && state(2).contains(" there "), "{text}");
    world.admin(&["secret", "destroy", OPEN, "--version", "9"]).must(1);
    world.admin(&["secret", "destroy", "kv/none", "--all"]).must(1);
}

#[test]
fn policies_are_checked_and_tested_without_a_broker() {
    let place = Place::new();
    let admin = |arguments: &[&str]| run(portcullis().arg("admin").args(arguments));
    let policy = place.path("policy.cedar");
    assert_eq!(admin(&["policy", "check", &policy]).must(0).text(), "ok: 2 policies\n");
    let json = admin(&["policy", "check", &policy, "--output", "json"]).must(0).json();
    assert_eq!(json["policies"], serde_json::json!(["app", "nobody"]));
    write(&place.at("broken.cedar"), "permit (principal", 0o644);
    assert!(!admin(&["policy", "check", &place.path("broken.cedar")]).must(1).stderr.is_empty());
    admin(&["policy", "check", "/nonexistent"]).must(64);
    let case = |secret: &str, expect: &str| {
        format!(
            "[[case]]\nname = \"{secret}\"\nprincipal = \"{WORKLOAD}\"\nsecret = \"{secret}\"\nexpect = \"{expect}\"\n"
        )
    };
    let good = case(OPEN, "permit") + &case("kv/app/forbidden", "forbid") + &case("kv/other", "silent");
    write(&place.at("good.toml"), good, 0o644);
    write(&place.at("bad.toml"), case(OPEN, "forbid"), 0o644);
    let test = |table: &str, more: &[&str]| {
        admin(&[&["policy", "test", &place.path(table), "--policy", &policy], more].concat())
    };
    test("good.toml", &[]).must(0);
    let outcomes = test("good.toml", &["--output", "json"]).must(0).json();
    assert_eq!(outcomes.as_array().map(Vec::len), Some(3));
    assert!(test("bad.toml", &[]).must(1).stderr.contains("1 of 1 cases"));
    assert!(test("bad.toml", &["--output", "json"]).must(1).json().is_array());
    test("policy.cedar", &[]).must(64);
}

#[test]
fn a_policy_is_shown_as_it_was_put_and_takes_the_place_of_the_expected_one_alone() {
    let world = World::bare();
    let policy = world.path("policy.cedar");
    let put = world.admin(&["policy", "put", &policy, "--output", "json"]).must(0).json();
    assert_eq!(world.admin(&["policy", "show"]).must(0).text(), POLICY);
    let sha = put["sha256"].as_str().unwrap();
    write(&world.at("other.cedar"), POLICY.replace("nobody", "no-one"), 0o644);
    let other = world.path("other.cedar");
    world.admin(&["policy", "put", &other, "--expected-sha256", sha]).must(0);
    world.admin(&["policy", "put", &policy, "--expected-sha256", sha]).must(75);
    write(&world.at("broken.cedar"), "permit (principal", 0o644);
    world.admin(&["policy", "put", &world.path("broken.cedar")]).must(64);
    assert!(world.admin(&["policy", "show"]).must(0).text().contains("no-one"));
}

/// `portcullis` itself runs whatever it is told to: its digest alone says nothing of what gets the secret.
#[test]
fn a_set_that_vouches_for_the_launcher_alone_cannot_be_put() {
    let world = World::bare();
    for rest in ["", "launcher = true", "launcher = false", "programs = []"] {
        write(&world.at("alone.toml"), reference("alone", rest), 0o644);
        let ended = world.admin(&["reference", "put", &world.path("alone.toml")]).must(64);
        assert!(ended.stderr.contains("`alone`") || ended.stderr.contains("programs"), "{rest}: {ended:?}");
    }
    assert_eq!(world.admin(&["reference", "list"]).must(0).text(), "");
    write(&world.at("whole.toml"), reference("whole", "programs = [[{ sha256 = \"SHELL\" }]]"), 0o644);
    world.admin(&["reference", "put", &world.path("whole.toml")]).must(0);
}

#[test]
fn what_is_not_there_is_a_plain_no_and_what_is_malformed_64() {
    let world = World::bare();
    for arguments in [
        &["secret", "describe", "kv/none"][..],
        &["secret", "disable", "kv/none"],
        &["reference", "remove", "none"],
        &["node", "remove", NODE],
        &["latch", "clear", WORKLOAD],
        &["lease", "revoke", "5f3f1c2e7f0f4e0c9d530f5f6a2b7c11", "--why", "x"],
        &["unrevoke", "--identity", WORKLOAD],
        &["administrator", "remove", "--name", "none"],
        &["explain", "--decision", "5f3f1c2e7f0f4e0c9d530f5f6a2b7c11"],
    ] {
        let ended = world.admin(arguments);
        assert_eq!(ended.code, 1, "{arguments:?}: {ended:?}");
    }
    for arguments in [
        &["secret", "describe", "kv/Upper"][..],
        &["latch", "clear", "no-spiffe-id"],
        &["revoke", "--identity", "no-spiffe-id", "--why", "x"],
        &["revoke", "--key", "abc", "--why", "x"],
        &["administrator", "put", "x", "--key-sha256", "abc", "--role", "audit", "--days", "1"],
        &["administrator", "put", "x", "--certificate", "/nonexistent", "--role", "audit", "--days", "1"],
        &["secret", "configure", "kv/none", "--label", "no-equals-sign"],
        &["status", "--broker-id", "no-spiffe-id"],
        &["status", "--admin-address", "no-port"],
    ] {
        let ended = world.admin(arguments);
        assert_eq!(ended.code, 64, "{arguments:?}: {ended:?}");
    }
}

#[test]
fn an_operator_too_talks_to_the_broker_alone() {
    let world = World::bare();
    let other = Place::new();
    let sibling = format!("{BROKER}-2");
    for flags in [["--broker-id", &sibling], ["--bundle", &other.path("etc/bundle.pem")]] {
        let ended = world.admin(&[&["status"], &flags[..]].concat()).must(76);
        assert!(ended.stderr.contains("not the broker"), "{ended:?}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    world.admin(&["status", "--admin-address", &free]).must(69);
    world.admin(&["status", "--admin-cert", "/nonexistent"]).must(78);
    world.admin(&["status", "--admin-key", &world.path("etc/broker.key")]).must(78);
}

#[test]
fn status_says_how_long_what_it_rests_on_is_fresh() {
    let world = World::bare();
    let status: Value = world.admin(&["status", "--output", "json"]).must(0).json();
    assert_eq!(status["audit"]["healthy"], true, "{status}");
    assert_eq!(status["trust_domains"][0]["name"], "cli.example", "{status}");
    let text = world.admin(&["status"]).must(0).text();
    assert!(text.contains("bundle: ") && text.contains(" s more"), "{text}");
    assert_eq!(world.records(&["--administrator", "ada"]).len(), 0, "monitoring does not fill the log");
}

#[test]
fn imported_collateral_is_verified_kept_and_there_after_a_restart() {
    let place = Place::new();
    with_sev_snp(&place, &format!("[collateral]\ndirectory = \"{}\"\n", place.path("var/collateral")));
    let mut world = World::over(place);
    let import = |world: &World, file: &str| {
        world.admin(&["collateral", "import", "--kind", "sev-snp-intermediate", file])
    };
    let nothing = world.admin(&["collateral", "status"]).must(0).text();
    assert!(nothing.contains("0 held") && nothing.contains("nothing is fetched"), "{nothing}");
    let family = "portcullis_collateral_usable_seconds";
    let figures = || crate::probe::Figures::now(&world.operations_address);
    assert!(!figures().1.contains(&format!("{family}{{")), "nothing is held");
    import(&world, ASK).must(0);
    // Until 2045: what was handed in counts among what ends.
    assert!(figures().sum(family, &[("format", "sev-snp")]) > 86_400.0);
    // What is no intermediate, is cut short, or is nobody's: refused with the cause, and nothing is lost.
    let genuine = fs::read(ASK).unwrap();
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1;
    for (name, bytes, cause) in [
        ("garbage", &b"garbage"[..], "nothing was imported: not what was asked for"),
        ("cut", &genuine[..genuine.len() - 1], "nothing was imported: not what was asked for"),
        ("forged", &forged, "nothing was imported: not genuine"),
    ] {
        write(&world.at(name), bytes, 0o644);
        let ended = import(&world, &world.path(name)).must(64);
        assert!(ended.stderr.contains(cause), "{name}: {ended:?}");
    }
    import(&world, "/nonexistent").must(64);
    let held = |world: &World| {
        let status = world.admin(&["collateral", "status", "--output", "json"]).must(0).json();
        assert_eq!(status["held"].as_array().map(Vec::len), Some(1), "{status}");
        status["held"][0].clone()
    };
    assert_eq!((&held(&world)["origin"], &held(&world)["current"]), (&"imported".into(), &true.into()));
    world.stop();
    world.start();
    assert_eq!(held(&world)["origin"], "read from the directory");
    let intents = world.records(&["--administrator", "ada", "--kind", "admin-intent"]);
    let imports = intents.iter().filter(|record| record.to_string().contains("collateral import")).count();
    assert_eq!(imports, 4);
}

#[test]
fn a_service_that_is_dead_is_seen_in_status_and_left_alone() {
    let place = Place::new();
    // Nobody listens there: the port was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    with_sev_snp(&place, &format!("[collateral.sev-snp]\naddress = \"http://127.0.0.1:{port}\"\n"));
    let world = World::over(place);
    let status = world.admin(&["collateral", "status", "--output", "json"]).must(0).json();
    assert_eq!(status["services"][0]["address"], format!("http://127.0.0.1:{port}"));
    assert_eq!(status["services"][0]["answered"], "");
    // Nothing dated is held, so nothing is asked for.
    let refreshed = world.admin(&["collateral", "refresh", "--output", "json"]).must(0).json();
    assert_eq!(refreshed["failed"], serde_json::json!([]));
    let text = world.admin(&["collateral", "status"]).must(0).text();
    assert!(text.contains("answered not since the start"), "{text}");
    world.admin(&["collateral", "import", "--kind", "dcap", ASK]).must(64);
}
