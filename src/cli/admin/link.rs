//! One connection to the operators' listener: full handshake, and only the broker will do.
//!
//! *Takes* address, certificate, key, bundle, the broker's SPIFFE ID. *Gives* a client of the operators' API. *Denies* any
//! other peer: what judges it is what judges workloads in the broker. *Source*: SPIFFE X.509-SVID §5; catalogue row 20.

use super::Failure;
use super::output::{Lines, Output};
use crate::client::{Heard, Listening};
use crate::limits;
use crate::proto::admin::admin_client::AdminClient;
use crate::proto::admin::unsealing_client::UnsealingClient;
use crate::spiffe::SpiffeId;
use crate::time::{Clock, SystemTime, WallTime};
use crate::transport::bundle::Bundle;
use crate::transport::path::{self, Anchor};
use crate::transport::{svid, tls};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme};
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::{Response, Status};
use zeroize::Zeroizing;

/// Where the broker is, who it is, and who asks.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectionArgs {
    /// The operators' listener, host:port.
    #[arg(long, global = true, env = "PORTCULLIS_ADMIN", help_heading = "Connection")]
    pub admin_address: Option<String>,
    /// Your certificate, PEM.
    #[arg(long, global = true, env = "PORTCULLIS_ADMIN_CERT", help_heading = "Connection")]
    pub admin_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, global = true, env = "PORTCULLIS_ADMIN_KEY", help_heading = "Connection")]
    pub admin_key: Option<PathBuf>,
    /// The bundle of the broker's own trust domain: a SPIFFE bundle (JSON) or PEM.
    #[arg(long, global = true, env = "PORTCULLIS_BUNDLE", help_heading = "Connection")]
    pub bundle: Option<PathBuf>,
    /// The broker's SPIFFE ID; any other peer is refused.
    #[arg(long, global = true, env = "PORTCULLIS_BROKER_ID", help_heading = "Connection")]
    pub broker_id: Option<String>,
}

/// The operators' API, and how its answers are printed.
pub struct Operators {
    /// Where and who.
    pub connection: ConnectionArgs,
    /// How to print.
    pub output: Output,
}

impl Operators {
    /// Connects, once.
    pub(super) async fn open(&self) -> Result<AdminClient<Link>, Failure> {
        let within = Duration::from_millis(limits::HANDSHAKE_MS);
        let opened = tokio::time::timeout(within, open(&self.connection)).await;
        let (link, origin) = opened.map_err(|_| Failure::connect("connecting took too long"))??;
        Ok(AdminClient::with_origin(link, origin)
            .max_decoding_message_size(limits::ADMIN_MESSAGE_BYTES)
            .max_encoding_message_size(limits::ADMIN_MESSAGE_BYTES))
    }

    /// As [`Operators::open`], to the service of a sealed broker.
    pub(super) async fn open_sealed(&self) -> Result<UnsealingClient<Link>, Failure> {
        let within = Duration::from_millis(limits::HANDSHAKE_MS);
        let opened = tokio::time::timeout(within, open(&self.connection)).await;
        let (link, origin) = opened.map_err(|_| Failure::connect("connecting took too long"))??;
        Ok(UnsealingClient::with_origin(link, origin))
    }

    /// Waits for an answer, and prints it.
    pub(super) async fn answer<T: serde::Serialize + Lines>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<(), Failure> {
        self.output.show(&self.wait(call).await?)
    }

    /// Waits for an answer.
    pub(super) async fn wait<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let answered = tokio::time::timeout(ANSWER_WITHIN, call).await;
        let late = "no answer in a minute: whether it was done, the audit log says";
        Ok(answered.map_err(|_| Failure::connect(late))??.into_inner())
    }
}

