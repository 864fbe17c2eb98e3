//! The accept loop through real TCP, TLS and HTTP/2: what a client can observe of this stage.

use super::testkit::*;
use super::*;
use crate::case::Case;
use crate::denial::Denial;
use crate::spiffe::SpiffeId;
use crate::time::Clock;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const BROKER: &str = "spiffe://example.org/portcullis";

#[derive(Default)]
struct Seen {
    refused: Mutex<Vec<(Denial, Box<Case>)>>,
    counted: Mutex<Vec<Cause>>,
}

impl HandshakeObserver for Seen {
    fn refused(&self, denial: Denial, case: Box<Case>) {
        self.refused.lock().unwrap().push((denial, case));
    }
    fn counted(&self, cause: Cause) {
        self.counted.lock().unwrap().push(cause);
    }
}

impl Seen {
    fn recorded(&self) -> Vec<Denial> {
        self.refused.lock().unwrap().iter().map(|(denial, _)| *denial).collect()
    }

    async fn until_counted(&self, cause: Cause) {
        for _ in 0..200 {
            if self.counted.lock().unwrap().contains(&cause) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{cause:?} was never counted, only {:?}", self.counted.lock().unwrap());
    }
}

/// Answers with the exporter that it saw; `/wait` only when told to, `/leave` after asking the connection to go away.
#[derive(Clone)]
struct Echo {
    trust: Arc<Trust>,
    clock: Arc<Clock>,
    go_on: Arc<Notify>,
    entered: Arc<Notify>,
}

impl tower_service::Service<http::Request<Incoming>> for Echo {
    type Response = http::Response<Full<bytes::Bytes>>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let Some(connection) = request.extensions().get::<Arc<Connection>>().cloned() else {
                let administrator = request.extensions().get::<Arc<AdminConnection>>().unwrap();
                return Ok(http::Response::new(Full::from(administrator.leaf_spki_sha256().to_vec())));
            };
            if request.uri().path() == "/wait" {
                this.entered.notify_one();
                this.go_on.notified().await;
            }
            if request.uri().path() == "/leave" {
                connection.go_away();
            }
            let now = this.clock.now().unwrap();
            let body = match this.trust.prove(&connection, now) {
                Ok(peer) => peer.connection().exporter().to_vec(),
                Err(denial) => denial.name().as_bytes().to_vec(),
            };
            Ok(http::Response::new(Full::from(body)))
        })
    }
}

struct Server {
    world: World,
    trust: Arc<Trust>,
    hands: Arc<Hands>,
    clock: Arc<Clock>,
    seen: Arc<Seen>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    go_on: Arc<Notify>,
    entered: Arc<Notify>,
}

fn broker_files(world: &World) -> (PathBuf, PathBuf) {
    (world.folder.path().join("broker.pem"), world.folder.path().join("broker.key"))
}

fn write_broker(world: &World) {
    let leaf = world.root.leaf_with(BROKER, |p| {
        p.subject_alt_names.push(rcgen::SanType::DnsName("broker".try_into().unwrap()));
    });
    let (chain, key) = broker_files(world);
    write(&chain, leaf.chain_pem(), 0);
    write(&key, leaf.key.serialize_pem(), 0);
}

impl Server {
    async fn start() -> Self {
        Self::start_with(PeerKind::Workload, ConnectionLimits::default()).await
    }

