//! What a full release costs, beside the sum of its primitives, in one run: `cargo bench --bench release [-- --quick]`.
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

#[path = "parts/floor.rs"]
mod floor;
#[path = "parts/formats.rs"]
mod formats;
#[path = "../tests/support/mod.rs"]
mod support;

use portcullis::client::{Connection, Request};
use portcullis::time::{SystemTime, TimeSource};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::*;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    formats();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(bench(if quick { Duration::from_secs(2) } else { Duration::from_secs(8) }));
}

async fn bench(length: Duration) {
    let limits = "[limits]\nrequests_per_key_per_second = 1000000\nrequests_per_identity_per_second = 1000000\n\
                  [log]\nlevel = \"warn\"\n";
    let mut world = World::build(Build { limits, ..Build::default() }).await;
    world.stop().await;
    let broker = Broker::start(&world);
    world.client.broker = broker.address.clone();
    for callers in [1, 16] {
        let run = load(&world, &broker, callers, length).await;
        // One caller leaves the processor idle between two releases, and then all code runs slower: caches have cooled. Sixteen
        // leave no processor idle, and two that share a core slow each other. The primitives are measured as the release was.
        let apart = Duration::from_secs_f64(1.0 / run.per_second);
        let pace = if callers == 1 { primitives::Pace::Every(apart) } else { primitives::Pace::Busy };
        let sum = primitives::sum_microseconds(&world, pace);
        for (name, microseconds) in &sum {
            figure(&format!("primitive_{name}_{callers}"), *microseconds, "us", "", 0.0);
        }
        let total: f64 = sum.iter().map(|(_, microseconds)| microseconds).sum();
        figure(&format!("primitives_sum_{callers}"), total, "us", "", 0.0);
        figure(&format!("release_rate_{callers}"), run.per_second, "1/s", "", 0.0);
        figure(&format!("release_p50_{callers}"), run.p50_ms, "ms", "", 0.0);
        figure(&format!("release_p99_{callers}"), run.p99_ms, "ms", "", 0.0);
        figure(&format!("release_cpu_{callers}"), run.cpu_us, "us", "", 0.0);
        figure(&format!("release_cpu_over_primitives_{callers}"), run.cpu_us / total, "ratio", "<=", 2.0);
        if callers == 1 {
            let floor = floor::microseconds(world.directory.path(), apart);
            figure("release_io_floor_1", floor, "us", "", 0.0);
            figure("release_cpu_over_primitives_and_io_1", run.cpu_us / (total + floor), "ratio", "<=", 2.0);
        }
    }
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
    cpu_us: f64,
}

async fn load(world: &World, broker: &Broker, callers: usize, length: Duration) -> Run {
    let attester = Arc::new(world.attester());
    let mut connections = Vec::new();
    for _ in 0..callers {
        let connection = world.connect().await.unwrap();
        connection.release(attester.as_ref(), Request::of([SECRET])).await.unwrap();
        connections.push(connection);
    }
    let latencies = Arc::new(std::sync::Mutex::new(Vec::new()));
    let count = Arc::new(AtomicU64::new(0));
    let (cpu, start) = (broker.cpu_ns(), nanoseconds());
    let until = start + length.as_nanos() as u64;
    let mut tasks = Vec::new();
    for connection in connections {
        let (attester, latencies, count) = (attester.clone(), latencies.clone(), count.clone());
        tasks.push(tokio::spawn(caller(connection, attester, until, latencies, count)));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let (cpu, wall) = (broker.cpu_ns() - cpu, nanoseconds() - start);
    let count = count.load(Ordering::SeqCst) as f64;
    let mut latencies = std::mem::take(&mut *latencies.lock().unwrap());
    latencies.sort_unstable();
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
    attester: Arc<SoftAttester>,
    until: u64,
    latencies: Arc<std::sync::Mutex<Vec<u64>>>,
    count: Arc<AtomicU64>,
) {
    loop {
        let start = nanoseconds();
        if start >= until {
            return;
        }
        connection.release(attester.as_ref(), Request::of([SECRET])).await.unwrap();
        latencies.lock().unwrap().push(nanoseconds() - start);
        count.fetch_add(1, Ordering::SeqCst);
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
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

mod primitives {
    //! The cryptography that no release can do without, each measured alone, as stock libraries do it.

    use super::support::World;
    use aes_gcm::aead::{Aead, KeyInit, Payload};
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

    /// Enough for a steady median; at one round a millisecond, three seconds.
    const ROUNDS: u64 = 3_000;
}
