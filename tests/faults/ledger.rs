//! What the outside knows: which writes were acknowledged, which leases came, and what must therefore be there.
//!
//! *Takes* what callers saw. *Gives* counts. *Denies* (panics): an acknowledged write that is gone or changed, a lease without
//! its record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// One secret, as its only writer knows it.
#[derive(Clone, Default)]
struct Known {
    /// The newest acknowledged version, and its value.
    version: u64,
    value: Vec<u8>,
    /// A write whose answer never came: it may stand, as the next version, or not.
    doubt: Option<Vec<u8>>,
}

#[derive(Default)]
struct Book {
    secrets: BTreeMap<String, Known>,
    revoked: BTreeSet<String>,
    revoked_in_doubt: BTreeSet<String>,
    leases: BTreeSet<String>,
    counts: Counts,
}

/// How much was done, and seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub writes: u64,
    pub in_doubt: u64,
    pub of_these_found: u64,
    pub releases: u64,
    pub denials: u64,
}

/// Shared by all callers of a broker, over all its lives.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    /// A value is about to be sent.
    pub fn sends(&self, path: &str, value: &[u8]) {
        self.book().secrets.entry(path.to_owned()).or_default().doubt = Some(value.to_vec());
    }

    /// The broker said that it is this version.
    pub fn acknowledged(&self, path: &str, version: u64) {
        let mut book = self.book();
        book.counts.writes += 1;
        let known = book.secrets.get_mut(path).unwrap();
        assert_eq!(version, known.version + 1, "{path}");
        known.version = version;
        known.value = known.doubt.take().unwrap();
    }

    /// The broker said that it was not done, which leaves nothing in doubt.
    pub fn refused(&self, path: &str) {
        self.book().secrets.get_mut(path).unwrap().doubt = None;
    }

    pub fn revokes(&self, identity: &str) {
        self.book().revoked_in_doubt.insert(identity.to_owned());
    }

    pub fn revoked(&self, identity: &str) {
        let mut book = self.book();
        book.counts.writes += 1;
        book.revoked.insert(identity.to_owned());
    }

    /// A lease came, with its secrets.
    pub fn leased(&self, lease: &str) {
        let mut book = self.book();
        book.counts.releases += 1;
        assert!(book.leases.insert(lease.to_owned()), "one lease twice");
    }

    pub fn denied(&self) {
        self.book().counts.denials += 1;
    }

    pub fn counts(&self) -> Counts {
        self.book().counts
    }

    /// The paths that were written to.
    pub fn paths(&self) -> Vec<String> {
        self.book().secrets.keys().cloned().collect()
    }

    /// Whether some version of it surely stands.
    pub fn is_acknowledged(&self, path: &str) -> bool {
        self.book().secrets[path].version > 0
    }

    /// The newest version found of a secret, 0 for none, and its value: it must be the acknowledged one or the one in
    /// doubt, which is then in doubt no more.
    pub fn found(&self, path: &str, version: u64, value: &[u8]) {
        let mut book = self.book();
        let known = book.secrets.get(path).cloned().unwrap();
        let Known { version: acknowledged, value: expected, doubt } = known;
        if doubt.is_some() {
            book.counts.in_doubt += 1;
        }
        let stands = match doubt {
            Some(doubtful) if version == acknowledged + 1 => {
                book.counts.of_these_found += 1;
                doubtful
            }
            _ if version == acknowledged => expected,
            _ => panic!("{path}: version {acknowledged} was acknowledged, {version} is there"),
        };
        assert_eq!(value, stands, "{path}, version {version}, has another value");
        *book.secrets.get_mut(path).unwrap() = Known { version, value: stands, doubt: None };
    }

    /// Everything that is revoked must be; and nothing that nobody asked for.
    pub fn found_revoked(&self, found: &BTreeSet<String>) {
        let book = self.book();
        assert!(book.revoked.is_subset(found), "a revocation is lost");
        assert!(found.is_subset(&book.revoked_in_doubt), "a revocation that nobody asked for");
    }

    /// The leases that the log has: each that came must be among them.
    pub fn found_leases(&self, recorded: &BTreeSet<String>) {
        let book = self.book();
        let missing: Vec<_> = book.leases.difference(recorded).collect();
        assert!(missing.is_empty(), "released without a record: {missing:?}");
    }
}
