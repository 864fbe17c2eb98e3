//! The store's model: a map. For tests, and what the engine is held against.

use super::{CommitNumber, Entry, Store, StoreError, StoreId, Transaction, holds};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store that forgets everything when dropped.
pub(crate) struct MemoryStore {
    id: StoreId,
    state: Mutex<(Entries, u64)>,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        MemoryStore { id: StoreId::random().unwrap(), state: Mutex::default() }
    }

    /// Changes what is stored behind the vault's back, as an attacker with the disk would.
    pub(crate) fn tamper(&self, change: impl FnOnce(&mut Entries)) {
        change(&mut self.state.lock().unwrap().0);
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn id(&self) -> StoreId {
        self.id
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state.lock().unwrap().0.get(key).cloned())
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ => Bound::Included(prefix.to_vec()),
        };
        let state = self.state.lock().unwrap();
        let entries = state.0.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        Ok(entries.take(limit).map(|(key, value)| Entry { key: key.clone(), value: value.clone() }).collect())
    }

    async fn commit(
        &self,
        transaction: Transaction,
        expected: Option<CommitNumber>,
    ) -> Result<CommitNumber, StoreError> {
        transaction.check_shape()?;
        let mut state = self.state.lock().unwrap();
        let number = CommitNumber(state.1 + 1);
        if expected.is_some_and(|expected| expected != number) {
            return Err(StoreError::OutOfTurn { next: number.0 });
        }
        let refused = |(key, expect): &(Vec<u8>, _)| !holds(expect, state.0.get(key).map(Vec::as_slice));
        if transaction.checks.iter().any(refused) {
            return Err(StoreError::Conflict);
        }
        state.0.extend(transaction.puts.into_iter().map(|entry| (entry.key, entry.value)));
        transaction.deletes.iter().for_each(|key| drop(state.0.remove(key)));
        state.1 = number.0;
        Ok(number)
    }

    async fn last_commit(&self) -> Result<CommitNumber, StoreError> {
        Ok(CommitNumber(self.state.lock().unwrap().1))
    }
}
