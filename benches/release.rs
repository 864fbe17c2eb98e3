//! What a full release costs, beside the sum of its primitives, and what else has a bound, in one run:
//! `cargo bench --bench release [-- --quick]`; with `-- --formats` what hardware evidence costs, alone. With
//! `-- --load CALLERS SECONDS` it is a load generator: it starts a broker, or, where `PORTCULLIS_BROKER` and the other
//! variables of a workload are set, asks that one for `PORTCULLIS_LOAD_SECRET` with the evidence of the node's own attester.
//!
//! The broker runs as its users run it, in a process of its own, so its CPU is its own; callers, attester and signatures
//! are in this one. One line a figure: `figure <name> <value> <unit> bound <op> <value>`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark runs on known input"
)]

#[path = "parts/audit.rs"]
mod audit;
#[path = "parts/cold.rs"]
mod cold;
#[path = "parts/floor.rs"]
mod floor;
#[path = "parts/formats.rs"]
mod formats;
#[path = "parts/held.rs"]
mod held;
#[path = "parts/scale.rs"]
mod scale;
#[path = "../tests/support/mod.rs"]
mod support;

use portcullis::client::{Connection, Request};
use portcullis::time::{SystemTime, TimeSource};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::*;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(at) = arguments.iter().position(|argument| argument == "--load") {
        let number = |offset: usize| arguments.get(at + offset).and_then(|text| text.parse().ok());
        let callers = number(1).expect("--load CALLERS SECONDS");
        let seconds = number(2).expect("--load CALLERS SECONDS") as u64;
        return runtime.block_on(generate_load(callers, Duration::from_secs(seconds)));
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    formats();
    if arguments.iter().any(|argument| argument == "--formats") {
        return;
    }
    runtime.block_on(bench(if quick { Duration::from_secs(2) } else { Duration::from_secs(8) }));
}

/// No limit on callers; only warnings in the journal.
fn unlimited() -> Build {
    let limits = "[limits]\nrequests_per_key_per_second = 1000000\nrequests_per_identity_per_second = 1000000\n\
                  [log]\nlevel = \"warn\"\n";
    Build { limits, ..Build::default() }
}

async fn bench(length: Duration) {
    let mut world = World::build(unlimited()).await;
    world.stop().await;
    let broker = Broker::start(&world);
    world.client.broker = broker.address.clone();
    warm(&world, &broker, length).await;
    denials(&world, length).await;
    let (cold, bare) = cold::milliseconds(&world, &world.client).await;
    figure("cold_release", cold, "ms", "", 0.0);
    figure("bare_mutual_handshake", bare, "ms", "", 0.0);
    figure("cold_release_over_handshake", cold / bare, "ratio", "<=", 2.5);
    figure("held_stream_memory", held::kibibytes(&world, &broker).await, "KiB", "<=", 24.0);
    drop(broker);
    let (log, plain) = audit::rates(world.directory.path(), length / 2).await;
    figure("audit_records_64", log, "1/s", "", 0.0);
    figure("plain_records_64", plain, "1/s", "", 0.0);
    figure("audit_over_plain_64", log / plain, "ratio", ">=", 0.8);
    scaled(&mut world, length).await;
}

async fn warm(world: &World, broker: &Broker, length: Duration) {
    for callers in [1, 16] {
        // Load and primitives in turns, each turn with a ratio of its own: a neighbour's burst falls on one of them.
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(turn(world, broker, callers, length).await);
        }
        turns.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        let middle = &turns[TURNS / 2];
        for (name, microseconds) in &middle.primitives {
            figure(&format!("primitive_{name}_{callers}"), *microseconds, "us", "", 0.0);
        }
        figure(&format!("primitives_sum_{callers}"), middle.total(), "us", "", 0.0);
        middle.run.print(callers);
        figure(&format!("release_cpu_over_primitives_{callers}"), middle.ratio(), "ratio", "<=", 1.6);
        if callers == 1 {
            let floor = floor::microseconds(world.directory.path(), middle.run.apart());
            figure("release_io_floor_1", floor, "us", "", 0.0);
            let both = middle.run.cpu_us / (middle.total() + floor);
            figure("release_cpu_over_primitives_and_io_1", both, "ratio", "<=", 1.6);
        }
    }
}

