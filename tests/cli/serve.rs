//! `serve`: what it checks, where it refuses to start, and what it keeps over its ends.

use crate::world::{BROKER, OPEN, Place, World, copy_directory, write};
use std::fs;

#[test]
fn check_says_ok_of_what_serves() {
    let ended = Place::new().check().must(0);
    assert!(ended.text().ends_with("ok\n"), "{ended:?}");
    assert!(!ended.text().contains("no DNS"), "{ended:?}");
}

#[test]
fn check_names_an_unknown_key_and_its_line() {
    let place = Place::new();
    place.reconfigure("[storage]\n", "[storage]\ndatta = \"x\"\n");
    let ended = place.check().must(78);
    assert!(ended.stderr.contains("datta") && ended.stderr.contains("line"), "{ended:?}");
}

#[test]
fn check_names_each_file_that_is_missing() {
    for name in ["etc/broker.pem", "etc/broker.key", "etc/admin-roots.pem", "etc/store.key", "etc/audit.key"]
    {
        let place = Place::new();
        fs::remove_file(place.at(name)).unwrap();
        let ended = place.check().must(78);
        let file = name.strip_prefix("etc/").unwrap();
        assert!(ended.text().contains(file), "{name}: {ended:?}");
        assert!(!ended.text().lines().any(|line| line == "ok"), "{ended:?}");
    }
    let place = Place::new();
    fs::remove_file(place.configuration()).unwrap();
    assert!(place.check().must(78).stderr.contains("portcullis.toml"));
}

#[test]
fn check_tells_of_a_bundle_or_a_list_that_cannot_be_used() {
    for name in ["bundle.pem", "list.crl"] {
        let place = Place::new();
        fs::remove_file(place.at(&format!("etc/{name}"))).unwrap();
        let ended = place.check();
        assert_ne!(ended.text(), "ok\n", "{name}");
        assert!(ended.text().contains("warning: ") || ended.code == 78, "{ended:?}");
    }
}

#[test]
fn check_warns_of_a_certificate_that_grpc_clients_would_not_take() {
    let place = Place::new();
    let nameless = place.leaf(Some(BROKER), &[], 3_600_000);
    write(&place.at("etc/broker.pem"), nameless.certificate, 0o644);
    write(&place.at("etc/broker.key"), nameless.key, 0o600);
    let ended = place.check().must(0);
    assert!(ended.text().contains("warning: ") && ended.text().contains("DNS"), "{ended:?}");
}

#[test]
fn without_its_data_directory_it_does_not_start_and_makes_none() {
    let place = Place::new();
    fs::rename(place.at("var/store"), place.at("elsewhere")).unwrap();
    place.does_not_start("store");
    assert!(!place.at("var/store").exists(), "an empty store was made");
    fs::rename(place.at("elsewhere"), place.at("var/store")).unwrap();
    World::over(place);
}

#[test]
fn with_a_key_that_others_can_read_it_does_not_start() {
    for name in ["etc/store.key", "etc/audit.key"] {
        let place = Place::new();
        let key = fs::read(place.at(name)).unwrap();
        write(&place.at(name), &key, 0o644);
        place.does_not_start("");
        write(&place.at(name), &key, 0o600);
        World::over(place);
    }
}

#[test]
fn with_another_stores_key_it_does_not_start() {
    let (place, other) = (Place::new(), Place::new());
    fs::copy(other.at("etc/store.key"), place.at("etc/store.key")).unwrap();
    place.does_not_start("key");
}

#[test]
fn beside_a_used_store_a_missing_log_keeps_it_from_starting() {
    let mut world = World::bare();
    put(&world, "kv/app/one");
    assert_eq!(world.stop(), Some(0));
    fs::rename(world.at("var/audit"), world.at("log")).unwrap();
    world.does_not_start("audit log");
    let _ = fs::remove_dir_all(world.at("var/audit"));
    fs::rename(world.at("log"), world.at("var/audit")).unwrap();
    world.start();
}

#[test]
fn a_store_restored_from_an_older_copy_keeps_it_from_starting() {
    let mut world = World::bare();
    put(&world, "kv/app/one");
    assert_eq!(world.stop(), Some(0));
    copy_directory(&world.at("var/store"), &world.at("copy"));
    world.start();
    put(&world, "kv/app/two");
    assert_eq!(world.stop(), Some(0));
    fs::rename(world.at("var/store"), world.at("newer")).unwrap();
    copy_directory(&world.at("copy"), &world.at("var/store"));
    world.does_not_start("was acknowledged: keep this directory");
    fs::remove_dir_all(world.at("var/store")).unwrap();
    fs::rename(world.at("newer"), world.at("var/store")).unwrap();
    world.start();
    assert_eq!(paths(&world), ["kv/app/one", "kv/app/two"]);
}

#[test]
fn a_second_broker_on_the_same_directory_does_not_start_and_the_first_goes_on() {
    let world = World::bare();
    world.does_not_start("");
    put(&world, "kv/app/one");
}

#[test]
fn a_taken_port_is_named() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.reconfigure("listen = \"127.0.0.1:0\"", &format!("listen = \"{address}\""));
    place.does_not_start(&address);
}

#[test]
fn sigterm_is_an_orderly_end_and_a_restart_keeps_what_was_released() {
    let mut world = World::whole();
    let script = "printf %s \"$A\"";
    let flags = [&format!("--secret={OPEN}:value=A")[..]];
    assert_eq!(world.exec(&flags, script).must(0).stdout, crate::world::VALUE);
    assert_eq!(world.stop(), Some(0));
    let last = world.records(&[]).pop().unwrap();
    assert!(last.to_string().contains("stopped"), "{last}");
    world.audit(&["verify", "--key", &world.path("etc/audit.pub")]).must(0);
    let refused = world.exec(&flags, script).must(69);
    assert!(refused.stdout.is_empty());
    world.start();
    assert_eq!(world.exec(&flags, script).must(0).stdout, crate::world::VALUE);
    let leases = world.admin(&["lease", "list", "--output", "json"]).must(0).json();
    assert_eq!(leases["leases"].as_array().unwrap().len(), 2, "the lease of before is known: {leases}");
}

#[test]
fn no_acknowledged_put_is_lost_to_kill_9() {
    let mut world = World::bare();
    let mut expected = Vec::new();
    for round in 0..5 {
        for number in 0..3 {
            let path = format!("kv/round-{round}/{number}");
            put(&world, &path);
            expected.push(path);
        }
        world.kill();
        world.start();
        assert_eq!(paths(&world), expected, "round {round}");
    }
    assert_eq!(world.stop(), Some(0));
    world.audit(&["verify", "--key", &world.path("etc/audit.pub")]).must(0);
}

#[track_caller]
fn put(world: &World, path: &str) {
    let value = format!("value=@{}", world.path("value"));
    world.admin(&["secret", "put", path, "--field", &value]).must(0);
}

fn paths(world: &World) -> Vec<String> {
    let listed = world.admin(&["secret", "list", "--output", "json"]).must(0).json();
    let secrets = listed["secrets"].as_array().unwrap();
    // They are listed in an order that says nothing of their paths.
    let mut paths: Vec<_> = secrets.iter().map(|one| one["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    paths
}

/// Whoever read its first line may ask it to end; a signal that came between would have killed it, without a record.
#[test]
fn however_soon_it_is_asked_to_end_it_drains() {
    let mut world = World::bare();
    let stops = |world: &World| world.records(&["--kind", "stopped"]).len();
    let before = stops(&world);
    for stop in 1..=5 {
        assert_eq!(world.stop(), Some(0));
        assert_eq!(stops(&world), before + stop);
        world.start();
    }
}
