//! A revocation as an operator makes it: leases end, the next request is refused, and it can be lifted.

use crate::world::{OPEN, WORKLOAD, World, sha256, until};

fn leases(world: &World) -> usize {
    let listed = world.admin(&["lease", "list", "--output", "json"]).must(0).json();
    listed["leases"].as_array().unwrap().len()
}

/// Whoever is provably revoked does not get through the handshake (`protocol.md`, "Connection"): it hears an alert, and no
/// reason. That is a denial all the same, and nothing to try again.
#[track_caller]
fn refused(world: &World, name: &str, script: &str) {
    let flag = format!("--secret={OPEN}:value=A");
    let complaint = world.exec_as(name, &[&flag, "--output=json"], script).must(77).complaint();
    assert_eq!(complaint["outcome"], "denied");
    assert!(complaint["message"].as_str().unwrap().ends_with("it is revoked"), "{complaint}");
    assert!(complaint["advice"].as_str().unwrap().contains("do not try again"), "{complaint}");
    assert!(complaint["reason"].is_null() && complaint["decision_id"].is_null(), "{complaint}");
}

#[test]
fn a_revoked_identity_loses_its_leases_and_gets_no_other_until_it_is_lifted() {
    let world = World::whole();
    let flags = [&format!("--secret={OPEN}:value=A")[..], "--output=json"];
    world.exec(&flags, "exit 0").must(0);
    assert_eq!(leases(&world), 1);
    let revoked = world.admin(&["revoke", "--identity", WORKLOAD, "--why", "host taken"]).must(0);
    assert!(revoked.text().contains("ended lease "), "{revoked:?}");
    assert_eq!(leases(&world), 0);
    let listed = world.admin(&["revocation", "list"]).must(0).text();
    assert!(listed.contains(&format!("{WORKLOAD}: host taken")), "{listed}");
    let marker = world.at("marker");
    refused(&world, "api", &format!("echo ran > {}", marker.display()));
    assert!(!marker.exists());
    let mut world = world;
    world.stop();
    world.start();
    refused(&world, "api", "exit 0");
    world.admin(&["unrevoke", "--identity", WORKLOAD]).must(0);
    world.exec(&flags, "exit 0").must(0);
    world.admin(&["unrevoke", "--identity", WORKLOAD]).must(1);
    assert_eq!(leases(&world), 1);
    // The neighbour was never touched by this, and is by a pattern over both.
    world.exec_as("plain", &flags, "exit 0").must(0);
    world.admin(&["revoke", "--identity", "spiffe://cli.example/ns/app/*", "--why", "all"]).must(0);
    assert_eq!(leases(&world), 0);
    refused(&world, "plain", "exit 0");
    let recorded = || world.records(&["--denial", "PeerRevokedByBroker"]);
    until("three records", || recorded().len() == 3);
    assert!(recorded().iter().all(|record| record.to_string().contains("handshake-refused")));
}

#[test]
fn a_revoked_key_is_refused_and_another_key_of_the_same_identity_is_not() {
    let world = World::whole();
    let flags = [&format!("--secret={OPEN}:value=A")[..], "--output=json"];
    world.exec(&flags, "exit 0").must(0);
    let released = world.records(&["--kind", "released"]).pop().unwrap();
    let key = find(&released, "key_sha256").expect("a release names the key").to_owned();
    world.admin(&["revoke", "--key", &key, "--why", "key copied"]).must(0);
    refused(&world, "api", "exit 0");
    let before = sha256(world.at("api.key"));
    world.workload(WORKLOAD, "api");
    assert_ne!(sha256(world.at("api.key")), before);
    world.exec(&flags, "exit 0").must(0);
    world.admin(&["unrevoke", "--key", &key]).must(0);
}

/// The first text of that name, however deep.
fn find<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    let object = value.as_object()?;
    let here = object.get(name).and_then(serde_json::Value::as_str);
    here.or_else(|| object.values().find_map(|inner| find(inner, name)))
}
