//! Whom the broker believes: one snapshot per trust domain, and the broker's own revocations beside them.
//!
//! *Takes* a [`Connection`]'s facts. *Gives* [`Peer`]: provable at one moment, against one snapshot. *Denies*
//! `PeerTrustDomainUnknown` to `RevocationStale`. *Source*: SPIFFE X.509-SVID §5; RFC 5280 §6; `evidence.md` §8.

use super::domain::{Domain, InputStatus, Snapshot, sequence_mark};
use super::path::{self, Path, Presented};
use super::peer::Connection;
use super::svid::Leaf;
use crate::denial::{Class, Denial};
use crate::spiffe::{IdPattern, SpiffeId, TrustDomain};
use crate::time::{Now, WallTime};
use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One trust domain, as configured.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// Its name, as it stands in SPIFFE IDs.
    pub name: TrustDomain,
    /// Its bundle: a SPIFFE bundle (JSON) or PEM.
    pub bundle: PathBuf,
    /// How old the bundle file may be, seconds since its last write.
    pub bundle_max_age_seconds: u64,
    /// How it revokes: declared, never inferred.
    pub revocation: RevocationMode,
}

/// How a trust domain revokes.
#[derive(Clone, Debug)]
pub enum RevocationMode {
    /// By lists.
    Crl {
        /// The files, each with one list or several, DER or PEM.
        files: Vec<PathBuf>,
        /// How old a list may be, seconds since its thisUpdate, whatever its nextUpdate says.
        max_age_seconds: u64,
    },
    /// By letting certificates end soon.
    ShortLived {
        /// A leaf's whole lifetime, notBefore to notAfter, seconds.
        max_lifetime_seconds: u64,
    },
}

/// Durable high-water marks. Calls block.
pub trait Marks: Send + Sync {
    /// The mark of that name; none where there is none yet.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, MarksUnavailable>;
    /// Raises a mark, durably before it returns. Values of one name have one length and compare as bytes; a lower one
    /// changes nothing.
    fn raise(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable>;
    /// Sets a mark, lower too: an administrator's act alone.
    fn replace(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable>;
}

/// The marks cannot be read or kept; what rests on them is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the high-water marks are not available")]
pub struct MarksUnavailable;

/// The broker's own durable revocations, beside those of the trust domains.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    /// Identities.
    pub identities: Vec<IdPattern>,
    /// SHA-256 of leaf keys' SubjectPublicKeyInfo.
    pub keys: BTreeSet<[u8; 32]>,
}

/// An input that became something else, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputChange {
    /// Which, such as `example.org/bundle`.
    pub name: String,
    /// The epoch of its domain from now on.
    pub epoch: u64,
    /// What it is now.
    pub state: String,
}

/// How a trust domain stands, for operators.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DomainStatus {
    /// Its name.
    pub name: TrustDomain,
    /// Its epoch.
    pub epoch: u64,
    /// Its bundle.
    pub bundle: InputStatus,
    /// Its revocation lists, or that it has none by declaration.
    pub revocation: InputStatus,
}

/// Why `admin crl accept` did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// No such trust domain.
    #[error("no trust domain of that name is configured")]
    DomainUnknown,
    /// The lists or the bundle of the domain cannot be used.
    #[error("{0}")]
    Denied(Denial),
    /// The certificate is no CA certificate, or no list in the domain's files is signed by it.
    #[error("no list in the files of this trust domain is signed by that issuer")]
    NoList,
    /// The marks cannot be kept.
    #[error(transparent)]
    Marks(#[from] MarksUnavailable),
}

/// Witness: the peer of this connection was proven at one moment against one trust snapshot.
///
/// It cannot be made outside [`Trust::prove`], and not be copied:
///
/// ```compile_fail
/// fn forge(other: portcullis::transport::Peer) { let _ = portcullis::transport::Peer { ..other }; }
/// ```
/// ```compile_fail
/// fn copy(peer: &portcullis::transport::Peer) -> portcullis::transport::Peer { peer.clone() }
/// ```
/// ```compile_fail
/// fn twice(peer: portcullis::transport::Peer) { drop(peer); drop(peer); }
/// ```
/// ```
/// fn once(peer: portcullis::transport::Peer) { drop(peer); }
/// ```
#[must_use]
pub struct Peer {
    connection: Arc<Connection>,
    proof: Proof,
    usable_until: WallTime,
}

