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
use crate::tls::{ALL, SIGNATURES, TrustedTime};
pub(super) use crate::tls::{ALPN_H2, crypto_provider};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

/// A client that resumes nothing and shows its certificate whenever it is asked.
pub(super) fn client_config(
    credentials: &Credentials,
    broker_id: &SpiffeId,
    provider: Arc<CryptoProvider>,
    clock: Arc<Clock>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let verifier = BrokerVerifier { roots: credentials.roots.clone(), broker_id: broker_id.clone() };
    let mut config = rustls::ClientConfig::builder_with_details(provider, Arc::new(TrustedTime(clock)))
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
