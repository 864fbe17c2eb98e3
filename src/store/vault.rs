//! Facts by kind and name, sealed below and plain above: all that the broker stores goes through here.
//!
//! *Takes* a [`Store`] and a [`KeySource`]. *Gives* [`Opened`] records, and leave to change them. *Denies* `Damaged` where
//! a record was altered, cut, moved or swapped. *Source*: `durability.md` "Records at rest".
//!
//! The store sees kinds, lengths, and HMACs in place of names. The name stands in the plaintext too and is compared.

use super::keyring::Keyring;
use super::keysource::{KeySource, Lock};
use super::record::{self, Place, damaged};
use super::watched::{Export, Watched};
use super::{CommitNumber, Entry, Expect, Store, StoreError, Transaction};
use crate::limits;
use arc_swap::ArcSwap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{RwLock, RwLockWriteGuard};
use zeroize::Zeroizing;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal;)+) => {
        /// What a record is. Its code begins the store key and is bound into the seal; a code is never given twice.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[doc = $doc])+ $variant,)+ }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)+];

            /// The code; 0 is the keyring's.
            pub fn code(self) -> u8 {
                match self { $(Kind::$variant => $code,)+ }
            }
        }
    };
}

kinds! {
    /// What is known of a secret, by path.
    SecretMetadata = 1;
    /// One version of a secret, by `path@version`.
    SecretValue = 2;
    /// Policy text.
    Policy = 3;
    /// A workload's reference values.
    ReferenceSet = 4;
    /// An enrolled node.
    Node = 5;
    /// An administrator.
    Administrator = 6;
    /// A revocation by the broker itself.
    Revocation = 7;
    /// A high-water mark.
    Mark = 8;
    /// A lease.
    Lease = 9;
    /// A latch.
    Latch = 10;
    /// Anything of the broker's own that there is one of.
    State = 11;
    /// A change that waits for a second person.
    Proposal = 30;
    /// A node's enrolled attestation key, by its Name.
    AttestationKey = 20;
}

/// Typed access to a store: seals on the way in, opens on the way out.
pub struct Vault {
    store: Arc<dyn Store>,
    /// The same, as a backup sees it.
    watched: Arc<Watched>,
    /// Replaced in a [`Turn`] alone, so that none commits what an older one sealed.
    keyring: ArcSwap<Keyring>,
    /// Held for writing by a [`Turn`], for reading by every other commit, so that a number once named is had.
    turns: RwLock<()>,
}

/// A keyring that takes the place of the present one once its transaction is committed.
#[must_use]
pub struct NextKeyring(Keyring);

/// A record, opened: the fact, and what is needed to replace exactly it.
pub struct Opened {
    /// The name it was stored under.
    pub name: String,
    /// How often it was written: 1 at first, +1 each time.
    pub version: u64,
    /// The fact.
    pub body: Zeroizing<Vec<u8>>,
    entry: Entry,
}

/// A page of records, in an order that says nothing of their names.
pub struct Page {
    /// The records.
    pub records: Vec<Opened>,
    /// Where the next page begins; none after the last.
    pub next: Option<Vec<u8>>,
}

impl Vault {
    /// Makes the keyring of an empty store. Errs `Exists` where it has one.
    pub async fn create(store: Arc<dyn Store>, source: &dyn KeySource) -> Result<Self, StoreError> {
        let watched = Arc::new(Watched::new(store));
        let store: Arc<dyn Store> = watched.clone();
        let keyring = Keyring::generate(store.id(), source)?;
        let transaction = Transaction {
            checks: vec![(KEYRING_KEY.to_vec(), Expect::Absent)],
            puts: vec![Entry { key: KEYRING_KEY.to_vec(), value: keyring.seal()? }],
            deletes: Vec::new(),
        };
        store.commit(transaction, None).await.map_err(|error| match error {
            StoreError::Conflict => StoreError::Exists,
            other => other,
        })?;
        Ok(Vault::new(watched, keyring))
    }

    /// Opens the keyring. **Denies** `Damaged` where there is none, `KeyringRefused`, `KeySource`; never makes a new one.
    pub async fn open(store: Arc<dyn Store>, source: &dyn KeySource) -> Result<Self, StoreError> {
        let watched = Arc::new(Watched::new(store));
        let store: Arc<dyn Store> = watched.clone();
        let sealed = store.get(KEYRING_KEY).await?.ok_or_else(|| damaged("the store has no keyring"))?;
        let keyring = Keyring::open(store.id(), source, &sealed)?;
        Ok(Vault::new(watched, keyring))
    }

