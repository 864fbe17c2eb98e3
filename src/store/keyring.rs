//! The keyring: the root key of each term and the key that hides names, sealed under the KEK.
//!
//! *Takes* a [`KeySource`]. *Gives* a [`Keyring`]. *Denies* `KeyringRefused` where the key does not open it. *Source*:
//! `durability.md` "Records at rest".
//!
//! ```text
//! record    = u8(1) ‖ salt ‖ commitment ‖ ciphertext ‖ tag, as in `record`, under the KEK
//! AAD       = lp("portcullis keyring") ‖ u8(1) ‖ store id
//! plaintext = path key, 32 ‖ u32 current term ‖ u32 count ‖ count × (u32 term ‖ root key, 32), terms ascending
//! ```

use super::keysource::{Key, KeySource};
use super::record::{damaged, length_prefixed, open_from, seal_onto};
use super::{StoreError, StoreId, fill_random};
use aws_lc_rs::hmac;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// The keys of one store, in memory.
pub struct Keyring {
    store: StoreId,
    path_key: Key,
    names: hmac::Key,
    current: u32,
    roots: BTreeMap<u32, Key>,
}

impl Keyring {
    /// New keys for `store`: term 1 and a path key.
    pub fn generate(store: StoreId) -> Result<Self, StoreError> {
        Ok(Keyring::new(store, random_key()?, 1, BTreeMap::from([(1, random_key()?)])))
    }

    /// Opens the sealed keyring of `store`. **Denies** `KeyringRefused`, `KeySource`.
    pub fn open(store: StoreId, source: &dyn KeySource, sealed: &[u8]) -> Result<Self, StoreError> {
        let body =
            sealed.strip_prefix(&[FORMAT]).ok_or_else(|| damaged("the keyring is of another format"))?;
        let plaintext = open_from(body, &source.key()?, &associated(store)).map_err(|error| match error {
            StoreError::Damaged(_) => StoreError::KeyringRefused,
            other => other,
        })?;
        Keyring::parse(store, &plaintext).ok_or_else(|| damaged("the keyring has no known shape"))
    }

    /// Seals it under the source's key.
    pub fn seal(&self, source: &dyn KeySource) -> Result<Vec<u8>, StoreError> {
        let count = u32::try_from(self.roots.len()).map_err(|_| StoreError::TooLarge("the keyring"))?;
        // As large as it will be, so that growing leaves no copy behind.
        let mut plaintext =
            Zeroizing::new(Vec::with_capacity(self.roots.len().saturating_mul(36).saturating_add(40)));
        plaintext.extend_from_slice(self.path_key.expose_secret());
        plaintext.extend_from_slice(&self.current.to_be_bytes());
        plaintext.extend_from_slice(&count.to_be_bytes());
        for (term, root) in &self.roots {
            plaintext.extend_from_slice(&term.to_be_bytes());
            plaintext.extend_from_slice(root.expose_secret());
        }
        let mut sealed = vec![FORMAT];
        seal_onto(&mut sealed, &source.key()?, &associated(self.store), &plaintext)?;
        Ok(sealed)
    }

    /// Which store's.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// The term that new records are sealed in, and its root key. **Denies** `Damaged` where it has none.
    pub fn current(&self) -> Result<(u32, &Key), StoreError> {
        self.root(self.current).map(|root| (self.current, root))
    }

    /// The root key of a term. **Denies** `Damaged` where the keyring has none.
    pub fn root(&self, term: u32) -> Result<&Key, StoreError> {
        self.roots.get(&term).ok_or_else(|| damaged("a record is of a term that the keyring does not have"))
    }

