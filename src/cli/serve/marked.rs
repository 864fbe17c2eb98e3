//! Marks on their way to the audit log, so that a restored store can be given them back.
//!
//! *Takes* marks that were raised or set, from plain threads. *Gives* a record of each. *Denies* nothing: what cannot be
//! recorded is owed until it can; what a crash swallowed, the next start records, with all others. *Source*:
//! `durability.md` "sled" (CRL numbers and the highest time are rebuilt from the log); catalogue row 39.

use crate::audit::record::Event;
use crate::broker::Broker;
use crate::limits;
use crate::store::marks::StoredMarks;
use crate::store::{Kind, StoreError, Vault};
use crate::transport::{Marks, MarksUnavailable};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Marks that the log has not been told of; one entry a mark.
#[derive(Default)]
pub struct Marked(Mutex<BTreeMap<String, (Vec<u8>, bool)>>);

impl Marked {
    /// All that the store keeps: a start tells the log of each. One that cannot be read denies where it counts, and is no reason
    /// not to start; the log is told of those on the pages before it. What is kept of TPMs, one for each ever enrolled, stands in the
    /// claims of decisions already.
    pub async fn all_of(vault: &Vault) -> Result<Self, StoreError> {
        let (marked, mut after) = (Marked::default(), None);
        loop {
            let page = match vault.list(Kind::Mark, after.as_deref(), limits::STORE_PAGE).await {
                Err(StoreError::Damaged(what)) => {
                    tracing::warn!(
                        what,
                        "a mark cannot be read, and the audit log is not told of the marks behind it"
                    );
                    return Ok(marked);
                }
                page => page?,
            };
            for record in page.records.iter().filter(|record| !record.name.starts_with(OF_TPMS)) {
                marked.owe(&record.name, &record.body, false);
            }
            after = page.next;
            if after.is_none() {
                return Ok(marked);
            }
        }
    }

    /// The log is to be told that the mark stands at `value`.
    pub fn owe(&self, name: &str, value: &[u8], lowered: bool) {
        let mut marks = self.marks();
        // One that was lowered and raised again before the log heard of it was lowered all the same.
        let lowered = lowered || marks.get(name).is_some_and(|(_, before)| *before);
        marks.insert(name.to_owned(), (value.to_vec(), lowered));
    }

    /// Tells the log.
    pub async fn settle(&self, broker: &Broker) {
        let owed = std::mem::take(&mut *self.marks());
        for (name, (value, lowered)) in owed {
            let event = Event::Mark { name: name.clone(), value: hex::encode(&value), lowered };
            if broker.recorder.note(event, broker.clock.untrusted()).await.is_err() {
                self.marks().entry(name).or_insert((value, lowered));
            }
        }
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<String, (Vec<u8>, bool)>> {
        // A panic while the lock was held leaves whole entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the names of marks of TPMs' counters begin with.
const OF_TPMS: &str = "tpm2:";

/// The store's marks, as the transport wants them.
pub(super) struct DurableMarks(pub(super) StoredMarks, pub(super) Arc<Marked>);

impl Marks for DurableMarks {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, MarksUnavailable> {
        self.0.read(name).map_err(|_| MarksUnavailable)
    }

    fn raise(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        self.0.raise(name, value).map_err(|_| MarksUnavailable)?;
        self.1.owe(name, value, false);
        Ok(())
    }

    fn replace(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        self.0.replace(name, value).map_err(|_| MarksUnavailable)?;
        self.1.owe(name, value, true);
        Ok(())
    }
}
