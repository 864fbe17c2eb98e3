//! Keys: each source with the real program, and what `admin key` does while it serves.

use crate::probe::get;
use crate::world::{OPEN, Place, World, portcullis, run, run_with_input, until, write};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

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
    place.does_not_start("a passphrase has 16 to 1024 bytes");
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

fn unseal(world: &World, share: &str) -> crate::world::Ended {
    world.admin_with_input(&["key", "unseal"], share.as_bytes())
}

/// A broker that starts sealed, and its shares.
fn sealed() -> (World, Vec<String>) {
    let place = Place::unmade();
    let shares = ["--key-source", "shares", "--shares", "5", "--threshold", "3"];
    let impossible = run(place.init().args(["--key-source", "shares", "--shares", "2", "--threshold", "3"]));
    assert!(impossible.must(78).stderr.contains("at least 2 and at most all"));
    assert!(!place.at("var").exists());
    let made = run(place.init().args(shares)).must(0).text();
    let shares: Vec<String> =
        made.split_whitespace().filter(|word| word.starts_with("pcs1-")).map(str::to_owned).collect();
    assert_eq!(shares.len(), 5);
    assert!(made.contains("share 5 of 5, for its holder alone") && !place.at("etc/store.key").exists());
    place.write_files();
    (World::over(place), shares)
}

#[test]
fn a_sealed_broker_releases_nothing_until_enough_shares_are_given() {
    let (mut world, shares) = sealed();
    world.workload(crate::world::WORKLOAD, "api");
    let denied = world.get(&[OPEN, "--field", "value", "--output=json"]).must(75).complaint();
    assert_eq!(denied["reason"], "VERIFICATION_NOT_POSSIBLE", "{denied}");
    let refused = world.admin(&["secret", "list"]).must(75);
    assert!(
        refused.stderr.contains("0 of 3 shares") && refused.stderr.contains("SEALED"),
        "{}",
        refused.stderr
    );
    // Probes: it lives, and nobody is to be sent to it.
    let ready = |world: &World| get(&world.operations_address, "/readyz").unwrap().0;
    assert_eq!(get(&world.operations_address, "/livez").unwrap().0, 200);
    assert_eq!(ready(&world), 503);
    assert!(unseal(&world, &shares[4]).must(0).text().contains("1 of 3 shares are in"));
    // What is mistyped, given twice or not a share at all changes nothing.
    let last = shares[0].chars().last().unwrap();
    let typed = format!("{}{}", &shares[0][..shares[0].len() - 1], if last == '1' { '2' } else { '1' });
    assert!(unseal(&world, &typed).must(64).stderr.contains("mistyped"));
    assert!(unseal(&world, &shares[4]).must(64).stderr.contains("share 5 was given already"));
    assert!(unseal(&world, "no share").must(64).stderr.contains("does not begin with pcs1-"));
    assert!(unseal(&world, &shares[1]).must(0).text().contains("2 of 3 shares are in"));
    assert!(world.admin(&["key", "status"]).must(75).stderr.contains("2 of 3 shares"));
    assert!(unseal(&world, &shares[0]).must(0).text().contains("unsealed"));
    until("it serves", || world.admin(&["key", "status"]).code == 0);
    assert!(status(&world)["locked_with"].as_str().unwrap().starts_with("3 of 5 shares"));
    assert_eq!(ready(&world), 200);
    put(&world, OPEN);
    world.admin(&["key", "rotate"]).must(0);
    assert!(unseal(&world, &shares[2]).must(1).stderr.contains("not sealed"));
    // What was said is nowhere: not in a log, not in the store, not in any answer.
    let log = fs::read_to_string(world.at("broker.log")).unwrap();
    let records = world.records(&[]).iter().map(ToString::to_string).collect::<String>();
    assert!(records.contains("share 3 of 3 is in") && records.contains("\"StoreUnavailable\""), "{records}");
    for share in &shares {
        for text in [log.as_str(), records.as_str()] {
            assert!(!text.contains(&share[30..60]));
        }
    }
    // A restart seals it again, and a stop while sealed is a stop.
    world.stop();
    world.start();
    assert!(world.admin(&["key", "status"]).must(75).stderr.contains("0 of 3 shares"));
    assert_eq!(world.stop(), Some(0));
}

