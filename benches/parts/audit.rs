//! The audit log with 64 waiters, beside the plainest thing that is as durable: a group of records appended and synced.
//!
//! Both on the same disk, in turns, so that a slow moment of it falls on both.

use portcullis::audit::checkpoint::LogKey;
use portcullis::audit::log::Log;
use portcullis::audit::record::{Event, Record};
use portcullis::time::{BootTime, WallTime};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Records a second: of the log, and of the plain append; the medians of several turns.
pub async fn rates(directory: &Path, length: Duration) -> (f64, f64) {
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        ours.push(log(&directory.join(format!("log-{turn}")), length).await);
        plain.push(append(&directory.join(format!("plain-{turn}")), length).await);
    }
    (median(ours), median(plain))
}

async fn log(directory: &Path, length: Duration) -> f64 {
    std::fs::create_dir(directory).unwrap();
    let key = LogKey::create(&directory.with_extension("key"), "bench.example").unwrap();
    let (log, _) = Log::open(directory, key, WallTime(0), |_| {}).unwrap();
    let log = Arc::new(log);
    // As the plain append has its bytes before, this has its record; what it makes of that is its own.
    let shared = (log.clone(), Arc::new(record()));
    let rate = run(length, move || {
        let (log, record) = shared.clone();
        async move {
            log.append(&record).await.unwrap();
        }
    })
    .await;
    tokio::task::spawn_blocking(move || log.close()).await.unwrap();
    rate
}

/// One thread takes what waits, writes it at once, syncs, and tells everyone.
async fn append(path: &Path, length: Duration) -> f64 {
    let (records, waiting) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
    let mut file = File::create(path).unwrap();
    std::thread::spawn(move || {
        while let Ok(first) = waiting.recv() {
            let group: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).collect();
            let bytes: Vec<u8> = group.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
            for (_, done) in group {
                let _ = done.send(());
            }
        }
    });
    let body = serde_json::to_vec(&record()).unwrap();
    run(length, move || {
        let (records, body) = (records.clone(), body.clone());
        async move {
            let (done, durable) = oneshot::channel();
            records.send((body, done)).unwrap();
            durable.await.unwrap();
        }
    })
    .await
}

/// Sixty-four callers, each with its next record as soon as the last is durable.
async fn run<F, W>(length: Duration, write: F) -> f64
where
    F: Fn() -> W,
    W: Future<Output = ()> + Send + 'static,
    F: Clone + Send + 'static,
{
    let (begun, until) = (super::nanoseconds(), super::nanoseconds() + length.as_nanos() as u64);
    let mut callers = Vec::new();
    for _ in 0..WAITERS {
        let write = write.clone();
        callers.push(tokio::spawn(async move {
            let mut count = 0_u64;
            while super::nanoseconds() < until {
                write().await;
                count += 1;
            }
            count
        }));
    }
    let mut count = 0;
    for caller in callers {
        count += caller.await.unwrap();
    }
    count as f64 / ((super::nanoseconds() - begun) as f64 / 1e9)
}

/// As large as the record of a release.
fn record() -> Record {
    let event = Event::Input { name: "bench".into(), epoch: 1, state: "x".repeat(1_800) };
    let (time, boot_time) = (WallTime(1_790_000_000_000), BootTime(1_000));
    Record { id: "0".repeat(32), time, boot_time, boot_id: "bench".into(), event }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

const WAITERS: usize = 64;
const TURNS: usize = 5;
