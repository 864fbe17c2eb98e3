//! A backup: everything that a store holds, as it holds it, in one stream that is whole or refused.
//!
//! *Takes* the parts of an [`super::Export`], or a stream. *Gives* the stream, or its items one by one. *Denies* by
//! [`BackupError`] what was cut, changed, lengthened or made by no one with the store's keys. *Source*: `durability.md`
//! (own streaming backup and restore); FIPS 180-4; RFC 2104.
//!
//! ```text
//! backup = "portcullis bkp1\n" ‖ frame(1, head) ‖ frame(2 | 3, item)* ‖ frame(4, trailer), and nothing behind
//! frame  = u8 kind ‖ u32 length ‖ body ‖ u32 CRC-32C of all that, big-endian
//! head, trailer: JSON · put (2) = u16 length ‖ key ‖ value · delete (3) = key
//! ```
//! Later items stand in place of earlier ones. The trailer carries the SHA-256 of everything before it, and a MAC over that
//! under a key of the store: who has no key source can tell a cut or damaged stream, and who has it a forged one. It is
//! ciphertext: names are HMACs, values are sealed, the keyring is sealed under the key source's key.

use super::keyring::Keyring;
use super::keysource::KeySource;
use super::{StoreError, StoreId, vault};
use crate::limits;
use crate::time::WallTime;
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read};

/// What a backup says of itself first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The store's id, hex.
    pub store: String,
    /// When it was begun.
    pub made: WallTime,
    /// The broker's version.
    pub version: String,
    /// Records of the audit log before it was begun: what the log says from this number on may be missing in it.
    pub log_records: u64,
    /// The audit log's checkpoint of then, a signed note.
    pub checkpoint: String,
}

/// What it says last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// The commit number at which everything in it stands.
    pub commit: u64,
    /// Items.
    pub items: u64,
    /// SHA-256 of everything before the trailer's frame, hex.
    pub sha256: String,
    /// The MAC over these three by the store's key, hex.
    pub vouched: String,
}

/// An item of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// This stands under that key.
    Put(Vec<u8>, Vec<u8>),
    /// Nothing stands under it any more.
    Delete(Vec<u8>),
}

/// Why a stream is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read.
    #[error("the backup cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as one.
    #[error("this is not a backup of a Portcullis store")]
    NotBackup,
    /// Of another version.
    #[error("the backup is of a format that this version does not know")]
    Version,
    /// It ends before its trailer.
    #[error("the backup was cut off: it ends at byte {at}, before its trailer")]
    Cut {
        /// Where, bytes.
        at: u64,
    },
    /// A frame does not match its checksum, or is none.
    #[error("the backup was changed: the frame at byte {at} does not match its checksum")]
    Changed {
        /// Where the frame begins, bytes.
        at: u64,
    },
    /// A frame's checksum holds, and its content is none of this format.
    #[error("the backup's frame at byte {at} has no known shape")]
    Malformed {
        /// Where the frame begins, bytes.
        at: u64,
    },
    /// Frames were added, removed or put in another order.
    #[error("the backup is not what its trailer was made over: frames were added, removed or reordered")]
    DigestMismatch,
    /// Something follows the trailer.
    #[error("something follows the backup's trailer")]
    Lengthened,
    /// The MAC is not by the store's key.
    #[error("the backup was not made by a broker with this store's keys")]
    NotVouched,
}

/// Writes a backup into buffers that its caller sends on.
pub struct Writer {
    hash: Context,
    items: u64,
}

impl Writer {
    /// Begins one; its first bytes go into `out`.
    pub fn begin(head: &Head, out: &mut Vec<u8>) -> Result<Self, StoreError> {
        let mut writer = Writer { hash: Context::new(&SHA256), items: 0 };
        let at = out.len();
        out.extend_from_slice(MAGIC);
        frame(out, HEAD, &[&json(head)?]);
        writer.hash.update(out.get(at..).unwrap_or_default());
        Ok(writer)
    }

    /// Adds an item: what stands under `key`; none: nothing.
    pub fn item(&mut self, key: &[u8], value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let length = u16::try_from(key.len()).map_err(|_| StoreError::TooLarge("a key"))?.to_be_bytes();
        let at = out.len();
        match value {
            Some(value) => frame(out, PUT, &[&length, key, value]),
            None => frame(out, DELETE, &[key]),
        }
        self.hash.update(out.get(at..).unwrap_or_default());
        self.items = self.items.saturating_add(1);
        Ok(())
    }

    /// Ends it; `vouch` makes the MAC.
    pub fn end(
        self,
        commit: u64,
        vouch: impl FnOnce(&str) -> String,
        out: &mut Vec<u8>,
    ) -> Result<Trailer, StoreError> {
        let sha256 = hex::encode(self.hash.finish());
        let mut trailer = Trailer { commit, items: self.items, sha256, vouched: String::new() };
        trailer.vouched = vouch(&trailer.statement());
        frame(out, TRAILER, &[&json(&trailer)?]);
        Ok(trailer)
    }
}