    fn new(watched: Arc<Watched>, keyring: Keyring) -> Self {
        let store = watched.clone();
        Vault { store, watched, keyring: ArcSwap::from_pointee(keyring), turns: RwLock::new(()) }
    }

    /// Where the sealed keyring stands.
    pub const KEYRING: &'static [u8] = KEYRING_KEY;

    /// What opens the keyring of a store that is not open yet.
    pub async fn lock_of(store: &dyn Store) -> Result<Lock, StoreError> {
        let sealed = store.get(KEYRING_KEY).await?.ok_or_else(|| damaged("the store has no keyring"))?;
        Keyring::lock_of(&sealed)
    }

    /// The keys as they are now.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keyring.load_full()
    }

    /// Prepares another keyring in place of the present one: what to commit, and what is then adopted.
    pub async fn prepare_keyring(
        &self,
        change: impl FnOnce(&Keyring) -> Result<Keyring, StoreError>,
    ) -> Result<(Transaction, NextKeyring), StoreError> {
        let present = self.store.get(KEYRING_KEY).await?;
        let present = present.ok_or_else(|| damaged("the store has no keyring"))?;
        let next = change(&self.keyring())?;
        let transaction = Transaction {
            checks: vec![(KEYRING_KEY.to_vec(), Expect::Value(present))],
            puts: vec![Entry { key: KEYRING_KEY.to_vec(), value: next.seal()? }],
            deletes: Vec::new(),
        };
        Ok((transaction, NextKeyring(next)))
    }

    /// The engine below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Begins to copy everything as it is stored: ciphertext, names hidden.
    pub async fn export(&self) -> Result<Export, StoreError> {
        self.watched.export().await
    }

    /// A MAC over `text` that only who has this store's keys can make; the same in every term.
    pub fn vouch(&self, text: &str) -> String {
        vouch(&self.keyring.load(), text)
    }

    /// The store key of a fact: the kind's code and an HMAC of the name.
    pub fn key_of(&self, kind: Kind, name: &str) -> Vec<u8> {
        [[kind.code()].as_slice(), &self.keyring.load().hide(kind.code(), name)].concat()
    }

    /// Seals a fact to its place, as its version `version`.
    pub fn seal(&self, kind: Kind, name: &str, version: u64, body: &[u8]) -> Result<Entry, StoreError> {
        let key = self.key_of(kind, name);
        let length = u16::try_from(name.len()).map_err(|_| StoreError::TooLarge("a name"))?;
        let capacity = body.len().saturating_add(name.len()).saturating_add(2);
        let mut plaintext = Zeroizing::new(Vec::with_capacity(capacity));
        for part in [length.to_be_bytes().as_slice(), name.as_bytes(), body] {
            plaintext.extend_from_slice(part);
        }
        let keyring = self.keyring.load();
        let (term, root) = keyring.current()?;
        let place = Place { store: keyring.store(), kind: kind.code(), key: &key };
        let value = record::seal(root, place, term, version, &plaintext)?;
        Ok(Entry { key, value })
    }

    /// The fact of that kind and name.
    pub async fn read(&self, kind: Kind, name: &str) -> Result<Option<Opened>, StoreError> {
        let (key, before) = (self.key_of(kind, name), self.keyring());
        let Some(value) = self.store.get(&key).await? else { return Ok(None) };
        self.open_named(&before, kind, name, Entry { key, value }).map(Some)
    }

    /// The fact of that kind and name; where there is none, the work of opening `stand_in`, a record that was sealed under
    /// the name `stand_in_name` and stands nowhere. True: it is the fact itself.
    pub async fn read_or_stand_in(
        &self,
        kind: Kind,
        name: &str,
        (stand_in_name, stand_in): (&str, &Entry),
    ) -> Result<(Opened, bool), StoreError> {
        let (key, before) = (self.key_of(kind, name), self.keyring());
        let found = self.store.get(&key).await?;
        let there = found.is_some();
        let (name, entry) = match found {
            Some(value) => (name, Entry { key, value }),
            None => (stand_in_name, stand_in.clone()),
        };
        Ok((self.open_named(&before, kind, name, entry)?, there))
    }

    /// A page of all facts of a kind, past the place `after`; one that is damaged fails the page.
    pub async fn list(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.clamp(1, limits::STORE_PAGE);
        let before = self.keyring();
        let entries = self.store.scan(&[kind.code()], after, limit).await?;
        let next = entries.last().filter(|_| entries.len() >= limit).map(|entry| entry.key.clone());
        let records = entries.into_iter().map(|entry| self.open_entry(&before, kind, entry));
        Ok(Page { records: records.collect::<Result<_, _>>()?, next })
    }

    /// All facts of a kind. Errs `TooLarge` where there are more than `maximum`: half of them is no answer.
    pub async fn all(&self, kind: Kind, maximum: usize) -> Result<Vec<Opened>, StoreError> {
        let mut records = Vec::new();
        let mut after = None;
        loop {
            let page = self.list(kind, after.as_deref(), limits::STORE_PAGE).await?;
            records.extend(page.records);
            if records.len() > maximum {
                return Err(StoreError::TooLarge("the number of records of a kind"));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(records),
            }
        }
    }

    /// Adds to `transaction`: the fact stands, in place of exactly `previous` (none: of nothing). Gives its entry.
    pub fn put(
        &self,
        transaction: &mut Transaction,
        kind: Kind,
        name: &str,
        previous: Option<&Opened>,
        body: &[u8],
    ) -> Result<Entry, StoreError> {
        let version = previous.map_or(1, |opened| opened.version.saturating_add(1));
        let entry = self.seal(kind, name, version, body)?;
        let expect = previous.map_or(Expect::Absent, |opened| Expect::Value(opened.entry.value.clone()));
        transaction.checks.push((entry.key.clone(), expect));
        transaction.puts.push(entry.clone());
        Ok(entry)
    }

    /// Adds to `transaction`: exactly this record is gone.
    pub fn remove(&self, transaction: &mut Transaction, previous: &Opened) {
        let Entry { key, value } = previous.entry.clone();
        transaction.checks.push((key.clone(), Expect::Value(value)));
        transaction.deletes.push(key);
    }

    /// Commits under whichever number is next. Waits while a [`Turn`] is held.
    pub async fn commit(&self, transaction: Transaction) -> Result<CommitNumber, StoreError> {
        let _turn = bounded(self.turns.read()).await?;
        self.check_term(&transaction)?;
        self.store.commit(transaction, None).await
    }

    /// Leave to commit next, under a number that is known now: for the intent that is audited before. While it is held
    /// nothing else commits, so hold it only from the intent to the commit.
    pub async fn turn(&self) -> Result<Turn<'_>, StoreError> {
        let alone = bounded(self.turns.write()).await?;
        let number = self.store.last_commit().await?.next();
        Ok(Turn { vault: self, number, _alone: alone })
    }

    /// The term that a sealed record says it is of.
    pub fn term_of(entry: &Entry) -> Result<u32, StoreError> {
        record::term(&entry.value)
    }

    /// Whether a sealed record is of the term that new ones are sealed in.
    pub fn is_current(&self, entry: &Entry) -> bool {
        record::term(&entry.value).is_ok_and(|term| term == self.keyring.load().current_term())
    }

    /// The same fact, with `body` in place of its own, sealed in the current term as the version it is; added to
    /// `transaction` in place of exactly this record. For a rewrap alone: nobody changed the fact. Gives its entry.
    pub fn seal_again(
        &self,
        transaction: &mut Transaction,
        kind: Kind,
        opened: &Opened,
        body: &[u8],
    ) -> Result<Entry, StoreError> {
        let entry = self.seal(kind, &opened.name, opened.version, body)?;
        transaction.checks.push(opened.unchanged());
        transaction.puts.push(entry.clone());
        Ok(entry)
    }

    /// A page of sealed records of a kind, unopened: for whoever looks at their terms alone.
    pub async fn sealed(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.store.scan(&[kind.code()], after, limit).await
    }

    /// Opens one of them.
    pub fn open_sealed(&self, kind: Kind, entry: Entry) -> Result<Opened, StoreError> {
        self.open_entry(&self.keyring(), kind, entry)
    }

    /// What was sealed before a rotation and is committed after it would be lost with its term, so it is prepared anew.
    fn check_term(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let facts = transaction.puts.iter().filter(|entry| entry.key != KEYRING_KEY);
        let current = facts.into_iter().all(|entry| self.is_current(entry));
        current.then_some(()).ok_or(StoreError::Conflict)
    }

    fn open_named(
        &self,
        before: &Keyring,
        kind: Kind,
        name: &str,
        entry: Entry,
    ) -> Result<Opened, StoreError> {
        let opened = self.open_entry(before, kind, entry)?;
        (opened.name == name).then_some(opened).ok_or_else(|| damaged("a record has another name"))
    }

    /// `before` is the keyring of before the record was read: its term may have been dropped since. A term that came since is
    /// in the present one.
    fn open_entry(&self, before: &Keyring, kind: Kind, entry: Entry) -> Result<Opened, StoreError> {
        let (term, present) = (record::term(&entry.value)?, self.keyring.load());
        let root = before.root(term).or_else(|_| present.root(term))?;
        let place = Place { store: before.store(), kind: kind.code(), key: &entry.key };
        let (version, plaintext) = record::open(root, place, &entry.value)?;
        let (name, body) = split_name(&plaintext).ok_or_else(|| damaged("a record has no name"))?;
        if self.key_of(kind, name) != entry.key {
            return Err(damaged("a record has another name"));
        }
        let (name, body) = (name.to_owned(), Zeroizing::new(body.to_vec()));
        Ok(Opened { name, version, body, entry })
    }
}

