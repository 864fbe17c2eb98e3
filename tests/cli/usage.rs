//! Help, usage errors and `init`.

use crate::world::{BROKER, Place, portcullis, run};
use std::os::unix::fs::PermissionsExt;

/// The commands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let named = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = named.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn visit(path: &[String], seen: &mut Vec<String>) {
    let help = run(portcullis().args(path).arg("--help")).must(0).text();
    let below = subcommands(&help);
    let example = help.contains(&format!("Example: portcullis {}", path[0]));
    assert!(example || !below.is_empty(), "{}: {help}", path.join(" "));
    if example {
        // One that has commands of its own below may do something itself.
        seen.push(path.join(" "));
    }
    below.iter().for_each(|name| visit(&[path, std::slice::from_ref(name)].concat(), seen));
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let mut seen = Vec::new();
    let commands = subcommands(&run(portcullis().arg("--help")).must(0).text());
    commands.iter().for_each(|name| visit(std::slice::from_ref(name), &mut seen));
    for expected in ["serve", "agent", "exec", "get", "init", "demo", "audit flips", "admin secret destroy"] {
        assert!(seen.iter().any(|path| path == expected), "{expected} in {seen:?}");
    }
    assert!(seen.len() >= 40, "{seen:?}");
}

#[test]
fn a_wrong_command_line_is_64_and_says_so_on_stderr() {
    let missing = [
        &[][..],
        &["no-such-command"],
        &["serve", "--no-such-flag"],
        &["exec", "--", "/bin/true"],
        &["exec", "--secret", "kv/a=A"],
        &["get"],
        &["agent", "--key", "/nowhere", "--socket"],
        &["audit"],
        &["audit", "show", "--denial", "NoSuchDenial", "--dir", "/"],
        &["audit", "show", "--since", "yesterday", "--dir", "/"],
        &["audit", "verify", "--output", "ocsf", "--dir", "/"],
        &["admin", "secret", "put", "kv/a"],
        &["admin", "secret", "destroy", "kv/a"],
        &["admin", "secret", "destroy", "kv/a", "--all", "--version", "1"],
        &["admin", "revoke", "--why", "no reason"],
        &["admin", "status"],
        &["init", "--broker-id", "not-a-spiffe-id", "--administrator", "ada"],
        &["init", "--administrator", "ada"],
    ];
    for arguments in missing {
        let ended = run(portcullis().args(arguments)).must(64);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
    assert!(run(portcullis().arg("--version")).must(0).text().starts_with("portcullis "));
}

#[test]
fn init_makes_files_of_their_owner_alone_and_overwrites_none() {
    let place = Place::new();
    for name in ["etc/store.key", "etc/audit.key", "etc/admin-roots.key", "etc/ada.key"] {
        let mode = std::fs::metadata(place.at(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = crate::world::sha256(place.at("etc/store.key"));
    let again = run(&mut place.init()).must(78);
    assert!(again.stderr.contains("not made"), "{}", again.stderr);
    assert_eq!(crate::world::sha256(place.at("etc/store.key")), before);
    place.check().must(0);
    // Another data directory, the keys being there: they would be those of the first store.
    let mut beside = portcullis();
    beside.arg("init").arg("--directory").arg(place.at("etc")).arg("--data").arg(place.at("other"));
    let refused = run(beside.args(["--broker-id", BROKER, "--administrator", "ada"])).must(78);
    assert!(refused.stderr.contains("not made"), "{}", refused.stderr);
    assert_eq!(crate::world::sha256(place.at("etc/store.key")), before);
    place.check().must(0);
}

#[test]
fn the_log_that_init_leaves_verifies_and_names_the_first_administrator() {
    let place = Place::new();
    place.audit(&["verify", "--key", &place.path("etc/audit.pub")]).must(0);
    let acts = place.records(&["--administrator", "init"]);
    assert_eq!(acts.len(), 1, "{acts:?}");
    assert!(acts[0].to_string().contains("administrator put"), "{acts:?}");
}
