//! The store in sled 0.34.7, under the rules that measurement gave.
//!
//! *Takes* a directory of its own. *Gives* a [`Store`] whose commits survive a power cut. *Denies* to open what is in use,
//! missing, half made or damaged; never starts fresh. *Source*: `durability.md` "sled".
//!
//! What is caught at open: a directory whose marker or database is missing, of another store or another format; pages that
//! do not match their checksums (every page is read), entries without their chunks. What is not: a tail of the log that
//! was cut off whole, as sled takes the rest for everything; the audit log knows the commit number that must be there.

use super::chunks;
use super::committer::{self, Claim, Inner, Job, Sync, blobs_empty};
use super::files;
use super::{CommitNumber, Entry, Store, StoreError, StoreId, Transaction};
use crate::limits;
use crate::measure::Histogram;
use async_trait::async_trait;
use rustix::fs::{FlockOperation, Mode, flock};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, oneshot};

/// What [`SledStore::examine_with`] found: the store's id, its last commit, and the value that was asked for.
pub type Examined = (StoreId, CommitNumber, Option<Vec<u8>>);

/// A store in a directory of this machine, opened by this process alone.
pub struct SledStore {
    id: StoreId,
    inner: Option<Arc<Inner>>,
    queue: Option<SyncSender<Job>>,
    committer: Option<JoinHandle<()>>,
    wait: Duration,
}

impl SledStore {
    /// Makes an empty store in `directory`, which is made too where it is missing, and opens it.
    /// Errs `Exists` where there is anything of a store in it already.
    pub fn create(directory: &Path) -> Result<Self, StoreError> {
        SledStore::create_at(directory, StoreId::random()?, CommitNumber(0))
    }

    /// As [`SledStore::create`], for what is restored: of that id, and its first commit is the one after `last`.
    pub fn create_at(directory: &Path, id: StoreId, last: CommitNumber) -> Result<Self, StoreError> {
        make_directory(directory).map_err(unavailable)?;
        let lock = lock(directory)?;
        if marker(directory).exists() || engine_directory(directory).exists() {
            return Err(StoreError::Exists);
        }
        let db = open_engine(directory)?;
        let mut batch = ::sled::Batch::default();
        batch.insert(chunks::FORMAT_KEY, format_record(id));
        batch.insert(chunks::COMMIT_KEY, &last.0.to_be_bytes());
        db.apply_batch(batch).and_then(|()| db.flush()).map_err(|error| chunks::from_sled(&error))?;
        let sync = log_sync(directory).map_err(unavailable)?;
        sync().map_err(unavailable)?;
        files::sync_directory(&engine_directory(directory)).map_err(unavailable)?;
        // Last, so that a store with a marker is a whole one.
        files::create(&marker(directory), marker_text(id).as_bytes(), Mode::RUSR).map_err(unavailable)?;
        SledStore::start(id, directory, db, sync, lock)
    }

    /// Opens the store in `directory`, after reading all of it once. Errs `Missing`, `InUse`, `Damaged`, `Unavailable`.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        if !directory.exists() {
            return Err(StoreError::Missing);
        }
        let lock = lock(directory)?;
        let id = read_marker(directory)?;
        // Before the engine is there, so that nothing is touched.
        check_blobs(directory)?;
        let db = open_engine(directory)?;
        let sync = log_sync(directory).map_err(unavailable)?;
        // A process that was killed leaves writes in the page cache that look durable and are not.
        sync().map_err(unavailable)?;
        guarded("it cannot be read", || examine(&db, id))?;
        SledStore::start(id, directory, db, sync, lock)
    }

    /// Opens a copy of the store in `directory` as [`SledStore::open`] does, gives its last commit, and changes nothing: the
    /// engine cuts off whatever lies behind a damaged page when it opens. Errs as `open`; none where there is no room for
    /// a copy.
    pub fn examine(directory: &Path) -> Result<Option<CommitNumber>, StoreError> {
        Ok(SledStore::examine_with(directory, &[])?.map(|(_, number, _)| number))
    }

    /// The same; gives the store's id and what stands under `key`, too.
    pub fn examine_with(directory: &Path, key: &[u8]) -> Result<Option<Examined>, StoreError> {
        if !directory.exists() {
            return Err(StoreError::Missing);
        }
        let _lock = lock(directory)?;
        let id = read_marker(directory)?;
        let copy = Copied(directory.join(COPY));
        // A start that was killed leaves one; it is of no use.
        remove_copy(&copy.0).map_err(unavailable)?;
        match copy_engine(&engine_directory(directory), &engine_directory(&copy.0)) {
            Err(error) if no_room(&error) => return Ok(None),
            copied => copied.map_err(unavailable)?,
        }
        let db = open_engine(&copy.0)?;
        guarded("it cannot be read", || examine(&db, id))?;
        let value = chunks::get::<::sled::Tree>(&db, key)?;
        read_number(&db).map(|number| Some((id, CommitNumber(number), value)))
    }

    fn start(
        id: StoreId,
        directory: &Path,
        db: ::sled::Db,
        sync: Sync,
        lock: File,
    ) -> Result<Self, StoreError> {
        let blobs = check_blobs(directory)?;
        let gate = RwLock::new(CommitNumber(read_number(&db)?));
        let inner = Arc::new(Inner {
            db,
            sync,
            blobs,
            gate,
            seal: OnceLock::new(),
            commit_times: Histogram::default(),
            _lock: lock,
        });
        let (queue, jobs) = sync_channel(limits::STORE_QUEUE);
        let shared = Arc::clone(&inner);
        let committer = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || committer::run(&shared, &jobs))
            .map_err(unavailable)?;
        Ok(SledStore {
            id,
            inner: Some(inner),
            queue: Some(queue),
            committer: Some(committer),
            wait: Duration::from_millis(limits::STORE_WAIT_MS),
        })
    }

    fn inner(&self) -> Result<&Inner, StoreError> {
        self.inner.as_deref().ok_or_else(|| StoreError::Sealed("closed".into()))
    }

    /// Leave to read, once no commit is under way.
    async fn reading(&self) -> Result<(&Inner, RwLockReadGuard<'_, CommitNumber>), StoreError> {
        let inner = self.inner()?;
        let waited = tokio::time::timeout(self.wait, inner.gate.read()).await;
        let gate = waited.map_err(|_| StoreError::Unavailable("a commit does not end".into()))?;
        inner.unsealed()?;
        Ok((inner, gate))
    }
}