/// Leave to make the next commit.
#[must_use]
pub struct Turn<'a> {
    vault: &'a Vault,
    number: CommitNumber,
    _alone: RwLockWriteGuard<'a, ()>,
}

impl Turn<'_> {
    /// The number that the commit will have.
    pub fn number(&self) -> CommitNumber {
        self.number
    }

    /// Commits under that number.
    pub async fn commit(self, transaction: Transaction) -> Result<CommitNumber, StoreError> {
        self.vault.check_term(&transaction)?;
        self.vault.store.commit(transaction, Some(self.number)).await
    }

    /// As [`Turn::commit`], for a transaction of [`Vault::prepare_keyring`]: its keyring is adopted before anything else
    /// commits.
    pub async fn commit_keyring(
        self,
        transaction: Transaction,
        next: NextKeyring,
    ) -> Result<CommitNumber, StoreError> {
        self.vault.check_term(&transaction)?;
        let number = self.vault.store.commit(transaction, Some(self.number)).await?;
        self.vault.keyring.store(Arc::new(next.0));
        Ok(number)
    }
}

impl Opened {
    /// The record as it is stored: ciphertext.
    pub fn sealed(&self) -> &[u8] {
        &self.entry.value
    }

    /// The record's key and ciphertext.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The check that it still stands unchanged.
    pub fn unchanged(&self) -> (Vec<u8>, Expect) {
        (self.entry.key.clone(), Expect::Value(self.entry.value.clone()))
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Opened").field("version", &self.version).finish_non_exhaustive()
    }
}