async fn open(args: &ConnectionArgs) -> Result<(Link, http::Uri), Failure> {
    let address = required(args.admin_address.as_ref(), "--admin-address (PORTCULLIS_ADMIN)")?;
    let certificate = required(args.admin_cert.as_ref(), "--admin-cert (PORTCULLIS_ADMIN_CERT)")?;
    let key = required(args.admin_key.as_ref(), "--admin-key (PORTCULLIS_ADMIN_KEY)")?;
    let bundle = required(args.bundle.as_ref(), "--bundle (PORTCULLIS_BUNDLE)")?;
    let broker_id = required(args.broker_id.as_ref(), "--broker-id (PORTCULLIS_BROKER_ID)")?;
    let broker_id =
        SpiffeId::parse(broker_id).map_err(|error| Failure::usage(format!("--broker-id: {error}")))?;
    let origin = origin(address)?;
    let provider = Arc::new(tls::crypto_provider());
    let own = own_certificate(certificate, key, &provider)?;
    let anchors = Bundle::parse(&read(bundle)?).map_err(|error| unusable(bundle, &error))?.anchors;
    let clock = Arc::new(Clock::new(Arc::new(SystemTime), WallTime(0)));
    let verifier = BrokerVerifier { anchors, broker_id, clock };
    let stream = TcpStream::connect(address.as_str()).await;
    let stream = stream.map_err(|error| Failure::connect(format!("`{address}`: {error}")))?;
    // Else each small frame waits for the peer's delayed acknowledgement: 40 ms, measured.
    stream.set_nodelay(true).map_err(|error| Failure::connect(error.to_string()))?;
    let stream = shake_hands(stream, own, verifier, provider, &origin).await?;
    let (stream, heard) = Listening::to(stream);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let shaken = builder.handshake::<_, Body>(TokioIo::new(stream)).await;
    let (requests, connection) = shaken.map_err(|error| match heard.refusal() {
        Some(why) => Failure::refused(why),
        None => Failure::connect(error.to_string()),
    })?;
    tokio::spawn(connection);
    Ok((Link { requests, heard }, origin))
}

async fn shake_hands(
    stream: TcpStream,
    own: CertifiedKey,
    verifier: BrokerVerifier,
    provider: Arc<CryptoProvider>,
    origin: &http::Uri,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let time = Arc::new(crate::tls::TrustedTime(verifier.clock.clone()));
    let failed = |error: rustls::Error| Failure::connect(format!("the handshake failed: {error}"));
    let mut config = rustls::ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // The name goes out as SNI, for balancers that route by it, and means nothing to the verifier; an address sends none.
    let host = origin.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let unnamed = || ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let name = ServerName::try_from(host).unwrap_or_else(|_| unnamed());
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = connected.map_err(|error| not_shaken(&error))?;
    match stream.get_ref().1.alpn_protocol() == Some(tls::ALPN_H2) {
        true => Ok(stream),
        false => Err(Failure::not_the_broker("not the broker: it does not speak HTTP/2")),
    }
}

/// What the verifier said, where it was the verifier; as `exec` and `get` tell it.
fn not_shaken(error: &std::io::Error) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
            Failure::not_the_broker(format!("not the broker: {why}"))
        }
        Some(rustls::Error::InvalidCertificate(why)) => {
            Failure::not_the_broker(format!("not the broker: its certificate is not usable: {why:?}"))
        }
        Some(_) | None => Failure::connect(format!("the handshake failed: {error}")),
    }
}

fn own_certificate(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Failure> {
    let pem = read(certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| unusable(certificate, &error))?;
    if chain.is_empty() {
        return Err(unusable(certificate, &"no certificate in PEM"));
    }
    let private =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| unusable(key, &"no private key in PEM"))?;
    CertifiedKey::from_der(chain, private, provider)
        .map_err(|_| unusable(key, &"it does not go with the certificate"))
}

fn required<'a, T>(value: Option<&'a T>, name: &str) -> Result<&'a T, Failure> {
    value.ok_or_else(|| Failure::usage(format!("{name} is needed to reach a broker")))
}

fn origin(address: &str) -> Result<http::Uri, Failure> {
    let wrong = || Failure::usage("--admin-address is not host:port");
    let authority: http::uri::Authority = address.parse().map_err(|_| wrong())?;
    if authority.port_u16().is_none() || authority.host().is_empty() || address.contains('@') {
        return Err(wrong());
    }
    http::Uri::builder().scheme("https").authority(authority).path_and_query("/").build().map_err(|_| wrong())
}

/// A small file, zeroized when dropped, as one of them is a key.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let length = std::fs::metadata(path).map_err(|error| unusable(path, &error))?.len();
    if length > limits::TRUST_FILE_BYTES {
        return Err(unusable(path, &"larger than 1 MiB"));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::configuration(format!("`{}`: {why}", path.display()))
}

