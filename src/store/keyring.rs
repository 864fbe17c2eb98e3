//! The keyring: the root key of each term and the key that hides names, sealed under the KEK.
//!
//! *Takes* a [`KeySource`]. *Gives* a [`Keyring`]. *Denies* `KeyringRefused` where the key does not open it. *Source*:
//! `durability.md` "Records at rest".
//!
//! ```text
//! record    = u8(2) ‖ lock ‖ salt ‖ commitment ‖ ciphertext ‖ tag, as in `record`, under the KEK
//! AAD       = lp("portcullis keyring") ‖ u8(2) ‖ store id ‖ lp(lock)
//! plaintext = path key, 32 ‖ u32 current term ‖ u32 count ‖ count × (u32 term ‖ root key, 32), terms ascending
//! ```
//! The lock says what opens it ([`Lock`]). Format 1, of stores made before there were several sources, has none of it, and is
//! opened by a key.
//!
//! A keyring is changed by making the next one from it: what is in use is never half of each.

use super::keysource::{Key, KeySource, Lock};
use super::record::{damaged, length_prefixed, open_from, seal_onto};
use super::{StoreError, StoreId, fill_random};
use aws_lc_rs::hmac;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The keys of one store, in memory.
pub struct Keyring {
    store: StoreId,
    path_key: Arc<Key>,
    names: hmac::Key,
    current: u32,
    roots: BTreeMap<u32, Arc<Key>>,
    /// What seals it again: as secret as what it seals, and kept beside it, so that a rotation asks nobody for shares.
    seal: Arc<(Lock, Key)>,
}

impl Keyring {
    /// New keys for `store`: term 1 and a path key, to be locked by `source`.
    pub fn generate(store: StoreId, source: &dyn KeySource) -> Result<Self, StoreError> {
        let roots = BTreeMap::from([(1, Arc::new(random_key()?))]);
        Ok(Keyring::new(store, Arc::new(random_key()?), 1, roots, Arc::new(source.lock()?)))
    }

    /// What opens the sealed keyring, before any key is asked for.
    pub fn lock_of(sealed: &[u8]) -> Result<Lock, StoreError> {
        Sealed::split(sealed).map(|sealed| sealed.lock)
    }

    /// Opens the sealed keyring of `store`. **Denies** `KeyringRefused`, `KeySource`.
    pub fn open(store: StoreId, source: &dyn KeySource, sealed: &[u8]) -> Result<Self, StoreError> {
        let Sealed { format, lock, body } = Sealed::split(sealed)?;
        let key = source.unlock(&lock)?;
        let associated = associated(format, store, &lock);
        let plaintext = open_from(body, &key, &associated).map_err(|error| match error {
            StoreError::Damaged(_) => StoreError::KeyringRefused,
            other => other,
        })?;
        let parsed = Keyring::parse(store, &plaintext, Arc::new((lock, key)));
        parsed.ok_or_else(|| damaged("the keyring has no known shape"))
    }

    /// Seals it, for whatever opened it or was to open it.
    pub fn seal(&self) -> Result<Vec<u8>, StoreError> {
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
        let (lock, key) = self.seal.as_ref();
        let mut sealed = [&[FORMAT], lock.encode().as_slice()].concat();
        seal_onto(&mut sealed, key, &associated(FORMAT, self.store, lock), &plaintext)?;
        Ok(sealed)
    }

    /// The next keyring: one term more, which new records are sealed in.
    pub fn next_term(&self) -> Result<Self, StoreError> {
        let last = self.roots.last_key_value().map_or(self.current, |(last, _)| *last);
        let next = last.checked_add(1).ok_or(StoreError::TooLarge("the number of terms"))?;
        if self.roots.len() >= TERMS {
            return Err(StoreError::TooLarge("the number of terms at once: rewrap first"));
        }
        let mut roots = self.roots.clone();
        roots.insert(next, Arc::new(random_key()?));
        Ok(Keyring::new(self.store, self.path_key.clone(), next, roots, self.seal.clone()))
    }

    /// The next keyring: the current term alone. What is still sealed in another is lost with it.
    pub fn only_current(&self) -> Self {
        let mut roots = self.roots.clone();
        roots.retain(|term, _| *term == self.current);
        Keyring::new(self.store, self.path_key.clone(), self.current, roots, self.seal.clone())
    }

