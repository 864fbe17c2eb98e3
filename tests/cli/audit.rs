//! `audit`: what a changed log shows, and what a whole one tells.

use crate::world::{FORBIDDEN, NODE, OPEN, Process, Shared, WORKLOAD, World, copy_directory, write};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A world with a release, a denial, an operator's refusal, a denial that turned into a release; its broker goes on.
fn world() -> &'static World {
    static WORLD: OnceLock<Shared> = OnceLock::new();
    &WORLD.get_or_init(|| Shared::new(lived())).world
}

fn lived() -> World {
    let world = World::whole();
    let flag = |path: &str| format!("--secret={path}:value=A");
    world.exec(&[&flag(OPEN)], "exit 0").must(0);
    world.exec(&[&flag(FORBIDDEN)], "exit 0").must(77);
    world.exec(&[&flag(FORBIDDEN)], "exit 0").must(77);
    world.stranger("mallory");
    world.admin_as("mallory", &["secret", "list"]).must(77);
    let permit = crate::world::POLICY.split("@id(\"nobody\")").next().unwrap();
    write(&world.at("permit.cedar"), permit, 0o644);
    world.admin(&["policy", "put", &world.path("permit.cedar")]).must(0);
    world.exec(&[&flag(FORBIDDEN)], "exit 0").must(0);
    world
}

fn key() -> String {
    world().path("etc/audit.pub")
}

/// A copy of the log as it stands, with its last checkpoint: the log may be copied while it is written.
fn copied(name: &str) -> PathBuf {
    let copy = world().at(name);
    copy_directory(&world().at("var/audit"), &copy);
    copy
}

fn segment(directory: &Path) -> PathBuf {
    directory.join("segment-0000000001.log")
}

#[track_caller]
fn not_verified(directory: &Path, more: &[&str]) -> String {
    let key = key();
    let arguments = [&["verify", "--key", &key], more].concat();
    let ended = world().audit_of(directory, &arguments).must(1);
    assert!(ended.stderr.contains("NOT VERIFIED"), "{ended:?}");
    let json = world().audit_of(directory, &[&arguments[..], &["--output", "json"]].concat()).must(1).json();
    assert_eq!(json["verified"], Value::Bool(false));
    ended.stderr
}

#[test]
fn a_running_brokers_log_verifies_and_says_how_much_it_proves() {
    let ended = world().audit(&["verify", "--key", &key()]).must(0);
    assert!(ended.text().contains("one kept elsewhere proves more"), "{ended:?}");
    let json = world().audit(&["verify", "--key", &key(), "--output", "json"]).must(0).json();
    assert_eq!(json["verified"], Value::Bool(true));
    assert!(json["records"].as_u64().unwrap() > 10, "{json}");
}

#[test]
fn one_changed_byte_is_found_wherever_it_is() {
    let copy = copied("changed");
    world().audit_of(&copy, &["verify", "--key", &key()]).must(0);
    let whole = fs::read(segment(&copy)).unwrap();
    for part in 1..8 {
        let mut bytes = whole.clone();
        let at = whole.len() * part / 9;
        bytes[at] ^= 1;
        fs::write(segment(&copy), &bytes).unwrap();
        not_verified(&copy, &[]);
    }
    fs::write(segment(&copy), &whole).unwrap();
    world().audit_of(&copy, &["verify", "--key", &key()]).must(0);
}

#[test]
fn a_removed_segment_is_found() {
    let copy = copied("removed");
    fs::remove_file(segment(&copy)).unwrap();
    not_verified(&copy, &[]);
}

