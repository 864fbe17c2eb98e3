//! The operations listener: what it says of a broker that starts, serves, drains, or could release nothing; its figures; and
//! that it can neither be held up nor made to tell anything.

use crate::probe::{self, Figures, get, ok};
use crate::world::{FORBIDDEN, NODE, OPEN, Place, Shared, VALUE, World, holds, run, until};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

const SERVICE: &str = "portcullis.v1.Broker";

fn world() -> &'static World {
    static WORLD: OnceLock<Shared> = OnceLock::new();
    &WORLD.get_or_init(|| Shared::new(World::whole())).world
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn standing(address: &str, service: &str) -> Result<ServingStatus, tonic::Code> {
    wait(probe::standing(address, service))
}

fn variable(secret: &str) -> String {
    format!("--secret={secret}:value=A")
}

#[test]
fn a_serving_broker_lives_and_is_ready_and_answers_nothing_else() {
    let address = &world().operations_address;
    assert_eq!(get(address, "/livez").unwrap(), (200, "lives\n".to_owned()));
    assert_eq!(get(address, "/readyz").unwrap(), (200, "ready\n".to_owned()));
    assert_eq!(get(address, "/").unwrap().0, 404);
    assert_eq!(get(address, "/../etc/passwd").unwrap().0, 404);
    let post = b"POST /livez HTTP/1.1\r\nHost: probe\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(probe::exchange(address, post).unwrap().starts_with("HTTP/1.1 405"));
    let head = probe::exchange(address, b"HEAD /readyz HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n");
    let head = head.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(standing(address, "no.such.Service"), Err(tonic::Code::NotFound));
}