impl Trailer {
    /// What the MAC is over.
    fn statement(&self) -> String {
        format!("portcullis backup 1 {} {} {}", self.sha256, self.commit, self.items)
    }

    /// Holds the MAC against the one that the store's key makes. **Denies** `NotVouched`.
    pub fn check(&self, vouch: impl FnOnce(&str) -> String) -> Result<(), BackupError> {
        let made = vouch(&self.statement());
        let same: bool = subtle::ConstantTimeEq::ct_eq(made.as_bytes(), self.vouched.as_bytes()).into();
        same.then_some(()).ok_or(BackupError::NotVouched)
    }
}

/// Reads a backup to its end; gives its trailer and the keyring in it, sealed.
pub fn read_through<R: Read>(reader: &mut Reader<R>) -> Result<(Trailer, Option<Vec<u8>>), BackupError> {
    let mut keyring = None;
    loop {
        match reader.read_item()? {
            Next::Item(Item::Put(key, value)) if key == vault::KEYRING_KEY => keyring = Some(value),
            Next::Item(_) => {}
            Next::End(trailer) => return Ok((trailer, keyring)),
        }
    }
}

/// Holds a backup's MAC against the keys in it, which the key source must open.
pub fn check_vouched(
    head: &Head,
    trailer: &Trailer,
    keyring: Option<&[u8]>,
    source: &dyn KeySource,
) -> Result<(), VouchError> {
    let store = head.store_id().ok_or(BackupError::NotVouched)?;
    let keyring = Keyring::open(store, source, keyring.ok_or(BackupError::NotVouched)?)?;
    Ok(trailer.check(|text| vault::vouch(&keyring, text))?)
}

/// Why it is not known to be made by a broker with the store's keys.
#[derive(Debug, thiserror::Error)]
pub enum VouchError {
    /// The backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The key source, or the keyring.
    #[error(transparent)]
    Key(#[from] StoreError),
}

impl Head {
    /// The store's id; none where it is none.
    pub fn store_id(&self) -> Option<StoreId> {
        let bytes = hex::decode(&self.store).ok()?;
        bytes.try_into().ok().map(StoreId)
    }
}

/// Reads a backup; holds one frame.
pub struct Reader<R> {
    from: R,
    at: u64,
    hash: Context,
    items: u64,
}

/// What comes next.
pub enum Next {
    /// An item.
    Item(Item),
    /// The end: all before was what the trailer was made over.
    End(Trailer),
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    pub fn open(mut from: R) -> Result<(Self, Head), BackupError> {
        let mut magic = Vec::new();
        from.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
        if magic != MAGIC {
            let known = magic.starts_with(MAGIC.get(..MAGIC_NAME).unwrap_or(MAGIC));
            return Err(if known { BackupError::Version } else { BackupError::NotBackup });
        }
        let mut reader = Reader { from, at: MAGIC_BYTES, hash: Context::new(&SHA256), items: 0 };
        reader.hash.update(&magic);
        let (begun, kind, body) = reader.frame()?;
        let head = if kind == HEAD { parse(&body) } else { None };
        head.map(|head| (reader, head)).ok_or(BackupError::Malformed { at: begun })
    }

    /// Reads on. After the end there is nothing more to ask.
    pub fn read_item(&mut self) -> Result<Next, BackupError> {
        let before = self.hash.clone();
        let (at, kind, body) = self.frame()?;
        let malformed = || BackupError::Malformed { at };
        match kind {
            PUT => {
                let (length, rest) = body.split_first_chunk().ok_or_else(malformed)?;
                let length = usize::from(u16::from_be_bytes(*length));
                let (key, value) = rest.split_at_checked(length).ok_or_else(malformed)?;
                self.items = self.items.saturating_add(1);
                Ok(Next::Item(Item::Put(key.to_vec(), value.to_vec())))
            }
            DELETE => {
                self.items = self.items.saturating_add(1);
                Ok(Next::Item(Item::Delete(body)))
            }
            TRAILER => {
                let trailer: Trailer = parse(&body).ok_or_else(malformed)?;
                if trailer.sha256 != hex::encode(before.finish()) || trailer.items != self.items {
                    return Err(BackupError::DigestMismatch);
                }
                let mut more = [0];
                match self.from.read(&mut more)? {
                    0 => Ok(Next::End(trailer)),
                    _ => Err(BackupError::Lengthened),
                }
            }
            _ => Err(malformed()),
        }
    }

