//! A store that can be copied while it is written: what a copy has passed and a commit then changes is copied again.
//!
//! *Takes* a [`Store`]. *Gives* the same store, and an [`Export`] of it: every entry as it stands at one commit number.
//! *Denies* a second export at once, and one that cannot keep up or lost sight of a commit. *Source*: `durability.md`
//! "sled" (it has no snapshots; pages are read between commits, never beside one).

use super::{CommitNumber, Entry, Store, StoreError, StoreId, Transaction};
use crate::limits;
use crate::measure::Histogram;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The store below, watched.
pub(super) struct Watched {
    below: Arc<dyn Store>,
    /// Held for reading by each commit, for writing while a page is read.
    gate: RwLock<()>,
    watch: Mutex<Option<Watch>>,
}

/// What an export must know of the commits beside it.
#[derive(Default)]
struct Watch {
    /// The last key that was read; what changes behind it is read again.
    read_to: Vec<u8>,
    /// All was read once.
    read_all: bool,
    changed: BTreeSet<Vec<u8>>,
    /// Commits that succeeded meanwhile.
    commits: u64,
}

/// A copy under way. Dropped, it ends.
pub struct Export {
    watched: Arc<Watched>,
    begun: CommitNumber,
    catch_up: usize,
}

/// The next part of a copy; later parts stand in place of earlier ones.
pub enum Part {
    /// What stands under these keys; none: nothing.
    Items(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    /// All was given: together it is the store at this commit.
    End(CommitNumber),
}

impl Watched {
    pub(super) fn new(below: Arc<dyn Store>) -> Self {
        Watched { below, gate: RwLock::new(()), watch: Mutex::new(None) }
    }

    /// Begins a copy. Errs `Unavailable` where one is under way.
    pub(super) async fn export(self: &Arc<Self>) -> Result<Export, StoreError> {
        let _alone = self.alone().await?;
        let begun = self.below.last_commit().await?;
        let mut watch = self.watch();
        if watch.is_some() {
            return Err(StoreError::Unavailable("another backup is under way".into()));
        }
        *watch = Some(Watch::default());
        drop(watch);
        Ok(Export { watched: Arc::clone(self), begun, catch_up: 0 })
    }

    fn note(&self, transaction: &Transaction) {
        let mut watch = self.watch();
        let Some(watch) = watch.as_mut() else { return };
        let passed = |key: &&[u8]| watch.read_all || **key <= *watch.read_to;
        let keys: Vec<Vec<u8>> = transaction.changed_keys().filter(passed).map(<[u8]>::to_vec).collect();
        watch.changed.extend(keys);
    }

    fn committed(&self) {
        if let Some(watch) = self.watch().as_mut() {
            watch.commits = watch.commits.saturating_add(1);
        }
    }

    fn watch(&self) -> MutexGuard<'_, Option<Watch>> {
        // A panic while the lock was held leaves whole keys.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn alone(&self) -> Result<RwLockWriteGuard<'_, ()>, StoreError> {
        bounded(self.gate.write()).await
    }

    async fn beside_others(&self) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        bounded(self.gate.read()).await
    }
}

#[async_trait]
impl Store for Watched {
    fn id(&self) -> StoreId {
        self.below.id()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.below.get(key).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.below.scan(prefix, after, limit).await
    }

    async fn commit(
        &self,
        transaction: Transaction,
        expected: Option<CommitNumber>,
    ) -> Result<CommitNumber, StoreError> {
        let _beside = self.beside_others().await?;
        // Noted before it may apply: a key too many is read again for nothing, one too few would be lost.
        self.note(&transaction);
        let outcome = self.below.commit(transaction, expected).await;
        if outcome.is_ok() {
            self.committed();
        }
        outcome
    }

    async fn last_commit(&self) -> Result<CommitNumber, StoreError> {
        self.below.last_commit().await
    }

    fn commit_times(&self) -> Option<&Histogram> {
        self.below.commit_times()
    }
}

impl Export {
    /// The next part. Commits wait while it is read, a few milliseconds.
    pub async fn next(&mut self) -> Result<Part, StoreError> {
        let watched = Arc::clone(&self.watched);
        let _alone = watched.alone().await?;
        match self.scan().await? {
            Some(items) => Ok(Part::Items(items)),
            None => self.catch_up().await,
        }
    }

