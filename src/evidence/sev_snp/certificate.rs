//! AMD's certificates: what one says of itself, and the two ways in which AMD writes RSA-PSS.
//!
//! *Takes* DER, untrusted. *Gives* [`Certificate`], its extensions, [`CertificateName`]. *Denies* `EndorsementUntrusted`,
//! `EndorsementExpired`, `EndorsementNotYetValid`. *Source*: AMD 57230 §2, §3 (extensions); RFC 4055 §3.1; RFC 5280 §4.

use super::product::{Product, SigningKey, Tcb};
use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::limits;
use crate::time::{Now, WallTime};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{X509Name, X509Version};

/// A certificate taken apart; nothing of it is verified.
pub(super) struct Certificate<'a> {
    pub(super) der: &'a [u8],
    parsed: X509Certificate<'a>,
}

/// What the certificate of a signing key is for. KDS makes a new certificate at each call, so none is known by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateName {
    /// The product, by the issuer's name.
    pub product: Product,
    /// VCEK or VLEK.
    pub signing_key: SigningKey,
    /// A VCEK's chip; empty for a VLEK.
    pub chip_id: Vec<u8>,
    /// The TCB version that the key is derived for.
    pub tcb: Tcb,
}

/// A certificate's validity; `ends` is exclusive, as everywhere in this house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) begins: WallTime,
    pub(super) ends: WallTime,
}

impl Window {
    /// **Denies** `EndorsementExpired`, `EndorsementNotYetValid`.
    pub(super) fn check(&self, what: &str, now: Now) -> Result<(), Refusal> {
        if now.wall >= self.ends {
            let detail = format!("the {what} certificate ended at {}", self.ends);
            return Err(Refusal::new(Denial::EndorsementExpired, detail));
        }
        let allowance = limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000);
        if self.begins > now.wall.plus(allowance) {
            let detail = format!("the {what} certificate begins at {}", self.begins);
            return Err(Refusal::new(Denial::EndorsementNotYetValid, detail));
        }
        Ok(())
    }
}

impl<'a> Certificate<'a> {
    /// Parses one certificate, whole; duplicate extensions are refused. None where it is no such thing.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        if der.len() > limits::SEV_SNP_CERTIFICATE_BYTES {
            return None;
        }
        match X509Certificate::from_der(der) {
            Ok(([], parsed)) if parsed.version() == X509Version::V3 && parsed.extensions_map().is_ok() => {
                Some(Certificate { der, parsed })
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// The subject's one common name.
    pub(super) fn subject_name(&self) -> Option<&str> {
        common_name(self.parsed.subject())
    }

    /// The issuer's one common name.
    pub(super) fn issuer_name(&self) -> Option<&str> {
        common_name(self.parsed.issuer())
    }

    /// The subject, DER.
    pub(super) fn subject(&self) -> &'a [u8] {
        self.parsed.tbs_certificate.subject.as_raw()
    }

    /// The issuer, DER.
    pub(super) fn issuer(&self) -> &'a [u8] {
        self.parsed.tbs_certificate.issuer.as_raw()
    }

    pub(super) fn window(&self) -> Window {
        let validity = self.parsed.validity();
        let at = |time: x509_parser::time::ASN1Time| WallTime::from_seconds(time.timestamp());
        Window { begins: at(validity.not_before), ends: at(validity.not_after) }
    }

    /// The serial number, big-endian, without leading zeros.
    pub(super) fn serial(&self) -> Vec<u8> {
        self.parsed.tbs_certificate.serial.to_bytes_be()
    }

    /// The subject's public key: PKCS#1 for RSA, a point for ECDSA.
    pub(super) fn public_key(&self) -> &[u8] {
        &self.parsed.public_key().subject_public_key.data
    }

    /// Whether it is a CA with keyCertSign: webpki takes a CA's word without key usage.
    pub(super) fn may_sign_certificates(&self) -> bool {
        let authority = matches!(self.parsed.basic_constraints(), Ok(Some(found)) if found.value.ca);
        authority && matches!(self.parsed.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign())
    }

    /// Whether it may sign revocation lists (RFC 5280 §4.2.1.3).
    pub(super) fn may_sign_lists(&self) -> bool {
        matches!(self.parsed.key_usage(), Ok(Some(usage)) if usage.value.crl_sign())
    }

    /// Whether this RSA key signed it, by one of AMD's algorithms and the one that it names inside and outside.
    pub(super) fn is_by(&self, public_key: &[u8]) -> bool {
        let (content, signature) = (self.parsed.tbs_certificate.as_ref(), &self.parsed.signature_value.data);
        self.parsed.signature_algorithm == self.parsed.tbs_certificate.signature
            && SIGNATURES.iter().any(|one| one.verify_signature(public_key, content, signature).is_ok())
    }

    /// The uncompressed P-384 point of its key.
    pub(super) fn p384_point(&self) -> Option<&[u8]> {
        let key = self.parsed.public_key();
        let algorithm = &key.algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok())?;
        let is_p384 =
            algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY && curve.to_id_string() == SECP384R1;
        let point: &[u8] = &key.subject_public_key.data;
        (is_p384 && point.len() == 97 && point.first() == Some(&4)).then_some(point)
    }

    /// VCEK or VLEK and of which product, by its own name and its issuer's together.
    pub(super) fn role(&self) -> Option<(SigningKey, Product)> {
        let (subject, issuer) = (self.subject_name()?, self.issuer_name()?);
        let key = SigningKey::ALL.into_iter().find(|key| key.subject_name() == subject)?;
        let product = Product::ALL.into_iter().find(|product| key.issuer_name(*product) == issuer)?;
        Some((key, product))
    }

    /// `productName`, an IA5String.
    pub(super) fn product_name(&self) -> Option<&str> {
        ia5(self.extension(&[2])?)
    }

    /// The chip, 64 or 8 bytes: raw, not DER, though it may look like DER.
    pub(super) fn hw_id(&self) -> Option<&[u8]> {
        self.extension(&[4])
    }

    /// The cloud provider of a VLEK, an IA5String.
    pub(super) fn csp_id(&self) -> Option<&str> {
        ia5(self.extension(&[5])?)
    }

    /// The TCB version it is for; none where a component that the product has is missing or no number from 0 to 255.
    pub(super) fn tcb(&self, product: Product) -> Option<Tcb> {
        let level = |component| spl(self.extension(&[3, component])?);
        let fmc = match product {
            Product::Turin => Some(level(9)?),
            Product::Milan | Product::Genoa => None,
        };
        Some(Tcb { fmc, bootloader: level(1)?, tee: level(2)?, snp: level(3)?, microcode: level(8)? })
    }

    /// What it is for, where it is the certificate of a signing key and says all of it.
    pub(super) fn name(&self) -> Option<CertificateName> {
        let (signing_key, product) = self.role()?;
        let chip_id = match signing_key {
            SigningKey::Vcek => self.hw_id()?.to_vec(),
            SigningKey::Vlek => Vec::new(),
        };
        Some(CertificateName { product, signing_key, chip_id, tcb: self.tcb(product)? })
    }

    fn extension(&self, below: &[u8]) -> Option<&[u8]> {
        let is = |found: &&x509_parser::extensions::X509Extension<'_>| {
            found.oid.as_bytes().strip_prefix(AMD_ARC) == Some(below)
        };
        self.parsed.extensions().iter().find(is).map(|extension| extension.value)
    }
}

