//! `exec --hold`: the program lives no longer than its lease, and the lease no longer than the program.

use crate::world::{OPEN, Place, Process, Shared, VALUE, WORKLOAD, World, run, until, write};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn quick() -> World {
    let place = Place::new();
    place.settle();
    World::whole_over(place)
}

/// For tests that change nothing of it.
fn world() -> &'static World {
    static WORLD: OnceLock<Shared> = OnceLock::new();
    &WORLD.get_or_init(|| Shared::new(quick())).world
}

const HELD: [&str; 5] = ["exec", "--hold", "--ttl", "4", "--secret=kv/app/one=A"];
/// Says that it runs, and does nothing more.
const WAIT: &str = "echo ready; while :; do sleep 0.1; done";

fn hold(world: &World, name: &str, flags: &[&str], script: &str) -> Command {
    world.as_workload(name, &[&HELD, flags, &["--", "/bin/sh", "-c", script]].concat())
}

/// A held program that has said `ready`.
struct Running {
    process: Process,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let running = Running { process: Process(child), lines };
        if line != "ready\n" {
            let ended = running.ended();
            panic!("it said `{line}`: {ended:?}");
        }
        running
    }

    /// Its code, what it still said, and what was said of it.
    fn ended(mut self) -> (Option<i32>, String, String) {
        let (mut said, mut stderr) = (String::new(), String::new());
        std::io::Read::read_to_string(&mut self.lines, &mut said).unwrap();
        let mut pipe = self.process.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut pipe, &mut stderr).unwrap();
        (self.process.0.wait().unwrap().code(), said, stderr)
    }
}

fn leases(world: &World) -> usize {
    let listed = world.admin(&["lease", "list", "--output", "json"]).must(0);
    listed.json()["leases"].as_array().map_or(0, Vec::len)
}

#[test]
fn the_program_outlives_its_first_period_and_its_lease_ends_with_it() {
    let world = world();
    let value = String::from_utf8(VALUE.to_vec()).unwrap();
    let ended = run(&mut hold(world, "api", &[], "sleep 6; printf %s \"$A\"; exit 41")).must(41);
    assert_eq!(ended.text(), value);
    let of_kind = |kind: &str| -> Vec<String> {
        let records = world.records(&["--kind", kind]);
        records.iter().map(|record| record["event"]["lease_id"].as_str().unwrap().to_owned()).collect()
    };
    let (renewed, ended) = (of_kind("renewed"), of_kind("lease-ended"));
    let rounds = |lease: &String| renewed.iter().filter(|renewed| *renewed == lease).count();
    assert!(ended.iter().any(|lease| rounds(lease) >= 3), "{renewed:?} {ended:?}");
}

#[test]
fn a_signal_reaches_the_program_and_its_answer_is_what_counts() {
    let world = world();
    let script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let running = Running::start(hold(world, "api", &[], script));
    running.process.signal(Signal::TERM);
    let (code, said, _) = running.ended();
    assert_eq!((code, said.as_str()), (Some(9), "told\n"));
}

#[test]
fn a_new_certificate_takes_over_before_the_old_one_ends() {
    let world = world();
    world.short_lived(WORKLOAD, "rotated", 5_000);
    let running = Running::start(hold(world, "rotated", &[], "echo ready; sleep 8; exit 5"));
    std::thread::sleep(Duration::from_secs(2));
    world.workload(WORKLOAD, "rotated");
    let (code, _, stderr) = running.ended();
    assert_eq!(code, Some(5), "{stderr}");
}

