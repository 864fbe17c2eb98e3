//! What rustls asks in a workload's handshake.
//!
//! *Takes* a presented chain. *Gives* a handshake that goes on, which proves nothing to later stages. *Denies*, as TLS
//! alerts, what is provably wrong; what is uncertain passes, and each stream hears it. *Source*: RFC 8446 §6.2;
//! `protocol.md` "Connection".

use super::observer::{HandshakeObserver, Refusals};
use super::svid;
use super::tls;
use super::trust::Trust;
use crate::denial::{Class, Denial};
use crate::time::{Clock, Now};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;

/// Verifies workloads' certificates against [`Trust`].
pub struct WorkloadVerifier {
    trust: Arc<Trust>,
    clock: Arc<Clock>,
    refusals: Refusals,
}

impl WorkloadVerifier {
    /// A verifier for the release listener.
    pub fn new(trust: Arc<Trust>, clock: Arc<Clock>, observer: Arc<dyn HandshakeObserver>) -> Self {
        WorkloadVerifier { trust, clock, refusals: Refusals::new(observer) }
    }

    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), Denial> {
        let (now, trusted) = moment(&self.clock);
        let (id, leaf) = svid::check_workload(chain).inspect_err(|denial| self.refusals.count(*denial))?;
        let judged = self.trust.judge(chain, &id, &leaf, now);
        let denial = match judged.outcome {
            Ok(_) => return Ok(()),
            Err(denial) if !is_provable(denial, trusted) => return Ok(()),
            Err(denial) => denial,
        };
        match judged.leads_to_root {
            true => self.refusals.refuse(denial, Some(&id), &leaf, now.boot),
            false => self.refusals.count(denial),
        }
        Err(denial)
    }
}

/// The moment to judge a handshake at, and whether the clock is trusted. Where it is not, the highest time ever seen stands
/// in: what had ended by then has ended.
pub(super) fn moment(clock: &Clock) -> (Now, bool) {
    match clock.now() {
        Ok(now) => (now, true),
        Err(_) => (Now { wall: clock.highest(), boot: clock.untrusted().boot }, false),
    }
}

/// Without a trusted clock, "not yet valid" is no knowledge: the time is at least the highest seen, and may be any later.
fn is_provable(denial: Denial, clock_trusted: bool) -> bool {
    denial.class() == Class::Refused && (clock_trusted || denial != Denial::PeerCertificateNotYetValid)
}

/// The TLS alert that fits (RFC 8446 §6.2), as rustls maps it.
pub(super) fn alert(denial: Denial) -> Error {
    Error::InvalidCertificate(match denial {
        Denial::PeerIdentityAmbiguous | Denial::PeerIdentityMalformed => CertificateError::BadEncoding,
        Denial::PeerTrustDomainUnknown | Denial::PeerUntrusted => CertificateError::UnknownIssuer,
        Denial::PeerCertificateNotYetValid => CertificateError::NotValidYet,
        Denial::PeerCertificateExpired => CertificateError::Expired,
        Denial::PeerRevoked | Denial::PeerRevokedByBroker => CertificateError::Revoked,
        _ => CertificateError::ApplicationVerificationFailure,
    })
}

/// The chain as one slice of borrowed certificates, leaf first.
pub(super) fn chain_of<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    let all = std::iter::once(end_entity).chain(intermediates);
    all.map(|certificate| CertificateDer::from(certificate.as_ref())).collect()
}

macro_rules! client_cert_verifier {
    ($type:ty) => {
        impl ClientCertVerifier for $type {
            fn offer_client_auth(&self) -> bool {
                true
            }

            fn client_auth_mandatory(&self) -> bool {
                true
            }

            fn root_hint_subjects(&self) -> &[DistinguishedName] {
                &[]
            }

            /// rustls's time is not used: the broker's own clock knows whether it can be trusted.
            fn verify_client_cert(
                &self,
                end_entity: &CertificateDer<'_>,
                intermediates: &[CertificateDer<'_>],
                _now: UnixTime,
            ) -> Result<ClientCertVerified, Error> {
                self.judge(&crate::transport::verifier::chain_of(end_entity, intermediates))
                    .map(|()| ClientCertVerified::assertion())
                    .map_err(crate::transport::verifier::alert)
            }

            /// TLS 1.2 is not spoken.
            fn verify_tls12_signature(
                &self,
                _message: &[u8],
                _certificate: &CertificateDer<'_>,
                _signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Err(Error::General("only TLS 1.3 is spoken".to_owned()))
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                rustls::crypto::verify_tls13_signature(message, certificate, signed, &tls::SIGNATURES)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                tls::SIGNATURES.supported_schemes()
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(stringify!($type))
            }
        }
    };
}

pub(super) use client_cert_verifier;

client_cert_verifier!(WorkloadVerifier);