    async fn start_with(kind: PeerKind, limits: ConnectionLimits) -> Self {
        let world = World::new();
        write_broker(&world);
        let (hands, clock) = clock(1);
        let trust = Arc::new(world.trust());
        let seen = Arc::new(Seen::default());
        let provider = Arc::new(tls::crypto_provider());
        let (chain, key) = broker_files(&world);
        let audience = Some(SpiffeId::parse(BROKER).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let roots = world.folder.path().join("administrators.pem");
        write(&roots, world.root.pem(), 0);
        let verifier: Arc<dyn rustls::server::danger::ClientCertVerifier> = match kind {
            PeerKind::Workload => Arc::new(WorkloadVerifier::new(trust.clone(), clock.clone(), seen.clone())),
            PeerKind::Administrator => {
                Arc::new(AdministratorVerifier::new(roots, clock.clone(), seen.clone()))
            }
        };
        let acceptor = Acceptor {
            listener,
            identity: Arc::new(ServerIdentity::new(chain, key, audience, provider.clone())),
            verifier,
            kind,
            provider,
            clock: clock.clone(),
            observer: seen.clone(),
            limits,
            shards: Some(Arc::new(crate::transport::Shards::start().unwrap())),
        };
        let (go_on, entered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (stop, stopped) = watch::channel(false);
        let echo = Echo {
            trust: trust.clone(),
            clock: clock.clone(),
            go_on: go_on.clone(),
            entered: entered.clone(),
        };
        let served = tokio::spawn(acceptor.serve(echo, stopped));
        Server { world, trust, hands, clock, seen, address, stop, served, go_on, entered }
    }

    async fn connect(&self, config: &Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("broker").unwrap();
        TlsConnector::from(config.clone()).connect(name, stream).await
    }

    /// In TLS 1.3 a client is done before the server judged its certificate: the alert comes with the first read.
    async fn alert(&self, identity: &Identity) -> Option<AlertDescription> {
        let refused = |error: std::io::Error| match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            other => panic!("{other}"),
        };
        match self.connect(&client(identity)).await {
            Err(error) => refused(error),
            Ok(mut stream) => match stream.read(&mut [0]).await {
                Err(error) => refused(error),
                Ok(_) => None,
            },
        }
    }

    async fn get(&self, identity: &Identity, path: &str) -> Result<Vec<u8>, String> {
        let stream = self.connect(&client(identity)).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = http2(stream).await?;
        tokio::spawn(connection);
        ask(&mut sender, path).await
    }
}

type Sender = hyper::client::conn::http2::SendRequest<Empty<bytes::Bytes>>;
type Driver =
    hyper::client::conn::http2::Connection<TokioIo<TlsStream<TcpStream>>, Empty<bytes::Bytes>, TokioExecutor>;

async fn http2(stream: TlsStream<TcpStream>) -> Result<(Sender, Driver), String> {
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    shaken.map_err(|error| error.to_string())
}

async fn ask(sender: &mut Sender, path: &str) -> Result<Vec<u8>, String> {
    let request = http::Request::get(format!("https://broker{path}")).body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(body.to_bytes().to_vec())
}

/// Takes every server: these tests are about the other direction.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &tls::SIGNATURES)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::SIGNATURES.supported_schemes()
    }
}

