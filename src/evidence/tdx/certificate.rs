//! What the verifier reads of an Intel certificate or revocation list besides its signature's meaning.
//!
//! *Takes* DER. *Gives* [`Certificate`], [`RevocationList`]. *Denies* nothing itself. *Source*: RFC 5280 §4.1, §5.1.

use super::backend;
use crate::time::WallTime;
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::X509Extension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// A certificate's facts; whether it is genuine is not known by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    /// Subject, DER.
    pub(super) subject: Vec<u8>,
    /// Issuer, DER.
    pub(super) issuer: Vec<u8>,
    /// The issuer's common name.
    pub(super) issuer_common_name: String,
    /// Serial number, contents of the INTEGER.
    pub(super) serial: Vec<u8>,
    /// notBefore.
    pub(super) begins: WallTime,
    /// notAfter, exclusive here: one instant stricter than RFC 5280 §4.1.2.5.
    pub(super) ends: WallTime,
    /// The public key's bits.
    pub(super) key: Vec<u8>,
    /// What its SGX extension says, where it has one that reads.
    pub(super) sgx: Option<SgxExtension>,
}

/// What of a PCK certificate's extension chooses the collateral. `dcap-qvl` reads all of it, in many times the time, when it
/// verifies; both must have read the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SgxExtension {
    pub(super) fmspc: [u8; 6],
    pub(super) pce_id: [u8; 2],
}

impl SgxExtension {
    /// A sequence of pairs of name and value; each of the two that count stands there once.
    fn read(parsed: &X509Certificate<'_>) -> Option<SgxExtension> {
        let named = |extension: &&X509Extension<'_>| extension.oid.as_bytes() == SGX_EXTENSION;
        let extension = parsed.extensions().iter().find(named)?;
        let (rest, mut pairs) = contents(extension.value, Tag::Sequence)?;
        let (mut fmspc, mut pce_id) = (None, None);
        while !pairs.is_empty() {
            let (after, pair) = contents(pairs, Tag::Sequence)?;
            let (value, name) = contents(pair, Tag::Oid)?;
            let of = match name.strip_prefix(SGX_EXTENSION) {
                Some([FMSPC]) => &mut fmspc,
                Some([PCE_ID]) => &mut pce_id,
                _ => &mut None,
            };
            if of.replace(value).is_some() {
                return None;
            }
            pairs = after;
        }
        let sound = rest.is_empty();
        sound.then_some(SgxExtension { fmspc: octets(fmspc?)?, pce_id: octets(pce_id?)? })
    }
}

/// Whether two extensions have one name. There are some ten: a map of them takes longer.
fn stands_twice(extensions: &[X509Extension<'_>]) -> bool {
    let mut rest = extensions;
    while let [first, after @ ..] = rest {
        if after.iter().any(|other| other.oid == first.oid) {
            return true;
        }
        rest = after;
    }
    false
}

fn octets<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    let (rest, octets) = contents(value, Tag::OctetString)?;
    if rest.is_empty() { octets.try_into().ok() } else { None }
}

/// What comes after a value of this kind, and what is in it.
fn contents(bytes: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (rest, any) = Any::from_der(bytes).ok()?;
    (any.tag() == tag).then_some((rest, any.data))
}

impl Certificate {
    /// Reads a certificate; bytes after it, or an extension that stands twice, are refused.
    pub(super) fn read(der: &CertificateDer<'static>) -> Option<Certificate> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() || stands_twice(parsed.extensions()) {
            return None;
        }
        let names = parsed.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(Certificate {
            der: der.clone(),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            issuer_common_name: names.unwrap_or_default().to_owned(),
            serial: parsed.raw_serial().to_vec(),
            begins: WallTime::from_seconds(parsed.validity().not_before.timestamp()),
            ends: WallTime::from_seconds(parsed.validity().not_after.timestamp()),
            key: parsed.public_key().subject_public_key.data.to_vec(),
            sgx: SgxExtension::read(&parsed),
        })
    }

    /// Whether `issuer` signed it: name and key.
    pub(super) fn is_by(&self, issuer: &Certificate) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(&self.der) else { return false };
        let signed = parsed.tbs_certificate.as_ref();
        self.issuer == issuer.subject && backend::verifies(&issuer.key, signed, &parsed.signature_value.data)
    }
}

/// A revocation list's facts; what only a refusal asks for is read when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RevocationList {
    pub(super) der: Vec<u8>,
    /// Issuer, DER.
    pub(super) issuer: Vec<u8>,
    /// The issuer's common name.
    pub(super) issuer_common_name: String,
    /// thisUpdate.
    pub(super) issued: WallTime,
    /// nextUpdate, exclusive; never absent.
    pub(super) ends: WallTime,
}

impl RevocationList {
    /// Reads a list. One without nextUpdate or number is refused: it could not go stale, nor be told from an older one.
    pub(super) fn read(der: &[u8]) -> Option<RevocationList> {
        let (rest, parsed) = CertificateRevocationList::from_der(der).ok()?;
        if !rest.is_empty() || stands_twice(parsed.extensions()) {
            return None;
        }
        parsed.crl_number()?;
        let names = parsed.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(RevocationList {
            der: der.to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            issuer_common_name: names.unwrap_or_default().to_owned(),
            issued: WallTime::from_seconds(parsed.last_update().timestamp()),
            ends: WallTime::from_seconds(parsed.next_update()?.timestamp()),
        })
    }

    /// Whether `issuer` signed it: name and key.
    pub(super) fn is_by(&self, issuer: &Certificate) -> bool {
        let Ok((_, parsed)) = CertificateRevocationList::from_der(&self.der) else { return false };
        let signed = parsed.tbs_cert_list.as_ref();
        self.issuer == issuer.subject && backend::verifies(&issuer.key, signed, &parsed.signature_value.data)
    }

    /// Whether it revokes `certificate`; one that does not read does.
    pub(super) fn revokes(&self, certificate: &Certificate) -> bool {
        let Ok((_, parsed)) = CertificateRevocationList::from_der(&self.der) else { return true };
        parsed.iter_revoked_certificates().any(|entry| entry.raw_serial() == certificate.serial)
    }
}

/// 1.2.840.113741.1.13.1, contents of the OBJECT IDENTIFIER.
const SGX_EXTENSION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
/// The last arcs of what stands in it.
const PCE_ID: u8 = 3;
const FMSPC: u8 = 4;
