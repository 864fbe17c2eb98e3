//! `exec`: how secrets reach a program, how it ends, and that it does not start otherwise.

use crate::world::{
    BROKER, FORBIDDEN, OPEN, Place, Process, Shared, TWO_FIELDS, VALUE, WORKLOAD, World, run, sha256, until,
    write,
};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::OnceLock;

fn world() -> &'static World {
    static WORLD: OnceLock<Shared> = OnceLock::new();
    &WORLD.get_or_init(|| Shared::new(World::whole())).world
}

fn flag(kind: &str, target: &str) -> String {
    format!("--{kind}={target}")
}

fn variable() -> String {
    flag("secret", &format!("{OPEN}:value=A"))
}

/// A script that leaves a trace of having run.
fn marking(world: &World, name: &str) -> (std::path::PathBuf, String) {
    let marker = world.at(name);
    let script = format!("echo ran > {}", marker.display());
    (marker, script)
}

#[test]
fn secrets_reach_the_program_in_each_way() {
    let flags = [
        variable(),
        flag("secret", &format!("{TWO_FIELDS}:user=U")),
        flag("file", &format!("{OPEN}=F")),
        flag("fd", &format!("{TWO_FIELDS}:value=D")),
        format!("--stdin={OPEN}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let script =
        r#"printf '%s|%s|' "$A" "$U"; cat "$F"; printf '|'; cat "/proc/self/fd/$D"; printf '|'; cat"#;
    let value = String::from_utf8(VALUE.to_vec()).unwrap();
    let ended = world().exec(&flags, script).must(0);
    assert_eq!(ended.text(), format!("{value}|app-user|{value}|{value}|{value}"));
}

#[test]
fn the_program_learns_its_lease_and_nothing_of_where_the_keys_are() {
    let (a, script) = (variable(), "env | grep ^PORTCULLIS_ | cut -d= -f1 | sort | tr '\\n' ' '");
    let ended = world().exec(&[&a], script).must(0);
    assert_eq!(ended.text(), "PORTCULLIS_LEASE_ID PORTCULLIS_LEASE_NOT_AFTER ");
    let passed = world().exec(&[&a, "--pass-configuration"], script).must(0);
    assert!(passed.text().contains("PORTCULLIS_KEY "), "{passed:?}");
}

#[test]
fn the_programs_code_comes_back_and_a_signal_is_128_and_its_number() {
    let a = variable();
    for (script, code) in
        [("exit 0", 0), ("exit 41", 41), ("exit 77", 77), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
    {
        world().exec(&[&a], script).must(code);
    }
}

#[test]
fn sigterm_is_passed_on_and_the_programs_answer_is_what_counts() {
    let script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = world().as_workload("api", &["exec", &variable(), "--", "/bin/sh", "-c", script]);
    let mut child = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child.signal(Signal::TERM);
    lines.read_to_string(&mut line).unwrap();
    assert_eq!((line.as_str(), child.0.wait().unwrap().code()), ("ready\ntold\n", Some(9)));
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let a = variable();
    let text = world().at("no-program");
    write(&text, "neither ELF nor a script", 0o755);
    let interpreter = world().at("no-interpreter");
    write(&interpreter, "#!/nonexistent/sh\n", 0o755);
    for (program, code) in [
        ("/nonexistent/program", 127),
        ("no-such-program-in-path", 127),
        ("/etc/passwd", 126),
        ("/", 126),
        (text.to_str().unwrap(), 126),
        (interpreter.to_str().unwrap(), 127),
    ] {
        let ended = run(&mut world().as_workload("api", &["exec", &a, "--", program])).must(code);
        assert!(ended.stderr.starts_with("portcullis: "), "{program}: {ended:?}");
        let json = ["exec", &a, "--output", "json", "--", program];
        let complaint = run(&mut world().as_workload("api", &json)).must(code).complaint();
        assert_eq!((&complaint["outcome"], &complaint["exit_code"]), (&"not_run".into(), &code.into()));
    }
}

#[test]
fn denied_is_77_and_nothing_runs() {
    let (marker, script) = marking(world(), "ran-denied");
    let flag = flag("secret", &format!("{FORBIDDEN}:value=A"));
    // The second is held by the first one's latch: an operator sees which it was, and the caller does not.
    for _ in 0..2 {
        let complaint = world().exec(&[&flag, "--output=json"], &script).must(77).complaint();
        assert_eq!((&complaint["outcome"], &complaint["reason"]), (&"denied".into(), &"NOT_RELEASED".into()));
        let id = complaint["decision_id"].as_str().unwrap();
        assert_eq!(world().records(&["--decision", id, "--kind", "denied"]).len(), 1);
    }
    let spoken = world().exec(&[&flag], &script).must(77);
    assert!(spoken.stderr.contains("portcullis admin explain --decision "), "{}", spoken.stderr);
    assert!(!marker.exists());
}

#[test]
fn one_denied_secret_denies_all_of_a_request() {
    let (marker, script) = marking(world(), "ran-half");
    let flags = [variable(), flag("secret", &format!("{FORBIDDEN}:value=B"))];
    world().exec(&[&flags[0], &flags[1]], &script).must(77);
    assert!(!marker.exists());
}

#[test]
fn a_lease_longer_than_the_secrets_maximum_is_denied_and_not_cut() {
    let (marker, script) = marking(world(), "ran-long");
    let user = flag("secret", &format!("{TWO_FIELDS}:user=A"));
    let complaint = world().exec(&[&user, "--ttl=86400", "--output=json"], &script);
    assert!([64, 77].contains(&complaint.code), "{complaint:?}");
    assert!(!marker.exists());
}

#[test]
fn what_cannot_be_verified_is_75_and_nothing_runs() {
    let (marker, script) = marking(world(), "ran-unverified");
    let a = variable();
    let complaint = world().exec_as("unknown", &[&a, "--output=json"], &script).must(75).complaint();
    assert_eq!(complaint["reason"], "VERIFICATION_NOT_POSSIBLE");
    let socket = world().path("no.sock");
    let unattested =
        world().exec(&[&a, "--attester", &socket, "--output=json"], &script).must(75).complaint();
    assert_eq!(unattested["outcome"], "not_possible");
    assert!(!marker.exists());
}

#[test]
fn no_connection_is_69_and_nothing_runs() {
    let (marker, script) = marking(world(), "ran-unconnected");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let complaint =
        world().exec(&[&variable(), "--broker", &free, "--output=json"], &script).must(69).complaint();
    assert_eq!(complaint["outcome"], "not_connected");
    assert!(!marker.exists());
}

/// A script that tries 69 again must not try this again: the connection was refused, not lost.
#[test]
fn a_certificate_that_the_broker_refuses_is_77_and_nothing_runs() {
    let world = World::whole();
    let (marker, script) = marking(&world, "ran-refused");
    let flags = [&variable()[..], "--output=json"];
    world.short_lived(WORKLOAD, "ended", 2_500);
    world.foreign(WORKLOAD, "foreign");
    let serial = world.short_lived(WORKLOAD, "taken", 3_600_000);
    world.exec_as("taken", &flags, "exit 0").must(0);
    world.publish_list(&[serial]);
    until("it is revoked and expired", || {
        ["taken", "ended"].iter().all(|name| world.exec_as(name, &flags, "exit 0").code == 77)
    });
    for (name, why) in [
        ("taken", "it is revoked"),
        ("ended", "it has expired, or is not valid yet"),
        ("foreign", "it leads to no authority that the broker trusts"),
    ] {
        let complaint = world.exec_as(name, &flags, &script).must(77).complaint();
        assert_eq!(complaint["outcome"], "denied", "{complaint}");
        assert!(complaint["message"].as_str().unwrap().ends_with(why), "{complaint}");
        let ended = run(&mut world.as_workload(name, &["get", TWO_FIELDS, "--field", "user"])).must(77);
        assert!(ended.stdout.is_empty() && ended.stderr.contains(why), "{ended:?}");
    }
    assert!(!marker.exists());
    // Once a minute for each key, however often it was tried.
    for denial in ["PeerRevoked", "PeerCertificateExpired"] {
        until(denial, || world.records(&["--kind", "handshake-refused", "--denial", denial]).len() == 1);
    }
}

#[test]
fn whoever_is_not_the_broker_is_76_and_nothing_runs() {
    let (marker, script) = marking(world(), "ran-elsewhere");
    let (a, other) = (variable(), Place::new());
    let bundle = other.path("etc/bundle.pem");
    let sibling = format!("{BROKER}-2");
    for flags in [["--broker-id", &sibling], ["--bundle", &bundle]] {
        let complaint =
            world().exec(&[&[&a, "--output=json"], &flags[..]].concat(), &script).must(76).complaint();
        assert_eq!(complaint["outcome"], "not_the_broker");
    }
    assert!(!marker.exists());
}

#[test]
fn a_wrong_target_is_64_and_a_missing_certificate_78() {
    let (marker, script) = marking(world(), "ran-wrong");
    for target in ["kv/app/one", "kv/App=A", "kv/app/one=1A", "kv/app/one=PORTCULLIS_X", "kv/app/one:=A"] {
        let ended = world().exec(&[&flag("secret", target)], &script).must(64);
        assert!(!ended.stderr.is_empty(), "{target}");
    }
    let twice = [variable(), flag("file", &format!("{TWO_FIELDS}:user=A"))];
    world().exec(&[&twice[0], &twice[1]], &script).must(64);
    for field in ["other=A", "=A"] {
        let flag = flag("secret", &format!("{TWO_FIELDS}:{field}"));
        world().exec(&[&flag], &script).must(64);
    }
    // Several fields, and none named.
    world().exec(&[&flag("secret", &format!("{TWO_FIELDS}=A"))], &script).must(64);
    world().exec(&[&variable(), "--cert", "/nonexistent"], &script).must(78);
    assert!(!marker.exists());
}

#[test]
fn a_script_that_was_changed_before_it_was_measured_does_not_run() {
    let world = World::whole();
    let script = world.at("task.sh");
    write(&script, "#!/bin/sh\nprintf original\n", 0o755);
    world.put_reference(&[&script]);
    let command = ["exec", &variable(), "--", script.to_str().unwrap()];
    assert_eq!(run(&mut world.as_workload("api", &command)).must(0).text(), "original");
    write(&script, "#!/bin/sh\nprintf changed\n", 0o755);
    assert_eq!(run(&mut world.as_workload("api", &command)).must(77).text(), "");
    let denied = world.records(&["--denial", "MeasurementMismatch"]);
    assert_eq!(denied.len(), 1, "{denied:?}");
}

/// The broker's answer is held back once it is recorded as a release: measured long since, not yet started.
#[test]
fn a_script_replaced_between_measurement_and_start_runs_as_it_was_measured() {
    let world = World::whole();
    let script = world.at("task.sh");
    write(&script, "#!/bin/sh\nprintf original\n", 0o755);
    world.put_reference(&[&script]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = listener.local_addr().unwrap().to_string();
    let path = script.to_str().unwrap();
    let mut command = world.as_workload("api", &["exec", "--broker", &between, &variable(), "--", path]);
    let ended = std::thread::scope(|scope| {
        let relayed = scope.spawn(|| {
            let (client, _) = listener.accept().unwrap();
            let broker = TcpStream::connect(&world.address).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
            scope.spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            relay(&world, broker, client, || write(&script, "#!/bin/sh\nprintf replaced\n", 0o755))
        });
        let ended = run(&mut command);
        assert!(relayed.join().unwrap(), "the script was never replaced");
        ended
    });
    assert_eq!(ended.must(0).text(), "original");
    assert!(std::fs::read_to_string(&script).unwrap().contains("replaced"));
}

fn relay(world: &World, mut broker: TcpStream, mut client: TcpStream, replace: impl Fn()) -> bool {
    let (mut replaced, mut buffer) = (false, [0; 65536]);
    loop {
        let length = broker.read(&mut buffer).unwrap_or(0);
        if !replaced && !world.records(&["--kind", "released"]).is_empty() {
            replace();
            replaced = true;
        }
        if length == 0 || client.write_all(&buffer[..length]).is_err() {
            let _ = client.shutdown(Shutdown::Write);
            return replaced;
        }
    }
}

#[test]
fn a_script_is_not_its_interpreter() {
    // The sets of this world name the shell alone: a script is one more program.
    let script = world().at("other.sh");
    write(&script, "#!/bin/sh\necho ran\n", 0o755);
    assert_ne!(sha256(&script), sha256("/bin/sh"));
    let user = flag("secret", &format!("{TWO_FIELDS}:user=A"));
    let path = script.to_str().unwrap();
    assert_eq!(run(&mut world().as_workload("plain", &["exec", &user, "--", path])).must(77).text(), "");
}
