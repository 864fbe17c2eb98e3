//! Records at rest: each sealed to its own place, under a key that only this write has.
//!
//! *Takes* a root key, a [`Place`] and a plaintext. *Gives* a sealed record, and from it the plaintext again. *Denies*
//! `Damaged` where one bit differs or the record stands in another place. *Source*: `durability.md` "Records at rest";
//! RFC 5869 (HKDF); NIST SP 800-38D (GCM).
//!
//! ```text
//! record  = u8(1) ‖ u32 term ‖ u64 version ‖ u64 expiry ‖ salt, 32 random bytes ‖ commitment, 32 ‖ ciphertext ‖ tag, 16
//! AAD     = lp("portcullis record") ‖ u8(1) ‖ store id, 16 ‖ u8 kind ‖ lp(store key) ‖ u64 version ‖ u32 term ‖ u64 expiry
//! HKDF-SHA-256(root key of the term, salt, info = SHA-256(AAD)) → encryption key, 32 ‖ commitment, 32
//! ```
//! As no key is used twice, the nonce of AES-256-GCM is constant. GCM commits to no key; the commitment does, and is
//! compared first. `expiry` is 0 in format 1: nothing yet expires by its record alone, and a record that says so is refused
//! rather than read as if it did not.
//!
//! Not caught here: an older record put back in its own place. Of a secret's two records either alone is caught (each
//! names the other's version), both together are not; a whole directory put back is caught by the audit log's head.

use super::keysource::Key;
use super::{StoreError, StoreId, fill_random};
use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use aws_lc_rs::{digest, hkdf};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Where a record stands; a record opens nowhere else.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The store.
    pub store: StoreId,
    /// The kind's code.
    pub kind: u8,
    /// The record's key in the store.
    pub key: &'a [u8],
}

/// Seals `plaintext` as version `version` of the record at `place`, under the root key of `term`.
pub fn seal(
    root: &Key,
    place: Place<'_>,
    term: u32,
    version: u64,
    plaintext: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let header = Header { term, version, expiry: 0 };
    let mut sealed = header.encode();
    seal_onto(&mut sealed, root, &header.associated(place), plaintext)?;
    Ok(sealed)
}

/// The term whose root key opens the record; not trusted before it does.
pub fn term(sealed: &[u8]) -> Result<u32, StoreError> {
    Header::split(sealed).map(|(header, _)| header.term)
}

/// Opens the record at `place`: its version and plaintext. **Denies** `Damaged`.
pub fn open(root: &Key, place: Place<'_>, sealed: &[u8]) -> Result<(u64, Zeroizing<Vec<u8>>), StoreError> {
    let (header, body) = Header::split(sealed)?;
    if header.expiry != 0 {
        return Err(damaged("a record says that it expires"));
    }
    let plaintext = open_from(body, root, &header.associated(place))?;
    Ok((header.version, plaintext))
}