#[test]
fn a_certificate_that_is_not_renewed_ends_the_program_with_it() {
    let world = world();
    world.short_lived(WORKLOAD, "brief", 4_000);
    let begun = Instant::now();
    let (code, _, stderr) = Running::start(hold(world, "brief", &[], WAIT)).ended();
    assert_eq!(code, Some(77), "{stderr}");
    assert!(stderr.contains("IDENTITY_NOT_CURRENT"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_lease_too_short_for_a_round_is_denied_and_nothing_runs() {
    let marker = world().at("ran-too-short");
    let script = format!("echo ran > {}", marker.display());
    let arguments = ["exec", "--hold", "--ttl", "1", "--secret=kv/app/one=A", "--", "/bin/sh", "-c", &script];
    run(&mut world().as_workload("api", &arguments)).must(77);
    assert!(!marker.exists());
    let grace = ["exec", "--grace", "1", "--secret=kv/app/one=A", "--", "/bin/true"];
    run(&mut world().as_workload("api", &grace)).must(64);
}

/// A policy that permits nothing to anybody of this world.
fn forbid(world: &World) {
    write(&world.at("nobody.cedar"), "@id(\"all\")\nforbid (principal, action, resource);\n", 0o644);
    world.admin(&["policy", "put", &world.path("nobody.cedar")]).must(0);
}

#[test]
fn a_refusal_stops_the_program_at_once_and_kills_one_that_does_not_listen() {
    let world = quick();
    let polite = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let polite = Running::start(hold(&world, "api", &[], polite));
    let deaf = Running::start(hold(&world, "plain", &["--grace", "1"], deaf));
    forbid(&world);
    let begun = Instant::now();
    let (code, said, stderr) = polite.ended();
    assert_eq!((code, said.as_str()), (Some(77), "told\n"), "{stderr}");
    assert!(stderr.contains("NOT_RELEASED"), "{stderr}");
    let (code, _, stderr) = deaf.ended();
    assert_eq!(code, Some(77), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(leases(&world), 0);
}

#[test]
fn a_revoked_lease_stops_the_program_at_once() {
    let world = quick();
    let running = Running::start(hold(&world, "api", &[], WAIT));
    let listed = world.admin(&["lease", "list", "--output", "json"]).must(0).json();
    let id = listed["leases"][0]["id"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    world.admin(&["lease", "revoke", &id, "--why", "taken"]).must(0);
    assert_eq!(running.ended().0, Some(77));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn without_a_broker_the_program_is_stopped_at_its_leases_end_and_not_before() {
    let mut world = quick();
    let running = Running::start(hold(&world, "api", &[], WAIT));
    world.kill();
    let begun = Instant::now();
    let (code, _, stderr) = running.ended();
    assert_eq!(code, Some(75), "{stderr}");
    let lived = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&lived), "{lived:?}: {stderr}");
    assert!(stderr.contains("a new one is sought"), "{stderr}");
}

#[test]
fn without_an_attester_the_program_is_stopped_at_its_leases_end() {
    let mut world = quick();
    let running = Running::start(hold(&world, "api", &[], WAIT));
    world.stop_agent();
    let (code, _, stderr) = running.ended();
    assert_eq!(code, Some(75), "{stderr}");
    assert!(stderr.contains("attester"), "{stderr}");
    // Nobody refused anything: no denial stands against the workload.
    let latches = world.admin(&["latch", "list", "--output", "json"]).must(0).json();
    assert_eq!(latches["latches"].as_array().map_or(0, Vec::len), 0, "{latches}");
}

#[test]
fn a_broker_that_stops_in_order_and_comes_back_takes_the_program_over() {
    let mut world = quick();
    let arguments = ["exec", "--hold", "--ttl", "12", "--secret=kv/app/one=A", "--", "/bin/sh", "-c"];
    let command = world.as_workload("api", &[&arguments[..], &["echo ready; sleep 9; exit 7"]].concat());
    let running = Running::start(command);
    world.stop();
    world.start();
    until("the new broker holds a lease", || {
        let records = world.records(&["--kind", "released"]);
        records.iter().filter(|record| record["event"]["case"]["hold"] == true).count() == 2
    });
    let (code, _, stderr) = running.ended();
    assert_eq!(code, Some(7), "{stderr}");
    let drained = world.records(&["--kind", "denied"]);
    assert!(drained.iter().any(|record| record["event"]["denial"] == "HoldDrained"), "{drained:?}");
}

#[test]
fn a_program_with_an_old_version_is_not_taken_over_by_a_lease_of_the_new_one() {
    let mut world = quick();
    let running = Running::start(hold(&world, "api", &[], WAIT));
    let value = format!("value=@{}", world.path("value"));
    // Within a lease the version does not change; the next lease is of another.
    world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    world.stop();
    world.start();
    let (code, _, stderr) = running.ended();
    assert_eq!(code, Some(75), "{stderr}");
    assert!(stderr.contains("new version"), "{stderr}");
}
