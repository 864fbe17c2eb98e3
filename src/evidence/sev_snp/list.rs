//! AMD's revocation lists: each product's root key says which of its intermediates count no more.
//!
//! *Takes* DER or PEM, a root, the time. *Gives* [`List`], signed by that root, with its end. *Denies* nothing itself;
//! `trust` does. *Source*: RFC 5280 §5; AMD 57230 §4 (`/crl`); `fail-open-catalogue.md` rows 21 to 23.

use super::certificate::SIGNATURES;
use super::product::SigningKey;
use super::trust::TrustError;
use crate::limits;
use crate::time::{Fresh, Now, WallTime};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use std::borrow::Cow;
use std::collections::BTreeSet;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// A list whose signature is its root's.
#[derive(Clone, Debug)]
pub(super) struct List {
    /// The serial numbers, until nextUpdate or the operator's own greatest age.
    pub(super) revoked: Fresh<BTreeSet<Vec<u8>>>,
    pub(super) mark: ListMark,
}

/// How new a list is: a list below a mark already seen is an older one, put in its place. To be kept durably by whoever
/// hands lists in; of one issuer and kind they compare by number, then by thisUpdate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListMark {
    /// SHA-256 of the root certificate that signed it.
    pub root: [u8; 32],
    /// Under whose address it was published.
    pub signing_key: SigningKey,
    /// crlNumber, big-endian; zero where there is none.
    pub number: [u8; 20],
    /// thisUpdate.
    pub this_update: WallTime,
}

/// The bytes of one list, from DER or PEM.
pub(super) fn der_of(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    if bytes.len() > limits::SEV_SNP_LIST_BYTES {
        return None;
    }
    match bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        false => Some(Cow::Borrowed(bytes)),
        true => {
            let mut lists = CertificateRevocationListDer::pem_slice_iter(bytes);
            let only = lists.next()?.ok()?;
            lists.next().is_none().then(|| Cow::Owned(only.to_vec()))
        }
    }
}

/// A list taken apart, before it is known whose it is.
pub(super) struct Unsigned<'a> {
    der: &'a [u8],
    parsed: CertificateRevocationList<'a>,
}

impl<'a> Unsigned<'a> {
    /// Parses a whole list. A critical extension makes it partial, indirect or something newer: it would not say what it is
    /// taken to say.
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, TrustError> {
        let Ok(([], parsed)) = CertificateRevocationList::from_der(der) else {
            return Err(TrustError::ListMalformed);
        };
        let sound = parsed.tbs_cert_list.extensions_map().is_ok()
            && parsed.extensions().iter().all(|extension| !extension.critical)
            && parsed.iter_revoked_certificates().all(|entry| entry.extensions().iter().all(|e| !e.critical))
            && parsed.signature_algorithm == parsed.tbs_cert_list.signature;
        if sound { Ok(Unsigned { der, parsed }) } else { Err(TrustError::ListMalformed) }
    }

    /// The issuer, DER.
    pub(super) fn issuer(&self) -> &[u8] {
        self.parsed.tbs_cert_list.issuer.as_raw()
    }

    /// Whether this RSA key signed it, by one of AMD's algorithms, named after the content to the byte.
    pub(super) fn is_by(&self, public_key: &[u8]) -> bool {
        let signature: &[u8] = &self.parsed.signature_value.data;
        let content = self.parsed.tbs_cert_list.as_ref();
        SIGNATURES.iter().any(|algorithm| {
            let tail = tail(algorithm.signature_alg_id().as_ref(), signature);
            tail.is_some_and(|tail| self.der.ends_with(&tail))
                && algorithm.verify_signature(public_key, content, signature).is_ok()
        })
    }

    /// The list of that root. `max_age_seconds` counts from thisUpdate.
    pub(super) fn of(
        &self,
        root: [u8; 32],
        signing_key: SigningKey,
        max_age_seconds: u64,
        now: Now,
    ) -> Result<List, TrustError> {
        let this_update = WallTime::from_seconds(self.parsed.last_update().timestamp());
        if this_update > now.wall.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000)) {
            return Err(TrustError::ListFromFuture);
        }
        let next_update = self.parsed.next_update().ok_or(TrustError::ListWithoutEnd)?;
        let own_end = this_update.plus(max_age_seconds.saturating_mul(1000));
        let usable_until = WallTime::from_seconds(next_update.timestamp()).min(own_end);
        let serials = self.parsed.iter_revoked_certificates();
        let revoked = serials.map(|entry| entry.user_certificate.to_bytes_be()).collect();
        let mark = ListMark { root, signing_key, number: self.number()?, this_update };
        Ok(List { revoked: Fresh::new(revoked, now, usable_until), mark })
    }

    fn number(&self) -> Result<[u8; 20], TrustError> {
        let written = self.parsed.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
        let mut number = [0; 20];
        let start = number.len().checked_sub(written.len()).ok_or(TrustError::ListMalformed)?;
        number.get_mut(start..).ok_or(TrustError::ListMalformed)?.copy_from_slice(&written);
        Ok(number)
    }
}

/// What follows the content of a signed structure: AlgorithmIdentifier and BIT STRING (RFC 5280 §5.1.1). None for a signature
/// that is too short for RSA of 2048 bits.
fn tail(algorithm: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let algorithm_length = u8::try_from(algorithm.len()).ok().filter(|length| *length < 0x80)?;
    let bits = u16::try_from(signature.len()).ok().filter(|length| *length >= 256)?.checked_add(1)?;
    let [high, low] = bits.to_be_bytes();
    Some([&[0x30, algorithm_length], algorithm, &[0x03, 0x82, high, low, 0x00], signature].concat())
}
