//! Certificate revocation lists of one trust domain.
//!
//! *Takes* list files and a verified path. *Gives* the lists that say that no certificate of it is revoked. *Denies*
//! `PeerRevoked`, `RevocationUnknown`, `RevocationStale`. *Source*: RFC 5280 §5, §6.3; `fail-open-catalogue.md` rows 21 to 23.

use super::path::{self, Link, Path};
use super::svid;
use super::tls;
use super::trust::{Marks, MarksUnavailable};
use crate::denial::{Class, Denial};
use crate::limits;
use crate::time::{Fresh, Now, WallTime};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// One list, parsed and not yet tied to an issuer's key.
pub struct List {
    /// Until nextUpdate, or its own maximum age.
    list: Fresh<CertRevocationList<'static>>,
    /// Its issuer's name, contents of the SEQUENCE.
    issuer: Vec<u8>,
    this_update: WallTime,
    number: [u8; NUMBER_BYTES],
    /// The issuing distribution point, DER; empty where the list is of all that its issuer issued.
    scope: Vec<u8>,
    signed: Signed,
}

/// A signed structure, in its parts as encoded.
struct Signed {
    content: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// All lists of a trust domain, and which of them are good for which issuer's key.
pub struct Lists {
    lists: Vec<List>,
    admitted: Mutex<HashMap<Issuer, Result<Vec<usize>, Unusable>>>,
}

/// An issuer: its name, contents of the SEQUENCE, and its SubjectPublicKeyInfo, DER.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Issuer {
    /// The name.
    pub name: Vec<u8>,
    /// The key.
    pub spki: Vec<u8>,
}

/// Why a file holds no usable list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not PEM, or no list in it.
    #[error("no revocation list in the file")]
    Empty,
    /// webpki's own words: no nextUpdate, a delta, an indirect or otherwise partitioned list, an unknown critical extension.
    #[error("not a usable revocation list: {0}")]
    Unsupported(String),
    /// Not DER, or with a duplicate extension.
    #[error("the revocation list is malformed")]
    Malformed,
    /// Without it, an older list could not be told from a newer.
    #[error("the revocation list has no number")]
    Number,
}

/// Why the lists of an issuer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    /// No list that this key signed.
    Missing,
    /// Two lists for one scope.
    Ambiguous,
    /// A lower number than one already seen.
    Older,
}

/// Parses the lists of one file, DER or PEM. `max_age_seconds` counts from thisUpdate.
pub fn parse(bytes: &[u8], max_age_seconds: u64, now: Now) -> Result<Vec<List>, ParseError> {
    let lists = match bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        true => CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>(),
        false => Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]),
    };
    let lists = lists.map_err(|_| ParseError::Empty)?;
    if lists.is_empty() {
        return Err(ParseError::Empty);
    }
    lists.iter().map(|der| parse_list(der, max_age_seconds, now)).collect()
}

impl Lists {
    /// The lists of all files of a domain.
    pub fn new(lists: Vec<List>) -> Self {
        Lists { lists, admitted: Mutex::new(HashMap::new()) }
    }

    /// Which lists say that no certificate of `path` is revoked, never none. A list may not be older than one already seen: `marks` remembers.
    /// **Denies** `PeerRevoked` where one is; else `RevocationUnknown` or `RevocationStale` where that is not known.
    pub fn check(&self, path: &Path, marks: &dyn Marks, now: Now) -> Result<Vec<usize>, Denial> {
        let outcomes: Vec<_> = path.links.iter().map(|link| self.check_link(link, marks, now)).collect();
        let refused = |denial: &Denial| denial.class() == Class::Refused;
        if let Some(denial) = outcomes.iter().filter_map(|o| o.as_ref().err()).find(|denial| refused(denial))
        {
            return Err(*denial);
        }
        let mut lists: Vec<usize> = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        lists.sort_unstable();
        lists.dedup();
        let usable: Vec<&CertRevocationList<'_>> = lists.iter().filter_map(|at| self.at(*at, now)).collect();
        if usable.len() != lists.len() {
            return Err(Denial::RevocationStale);
        }
        // A list for part of an issuer's certificates covers only that part; which, webpki knows (RFC 5280 §5.2.5). A list for
        // all of them was searched above, its signature verified when it was admitted.
        let is_partial = |at: &usize| self.lists.get(*at).is_none_or(|list| !list.scope.is_empty());
        if lists.iter().any(is_partial) {
            path::confirm_not_revoked(path, &usable)?;
        }
        Ok(lists)
    }

    /// When the first of these lists ends.
    pub fn ends(&self, lists: &[usize]) -> WallTime {
        let end = |at: &usize| self.lists.get(*at).map_or(WallTime(0), |list| list.list.usable_until());
        lists.iter().map(end).min().unwrap_or(WallTime(0))
    }