#[test]
fn a_cut_tail_is_found_by_a_checkpoint_that_was_kept_elsewhere() {
    let place = crate::world::Place::new();
    // The log at its beginning, with the checkpoint of then: what someone who wants to undo the rest would put back.
    copy_directory(&place.at("var/audit"), &place.at("early"));
    let mut world = World::over(place);
    let value = format!("value=@{}", world.path("value"));
    world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    world.stop();
    let key = world.path("etc/audit.pub");
    let note = world.audit(&["checkpoint", "--key", &key]).must(0).stdout;
    let kept = world.path("kept");
    write(Path::new(&kept), note, 0o644);
    world.audit(&["verify", "--key", &key, "--checkpoint", &kept]).must(0);
    // Cut without its checkpoint, the directory itself shows it.
    let half = world.at("half");
    copy_directory(&world.at("var/audit"), &half);
    let length = fs::metadata(segment(&half)).unwrap().len();
    fs::OpenOptions::new().write(true).open(segment(&half)).unwrap().set_len(length / 2).unwrap();
    let cut = world.audit_of(&half, &["verify", "--key", &key]).must(1);
    assert!(cut.stderr.contains("NOT VERIFIED"), "{cut:?}");
    let early = world.at("early");
    world.audit_of(&early, &["verify", "--key", &key]).must(0);
    let cut = world.audit_of(&early, &["verify", "--key", &key, "--checkpoint", &kept]).must(1);
    assert!(cut.stderr.contains("the end was cut off"), "{cut:?}");
}

#[test]
fn another_logs_key_verifies_nothing() {
    let other = crate::world::Place::new();
    let ended = world().audit(&["verify", "--key", &other.path("etc/audit.pub")]).must(1);
    assert!(ended.stderr.contains("NOT VERIFIED"), "{ended:?}");
    world().audit(&["verify", "--key", "/nonexistent"]).must(78);
}

#[test]
fn each_filter_shows_what_it_names_and_nothing_else() {
    let all = world().records(&[]);
    let count = |filters: &[&str]| world().records(filters).len();
    assert_eq!(count(&["--kind", "released"]), 2);
    assert_eq!(count(&["--kind", "denied"]), 2);
    assert_eq!(count(&["--denial", "PolicyForbids"]), 1);
    assert_eq!(count(&["--denial", "LatchHolds"]), 1);
    assert_eq!(count(&["--secret", OPEN, "--kind", "released"]), 1);
    assert_eq!(count(&["--secret", FORBIDDEN, "--kind", "denied"]), 2);
    assert_eq!(count(&["--identity", WORKLOAD, "--kind", "released"]), 2);
    assert_eq!(count(&["--identity", "spiffe://cli.example/ns/*", "--kind", "released"]), 2);
    assert_eq!(count(&["--identity", "spiffe://cli.example/other"]), 0);
    assert_eq!(count(&["--node", NODE, "--kind", "released"]), 2);
    assert_eq!(count(&["--node", "node-2"]), 0);
    assert!(count(&["--administrator", "ada"]) >= 6);
    assert_eq!(count(&["--administrator", "nobody"]), 0);
    assert_eq!(count(&["--limit", "3"]), 3);
    assert_eq!(count(&["--since", "2999-01-01T00:00:00Z"]), 0);
    assert_eq!(count(&["--until", "2000-01-01T00:00:00Z"]), 0);
    assert!(count(&["--since", "2000-01-01T00:00:00Z", "--until", "2999-01-01T00:00:00Z"]) >= all.len());
    let denied = &world().records(&["--denial", "PolicyForbids"])[0];
    let id = denied["id"].as_str().unwrap();
    assert!(world().records(&["--decision", id]).iter().any(|one| one["id"] == id));
    let text = world().audit(&["show", "--denial", "PolicyForbids"]).must(0).text();
    assert!(text.contains("PolicyForbids") && text.contains(WORKLOAD), "{text}");
}

#[test]
fn a_denial_that_a_release_followed_is_a_flip() {
    let flips = world().audit(&["flips", "--output", "json"]).must(0).text();
    let flips: Vec<Value> = flips.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |secret: &str| flips.iter().filter(|flip| flip["secret"] == secret).count();
    assert!(of(FORBIDDEN) >= 1 && of(OPEN) == 0, "{flips:?}");
    let text = world().audit(&["flips"]).must(0).text();
    // The last of the two is the latch of the first, which is what a reader wants to know.
    let first = &world().records(&["--denial", "PolicyForbids"])[0];
    let id = first["id"].as_str().unwrap();
    let cause = &flips.iter().find(|flip| flip["secret"] == FORBIDDEN).unwrap()["cause"];
    assert_eq!((&cause["id"], &cause["refusal"]["denial"]), (&id.into(), &"PolicyForbids".into()));
    assert_eq!(cause["refusal"]["sequence"], first["sequence"]);
    let words = format!("{WORKLOAD} {FORBIDDEN} LatchHolds repeating PolicyForbids {id} (2 times");
    assert!(text.contains(&words) && text.contains("then released"), "{text}");
}