/// One turn of load, and the primitives measured right after it.
struct Turn {
    run: Run,
    primitives: Vec<(&'static str, f64)>,
}

impl Turn {
    /// Of the primitives, microseconds.
    fn total(&self) -> f64 {
        self.primitives.iter().map(|(_, microseconds)| microseconds).sum()
    }

    fn ratio(&self) -> f64 {
        self.run.cpu_us / self.total()
    }
}

async fn turn(world: &World, broker: &Broker, callers: usize, length: Duration) -> Turn {
    let run = load(world, broker, callers, length).await;
    // One caller leaves the processor idle between two releases, and then all code runs slower: caches have cooled. Sixteen
    // leave no processor idle, and two that share a core slow each other. The primitives are measured as the release was.
    let pace = if callers == 1 { primitives::Pace::Every(run.apart()) } else { primitives::Pace::Busy };
    Turn { primitives: primitives::sum_microseconds(world, pace), run }
}

/// A denial is no cheaper way to keep the broker busy, nor a dearer one, than a release: by policy, of as many subjects as
/// one identity may have denied, and by the latch that each leaves. In turns with releases.
async fn denials(world: &World, length: Duration) {
    let connection = world.connect().await.unwrap();
    let good = world.attester();
    let ask = async |attester: &SoftAttester, path: &str| {
        let begun = nanoseconds();
        let outcome = connection.release(attester, Request::of([path])).await;
        (nanoseconds() - begun, outcome.is_ok())
    };
    let (mut releases, mut refusals, mut latched) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = (length.as_millis() as u32 / 20).min(DENIED_SUBJECTS);
    for number in 0..rounds {
        let mut other = good.clone();
        other.process.uid = 50_000 + number;
        for (attester, path, times, released) in [
            (&good, SECRET, &mut releases, true),
            (&other, "kv/payments-not/there", &mut refusals, false),
            (&other, "kv/payments-not/there", &mut latched, false),
        ] {
            let (time, outcome) = ask(attester, path).await;
            assert_eq!(outcome, released, "{path}");
            times.push(time);
        }
    }
    let median = |mut times: Vec<u64>| {
        times.sort_unstable();
        times[times.len() / 2] as f64
    };
    let release = median(releases);
    figure("denial_by_policy_over_release", median(refusals) / release, "ratio", "<=", 1.0);
    figure("denial_by_latch_over_release", median(latched) / release, "ratio", "<=", 1.0);
}

/// The same release in brokers that keep much.
async fn scaled(world: &mut World, length: Duration) {
    let mut cpu = Vec::new();
    let mut have = 1;
    for secrets in [1_000, 100_000] {
        world.start().await;
        scale::fill(world, have, secrets).await;
        have = secrets;
        cpu.push(costs(world, &format!("secrets_{secrets}"), length).await);
    }
    figure("release_cpu_secrets_100000_over_1000", cpu[1] / cpu[0], "ratio", "<=", 1.5);
    let mut cpu = Vec::new();
    for policies in [10, 1_000] {
        world.start().await;
        world.put_policy(&scale::policies(policies)).await;
        cpu.push(costs(world, &format!("policies_{policies}"), length).await);
    }
    figure("release_cpu_policies_1000_over_10", cpu[1] / cpu[0], "ratio", "<=", 1.5);
}

/// CPU of a release by a broker of its own, with what the world has in its store by now.
async fn costs(world: &mut World, name: &str, length: Duration) -> f64 {
    world.stop().await;
    let broker = Broker::start(world);
    world.client.broker = broker.address.clone();
    let run = load(world, &broker, 16, length).await;
    figure(&format!("release_cpu_{name}"), run.cpu_us, "us", "", 0.0);
    run.cpu_us
}

/// Releases a second, latencies and CPU, of a broker made for it or of one that runs.
async fn generate_load(callers: usize, length: Duration) {
    let lookup = |name: &str| std::env::var(name).ok();
    if lookup("PORTCULLIS_BROKER").is_some() {
        let config = portcullis::client::Config::from_lookup(lookup).expect("the variables of a workload");
        let secret = lookup("PORTCULLIS_LOAD_SECRET").expect("PORTCULLIS_LOAD_SECRET");
        let attester: Arc<dyn portcullis::client::Attester> =
            Arc::new(portcullis::client::SocketAttester::new(&config.attester));
        let mut connections = Vec::new();
        for _ in 0..callers {
            connections.push(Connection::open(&config).await.expect("a connection"));
        }
        let cpu = || 0;
        return drive(connections, attester, &secret, length, cpu).await.print(callers);
    }
    let mut world = World::build(unlimited()).await;
    world.stop().await;
    let broker = Broker::start(&world);
    world.client.broker = broker.address.clone();
    load(&world, &broker, callers, length).await.print(callers);
}

/// Hardware evidence, format by format.
fn formats() {
    for (format, verify, signatures) in formats::measure(SystemTime.wall().unwrap()) {
        figure(&format!("verify_{format}"), verify, "us", "", 0.0);
        figure(&format!("verify_{format}_over_signatures"), verify / signatures, "ratio", "<=", 1.3);
    }
}

/// One line a figure; without a bound, none is printed.
fn figure(name: &str, value: f64, unit: &str, operator: &str, bound: f64) {
    if operator.is_empty() {
        println!("figure {name} {value:.2} {unit}");
    } else {
        println!("figure {name} {value:.2} {unit} bound {operator} {bound}");
    }
}

struct Run {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the broker; 0 where it is not ours to look at.
    cpu_us: f64,
}

impl Run {
    /// Between the beginnings of two releases.
    fn apart(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.per_second)
    }