    /// Whether all of these lists may be used now.
    pub fn usable(&self, lists: &[usize], now: Now) -> bool {
        !lists.is_empty() && lists.iter().all(|at| self.at(*at, now).is_some())
    }

    /// When the first of all lists ends; none where there is no list.
    pub fn first_end(&self) -> Option<WallTime> {
        self.lists.iter().map(|list| list.list.usable_until()).min()
    }

    /// Whether one was taken for stale by the boot clock alone, and would be usable if read again.
    pub fn renewable(&self, now: Now) -> bool {
        let stale = |list: &List| list.list.at(now).is_none() && now.wall < list.list.usable_until();
        self.lists.iter().any(stale)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lists.len()
    }

    /// The issuers met so far: their lists' numbers are looked at as soon as a new file comes, not when it is used.
    pub fn issuers(&self) -> Vec<Issuer> {
        self.admissions().keys().cloned().collect()
    }

    /// Why the lists of an issuer that was met are not used although they are there: its peers are denied.
    pub fn trouble(&self) -> Option<&'static str> {
        let admissions = self.admissions();
        let why = admissions.values().filter_map(|outcome| match outcome {
            Err(Unusable::Older) => Some("older than one already seen"),
            Err(Unusable::Ambiguous) => Some("one of two for the same certificates"),
            // Nothing says that this issuer has any.
            Ok(_) | Err(Unusable::Missing) => None,
        });
        why.min()
    }

    /// Looks which lists this key signed, once, and raises their marks. An unreadable mark is not remembered as an outcome.
    pub fn admit(&self, issuer: &Issuer, marks: &dyn Marks) -> Result<Vec<usize>, Denial> {
        if let Some(outcome) = self.admissions().get(issuer) {
            return outcome.clone().map_err(|_| Denial::RevocationUnknown);
        }
        let outcome = self.judge(issuer, marks).map_err(|MarksUnavailable| Denial::RevocationUnknown)?;
        let mut admissions = self.admissions();
        if admissions.len() >= ISSUERS {
            admissions.clear();
        }
        admissions.insert(issuer.clone(), outcome.clone());
        outcome.map_err(|_| Denial::RevocationUnknown)
    }

    /// The marks of this issuer's lists as they stand in the files, to be written over higher ones: for a rebuilt CA.
    pub fn marks_of(&self, issuer: &Issuer) -> Vec<(String, Vec<u8>)> {
        let signed = |list: &&List| list.is_of(issuer);
        self.lists.iter().filter(signed).map(|list| (list.mark_name(issuer), list.mark())).collect()
    }

    fn check_link(&self, link: &Link, marks: &dyn Marks, now: Now) -> Result<Vec<usize>, Denial> {
        if !link.issuer_may_sign_lists {
            return Err(Denial::RevocationUnknown);
        }
        let issuer = Issuer { name: link.issuer_name.clone(), spki: link.issuer_spki.clone() };
        let admitted = self.admit(&issuer, marks)?;
        for list in admitted.iter().filter_map(|at| self.lists.get(*at)) {
            let latest = now.wall.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000));
            if list.this_update > latest {
                return Err(Denial::RevocationUnknown);
            }
            let usable = list.list.at(now).ok_or(Denial::RevocationStale)?;
            // webpki asks the first list that it takes for authoritative; any list of the issuer revokes here.
            match usable.find_serial(&link.serial) {
                Ok(None) => {}
                Ok(Some(_)) => return Err(Denial::PeerRevoked),
                Err(_) => return Err(Denial::RevocationUnknown),
            }
        }
        Ok(admitted)
    }

    fn judge(
        &self,
        issuer: &Issuer,
        marks: &dyn Marks,
    ) -> Result<Result<Vec<usize>, Unusable>, MarksUnavailable> {
        let of_issuer: Vec<(usize, &List)> =
            self.lists.iter().enumerate().filter(|(_, list)| list.is_of(issuer)).collect();
        if of_issuer.is_empty() {
            return Ok(Err(Unusable::Missing));
        }
        let mut scopes: Vec<&[u8]> = of_issuer.iter().map(|(_, list)| list.scope.as_slice()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let whole = scopes.first().is_some_and(|scope| scope.is_empty());
        if scopes.len() != of_issuer.len() || (whole && scopes.len() > 1) {
            return Ok(Err(Unusable::Ambiguous));
        }
        for (_, list) in &of_issuer {
            let (name, mark) = (list.mark_name(issuer), list.mark());
            match marks.read(&name)? {
                Some(seen) if mark < seen => return Ok(Err(Unusable::Older)),
                Some(seen) if mark == seen => {}
                Some(_) | None => marks.raise(&name, &mark)?,
            }
        }
        Ok(Ok(of_issuer.into_iter().map(|(at, _)| at).collect()))
    }

    fn at(&self, at: usize, now: Now) -> Option<&CertRevocationList<'static>> {
        self.lists.get(at)?.list.at(now)
    }

    fn admissions(&self) -> std::sync::MutexGuard<'_, HashMap<Issuer, Result<Vec<usize>, Unusable>>> {
        // A panic while the lock was held leaves whole entries.
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// Whether it bears this issuer's name and this key's signature.
    fn is_of(&self, issuer: &Issuer) -> bool {
        self.issuer == issuer.name && self.signed.is_by(&issuer.spki)
    }

    fn mark_name(&self, issuer: &Issuer) -> String {
        let scope = match self.scope.is_empty() {
            true => "all".to_owned(),
            false => hex::encode(svid::sha256(&self.scope)),
        };
        format!("crl/{}/{scope}", hex::encode(svid::sha256(&issuer.spki)))
    }

    /// crlNumber, then thisUpdate: equal numbers do not hide an older list either. Compares as bytes.
    fn mark(&self) -> Vec<u8> {
        [self.number.as_slice(), &self.this_update.0.to_be_bytes()].concat()
    }
}