#[async_trait]
impl Store for SledStore {
    fn id(&self) -> StoreId {
        self.id
    }

    // Reads run where they are called: a page in sled's cache is microseconds away, a thread's turn is not nearer.
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (inner, _gate) = self.reading().await?;
        chunks::get::<::sled::Tree>(&inner.db, key)
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let (inner, _gate) = self.reading().await?;
        let prefix = chunks::entry_key(prefix);
        let from = match after.map(chunks::entry_key) {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix.clone()),
        };
        let mut entries = Vec::new();
        for stored in inner.db.range((from, Bound::Unbounded)).take(limit.min(limits::STORE_PAGE)) {
            let (key, bytes) = stored.map_err(|error| chunks::from_sled(&error))?;
            if !key.starts_with(&prefix) {
                break;
            }
            let key = chunks::logical_key(&key).unwrap_or_default().to_vec();
            entries.push(Entry { key, value: chunks::value::<::sled::Tree>(&inner.db, &bytes)? });
        }
        Ok(entries)
    }

    async fn commit(
        &self,
        transaction: Transaction,
        expected: Option<CommitNumber>,
    ) -> Result<CommitNumber, StoreError> {
        self.inner()?.unsealed()?;
        transaction.check_shape()?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting(Arc::default());
        let job = Job { transaction, expected, claim: Arc::clone(&waiting.0), answer };
        let queue = self.queue.as_ref().ok_or_else(|| StoreError::Sealed("closed".into()))?;
        queue.try_send(job).map_err(|_| StoreError::Unavailable("too many commits wait".into()))?;
        match tokio::time::timeout(self.wait, answered).await {
            Ok(Ok(outcome)) => outcome,
            _ if waiting.0.take() => Err(StoreError::Unavailable("a commit does not end".into())),
            _ => Err(StoreError::Undecided),
        }
    }

    async fn last_commit(&self) -> Result<CommitNumber, StoreError> {
        self.reading().await.map(|(_, gate)| *gate)
    }

    fn commit_times(&self) -> Option<&Histogram> {
        self.inner.as_deref().map(|inner| &inner.commit_times)
    }
}

/// A caller's side of a claim: a future that is dropped gives its job up.
struct Waiting(Arc<Claim>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.take();
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            // It answers what is queued and ends; it panics nowhere outside its own guard.
            let _ = committer.join();
        }
        self.inner = None;
    }
}

/// Where sled would put what is too large for a segment; whatever is there was never synced.
fn check_blobs(directory: &Path) -> Result<PathBuf, StoreError> {
    let blobs = engine_directory(directory).join("blobs");
    let empty = blobs_empty(&blobs);
    empty.then_some(blobs).ok_or_else(|| chunks::damaged("`blobs` holds values that were never synced"))
}

fn open_engine(directory: &Path) -> Result<::sled::Db, StoreError> {
    let path = engine_directory(directory);
    remove_stale_snapshots(&path).map_err(unavailable)?;
    let config = ::sled::Config::new()
        .path(path)
        .mode(::sled::Mode::LowSpace)
        .segment_size(limits::STORE_SEGMENT_BYTES)
        .cache_capacity(limits::STORE_CACHE_BYTES)
        .flush_every_ms(None);
    // Our own lock is held, so if sled's is not free yet, a store of this very process is still closing: its threads let go
    // of it a moment after it was dropped.
    let mut looks = 0;
    loop {
        let opened = guarded("it cannot be opened", || Ok(config.open()))?;
        match opened {
            Err(::sled::Error::Io(error)) if looks < CLOSING_LOOKS && error.to_string().contains(LOCKED) => {
                looks = looks.saturating_add(1);
                std::thread::sleep(CLOSING_LOOK);
            }
            opened => return opened.map_err(|error| chunks::from_sled(&error)),
        }
    }
}