#[test]
fn shares_that_do_not_open_the_store_are_forgotten_and_recorded() {
    let (world, shares) = sealed();
    let (other, others) = sealed();
    drop(other);
    let foreign = unseal(&world, &others[0]).must(64);
    assert!(foreign.stderr.contains("this share is of another set"), "{}", foreign.stderr);
    // One that was altered together with its checksum, as an attacker among the holders could.
    unseal(&world, &altered(&shares[0])).must(0);
    unseal(&world, &shares[1]).must(0);
    let wrong = unseal(&world, &shares[2]).must(64);
    assert!(wrong.stderr.contains("do not open the store, and are forgotten"), "{}", wrong.stderr);
    assert!(world.admin(&["key", "status"]).must(75).stderr.contains("0 of 3 shares"));
    let records =
        world.records(&["--kind", "admin-read"]).iter().map(ToString::to_string).collect::<String>();
    assert!(records.contains("do not open the store"), "{records}");
    for share in &shares[2..5] {
        unseal(&world, share).must(0);
    }
    until("it serves", || world.admin(&["key", "status"]).code == 0);
}

#[test]
fn a_certificate_may_try_ten_shares_a_minute() {
    let (world, shares) = sealed();
    world.operator("holder", 3_600_000);
    for _ in 0..10 {
        unseal(&world, "pcs1-00").must(64);
    }
    assert!(unseal(&world, &shares[0]).must(75).stderr.contains("too many attempts"));
    let mut command = world.admin_command("holder", &["key", "unseal"]);
    run_with_input(&mut command, shares[0].as_bytes()).must(0);
    world.stranger("mallory");
    let mut command = world.admin_command("mallory", &["key", "unseal"]);
    run_with_input(&mut command, shares[1].as_bytes()).must(77);
}

fn altered(share: &str) -> String {
    let digits = share.strip_prefix("pcs1-").unwrap().replace('-', "");
    let mut bytes = hex::decode(digits).unwrap();
    bytes[20] ^= 1;
    let body = bytes.len() - 5;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes[..body]);
    bytes[body..].copy_from_slice(&digest.as_ref()[..5]);
    format!("pcs1-{}", hex::encode(bytes))
}

/// Whether the broker starts with this key source.
fn opens(world: &World, source: &str) -> bool {
    let text = fs::read_to_string(world.configuration()).unwrap();
    let other = |line: &str| !line.starts_with("key_file") && !line.starts_with("key_source");
    let mut lines: Vec<&str> = text.lines().filter(|line| other(line)).collect();
    let at = lines.iter().position(|line| *line == "[storage]").unwrap();
    let line = format!("key_source = \"{source}\"");
    lines.insert(at + 1, &line);
    write(&world.configuration(), lines.join("\n"), 0o644);
    let mut child = world.serve().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let _ended = child.kill();
    child.wait().unwrap();
    write(&world.configuration(), text, 0o644);
    !said.is_empty()
}

#[test]
fn a_kill_in_the_middle_of_a_rekey_leaves_exactly_one_key_that_opens() {
    let mut world = World::bare();
    put(&world, OPEN);
    world.stop();
    let next = world.path("etc/next.key");
    world.reconfigure(KEY_LINE, &format!("{KEY_LINE}\nkey_source_next = \"file:{next}\""));
    let present = world.path("etc/store.key");
    for (round, delay) in [0_u64, 4, 8, 16, 32].into_iter().enumerate() {
        let digits = format!("{:02x}", 0x20 + round).repeat(32);
        write(&world.at("etc/next.key"), digits, 0o600);
        world.start();
        let mut command = world.admin_command("etc/ada", &["key", "rekey"]);
        let mut asked = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        world.kill();
        asked.wait().unwrap();
        let opened = ["file:store.key", "file:next.key"].map(|source| opens(&world, source));
        assert!(opened[0] != opened[1], "round {round}: {opened:?}");
        // With both in the configuration it starts whatever happened.
        world.start();
        world.admin(&["secret", "describe", OPEN]).must(0);
        world.stop();
        if opened[1] {
            fs::rename(&next, &present).unwrap();
        }
    }
}

