//! The store: ciphertext below, zeroized plaintext above.
//!
//! *Takes* [`Transaction`]s and keys. *Gives* entries, and a [`CommitNumber`] for each transaction, durable when given.
//! *Denies* by [`StoreError`], which a caller turns into `StoreUnavailable` or `SecretDamaged`. *Source*:
//! `durability.md` "sled", "Records at rest".
//!
//! Two floors. Below, [`Store`]: an engine of bytes with compare-and-swap transactions ([`sled`] here; etcd will be
//! another). Above, [`vault::Vault`]: facts by kind and name, each sealed to its place, so that an engine never sees a
//! plaintext or a path.

use crate::limits;
use crate::measure::Histogram;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::fmt;

pub mod backup;
mod chunks;
mod committer;
mod files;
pub mod keyring;
pub mod keysource;
pub mod marks;
#[cfg(test)]
pub(crate) mod memory;
pub mod record;
pub mod sled;
pub mod space;
pub mod vault;
mod watched;

pub use vault::{Kind, NextKeyring, Opened, Vault};
pub use watched::{Export, Part};

/// A key and its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, 1 to 256 bytes.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// What must stand under a key for a transaction to be applied.
#[derive(Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Absent,
    /// Exactly this value.
    Value(Vec<u8>),
    /// Something, whatever it is.
    Any,
}

/// Changes that are applied together or not at all.
#[derive(Clone, Default)]
pub struct Transaction {
    /// What must stand for it to be applied; each key here with its expectation.
    pub checks: Vec<(Vec<u8>, Expect)>,
    /// What stands afterwards.
    pub puts: Vec<Entry>,
    /// What is gone afterwards; that a key is not there is no error.
    pub deletes: Vec<Vec<u8>>,
}

/// Which transaction of this store, from 1, without gaps; 0 is the empty store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitNumber(pub u64);

impl CommitNumber {
    /// The number after this one.
    pub fn next(self) -> Self {
        CommitNumber(self.0.saturating_add(1))
    }
}