fn split_name(plaintext: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = plaintext.split_first_chunk()?;
    let (name, body) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((std::str::from_utf8(name).ok()?, body))
}

async fn bounded<T>(wait: impl Future<Output = T>) -> Result<T, StoreError> {
    let waited = tokio::time::timeout(Duration::from_millis(limits::STORE_WAIT_MS), wait).await;
    waited.map_err(|_| StoreError::Unavailable("another change does not end".into()))
}

/// The MAC of [`Vault::vouch`].
pub(super) fn vouch(keyring: &Keyring, text: &str) -> String {
    hex::encode(keyring.hide(VOUCHED, text))
}

pub(super) const KEYRING_KEY: &[u8] = &[0];
/// No kind has this code, so what is vouched for is no record's name.
const VOUCHED: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::super::keyring::tests::FixedKey;
    use super::super::memory::MemoryStore;
    use super::*;

    struct Bench {
        store: Arc<MemoryStore>,
        vault: Vault,
    }

    async fn bench() -> Bench {
        let store = Arc::new(MemoryStore::new());
        let vault = Vault::create(store.clone(), &FixedKey(1)).await.unwrap();
        Bench { store, vault }
    }

    impl Bench {
        async fn put(&self, kind: Kind, name: &str, body: &[u8]) -> Entry {
            let mut transaction = Transaction::default();
            let previous = self.vault.read(kind, name).await.unwrap();
            let entry = self.vault.put(&mut transaction, kind, name, previous.as_ref(), body).unwrap();
            self.vault.commit(transaction).await.unwrap();
            entry
        }

        async fn is_damaged(&self, kind: Kind, name: &str) -> bool {
            matches!(self.vault.read(kind, name).await, Err(StoreError::Damaged(_)))
        }
    }

    #[tokio::test]
    async fn a_fact_reads_back_with_its_version_and_without_its_name_in_the_store() {
        let bench = bench().await;
        bench.put(Kind::Node, "node-one", b"first").await;
        let entry = bench.put(Kind::Node, "node-one", b"second").await;
        let opened = bench.vault.read(Kind::Node, "node-one").await.unwrap().unwrap();
        assert_eq!((opened.version, opened.body.as_slice()), (2, b"second".as_slice()));
        assert_eq!(format!("{opened:?}"), "Opened { version: 2, .. }");
        for bytes in [&entry.key, &entry.value] {
            for plain in [b"node-one".as_slice(), b"second"] {
                assert!(!bytes.windows(plain.len()).any(|window| window == plain));
            }
        }
        assert!(bench.vault.read(Kind::Policy, "node-one").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_stored_record_with_any_byte_changed_or_cut_is_damaged() {
        let bench = bench().await;
        let entry = bench.put(Kind::Node, "a", b"fact").await;
        for index in 0..entry.value.len() {
            let mut flipped = entry.value.clone();
            flipped[index] ^= 0x80;
            bench.store.tamper(|map| drop(map.insert(entry.key.clone(), flipped)));
            assert!(bench.is_damaged(Kind::Node, "a").await, "byte {index}");
            let cut = entry.value[..index].to_vec();
            bench.store.tamper(|map| drop(map.insert(entry.key.clone(), cut)));
            assert!(bench.is_damaged(Kind::Node, "a").await, "cut to {index}");
        }
    }

    #[tokio::test]
    async fn a_record_moved_to_another_name_kind_or_store_is_damaged() {
        let (bench, other) = (bench().await, bench().await);
        let entry = bench.put(Kind::Node, "a", b"fact").await;
        bench.store.tamper(|map| {
            map.insert(bench.vault.key_of(Kind::Node, "b"), entry.value.clone());
            map.insert(bench.vault.key_of(Kind::Policy, "a"), entry.value.clone());
        });
        assert!(bench.is_damaged(Kind::Node, "b").await);
        assert!(bench.is_damaged(Kind::Policy, "a").await);
        assert!(matches!(bench.vault.list(Kind::Node, None, 10).await, Err(StoreError::Damaged(_))));
        other.store.tamper(|map| drop(map.insert(other.vault.key_of(Kind::Node, "a"), entry.value.clone())));
        assert!(other.is_damaged(Kind::Node, "a").await);
        assert!(!bench.is_damaged(Kind::Node, "a").await, "the record itself is whole");
    }

    #[tokio::test]
    async fn two_records_swapped_are_damaged() {
        let bench = bench().await;
        let (a, b) = (bench.put(Kind::Node, "a", b"1").await, bench.put(Kind::Node, "b", b"2").await);
        bench.store.tamper(|map| {
            map.insert(a.key.clone(), b.value.clone());
            map.insert(b.key.clone(), a.value.clone());
        });
        assert!(bench.is_damaged(Kind::Node, "a").await && bench.is_damaged(Kind::Node, "b").await);
    }

    #[tokio::test]
    async fn a_genuine_record_of_another_name_under_a_key_is_damaged() {
        // Sealed with all the right keys to the right place: only the name in the plaintext tells.
        let bench = bench().await;
        let key = bench.vault.key_of(Kind::Node, "a");
        let place = Place { store: bench.store.id(), kind: Kind::Node.code(), key: &key };
        let keyring = bench.vault.keyring();
        let (term, root) = keyring.current().unwrap();
        let value = record::seal(root, place, term, 1, b"\0\x01bfact").unwrap();
        bench.store.tamper(|map| drop(map.insert(key.clone(), value)));
        assert_eq!(
            bench.vault.read(Kind::Node, "a").await.map(|_| ()),
            Err(damaged("a record has another name"))
        );
    }

    #[tokio::test]
    async fn a_change_of_what_has_changed_meanwhile_is_a_conflict() {
        let bench = bench().await;
        bench.put(Kind::Node, "a", b"1").await;
        let seen = bench.vault.read(Kind::Node, "a").await.unwrap().unwrap();
        bench.put(Kind::Node, "a", b"2").await;
        let (mut put, mut removal, mut new) = Default::default();
        bench.vault.put(&mut put, Kind::Node, "a", Some(&seen), b"3").unwrap();
        bench.vault.remove(&mut removal, &seen);
        bench.vault.put(&mut new, Kind::Node, "a", None, b"3").unwrap();
        let check = Transaction { checks: vec![seen.unchanged()], ..Default::default() };
        for transaction in [put, removal, new, check] {
            assert_eq!(bench.vault.commit(transaction).await, Err(StoreError::Conflict));
        }
        assert_eq!(bench.vault.read(Kind::Node, "a").await.unwrap().unwrap().body.as_slice(), b"2");
    }

    #[tokio::test]
    async fn nothing_commits_between_a_turn_and_its_commit() {
        let bench = bench().await;
        let turn = bench.vault.turn().await.unwrap();
        let number = turn.number();
        let blocked = tokio::time::timeout(Duration::ZERO, bench.vault.commit(Transaction::default()));
        assert!(blocked.await.is_err());
        assert_eq!(turn.commit(Transaction::default()).await, Ok(number));
        assert_eq!(bench.vault.commit(Transaction::default()).await, Ok(number.next()));
    }

    #[tokio::test]
    async fn pages_give_every_record_once() {
        let bench = bench().await;
        for index in 0..25 {
            bench.put(Kind::Node, &format!("node-{index}"), b"").await;
        }
        bench.put(Kind::Policy, "other", b"").await;
        let (mut names, mut after) = (std::collections::BTreeSet::new(), None);
        loop {
            let page = bench.vault.list(Kind::Node, after.as_deref(), 10).await.unwrap();
            names.extend(page.records.into_iter().map(|opened| opened.name));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(names.len(), 25);
        assert_eq!(bench.vault.all(Kind::Node, 25).await.unwrap().len(), 25);
        let too_many = bench.vault.all(Kind::Node, 24).await.map(|_| ());
        assert_eq!(too_many, Err(StoreError::TooLarge("the number of records of a kind")));
    }

    #[tokio::test]
    async fn a_store_without_its_keyring_is_damaged_and_gets_no_new_one() {
        let bench = bench().await;
        let again = Vault::create(bench.store.clone(), &FixedKey(1)).await.map(|_| ());
        assert_eq!(again, Err(StoreError::Exists));
        let wrong = Vault::open(bench.store.clone(), &FixedKey(2)).await.map(|_| ());
        assert_eq!(wrong, Err(StoreError::KeyringRefused));
        bench.store.tamper(|map| drop(map.remove(KEYRING_KEY)));
        let lost = Vault::open(bench.store.clone(), &FixedKey(1)).await.map(|_| ());
        assert_eq!(lost, Err(damaged("the store has no keyring")));
    }

    impl Bench {
        async fn change_keyring(&self, change: impl FnOnce(&Keyring) -> Result<Keyring, StoreError>) {
            let (transaction, next) = self.vault.prepare_keyring(change).await.unwrap();
            self.vault.turn().await.unwrap().commit_keyring(transaction, next).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_sealed_before_a_rotation_is_not_committed_after_it() {
        let bench = bench().await;
        bench.put(Kind::Node, "a", b"1").await;
        let mut early = Transaction::default();
        let seen = bench.vault.read(Kind::Node, "a").await.unwrap().unwrap();
        bench.vault.put(&mut early, Kind::Node, "a", Some(&seen), b"2").unwrap();
        bench.change_keyring(Keyring::next_term).await;
        assert_eq!(bench.vault.commit(early.clone()).await, Err(StoreError::Conflict));
        assert_eq!(bench.vault.turn().await.unwrap().commit(early).await, Err(StoreError::Conflict));
        assert!(!bench.vault.is_current(seen.entry()));
        let entry = bench.put(Kind::Node, "a", b"2").await;
        assert!(bench.vault.is_current(&entry));
        // A start finds both terms.
        let again = Vault::open(bench.store.clone(), &FixedKey(1)).await.unwrap();
        assert_eq!(again.keyring().terms(), vec![1, 2]);
        assert_eq!(again.read(Kind::Node, "a").await.unwrap().unwrap().body.as_slice(), b"2");
    }

    #[tokio::test]
    async fn a_record_read_before_its_term_was_dropped_still_opens() {
        let bench = bench().await;
        let old = bench.put(Kind::Node, "a", b"1").await;
        let before = bench.vault.keyring();
        bench.change_keyring(Keyring::next_term).await;
        bench.put(Kind::Node, "a", b"2").await;
        bench.change_keyring(|keyring| Ok(keyring.only_current())).await;
        assert_eq!(bench.vault.open_entry(&before, Kind::Node, old.clone()).unwrap().body.as_slice(), b"1");
        // One that is put back afterwards is of no term that there is.
        bench.store.tamper(|map| drop(map.insert(old.key.clone(), old.value)));
        assert!(bench.is_damaged(Kind::Node, "a").await);
    }

    #[test]
    fn no_two_kinds_share_a_code() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        codes.push(KEYRING_KEY[0]);
        codes.sort_unstable();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
