//! Two persons, and what whoever has the host and the key can do beside a broker that is stopped.

use crate::world::{OPEN, Place, World, portcullis, run, until, write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// ada is there; bob has all roles too, from now on.
pub(crate) fn two(world: &World) {
    world.operator("bob", 3_600_000);
    let certificate = world.path("bob.pem");
    let mut put = vec!["administrator", "put", "bob", "--certificate", &certificate, "--days", "9"];
    for role in ["secrets", "policy", "reference", "nodes", "operations", "keys", "audit", "administrators"] {
        put.extend(["--role", role]);
    }
    assert!(world.admin(&put).must(0).text().starts_with("done"));
}

pub(crate) fn proposed(world: &World, who: &str, arguments: &[&str]) -> String {
    let answer = world.admin_as(who, &[arguments, &["--output", "json"]].concat()).must(0).json();
    let change = answer.get("change").unwrap_or(&answer);
    change["proposal"].as_str().unwrap().to_owned()
}

#[test]
fn a_second_administrator_makes_what_widens_wait_from_then_on_over_restarts() {
    let mut world = World::bare();
    let policy = world.path("policy.cedar");
    assert!(world.admin(&["policy", "put", &policy]).must(0).text().starts_with("put 2 policies"));
    two(&world);
    write(&world.at("other.cedar"), "@id(\"none\") forbid (principal, action, resource);\n", 0o644);
    let other = world.path("other.cedar");
    let text = world.admin(&["policy", "put", &other]).must(0).text();
    assert!(text.starts_with("proposed ") && text.contains("nothing is changed until"), "{text}");
    let waits = proposed(&world, "etc/ada", &["policy", "put", &other]);
    assert!(text.contains(&waits), "the same change waits once: {text} {waits}");
    world.stop();
    world.start();
    assert!(world.admin(&["policy", "show"]).must(0).text().contains("@id(\"app\")"));
    let own = world.admin(&["pending", "approve", &waits]).must(75);
    assert!(own.stderr.contains("SECOND_PERSON_NEEDED"), "{own:?}");
    let shown = world.admin_as("bob", &["pending", "show", &waits]).must(0).text();
    assert!(shown.contains("@id(\"none\") forbid") && shown.contains("by ada"), "{shown}");
    world.admin_as("bob", &["pending", "approve", &waits]).must(0);
    assert!(world.admin(&["policy", "show"]).must(0).text().contains("@id(\"none\")"));
    world.admin_as("bob", &["pending", "approve", &waits]).must(1);
    let approvals = world.records(&["--administrator", "bob", "--kind", "admin-intent"]);
    let approval = approvals.last().unwrap().to_string();
    assert!(approval.contains("\"proposed_by\":\"ada\"") && approval.contains(&waits), "{approval}");
    assert!(world.admin(&["status"]).must(0).text().contains("wait for a second person: secrets, policy"));
}

#[test]
fn what_has_changed_since_is_not_approved_and_what_narrows_needs_one() {
    let world = World::bare();
    let value = format!("value=@{}", world.path("value"));
    world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    two(&world);
    let labels = proposed(&world, "etc/ada", &["secret", "configure", OPEN, "--label", "owner=pay"]);
    assert!(world.admin(&["secret", "disable", OPEN]).must(0).text().starts_with("done"));
    let stale = world.admin_as("bob", &["pending", "approve", &labels]).must(75);
    assert!(stale.stderr.contains("CHANGED_MEANWHILE"), "{stale:?}");
    world.admin_as("bob", &["pending", "reject", &labels, "--why", "stale"]).must(0);
    let labelled = ["secret", "put", "kv/new", "--field", &value, "--label", "owner=pay"];
    assert!(world.admin(&labelled).must(75).stderr.contains("SECOND_PERSON_NEEDED"));
    assert!(world.admin(&["administrator", "remove", "--name", "bob"]).must(0).text().starts_with("done"));
    // Alone again, and nothing widens.
    assert!(!proposed(&world, "etc/ada", &["secret", "enable", OPEN]).is_empty());
    assert!(!proposed(&world, "etc/ada", &["two-persons", "off"]).is_empty());
}

#[test]
fn the_configuration_can_demand_two_persons() {
    let place = Place::new();
    place.reconfigure("[admin]\n", "[admin]\ntwo_persons = \"always\"\n");
    let world = World::over(place);
    assert!(!proposed(&world, "etc/ada", &["policy", "put", &world.path("policy.cedar")]).is_empty());
    assert!(world.admin(&["two-persons", "off"]).must(75).stderr.contains("configuration demands"));
}

fn recover(place: &Place, name: &str) -> std::process::Command {
    let mut command = portcullis();
    command.args(["init", "--directory", &place.path("etc"), "--administrator", name]);
    command.args(["--recover-admin", &place.path(&format!("{name}.pem")), "--administrator-days", "9"]);
    command
}

#[test]
fn whoever_has_the_host_makes_another_administrator_beside_a_stopped_broker_alone() {
    let mut world = World::bare();
    two(&world);
    world.admin(&["administrator", "remove", "--name", "bob"]).must(0);
    let waits = proposed(&world, "etc/ada", &["policy", "put", &world.path("policy.cedar")]);
    world.operator("carol", 3_600_000);
    let running = run(&mut recover(&world, "carol")).must(78);
    assert!(running.stderr.contains("another process has the store open"), "{running:?}");
    world.stop();
    // A workload's certificate, a key file that is not this store's, no configuration: nothing is made.
    world.workload("spiffe://cli.example/ns/x", "dave");
    run(&mut recover(&world, "dave")).must(78);
    assert!(run(&mut recover(&world, "carol")).must(0).text().contains("`carol` is an administrator"));
    world.audit(&["verify", "--key", &world.path("etc/audit.pub")]).must(0);
    let acts = world.records(&["--kind", "admin-intent"]);
    let act = acts.last().unwrap().to_string();
    assert!(act.contains("init --recover-admin, uid") && act.contains("\"target\":\"carol\""), "{act}");
    world.start();
    world.admin_as("carol", &["pending", "approve", &waits]).must(0);
    assert!(world.admin(&["policy", "show"]).must(0).text().contains("@id(\"app\")"));
}

#[test]
fn a_recovery_with_another_stores_key_makes_nothing() {
    let place = Place::new();
    let other = Place::new();
    place.operator("carol", 3_600_000);
    std::fs::copy(other.at("etc/store.key"), place.at("etc/store.key")).unwrap();
    let refused = run(&mut recover(&place, "carol")).must(78);
    assert!(refused.stderr.contains("no administrator was made"), "{refused:?}");
    let both =
        run(recover(&place, "carol").args(["--broker-id", "spiffe://cli.example/portcullis"])).must(64);
    assert!(both.stdout.is_empty());
}

/// Whatever a start refuses, a recovery does, and it changes nothing either.
#[test]
fn a_recovery_beside_a_log_that_is_gone_or_cut_makes_nothing() {
    let mut world = World::bare();
    two(&world);
    world.operator("carol", 3_600_000);
    world.stop();
    let log = world.at("var/audit");
    let segment = log.join("segment-0000000001.log");
    let whole = std::fs::read(&segment).unwrap();
    let refuses = |because: &str| {
        let refused = run(&mut recover(&world, "carol")).must(78);
        assert!(refused.stderr.contains(because), "{refused:?}");
    };
    std::fs::write(&segment, &whole[..4096]).unwrap();
    refuses("the audit log");
    assert_eq!(std::fs::read(&segment).unwrap(), &whole[..4096]);
    std::fs::rename(&log, world.at("elsewhere")).unwrap();
    refuses("the audit log is missing");
    assert!(!log.exists());
    // Nothing was made meanwhile: with its log it goes on as before.
    std::fs::write(world.at("elsewhere").join("segment-0000000001.log"), &whole).unwrap();
    std::fs::rename(world.at("elsewhere"), &log).unwrap();
    world.start();
    world.admin_as("carol", &["status"]).must(77);
    assert!(!world.admin(&["administrator", "list"]).must(0).text().contains("carol"));
}

fn approve(world: &World, proposal: &str) -> Value {
    world.admin_as("bob", &["pending", "approve", proposal, "--output", "json"]).must(0).json()
}

/// Of the one trust domain: milliseconds for which its bundle, or its lists, may still be used.
fn usable(world: &World, input: &str) -> u64 {
    let status = world.admin(&["status", "--output", "json"]).must(0).json();
    status["trust_domains"][0][input]["usable_for_ms"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

#[test]
fn an_import_of_reference_values_is_put_once_a_second_administrator_approved_it() {
    let world = World::bare();
    two(&world);
    let publisher = crate::corim::Publisher::new();
    let enclave = crate::corim::sha384(crate::corim::unsigned(0), 1);
    let manifest = crate::corim::Manifest::of(vec![crate::corim::triple("m", &[enclave])]);
    write(&world.at("m.corim"), publisher.sign(&manifest), 0o644);
    write(&world.at("acme.pem"), publisher.pem(), 0o644);
    let (file, signer) = (world.path("m.corim"), world.path("acme.pem"));
    let import =
        ["reference", "import", &file, "--signer", &signer, "--format", "nitro", "--name", "imported"];
    let import = [&import[..], &["--workload", "spiffe://cli.example/b/*", "--days", "3"]].concat();
    let waits = proposed(&world, "etc/ada", &import);
    let listed = || world.admin(&["reference", "list"]).must(0).text();
    assert!(!listed().contains("imported"));
    // It is made as it was proposed, whatever the file has become.
    write(&world.at("m.corim"), "something else", 0o644);
    assert!(!approve(&world, &waits)["record"].as_str().unwrap().is_empty());
    assert!(listed().contains("imported for spiffe://cli.example/b/*"));
    world.admin_as("bob", &["pending", "approve", &waits]).must(1);
}

/// Publishes a list and waits until the broker has read it.
fn publish_list(world: &World, number: u64) {
    let state = || {
        let status = world.admin(&["status", "--output", "json"]).must(0).json();
        status["trust_domains"][0]["revocation"]["state"].to_string()
    };
    let before = state();
    world.publish_list_for(number, 3_600_000, &[]);
    until("the list is read", || state() != before);
}

#[test]
fn a_list_whose_number_went_back_counts_once_a_second_administrator_approved_it() {
    let world = World::whole();
    two(&world);
    let release = |code| world.exec(&[&format!("--secret={OPEN}:value=A")], "exit 0").must(code);
    publish_list(&world, 5);
    release(0);
    publish_list(&world, 2);
    // Known as soon as the file is read, before anybody asks.
    assert_eq!(usable(&world, "revocation"), 0);
    release(75);
    let accept = ["crl", "accept", "cli.example", "--issuer", &world.path("etc/bundle.pem")];
    let waits = proposed(&world, "etc/ada", &accept);
    assert!(world.admin(&["pending", "approve", &waits]).must(75).stderr.contains("SECOND_PERSON_NEEDED"));
    // Neither a proposal nor an approval of one's own changes anything.
    release(75);
    approve(&world, &waits);
    release(0);
    assert!(usable(&world, "revocation") > 0);
    world.admin_as("bob", &["pending", "approve", &waits]).must(1);
}

#[test]
fn a_bundle_whose_sequence_went_back_counts_once_a_second_administrator_approved_it() {
    let place = Place::new();
    let pem = std::fs::read_to_string(place.at("etc/bundle.pem")).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(STANDARD.decode(&body).is_ok());
    place.reconfigure("bundle = \"bundle.pem\"", "bundle = \"bundle.json\"");
    let publish = |place: &Place, sequence: u64| {
        let key = serde_json::json!({ "use": "x509-svid", "kty": "EC", "x5c": [body.clone()] });
        let bundle = serde_json::json!({ "spiffe_sequence": sequence, "keys": [key] });
        write(&place.at("etc/bundle.new"), bundle.to_string(), 0o644);
        std::fs::rename(place.at("etc/bundle.new"), place.at("etc/bundle.json")).unwrap();
    };
    publish(&place, 9);
    let world = World::over(place);
    two(&world);
    until("the bundle counts", || usable(&world, "bundle") > 0);
    publish(&world, 3);
    until("the older one does not", || usable(&world, "bundle") == 0);
    let waits = proposed(&world, "etc/ada", &["bundle", "accept", "cli.example"]);
    assert_eq!(usable(&world, "bundle"), 0, "a proposal changes nothing");
    approve(&world, &waits);
    until("it counts", || usable(&world, "bundle") > 0);
    let record =
        world.records(&["--administrator", "bob", "--kind", "admin-intent"]).pop().unwrap().to_string();
    assert!(
        record.contains("\"verb\":\"bundle accept\"") && record.contains("\"proposed_by\":\"ada\""),
        "{record}"
    );
}
