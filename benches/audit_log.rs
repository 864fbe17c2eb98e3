//! A large audit log: how long it takes to open, verify and search, and in how much memory:
//! `cargo bench --bench audit_log [-- --records 10000000 --directory DIR --keep]`.
//!
//! The log is made by the broker's own writer, a year of records that ends now; the half of them are releases with claims, as
//! brokers write them. One line a figure: `figure <name> <value> <unit> bound <op> <value>`.
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

use futures_util::StreamExt;
use portcullis::audit::checkpoint::LogKey;
use portcullis::audit::flips::Flips;
use portcullis::audit::log::Log;
use portcullis::audit::record::{Event, Record};
use portcullis::audit::show::{self, Filter};
use portcullis::audit::verify::verify;
use portcullis::case::{Case, PathVersion};
use portcullis::denial::Denial;
use portcullis::spiffe::SpiffeId;
use portcullis::time::{BootTime, SystemTime, TimeSource, WallTime};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A year, milliseconds.
const SPAN_MS: u64 = 365 * 86_400_000;
/// What a start looks back for leases and latches, milliseconds.
const HORIZON_MS: u64 = 6_300_000;
/// A search, and an open, in this much memory whatever the log's length, MiB.
const MEMORY_MIB: f64 = 128.0;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after =
        |name: &str| arguments.iter().position(|one| one == name).and_then(|at| arguments.get(at + 1));
    let quick = arguments.iter().any(|one| one == "--quick");
    let count =
        after("--records").map_or(if quick { 100_000 } else { 1_000_000 }, |text| text.parse().unwrap());
    let temporary = tempfile::tempdir().unwrap();
    let place = after("--directory").map_or(temporary.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&place).unwrap();
    let now = SystemTime.wall().unwrap();
    generate(&place, count, now);
    measure(&place, count, now);
    if !arguments.iter().any(|one| one == "--keep") {
        std::fs::remove_dir_all(place.join("audit")).unwrap();
    }
}

fn key(place: &Path) -> LogKey {
    let path = place.join("audit.key");
    LogKey::load(&path).or_else(|_| LogKey::create(&path, "portcullis/bench")).unwrap()
}

fn generate(place: &Path, count: u64, now: WallTime) {
    if place.join("audit").exists() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let begun = Instant::now();
    let (log, _) = Log::open(&place.join("audit"), key(place), WallTime(u64::MAX), |_| ()).unwrap();
    runtime.block_on(async {
        let records = futures_util::stream::iter(0..count).map(|number| {
            let (record, log) = (record(number, count, now), &log);
            async move { log.append(&record).await.unwrap() }
        });
        records.buffered(4096).for_each(|_| async {}).await;
    });
    log.close();
    figure("log_records", count as f64, "records", "", 0.0);
    figure("log_append", count as f64 / begun.elapsed().as_secs_f64(), "records/s", "", 0.0);
    figure("log_bytes", size(&place.join("audit")) as f64 / 1e9, "GB", "", 0.0);
}

/// Half releases, a tenth denials, the rest what comes between.
fn record(number: u64, count: u64, now: WallTime) -> Record {
    let time = WallTime(now.0 - SPAN_MS + number * (SPAN_MS / count.max(1)));
    let id = format!("{number:032x}");
    let mut case = Case::new();
    case.identity = SpiffeId::parse(&format!("spiffe://example.org/ns/n{}/api", number % 1000)).ok();
    case.secrets = vec![PathVersion { path: format!("kv/n{}/one", number % 1000), version: Some(3) }];
    case.key_sha256 = "ab".repeat(32);
    case.node = Some(format!("node-{}", number % 100));
    case.claims =
        [("process".to_owned(), json!({ "path": "/usr/bin/api", "sha256": "cd".repeat(32), "uid": 1000 }))]
            .into();
    let event = match number % 10 {
        0..5 => Event::Released { case, lease_id: id.clone(), not_after: time.plus(300_000) },
        5 => Event::Denied {
            denial: Denial::PolicySilent,
            class: Denial::PolicySilent.class().name().into(),
            reason: Denial::PolicySilent.reason().name().into(),
            case,
            latches: Vec::new(),
            repeats: None,
        },
        _ => Event::Input { name: "example.org/bundle".into(), epoch: number, state: "usable".into() },
    };
    Record { id, time, boot_time: BootTime(number), boot_id: "b".repeat(32), event }
}

fn measure(place: &Path, count: u64, now: WallTime) {
    let (audit, public) = (place.join("audit"), key(place).public().clone());
    timed("open", 2.0, || {
        let mut seen = 0_u64;
        let since = WallTime(now.0 - HORIZON_MS);
        let (log, report) = Log::open(&audit, key(place), since, |_| seen += 1).unwrap();
        assert_eq!(report.records, count);
        log.close();
        seen
    });
    timed("verify", f64::INFINITY, || verify(&audit, &public, None).unwrap().records);
    let search = |filter: Filter| show::records(&audit, filter).unwrap().filter(Result::is_ok).count() as u64;
    let wanted = format!("{:032x}", count / 2);
    timed("search_decision", f64::INFINITY, || {
        search(Filter { decision: Some(wanted.clone()), ..Filter::default() })
    });
    timed("search_secret", f64::INFINITY, || {
        search(Filter { secret: Some("kv/n3/one".into()), ..Filter::default() })
    });
    let day = WallTime(now.0 - 86_400_000);
    timed("search_last_day", f64::INFINITY, || search(Filter { since: Some(day), ..Filter::default() }));
    timed("flips", f64::INFINITY, || {
        let mut flips = Flips::new();
        let found = show::records(&audit, Filter::default()).unwrap().map(Result::unwrap);
        found.map(|(sequence, record)| flips.push(sequence, &record).len() as u64).sum()
    });
}

/// Seconds, what was found, and the most memory that the process had meanwhile.
fn timed(name: &str, bound_seconds: f64, work: impl FnOnce() -> u64) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let begun = Instant::now();
    let found = work();
    let seconds = begun.elapsed().as_secs_f64();
    let (operator, bound) = if bound_seconds.is_finite() { ("<=", bound_seconds) } else { ("", 0.0) };
    figure(&format!("log_{name}"), seconds, "s", operator, bound);
    figure(&format!("log_{name}_found"), found as f64, "records", "", 0.0);
    figure(&format!("log_{name}_memory"), peak_mib(), "MiB", "<=", MEMORY_MIB);
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn size(directory: &Path) -> u64 {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn figure(name: &str, value: f64, unit: &str, operator: &str, bound: f64) {
    match operator {
        "" => println!("figure {name} {value:.3} {unit}"),
        _ => println!("figure {name} {value:.3} {unit} bound {operator} {bound}"),
    }
}
