//! High-water marks that outlive the process: CRL numbers, `spiffe_sequence`, the highest wall time.
//!
//! *Takes* a name and an unsigned integer, big-endian, of any length. *Gives* the highest ever raised. *Denies*
//! `StoreError` where it cannot be read or kept. *Source*: `durability.md` "Time"; RFC 5280 §5.2.3 (CRL number, up to 20
//! octets).
//!
//! The callers are plain threads and may not wait on a runtime of theirs, so a thread with a runtime of its own does.

use super::vault::{Kind, Opened, Vault};
use super::{StoreError, Transaction};
use crate::limits;
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Marks by name. Every call blocks its thread, for at most twice `limits::STORE_WAIT_MS`.
pub struct StoredMarks {
    queue: SyncSender<Request>,
}

impl StoredMarks {
    /// Starts the thread that serves them; it ends with this value.
    pub fn start(vault: Arc<Vault>) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Unavailable(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let (queue, requests) = sync_channel::<Request>(QUEUE);
        let serve = move || {
            for request in requests {
                let outcome = runtime.block_on(serve(&vault, &request.name, &request.act));
                // Who gave up waiting hears nothing; a mark that was raised stays raised.
                let _ = request.answer.send(outcome);
            }
        };
        std::thread::Builder::new().name("marks".into()).spawn(serve).map_err(failed)?;
        Ok(StoredMarks { queue })
    }

    /// The mark; none where it was never raised.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.ask(name, Act::Read)
    }

    /// Raises the mark to `value`; durable when it returns. A lower or equal value changes nothing and is no error: the
    /// mark says what was seen, not what is.
    pub fn raise(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.ask(name, Act::Raise(value.to_vec())).map(|_| ())
    }

    /// Sets the mark, lower too: an administrator's act alone. Where the act is audited with its commit number,
    /// [`prepare_reset`] gives the transaction instead.
    pub fn replace(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.ask(name, Act::Replace(value.to_vec())).map(|_| ())
    }

    fn ask(&self, name: &str, act: Act) -> Result<Option<Vec<u8>>, StoreError> {
        let (answer, answered) = sync_channel(1);
        let request = Request { name: name.to_owned(), act, answer };
        let busy = || StoreError::Unavailable("the marks do not answer".into());
        self.queue.try_send(request).map_err(|_| busy())?;
        // A raise reads and then commits, each within its own bound.
        let wait = Duration::from_millis(limits::STORE_WAIT_MS.saturating_mul(2));
        match answered.recv_timeout(wait) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(busy()),
        }
    }
}

/// Prepares setting a mark to whatever is given, lower too: for an administrator's word that an issuer was rebuilt.
pub async fn prepare_reset(vault: &Vault, name: &str, value: &[u8]) -> Result<Transaction, StoreError> {
    let mut transaction = Transaction::default();
    let current = vault.read(Kind::Mark, name).await?;
    vault.put(&mut transaction, Kind::Mark, name, current.as_ref(), value)?;
    Ok(transaction)
}

/// As [`StoredMarks::read`], for callers on a runtime.
pub async fn read(vault: &Vault, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(vault.read(Kind::Mark, name).await?.map(|opened| opened.body.to_vec()))
}

/// As [`StoredMarks::raise`], for callers on a runtime.
pub async fn raise(vault: &Vault, name: &str, value: &[u8]) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS {
        let current = vault.read(Kind::Mark, name).await?;
        if current.as_ref().is_some_and(|opened| !higher(value, opened)) {
            return Ok(());
        }
        let mut transaction = Transaction::default();
        vault.put(&mut transaction, Kind::Mark, name, current.as_ref(), value)?;
        match vault.commit(transaction).await {
            Err(StoreError::Conflict) => {}
            outcome => return outcome.map(|_| ()),
        }
    }
    Err(StoreError::Conflict)
}

struct Request {
    name: String,
    act: Act,
    answer: SyncSender<Result<Option<Vec<u8>>, StoreError>>,
}

enum Act {
    Read,
    Raise(Vec<u8>),
    Replace(Vec<u8>),
}

async fn serve(vault: &Vault, name: &str, act: &Act) -> Result<Option<Vec<u8>>, StoreError> {
    match act {
        Act::Read => return read(vault, name).await,
        Act::Raise(value) => raise(vault, name, value).await?,
        Act::Replace(value) => {
            let transaction = prepare_reset(vault, name, value).await?;
            vault.commit(transaction).await?;
        }
    }
    Ok(None)
}

/// Whether `value` is higher than `than`, as integers.
pub fn is_higher(value: &[u8], than: &[u8]) -> bool {
    compare(value, than) == Ordering::Greater
}

fn higher(value: &[u8], than: &Opened) -> bool {
    compare(value, &than.body) == Ordering::Greater
}

/// As integers: leading zeros count for nothing.
fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let (left, right) = (significant(left), significant(right));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

fn significant(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// The mark of the highest wall time ever seen: 8 bytes, big-endian, milliseconds. The running broker raises it.
pub const HIGHEST_TIME: &str = "clock/highest";
/// Requests that wait: the callers are a handful of threads.
const QUEUE: usize = 64;
/// Another writer of the same mark is rare; this many in a row is a fault.
const ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::keyring::tests::FixedKey;
    use super::super::memory::MemoryStore;
    use super::*;

    fn marks() -> (Arc<MemoryStore>, Arc<Vault>, StoredMarks) {
        let store = Arc::new(MemoryStore::new());
        let creation = Vault::create(store.clone(), &FixedKey(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let vault = Arc::new(runtime.block_on(creation).unwrap());
        (store, vault.clone(), StoredMarks::start(vault).unwrap())
    }

    #[test]
    fn a_mark_never_goes_back() {
        let (_, _, marks) = marks();
        assert_eq!(marks.read("crl"), Ok(None));
        for (value, stands) in [
            (&[0, 9][..], &[0, 9][..]),
            (&[8], &[0, 9]),
            (&[0, 0, 9], &[0, 9]),
            (&[], &[0, 9]),
            (&[1, 0], &[1, 0]),
            (&[0xff], &[1, 0]),
        ] {
            marks.raise("crl", value).unwrap();
            assert_eq!(marks.read("crl").unwrap().as_deref(), Some(stands), "{value:?}");
        }
        assert_eq!(marks.read("other"), Ok(None));
    }

    #[test]
    fn an_administrator_can_set_a_mark_back() {
        let (_, vault, marks) = marks();
        marks.raise("crl", &[9]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let transaction = runtime.block_on(prepare_reset(&vault, "crl", &[3])).unwrap();
        runtime.block_on(vault.commit(transaction)).unwrap();
        assert_eq!(marks.read("crl").unwrap().as_deref(), Some(&[3][..]));
        marks.replace("crl", &[2]).unwrap();
        assert_eq!(marks.read("crl").unwrap().as_deref(), Some(&[2][..]));
    }

    #[test]
    fn a_damaged_mark_is_an_error_and_not_unset() {
        let (store, vault, marks) = marks();
        marks.raise("crl", &[9]).unwrap();
        store.tamper(|map| drop(map.insert(vault.key_of(Kind::Mark, "crl"), vec![1; 100])));
        assert!(matches!(marks.read("crl"), Err(StoreError::Damaged(_))));
        assert!(matches!(marks.raise("crl", &[10]), Err(StoreError::Damaged(_))));
    }

    #[tokio::test]
    async fn marks_answer_on_a_thread_of_a_runtime_too() {
        let (_, _, marks) = tokio::task::spawn_blocking(marks).await.unwrap();
        assert_eq!(marks.raise("crl", &[9]), Ok(()));
    }
}
