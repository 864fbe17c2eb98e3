//! What TLS may be: 1.3 only, full handshakes only, few algorithms.
//!
//! *Takes* a certificate, a verifier and the clock. *Gives* a `ServerConfig`. *Denies* nothing itself.
//! *Source*: RFC 8446; `protocol.md` "Connection"; `fail-open-catalogue.md` row 24.

use crate::time::Clock;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::Duration;

pub use crate::tls::{ALL, ALPN_H2, SIGNATURES, crypto_provider};

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

/// The broker's clock for rustls, which would else ask the system: trusted or not, as the verifiers judge by themselves.
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