    fn print(&self, callers: usize) {
        figure(&format!("release_rate_{callers}"), self.per_second, "1/s", "", 0.0);
        figure(&format!("release_p50_{callers}"), self.p50_ms, "ms", "", 0.0);
        figure(&format!("release_p99_{callers}"), self.p99_ms, "ms", "", 0.0);
        if self.cpu_us > 0.0 {
            figure(&format!("release_cpu_{callers}"), self.cpu_us, "us", "", 0.0);
        }
    }
}

async fn load(world: &World, broker: &Broker, callers: usize, length: Duration) -> Run {
    let mut connections = Vec::new();
    for _ in 0..callers {
        connections.push(world.connect().await.unwrap());
    }
    drive(connections, Arc::new(world.attester()), SECRET, length, || broker.cpu_ns()).await
}

/// Each connection asks again as soon as it is answered, once all have been served once.
async fn drive(
    connections: Vec<Connection>,
    attester: Arc<dyn portcullis::client::Attester>,
    secret: &str,
    length: Duration,
    cpu_ns: impl Fn() -> u64,
) -> Run {
    for connection in &connections {
        connection.release(attester.as_ref(), Request::of([secret])).await.unwrap();
    }
    let (cpu, start) = (cpu_ns(), nanoseconds());
    let until = start + length.as_nanos() as u64;
    let mut callers = tokio::task::JoinSet::new();
    for connection in connections {
        let (attester, secret) = (attester.clone(), secret.to_owned());
        callers.spawn(async move { caller(connection, attester, secret, until).await });
    }
    let mut latencies: Vec<u64> = callers.join_all().await.into_iter().flatten().collect();
    let (cpu, wall) = (cpu_ns() - cpu, nanoseconds() - start);
    latencies.sort_unstable();
    let count = latencies.len() as f64;
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize] as f64 / 1e6;
    Run {
        per_second: count / (wall as f64 / 1e9),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        cpu_us: cpu as f64 / 1000.0 / count,
    }
}

async fn caller(
    connection: Connection,
    attester: Arc<dyn portcullis::client::Attester>,
    secret: String,
    until: u64,
) -> Vec<u64> {
    let mut latencies = Vec::new();
    loop {
        let start = nanoseconds();
        if start >= until {
            return latencies;
        }
        connection.release(attester.as_ref(), Request::of([secret.clone()])).await.unwrap();
        latencies.push(nanoseconds() - start);
    }
}

