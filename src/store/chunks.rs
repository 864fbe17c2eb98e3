//! How an entry lies in sled: values over one chunk are cut, so that no leaf grows past a quarter segment.
//!
//! *Takes* a key and a value. *Gives* the [`Writes`] of a batch, and back the value. *Denies* `Damaged` where a chunk is
//! missing or has another length. *Source*: `durability.md` "sled" (a larger leaf goes to an unsynced file).
//!
//! ```text
//! 'r' ‖ key                               → 0x00 ‖ value                                   up to 4095 bytes
//!                                         → 0x01 ‖ u64 commit ‖ u32 ordinal ‖ u32 length   the value lies in chunks
//! 'c' ‖ u64 commit ‖ u32 ordinal ‖ u32 n  → chunk n, 4096 bytes, the last one 1 to 4096
//! 'm' ‖ name                              → facts about the store itself
//! ```
//! Integers are big-endian. A chunk is never written twice: the commit and the put's ordinal in it name the value.

use super::StoreError;
use crate::limits;
use ::sled::{IVec, Tree};
use std::collections::HashMap;

/// The last commit's number, u64.
pub(super) const COMMIT_KEY: &[u8] = b"mcommit";
/// The format record: version and store id.
pub(super) const FORMAT_KEY: &[u8] = b"mformat";
/// What every entry's physical key begins with.
pub(super) const ENTRY: u8 = b'r';
/// What every chunk's physical key begins with.
pub(super) const CHUNK: u8 = b'c';

/// Where the value of an entry lies.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// Here.
    Inline(&'a [u8]),
    /// In so many bytes of chunks.
    Chunked {
        /// The value's name: its commit and ordinal.
        value: [u8; 12],
        /// The value's length, bytes.
        length: usize,
    },
}

/// Physical keys and what is to stand under them; none: nothing.
pub(super) type Writes = HashMap<Vec<u8>, Option<IVec>>;

/// Where physical keys are looked up.
pub(super) trait Pages {
    /// What stands under a physical key.
    fn page(&self, physical: &[u8]) -> Result<Option<IVec>, StoreError>;
}

impl Pages for Tree {
    fn page(&self, physical: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.get(physical).map_err(|error| from_sled(&error))
    }
}

/// Writes that are not in the tree yet, over what is.
pub(super) struct Staged<'a, P> {
    pub(super) writes: Writes,
    pub(super) below: &'a P,
}

impl<P: Pages> Pages for Staged<'_, P> {
    fn page(&self, physical: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.writes.get(physical).map_or_else(|| self.below.page(physical), |write| Ok(write.clone()))
    }
}

/// The physical key of an entry.
pub(super) fn entry_key(key: &[u8]) -> Vec<u8> {
    [&[ENTRY], key].concat()
}

/// The logical key of a physical one.
pub(super) fn logical_key(physical: &[u8]) -> Option<&[u8]> {
    physical.strip_prefix(&[ENTRY])
}

/// Reads what lies under an entry's physical key.
pub(super) fn place(bytes: &[u8]) -> Result<Place<'_>, StoreError> {
    let bad = || damaged("an entry has no known shape");
    match bytes.split_first().ok_or_else(bad)? {
        (0, value) => Ok(Place::Inline(value)),
        (1, rest) => {
            let (value, length) = rest.split_first_chunk::<12>().ok_or_else(bad)?;
            let length: [u8; 4] = length.try_into().map_err(|_| bad())?;
            let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| bad())?;
            Ok(Place::Chunked { value: *value, length })
        }
        _ => Err(bad()),
    }
}

/// The value of an entry.
pub(super) fn get<P: Pages>(pages: &P, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let stored = pages.page(&entry_key(key))?;
    stored.map(|bytes| value(pages, &bytes)).transpose()
}

/// The value under an entry's physical key, put together.
pub(super) fn value<P: Pages>(pages: &P, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    match place(bytes)? {
        Place::Inline(value) => Ok(value.to_vec()),
        Place::Chunked { value, length } => {
            let mut whole = Vec::with_capacity(length.min(limits::STORE_TRANSACTION_BYTES));
            for index in 0..count(length)? {
                let chunk = pages.page(&chunk_key(&value, index))?;
                whole.extend_from_slice(&chunk.ok_or_else(|| damaged("a chunk is missing"))?);
            }
            if whole.len() != length {
                return Err(damaged("a chunked value has another length"));
            }
            Ok(whole)
        }
    }
}

impl<P: Pages> Staged<'_, P> {
    /// Puts `value` under `key`, as the put number `ordinal` of commit `commit`.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        commit: u64,
        ordinal: usize,
    ) -> Result<(), StoreError> {
        self.remove(key)?;
        if value.len() < limits::STORE_CHUNK_BYTES {
            self.write(entry_key(key), &[&[0], value].concat());
            return Ok(());
        }
        let too_large = |_| StoreError::TooLarge("a value");
        let ordinal = u32::try_from(ordinal).map_err(too_large)?;
        let length = u32::try_from(value.len()).map_err(too_large)?;
        let name = [commit.to_be_bytes().as_slice(), &ordinal.to_be_bytes()].concat();
        for (index, chunk) in (0..).zip(value.chunks(limits::STORE_CHUNK_BYTES)) {
            self.write(chunk_key(&name, index), chunk);
        }
        self.write(entry_key(key), &[&[1], name.as_slice(), &length.to_be_bytes()].concat());
        Ok(())
    }

    /// Removes what stands under `key`, with its chunks.
    pub(super) fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let physical = entry_key(key);
        let Some(bytes) = self.page(&physical)? else { return Ok(()) };
        if let Place::Chunked { value, length } = place(&bytes)? {
            for index in 0..count(length)? {
                self.writes.insert(chunk_key(&value, index), None);
            }
        }
        self.writes.insert(physical, None);
        Ok(())
    }

    fn write(&mut self, physical: Vec<u8>, bytes: &[u8]) {
        self.writes.insert(physical, Some(bytes.into()));
    }
}

/// How many chunks a value of `length` bytes has.
pub(super) fn count(length: usize) -> Result<u32, StoreError> {
    u32::try_from(length.div_ceil(limits::STORE_CHUNK_BYTES)).map_err(|_| damaged("a value is too long"))
}

/// What an operation of sled's failed with, by cause.
pub(super) fn from_sled(error: &::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(error) => StoreError::Unavailable(error.to_string()),
        ::sled::Error::Corruption { .. } => damaged("a page does not match its checksum"),
        ::sled::Error::CollectionNotFound(_) => damaged("a tree is missing"),
        ::sled::Error::Unsupported(what) => StoreError::Unavailable(what.clone()),
        ::sled::Error::ReportableBug(what) => damaged(what),
    }
}

/// `Damaged`, with what to do about it.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what}; {RESTORE}"))
}

fn chunk_key(value: &[u8], index: u32) -> Vec<u8> {
    [&[CHUNK], value, &index.to_be_bytes()].concat()
}

const RESTORE: &str = "keep this directory and the audit log as they are, and restore the last backup into a new \
                       directory (`portcullis restore`)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_unknown_shape_is_damaged() {
        for bytes in [&b""[..], b"\x02abc", b"\x01short", &[1; 18]] {
            assert!(matches!(place(bytes), Err(StoreError::Damaged(_))));
        }
    }
}