    /// Where the frame began, its kind and its body.
    fn frame(&mut self) -> Result<(u64, u8, Vec<u8>), BackupError> {
        let at = self.at;
        let mut bytes = self.read(FRAME_HEAD)?;
        let Some(&[kind, a, b, c, d]) = bytes.first_chunk() else { return Err(BackupError::Cut { at }) };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > limits::BACKUP_FRAME_BYTES {
            return Err(BackupError::Changed { at });
        }
        let mut body = self.read(length)?;
        bytes.extend_from_slice(&body);
        let check = self.read(CRC)?;
        if crc32c::crc32c(&bytes).to_be_bytes() != *check {
            return Err(BackupError::Changed { at });
        }
        self.hash.update(&bytes);
        self.hash.update(&check);
        body.shrink_to_fit();
        Ok((at, kind, body))
    }

    fn read(&mut self, count: usize) -> Result<Vec<u8>, BackupError> {
        let wanted = u64::try_from(count).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(count);
        let read = self.from.by_ref().take(wanted).read_to_end(&mut bytes)?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if read < count { Err(BackupError::Cut { at: self.at }) } else { Ok(bytes) }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let at = out.len();
    let length = parts.iter().map(|part| part.len()).fold(0, usize::saturating_add);
    out.push(kind);
    // Bounded by the store's own limits on keys and values.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    let crc = crc32c::crc32c(out.get(at..).unwrap_or_default());
    out.extend_from_slice(&crc.to_be_bytes());
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|_| StoreError::TooLarge("a backup's head"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

const MAGIC: &[u8] = b"portcullis bkp1\n";
const MAGIC_BYTES: u64 = 16;
/// "portcullis bkp", before the version.
const MAGIC_NAME: usize = 14;
const HEAD: u8 = 1;
const PUT: u8 = 2;
const DELETE: u8 = 3;
const TRAILER: u8 = 4;
/// Kind and length, bytes.
const FRAME_HEAD: usize = 5;
const CRC: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            store: "00".repeat(16),
            made: WallTime(1_790_000_000_000),
            version: "0.1.0".into(),
            log_records: 7,
            checkpoint: "note".into(),
        }
    }

    fn vouch(text: &str) -> String {
        format!("{:08x}", crc32c::crc32c(text.as_bytes()))
    }

    fn written() -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::begin(&head(), &mut out).unwrap();
        writer.item(b"a", Some(b"one"), &mut out).unwrap();
        writer.item(b"b", Some(&[7; 5000]), &mut out).unwrap();
        writer.item(b"a", None, &mut out).unwrap();
        writer.end(41, vouch, &mut out).unwrap();
        out
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Item>, Trailer), BackupError> {
        let (mut reader, found) = Reader::open(bytes)?;
        assert_eq!(found, head());
        let mut items = Vec::new();
        loop {
            match reader.read_item()? {
                Next::Item(item) => items.push(item),
                Next::End(trailer) => return Ok((items, trailer)),
            }
        }
    }

    #[test]
    fn a_backup_reads_back_and_its_mac_is_of_its_own_numbers() {
        let (items, trailer) = read(&written()).unwrap();
        assert!(
            items
                == [
                    Item::Put(b"a".into(), b"one".into()),
                    Item::Put(b"b".into(), vec![7; 5000]),
                    Item::Delete(b"a".into())
                ]
        );
        assert_eq!((trailer.commit, trailer.items), (41, 3));
        trailer.check(vouch).unwrap();
        let later = Trailer { commit: 42, ..trailer };
        assert!(matches!(later.check(vouch), Err(BackupError::NotVouched)));
    }

    #[test]
    fn a_backup_that_was_cut_anywhere_is_refused() {
        let whole = written();
        for length in 0..whole.len() {
            let error = read(&whole[..length]).unwrap_err();
            assert!(
                matches!(error, BackupError::Cut { .. } | BackupError::NotBackup | BackupError::Version),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn a_backup_with_any_byte_changed_is_refused() {
        let whole = written();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(
                Reader::open(changed.as_slice())
                    .and_then(|(mut reader, _)| loop {
                        if let Next::End(_) = reader.read_item()? {
                            return Ok(());
                        }
                    })
                    .is_err(),
                "{at}"
            );
        }
    }

    #[test]
    fn a_frame_that_was_removed_doubled_or_added_is_refused() {
        let whole = written();
        let mut first = Vec::new();
        Writer::begin(&head(), &mut first).unwrap();
        let item = 5 + 2 + 1 + 3 + 4;
        let removed = [&whole[..first.len()], &whole[first.len() + item..]].concat();
        assert!(matches!(read(&removed), Err(BackupError::DigestMismatch)));
        let doubled = [&whole[..first.len() + item], &whole[first.len()..]].concat();
        assert!(matches!(read(&doubled), Err(BackupError::DigestMismatch)));
        assert!(matches!(read(&[&whole[..], b"x"].concat()), Err(BackupError::Lengthened)));
        assert!(matches!(read(b"portcullis bkp2\n"), Err(BackupError::Version)));
        assert!(matches!(read(b"something else, longer"), Err(BackupError::NotBackup)));
    }
}