fn nanoseconds() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The broker, as `portcullis serve`.
struct Broker {
    child: Child,
    address: String,
}

impl Broker {
    fn start(world: &World) -> Broker {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["serve", "--config"])
            .arg(&world.paths.configuration)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let after = line.split("workloads on ").nth(1).expect("the broker says where it listens");
        let port = after.split(',').next().unwrap().rsplit(':').next().unwrap();
        Broker { address: format!("127.0.0.1:{port}"), child }
    }

    /// Nanoseconds of CPU that all of its threads have had.
    fn cpu_ns(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: std::fs::DirEntry| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
        };
        tasks.map(|task| of(task.unwrap())).sum()
    }

    /// Its memory that is no file's.
    fn anonymous_kibibytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

mod primitives {
    //! The cryptography that no release can do without, each measured alone, as stock libraries do it.

    use super::floor;
    use super::support::World;
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    use aws_lc_rs::{digest, hkdf, signature};
    use portcullis::release::sealing::{Recipient, seal};
    use portcullis::request::RecipientKey;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use webpki::{
        BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage, RevocationOptionsBuilder,
    };

    /// What goes on around each primitive.
    #[derive(Clone, Copy)]
    pub enum Pace {
        /// The thread sleeps between two rounds, which begin this far apart.
        Every(Duration),
        /// No sleep, and every other processor computes, too.
        Busy,
    }

    /// One primitive, ready to be called.
    type Primitive<'a> = (&'static str, Box<dyn Fn() + 'a>);