impl Peer {
    /// The connection it is the peer of.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Until when the proof may be used, exclusive: the first end among the certificates of the path, the lists and the bundle.
    pub fn usable_until(&self) -> WallTime {
        self.usable_until
    }

    /// The epoch of its trust domain that it was proven against.
    pub fn epoch(&self) -> u64 {
        self.proof.epoch
    }

    /// The epoch of the broker's own revocations that it was proven against.
    pub fn revocation_epoch(&self) -> u64 {
        self.proof.revocation_epoch
    }

    /// Proves it again, now. Where nothing that it rests on changed, only ends are looked at; else all of it.
    /// **Denies** whatever [`Trust::prove`] denies.
    pub fn reprove(&mut self, trust: &Trust, now: Now) -> Result<(), Denial> {
        match trust.still_proven(&self.proof, &self.connection, now)? {
            Some(usable_until) => self.usable_until = usable_until,
            None => *self = trust.prove(&self.connection, now)?,
        }
        Ok(())
    }
}

#[cfg(test)]
impl Peer {
    fn reproven(mut self, trust: &Trust, now: Now) -> Result<Peer, Denial> {
        self.reprove(trust, now)?;
        Ok(self)
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Peer").finish_non_exhaustive()
    }
}

/// All trust domains, each with its own snapshot, and the broker's own revocations.
pub struct Trust {
    id: u64,
    domains: HashMap<TrustDomain, Domain>,
    revocations: ArcSwap<(u64, Revocations)>,
    marks: Arc<dyn Marks>,
}

/// What [`Trust::judge`] found.
pub(super) struct Judgement {
    /// The proof, and until when it may be used.
    pub(super) outcome: Result<(Proof, WallTime), Denial>,
    /// Whether the path's signatures lead to a root of its trust domain.
    pub(super) leads_to_root: bool,
}

/// What a proof rests on. It lives in one request's [`Peer`] and dies with it: the next request proves all anew. While that
/// one request lasts and neither its domain nor the broker's own revocations change, the same path leads to the same roots
/// by the same lists, and only ends are to be looked at.
pub(super) struct Proof {
    /// Which `Trust` made it; epochs of another mean nothing.
    trust: u64,
    epoch: u64,
    revocation_epoch: u64,
    path_ends: WallTime,
    lists: Vec<usize>,
}

impl Proof {
    /// Until when it may be used, where it may now. **Denies** `PeerCertificateExpired`, `BundleUnknown`, `BundleStale`,
    /// `RevocationUnknown`, `RevocationStale`.
    fn usable_until(&self, snapshot: &Snapshot, now: Now) -> Result<WallTime, Denial> {
        if now.wall >= self.path_ends {
            return Err(Denial::PeerCertificateExpired);
        }
        snapshot.bundle(now)?;
        let mut ends = self.path_ends.min(snapshot.bundle_ends());
        if !self.lists.is_empty() {
            let lists = snapshot.lists(now)?;
            if !lists.usable(&self.lists, now) {
                return Err(Denial::RevocationStale);
            }
            ends = ends.min(lists.ends(&self.lists));
        }
        Ok(ends)
    }
}

impl Trust {
    /// Reads all domains. An unreadable file makes its domain unknown. Names are distinct: of two alike, neither is known.
    pub fn open(domains: Vec<DomainConfig>, marks: Arc<dyn Marks>, now: Now) -> Self {
        let mut opened: HashMap<TrustDomain, Domain> = HashMap::new();
        for mut config in domains {
            if opened.contains_key(&config.name) {
                config.bundle = PathBuf::new();
            }
            opened.insert(config.name.clone(), Domain::open(config, marks.as_ref(), now));
        }
        let revocations = ArcSwap::from_pointee((1, Revocations::default()));
        // Counts the values of this type in this process: enough to tell their proofs apart.
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let id = OPENED.fetch_add(1, Ordering::Relaxed);
        Trust { id, domains: opened, revocations, marks }
    }

