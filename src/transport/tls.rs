//! What TLS may be: 1.3 only, full handshakes only, few algorithms.
//!
//! *Takes* a certificate, a verifier and the clock. *Gives* a `ServerConfig`. *Denies* nothing itself.
//! *Source*: RFC 8446; `protocol.md` "Connection"; `fail-open-catalogue.md` row 24.

use crate::time::Clock;
use rustls::SignatureScheme;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::pki_types::{SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
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

/// A server that proves every client anew: no tickets, no stored handshakes, no early data.
pub fn server_config(
    provider: &Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Arc<Clock>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let time = Arc::new(ClockTime(clock));
    let mut config = rustls::ServerConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(OneCertificate(key)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.key_log = Arc::new(rustls::NoKeyLog);
    Ok(config)
}

/// SNI means nothing here: one certificate for every client.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for OneCertificate {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// The broker's clock for rustls, which would else ask the system.
struct ClockTime(Arc<Clock>);

impl std::fmt::Debug for ClockTime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ClockTime")
    }
}

impl rustls::time_provider::TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.untrusted().wall.0)))
    }
}
