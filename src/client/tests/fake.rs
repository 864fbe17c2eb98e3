//! A broker in this process for tests of the client: real TLS, real HTTP/2, the generated service, and one defect.

use crate::challenge::binding::{Binding, Inputs};
use crate::client::svid;
use crate::client::{AttestError, Attester, Config};
use crate::proto::v1::broker_server::{Broker, BrokerServer};
use crate::proto::v1::release_request::Step as Ask;
use crate::proto::v1::release_response::Step as Answer;
use crate::proto::v1::{self, ReleaseRequest, ReleaseResponse};
use crate::release::sealing::seal;
use crate::spiffe::SpiffeId;
use crate::time::{SystemTime, TimeSource};
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use tower_service::Service;

pub(crate) const BROKER: &str = "spiffe://example.org/portcullis";
pub(crate) const WORKLOAD: &str = "spiffe://example.org/ns/payments/api";
pub(crate) const LEASE: &str = "lease-0123456789abcdef";

/// A certificate authority of one trust domain.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a leaf shall look like; the default is a good SVID.
pub(crate) struct Leaf {
    pub(crate) id: &'static str,
    pub(crate) second_uri: Option<&'static str>,
    pub(crate) ends: i32,
    pub(crate) begins: i32,
    pub(crate) usages: Vec<KeyUsagePurpose>,
    pub(crate) extended: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    pub(crate) fn of(id: &'static str) -> Leaf {
        Leaf {
            id,
            second_uri: None,
            ends: 2999,
            begins: 2020,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            extended: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

impl Authority {
    pub(crate) fn new(ends: i32) -> Authority {
        Authority::named("authority", ends)
    }

    pub(crate) fn named(name: &str, ends: i32) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(ends, 1, 1);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.as_ref().der().clone()
    }

    /// Certificate and key, PEM.
    pub(crate) fn issue(&self, leaf: &Leaf) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.subject_alt_names = [Some(leaf.id), leaf.second_uri]
            .into_iter()
            .flatten()
            .map(|uri| SanType::URI(uri.try_into().unwrap()))
            .collect();
        params.key_usages = leaf.usages.clone();
        params.extended_key_usages = leaf.extended.clone();
        params.not_before = date_time_ymd(leaf.begins, 1, 1);
        params.not_after = date_time_ymd(leaf.ends, 1, 1);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// How the fake broker behaves; the default is right.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) challenge: fn(&mut v1::Challenge),
    pub(crate) released: fn(&mut v1::Released),
    /// Sealed under this lease id and this binding's inputs: another round is another binding.
    pub(crate) sealed_for_lease: &'static str,
    pub(crate) sealed_value: Option<&'static [u8]>,
    /// In place of the challenge, and in place of `Released`.
    pub(crate) before_challenge: Option<End>,
    pub(crate) before_released: Option<End>,
    pub(crate) after_released: End,
    pub(crate) alpn: &'static [u8],
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Ok,
    Cut,
    /// With an `ErrorInfo` of ours.
    Denied(Code, &'static str),
    /// Without one.
    Bare(Code),
    /// A second step of the same kind, then OK.
    Again,
    Never,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            challenge: |_| {},
            released: |_| {},
            sealed_for_lease: LEASE,
            sealed_value: None,
            before_challenge: None,
            before_released: None,
            after_released: End::Ok,
            alpn: b"h2",
        }
    }
}

/// The fake broker, a workload's files, and counters.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    pub(crate) accepts: Arc<AtomicUsize>,
    pub(crate) streams: Arc<AtomicUsize>,
    pub(crate) evidence_came: Arc<AtomicBool>,
    pub(crate) authority: Authority,
}

impl Fake {
    pub(crate) async fn start(behaviour: Behaviour) -> Fake {
        Fake::start_as(&Leaf::of(BROKER), behaviour).await
    }

    pub(crate) async fn start_as(leaf: &Leaf, behaviour: Behaviour) -> Fake {
        let authority = Authority::new(2999);
        let server = authority.issue(leaf);
        Fake::start_with(authority, server, behaviour).await
    }