#[test]
fn a_key_that_is_missing_or_open_to_others_starts_nothing_and_changes_nothing() {
    let mut world = World::bare();
    put(&world, OPEN);
    world.stop();
    credential(&world, "store.key", &fs::read_to_string(world.at("etc/store.key")).unwrap());
    world.reconfigure(KEY_LINE, "key_source = \"credential:store.key\"");
    let stored = || {
        let mut files = Vec::new();
        crate::world::files_below(&world.at("var"), &mut files);
        files.sort();
        files.iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect::<Vec<_>>()
    };
    let before = stored();
    let file = world.at("credentials/store.key");
    let refused = |mode: u32, because: &str| {
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        world.does_not_start(because);
    };
    refused(0o444, "can be read by others");
    refused(0o620, "written by more than its owner");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    fs::rename(&file, world.at("away")).unwrap();
    world.does_not_start("No such file");
    credential(&world, "store.key", &"5d".repeat(32));
    world.does_not_start("does not open the keyring");
    assert!(stored() == before, "a start that was refused changed something");
    fs::remove_file(&file).unwrap();
    fs::rename(world.at("away"), &file).unwrap();
    world.start();
    world.admin(&["secret", "describe", OPEN]).must(0);
}

/// Each holder's file, and what `--holder` says of it.
fn holders(world: &World) -> Vec<String> {
    ["hana", "hugo", "hera"]
        .map(|name| {
            let made = run(portcullis().args(["holder", "new", &world.path(name)])).must(0).text();
            format!("{name}={}", made.trim())
        })
        .into()
}

/// A change's shares, each opened by its holder.
fn opened(world: &World, change: &serde_json::Value) -> Vec<String> {
    let shares = change["shares"].as_array().unwrap();
    let open = |one: &serde_json::Value| {
        let file = world.path(one["holder"].as_str().unwrap());
        let sealed = one["share"].as_str().unwrap();
        let ended = run_with_input(portcullis().args(["holder", "open", &file]), sealed.as_bytes());
        ended.must(0).text().trim().to_owned()
    };
    shares.iter().map(open).collect()
}

#[test]
fn shares_are_dealt_while_serving_each_for_its_holder_and_open_the_store_once_read_back() {
    let mut world = World::bare();
    put(&world, OPEN);
    world.stop();
    world.reconfigure(KEY_LINE, &format!("{KEY_LINE}\nkey_source_next = \"shares\""));
    world.start();
    let holders = holders(&world);
    assert!(world.admin(&["key", "rekey"]).must(64).stderr.contains("name their holders"));
    let mut rekey = vec!["key", "rekey", "--threshold", "2", "--output", "json"];
    holders.iter().for_each(|holder| rekey.extend(["--holder", holder]));
    let confirm = |world: &World, share: &str| {
        world.admin_with_input(&["key", "confirm", "--output", "json"], share.as_bytes())
    };
    let shares = opened(&world, &world.admin(&rekey).must(0).json()["change"]);
    // Another's share is nobody else's to open.
    let text = world.admin(&[&rekey[..4], &rekey[6..]].concat()).must(0).text();
    let sealed = text.lines().find_map(|line| line.strip_prefix("for hana: ")).unwrap().to_owned();
    let foreign =
        run_with_input(portcullis().args(["holder", "open", &world.path("hugo")]), sealed.as_bytes());
    assert!(foreign.must(78).stderr.contains("another holder's"));
    // What was dealt first is of no use since.
    assert!(confirm(&world, &shares[0]).must(64).stderr.contains("of another set"));
    // A broker that ends before enough were read back opens as before, and knows nothing of them.
    let shares = opened(&world, &world.admin(&rekey).must(0).json()["change"]);
    assert_eq!(confirm(&world, &shares[2]).must(0).json()["have"], 1);
    assert!(status(&world)["dealt"].as_str().unwrap().ends_with("1 of 2 read back"));
    world.kill();
    world.start();
    assert!(confirm(&world, &shares[0]).must(75).stderr.contains("no shares wait"));
    let shares = opened(&world, &world.admin(&rekey).must(0).json()["change"]);
    confirm(&world, &shares[0]).must(0);
    let locked = confirm(&world, &shares[1]).must(0).json();
    assert!(locked["locked_with"].as_str().unwrap().starts_with("2 of 3 shares"), "{locked}");
    assert_eq!(status(&world)["dealt"], "");
    world.operator("nora", 3_600_000);
    let certificate = world.path("nora.pem");
    let put_nora = ["administrator", "put", "nora", "--certificate", &certificate, "--days", "9"];
    world.admin(&[&put_nora[..], &["--role", "secrets"]].concat()).must(0);
    let mut command = world.admin_command("nora", &["key", "confirm"]);
    assert!(run_with_input(&mut command, shares[2].as_bytes()).must(77).stderr.contains("ROLE_MISSING"));
    // The old key opens nothing any more; the shares do, any two of them.
    world.stop();
    assert!(!opens(&world, "file:store.key"));
    world.start();
    assert!(unseal(&world, &shares[2]).must(0).text().contains("1 of 2 shares are in"));
    assert!(unseal(&world, &shares[0]).must(0).text().contains("unsealed"));
    until("it serves", || world.admin(&["key", "status"]).code == 0);
    world.admin(&["secret", "describe", OPEN]).must(0);
    let log = fs::read_to_string(world.at("broker.log")).unwrap();
    let records = world.records(&[]).iter().map(ToString::to_string).collect::<String>();
    assert!(records.contains("\"hana\"") && records.contains("2 of 3 shares, dealt"), "{records}");
    for share in &shares {
        assert!(!log.contains(&share[30..60]) && !records.contains(&share[30..60]));
    }
    assert!(!records.contains("pce1-"));
}

