//! TLS as the client does it: 1.3 only, one full handshake, and one peer that will do.
//!
//! *Takes* [`Credentials`], the broker's SPIFFE ID and the clock. *Gives* a `ClientConfig` whose verifier accepts the
//! broker's X.509-SVID alone. *Denies* nothing itself: it gives [`PeerRefused`]. *Source*: RFC 8446; SPIFFE X.509-SVID §5;
//! `protocol.md` "Connection".

use super::credentials::Credentials;
use super::error::PeerRefused;
use super::svid;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::Clock;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, KeyUsage};

/// ALPN of HTTP/2 (RFC 9113 §3.2).
pub(super) const ALPN_H2: &[u8] = b"h2";

/// A client that resumes nothing and shows its certificate whenever it is asked.
pub(super) fn client_config(
    credentials: &Credentials,
    broker_id: &SpiffeId,
    provider: Arc<CryptoProvider>,
    clock: Arc<Clock>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let verifier = BrokerVerifier { roots: credentials.roots.clone(), broker_id: broker_id.clone() };
    let mut config = rustls::ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified.clone())));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.key_log = Arc::new(rustls::NoKeyLog);
    Ok(config)
}

/// The groups X25519MLKEM768, X25519 and P-256, and [`SIGNATURES`] (`protocol.md` "Connection").
pub(super) fn crypto_provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            provider::kx_group::X25519MLKEM768,
            provider::kx_group::X25519,
            provider::kx_group::SECP256R1,
        ],
        signature_verification_algorithms: SIGNATURES,
        ..provider::default_provider()
    }
}

/// Accepts the leaf whose SPIFFE ID is the broker's, byte for byte, on a path to the bundle, now. Names mean nothing.
#[derive(Debug)]
struct BrokerVerifier {
    roots: Vec<CertificateDer<'static>>,
    broker_id: SpiffeId,
}

impl BrokerVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerRefused> {
        let (id, _) = svid::check(chain).map_err(PeerRefused::NotAnSvid)?;
        if id != self.broker_id {
            return Err(PeerRefused::OtherIdentity);
        }
        match self.verify_path(chain, now) {
            // What begins in the future has an allowance; at that later time, what has ended has still ended.
            Err(PeerRefused::NotYetValid) => self.verify_path(chain, allowed_until(now)),
            outcome => outcome,
        }
    }

    fn verify_path(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerRefused> {
        let (leaf, issuers) = chain.split_first().ok_or(PeerRefused::Untrusted)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| PeerRefused::Untrusted)?;
        let anchors = self.anchors(now);
        leaf.verify_for_usage(ALL, &anchors, issuers, now, KeyUsage::server_auth(), None, None)
            .map(|_| ())
            .map_err(refused)
    }

    /// The authorities that have not ended: webpki takes an anchor's word without looking at its validity.
    fn anchors(&self, now: UnixTime) -> Vec<TrustAnchor<'_>> {
        let valid = |root: &&CertificateDer<'_>| {
            svid::ends_at(root)
                .and_then(|end| u64::try_from(end).ok())
                .is_some_and(|end| end >= now.as_secs())
        };
        let roots = self.roots.iter().filter(valid);
        roots.filter_map(|root| webpki::anchor_from_trusted_cert(root).ok()).collect()
    }
}

impl ServerCertVerifier for BrokerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        match self.verify(&chain, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => Err(CertificateError::Other(OtherError(Arc::new(why))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

fn refused(error: webpki::Error) -> PeerRefused {
    match error {
        webpki::Error::CertExpired { .. } => PeerRefused::Expired,
        webpki::Error::CertNotValidYet { .. } => PeerRefused::NotYetValid,
        _ => PeerRefused::Untrusted,
    }
}

fn allowed_until(now: UnixTime) -> UnixTime {
    let seconds = now.as_secs().saturating_add(limits::NOT_YET_ALLOWANCE_SECONDS);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Our clock for rustls, which would else ask the system; a suspect clock is no time, and no handshake.
struct ClockTime(Arc<Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClockTime")
    }
}

impl rustls::time_provider::TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.0.now().ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now.wall.0)))
    }
}

/// The signatures accepted in handshakes: ECDSA P-256 and P-384, Ed25519, RSA-PSS from 2048 bits.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
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

/// The same, for paths; an ECDSA key may sign a certificate with either digest.
static ALL: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];