    /// A page of what was never read; none once all was.
    async fn scan(&self) -> Result<Option<Vec<(Vec<u8>, Option<Vec<u8>>)>>, StoreError> {
        let (read_all, place) =
            self.with(|watch| (watch.read_all, watch.read_to.clone())).unwrap_or_default();
        if read_all {
            return Ok(None);
        }
        let after = (!place.is_empty()).then_some(place.as_slice());
        let page = self.watched.below.scan(&[], after, limits::BACKUP_PAGE).await?;
        self.with(|watch| {
            watch.read_all = page.len() < limits::BACKUP_PAGE;
            watch.read_to = page.last().map(|entry| entry.key.clone()).unwrap_or(place);
        });
        Ok(Some(page.into_iter().map(|entry| (entry.key, Some(entry.value))).collect()))
    }

    /// What was changed since it was read, as it stands now; the end once that is nothing.
    async fn catch_up(&mut self) -> Result<Part, StoreError> {
        let (changed, commits, over) = self.with(Watch::take).unwrap_or_default();
        self.catch_up = self.catch_up.saturating_add(1);
        if over || self.catch_up > limits::BACKUP_CATCH_UP {
            return Err(StoreError::Unavailable(
                "too much is changed meanwhile for a backup to keep up".into(),
            ));
        }
        let last = self.watched.below.last_commit().await?;
        let mut items = Vec::with_capacity(changed.len());
        for key in changed {
            let value = self.watched.below.get(&key).await?;
            items.push((key, value));
        }
        if self.watched.below.last_commit().await? != last {
            return Err(unseen());
        }
        if !items.is_empty() {
            return Ok(Part::Items(items));
        }
        // A commit whose caller gave up may apply unnoticed; the number tells.
        if self.begun.0.saturating_add(commits) != last.0 {
            return Err(unseen());
        }
        Ok(Part::End(last))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Watch) -> T) -> Option<T> {
        self.watched.watch().as_mut().map(look)
    }
}

impl Watch {
    /// Takes a page of what changed; with it the commits so far, and whether it became too much.
    fn take(&mut self) -> (Vec<Vec<u8>>, u64, bool) {
        let over = self.changed.len() > limits::BACKUP_CHANGED;
        let page = (0..limits::BACKUP_PAGE).map_while(|_| self.changed.pop_first()).collect();
        (page, self.commits, over)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        *self.watched.watch() = None;
    }
}

fn unseen() -> StoreError {
    StoreError::Unavailable("a commit was not seen while the backup was made; make it again".into())
}