    /// Each primitive's microseconds: the median of many rounds, so that a neighbour's burst does not count.
    pub fn sum_microseconds(world: &World, pace: Pace) -> Vec<(&'static str, f64)> {
        let stop = AtomicBool::new(matches!(pace, Pace::Every(_)));
        std::thread::scope(|scope| {
            let others = std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1);
            for _ in 0..others {
                scope.spawn(|| {
                    let verify = evidence();
                    while !stop.load(Ordering::Relaxed) {
                        verify();
                    }
                });
            }
            let sum = medians(&all(world), pace);
            stop.store(true, Ordering::Relaxed);
            sum
        })
    }

    fn all(world: &World) -> Vec<Primitive<'_>> {
        vec![
            ("certificate_path_and_crl", Box::new(path(world))),
            ("evidence_signature", Box::new(evidence())),
            ("hpke_seal", Box::new(hpke())),
            ("aead_records", Box::new(aead())),
            ("aead_tls", Box::new(tls())),
            ("hashes", Box::new(hashes())),
        ]
    }

    /// A round calls each once, in the order of a release.
    fn medians(all: &[Primitive<'_>], pace: Pace) -> Vec<(&'static str, f64)> {
        let mut times = vec![Vec::new(); all.len()];
        let begun = super::nanoseconds();
        for round in 0..ROUNDS {
            if let Pace::Every(length) = pace {
                let due = begun + (length.as_nanos() as u64) * round;
                std::thread::sleep(Duration::from_nanos(due.saturating_sub(super::nanoseconds())));
            }
            for ((_, primitive), times) in all.iter().zip(&mut times) {
                let start = super::nanoseconds();
                primitive();
                times.push(super::nanoseconds() - start);
            }
        }
        let median = |times: &mut Vec<u64>| {
            times.sort_unstable();
            times[times.len() / 2] as f64 / 1000.0
        };
        all.iter().zip(&mut times).map(|((name, _), times)| (*name, median(times))).collect()
    }

    /// The leaf to its root, with a revocation list, by webpki.
    fn path(world: &World) -> impl Fn() {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(world.hands.now().0));
        let leaf = CertificateDer::from_pem_slice(world.leaf.certificate.as_bytes()).unwrap();
        let root = CertificateDer::from_pem_slice(world.ca.root().as_bytes()).unwrap();
        let list = std::fs::read(world.directory.path().join("etc/example.org.crl")).unwrap();
        let list = CertificateRevocationListDer::from_pem_slice(&list).unwrap();
        let list: CertRevocationList<'_> =
            BorrowedCertRevocationList::from_der(&list).unwrap().to_owned().unwrap().into();
        let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap().to_owned()];
        move || {
            let lists = [&list];
            let leaf = EndEntityCert::try_from(&leaf).unwrap();
            let revocation = RevocationOptionsBuilder::new(&lists).unwrap().build();
            let usage = KeyUsage::client_auth();
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &[],
                now,
                usage,
                Some(revocation),
                None,
            )
            .unwrap();
        }
    }

    /// Ed25519, as the world's node signs.
    fn evidence() -> impl Fn() {
        use signature::{Ed25519KeyPair, KeyPair};
        let key = Ed25519KeyPair::generate().unwrap();
        let message = [7_u8; 700];
        let signature = key.sign(&message);
        let public =
            signature::UnparsedPublicKey::new(&signature::ED25519, key.public_key().as_ref().to_vec());
        move || public.verify(&message, signature.as_ref()).unwrap()
    }

    fn hpke() -> impl Fn() {
        let recipient = Recipient::generate().unwrap();
        let key = RecipientKey::parse(recipient.public_key()).unwrap();
        let (info, plaintext) = ([1_u8; 200], [2_u8; 64]);
        move || drop(seal(&key, &info, &plaintext).unwrap())
    }

    /// What stands at rest: metadata and value, each under a key of its own.
    fn aead() -> impl Fn() {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[3; 32]);
        move || {
            for _ in 0..2 {
                let mut key = [0; 64];
                let pseudorandom = salt.extract(&[4; 32]);
                pseudorandom.expand(&[&[5_u8; 32]], Length64).unwrap().fill(&mut key).unwrap();
                let cipher = aes_gcm::Aes256Gcm::new_from_slice(&key[..32]).unwrap();
                let payload = Payload { msg: &[6; 400], aad: &[7; 100] };
                std::hint::black_box(cipher.encrypt((&[0_u8; 12]).into(), payload).unwrap());
            }
        }
    }

    /// The records of the connection itself: what comes is opened (`Open`, `Evidence`), what goes is sealed (`Challenge`,
    /// `Released`), each with its HTTP/2 frames.
    fn tls() -> impl Fn() {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[8; 32]).unwrap());
        let nonce = || Nonce::assume_unique_for_key([9; 12]);
        let seal = move |key: &LessSafeKey, length: usize| {
            let mut record = vec![1; length];
            key.seal_in_place_append_tag(nonce(), Aad::from([2; 5]), &mut record).unwrap();
            record
        };
        let coming = [floor::OPEN, floor::EVIDENCE].map(|length| seal(&key, length));
        move || {
            for record in &coming {
                let mut record = record.clone();
                let opened = key.open_in_place(nonce(), Aad::from([2; 5]), &mut record).unwrap();
                std::hint::black_box(opened);
            }
            for length in [floor::CHALLENGE, floor::RELEASED] {
                std::hint::black_box(seal(&key, length));
            }
        }
    }

    /// Binding, request, claims, and the record's leaf in the log.
    fn hashes() -> impl Fn() {
        || {
            std::hint::black_box(digest::digest(&digest::SHA512, &[1; 400]));
            std::hint::black_box(digest::digest(&digest::SHA256, &[1; 60]));
            std::hint::black_box(digest::digest(&digest::SHA256, &[1; 700]));
            std::hint::black_box(digest::digest(&digest::SHA256, &[1; 1800]));
        }
    }

    #[derive(Clone, Copy)]
    struct Length64;

    impl hkdf::KeyType for Length64 {
        fn len(&self) -> usize {
            64
        }
    }

    /// Enough for a steady median; at one round a millisecond, two seconds.
    const ROUNDS: u64 = 2_000;
}

/// Of load at each number of callers.
const TURNS: usize = 5;

/// Of one identity: below the number past which new subjects are held together.
const DENIED_SUBJECTS: u32 = 200;
