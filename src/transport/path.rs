//! Certificate paths: from a leaf to a root, every window checked by our own clock.
//!
//! *Takes* a presented chain and the roots of one trust domain. *Gives* [`Path`]. *Denies* `PeerUntrusted`,
//! `PeerCertificateExpired`, `PeerCertificateNotYetValid`, `PeerIdentityMalformed`. *Source*: RFC 5280 §6.

use super::svid::{self, Facts, Window};
use super::tls;
use crate::denial::{Class, Denial};
use crate::time::{Now, WallTime};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::cell::RefCell;
use std::time::Duration;
use webpki::{CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth};
use webpki::{Error, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath};

/// A root, with what webpki does not look at.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// Name, key and name constraints.
    pub anchor: TrustAnchor<'static>,
    /// Its validity: an expired root is no root.
    pub window: Window,
    /// Whether it may sign revocation lists.
    pub may_sign_lists: bool,
}

/// A path whose signatures, constraints and windows hold now. Revocation is not looked at yet.
#[derive(Debug)]
pub struct Path {
    /// Its certificates, leaf first, each with its issuer.
    pub links: Vec<Link>,
    /// When the first of its certificates ends, the root included.
    pub ends: WallTime,
    anchor: TrustAnchor<'static>,
    /// The time at which webpki accepted it: now, or within the allowance after it.
    time: UnixTime,
}

/// One certificate of a path, and who issued it.
#[derive(Clone, Debug)]
pub struct Link {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its serial number, contents of the INTEGER.
    pub serial: Vec<u8>,
    /// The issuer's name, contents of the SEQUENCE.
    pub issuer_name: Vec<u8>,
    /// The issuer's SubjectPublicKeyInfo, DER.
    pub issuer_spki: Vec<u8>,
    /// Whether the issuer may sign revocation lists.
    pub issuer_may_sign_lists: bool,
}

/// Why there is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPath {
    /// The denial.
    pub denial: Denial,
    /// Whether a path's signatures did lead to a root, and only validity failed.
    pub leads_to_root: bool,
}

/// A chain as presented, leaf first, its shape checked; and what each of its certificates says, in the same order.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The certificates.
    pub chain: &'a [CertificateDer<'a>],
    /// What they say.
    pub facts: &'a [Facts],
}

impl Presented<'_> {
    /// What a certificate of the chain says. **Denies** `PeerIdentityMalformed` where it is none of the chain.
    fn facts(&self, certificate: &webpki::Cert<'_>) -> Result<Facts, Denial> {
        let der = certificate.der();
        let mut all = self.chain.iter().zip(self.facts);
        let found = all.find(|(presented, _)| presented.as_ref() == der.as_ref());
        found.map(|(_, facts)| *facts).ok_or(Denial::PeerIdentityMalformed)
    }
}

/// Finds a path that holds at `now`.
pub fn find(presented: Presented<'_>, anchors: &[Anchor], now: Now) -> Result<Path, NoPath> {
    let untrusted = |denial| NoPath { denial, leads_to_root: false };
    let (leaf, issuers) = presented.chain.split_first().ok_or(untrusted(Denial::PeerIdentityMalformed))?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| untrusted(Denial::PeerIdentityMalformed))?;
    let roots: Vec<TrustAnchor<'_>> = anchors.iter().map(|anchor| anchor.anchor.clone()).collect();
    let denials = RefCell::new(Vec::new());
    let judge = |candidate: &VerifiedPath<'_>| {
        check_windows(presented, candidate, anchors, now).map(|_| ()).map_err(|denial| {
            denials.borrow_mut().push(denial);
            Error::CertDistrusted
        })
    };
    let mut time = unix(now.wall);
    let mut tried = vec![time];
    loop {
        let usage = KeyUsage::client_auth();
        let found = leaf.verify_for_usage(tls::ALL, &roots, issuers, time, usage, None, Some(&judge));
        let error = match found {
            Ok(path) => return accepted(presented, &path, anchors, now, time).map_err(untrusted),
            Err(error) => error,
        };
        match other_time(&error) {
            Some(other) if !tried.contains(&other) && tried.len() < TIMES => {
                tried.push(other);
                time = other;
            }
            Some(_) | None => return Err(no_path(&error, &denials.into_inner())),
        }
    }
}

/// Asks webpki about revocation too, over the same path with exactly these lists: none left out, none unknown, none
/// expired. **Denies** `PeerRevoked`, `RevocationStale`, `RevocationUnknown`.
pub fn confirm_not_revoked(path: &Path, lists: &[&CertRevocationList<'_>]) -> Result<(), Denial> {
    let unknown = Denial::RevocationUnknown;
    let chain: Vec<CertificateDer<'_>> = path.links.iter().map(|link| link.certificate.clone()).collect();
    let (leaf, issuers) = chain.split_first().ok_or(unknown)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| unknown)?;
    let options = RevocationOptionsBuilder::new(lists)
        .map_err(|_| unknown)?
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let roots = [path.anchor.clone()];
    let usage = KeyUsage::client_auth();
    match leaf.verify_for_usage(tls::ALL, &roots, issuers, path.time, usage, Some(options), None) {
        Ok(_) => Ok(()),
        Err(Error::CertRevoked) => Err(Denial::PeerRevoked),
        Err(Error::CrlExpired { .. }) => Err(Denial::RevocationStale),
        Err(_) => Err(unknown),
    }
}