    pub(crate) async fn start_with(
        authority: Authority,
        (certificate, key): (String, String),
        behaviour: Behaviour,
    ) -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let (client_certificate, client_key) = authority.issue(&Leaf::of(WORKLOAD));
        std::fs::write(folder.path().join("cert.pem"), client_certificate).unwrap();
        std::fs::write(folder.path().join("key.pem"), client_key).unwrap();
        std::fs::write(folder.path().join("bundle"), authority.pem()).unwrap();
        let tls = server_config(&authority, &certificate, &key, behaviour.alpn);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Fake {
            address: listener.local_addr().unwrap(),
            folder,
            accepts: Arc::default(),
            streams: Arc::default(),
            evidence_came: Arc::default(),
            authority,
        };
        let (accepts, streams, came) =
            (fake.accepts.clone(), fake.streams.clone(), fake.evidence_came.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                accepts.fetch_add(1, Ordering::SeqCst);
                let (tls, behaviour, streams, came) =
                    (tls.clone(), behaviour.clone(), streams.clone(), came.clone());
                tokio::spawn(async move {
                    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    serve(stream, behaviour, streams, came).await;
                });
            }
        });
        fake
    }

    pub(crate) fn config(&self) -> Config {
        let file = |name: &str| self.folder.path().join(name);
        Config {
            broker: self.address.to_string(),
            broker_id: SpiffeId::parse(BROKER).unwrap(),
            certificate: file("cert.pem"),
            key: file("key.pem"),
            bundle: file("bundle"),
            attester: file("attester.sock"),
            deadline: Duration::from_secs(20),
        }
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn server_config(
    authority: &Authority,
    certificate: &str,
    key: &str,
    alpn: &[u8],
) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

async fn serve(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    behaviour: Behaviour,
    streams: Arc<AtomicUsize>,
    came: Arc<AtomicBool>,
) {
    let (_, connection) = stream.get_ref();
    let exporter =
        connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).unwrap();
    let (client_id, spki_sha256) = svid::check(connection.peer_certificates().unwrap()).unwrap();
    let (cutting, mut cut) = mpsc::channel::<()>(1);
    let desk = Desk { exporter, client_id, spki_sha256, behaviour, streams, came, cutting };
    let service = BrokerServer::new(desk);
    let serve = hyper::service::service_fn(move |request| {
        let mut service = service.clone();
        async move { service.call(request).await }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), serve);
    tokio::select! {
        _ = connection => {}
        Some(()) = cut.recv() => {}
    }
}

#[derive(Clone)]
struct Desk {
    exporter: [u8; 32],
    client_id: SpiffeId,
    spki_sha256: [u8; 32],
    behaviour: Behaviour,
    streams: Arc<AtomicUsize>,
    came: Arc<AtomicBool>,
    cutting: mpsc::Sender<()>,
}

type Answers = mpsc::Sender<Result<ReleaseResponse, Status>>;

#[tonic::async_trait]
impl Broker for Desk {
    type ReleaseStream = ReceiverStream<Result<ReleaseResponse, Status>>;

    async fn release(
        &self,
        request: Request<Streaming<ReleaseRequest>>,
    ) -> Result<Response<Self::ReleaseStream>, Status> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let (answers, answered) = mpsc::channel(8);
        let desk = self.clone();
        tokio::spawn(async move { desk.converse(request.into_inner(), answers).await });
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}