impl Signed {
    fn split(der: &[u8]) -> Option<Signed> {
        let (rest, outer) = Any::from_der(der).ok()?;
        let (after_content, _) = Any::from_der(outer.data).ok()?;
        let content = outer.data.get(..outer.data.len().checked_sub(after_content.len())?)?;
        let (after_algorithm, algorithm) = Any::from_der(after_content).ok()?;
        let (nothing, signature) = Any::from_der(after_algorithm).ok()?;
        let [0, signature @ ..] = signature.data else { return None };
        (rest.is_empty() && nothing.is_empty()).then(|| Signed {
            content: content.to_vec(),
            algorithm: algorithm.data.to_vec(),
            signature: signature.to_vec(),
        })
    }

    fn is_by(&self, spki: &[u8]) -> bool {
        let Some((algorithm, key)) = split_spki(spki) else { return false };
        let fits = |candidate: &&&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
            candidate.signature_alg_id().as_ref() == self.algorithm
                && candidate.public_key_alg_id().as_ref() == algorithm
        };
        let verifies = |candidate: &&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
            candidate.verify_signature(key, &self.content, &self.signature).is_ok()
        };
        tls::ALL.iter().filter(fits).any(verifies)
    }
}

fn split_spki(spki: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, outer) = Any::from_der(spki).ok()?;
    let (rest, algorithm) = Any::from_der(outer.data).ok()?;
    let (_, key) = Any::from_der(rest).ok()?;
    let [0, key @ ..] = key.data else { return None };
    Some((algorithm.data, key))
}

fn parse_list(der: &[u8], max_age_seconds: u64, now: Now) -> Result<List, ParseError> {
    let owned =
        OwnedCertRevocationList::from_der(der).map_err(|error| ParseError::Unsupported(error.to_string()))?;
    let (rest, parsed) = CertificateRevocationList::from_der(der).map_err(|_| ParseError::Malformed)?;
    if !rest.is_empty() || parsed.tbs_cert_list.extensions_map().is_err() {
        return Err(ParseError::Malformed);
    }
    let next_update = parsed.next_update().ok_or(ParseError::Malformed)?;
    let this_update = WallTime::from_seconds(parsed.last_update().timestamp());
    let number = parsed.crl_number().ok_or(ParseError::Number)?.to_bytes_be();
    let own_end = this_update.plus(max_age_seconds.saturating_mul(1000));
    let usable_until = WallTime::from_seconds(next_update.timestamp()).min(own_end);
    let owned = CertRevocationList::from(owned);
    Ok(List {
        issuer: owned.issuer().to_vec(),
        scope: owned.issuing_distribution_point().unwrap_or_default().to_vec(),
        number: padded(&number).ok_or(ParseError::Number)?,
        signed: Signed::split(der).ok_or(ParseError::Malformed)?,
        list: Fresh::new(owned, now, usable_until),
        this_update,
    })
}

fn padded(number: &[u8]) -> Option<[u8; NUMBER_BYTES]> {
    let mut padded = [0; NUMBER_BYTES];
    let start = NUMBER_BYTES.checked_sub(number.len())?;
    padded.get_mut(start..)?.copy_from_slice(number);
    Some(padded)
}

/// A crlNumber has at most 20 octets (RFC 5280 §5.2.3).
const NUMBER_BYTES: usize = 20;
/// Issuers remembered for one set of lists: roots and intermediates of a trust domain; beyond it they are looked at anew.
const ISSUERS: usize = 1_024;