/// The one common name of a name; none where there are several.
fn common_name<'n>(name: &'n X509Name<'_>) -> Option<&'n str> {
    let mut names = name.iter_common_name();
    let only = names.next()?.as_str().ok()?;
    names.next().is_none().then_some(only)
}

/// A DER INTEGER from 0 to 255.
fn spl(der: &[u8]) -> Option<u8> {
    match *der {
        [2, 1, level @ 0..=127] | [2, 2, 0, level @ 128..=255] => Some(level),
        _ => None,
    }
}

/// A DER IA5String of at most 127 bytes.
fn ia5(der: &[u8]) -> Option<&str> {
    let [22, length, text @ ..] = der else { return None };
    let whole = text.len() == usize::from(*length) && text.len() < 128 && !text.is_empty();
    let graphic = text.iter().all(|byte| matches!(byte, 0x20..=0x7e));
    (whole && graphic).then(|| std::str::from_utf8(text).ok())?
}

/// RSA-PSS with SHA-384 and a salt of 48 bytes, as AMD writes it with an explicit trailerField; DER would leave it out, so
/// no stock list of algorithms knows it. All of AMD's roots and intermediates are signed so.
#[derive(Debug)]
struct PssWithTrailer;

impl SignatureVerificationAlgorithm for PssWithTrailer {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY
            .verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        AlgorithmIdentifier::from_slice(PSS_WITH_TRAILER)
    }
}

/// The signatures that AMD's certificates and lists may have: one algorithm, in two spellings.
pub(super) static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] =
    &[&PssWithTrailer, webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY];

/// Contents of the AlgorithmIdentifier: id-RSASSA-PSS, then its parameters (RFC 4055 §3.1) with trailerField [3] of 1.
const PSS_WITH_TRAILER: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x39, 0xa0, 0x0f, 0x30, 0x0d,
    0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a,
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86,
    0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30, 0xa3, 0x03, 0x02,
    0x01, 0x01,
];

/// AMD's arc for these extensions, 1.3.6.1.4.1.3704.1, contents of the OID (AMD 57230 §3.1). What is below it here is one
/// byte a part.
const AMD_ARC: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];
/// id-ecPublicKey (RFC 5480 §2.1.1).
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
/// secp384r1 (RFC 5480 §2.1.1.1).
const SECP384R1: &str = "1.3.132.0.34";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_level_has_one_encoding() {
        assert_eq!(spl(&[2, 1, 0]), Some(0));
        assert_eq!(spl(&[2, 1, 127]), Some(127));
        assert_eq!(spl(&[2, 2, 0, 128]), Some(128));
        assert_eq!(spl(&[2, 2, 0, 255]), Some(255));
        for wrong in
            [&[2, 1, 128][..], &[2, 2, 0, 127], &[2, 2, 1, 0], &[2, 1], &[2, 1, 1, 0], &[4, 1, 1], &[]]
        {
            assert_eq!(spl(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_text_is_whole_and_printable() {
        assert_eq!(ia5(b"\x16\x05Milan"), Some("Milan"));
        for wrong in
            [&b"\x16\x04Milan"[..], b"\x16\x06Milan", b"\x0c\x05Milan", b"\x16\x00", b"\x16\x02a\x00", b""]
        {
            assert_eq!(ia5(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn both_spellings_are_of_one_algorithm() {
        let stock = webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY.signature_alg_id();
        let own = PssWithTrailer.signature_alg_id();
        let without_trailer: Vec<u8> =
            [&own.as_ref()[..12], &[0x34], &own.as_ref()[13..own.len() - 5]].concat();
        assert_eq!(without_trailer, stock.as_ref());
        assert_eq!(own.as_ref()[own.len() - 5..], [0xa3, 0x03, 0x02, 0x01, 0x01]);
    }
}
