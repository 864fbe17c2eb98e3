//! One connection to the broker: read the files, shake hands in full, bind, and only then speak.
//!
//! *Takes* a [`Config`]. *Gives* [`Connection`], whose peer is the broker and whose exporter is at hand. *Denies* nothing
//! itself: it gives [`ReleaseError`]. *Source*: `protocol.md` "Connection"; RFC 9266; catalogue rows 17 and 24.

use super::attester::Attester;
use super::config::{Config, ConfigError};
use super::credentials::{self, Credentials};
use super::error::{CertificateRefused, ConnectError, Imposture, PeerRefused, ReleaseError};
use super::lease::Lease;
use super::link::{Link, explain};
use super::raw::Identity;
use super::release::{self, Request};
use super::tls;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::{Clock, SystemTime, WallTime};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, HandshakeKind, ProtocolVersion};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection to the broker, for one release or for many, of which up to 64 at once. It ends with its last stream, and
/// when the broker says so; it is never opened again by itself.
pub struct Connection {
    link: Link,
    origin: http::Uri,
    broker_id: SpiffeId,
    identity: Identity,
    clock: Arc<Clock>,
    deadline: Duration,
}

impl Connection {
    /// Reads certificate, key and bundle, connects once, and verifies that the other side is the broker.
    pub async fn open(config: &Config) -> Result<Connection, ReleaseError> {
        Connection::open_by(config, Arc::new(Clock::new(Arc::new(SystemTime), WallTime(0)))).await
    }

    /// The same by another clock.
    pub async fn open_by(config: &Config, clock: Arc<Clock>) -> Result<Connection, ReleaseError> {
        within(config.deadline, Connection::establish(config, clock)).await
    }

    /// Releases the secrets of one request, or none of them, within the configured deadline. Nothing is tried again.
    pub async fn release(&self, attester: &dyn Attester, request: Request) -> Result<Lease, ReleaseError> {
        within(self.deadline, release::run(self, attester, request)).await
    }

    /// Our end of this connection, as it goes into bindings.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The broker's SPIFFE ID, as configured and as verified.
    pub fn broker_id(&self) -> &SpiffeId {
        &self.broker_id
    }

    /// Whether no further stream can be opened; the caller then opens another connection, or does not.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn origin(&self) -> &http::Uri {
        &self.origin
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    async fn establish(config: &Config, clock: Arc<Clock>) -> Result<Connection, ReleaseError> {
        config.check()?;
        clock.now().map_err(ReleaseError::ClockSuspect)?;
        let provider = Arc::new(tls::crypto_provider());
        let patience = Duration::from_millis(limits::CERTIFICATE_PAIR_MS);
        let credentials = credentials::read(config, &provider, patience).await?;
        let unusable = |error: rustls::Error| ReleaseError::Connect(ConnectError::Handshake(explain(&error)));
        let tls =
            tls::client_config(&credentials, &config.broker_id, provider, clock.clone()).map_err(unusable)?;
        let origin = config.origin()?;
        let stream = bounded(handshake(tls, &origin)).await?;
        let exporter = full_and_bound(&stream)?;
        let link = bounded(async { Link::over(stream).await.map_err(|error| lost(error.as_ref())) }).await?;
        let Credentials { id, spki_sha256, .. } = credentials;
        Ok(Connection {
            link,
            origin,
            broker_id: config.broker_id.clone(),
            identity: Identity { exporter, spki_sha256, id },
            clock,
            deadline: config.deadline,
        })
    }
}

/// Runs `work`; past `deadline` it is dropped where it stands, which resets its stream.
pub(super) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, ReleaseError>>,
) -> Result<T, ReleaseError> {
    tokio::time::timeout(deadline, work).await.unwrap_or(Err(ReleaseError::DeadlinePassed))
}

async fn bounded<T>(work: impl Future<Output = Result<T, ReleaseError>>) -> Result<T, ReleaseError> {
    let outcome = tokio::time::timeout(Duration::from_millis(limits::HANDSHAKE_MS), work).await;
    outcome.unwrap_or(Err(ReleaseError::Connect(ConnectError::HandshakeTooSlow)))
}

async fn handshake(
    tls: rustls::ClientConfig,
    origin: &http::Uri,
) -> Result<TlsStream<TcpStream>, ReleaseError> {
    let (host, port) = (bare_host(origin)?, origin.port_u16().ok_or(ConfigError::BrokerAddress)?);
    let unreachable =
        |error: std::io::Error| ReleaseError::Connect(ConnectError::Unreachable(explain(&error)));
    let socket = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    socket.set_nodelay(true).map_err(unreachable)?;
    // The name goes out as SNI, for balancers that route by it, and means nothing to the verifier; an address sends none.
    let unnamed = || ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_| unnamed());
    TlsConnector::from(Arc::new(tls)).connect(name, socket).await.map_err(|error| refused(&error))
}

/// An IPv6 address stands in brackets in an authority, and without them everywhere else.
fn bare_host(origin: &http::Uri) -> Result<&str, ConfigError> {
    let host = origin.host().ok_or(ConfigError::BrokerAddress)?;
    Ok(host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host))
}

/// Nothing is sent before this: a handshake of TLS 1.3, not resumed, with HTTP/2, and an exporter of its own.
fn full_and_bound(stream: &TlsStream<TcpStream>) -> Result<[u8; limits::EXPORTER_BYTES], ReleaseError> {
    let (_, connection) = stream.get_ref();
    let full = matches!(
        connection.handshake_kind(),
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
    );
    let version = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let speaks_h2 = connection.alpn_protocol() == Some(tls::ALPN_H2);
    let exporter = connection.export_keying_material([0; limits::EXPORTER_BYTES], EXPORTER_LABEL, Some(b""));
    match exporter {
        Ok(exporter) if full && version && speaks_h2 && exporter != [0; limits::EXPORTER_BYTES] => {
            Ok(exporter)
        }
        Ok(_) | Err(_) => Err(ReleaseError::NotTheBroker(Imposture::Connection)),
    }
}

fn refused(error: &std::io::Error) -> ReleaseError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let peer = match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            other.0.downcast_ref::<PeerRefused>()
        }
        _ => None,
    };
    match (peer, tls) {
        (Some(why), _) => ReleaseError::NotTheBroker(Imposture::Certificate(*why)),
        (None, Some(rustls::Error::InvalidCertificate(_))) => {
            ReleaseError::NotTheBroker(Imposture::Certificate(PeerRefused::Untrusted))
        }
        (None, Some(_) | None) => ReleaseError::Connect(ConnectError::Handshake(explain(error))),
    }
}

fn lost(error: &(dyn std::error::Error + Send + Sync + 'static)) -> ReleaseError {
    match error.downcast_ref::<CertificateRefused>() {
        Some(why) => ReleaseError::CertificateRefused(*why),
        None => ReleaseError::Connect(ConnectError::Lost(explain(error))),
    }
}

/// Label of the TLS exporter for channel bindings (RFC 9266 §2); the context is empty.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