    /// Looks at all files; to be called once a second, where blocking is allowed. Gives what changed, at first everything.
    pub fn reload(&self, now: Now) -> Vec<InputChange> {
        let mut changes = Vec::new();
        for domain in self.sorted() {
            domain.reload(self.marks.as_ref(), now);
            let epoch = domain.snapshot().epoch;
            let changed = domain.changes(now).into_iter();
            changes.extend(changed.map(|(name, state)| InputChange { name, epoch, state }));
        }
        changes
    }

    /// Proves the peer of a connection. **Denies** all of *identity* and of what must be current for it: `PeerUntrusted`,
    /// `PeerTrustDomainUnknown`, `PeerCertificateNotYetValid`, `PeerCertificateExpired`, `PeerCertificateLifetimeTooLong`,
    /// `PeerRevoked`, `PeerRevokedByBroker`; `BundleUnknown`, `BundleStale`, `RevocationUnknown`, `RevocationStale`.
    pub fn prove(&self, connection: &Arc<Connection>, now: Now) -> Result<Peer, Denial> {
        let judged = self.judge(connection.chain(), connection.spiffe_id(), connection.leaf(), now);
        let (proof, usable_until) = judged.outcome?;
        Ok(Peer { connection: connection.clone(), proof, usable_until })
    }

    /// Takes the broker's own revocations; every proof made before is made anew.
    pub fn set_revocations(&self, revocations: Revocations) {
        self.revocations.rcu(|old| (old.0.saturating_add(1), revocations.clone()));
    }

    /// The epoch of the broker's own revocations.
    pub fn revocation_epoch(&self) -> u64 {
        self.revocations.load().0
    }

    /// The epoch of a domain; none where it is not configured.
    pub fn epoch_of(&self, domain: &TrustDomain) -> Option<u64> {
        self.domains.get(domain).map(|domain| domain.snapshot().epoch)
    }

    /// Takes the lists in a domain's files as they are, for the issuer in `issuer_certificate` (DER), even with lower
    /// numbers than seen: for a rebuilt CA. Gives the marks as set: name and value, for the audit record that comes *before*.
    pub fn accept_crl(
        &self,
        domain: &TrustDomain,
        issuer_certificate: &[u8],
        now: Now,
    ) -> Result<Vec<(String, Vec<u8>)>, AcceptError> {
        let domain = self.domains.get(domain).ok_or(AcceptError::DomainUnknown)?;
        let snapshot = domain.snapshot();
        let marks = {
            let lists = snapshot.lists(now).map_err(AcceptError::Denied)?;
            lists.marks_of(&path::issuer_of(issuer_certificate).ok_or(AcceptError::NoList)?)
        };
        if marks.is_empty() {
            return Err(AcceptError::NoList);
        }
        for (name, value) in &marks {
            self.marks.replace(name, value)?;
        }
        domain.forget();
        domain.reload(self.marks.as_ref(), now);
        Ok(marks)
    }

    /// Forgets how high a domain's `spiffe_sequence` was: for a rebuilt SPIFFE server. The bundle is read again at once.
    pub fn accept_bundle(&self, domain: &TrustDomain, now: Now) -> Result<(), AcceptError> {
        let domain = self.domains.get(domain).ok_or(AcceptError::DomainUnknown)?;
        self.marks.replace(&sequence_mark(domain.name()), &0_u64.to_be_bytes())?;
        domain.forget();
        domain.reload(self.marks.as_ref(), now);
        Ok(())
    }

    /// How every domain stands, by name.
    pub fn status(&self, now: Now) -> Vec<DomainStatus> {
        let status = |domain: &Domain| {
            let (bundle, revocation) = domain.describe(now);
            DomainStatus { name: domain.name().clone(), epoch: domain.snapshot().epoch, bundle, revocation }
        };
        self.sorted().into_iter().map(status).collect()
    }