/// Which store: 16 random bytes, made with it. No record of another store opens here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// A new one.
    pub fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; 16];
        fill_random(&mut bytes)?;
        Ok(StoreId(bytes))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Why the store gave no answer. None of these says anything of a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A check of the transaction failed; nothing was applied.
    #[error("something that the change rests on has changed")]
    Conflict,
    /// The commit number asked for is not the next one; nothing was applied.
    #[error("the next commit is number {next}, not the expected one")]
    OutOfTurn {
        /// The number that is next.
        next: u64,
    },
    /// No answer now; a commit was not applied and never will be.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// The commit did not finish in time and may yet be applied; `last_commit` tells, once it answers again.
    #[error("the store has not said whether the commit is durable")]
    Undecided,
    /// A write or a sync failed; the store takes and gives nothing until the process starts again.
    #[error("the store is sealed since an earlier failure: {0}")]
    Sealed(String),
    /// What is stored is not what was written, is not all there, or is not what belongs in its place.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// A key, a value or a transaction is over its bound.
    #[error("too large for the store: {0}")]
    TooLarge(&'static str),
    /// The transaction contradicts itself: one key changed twice, or an empty key.
    #[error("the transaction is not well formed: {0}")]
    Malformed(&'static str),
    /// Another process has the store open.
    #[error("another process has the store open")]
    InUse,
    /// There is no store in this place.
    #[error("there is no store in this place; `portcullis init` makes one")]
    Missing,
    /// There already is a store, or part of one, in this place; nothing was changed.
    #[error("there already is a store, or part of one, in this place; nothing was changed")]
    Exists,
    /// The key source gave no key.
    #[error("the key source gave no key: {0}")]
    KeySource(#[from] keysource::KeySourceError),
    /// The key source's key does not open the keyring: it is another key, or the keyring is damaged.
    #[error("this key does not open the keyring: it is another store's key, or the keyring is damaged")]
    KeyringRefused,
    /// The new key is the present one.
    #[error("the next key source gives the key that is in use already: nothing would be changed")]
    SameKey,
}

/// An ordered map of bytes with compare-and-swap transactions, each durable when acknowledged. Every wait is bounded
/// by `limits::STORE_WAIT_MS`; past it the answer is `Unavailable`, or `Undecided` where a commit is under way.
#[async_trait]
pub trait Store: Send + Sync {
    /// Which store this is.
    fn id(&self) -> StoreId;

    /// The value under `key`. What is read is durable: a commit shows only once it is.
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The entries whose keys begin with `prefix`, ascending, past `after` (exclusive), at most `limit` and at most
    /// `limits::STORE_PAGE`.
    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize)
    -> Result<Vec<Entry>, StoreError>;

    /// Applies all of it, durably, or nothing. `expected` is the commit number it must get; none: whichever is next.
    /// A future that is dropped before the engine took the transaction up leaves nothing behind.
    async fn commit(
        &self,
        transaction: Transaction,
        expected: Option<CommitNumber>,
    ) -> Result<CommitNumber, StoreError>;

    /// The number of the last durable commit.
    async fn last_commit(&self) -> Result<CommitNumber, StoreError>;

    /// Returns once whoever commits has answered: nothing hangs, and nothing is changed by it. Errs `Sealed` where the answer
    /// is that nothing will be committed any more.
    async fn answers(&self) -> Result<(), StoreError> {
        // A number that no commit gets: it is judged like any other, and nothing of it is written.
        match self.commit(Transaction::default(), Some(CommitNumber(0))).await {
            Err(StoreError::OutOfTurn { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(StoreError::Damaged("a commit got the number 0".to_owned())),
        }
    }

    /// How long each durable commit took, from its first batch to its sync; none where the engine does not say.
    fn commit_times(&self) -> Option<&Histogram> {
        None
    }
}

impl Transaction {
    /// Whether it keeps to the bounds and changes each key once. Every engine asks this first.
    pub(crate) fn check_shape(&self) -> Result<(), StoreError> {
        let operations = self.checks.len().saturating_add(self.puts.len()).saturating_add(self.deletes.len());
        if operations > limits::STORE_TRANSACTION_OPERATIONS {
            return Err(StoreError::TooLarge("operations of a transaction"));
        }
        if self.bytes() > limits::STORE_TRANSACTION_BYTES {
            return Err(StoreError::TooLarge("a transaction"));
        }
        let mut changed = BTreeSet::new();
        for key in self.changed_keys() {
            check_key(key)?;
            if !changed.insert(key) {
                return Err(StoreError::Malformed("a key is changed twice"));
            }
        }
        self.checks.iter().try_for_each(|(key, _)| check_key(key))
    }

    /// The bytes that it puts.
    pub(crate) fn bytes(&self) -> usize {
        let puts = self.puts.iter().map(|entry| entry.key.len().saturating_add(entry.value.len()));
        puts.fold(0, usize::saturating_add)
    }

    fn changed_keys(&self) -> impl Iterator<Item = &[u8]> {
        let puts = self.puts.iter().map(|entry| entry.key.as_slice());
        puts.chain(self.deletes.iter().map(Vec::as_slice))
    }
}

/// Whether `current` is what the check wants.
pub(crate) fn holds(expect: &Expect, current: Option<&[u8]>) -> bool {
    match expect {
        Expect::Absent => current.is_none(),
        Expect::Value(value) => current == Some(value.as_slice()),
        Expect::Any => current.is_some(),
    }
}

/// Fills `bytes` with random ones; without randomness nothing is written.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), StoreError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| StoreError::Unavailable("no random bytes".into()))
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Malformed("a key is empty"));
    }
    if key.len() > limits::STORE_KEY_BYTES {
        return Err(StoreError::TooLarge("a key"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: Vec<u8>) -> Entry {
        Entry { key: key.to_vec(), value }
    }

    #[test]
    fn a_transaction_that_changes_a_key_twice_is_malformed() {
        let twice = Transaction { puts: vec![put(b"a", vec![]), put(b"a", vec![])], ..Default::default() };
        assert_eq!(twice.check_shape(), Err(StoreError::Malformed("a key is changed twice")));
        let both =
            Transaction { puts: vec![put(b"a", vec![])], deletes: vec![b"a".to_vec()], ..Default::default() };
        assert_eq!(both.check_shape(), Err(StoreError::Malformed("a key is changed twice")));
        let empty = Transaction { deletes: vec![vec![]], ..Default::default() };
        assert_eq!(empty.check_shape(), Err(StoreError::Malformed("a key is empty")));
    }

    #[test]
    fn a_transaction_over_its_bounds_is_too_large() {
        let value = vec![0; limits::STORE_TRANSACTION_BYTES];
        let large = Transaction { puts: vec![put(b"a", value)], ..Default::default() };
        assert_eq!(large.check_shape(), Err(StoreError::TooLarge("a transaction")));
        let long = Transaction { deletes: vec![vec![0; 257]], ..Default::default() };
        assert_eq!(long.check_shape(), Err(StoreError::TooLarge("a key")));
        let many = (0..=limits::STORE_TRANSACTION_OPERATIONS).map(|n| (n + 1).to_be_bytes().to_vec());
        let many = Transaction { deletes: many.collect(), ..Default::default() };
        assert_eq!(many.check_shape(), Err(StoreError::TooLarge("operations of a transaction")));
    }
}
