//! The one thread that writes: queue, checks, batch, flush, sync, and only then the answers.
//!
//! *Takes* transactions from any number of callers. *Gives* each its commit number once all of its group are on disk.
//! *Denies* what a check refuses; after the first failed write or sync, everything (`Sealed`). *Source*:
//! `durability.md` "sled": sled's own flush is no fsync on Linux, and concurrent flushes deadlock.

use super::chunks::{self, Staged, Writes};
use super::{CommitNumber, StoreError, Transaction, holds};
use crate::limits;
use crate::measure::Histogram;
use crate::time::Stopwatch;
use ::sled::{Batch, Tree};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use tokio::sync::{RwLock, oneshot};

/// A transaction and who waits for it.
pub(super) struct Job {
    pub(super) transaction: Transaction,
    pub(super) expected: Option<CommitNumber>,
    pub(super) claim: Arc<Claim>,
    pub(super) answer: oneshot::Sender<Result<CommitNumber, StoreError>>,
}

/// Who has a job: its committer or the caller that gave up on it. The first to take it decides.
#[derive(Default)]
pub(super) struct Claim(AtomicBool);

impl Claim {
    /// Takes the job; false where the other side has it.
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// What makes written data durable: `fdatasync` of a descriptor that was opened once.
pub(super) type Sync = Box<dyn Fn() -> std::io::Result<()> + Send + std::marker::Sync>;

/// What the committer and the readers share. Its lock goes last, so that no second opener meets a half-closed database.
pub(super) struct Inner {
    pub(super) db: ::sled::Db,
    pub(super) sync: Sync,
    /// Where sled would put what is too large for a segment, unsynced; it stays empty.
    pub(super) blobs: PathBuf,
    /// The number of the last durable commit. Held for writing from the first batch of a group to its sync, so that
    /// readers see only what is durable.
    pub(super) gate: RwLock<CommitNumber>,
    pub(super) seal: OnceLock<String>,
    pub(super) commit_times: Histogram,
    pub(super) _lock: std::fs::File,
}

impl Inner {
    /// Whether the store still takes and gives.
    pub(super) fn unsealed(&self) -> Result<(), StoreError> {
        self.seal.get().map_or(Ok(()), |cause| Err(StoreError::Sealed(cause.clone())))
    }

    /// Seals the store; a failed sync is never tried again, as the kernel may have dropped the pages it could not write.
    fn close_for_good(&self, cause: &str) -> StoreError {
        // Only the first cause is kept: what follows comes of it.
        let cause = self.seal.get_or_init(|| cause.to_owned());
        tracing::error!(cause, "the store is sealed: it takes and gives nothing until the next start");
        StoreError::Sealed(cause.clone())
    }
}

/// Commits what comes, until every sender of `queue` is gone.
pub(super) fn run(inner: &Inner, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let group = gather(first, queue).into_iter().filter(|job| job.claim.take());
        let (requests, answers): (Vec<Request>, Vec<_>) =
            group.map(|job| ((job.transaction, job.expected), job.answer)).unzip();
        let outcomes = commit_group(inner, &requests);
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // A caller that left meanwhile hears nothing; its commit stands.
            let _ = answer.send(outcome);
        }
    }
}

/// The first job and what waits behind it, as much as fits one batch.
fn gather(first: Job, queue: &Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.transaction.bytes();
    let mut group = vec![first];
    while group.len() < limits::STORE_GROUP && bytes < limits::STORE_TRANSACTION_BYTES {
        let Ok(job) = queue.try_recv() else { break };
        bytes = bytes.saturating_add(job.transaction.bytes());
        group.push(job);
    }
    group
}

type Request = (Transaction, Option<CommitNumber>);
type Outcome = Result<CommitNumber, StoreError>;

/// One outcome for each request, in their order; all that succeeded are durable.
fn commit_group(inner: &Inner, requests: &[Request]) -> Vec<Outcome> {
    let mut gate = inner.gate.blocking_write();
    let last = *gate;
    let write = || inner.unsealed().and_then(|()| write_group(inner, requests, last));
    let written = catch_unwind(AssertUnwindSafe(write))
        .unwrap_or_else(|_| Err(inner.close_for_good("the storage engine panicked")));
    match written {
        Ok((outcomes, last)) => {
            *gate = last;
            outcomes
        }
        // What of the group is on disk is not known; the next start finds out.
        Err(sealed) => vec![Err(sealed); requests.len()],
    }
}

/// Applies the requests, each seeing those before it, as one batch: many would write the commit number as often, and the
/// leaf that it lies in with it. Errs only where the store is sealed.
fn write_group(
    inner: &Inner,
    requests: &[Request],
    before: CommitNumber,
) -> Result<(Vec<Outcome>, CommitNumber), StoreError> {
    let tree: &Tree = &inner.db;
    let mut group = Staged { writes: Writes::new(), below: tree };
    let mut last = before;
    let mut outcomes = Vec::with_capacity(requests.len());
    for (transaction, expected) in requests {
        let outcome = judge(&group, transaction, *expected, last);
        outcomes.push(outcome.map(|(number, writes)| {
            group.writes.extend(writes);
            last = number;
            number
        }));
    }
    if last != before {
        apply(inner, group.writes, last).map_err(|error| inner.close_for_good(&error))?;
    }
    Ok((outcomes, last))
}

/// Judges a transaction against what stands before it, and lays out its writes.
fn judge(
    before: &Staged<'_, Tree>,
    transaction: &Transaction,
    expected: Option<CommitNumber>,
    last: CommitNumber,
) -> Result<(CommitNumber, Writes), StoreError> {
    let number = last.next();
    if expected.is_some_and(|expected| expected != number) {
        return Err(StoreError::OutOfTurn { next: number.0 });
    }
    for (key, expect) in &transaction.checks {
        if !holds(expect, chunks::get(before, key)?.as_deref()) {
            return Err(StoreError::Conflict);
        }
    }
    let mut staged = Staged { writes: Writes::new(), below: before };
    for (ordinal, entry) in transaction.puts.iter().enumerate() {
        staged.put(&entry.key, &entry.value, number.0, ordinal)?;
    }
    for key in &transaction.deletes {
        staged.remove(key)?;
    }
    Ok((number, staged.writes))
}

fn apply(inner: &Inner, writes: Writes, last: CommitNumber) -> Result<(), String> {
    let watch = Stopwatch::start();
    let mut batch = Batch::default();
    for (physical, write) in writes {
        match write {
            Some(bytes) => batch.insert(physical, bytes),
            None => batch.remove(physical),
        }
    }
    batch.insert(chunks::COMMIT_KEY, &last.0.to_be_bytes());
    inner.db.apply_batch(batch).map_err(|error| error.to_string())?;
    make_durable(inner)?;
    inner.commit_times.record(watch.nanoseconds());
    Ok(())
}

fn make_durable(inner: &Inner) -> Result<(), String> {
    inner.db.flush().map_err(|error| error.to_string())?;
    (inner.sync)().map_err(|error| format!("fdatasync: {error}"))?;
    blobs_empty(&inner.blobs).then_some(()).ok_or_else(|| "a value went to an unsynced file".to_owned())
}

/// Whether sled has put nothing beside its log.
pub(super) fn blobs_empty(blobs: &Path) -> bool {
    match std::fs::read_dir(blobs) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