impl Desk {
    async fn converse(self, mut asked: Streaming<ReleaseRequest>, answers: Answers) {
        let Ok(Some(ReleaseRequest { step: Some(Ask::Open(open)) })) = asked.message().await else { return };
        let request = crate::request::ReleaseRequest::parse(open).unwrap();
        let mut challenge = v1::Challenge {
            nonce: vec![7; 32],
            answer_within_ms: 10_000,
            audience: BROKER.into(),
            formats: vec!["process".into()],
            channel_binding: "tls-exporter".into(),
            round: 0,
        };
        let binding = Binding::compute(&Inputs {
            nonce: &[7; 32],
            round: 0,
            channel: &self.exporter,
            client_spki_sha256: &self.spki_sha256,
            client_id: &self.client_id,
            audience: BROKER,
            request: &request,
        });
        if let Some(end) = self.behaviour.before_challenge {
            return self.end(end, Answer::Challenge(challenge), &answers).await;
        }
        (self.behaviour.challenge)(&mut challenge);
        let _ = answers.send(step(Answer::Challenge(challenge))).await;
        let Ok(Some(ReleaseRequest { step: Some(Ask::Evidence(evidence)) })) = asked.message().await else {
            return;
        };
        self.came.store(true, Ordering::SeqCst);
        if !binding.equals(&evidence.documents[0].body) {
            let _ = answers.send(Err(denial(Code::PermissionDenied, "NOT_RELEASED"))).await;
            return;
        }
        let mut released = self.released(&request, &binding);
        if let Some(end) = self.behaviour.before_released {
            return self.end(end, Answer::Released(released), &answers).await;
        }
        (self.behaviour.released)(&mut released);
        let _ = answers.send(step(Answer::Released(released.clone()))).await;
        self.end(self.behaviour.after_released, Answer::Released(released), &answers).await;
    }

    fn released(&self, request: &crate::request::ReleaseRequest, binding: &Binding) -> v1::Released {
        let sealed = |secret: &crate::request::SecretRequest| {
            let fields = HashMap::from([("value".to_owned(), format!("of {}", secret.path).into_bytes())]);
            let value = v1::SecretValue { fields }.encode_to_vec();
            let plaintext = self.behaviour.sealed_value.map_or(value, <[u8]>::to_vec);
            let info = binding.sealing_info(secret.path.as_str(), 3, self.behaviour.sealed_for_lease);
            let sealed = seal(request.recipient_key(), &info, &plaintext).unwrap();
            v1::SealedSecret {
                path: secret.path.to_string(),
                version: 3,
                encapsulated_key: sealed.encapsulated_key,
                ciphertext: sealed.ciphertext,
            }
        };
        v1::Released {
            lease_id: LEASE.into(),
            not_after: Some(timestamp_in(300)),
            secrets: request.secrets().iter().map(sealed).collect(),
            reattest_within_ms: 0,
        }
    }

    async fn end(&self, end: End, again: Answer, answers: &Answers) {
        match end {
            End::Ok => {}
            End::Cut => {
                // What was sent before is on its way out; the cut comes after it.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                let _ = self.cutting.send(()).await;
                std::future::pending::<()>().await;
            }
            End::Denied(code, reason) => drop(answers.send(Err(denial(code, reason))).await),
            End::Bare(code) => drop(answers.send(Err(Status::new(code, "upstream"))).await),
            End::Again => drop(answers.send(step(again)).await),
            End::Never => std::future::pending().await,
        }
    }
}

pub(crate) fn timestamp_in(seconds: i64) -> prost_types::Timestamp {
    let now = SystemTime.wall().unwrap().seconds() as i64;
    prost_types::Timestamp { seconds: now + seconds, nanos: 0 }
}

fn step(step: Answer) -> Result<ReleaseResponse, Status> {
    Ok(ReleaseResponse { step: Some(step) })
}

pub(crate) fn denial(code: Code, reason: &str) -> Status {
    let metadata = HashMap::from([("decision_id".to_owned(), "decision-1".to_owned())]);
    Status::with_error_details(code, "denied", ErrorDetails::with_error_info(reason, "portcullis", metadata))
}

/// An attester whose evidence is the binding itself, as the fake broker wants it; counts how often it is asked.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) asked: AtomicUsize,
    pub(crate) never: bool,
}

impl Attester for Echo {
    fn attest<'a>(
        &'a self,
        binding: &'a [u8; 64],
        formats: &'a [String],
    ) -> BoxFuture<'a, Result<v1::Evidence, AttestError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.never {
                std::future::pending::<()>().await;
            }
            let document =
                v1::Document { format: formats[0].clone(), body: binding.to_vec(), endorsements: vec![] };
            Ok(v1::Evidence { documents: vec![document] })
        })
    }
}
