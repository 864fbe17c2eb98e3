//! The log as the stages see it: `append` returns once the record is on disk, or says that it is not.
//!
//! *Takes* [`Record`]s from any number of callers. *Gives* [`Sequence`] numbers of durable records. *Denies* nothing
//! itself: callers deny `AuditUnavailable` on any [`LogError`] and while the log is not `healthy`.
//! *Source*: `durability.md` "Audit"; `fail-open-catalogue.md` rows 12, 13, 14.
//!
//! **Group commit.** One writer thread. While it syncs one group, the next gathers; no timer holds anything back. A group
//! is acknowledged only after its sync, and only if the path still names the open, whole, writable file.
//!
//! **Failure.** Any failed call makes the log unhealthy and fails everyone waiting in that group; nobody waits longer
//! than [`limits::AUDIT_WAIT_MS`], and while the writer hangs in a call, callers fail at once. Nothing is given up or
//! retried behind a caller's back: the next `append` is the probe. It first undoes what the failed group may have
//! left: through a new descriptor it cuts the segment at the last acknowledged record, syncs, and begins a new segment
//! that chains on there (a failed sync is never repeated on its descriptor). Only when its own record is then
//! durable is the log healthy again. So a full or write-protected disk heals by itself with the first denial recorded.
//!
//! **Tampering.** A file removed, renamed, replaced or cut under the broker fails every append for as long as its path
//! does not name that same file at its full size. Put back, it is the same log and goes on; lost, only a restart helps,
//! which verifies what is there against the last checkpoint and refuses what was cut.
//!
//! **In doubt.** An append that was cancelled, timed out or failed may still be found in the log later; it was never
//! acknowledged. A caller that denies after a `Released` record in doubt says so with `Undelivered`.

use super::checkpoint::LogKey;
use super::disk::{Disk, Fault};
use super::frame::Body;
use super::head::Mark;
use super::merkle::Hash;
use super::open::{self, OpenError};
use super::record::Record;
use super::writer::Writer;
use crate::limits;
use crate::measure::Histogram;
use crate::time::WallTime;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

/// A durable record's number, from 0: its leaf in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

/// Why a record is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It is over [`limits::AUDIT_RECORD_BYTES`], or cannot be encoded.
    #[error("the record cannot be encoded in {} bytes", limits::AUDIT_RECORD_BYTES)]
    RecordTooLarge,
    /// Too much is waiting for the disk already.
    #[error("too many records wait for the log")]
    Overloaded,
    /// The disk did not answer in [`limits::AUDIT_WAIT_MS`], or has not answered another caller in that time.
    #[error("the log did not answer in time")]
    TimedOut,
    /// The log cannot be written.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// What was found when the log was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether there was no log before. The caller knows whether that can be.
    pub created: bool,
    /// Records.
    pub records: u64,
    /// The last record's wall time; 0 without records.
    pub last_time: WallTime,
    /// The highest wall time of all records, trusted or not.
    pub highest_time: WallTime,
    /// The highest commit number that an `Applied` record names; 0 for none.
    pub last_applied: u64,
    /// Commit numbers of intents without `Applied` or `NotApplied`, ascending.
    pub open_intents: Vec<u64>,
    /// Whether a torn, never acknowledged tail was cut off.
    pub torn_tail: bool,
}

/// The audit log. One for a directory; dropped, it closes in order.
pub struct Log {
    shared: Arc<Shared>,
    /// Disconnected once the writer has ended.
    ended: Mutex<mpsc::Receiver<()>>,
    wait: Duration,
    #[cfg(test)]
    trouble: Arc<tests::Trouble>,
}

impl Log {
    /// Opens or makes the log in `directory` and verifies it from the last checkpoint on. Every record with a time at or
    /// after `since` is given to `horizon`, in order (earlier ones may be, too).
    pub fn open(
        directory: &Path,
        key: LogKey,
        since: WallTime,
        horizon: impl FnMut(&Record),
    ) -> Result<(Log, OpenReport), OpenError> {
        Log::open_sized(directory, key, since, horizon, limits::AUDIT_SEGMENT_BYTES)
    }

    /// Verifies the log in `directory` as [`Log::open`] does, and changes nothing. It must not be written meanwhile.
    pub fn examine(directory: &Path, key: &LogKey, since: WallTime) -> Result<OpenReport, OpenError> {
        open::examine(directory, key, since)
    }

