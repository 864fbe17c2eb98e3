//! What is asked again and again, so that an answer to a probe is never older than seconds and costs nothing: do the threads
//! that write answer, and how full are the disks.
//!
//! *Takes* the store and the log. *Gives* how long each has been silent. *Denies* nothing. *Source*: NIST SP 800-53 SI-17.

use super::{Telemetry, standing};
use crate::limits;
use crate::store::StoreError;
use crate::time::Stopwatch;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The last answers.
pub(super) struct Pulse {
    committer: Mutex<Stopwatch>,
    audit: Mutex<Stopwatch>,
    sealed: AtomicBool,
    disks: Mutex<Option<(Stopwatch, Vec<Disk>)>>,
    beats: watch::Sender<u64>,
}

/// Room on the file system of one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// `store` or `audit`.
    pub(super) directory: &'static str,
    /// Bytes that the broker may still write.
    pub(super) free_bytes: u64,
    /// Bytes in all.
    pub(super) size_bytes: u64,
}

impl Default for Pulse {
    fn default() -> Self {
        let now = Mutex::new(Stopwatch::start());
        Pulse {
            committer: now,
            audit: Mutex::new(Stopwatch::start()),
            sealed: AtomicBool::new(false),
            disks: Mutex::new(None),
            beats: watch::Sender::new(0),
        }
    }
}

impl Pulse {
    /// Nothing has been silent before it was asked.
    pub(super) fn begin(&self) {
        answered(&self.committer);
        answered(&self.audit);
    }

    /// Which thread has not answered for [`limits::LIVE_MS`].
    pub(super) fn silent(&self) -> Option<&'static str> {
        let longest = limits::LIVE_MS.saturating_mul(1_000_000);
        self.silences().into_iter().find(|(_, silence)| *silence > longest).map(|(thread, _)| thread)
    }

    /// For how long each thread has not answered, nanoseconds.
    pub(super) fn silences(&self) -> [(&'static str, u64); 2] {
        let of = |last: &Mutex<Stopwatch>| lock(last).nanoseconds();
        [(COMMITTER, of(&self.committer)), (AUDIT, of(&self.audit))]
    }

    /// Whether the store has said that it takes nothing any more.
    pub(super) fn sealed(&self) -> bool {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Room on the disks; nothing where the last look is too long ago to mean anything.
    pub(super) fn disks(&self) -> Vec<Disk> {
        let longest = limits::DISK_LOOK_MS.saturating_mul(5_000_000);
        let looked = lock(&self.disks);
        let recent = looked.as_ref().filter(|(at, _)| at.nanoseconds() <= longest);
        recent.map(|(_, disks)| disks.clone()).unwrap_or_default()
    }

    /// Counts the looks.
    pub(super) fn beats(&self) -> watch::Receiver<u64> {
        self.beats.subscribe()
    }
}

/// Asks for as long as it is polled. What hangs holds up its own question alone.
pub(super) async fn run(telemetry: Arc<Telemetry>) {
    let (mut phases, _) = telemetry.moments();
    while telemetry.parts.get().is_none() {
        if phases.changed().await.is_err() {
            return;
        }
    }
    tokio::join!(committer(&telemetry), audit(&telemetry), disks(&telemetry), beat(&telemetry));
}

async fn committer(telemetry: &Telemetry) {
    let Some(parts) = telemetry.parts.get() else { return };
    loop {
        let answer = parts.registry.vault().store().answers().await;
        let sealed = matches!(answer, Err(StoreError::Sealed(_)));
        telemetry.pulse.sealed.store(sealed, Ordering::Relaxed);
        // A sealed store answers: what it needs is a person, and a restart on a failing disk is that person's to decide.
        if answer.is_ok() || sealed {
            answered(&telemetry.pulse.committer);
        }
        pause(limits::PULSE_MS).await;
    }
}

async fn audit(telemetry: &Telemetry) {
    let Some(parts) = telemetry.parts.get() else { return };
    loop {
        if parts.broker.recorder.log().answers().await.is_ok() {
            answered(&telemetry.pulse.audit);
        }
        pause(limits::PULSE_MS).await;
    }
}

/// A file system that hangs holds one thread, and its figures are gone until it answers.
async fn disks(telemetry: &Telemetry) {
    let Some(parts) = telemetry.parts.get() else { return };
    loop {
        let directories = parts.directories.clone();
        if let Ok(disks) = tokio::task::spawn_blocking(move || look(&directories)).await {
            *lock(&telemetry.pulse.disks) = Some((Stopwatch::start(), disks));
        }
        pause(limits::DISK_LOOK_MS).await;
    }
}

fn look(directories: &[(&'static str, PathBuf)]) -> Vec<Disk> {
    let disk = |(directory, path): &(&'static str, PathBuf)| {
        let found = rustix::fs::statvfs(path).ok()?;
        Some(Disk {
            directory,
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    };
    directories.iter().filter_map(disk).collect()
}

/// Whoever watches looks again, and the journal hears where what could be released changes.
async fn beat(telemetry: &Telemetry) {
    let mut last = None;
    loop {
        telemetry.pulse.beats.send_modify(|beats| *beats = beats.wrapping_add(1));
        let obstacle = telemetry.obstacle().filter(|obstacle| *obstacle != standing::Obstacle::NotServing);
        if obstacle != last {
            match &obstacle {
                Some(obstacle) => tracing::error!(%obstacle, "nothing could be released now"),
                None => tracing::info!("secrets could be released"),
            }
            last = obstacle;
        }
        pause(limits::PULSE_MS).await;
    }
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

fn answered(last: &Mutex<Stopwatch>) {
    *lock(last) = Stopwatch::start();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names of the two threads that write, in answers and figures.
const COMMITTER: &str = "committer";
const AUDIT: &str = "audit";