#[test]
fn ocsf_is_one_event_a_line_of_class_6003() {
    let text = world().audit(&["show", "--output", "ocsf"]).must(0).text();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.len() > 10);
    for event in &events {
        assert_eq!((&event["class_uid"], &event["category_uid"]), (&6003.into(), &6.into()), "{event}");
        assert!(event["time"].is_u64() && event["metadata"]["version"].is_string(), "{event}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut command = crate::world::portcullis();
    command.args(["audit", "show", "--output", "json", "--dir"]).arg(world().at("var/audit"));
    let mut child = Process(command.stdout(std::process::Stdio::piped()).spawn().unwrap());
    drop(child.0.stdout.take());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

/// A log of two years ago in three segments, made by the library; `archive` moves whole segments of days gone by.
#[test]
fn an_archive_its_log_and_both_together_verify_and_are_searched() {
    use portcullis::audit::checkpoint::LogKey;
    use portcullis::audit::record::{Event, Record};
    use portcullis::time::{BootTime, WallTime};
    let place = crate::world::Place::new();
    let (log, key, public) = (place.at("old"), place.path("old.key"), place.path("old.pub"));
    let signer = LogKey::create(Path::new(&key), "portcullis/old").unwrap();
    write(Path::new(&public), format!("{}\n", signer.public()), 0o644);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (opened, _) = portcullis::audit::log::Log::open(&log, signer, WallTime(u64::MAX), |_| ()).unwrap();
    let start = crate::world::wall().0 - 2 * 365 * 86_400_000;
    let state = "x".repeat(200 * 1024);
    for number in 0..700_u64 {
        let event = Event::Clock { state: state.clone() };
        let (id, boot_id) = (format!("{number:032x}"), "boot".to_owned());
        // The last ones are of today, as of a log that goes on.
        let time = WallTime(if number < 690 { start + number * 60_000 } else { crate::world::wall().0 });
        runtime
            .block_on(opened.append(&Record { id, time, boot_time: BootTime(number), boot_id, event }))
            .unwrap();
    }
    opened.close();
    let (archive, run) = (place.path("archive"), |arguments: &[&str]| place.audit_of(&log, arguments));
    let kept = run(&["checkpoint", "--key", &public]).must(0).stdout;
    write(&place.at("kept"), kept, 0o644);
    let kept = place.path("kept");
    let to = |before: &'static str| {
        ["archive", "--before", before, "--to", &archive, "--audit-key", &key].map(str::to_owned)
    };
    let call = |arguments: [String; 7]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        place.audit_of(&log, &arguments)
    };
    assert!(call(to("1999-01-01T00:00:00Z")).must(0).text().contains("nothing to archive"));
    call(to("yesterday")).must(64);
    let archived = call(to("400")).must(0).text();
    assert!(archived.contains("archived 1 segments; the log begins at record "), "{archived}");
    let rest = run(&["verify", "--key", &public, "--checkpoint", &kept]).must(0).text();
    assert!(rest.contains("verified 700 records in 2 segments") && rest.contains("are archived"), "{rest}");
    let alone = place.audit_of(&place.at("archive"), &["verify", "--key", &public]).must(0).text();
    assert!(alone.contains("in 1 segments"), "{alone}");
    let both =
        run(&["verify", "--key", &public, "--checkpoint", &kept, "--archive", &archive]).must(0).text();
    assert!(both.contains("verified 700 records in 3 segments") && !both.contains("archived"), "{both}");
    let first = format!("{:032x}", 5);
    let found = |more: &[&str]| {
        let arguments = [&["show", "--decision", &first], more].concat();
        run(&arguments).must(0).text().lines().count()
    };
    assert_eq!((found(&[]), found(&["--archive", &archive])), (0, 1));
    // Without what says where it begins, it is a log that was cut.
    fs::remove_file(log.join("archived")).unwrap();
    assert!(run(&["verify", "--key", &public]).must(1).stderr.contains("NOT VERIFIED"));
}