/// The sending end of the one connection.
#[derive(Clone)]
pub struct Link {
    requests: SendRequest<Body>,
    heard: Heard,
}

impl tower_service::Service<http::Request<Body>> for Link {
    type Response = http::Response<Incoming>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(context).map_err(|error| self.heard.or(error))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (sent, heard) = (self.requests.send_request(request), self.heard.clone());
        Box::pin(async move { sent.await.map_err(|error| heard.or(error)) })
    }
}

/// Accepts the leaf whose SPIFFE ID is the broker's, byte for byte, on a path to the bundle, now. Names mean nothing.
struct BrokerVerifier {
    anchors: Vec<Anchor>,
    broker_id: SpiffeId,
    clock: Arc<Clock>,
}

#[derive(Debug, thiserror::Error)]
enum NotTheBroker {
    #[error("its certificate is no X.509-SVID ({0})")]
    Shape(crate::denial::Denial),
    #[error("its SPIFFE ID is `{0}`, not the broker's")]
    OtherIdentity(SpiffeId),
    #[error("its certificate does not hold against the bundle ({0})")]
    Path(crate::denial::Denial),
    #[error("this machine's clock cannot be trusted")]
    Clock,
}

impl BrokerVerifier {
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), NotTheBroker> {
        let (id, leaf) = svid::check_workload(chain).map_err(NotTheBroker::Shape)?;
        if id != self.broker_id {
            return Err(NotTheBroker::OtherIdentity(id));
        }
        let now = self.clock.now().map_err(|_| NotTheBroker::Clock)?;
        let presented = path::Presented { chain, facts: &leaf.facts };
        let found = path::find(presented, &self.anchors, now);
        found.map(drop).map_err(|no_path| NotTheBroker::Path(no_path.denial))
    }
}

impl std::fmt::Debug for BrokerVerifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BrokerVerifier").field("broker_id", &self.broker_id).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for BrokerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        match self.judge(&chain) {
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
        verify_tls13_signature(message, certificate, signature, &tls::SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::SIGNATURES.supported_schemes()
    }
}

/// Longer than any call takes: `explain` reads for seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Windows, bytes: the largest message does not wait for the peer.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::devca::{DevelopmentCa, LeafRequest};
    use crate::denial::Denial;
    use crate::time::TimeSource;

    const BROKER: &str = "spiffe://example.org/portcullis";

    fn chain(ca: &DevelopmentCa, id: &str, from: WallTime, to: WallTime) -> Vec<CertificateDer<'static>> {
        let request = LeafRequest {
            id: Some(SpiffeId::parse(id).unwrap()),
            name: "broker".into(),
            hosts: vec!["localhost".into()],
            serial: 7,
            not_before: from,
            not_after: to,
        };
        let pem = ca.leaf(&request).unwrap().certificate;
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn only_the_broker_itself_on_a_current_path_will_do() {
        let now = SystemTime.wall().unwrap();
        let (ca, other) = (DevelopmentCa::new("ca", now).unwrap(), DevelopmentCa::new("other", now).unwrap());
        let verifier = BrokerVerifier {
            anchors: Bundle::parse(ca.root().as_bytes()).unwrap().anchors,
            broker_id: SpiffeId::parse(BROKER).unwrap(),
            clock: Arc::new(Clock::new(Arc::new(SystemTime), WallTime(0))),
        };
        let (before, after) = (WallTime(now.0 - 60_000), now.plus(3_600_000));
        assert!(verifier.judge(&chain(&ca, BROKER, before, after)).is_ok());
        let refused = |chain: &[CertificateDer<'_>]| verifier.judge(chain).unwrap_err();
        let neighbour = refused(&chain(&ca, "spiffe://example.org/ns/payments/api", before, after));
        assert!(matches!(neighbour, NotTheBroker::OtherIdentity(_)), "{neighbour}");
        let foreign = refused(&chain(&other, BROKER, before, after));
        assert!(matches!(foreign, NotTheBroker::Path(Denial::PeerUntrusted)), "{foreign}");
        let expired = refused(&chain(&ca, BROKER, WallTime(now.0 - 120_000), before));
        assert!(matches!(expired, NotTheBroker::Path(Denial::PeerCertificateExpired)), "{expired}");
        assert!(matches!(refused(&[]), NotTheBroker::Shape(Denial::PeerIdentityMalformed)));
    }
}
