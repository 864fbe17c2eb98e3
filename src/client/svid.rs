//! The shape of an X.509-SVID, as the client needs it: the broker's and our own.
//!
//! *Takes* a certificate chain as presented. *Gives* the leaf's SPIFFE ID and the hash of its key. *Denies*
//! `PeerIdentityAmbiguous`, `PeerIdentityMalformed`. *Source*: SPIFFE X.509-SVID §2 to §5; `evidence.md` §8.

use crate::denial::Denial;
use crate::limits;
use crate::spiffe::SpiffeId;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// Checks a chain, leaf first; proves nothing of it. Gives the SPIFFE ID and the SHA-256 of the SPKI DER as encoded.
/// **Denies** `PeerIdentityAmbiguous`, `PeerIdentityMalformed`.
pub(super) fn check(chain: &[CertificateDer<'_>]) -> Result<(SpiffeId, [u8; 32]), Denial> {
    let (first, issuers) = chain.split_first().ok_or(Denial::PeerIdentityMalformed)?;
    let total = chain.iter().map(|certificate| certificate.len()).fold(0, usize::saturating_add);
    if total > limits::CHAIN_BYTES || !issuers.iter().all(is_authority) {
        return Err(Denial::PeerIdentityMalformed);
    }
    let leaf = parse(first)?;
    check_usage(&leaf)?;
    Ok((spiffe_id(&leaf)?, sha256(leaf.public_key().raw)?))
}

/// Whether a certificate may sign others: CA, with keyCertSign.
pub(super) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = parse(certificate) else { return false };
    let authority = matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    authority && matches!(parsed.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign())
}

/// The end of a certificate's validity, Unix seconds; none where it does not parse.
pub(super) fn ends_at(certificate: &CertificateDer<'_>) -> Option<i64> {
    parse(certificate).ok().map(|parsed| parsed.validity().not_after.timestamp())
}

/// Parses one certificate, whole; a second extension of one kind is refused.
fn parse<'a>(certificate: &'a [u8]) -> Result<X509Certificate<'a>, Denial> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) if parsed.version() == X509Version::V3 && parsed.extensions_map().is_ok() => {
            Ok(parsed)
        }
        Ok(_) | Err(_) => Err(Denial::PeerIdentityMalformed),
    }
}

fn spiffe_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, Denial> {
    let names = leaf.subject_alternative_name().map_err(|_| Denial::PeerIdentityMalformed)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // What does not parse may be a second URI.
            GeneralName::Invalid(..) => return Err(Denial::PeerIdentityMalformed),
            _ => {}
        }
    }
    match uris.as_slice() {
        [uri] => SpiffeId::parse(uri).map_err(|_| Denial::PeerIdentityMalformed),
        _ => Err(Denial::PeerIdentityAmbiguous),
    }
}

fn check_usage(leaf: &X509Certificate<'_>) -> Result<(), Denial> {
    let malformed = Denial::PeerIdentityMalformed;
    let authority = leaf.basic_constraints().map_err(|_| malformed)?.is_some_and(|found| found.value.ca);
    let usage = leaf.key_usage().map_err(|_| malformed)?.ok_or(malformed)?;
    let extended = leaf.extended_key_usage().map_err(|_| malformed)?;
    let signs_for_others = usage.value.key_cert_sign() || usage.value.crl_sign();
    let whole = !authority
        && usage.critical
        && usage.value.digital_signature()
        && !signs_for_others
        && extended.is_none_or(|extended| extended.value.server_auth && extended.value.client_auth);
    whole.then_some(()).ok_or(malformed)
}

fn sha256(bytes: &[u8]) -> Result<[u8; 32], Denial> {
    digest(&SHA256, bytes).as_ref().try_into().map_err(|_| Denial::Defect)
}