#[test]
fn while_it_starts_it_lives_and_is_not_ready() {
    let place = Place::new();
    // A log key that comes through a pipe: the start waits for it.
    let key = fs::read(place.at("etc/audit.key")).unwrap();
    fs::remove_file(place.at("etc/audit.key")).unwrap();
    run(std::process::Command::new("mkfifo").args(["-m", "0600", &place.path("etc/audit.key")])).must(0);
    let free = crate::world::free_address();
    place
        .reconfigure("[operations]\nlisten = \"127.0.0.1:0\"", &format!("[operations]\nlisten = \"{free}\""));
    let mut child = place.serve().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("it answers", || get(&free, "/livez").is_some());
    assert_eq!(get(&free, "/livez").unwrap().0, 200);
    assert_eq!(get(&free, "/readyz").unwrap().0, 503);
    assert_eq!(standing(&free, ""), Ok(ServingStatus::NotServing));
    assert_eq!(standing(&free, SERVICE), Ok(ServingStatus::NotServing));
    assert!(Figures::now(&free).sum("portcullis_ready", &[]) == 0.0);
    let mut pipe = fs::OpenOptions::new().write(true).open(place.at("etc/audit.key")).unwrap();
    pipe.write_all(&key).unwrap();
    drop(pipe);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(&free), "{line}");
    assert!(ok(&free, "/readyz"));
    assert_eq!(standing(&free, ""), Ok(ServingStatus::Serving));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn on_sigterm_it_is_not_ready_while_what_is_open_is_still_answered() {
    let mut world = World::whole();
    // A request that waits for an attester that says nothing, until the challenge's time is over.
    let silent = world.at("silent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let mut command = world.as_workload("api", &["exec", &variable(OPEN), "--", "/bin/true"]);
    command.env("PORTCULLIS_ATTESTER_SOCKET", &silent).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let address = world.operations_address.clone();
    until("the request is open", || Figures::scrape(&address).sum("portcullis_streams", &[]) > 0.0);
    assert!(ok(&address, "/readyz"));
    world.signal(Signal::TERM);
    until("it is not ready", || get(&address, "/readyz").is_some_and(|(status, _)| status == 503));
    assert_eq!(get(&address, "/livez").unwrap().0, 200);
    assert_eq!(standing(&address, ""), Ok(ServingStatus::NotServing));
    assert_eq!(standing(&address, SERVICE), Ok(ServingStatus::NotServing));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(world.wait(), Some(0));
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn a_stale_list_stops_the_service_and_leaves_the_broker_ready() {
    let world = World::whole();
    let address = world.operations_address.clone();
    until("something can be released", || standing(&address, SERVICE) == Ok(ServingStatus::Serving));
    wait(async {
        let mut client = probe::health(&address).await;
        let request = HealthCheckRequest { service: SERVICE.to_owned() };
        let mut watched = client.watch(request).await.unwrap().into_inner();
        let mut next = async || probe::status(&watched.message().await.unwrap().unwrap());
        assert_eq!(next().await, ServingStatus::Serving);
        world.publish_list_for(2, 1_500, &[]);
        assert_eq!(next().await, ServingStatus::NotServing);
        world.publish_list_for(3, 3_600_000, &[]);
        assert_eq!(next().await, ServingStatus::Serving);
        world.publish_list_for(4, 1_000, &[]);
        assert_eq!(next().await, ServingStatus::NotServing);
    });
    assert_eq!(standing(&address, ""), Ok(ServingStatus::Serving));
    assert!(ok(&address, "/readyz") && ok(&address, "/livez"));
    let figures = Figures::scrape(&address);
    assert_eq!(figures.sum("portcullis_could_release", &[]), 0.0);
    assert_eq!(figures.sum("portcullis_revocation_usable_seconds", &[("trust_domain", "cli.example")]), 0.0);
    assert!(figures.sum("portcullis_bundle_usable_seconds", &[("trust_domain", "cli.example")]) > 0.0);
    let log = fs::read_to_string(world.at("broker.log")).unwrap();
    assert!(log.contains("no trust domain has a current bundle and current revocation"), "{log}");
}

#[test]
fn a_broker_without_a_policy_could_release_nothing_and_is_ready() {
    let world = World::bare();
    assert_eq!(standing(&world.operations_address, ""), Ok(ServingStatus::Serving));
    assert_eq!(standing(&world.operations_address, SERVICE), Ok(ServingStatus::NotServing));
}

#[test]
fn each_decision_is_counted_by_its_denial_class_and_reason_and_nothing_tells_of_whom() {
    let world = World::whole();
    let script = "printf %s \"$A\"";
    assert_eq!(world.exec(&[&variable(OPEN)], script).must(0).stdout, VALUE);
    world.exec(&[&variable(FORBIDDEN)], script).must(77);
    world.exec(&[&variable("kv/app/absent")], script).must(77);
    world.exec_as("unknown", &[&variable(OPEN)], script).must(75);
    world.foreign(crate::world::WORKLOAD, "foreign");
    world.exec_as("foreign", &[&variable(OPEN)], script).must(77);
    let figures = Figures::scrape(&world.operations_address);
    let denied = |denial: &str, class: &str, reason: &str| {
        let labels = [("denial", denial), ("class", class), ("reason", reason)];
        figures.sum("portcullis_denials_total", &labels)
    };
    assert_eq!(denied("PolicyForbids", "refused", "NOT_RELEASED"), 1.0);
    assert_eq!(denied("SecretUnknown", "refused", "NOT_RELEASED"), 1.0);
    assert_eq!(denied("ReferenceValuesMissing", "uncertain", "VERIFICATION_NOT_POSSIBLE"), 1.0);
    assert_eq!(figures.sum("portcullis_denials_total", &[]), 3.0);
    assert_eq!(figures.sum("portcullis_releases_total", &[]), 1.0);
    assert_eq!(figures.sum("portcullis_undelivered_total", &[]), 0.0);
    assert_eq!(figures.sum("portcullis_handshakes_refused_total", &[("cause", "PeerUntrusted")]), 1.0);
    assert_eq!(figures.sum("portcullis_leases", &[]), 1.0);
    let stage = |stage: &str| figures.sum("portcullis_stage_seconds_count", &[("stage", stage)]);
    assert_eq!((stage("transport"), stage("evidence"), stage("release")), (4.0, 4.0, 1.0));
    assert!(figures.sum("portcullis_audit_sync_seconds_count", &[]) > 0.0);
    assert!(figures.sum("portcullis_store_commit_seconds_count", &[]) > 0.0);
    for directory in ["store", "audit"] {
        let free = figures.sum("portcullis_disk_free_bytes", &[("directory", directory)]);
        assert!(free > 0.0 && free <= figures.sum("portcullis_disk_size_bytes", &[("directory", directory)]));
    }
    tells_nothing(&world, &figures.1);
    for page in ["/livez", "/readyz", "/nothing"] {
        tells_nothing(&world, &get(&world.operations_address, page).unwrap().1);
    }
}

/// No identity, path, node, administrator, file, id or value is in what the listener says.
#[track_caller]
fn tells_nothing(world: &World, said: &str) {
    assert!(!holds(said.as_bytes(), VALUE));
    let root = world.root.display().to_string();
    for word in ["spiffe:", "/ns/", "kv/", "app/", "\"ada\"", "api-1", NODE, "portcullis-cli", &root] {
        assert!(!said.contains(word), "`{word}` in: {said}");
    }
    for record in world.records(&[]) {
        let id = record["id"].as_str().or(record["record"]["id"].as_str());
        assert!(!said.contains(id.unwrap_or_else(|| panic!("no id: {record}"))));
    }
}

#[test]
fn garbage_large_and_slow_requests_end_in_bounded_time_and_others_are_answered_meanwhile() {
    let world = World::bare();
    let address = world.operations_address.clone();
    let started = Instant::now();
    // Kept open and silent, or half said.
    let mut silent = TcpStream::connect(&address).unwrap();
    let mut half = TcpStream::connect(&address).unwrap();
    half.write_all(b"GET /livez HTTP/1.1\r\nHost: pro").unwrap();
    let mut preface = TcpStream::connect(&address).unwrap();
    preface.write_all(b"PRI * HT").unwrap();
    let garbage = probe::exchange(&address, &[0xff; 4096]);
    assert!(garbage.is_none_or(|answer| !answer.contains("200 OK")));
    let large = format!("GET /livez HTTP/1.1\r\nHost: probe\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    let large = probe::exchange(&address, large.as_bytes());
    assert!(large.is_none_or(|answer| answer.starts_with("HTTP/1.1 4")));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(ok(&address, "/livez"));
    for stream in [&mut silent, &mut half, &mut preface] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = Vec::new();
        // Closed, or reset; only waiting on is wrong.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
        assert!(!holds(&answer, b"200 OK"));
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let oversized = wait(async { probe::standing(&address, &"a".repeat(100_000)).await });
    assert!(oversized.is_err_and(|code| code != tonic::Code::NotFound));
}

#[test]
fn as_many_connections_as_may_be_are_held_for_seconds_only_and_workloads_do_not_notice() {
    let world = World::whole();
    let address = world.operations_address.clone();
    let crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let script = "printf %s \"$A\"";
    assert_eq!(world.exec(&[&variable(OPEN)], script).must(0).stdout, VALUE);
    until("a probe is answered again", || ok(&address, "/livez"));
    drop(crowd);
}

#[test]
fn watchers_beyond_the_bound_are_refused_and_probes_are_not() {
    let world = World::bare();
    let address = world.operations_address.clone();
    wait(async {
        let mut watched = Vec::new();
        let mut refused = 0;
        for _ in 0..20 {
            let mut client = probe::health(&address).await;
            match client.watch(HealthCheckRequest { service: String::new() }).await {
                Ok(stream) => watched.push((client, stream)),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                    refused += 1;
                }
            }
        }
        assert_eq!((watched.len(), refused), (16, 4));
        assert_eq!(probe::standing(&address, "").await, Ok(ServingStatus::Serving));
    });
}

#[test]
fn an_address_beyond_this_machine_is_refused_unless_it_is_named_as_meant() {
    let place = Place::new();
    place.reconfigure("[operations]\nlisten = \"127.0.0.1:0\"", "[operations]\nlisten = \"0.0.0.0:0\"");
    let refused = place.check().must(78);
    assert!(refused.stderr.contains("operations.allow_beyond_loopback"), "{refused:?}");
    let meant = "listen = \"0.0.0.0:0\"\nallow_beyond_loopback = true";
    place.reconfigure("listen = \"0.0.0.0:0\"", meant);
    place.check().must(0);
}

#[test]
fn a_taken_operations_port_is_named() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.reconfigure(
        "[operations]\nlisten = \"127.0.0.1:0\"",
        &format!("[operations]\nlisten = \"{address}\""),
    );
    place.does_not_start(&address);
}

#[test]
fn the_service_manager_hears_ready_alive_and_stopping() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.at("notify.sock")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = place.serve();
    command.env("NOTIFY_SOCKET", place.at("notify.sock")).env("WATCHDOG_USEC", "500000");
    let (broker, _) = crate::world::Process::start(&mut command, &place.at("broker.log"));
    let heard = || {
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let (first, second) = (heard(), heard());
    assert!([&first, &second].into_iter().any(|one| one == "READY=1"), "{first} {second}");
    let alive = (0..4).filter(|_| heard() == "WATCHDOG=1").count();
    assert_eq!(alive, 4);
    assert_eq!(broker.stop(), Some(0));
    let last = std::iter::repeat_with(heard).find(|one| one != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}
