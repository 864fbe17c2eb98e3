//! Trust bundles: the roots of one trust domain.
//!
//! *Takes* a bundle file's bytes: a SPIFFE bundle (JWK set) or PEM. *Gives* [`Bundle`]. *Denies* nothing itself; what
//! does not parse whole is an error, and its domain unknown. *Source*: SPIFFE Trust Domain and Bundle §4; RFC 7517 §4.7.

use super::path::Anchor;
use super::svid;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

/// The roots of one trust domain. An empty set is a set: it trusts nobody.
#[derive(Debug)]
pub struct Bundle {
    /// The roots.
    pub anchors: Vec<Anchor>,
    /// `spiffe_sequence`, where the bundle has one.
    pub sequence: Option<u64>,
}

/// Why a file is no bundle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a JWK set.
    #[error("not a SPIFFE bundle: {0}")]
    Json(String),
    /// Not PEM, or without a certificate.
    #[error("not PEM certificates")]
    Pem,
    /// An x509-svid key without exactly one certificate.
    #[error("an x509-svid key has not exactly one certificate in x5c")]
    Certificates,
    /// A jwt-svid key without an id: the bundle is malformed, whatever else it holds.
    #[error("a jwt-svid key has no kid")]
    KeyId,
    /// A root that may not sign certificates.
    #[error("a root is not an X.509 v3 CA certificate")]
    Root,
}

impl Bundle {
    /// Parses a bundle. An empty or absent `keys` is "all revoked"; an empty PEM file is an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        match bytes.trim_ascii_start().first() {
            Some(b'{') => parse_json(bytes),
            Some(_) | None => parse_pem(bytes),
        }
    }
}

/// Parses PEM certificates as roots; at least one.
pub fn parse_pem_roots(bytes: &[u8]) -> Result<Vec<Anchor>, ParseError> {
    let certificates = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|_| ParseError::Pem)?;
    if certificates.is_empty() {
        return Err(ParseError::Pem);
    }
    certificates.into_iter().map(root).collect()
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Option<Vec<Jwk>>,
    spiffe_sequence: Option<u64>,
}

/// Of a key only what says what it is for; the certificate is the trusted form (SPIFFE X.509-SVID §6.2).
#[derive(Deserialize)]
struct Jwk {
    #[serde(rename = "use")]
    usage: Option<String>,
    kid: Option<String>,
    x5c: Option<Vec<String>>,
}

fn parse_json(bytes: &[u8]) -> Result<Bundle, ParseError> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|error| ParseError::Json(error.to_string()))?;
    let mut anchors = Vec::new();
    for key in set.keys.unwrap_or_default() {
        match key.usage.as_deref() {
            Some("x509-svid") => anchors.push(root(certificate(&key)?)?),
            Some("jwt-svid") if key.kid.as_deref().is_none_or(str::is_empty) => {
                return Err(ParseError::KeyId);
            }
            // Keys of an unknown use are to be ignored (SPIFFE Trust Domain and Bundle §4.2.2).
            Some(_) | None => {}
        }
    }
    Ok(Bundle { anchors, sequence: set.spiffe_sequence })
}

fn parse_pem(bytes: &[u8]) -> Result<Bundle, ParseError> {
    Ok(Bundle { anchors: parse_pem_roots(bytes)?, sequence: None })
}

fn certificate(key: &Jwk) -> Result<CertificateDer<'static>, ParseError> {
    match key.x5c.as_deref() {
        Some([one]) => STANDARD.decode(one).map(CertificateDer::from).map_err(|_| ParseError::Certificates),
        Some(_) | None => Err(ParseError::Certificates),
    }
}

fn root(certificate: CertificateDer<'static>) -> Result<Anchor, ParseError> {
    let parsed = svid::parse(&certificate).map_err(|_| ParseError::Root)?;
    // webpki takes any certificate as an anchor, a workload's own too.
    if !svid::may_sign_certificates(&parsed, false) {
        return Err(ParseError::Root);
    }
    let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| ParseError::Root)?.to_owned();
    Ok(Anchor { window: svid::window(&parsed), may_sign_lists: svid::may_sign_lists(&parsed), anchor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::testkit::*;

    fn roots(bytes: &[u8]) -> Result<usize, ParseError> {
        Bundle::parse(bytes).map(|bundle| bundle.anchors.len())
    }

    #[test]
    fn an_empty_or_absent_key_set_trusts_nobody() {
        assert_eq!(roots(br#"{"keys": []}"#), Ok(0));
        assert_eq!(roots(br#"{"spiffe_sequence": 1}"#), Ok(0));
        assert_eq!(roots(br#"{"keys": [{"use": "other"}, {}]}"#), Ok(0));
    }

    #[test]
    fn json_and_pem_give_roots() {
        let (one, two) = (Authority::root("one"), Authority::root("two"));
        let parsed = Bundle::parse(&bundle(&[&one, &two], Some(3))).unwrap();
        assert_eq!((parsed.anchors.len(), parsed.sequence), (2, Some(3)));
        assert_eq!(roots(&[one.pem(), two.pem()].concat()), Ok(2));
    }

    #[test]
    fn what_does_not_parse_whole_is_an_error() {
        assert_eq!(roots(b""), Err(ParseError::Pem));
        assert_eq!(roots(b"-----BEGIN CERTIFICATE-----\nAAAA"), Err(ParseError::Pem));
        assert!(matches!(roots(b"{"), Err(ParseError::Json(_))));
        assert!(matches!(roots(br#"{"keys": [], "spiffe_sequence": -1}"#), Err(ParseError::Json(_))));
        assert!(matches!(roots(br#"{"keys": [], "keys": []}"#), Err(ParseError::Json(_))));
        assert_eq!(roots(br#"{"keys": [{"use": "x509-svid"}]}"#), Err(ParseError::Certificates));
        assert_eq!(roots(br#"{"keys": [{"use": "jwt-svid"}]}"#), Err(ParseError::KeyId));
    }

    #[test]
    fn a_workloads_own_certificate_is_no_root() {
        let leaf = Authority::root("root").leaf(ID);
        assert_eq!(roots(leaf.chain_pem().as_bytes()), Err(ParseError::Root));
    }

    #[test]
    fn bundle_vectors_of_others_give_their_verdicts() {
        let Some(folder) = vectors() else { return };
        let of = |name: &str| roots(&std::fs::read(folder.join(name)).unwrap());
        assert_eq!(of("spiffebundle_valid_1.json"), Ok(1));
        assert_eq!(of("spiffebundle_missing_kid.json"), Err(ParseError::KeyId));
        assert_eq!(of("spiffebundle_multiple_x509.json"), Err(ParseError::Certificates));
        assert_eq!(of("spiffebundle_no_keys.json"), Ok(0));
    }
}