    fn open_sized(
        directory: &Path,
        key: LogKey,
        since: WallTime,
        horizon: impl FnMut(&Record),
        segment_bytes: u64,
    ) -> Result<(Log, OpenReport), OpenError> {
        let disk = Disk::open(directory, segment_bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::Locked,
            _ => OpenError::Io(error),
        })?;
        #[cfg(test)]
        let trouble = disk.trouble.clone();
        let opened = open::replay(disk, &key, since, horizon)?;
        let shared = Arc::new(Shared::new(opened.head.size(), opened.head.last));
        let report = opened.report.clone();
        let writer = Writer::new(opened, key, shared.clone())?;
        let (running, ended) = mpsc::channel::<()>();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            writer.run();
            drop(running);
        })?;
        let log = Log {
            shared,
            ended: Mutex::new(ended),
            wait: Duration::from_millis(limits::AUDIT_WAIT_MS),
            #[cfg(test)]
            trouble,
        };
        Ok((log, report))
    }

    /// Makes the record durable: it is on disk when this returns its number. Waits at most
    /// [`limits::AUDIT_WAIT_MS`]. Cancelled, the record may or may not be written.
    pub async fn append(&self, record: &Record) -> Result<Sequence, LogError> {
        let encoded = serde_json::to_vec(record).map_err(|_| LogError::RecordTooLarge)?;
        let body = Body::new(encoded).ok_or(LogError::RecordTooLarge)?;
        let (done, outcome) = oneshot::channel();
        self.shared.enqueue(Waiting { body, mark: Mark::of(record), done })?;
        self.wait(outcome).await
    }

    /// Signs a checkpoint of everything that is durable now, keeps it in the directory, and returns the note.
    pub async fn checkpoint(&self) -> Result<String, LogError> {
        let (done, outcome) = oneshot::channel();
        self.shared.enqueue_checkpoint(done)?;
        self.wait(outcome).await
    }

    /// False from a failure until a record is durable again, and while the writer hangs: release nothing.
    pub fn healthy(&self) -> bool {
        self.shared.working.load(Ordering::SeqCst) && !self.shared.is_stalled()
    }

    /// Durable records.
    pub fn size(&self) -> u64 {
        self.shared.head().0
    }

    /// The hash that the next record carries.
    pub fn head(&self) -> Hash {
        self.shared.head().1
    }

    /// Returns once the writer has answered, whether or not the disk takes anything: it does not hang. Waits at most
    /// [`limits::AUDIT_WAIT_MS`].
    pub async fn answers(&self) -> Result<(), LogError> {
        let (done, outcome) = oneshot::channel();
        self.shared.open_queue()?.call = Some(done);
        self.shared.filled.notify_one();
        match tokio::time::timeout(self.wait, outcome).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(LogError::Closed),
            Err(_) => Err(LogError::TimedOut),
        }
    }

    /// How long writing and syncing each group took.
    pub fn sync_times(&self) -> &Histogram {
        &self.shared.sync_times
    }

    /// Records that wait for the disk.
    pub fn waiting(&self) -> usize {
        self.shared.queue().waiting.len()
    }

    /// Groups that were synced since the log was opened.
    pub fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::SeqCst)
    }

    /// Writes what waits and a last checkpoint, and ends. Blocks, at most [`limits::AUDIT_WAIT_MS`]; what is appended
    /// later fails.
    pub fn close(&self) {
        self.shared.close();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(self.wait) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the audit log does not close in time");
        }
    }

    async fn wait<T>(&self, outcome: oneshot::Receiver<Result<T, LogError>>) -> Result<T, LogError> {
        match tokio::time::timeout(self.wait, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(LogError::Closed),
            Err(_) => {
                self.shared.stalled();
                Err(LogError::TimedOut)
            }
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// A record that waits for its group.
pub(super) struct Waiting {
    pub(super) body: Body,
    pub(super) mark: Mark,
    pub(super) done: oneshot::Sender<Result<Sequence, LogError>>,
}

/// What the writer takes at once.
pub(super) enum Work {
    Group(Vec<Waiting>),
    /// Whether it answers.
    Call(oneshot::Sender<()>),
    Checkpoint(oneshot::Sender<Result<String, LogError>>),
}

#[derive(Default)]
struct Queue {
    waiting: std::collections::VecDeque<Waiting>,
    bytes: usize,
    checkpoint: Option<oneshot::Sender<Result<String, LogError>>>,
    call: Option<oneshot::Sender<()>>,
    closing: bool,
}

/// Between callers and the writer.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    head: Mutex<(u64, Hash)>,
    working: AtomicBool,
    /// Pieces of work that the writer took, and those that it is done with; it hangs where a caller's time ran out
    /// during one that is not done.
    started: AtomicU64,
    finished: AtomicU64,
    timed_out_in: AtomicU64,
    /// Whether the last group held more than one record.
    crowded: AtomicBool,
    pub(super) syncs: AtomicU64,
    pub(super) sync_times: Histogram,
}

impl Shared {
    fn new(size: u64, last: Hash) -> Self {
        Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            head: Mutex::new((size, last)),
            working: AtomicBool::new(true),
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            timed_out_in: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            sync_times: Histogram::default(),
        }
    }

    fn enqueue(&self, waiting: Waiting) -> Result<(), LogError> {
        let mut queue = self.open_queue()?;
        let bytes = queue.bytes.saturating_add(waiting.body.frame_bytes());
        if bytes > limits::AUDIT_QUEUE_BYTES {
            return Err(LogError::Overloaded);
        }
        queue.bytes = bytes;
        queue.waiting.push_back(waiting);
        // The lock goes first: whom it wakes would else wait for it at once.
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    fn enqueue_checkpoint(&self, done: oneshot::Sender<Result<String, LogError>>) -> Result<(), LogError> {
        let mut queue = self.open_queue()?;
        if queue.checkpoint.as_ref().is_some_and(|earlier| !earlier.is_closed()) {
            return Err(LogError::Overloaded);
        }
        queue.checkpoint = Some(done);
        self.filled.notify_one();
        Ok(())
    }

    fn open_queue(&self) -> Result<MutexGuard<'_, Queue>, LogError> {
        if self.is_stalled() {
            return Err(LogError::TimedOut);
        }
        let queue = self.queue();
        if queue.closing { Err(LogError::Closed) } else { Ok(queue) }
    }

    /// The writer's next work; waits for it. None once the log is closed and all is done.
    pub(super) fn take(&self) -> Option<Work> {
        let mut queue = self.queue();
        let mut yielded = !self.crowded.load(Ordering::Relaxed);
        loop {
            if let Some(done) = queue.call.take() {
                self.started.fetch_add(1, Ordering::SeqCst);
                return Some(Work::Call(done));
            }
            if let Some(done) = queue.checkpoint.take() {
                self.started.fetch_add(1, Ordering::SeqCst);
                return Some(Work::Checkpoint(done));
            }
            if !queue.waiting.is_empty() && !yielded {
                // Whoever is about to append runs first, so that one sync serves more. No timer: where nobody is, this is nothing.
                yielded = true;
                drop(queue);
                std::thread::yield_now();
                queue = self.queue();
                continue;
            }
            if !queue.waiting.is_empty() {
                self.started.fetch_add(1, Ordering::SeqCst);
                let group = queue.take_group();
                self.crowded.store(group.len() > 1, Ordering::Relaxed);
                return Some(Work::Group(group));
            }
            if queue.closing {
                return None;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The writer is done with what it took.
    pub(super) fn done(&self) {
        self.finished.fetch_add(1, Ordering::SeqCst);
    }

    /// Where the log stands, for `size` and `head`.
    pub(super) fn advance(&self, size: u64, last: Hash) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = (size, last);
    }

    /// Whether the last record or checkpoint was written.
    pub(super) fn set_working(&self, working: bool) {
        self.working.store(working, Ordering::SeqCst);
    }

    fn head(&self) -> (u64, Hash) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stalled(&self) {
        self.timed_out_in.fetch_max(self.started.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn is_stalled(&self) -> bool {
        self.finished.load(Ordering::SeqCst) < self.timed_out_in.load(Ordering::SeqCst)
    }

    fn close(&self) {
        self.queue().closing = true;
        self.filled.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic while the lock was held leaves whole entries.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Takes at most [`limits::AUDIT_GROUP_BYTES`], but always one; passes over those whose caller has gone.
    fn take_group(&mut self) -> Vec<Waiting> {
        let limit = usize::try_from(limits::AUDIT_GROUP_BYTES).unwrap_or(0);
        let (mut group, mut bytes) = (Vec::new(), 0_usize);
        while bytes < limit {
            let Some(waiting) = self.waiting.pop_front() else { break };
            let size = waiting.body.frame_bytes();
            self.bytes = self.bytes.saturating_sub(size);
            if !waiting.done.is_closed() {
                bytes = bytes.saturating_add(size);
                group.push(waiting);
            }
        }
        group
    }
}

#[cfg(test)]
pub mod tests;