    /// The next keyring: the same keys, locked by another source.
    /// `seal` is what [`KeySource::lock`] gave. **Denies** `SameKey` where it is the present key: nothing would be changed.
    pub fn locked_by(&self, seal: (Lock, Key)) -> Result<Self, StoreError> {
        let (new, present) = (seal.1.expose_secret(), self.seal.1.expose_secret());
        if bool::from(new.ct_eq(present)) {
            return Err(StoreError::SameKey);
        }
        let seal = Arc::new(seal);
        Ok(Keyring::new(self.store, self.path_key.clone(), self.current, self.roots.clone(), seal))
    }

    /// What opens it.
    pub fn lock(&self) -> &Lock {
        &self.seal.0
    }

    /// The terms that it has, ascending.
    pub fn terms(&self) -> Vec<u32> {
        self.roots.keys().copied().collect()
    }

    /// The term that new records are sealed in.
    pub fn current_term(&self) -> u32 {
        self.current
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
        self.roots
            .get(&term)
            .map(Arc::as_ref)
            .ok_or_else(|| damaged("a record is of a term that the keyring does not have"))
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

    fn new(
        store: StoreId,
        path_key: Arc<Key>,
        current: u32,
        roots: BTreeMap<u32, Arc<Key>>,
        seal: Arc<(Lock, Key)>,
    ) -> Self {
        let names = hmac::Key::new(hmac::HMAC_SHA256, path_key.expose_secret());
        Keyring { store, path_key, names, current, roots, seal }
    }

    fn parse(store: StoreId, plaintext: &[u8], seal: Arc<(Lock, Key)>) -> Option<Self> {
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
            if !ascending || roots.insert(term, Arc::new(key(root))).is_some() {
                return None;
            }
            rest = after;
        }
        let whole = rest.is_empty() && roots.contains_key(&current);
        whole.then(|| Keyring::new(store, Arc::new(key(path_key)), current, roots, seal))
    }
}

/// A sealed keyring, taken apart.
struct Sealed<'a> {
    format: u8,
    lock: Lock,
    body: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn split(sealed: &'a [u8]) -> Result<Self, StoreError> {
        match sealed.split_first() {
            Some((&FORMAT, rest)) => {
                let (lock, body) = Lock::split(rest)?;
                Ok(Sealed { format: FORMAT, lock, body })
            }
            Some((&WITHOUT_LOCK, body)) => Ok(Sealed { format: WITHOUT_LOCK, lock: Lock::Key, body }),
            _ => Err(damaged("the keyring is of another format")),
        }
    }
}

