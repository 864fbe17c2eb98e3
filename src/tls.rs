//! What TLS may be, for whoever speaks it: few algorithms, one list for broker, workloads and operators.
//!
//! *Takes* nothing. *Gives* the signatures, the groups, the provider made of them, and the clock for those who connect.
//! *Denies* nothing itself. *Source*: RFC 8446; `protocol.md` "Connection".

use crate::time::Clock;
use rustls::SignatureScheme;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::pki_types::{SignatureVerificationAlgorithm, UnixTime};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use webpki::aws_lc_rs as algorithms;

/// ALPN of HTTP/2 (RFC 9113 §3.2).
pub const ALPN_H2: &[u8] = b"h2";

/// The signatures accepted in handshakes, certificates and revocation lists: ECDSA P-256 and P-384, Ed25519, RSA-PSS
/// from 2048 bits.
pub static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: ALL,
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[algorithms::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[algorithms::ECDSA_P384_SHA384]),
        (SignatureScheme::ED25519, &[algorithms::ED25519]),
        (SignatureScheme::RSA_PSS_SHA256, &[algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA512, &[algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
    ],
};

/// The same, for paths. An ECDSA key may sign a certificate with either digest; TLS 1.3 ties curve and digest together.
pub static ALL: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// aws-lc-rs with TLS 1.3 suites, the groups X25519MLKEM768, X25519 and P-256, and [`SIGNATURES`].
pub fn crypto_provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            provider::kx_group::X25519MLKEM768,
            provider::kx_group::X25519,
            provider::kx_group::SECP256R1,
        ],
        signature_verification_algorithms: SIGNATURES,
        ..provider::default_provider()
    }
}

/// Our clock for rustls, which would else ask the system; a suspect clock is no time, and no handshake.
pub struct TrustedTime(pub Arc<Clock>);

impl fmt::Debug for TrustedTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TrustedTime")
    }
}

impl rustls::time_provider::TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.0.now().ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now.wall.0)))
    }
}