fn client_builder() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    rustls::ClientConfig::builder_with_provider(Arc::new(tls::crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
}

fn client_config(identity: &Identity) -> rustls::ClientConfig {
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
    let mut config = client_builder().with_client_auth_cert(identity.chain.clone(), key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn client(identity: &Identity) -> Arc<rustls::ClientConfig> {
    Arc::new(client_config(identity))
}

fn exporter(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let (_, tls) = stream.get_ref();
    tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[])).unwrap().to_vec()
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

#[tokio::test]
async fn the_exporter_is_equal_on_both_sides_and_of_one_connection() {
    let server = Server::start().await;
    let leaf = server.world.root.leaf(ID);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let stream = server.connect(&client(&leaf)).await.unwrap();
        let own = exporter(&stream);
        let (mut sender, connection) = http2(stream).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(ask(&mut sender, "/").await.unwrap(), own);
        seen.push(own);
    }
    assert_ne!(seen[0], seen[1]);
    assert_eq!(seen[0].len(), 32);
}

#[tokio::test]
async fn every_handshake_is_full_and_post_quantum() {
    let server = Server::start().await;
    let mut config = client_config(&server.world.root.leaf(ID));
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..2 {
        let mut stream = server.connect(&config).await.unwrap();
        // The first bytes of HTTP/2 come after any ticket.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
        let stream = server.connect(&config).await.unwrap();
        assert!(!stream.get_ref().1.is_early_data_accepted());
        let kind = stream.get_ref().1.handshake_kind();
        assert!(matches!(kind, Some(HandshakeKind::Full)), "{kind:?}");
        let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        let (mut sender, connection) = http2(stream).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(ask(&mut sender, "/").await.unwrap().len(), 32);
    }
}

#[tokio::test]
async fn what_is_provably_wrong_is_refused_with_the_fitting_alert() {
    let server = Server::start().await;
    let root = &server.world.root;
    let expired = root.leaf_with(ID, |p| validity(p, -100, 0));
    let early = root.leaf_with(ID, |p| validity(p, 100, 200));
    let two = root.leaf_with(ID, |p| p.subject_alt_names.push(uri("spiffe://example.org/b")));
    let foreign = Authority::root("root").leaf(ID);
    let unknown = root.leaf("spiffe://other.org/a");
    assert_eq!(server.alert(&expired).await, Some(AlertDescription::CertificateExpired));
    assert_eq!(server.alert(&expired).await, Some(AlertDescription::CertificateExpired));
    assert_eq!(server.alert(&early).await, Some(AlertDescription::CertificateExpired));
    assert_eq!(server.alert(&two).await, Some(AlertDescription::BadCertificate));
    assert_eq!(server.alert(&foreign).await, Some(AlertDescription::UnknownCA));
    assert_eq!(server.alert(&unknown).await, Some(AlertDescription::UnknownCA));
    write(&server.world.crl_path(), root.crl(11, &[7]), 1);
    server.trust.reload(at(1));
    let leaf = root.leaf(ID);
    assert_eq!(server.alert(&leaf).await, Some(AlertDescription::CertificateRevoked));
    assert_eq!(
        server.seen.recorded(),
        [Denial::PeerCertificateExpired, Denial::PeerCertificateNotYetValid, Denial::PeerRevoked],
        "the second of one key and all that lead to no root are counted"
    );
    let refused = server.seen.refused.lock().unwrap();
    assert_eq!(refused[0].1.identity.as_ref().unwrap().as_str(), ID);
    assert_eq!(refused[0].1.serial, "07");
    let counted = server.seen.counted.lock().unwrap();
    assert!(counted.contains(&Cause::Denied(Denial::PeerCertificateExpired)));
    assert!(counted.contains(&Cause::Denied(Denial::PeerUntrusted)));
}

#[tokio::test]
async fn what_is_uncertain_passes_the_handshake_and_is_denied_by_name() {
    let server = Server::start().await;
    let leaf = server.world.root.leaf(ID);
    std::fs::remove_file(server.world.crl_path()).unwrap();
    server.trust.reload(at(1));
    assert_eq!(server.get(&leaf, "/").await.unwrap(), b"RevocationUnknown");
    std::fs::remove_file(server.world.bundle_path()).unwrap();
    server.trust.reload(at(1));
    assert_eq!(server.get(&leaf, "/").await.unwrap(), b"BundleUnknown");
}

#[tokio::test]
async fn without_a_trusted_clock_only_what_surely_ended_is_refused() {
    let server = Server::start().await;
    let leaf = |begins, ends| server.world.root.leaf_with(ID, |p| validity(p, begins, ends));
    server.hands.wall.fetch_sub(60_000, std::sync::atomic::Ordering::SeqCst);
    assert!(server.clock.now().is_err());
    assert_eq!(server.alert(&leaf(-100, 1)).await, Some(AlertDescription::CertificateExpired));
    assert_eq!(server.alert(&leaf(100, 200)).await, None, "it may have begun since");
    assert_eq!(server.seen.recorded(), [Denial::PeerCertificateExpired]);
    let foreign = Authority::root("root").leaf(ID);
    assert_eq!(server.alert(&foreign).await, Some(AlertDescription::UnknownCA));
}

#[tokio::test]
async fn a_client_without_certificate_or_without_h2_is_turned_away() {
    let server = Server::start().await;
    let mut config = client_builder().with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let outcome = match server.connect(&Arc::new(config)).await {
        Ok(mut stream) => stream.read(&mut [0]).await.map(|_| ()),
        Err(error) => Err(error),
    };
    let error = outcome.unwrap_err();
    let alert = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert_eq!(alert, Some(&rustls::Error::AlertReceived(AlertDescription::CertificateRequired)));
    let mut config = client_config(&server.world.root.leaf(ID));
    config.alpn_protocols.clear();
    let stream = server.connect(&Arc::new(config)).await.unwrap();
    server.seen.until_counted(Cause::NotHttp2).await;
    drop(stream);
}

#[tokio::test]
async fn two_hundred_malformed_connections_do_not_slow_a_good_one() {
    let server = Server::start().await;
    let leaf = server.world.root.leaf(ID);
    let mut bad = Vec::new();
    for at in 0..200_u8 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let _ = match at % 4 {
            0 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await,
            1 => stream.write_all(&[22, 3, 1, 0, 200, 1, 0]).await,
            2 => stream.write_all(&[at; 300]).await,
            _ => Ok(()),
        };
        bad.push(stream);
    }
    for _ in 0..5 {
        let asked = tokio::time::timeout(Duration::from_secs(3), server.get(&leaf, "/")).await;
        assert_eq!(asked.expect("in time").unwrap().len(), 32);
    }
    server.seen.until_counted(Cause::HandshakeFailed).await;
}

