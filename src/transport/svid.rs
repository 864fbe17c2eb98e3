//! The shape of an X.509-SVID: what can be said of a certificate chain without any trust.
//!
//! *Takes* certificates as presented. *Gives* [`Leaf`]. *Denies* `PeerIdentityAmbiguous`, `PeerIdentityMalformed`.
//! *Source*: SPIFFE X.509-SVID §2 to §5; RFC 5280 §4.2; `evidence.md` §8.

use crate::denial::Denial;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::WallTime;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// What a leaf certificate says of its holder; peer-supplied, and proven by nothing yet.
#[derive(Clone)]
pub struct Leaf {
    /// SHA-256 of its SubjectPublicKeyInfo, as encoded in the certificate.
    pub spki_sha256: [u8; 32],
    /// Its serial number, hex, as encoded.
    pub serial: String,
    /// When it begins and ends.
    pub window: Window,
}

/// A certificate's validity; `ends` is exclusive here, one instant stricter than RFC 5280 §4.1.2.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// notBefore.
    pub begins: WallTime,
    /// notAfter.
    pub ends: WallTime,
}

impl Window {
    /// Whether `now` is in it, with the allowance for what begins in the future and none for what has ended.
    /// **Denies** `PeerCertificateExpired`, `PeerCertificateNotYetValid`.
    pub fn check(&self, now: WallTime) -> Result<(), Denial> {
        if now >= self.ends {
            return Err(Denial::PeerCertificateExpired);
        }
        if self.begins > now.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000)) {
            return Err(Denial::PeerCertificateNotYetValid);
        }
        Ok(())
    }
}

/// Checks a workload's chain, leaf first. **Denies** `PeerIdentityAmbiguous`, `PeerIdentityMalformed`.
pub fn check_workload(chain: &[CertificateDer<'_>]) -> Result<(SpiffeId, Leaf), Denial> {
    let certificate = check_chain(chain)?;
    let id = spiffe_id(&certificate)?;
    check_leaf_usage(&certificate)?;
    Ok((id, leaf(&certificate)))
}

/// Checks an administrator's chain, leaf first: the same leaf, but it is nobody's SVID. **Denies** `PeerIdentityMalformed`.
pub fn check_administrator(chain: &[CertificateDer<'_>]) -> Result<Leaf, Denial> {
    let certificate = check_chain(chain)?;
    match uris(&certificate)?.iter().any(|uri| uri.to_ascii_lowercase().starts_with("spiffe:")) {
        true => Err(Denial::PeerIdentityMalformed),
        false => check_leaf_usage(&certificate).map(|()| leaf(&certificate)),
    }
}

/// Parses one certificate, whole; duplicate extensions are refused. **Denies** `PeerIdentityMalformed`.
pub fn parse<'a>(certificate: &'a [u8]) -> Result<X509Certificate<'a>, Denial> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) if parsed.version() == X509Version::V3 && parsed.extensions_map().is_ok() => {
            Ok(parsed)
        }
        Ok(_) | Err(_) => Err(Denial::PeerIdentityMalformed),
    }
}

/// The window of a parsed certificate.
pub fn window(certificate: &X509Certificate<'_>) -> Window {
    let validity = certificate.validity();
    let at = |time: x509_parser::time::ASN1Time| WallTime::from_seconds(time.timestamp());
    Window { begins: at(validity.not_before), ends: at(validity.not_after) }
}

/// Whether a certificate may sign others: CA, and keyCertSign where key usage is there; `strict` demands that it is.
pub fn may_sign_certificates(certificate: &X509Certificate<'_>, strict: bool) -> bool {
    let authority = matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let usage = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => !strict,
        Err(_) => false,
    };
    authority && usage
}

/// Whether a certificate may sign revocation lists: cRLSign where key usage is there (RFC 5280 §4.2.1.3).
pub fn may_sign_lists(certificate: &X509Certificate<'_>) -> bool {
    match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.crl_sign(),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    let computed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    for (to, from) in digest.iter_mut().zip(computed.as_ref()) {
        *to = *from;
    }
    digest
}

fn check_chain<'a>(chain: &'a [CertificateDer<'_>]) -> Result<X509Certificate<'a>, Denial> {
    let total = chain.iter().map(|certificate| certificate.len()).fold(0, usize::saturating_add);
    let (first, issuers) = chain.split_first().ok_or(Denial::PeerIdentityMalformed)?;
    if total > limits::CHAIN_BYTES || chain.len() > limits::CHAIN_CERTIFICATES {
        return Err(Denial::PeerIdentityMalformed);
    }
    for issuer in issuers {
        if !may_sign_certificates(&parse(issuer)?, true) {
            return Err(Denial::PeerIdentityMalformed);
        }
    }
    parse(first)
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Denial> {
    match uris(certificate)?.as_slice() {
        [uri] => SpiffeId::parse(uri).map_err(|_| Denial::PeerIdentityMalformed),
        [] | [_, _, ..] => Err(Denial::PeerIdentityAmbiguous),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, Denial> {
    let names = certificate.subject_alternative_name().map_err(|_| Denial::PeerIdentityMalformed)?;
    let mut uris = Vec::new();
    for name in names.map(|names| names.value.general_names.iter()).into_iter().flatten() {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A name that does not parse may be the second URI.
            GeneralName::Invalid(..) => return Err(Denial::PeerIdentityMalformed),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::DNSName(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    Ok(uris)
}

fn check_leaf_usage(certificate: &X509Certificate<'_>) -> Result<(), Denial> {
    let malformed = Denial::PeerIdentityMalformed;
    let constraints = certificate.basic_constraints().map_err(|_| malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(malformed);
    }
    let usage = certificate.key_usage().map_err(|_| malformed)?.ok_or(malformed)?;
    let signs_for_others = usage.value.key_cert_sign() || usage.value.crl_sign();
    if !usage.critical || !usage.value.digital_signature() || signs_for_others {
        return Err(malformed);
    }
    match certificate.extended_key_usage().map_err(|_| malformed)? {
        Some(extended) if !(extended.value.server_auth && extended.value.client_auth) => Err(malformed),
        Some(_) | None => Ok(()),
    }
}

fn leaf(certificate: &X509Certificate<'_>) -> Leaf {
    Leaf {
        spki_sha256: sha256(certificate.public_key().raw),
        serial: hex::encode(certificate.raw_serial()),
        window: window(certificate),
    }
}