    /// What a name is stored under: HMAC-SHA-256 over kind and name, the same in every term.
    pub fn hide(&self, kind: u8, name: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.names);
        context.update(&[kind]);
        context.update(name.as_bytes());
        let tag = context.sign();
        let mut hidden = [0; 32];
        hidden.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        hidden
    }

    fn new(store: StoreId, path_key: Key, current: u32, roots: BTreeMap<u32, Key>) -> Self {
        let names = hmac::Key::new(hmac::HMAC_SHA256, path_key.expose_secret());
        Keyring { store, path_key, names, current, roots }
    }

    fn parse(store: StoreId, plaintext: &[u8]) -> Option<Self> {
        let (path_key, rest) = plaintext.split_first_chunk::<32>()?;
        let (current, rest) = rest.split_first_chunk()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let (current, count) = (u32::from_be_bytes(*current), u32::from_be_bytes(*count));
        let mut roots = BTreeMap::new();
        for _ in 0..count {
            let (term, after) = rest.split_first_chunk()?;
            let (root, after) = after.split_first_chunk::<32>()?;
            let term = u32::from_be_bytes(*term);
            let ascending = roots.last_key_value().is_none_or(|(last, _)| *last < term);
            if !ascending || roots.insert(term, key(root)).is_some() {
                return None;
            }
            rest = after;
        }
        let whole = rest.is_empty() && roots.contains_key(&current);
        whole.then(|| Keyring::new(store, key(path_key), current, roots))
    }
}

fn associated(store: StoreId) -> Vec<u8> {
    let mut bytes = Vec::new();
    length_prefixed(&mut bytes, b"portcullis keyring");
    bytes.push(FORMAT);
    bytes.extend_from_slice(&store.0);
    bytes
}

fn key(bytes: &[u8; 32]) -> Key {
    Key::init_with_mut(|key: &mut [u8; 32]| *key = *bytes)
}

fn random_key() -> Result<Key, StoreError> {
    let mut outcome = Ok(());
    let key = Key::init_with_mut(|key: &mut [u8; 32]| outcome = fill_random(key));
    outcome.map(|()| key)
}

const FORMAT: u8 = 1;

#[cfg(test)]
pub(crate) mod tests {
    use super::super::keysource::KeySourceError;
    use super::*;

    /// A source that gives one byte, 32 times.
    pub(crate) struct FixedKey(pub(crate) u8);

    impl KeySource for FixedKey {
        fn name(&self) -> &'static str {
            "fixed"
        }
        fn key(&self) -> Result<Key, KeySourceError> {
            Ok(key(&[self.0; 32]))
        }
    }

    const STORE: StoreId = StoreId([7; 16]);

    fn refused(store: StoreId, source: u8, sealed: &[u8]) -> StoreError {
        Keyring::open(store, &FixedKey(source), sealed).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_keyring_opens_with_all_its_terms() {
        let mut keyring = Keyring::generate(STORE).unwrap();
        keyring.roots.insert(2, random_key().unwrap());
        keyring.current = 2;
        let sealed = keyring.seal(&FixedKey(1)).unwrap();
        let opened = Keyring::open(STORE, &FixedKey(1), &sealed).unwrap();
        for term in [1, 2] {
            let roots = (keyring.root(term).unwrap(), opened.root(term).unwrap());
            assert_eq!(roots.0.expose_secret(), roots.1.expose_secret());
        }
        assert_eq!(opened.current().unwrap().0, 2);
        assert_eq!(opened.hide(1, "a"), keyring.hide(1, "a"));
        assert!(matches!(opened.root(3), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn another_key_or_another_store_is_refused() {
        let sealed = Keyring::generate(STORE).unwrap().seal(&FixedKey(1)).unwrap();
        assert_eq!(refused(STORE, 2, &sealed), StoreError::KeyringRefused);
        assert_eq!(refused(StoreId([8; 16]), 1, &sealed), StoreError::KeyringRefused);
    }

    #[test]
    fn a_keyring_with_any_byte_changed_or_missing_is_refused() {
        let sealed = Keyring::generate(STORE).unwrap().seal(&FixedKey(1)).unwrap();
        for index in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[index] ^= 1;
            let refusals = [refused(STORE, 1, &flipped), refused(STORE, 1, &sealed[..index])];
            for refusal in refusals {
                assert!(matches!(refusal, StoreError::KeyringRefused | StoreError::Damaged(_)), "{index}");
            }
        }
    }

    #[test]
    fn names_are_hidden_by_kind_and_store() {
        let keyring = Keyring::generate(STORE).unwrap();
        assert_ne!(keyring.hide(1, "a"), keyring.hide(2, "a"));
        assert_ne!(keyring.hide(1, "a"), keyring.hide(1, "b"));
        assert_ne!(keyring.hide(1, "a"), Keyring::generate(STORE).unwrap().hide(1, "a"));
    }
}
