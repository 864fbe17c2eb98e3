//! From the file into a new store.

use super::RestoreError;
use crate::limits;
use crate::registry::{Administrator, Administrators, Restored};
use crate::store::backup::{self, BackupError, Head, Item, Next, Reader, Trailer};
use crate::store::sled::SledStore;
use crate::store::vault::{Kind, Vault};
use crate::store::{CommitNumber, Entry, Store, StoreError, Transaction};
use crate::time::Now;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Reads the whole file, and refuses it before anything else is touched.
pub(super) fn examine(path: &Path) -> Result<(Head, Trailer), RestoreError> {
    let (mut reader, head) = Reader::open(open(path)?)?;
    let (trailer, _) = backup::read_through(&mut reader)?;
    Ok((head, trailer))
}

/// Makes the store in `directory` of what the file holds, with numbers past `highest`. It is read again, and held against its
/// trailer again: it may have changed meanwhile.
pub(super) async fn load(
    path: &Path,
    directory: &Path,
    highest: u64,
) -> Result<(SledStore, Head, Trailer), RestoreError> {
    let (mut reader, head) = Reader::open(open(path)?)?;
    let id = head.store_id().ok_or(BackupError::NotVouched)?;
    let store = SledStore::create_at(directory, id, CommitNumber(after(highest)))?;
    let mut batch = Batch::default();
    let trailer = loop {
        match reader.read_item()? {
            Next::End(trailer) => break trailer,
            Next::Item(item) => batch.take(item),
        }
        if batch.is_full() {
            store.commit(batch.transaction(), None).await?;
        }
    };
    if !batch.changes.is_empty() {
        store.commit(batch.transaction(), None).await?;
    }
    Ok((store, head, trailer))
}

/// The first number that no store of before can have given.
fn after(highest: u64) -> u64 {
    let lives = highest.checked_div(limits::RESTORE_NUMBERS).unwrap_or(0).saturating_add(1);
    lives.saturating_mul(limits::RESTORE_NUMBERS)
}

/// Items that become one commit; of one key the last.
#[derive(Default)]
struct Batch {
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
}

impl Batch {
    fn take(&mut self, item: Item) {
        let (key, value) = match item {
            Item::Put(key, value) => (key, Some(value)),
            Item::Delete(key) => (key, None),
        };
        let length = key.len().saturating_add(value.as_ref().map_or(0, Vec::len));
        self.bytes = self.bytes.saturating_add(length);
        self.changes.insert(key, value);
    }

    fn is_full(&self) -> bool {
        self.changes.len() >= limits::STORE_GROUP || self.bytes >= limits::STORE_TRANSACTION_BYTES / 4
    }

    fn transaction(&mut self) -> Transaction {
        self.bytes = 0;
        let mut transaction = Transaction::default();
        for (key, value) in std::mem::take(&mut self.changes) {
            match value {
                Some(value) => transaction.puts.push(Entry { key, value }),
                None => transaction.deletes.push(key),
            }
        }
        transaction
    }
}

/// A record that does not open was damaged when it was backed up; it denies by itself, and is said.
pub(super) async fn note_damage(vault: &Vault, restored: &mut Restored) -> Result<(), StoreError> {
    for kind in Kind::ALL {
        let mut after = None;
        loop {
            match vault.list(*kind, after.as_deref(), limits::BACKUP_PAGE).await {
                Ok(page) => after = page.next,
                Err(StoreError::Damaged(why)) => {
                    restored.say(format!("a record of kind {kind:?} is damaged in the backup: {why}"));
                    after = None;
                }
                Err(error) => return Err(error),
            }
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// Whether anyone is left who can accept it, and who can put another administrator.
pub(super) async fn note_administrators(
    vault: &Vault,
    restored: &mut Restored,
    now: Now,
) -> Result<(), StoreError> {
    let records = vault.all(Kind::Administrator, limits::ADMINISTRATORS).await.unwrap_or_default();
    let parsed =
        records.iter().filter_map(|record| serde_json::from_slice::<Administrator>(&record.body).ok());
    if Administrators::new(parsed).keepers(now) == 0 {
        restored.say(
            "no administrator is left who may put another: `portcullis init --recover-admin`".to_owned(),
        );
    }
    Ok(())
}

fn open(path: &Path) -> Result<BufReader<File>, RestoreError> {
    let opened = File::open(path).map_err(|error| RestoreError::File { path: path.to_owned(), error });
    opened.map(BufReader::new)
}
