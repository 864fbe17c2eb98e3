//! What is asked again and again, so that an answer to a probe is never older than seconds and costs nothing: do the threads
//! that write answer.
//!
//! *Takes* the store and the log. *Gives* how long each has been silent. *Denies* nothing. *Source*: NIST SP 800-53 SI-17.

use super::{Telemetry, standing};
use crate::limits;
use crate::store::StoreError;
use crate::time::Stopwatch;
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
    beats: watch::Sender<u64>,
}

impl Default for Pulse {
    fn default() -> Self {
        let now = Mutex::new(Stopwatch::start());
        Pulse {
            committer: now,
            audit: Mutex::new(Stopwatch::start()),
            sealed: AtomicBool::new(false),
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
    tokio::join!(committer(&telemetry), audit(&telemetry), beat(&telemetry));
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