/// Appends salt, commitment, ciphertext and tag.
pub(super) fn seal_onto(
    out: &mut Vec<u8>,
    root: &Key,
    associated: &[u8],
    plaintext: &[u8],
) -> Result<(), StoreError> {
    let mut salt = [0; SALT];
    fill_random(&mut salt)?;
    let derived = Derived::new(root, &salt, associated)?;
    let mut text = Zeroizing::new(plaintext.to_vec());
    let tag = derived
        .cipher()?
        .encrypt_in_place_detached(&Nonce::default(), associated, &mut text)
        .map_err(|_| StoreError::TooLarge("a record"))?;
    for part in [salt.as_slice(), derived.commitment(), &text, &tag] {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Opens what [`seal_onto`] appended.
pub(super) fn open_from(
    body: &[u8],
    root: &Key,
    associated: &[u8],
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let short = || damaged("a record is cut short");
    let (salt, rest) = body.split_first_chunk::<SALT>().ok_or_else(short)?;
    let (commitment, rest) = rest.split_first_chunk::<COMMITMENT>().ok_or_else(short)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG>().ok_or_else(short)?;
    let derived = Derived::new(root, salt, associated)?;
    if !bool::from(derived.commitment().ct_eq(commitment)) {
        return Err(damaged("a record does not open in this place"));
    }
    let mut text = Zeroizing::new(ciphertext.to_vec());
    derived
        .cipher()?
        .decrypt_in_place_detached(&Nonce::default(), associated, &mut text, Tag::from_slice(tag))
        .map_err(|_| damaged("a record was altered"))?;
    Ok(text)
}

/// `u32(length) ‖ bytes`.
pub(super) fn length_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    // Everything sealed here is far below 4 GiB (`limits::STORE_TRANSACTION_BYTES`).
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// What the vault says of a record that cannot be used.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

struct Header {
    term: u32,
    version: u64,
    expiry: u64,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let (term, version) = (self.term.to_be_bytes(), self.version.to_be_bytes());
        [[FORMAT].as_slice(), &term, &version, &self.expiry.to_be_bytes()].concat()
    }

    fn split(sealed: &[u8]) -> Result<(Self, &[u8]), StoreError> {
        let short = || damaged("a record is cut short");
        let (format, rest) = sealed.split_first().ok_or_else(short)?;
        if *format != FORMAT {
            return Err(damaged("a record is of another format"));
        }
        let (term, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (expiry, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (term, version) = (u32::from_be_bytes(*term), u64::from_be_bytes(*version));
        Ok((Header { term, version, expiry: u64::from_be_bytes(*expiry) }, rest))
    }

    fn associated(&self, place: Place<'_>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        length_prefixed(&mut bytes, b"portcullis record");
        bytes.push(FORMAT);
        bytes.extend_from_slice(&place.store.0);
        bytes.push(place.kind);
        length_prefixed(&mut bytes, place.key);
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&self.term.to_be_bytes());
        bytes.extend_from_slice(&self.expiry.to_be_bytes());
        bytes
    }
}

/// The keys of one write.
struct Derived(Zeroizing<[u8; KEY + COMMITMENT]>);

impl Derived {
    fn new(root: &Key, salt: &[u8; SALT], associated: &[u8]) -> Result<Self, StoreError> {
        let info = digest::digest(&digest::SHA256, associated);
        let mut derived = Derived(Zeroizing::new([0; KEY + COMMITMENT]));
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(root.expose_secret());
        extracted
            .expand(&[info.as_ref()], Length)
            .and_then(|expanded| expanded.fill(derived.0.as_mut()))
            .map_err(|_| StoreError::Unavailable("a key cannot be derived".into()))?;
        Ok(derived)
    }

    fn cipher(&self) -> Result<Aes256Gcm, StoreError> {
        let key = self.0.first_chunk::<KEY>().map(|key| Aes256Gcm::new(key.into()));
        key.ok_or_else(|| damaged("a key has no length"))
    }

    fn commitment(&self) -> &[u8] {
        self.0.last_chunk::<COMMITMENT>().map_or(&[], |commitment| commitment)
    }
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        KEY + COMMITMENT
    }
}

const FORMAT: u8 = 1;
/// Salt, random: as long as the hash (RFC 5869 §3.1).
const SALT: usize = 32;
/// AES-256 key.
const KEY: usize = 32;
/// Commitment: 256 bits, as a collision would be an attack.
const COMMITMENT: usize = 32;
/// GCM tag, whole.
const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn root(byte: u8) -> Key {
        Key::init_with_mut(|key: &mut [u8; 32]| *key = [byte; 32])
    }

    const STORE: StoreId = StoreId([7; 16]);
    const PLACE: Place<'static> = Place { store: STORE, kind: 1, key: b"key" };

    fn sealed() -> Vec<u8> {
        seal(&root(1), PLACE, 3, 9, b"plaintext").unwrap()
    }

    fn is_damaged(outcome: Result<(u64, Zeroizing<Vec<u8>>), StoreError>) -> bool {
        matches!(outcome, Err(StoreError::Damaged(_)))
    }

    #[test]
    fn a_record_opens_in_its_place() {
        let (version, plaintext) = open(&root(1), PLACE, &sealed()).unwrap();
        assert_eq!((version, plaintext.as_slice()), (9, b"plaintext".as_slice()));
        assert_eq!(term(&sealed()), Ok(3));
        assert_ne!(sealed(), sealed(), "each write has its own salt, key and ciphertext");
    }

    #[test]
    fn a_record_with_any_bit_flipped_is_damaged() {
        let sealed = sealed();
        for index in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[index] ^= 1 << bit;
                assert!(is_damaged(open(&root(1), PLACE, &flipped)), "byte {index} bit {bit}");
            }
        }
    }

    #[test]
    fn a_record_of_another_length_is_damaged() {
        let sealed = sealed();
        for length in 0..sealed.len() {
            assert!(is_damaged(open(&root(1), PLACE, &sealed[..length])), "{length}");
        }
        assert!(is_damaged(open(&root(1), PLACE, &[sealed.as_slice(), &[0]].concat())));
    }

    #[test]
    fn a_record_in_another_place_is_damaged() {
        for place in [
            Place { key: b"kez", ..PLACE },
            Place { key: b"ke", ..PLACE },
            Place { kind: 2, ..PLACE },
            Place { store: StoreId([8; 16]), ..PLACE },
        ] {
            assert!(is_damaged(open(&root(1), place, &sealed())));
        }
        assert!(is_damaged(open(&root(2), PLACE, &sealed())), "another term's root key");
    }

    #[test]
    fn a_record_that_would_expire_is_damaged_even_where_it_is_genuine() {
        let header = Header { term: 3, version: 9, expiry: 1 };
        let mut sealed = header.encode();
        seal_onto(&mut sealed, &root(1), &header.associated(PLACE), b"plaintext").unwrap();
        assert!(open_from(&sealed[21..], &root(1), &header.associated(PLACE)).is_ok());
        assert_eq!(open(&root(1), PLACE, &sealed).map(|_| ()), Err(damaged("a record says that it expires")));
    }
}
