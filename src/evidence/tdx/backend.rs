//! The primitives that `dcap-qvl` verifies with: aws-lc's, so that no second source of them comes in.
//!
//! *Takes* nothing. *Gives* [`Backend`]. *Denies* nothing. *Source*: `dcap_qvl::config`; FIPS 186-5 (ECDSA), FIPS 180-4.

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::signature::DerSigEncoder;
use dcap_qvl::x509::X509CertBackend;
use rustls::pki_types::SignatureVerificationAlgorithm;

/// `dcap-qvl`'s own certificate parser and signature encoder, over aws-lc.
pub(super) struct Backend;

impl Config for Backend {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = AwsLc;
}

/// ECDSA P-256 with SHA-256, and the two digests.
pub(super) struct AwsLc;

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        sha256(data)
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        copied(digest(&SHA384, data).as_ref())
    }
}

/// SHA-256.
pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    copied(digest(&SHA256, data).as_ref())
}

/// Whether `signature`, `r ‖ s`, is of the uncompressed P-256 point `key` (`x ‖ y`, or with 0x04 before it) over
/// `message`.
pub(super) fn verifies_raw(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let der = dcap_qvl_der(signature);
    der.is_some_and(|der| verifies(key, message, &der))
}

/// The same for a signature in DER.
pub(super) fn verifies(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let point = if key.len() == POINT_BYTES { [&[UNCOMPRESSED], key].concat() } else { key.to_vec() };
    AwsLc::sig_algo().verify_signature(&point, message, signature).is_ok()
}

fn dcap_qvl_der(signature: &[u8]) -> Option<Vec<u8>> {
    use dcap_qvl::config::EcdsaSigEncoder;
    let (r, s) = signature.split_at_checked(POINT_BYTES / 2)?;
    DerSigEncoder::encode_ecdsa_sig(r, s).ok()
}

fn copied<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut to = [0; N];
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    to
}

/// Two coordinates of P-256.
const POINT_BYTES: usize = 64;
/// SEC 1 §2.3.3.
const UNCOMPRESSED: u8 = 4;