#[tokio::test]
async fn a_slow_handshake_ends() {
    let limits = ConnectionLimits { handshake_ms: 50, handshakes: 1, ..ConnectionLimits::default() };
    let server = Server::start_with(PeerKind::Workload, limits).await;
    let slow = TcpStream::connect(server.address).await.unwrap();
    server.seen.until_counted(Cause::HandshakeTimedOut).await;
    drop(slow);
}

#[tokio::test]
async fn limits_on_connections_hold_overall_and_for_an_identity() {
    let limits =
        ConnectionLimits { connections: 2, connections_per_identity: 1, ..ConnectionLimits::default() };
    let server = Server::start_with(PeerKind::Workload, limits).await;
    let (one, other) = (server.world.root.leaf(ID), server.world.root.leaf("spiffe://example.org/b"));
    let (mut first, driver) = http2(server.connect(&client(&one)).await.unwrap()).await.unwrap();
    tokio::spawn(driver);
    assert_eq!(ask(&mut first, "/").await.unwrap().len(), 32);
    assert!(server.get(&one, "/").await.is_err());
    server.seen.until_counted(Cause::IdentityConnectionsExhausted).await;
    // What was just turned away may not have left its place yet.
    let stream = soon(async {
        loop {
            match server.connect(&client(&other)).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let (mut second, driver) = http2(stream.await).await.unwrap();
    tokio::spawn(driver);
    assert_eq!(ask(&mut second, "/").await.unwrap().len(), 32);
    assert!(server.get(&other, "/").await.is_err());
    server.seen.until_counted(Cause::ConnectionsExhausted).await;
    drop(first);
    for _ in 0..200 {
        if server.get(&one, "/").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a closed connection is still counted");
}

#[tokio::test]
async fn a_drain_lets_open_streams_end_and_takes_no_new_ones() {
    let server = Server::start().await;
    let leaf = server.world.root.leaf(ID);
    let (mut sender, driver) = http2(server.connect(&client(&leaf)).await.unwrap()).await.unwrap();
    let driven = tokio::spawn(driver);
    let mut other = sender.clone();
    let waiting = tokio::spawn(async move { ask(&mut other, "/wait").await });
    soon(server.entered.notified()).await;
    server.stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(ask(&mut sender, "/").await.is_err(), "after GOAWAY");
    assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");
    assert!(!server.served.is_finished());
    server.go_on.notify_one();
    assert_eq!(soon(waiting).await.unwrap().unwrap().len(), 32);
    soon(server.served).await.unwrap();
    assert!(soon(driven).await.unwrap().is_ok(), "closed in order");
}

#[tokio::test]
async fn a_drain_ends_although_a_stream_does_not() {
    let limits = ConnectionLimits { drain_ms: 100, ..ConnectionLimits::default() };
    let server = Server::start_with(PeerKind::Workload, limits).await;
    let leaf = server.world.root.leaf(ID);
    let (mut sender, driver) = http2(server.connect(&client(&leaf)).await.unwrap()).await.unwrap();
    tokio::spawn(driver);
    let waiting = tokio::spawn(async move { ask(&mut sender, "/wait").await });
    soon(server.entered.notified()).await;
    server.stop.send(true).unwrap();
    soon(server.served).await.unwrap();
    assert!(soon(waiting).await.unwrap().is_err());
}

#[tokio::test]
async fn a_connection_goes_away_when_asked_after_the_answer() {
    let server = Server::start().await;
    let leaf = server.world.root.leaf(ID);
    let (mut sender, driver) = http2(server.connect(&client(&leaf)).await.unwrap()).await.unwrap();
    let driven = tokio::spawn(driver);
    assert_eq!(ask(&mut sender, "/leave").await.unwrap().len(), 32);
    assert!(soon(driven).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_certificate_or_its_greatest_age() {
    let server = Server::start().await;
    let leaf = server.world.root.leaf_with(ID, |p| validity(p, -10, 2));
    let (mut sender, driver) = http2(server.connect(&client(&leaf)).await.unwrap()).await.unwrap();
    let driven = tokio::spawn(driver);
    assert_eq!(ask(&mut sender, "/").await.unwrap().len(), 32);
    server.hands.set(at(2));
    assert!(soon(driven).await.unwrap().is_ok());
    let limits = ConnectionLimits { connection_age_ms: 300, ..ConnectionLimits::default() };
    let server = Server::start_with(PeerKind::Workload, limits).await;
    let leaf = server.world.root.leaf(ID);
    let (mut sender, driver) = http2(server.connect(&client(&leaf)).await.unwrap()).await.unwrap();
    let driven = tokio::spawn(driver);
    assert_eq!(ask(&mut sender, "/").await.unwrap().len(), 32);
    server.hands.set(at(2));
    assert!(soon(driven).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_certificate_without_its_key_is_waited_for_and_nothing_old_is_shown() {
    let server = Server::start().await;
    let leaf = server.world.root.leaf(ID);
    assert_eq!(server.get(&leaf, "/").await.unwrap().len(), 32);
    let (_, key) = broker_files(&server.world);
    write(&key, server.world.root.leaf(BROKER).key.serialize_pem(), 0);
    let waiting = tokio::time::timeout(Duration::from_millis(500), server.get(&leaf, "/")).await;
    assert!(waiting.is_err(), "neither served nor refused yet");
    write_broker(&server.world);
    assert_eq!(soon(server.get(&leaf, "/")).await.unwrap().len(), 32);
    write(&key, "garbage", 0);
    server.hands.set(at(2));
    let waiting = tokio::time::timeout(Duration::from_millis(200), server.get(&leaf, "/")).await;
    assert!(waiting.is_err());
    server.hands.set(at(8));
    let refused = tokio::time::timeout(Duration::from_secs(1), server.get(&leaf, "/")).await;
    assert!(refused.expect("at once").is_err());
    server.seen.until_counted(Cause::OwnCertificateUnusable).await;
}

#[tokio::test]
async fn administrators_have_their_own_root_and_no_svid() {
    let server = Server::start_with(PeerKind::Administrator, ConnectionLimits::default()).await;
    let root = &server.world.root;
    let person = root.leaf_with(ID, |p| p.subject_alt_names.clear());
    let key = svid::sha256(&rcgen::PublicKeyData::subject_public_key_info(&person.key));
    assert_eq!(server.get(&person, "/").await.unwrap(), key);
    assert_eq!(server.alert(&root.leaf(ID)).await, Some(AlertDescription::BadCertificate));
    let expired = root.leaf_with(ID, |p| {
        p.subject_alt_names.clear();
        validity(p, -100, 0);
    });
    assert_eq!(server.alert(&expired).await, Some(AlertDescription::CertificateExpired));
    let foreign = Authority::root("root").leaf_with(ID, |p| p.subject_alt_names.clear());
    assert_eq!(server.alert(&foreign).await, Some(AlertDescription::UnknownCA));
    std::fs::remove_file(server.world.folder.path().join("administrators.pem")).unwrap();
    assert_eq!(server.alert(&person).await, Some(AlertDescription::AccessDenied));
}

#[test]
fn the_brokers_own_certificate_is_checked_for_what_clients_will_see() {
    let world = World::new();
    let (chain, key) = broker_files(&world);
    let provider = Arc::new(tls::crypto_provider());
    let identity = |audience: &str| {
        let audience = Some(SpiffeId::parse(audience).unwrap());
        ServerIdentity::new(chain.clone(), key.clone(), audience, provider.clone())
    };
    write_broker(&world);
    assert_eq!(identity(BROKER).check(at(1)), Ok(vec![]));
    let window = Err(IdentityError::Window(Denial::PeerCertificateExpired));
    assert_eq!(identity(BROKER).check(at(HOUR)), window);
    let other = "spiffe://example.org/other";
    let (of, not) = (SpiffeId::parse(BROKER).unwrap(), SpiffeId::parse(other).unwrap());
    assert_eq!(identity(other).check(at(1)), Err(IdentityError::Audience(of, not)));
    let nameless = world.root.leaf(BROKER);
    write(&chain, nameless.chain_pem(), 0);
    assert_eq!(identity(BROKER).check(at(1)), Err(IdentityError::Mismatch));
    write(&key, nameless.key.serialize_pem(), 0);
    assert_eq!(identity(BROKER).check(at(1)).unwrap().len(), 1, "no DNS or IP SAN");
}