/// A copy that is looked at, and then removed.
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        if let Err(error) = remove_copy(&self.0) {
            tracing::warn!(%error, copy = %self.0.display(), "the copy that was looked at is left");
        }
    }
}

fn remove_copy(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Its files alone: what is in `blobs` was never synced, and is refused where it stands. File systems that can share blocks do.
fn copy_engine(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// What sled says of a lock that is not free.
const LOCKED: &str = "could not acquire lock";
/// How often, and how far apart, a store that is still closing is looked at: two seconds in all.
const CLOSING_LOOKS: u32 = 100;
const CLOSING_LOOK: Duration = Duration::from_millis(20);

/// sled panics on some damage instead of erring; a start that fails must still say what it is.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(chunks::damaged(what)))
}

/// An interrupted open leaves `snap.*.generating`, after which every open fails; snapshots are rebuilt from the log.
fn remove_stale_snapshots(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    files::sync_directory(path)
}

/// Reads everything once: format, every entry, every chunk, and nothing beside them.
fn examine(db: &::sled::Db, id: StoreId) -> Result<(), StoreError> {
    let format = db.get(chunks::FORMAT_KEY).map_err(|error| chunks::from_sled(&error))?;
    if format.as_deref() != Some(&format_record(id)) {
        return Err(chunks::damaged("the database is not the one that its marker names"));
    }
    let (mut chunks_found, mut chunks_named) = (0_u64, 0_u64);
    for stored in db.iter() {
        let (key, bytes) = stored.map_err(|error| chunks::from_sled(&error))?;
        match key.first() {
            Some(&chunks::CHUNK) => chunks_found = chunks_found.saturating_add(1),
            Some(&chunks::ENTRY) => {
                let value = chunks::value::<::sled::Tree>(db, &bytes)?;
                if let chunks::Place::Chunked { .. } = chunks::place(&bytes)? {
                    chunks_named = chunks_named.saturating_add(chunks::count(value.len())?.into());
                }
            }
            _ if [chunks::COMMIT_KEY, chunks::FORMAT_KEY].contains(&key.as_ref()) => {}
            _ => return Err(chunks::damaged("there is a key of no known kind")),
        }
    }
    if chunks_found != chunks_named {
        return Err(chunks::damaged("there are chunks of no entry"));
    }
    Ok(())
}

fn read_number(db: &::sled::Db) -> Result<u64, StoreError> {
    let stored = db.get(chunks::COMMIT_KEY).map_err(|error| chunks::from_sled(&error))?;
    let number = stored.and_then(|bytes| bytes.as_ref().try_into().ok());
    number.map(u64::from_be_bytes).ok_or_else(|| chunks::damaged("the commit number is missing"))
}

fn make_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    files::sync_directory(&files::parent(directory))
}

/// Takes the directory itself, which cannot be removed and made again under a lock as a lock file can.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let file = File::open(directory).map_err(unavailable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse),
        Err(error) => Err(unavailable(error.into())),
    }
}

/// Tells a store that is new from one that was lost: neither half of it alone is ever taken for an empty one.
fn read_marker(directory: &Path) -> Result<StoreId, StoreError> {
    let database = engine_directory(directory).join("db").exists();
    let text = match std::fs::read_to_string(marker(directory)) {
        Ok(text) => text,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unavailable(error)),
        Err(_) if database => return Err(chunks::damaged("its marker `format` is missing")),
        Err(_) => return Err(StoreError::Missing),
    };
    if !database {
        return Err(chunks::damaged("the database is missing where its marker says that one was"));
    }
    let id = text.strip_prefix(MARKER_HEAD).and_then(|rest| hex::decode(rest.trim_end()).ok());
    let id = id.and_then(|bytes| bytes.try_into().ok()).map(StoreId);
    id.filter(|id| marker_text(*id) == text)
        .ok_or_else(|| chunks::damaged("its marker `format` is of another format"))
}

fn log_sync(directory: &Path) -> io::Result<Sync> {
    let log = File::open(engine_directory(directory).join("db"))?;
    Ok(Box::new(move || log.sync_data()))
}

fn marker(directory: &Path) -> PathBuf {
    directory.join("format")
}

fn engine_directory(directory: &Path) -> PathBuf {
    directory.join("sled")
}

fn marker_text(id: StoreId) -> String {
    format!("{MARKER_HEAD}{id}\n")
}

fn format_record(id: StoreId) -> Vec<u8> {
    [&[FORMAT], id.0.as_slice()].concat()
}

fn unavailable(error: io::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Beside the database, and so of its file system and as closed to others.
const COPY: &str = "examined";
const FORMAT: u8 = 1;
const MARKER_HEAD: &str = "portcullis store 1\n";

#[cfg(test)]
mod tests;