fn associated(format: u8, store: StoreId, lock: &Lock) -> Vec<u8> {
    let mut bytes = Vec::new();
    length_prefixed(&mut bytes, b"portcullis keyring");
    bytes.push(format);
    bytes.extend_from_slice(&store.0);
    if format != WITHOUT_LOCK {
        length_prefixed(&mut bytes, &lock.encode());
    }
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

const FORMAT: u8 = 2;
const WITHOUT_LOCK: u8 = 1;
/// Terms at once: each is there until a rewrap has ended, so more are a rewrap that never does.
const TERMS: usize = 16;

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
        fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
            Ok((Lock::Key, key(&[self.0; 32])))
        }
        fn unlock(&self, _lock: &Lock) -> Result<Key, KeySourceError> {
            Ok(key(&[self.0; 32]))
        }
    }

    const STORE: StoreId = StoreId([7; 16]);

    fn refused(store: StoreId, source: u8, sealed: &[u8]) -> StoreError {
        Keyring::open(store, &FixedKey(source), sealed).map(|_| ()).unwrap_err()
    }

    fn generated(source: u8) -> Keyring {
        Keyring::generate(STORE, &FixedKey(source)).unwrap()
    }

    #[test]
    fn a_keyring_opens_with_all_its_terms() {
        let keyring = generated(1).next_term().unwrap();
        let sealed = keyring.seal().unwrap();
        let opened = Keyring::open(STORE, &FixedKey(1), &sealed).unwrap();
        for term in [1, 2] {
            let roots = (keyring.root(term).unwrap(), opened.root(term).unwrap());
            assert_eq!(roots.0.expose_secret(), roots.1.expose_secret());
        }
        assert_eq!((opened.current().unwrap().0, opened.terms()), (2, vec![1, 2]));
        assert_eq!(opened.hide(1, "a"), keyring.hide(1, "a"));
        assert!(matches!(opened.root(3), Err(StoreError::Damaged(_))));
        let dropped = opened.only_current();
        assert_eq!((dropped.terms(), dropped.hide(1, "a")), (vec![2], keyring.hide(1, "a")));
        assert!(matches!(dropped.root(1), Err(StoreError::Damaged(_))));
        assert_eq!(dropped.next_term().unwrap().terms(), vec![2, 3], "a term's number is never given twice");
    }

    #[test]
    fn terms_do_not_pile_up() {
        let mut keyring = generated(1);
        for _ in 1..TERMS {
            keyring = keyring.next_term().unwrap();
        }
        assert!(matches!(keyring.next_term().map(drop), Err(StoreError::TooLarge(_))));
    }

    #[test]
    fn a_keyring_that_is_locked_anew_opens_by_the_new_source_alone() {
        let keyring = generated(1);
        let sealed = keyring.locked_by(FixedKey(2).lock().unwrap()).unwrap().seal().unwrap();
        assert_eq!(refused(STORE, 1, &sealed), StoreError::KeyringRefused);
        let same = keyring.locked_by(FixedKey(1).lock().unwrap()).map(drop);
        assert_eq!(same, Err(StoreError::SameKey));
        let opened = Keyring::open(STORE, &FixedKey(2), &sealed).unwrap();
        assert_eq!(opened.hide(1, "a"), keyring.hide(1, "a"));
        // What was opened seals again for the same source.
        let again = opened.next_term().unwrap().seal().unwrap();
        assert_eq!(Keyring::open(STORE, &FixedKey(2), &again).unwrap().terms(), vec![1, 2]);
    }

    #[test]
    fn a_keyring_of_the_first_format_opens_and_is_written_in_the_second() {
        let keyring = generated(1);
        let sealed = keyring.seal().unwrap();
        let body = Sealed::split(&sealed).unwrap().body;
        let plaintext = open_from(body, &key(&[1; 32]), &associated(FORMAT, STORE, &Lock::Key)).unwrap();
        let mut first = vec![WITHOUT_LOCK];
        seal_onto(&mut first, &key(&[1; 32]), &associated(WITHOUT_LOCK, STORE, &Lock::Key), &plaintext)
            .unwrap();
        let opened = Keyring::open(STORE, &FixedKey(1), &first).unwrap();
        assert_eq!(opened.hide(1, "a"), keyring.hide(1, "a"));
        assert_eq!(opened.seal().unwrap()[0], FORMAT);
    }

    #[test]
    fn another_key_or_another_store_is_refused() {
        let sealed = generated(1).seal().unwrap();
        assert_eq!(refused(STORE, 2, &sealed), StoreError::KeyringRefused);
        assert_eq!(refused(StoreId([8; 16]), 1, &sealed), StoreError::KeyringRefused);
    }

    #[test]
    fn a_keyring_with_any_byte_changed_or_missing_is_refused() {
        let sealed = generated(1).seal().unwrap();
        let malformed = StoreError::KeySource(KeySourceError::LockMalformed);
        for index in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[index] ^= 1;
            let refusals = [refused(STORE, 1, &flipped), refused(STORE, 1, &sealed[..index])];
            for refusal in refusals {
                let expected = matches!(refusal, StoreError::KeyringRefused | StoreError::Damaged(_));
                assert!(expected || refusal == malformed, "{index}: {refusal}");
            }
        }
    }

    #[test]
    fn names_are_hidden_by_kind_and_store() {
        let keyring = generated(1);
        assert_ne!(keyring.hide(1, "a"), keyring.hide(2, "a"));
        assert_ne!(keyring.hide(1, "a"), keyring.hide(1, "b"));
        assert_ne!(keyring.hide(1, "a"), generated(1).hide(1, "a"));
    }
}