async fn bounded<T>(wait: impl Future<Output = T>) -> Result<T, StoreError> {
    let waited = tokio::time::timeout(Duration::from_millis(limits::STORE_WAIT_MS), wait).await;
    waited.map_err(|_| StoreError::Unavailable("the store is held too long by another".into()))
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;
    use std::collections::BTreeMap;

    fn put(key: &str, value: &str) -> Transaction {
        let entry = Entry { key: key.into(), value: value.into() };
        Transaction { puts: vec![entry], ..Default::default() }
    }

    async fn filled(count: usize) -> Arc<Watched> {
        let watched = Arc::new(Watched::new(Arc::new(MemoryStore::new())));
        for number in 0..count {
            watched.commit(put(&format!("k{number:04}"), "old"), None).await.unwrap();
        }
        watched
    }

    /// Copies to the end; `between` runs after each part.
    async fn copy(
        watched: &Arc<Watched>,
        mut between: impl AsyncFnMut(&Watched, usize),
    ) -> Result<(BTreeMap<Vec<u8>, Vec<u8>>, CommitNumber), StoreError> {
        let mut export = watched.export().await?;
        let mut copied = BTreeMap::new();
        for part in 0.. {
            match export.next().await? {
                Part::End(commit) => return Ok((copied, commit)),
                Part::Items(items) => {
                    for (key, value) in items {
                        match value {
                            Some(value) => drop(copied.insert(key, value)),
                            None => drop(copied.remove(&key)),
                        }
                    }
                }
            }
            between(watched, part).await;
        }
        unreachable!()
    }

    async fn standing(watched: &Watched) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let entries = watched.scan(&[], None, 10_000).await.unwrap();
        entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    #[tokio::test]
    async fn a_copy_beside_commits_is_the_store_at_its_commit_number() {
        let watched = filled(300).await;
        let (copied, commit) = copy(&watched, async |watched, part| {
            if part < 8 {
                for key in ["k0000", "k0299", "a", "z"] {
                    watched.commit(put(key, &format!("new {part}")), None).await.unwrap();
                }
                let gone = format!("k{:04}", 10 + part * 30).into_bytes();
                watched
                    .commit(Transaction { deletes: vec![gone], ..Default::default() }, None)
                    .await
                    .unwrap();
            }
        })
        .await
        .unwrap();
        assert_eq!(commit, watched.last_commit().await.unwrap());
        assert!(copied == standing(&watched).await);
        assert_eq!(copied.len(), 300 + 2 - 8);
    }

    #[tokio::test]
    async fn a_second_copy_at_once_is_refused_and_a_later_one_is_not() {
        let watched = filled(3).await;
        let first = watched.export().await.unwrap();
        assert!(matches!(watched.export().await, Err(StoreError::Unavailable(_))));
        drop(first);
        assert_eq!(copy(&watched, async |_, _| ()).await.unwrap().1, CommitNumber(3));
    }

    #[tokio::test]
    async fn a_commit_that_was_not_seen_fails_the_copy() {
        let watched = filled(3).await;
        let outcome = copy(&watched, async |watched, _| {
            watched.below.commit(put("k0001", "behind its back"), None).await.unwrap();
        })
        .await;
        assert!(matches!(outcome, Err(StoreError::Unavailable(why)) if why.contains("not seen")));
    }

    #[tokio::test]
    async fn a_copy_that_cannot_keep_up_ends() {
        let watched = filled(3).await;
        let outcome = copy(&watched, async |watched, _| {
            watched.commit(put("k0001", "again"), None).await.unwrap();
        })
        .await;
        assert!(matches!(outcome, Err(StoreError::Unavailable(why)) if why.contains("keep up")));
    }

    #[tokio::test]
    async fn a_copy_beside_a_rotation_and_a_rewrap_has_the_keys_of_all_it_has() {
        use super::super::keyring::{Keyring, tests::FixedKey};
        use super::super::{Kind, Vault};
        let below = Arc::new(MemoryStore::new());
        let vault = Vault::create(below.clone(), &FixedKey(1)).await.unwrap();
        let put = async |name: &str| {
            let mut transaction = Transaction::default();
            let previous = vault.read(Kind::Node, name).await.unwrap();
            vault.put(&mut transaction, Kind::Node, name, previous.as_ref(), name.as_bytes()).unwrap();
            vault.commit(transaction).await.unwrap();
        };
        let change = async |change: fn(&Keyring) -> Result<Keyring, StoreError>| {
            let (transaction, next) = vault.prepare_keyring(change).await.unwrap();
            vault.turn().await.unwrap().commit_keyring(transaction, next).await.unwrap();
        };
        let names: Vec<String> = (0..200).map(|number| format!("n{number}")).collect();
        for name in &names {
            put(name).await;
        }
        let (mut export, mut copied, mut part) = (vault.export().await.unwrap(), BTreeMap::new(), 0);
        while let Part::Items(items) = export.next().await.unwrap() {
            for (key, value) in items {
                copied.insert(key, value.unwrap());
            }
            // The keyring stands first in the store, and was copied with the first page.
            match part {
                0 => change(Keyring::next_term).await,
                1 => {
                    for name in &names {
                        put(name).await;
                    }
                    change(|keyring| Ok(keyring.only_current())).await;
                }
                _ => {}
            }
            part += 1;
        }
        drop(export);
        assert!(part > 4, "{part}");
        below.tamper(|stored| *stored = copied);
        let restored = Vault::open(below.clone(), &FixedKey(1)).await.unwrap();
        for name in &names {
            let opened = restored.read(Kind::Node, name).await.unwrap().unwrap();
            assert_eq!((opened.version, opened.body.as_slice()), (2, name.as_bytes()));
        }
    }
}