#[test]
fn a_rekey_waits_for_a_second_administrator_once_there_is_one() {
    let mut world = World::bare();
    world.stop();
    world.reconfigure(KEY_LINE, &format!("{KEY_LINE}\nkey_source_next = \"shares\""));
    world.start();
    world.operator("kit", 3_600_000);
    let certificate = world.path("kit.pem");
    let put_kit = ["administrator", "put", "kit", "--certificate", &certificate, "--days", "9"];
    world.admin(&[&put_kit[..], &["--role", "keys"]].concat()).must(0);
    let holders = holders(&world);
    let mut rekey = vec!["key", "rekey", "--threshold", "2", "--output", "json"];
    holders.iter().for_each(|holder| rekey.extend(["--holder", holder]));
    let waits = world.admin(&rekey).must(0).json();
    assert!(waits["change"]["shares"].as_array().unwrap().is_empty());
    let id = waits["change"]["proposal"].as_str().unwrap();
    let shown = world.admin_as("kit", &["pending", "show", id]).must(0).text();
    assert!(holders.iter().all(|holder| shown.contains(holder.split_once('=').unwrap().1)), "{shown}");
    world.admin(&["pending", "approve", id]).must(75);
    let made = world.admin_as("kit", &["pending", "approve", id, "--output", "json"]).must(0).json();
    let shares = opened(&world, &made);
    assert_eq!(shares.len(), 3);
    for share in &shares[1..] {
        world.admin_with_input(&["key", "confirm"], share.as_bytes()).must(0);
    }
    assert!(status(&world)["locked_with"].as_str().unwrap().starts_with("2 of 3 shares"));
}

#[test]
fn an_administrator_is_recovered_with_a_passphrase_and_with_shares() {
    let (mut world, shares) = sealed();
    assert_eq!(world.stop(), Some(0));
    world.operator("carol", 3_600_000);
    let recover = |world: &World, input: &[String]| {
        let (directory, certificate) = (world.path("etc"), world.path("carol.pem"));
        let mut command = portcullis();
        command.args(["init", "--directory", &directory, "--administrator", "carol"]);
        command.args(["--recover-admin", &certificate, "--administrator-days", "9"]);
        run_with_input(&mut command, input.join("\n").as_bytes())
    };
    assert!(recover(&world, &shares[..2]).must(78).stderr.contains("no share was given"));
    let wrong = [altered(&shares[0]), shares[1].clone(), shares[2].clone()];
    assert!(recover(&world, &wrong).must(78).stderr.contains("does not open the keyring"));
    assert!(recover(&world, &shares[2..]).must(0).text().contains("`carol` is an administrator"));
    world.start();
    for share in &shares[..3] {
        unseal(&world, share).must(0);
    }
    until("it serves", || world.admin_as("carol", &["key", "status"]).code == 0);
    let place = Place::unmade();
    let init = |more: &[&str], input: &str| {
        let mut command = place.init();
        run_with_input(command.args(more), input.as_bytes())
    };
    init(&["--key-source", "passphrase:fd:0"], &format!("{PASSPHRASE}\n")).must(0);
    place.operator("carol", 3_600_000);
    let with = |passphrase: &str| {
        let (directory, certificate) = (place.path("etc"), place.path("carol.pem"));
        let mut command = portcullis();
        command.args(["init", "--directory", &directory, "--administrator", "carol"]);
        command.args(["--recover-admin", &certificate, "--administrator-days", "9"]);
        run_with_input(&mut command, passphrase.as_bytes())
    };
    assert!(with("correct horse battery stable\n").must(78).stderr.contains("does not open the keyring"));
    with(&format!("{PASSPHRASE}\n")).must(0);
}