    /// Judges a chain whose shape was checked. A confident no stands before an uncertain one.
    pub(super) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        id: &SpiffeId,
        leaf: &Leaf,
        now: Now,
    ) -> Judgement {
        let refuse = |denial| Judgement { outcome: Err(denial), leads_to_root: false };
        let domain = match self.domain(id) {
            Ok(domain) => domain,
            Err(denial) => return refuse(denial),
        };
        let snapshot = domain.snapshot();
        let revocations = self.revocations.load_full();
        let presented = Presented { chain, facts: &leaf.facts };
        let mut denials = Vec::new();
        let mut path = None;
        let mut leads_to_root = false;
        match snapshot.bundle(now).map(|bundle| path::find(presented, &bundle.anchors, now)) {
            Ok(Ok(found)) => (path, leads_to_root) = (Some(found), true),
            Ok(Err(no_path)) if !no_path.leads_to_root => return refuse(no_path.denial),
            Ok(Err(no_path)) => {
                denials.push(no_path.denial);
                leads_to_root = true;
            }
            // Whatever the bundle says: a leaf that has ended has ended.
            Err(denial) => {
                denials.extend([leaf.window.check(now.wall).err(), Some(denial)].into_iter().flatten())
            }
        }
        denials.extend(revoked_by_broker(&revocations.1, id, leaf));
        denials.extend(lives_too_long(domain, leaf));
        let checked = path.as_ref().map(|path| self.check_revocation(domain, &snapshot, path, now));
        if let Some(Err(denial)) = &checked {
            denials.push(*denial);
        }
        let first = denials.into_iter().min_by_key(|denial| (denial.class() == Class::Uncertain, *denial));
        let outcome = match (first, path, checked) {
            (None, Some(path), Some(Ok(lists))) => {
                let (trust, epoch, revocation_epoch) = (self.id, snapshot.epoch, revocations.0);
                let proof = Proof { trust, epoch, revocation_epoch, path_ends: path.ends, lists };
                proof.usable_until(&snapshot, now).map(|usable_until| (proof, usable_until))
            }
            (Some(denial), _, _) => Err(denial),
            (None, _, _) => Err(Denial::Defect),
        };
        Judgement { outcome, leads_to_root }
    }

    /// Until when a request's proof holds, where nothing that it rests on changed since; none where all is to be proven anew.
    fn still_proven(
        &self,
        proof: &Proof,
        connection: &Connection,
        now: Now,
    ) -> Result<Option<WallTime>, Denial> {
        let snapshot = self.domain(connection.spiffe_id())?.snapshot();
        let same = proof.trust == self.id
            && proof.epoch == snapshot.epoch
            && proof.revocation_epoch == self.revocation_epoch();
        if !same {
            return Ok(None);
        }
        proof.usable_until(&snapshot, now).map(Some)
    }

    fn check_revocation(
        &self,
        domain: &Domain,
        snapshot: &Snapshot,
        path: &Path,
        now: Now,
    ) -> Result<Vec<usize>, Denial> {
        match domain.revocation() {
            RevocationMode::Crl { .. } => snapshot.lists(now)?.check(path, self.marks.as_ref(), now),
            RevocationMode::ShortLived { .. } => Ok(Vec::new()),
        }
    }

    fn domain(&self, id: &SpiffeId) -> Result<&Domain, Denial> {
        self.domains.get(id.trust_domain()).ok_or(Denial::PeerTrustDomainUnknown)
    }

    fn sorted(&self) -> Vec<&Domain> {
        let mut domains: Vec<&Domain> = self.domains.values().collect();
        domains.sort_by_key(|domain| domain.name());
        domains
    }
}

fn revoked_by_broker(revocations: &Revocations, id: &SpiffeId, leaf: &Leaf) -> Option<Denial> {
    let revoked = revocations.keys.contains(&leaf.spki_sha256)
        || revocations.identities.iter().any(|pattern| pattern.matches(id));
    revoked.then_some(Denial::PeerRevokedByBroker)
}

fn lives_too_long(domain: &Domain, leaf: &Leaf) -> Option<Denial> {
    let RevocationMode::ShortLived { max_lifetime_seconds } = domain.revocation() else { return None };
    let lifetime = leaf.window.ends.since(leaf.window.begins);
    (lifetime > max_lifetime_seconds.saturating_mul(1000)).then_some(Denial::PeerCertificateLifetimeTooLong)
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