/// Name and key of a CA certificate, as those of an issuer of lists.
pub fn issuer_of(certificate: &[u8]) -> Option<super::revocation::Issuer> {
    let parsed = svid::parse(certificate).ok().filter(|parsed| svid::may_sign_certificates(parsed, false))?;
    let spki = parsed.public_key().raw.to_vec();
    let certificate = CertificateDer::from(certificate);
    let anchor = webpki::anchor_from_trusted_cert(&certificate).ok()?;
    Some(super::revocation::Issuer { name: anchor.subject.to_vec(), spki })
}

/// webpki checks windows first, and knows no allowance. Asked again at the end or the beginning that it stopped at, it says
/// whether the path leads to a root; [`check_windows`] alone says whether it holds now.
fn other_time(error: &Error) -> Option<UnixTime> {
    match error {
        Error::CertNotValidYet { not_before, .. } => Some(*not_before),
        Error::CertExpired { not_after, .. } => Some(*not_after),
        _ => None,
    }
}

fn no_path(error: &Error, denials: &[Denial]) -> NoPath {
    let worst = denials.iter().copied().min_by_key(|denial| (denial.class() == Class::Refused, *denial));
    let denial = match (worst, error) {
        (Some(denial), _) => return NoPath { denial, leads_to_root: true },
        (None, Error::UnsupportedCriticalExtension | Error::ExtensionValueInvalid) => {
            Denial::PeerIdentityMalformed
        }
        (None, _) => Denial::PeerUntrusted,
    };
    NoPath { denial, leads_to_root: false }
}

fn accepted(
    presented: Presented<'_>,
    path: &VerifiedPath<'_>,
    anchors: &[Anchor],
    now: Now,
    time: UnixTime,
) -> Result<Path, Denial> {
    let (ends, may_sign_lists) = check_windows(presented, path, anchors, now)?;
    if time < unix(now.wall) {
        return Err(Denial::PeerCertificateExpired);
    }
    let mut links = Vec::new();
    let mut issuer_spki = webpki::spki_for_anchor(path.anchor()).to_vec();
    let mut issuer_may_sign_lists = may_sign_lists;
    let end_entity: &webpki::Cert<'_> = path.end_entity();
    for certificate in path.intermediate_certificates().rev().chain([end_entity]) {
        links.push(Link {
            certificate: certificate.der().into_owned(),
            serial: certificate.serial().to_vec(),
            issuer_name: certificate.issuer().to_vec(),
            issuer_spki,
            issuer_may_sign_lists,
        });
        issuer_spki = certificate.subject_public_key_info().to_vec();
        issuer_may_sign_lists = presented.facts(certificate)?.may_sign_lists;
    }
    links.reverse();
    Ok(Path { links, ends, anchor: path.anchor().to_owned(), time })
}

/// Every certificate of the path, root included, holds at `now`. Gives the first end, and whether the root may sign lists.
fn check_windows(
    presented: Presented<'_>,
    path: &VerifiedPath<'_>,
    anchors: &[Anchor],
    now: Now,
) -> Result<(WallTime, bool), Denial> {
    let end_entity: &webpki::Cert<'_> = path.end_entity();
    let mut ends = WallTime(u64::MAX);
    for certificate in path.intermediate_certificates().chain([end_entity]) {
        let window = presented.facts(certificate)?.window;
        window.check(now.wall)?;
        ends = ends.min(window.ends);
    }
    let root = root_of(path, anchors, now)?;
    Ok((ends.min(root.window.ends), root.may_sign_lists))
}

/// The root of the path that holds longest: a bundle may have one key in an old and a renewed certificate.
fn root_of<'a>(path: &VerifiedPath<'_>, anchors: &'a [Anchor], now: Now) -> Result<&'a Anchor, Denial> {
    let root = path.anchor();
    let same = |anchor: &&Anchor| {
        anchor.anchor.subject == root.subject
            && anchor.anchor.subject_public_key_info == root.subject_public_key_info
    };
    let usable = |anchor: &&Anchor| anchor.window.check(now.wall).is_ok();
    let best = anchors.iter().filter(same).filter(usable).max_by_key(|anchor| anchor.window.ends);
    let outcome = || anchors.iter().find(same).map(|anchor| anchor.window.check(now.wall));
    best.ok_or_else(|| match outcome() {
        Some(Err(denial)) => denial,
        Some(Ok(())) | None => Denial::PeerUntrusted,
    })
}

fn unix(time: WallTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.seconds()))
}

/// Times at which a path is looked for: each certificate of the longest chain has two bounds.
const TIMES: usize = 16;
