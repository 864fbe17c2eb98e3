//! A client that is nobody's library: TLS, HTTP/2 and gRPC's frames by hand, to send what no library would, and to see what
//! comes back to the byte.

use super::frames::{Tap, Tapped};
use super::*;
use bytes::Bytes;
use http::{HeaderMap, Request as HttpRequest, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::proto::v1::release_request::Step as Ask;
use portcullis::proto::v1::release_response::Step as Answer;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::convert::Infallible;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

type Chunk = Result<Frame<Bytes>, Infallible>;
type Body = StreamBody<ReceiverStream<Chunk>>;

pub const RELEASE: &str = "/portcullis.v1.Broker/Release";
/// Of the certificate of every [`Wire`].
pub const WIRE_SERIAL: u64 = 77;
pub const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// One connection.
pub struct Wire {
    sender: SendRequest<Body>,
    pub identity: Identity,
    pub driver: JoinHandle<Result<(), hyper::Error>>,
    /// Everything that the broker sent.
    pub tapped: Tapped,
}

/// Shakes hands with a certificate and key in PEM, or without.
pub async fn handshake(
    world: &World,
    leaf: Option<(&str, &str)>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.ca.root().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match leaf {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let socket = TcpStream::connect(&world.client.broker).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

impl Wire {
    /// A connection of a new replica of the workload.
    pub async fn new(world: &World) -> Wire {
        Wire::tuned(world, |_| {}).await
    }

    pub async fn tuned(world: &World, tune: impl FnOnce(&mut Builder<TokioExecutor>)) -> Wire {
        let leaf = world.ca.leaf(&leaf_request(WORKLOAD, WIRE_SERIAL, world.hands.now())).unwrap();
        let stream = handshake(world, Some((&leaf.certificate, &leaf.key)), b"h2").await.unwrap();
        let (_, tls) = stream.get_ref();
        let exporter = tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[])).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf.spki);
        let identity = Identity {
            exporter,
            spki_sha256: digest.as_ref().try_into().unwrap(),
            id: SpiffeId::parse(WORKLOAD).unwrap(),
        };
        let mut builder = Builder::new(TokioExecutor::new());
        tune(&mut builder);
        let tapped = Tapped::default();
        let stream = Tap { inner: stream, tapped: tapped.clone() };
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        Wire { sender, identity, driver: tokio::spawn(connection), tapped }
    }

    /// Begins a stream with these header fields.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)]) -> Call {
        let (body, chunks) = mpsc::channel(16);
        let mut request = HttpRequest::post(format!("https://localhost{path}")).header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(StreamBody::new(ReceiverStream::new(chunks))).unwrap();
        let mut sender = self.sender.clone();
        let response = tokio::spawn(async move {
            sender.ready().await?;
            sender.send_request(request).await
        });
        Call {
            body: Some(body),
            response: Some(response),
            seen: Seen::default(),
            incoming: None,
            rest: vec![],
        }
    }

    /// A `Release` stream.
    pub async fn release(&self) -> Call {
        self.call(RELEASE, &[GRPC]).await
    }

    /// A whole request.
    pub async fn attempt(&self, paths: &[&str], attester: &SoftAttester) -> Seen {
        self.send(open_message(paths).0, attester).await
    }

    pub async fn send(&self, open: v1::Open, attester: &SoftAttester) -> Seen {
        let mut call = self.release().await;
        call.step(Ask::Open(open.clone())).await;
        let Some(message) = call.message().await else { return call.end().await };
        let asked = challenge_of(&message);
        let binding = self.binding(&asked, open);
        call.step(Ask::Evidence(attester.evidence(&binding))).await;
        call.end().await
    }

    pub fn binding(&self, challenge: &v1::Challenge, open: v1::Open) -> [u8; 64] {
        let nonce = challenge.nonce.as_slice().try_into().unwrap();
        let request = ReleaseRequest::parse(open).unwrap();
        *self.identity.binding(nonce, challenge.round, &challenge.audience, &request).as_bytes()
    }
}

pub fn challenge_of(message: &[u8]) -> v1::Challenge {
    match v1::ReleaseResponse::decode(message).unwrap().step {
        Some(Answer::Challenge(challenge)) => challenge,
        other => panic!("no challenge: {other:?}"),
    }
}

/// A gRPC frame: flag, length, message.
pub fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

pub fn encoded(step: Ask) -> Vec<u8> {
    v1::ReleaseRequest { step: Some(step) }.encode_to_vec()
}

/// One stream, half-way.
pub struct Call {
    body: Option<mpsc::Sender<Chunk>>,
    response: Option<JoinHandle<Result<Response<Incoming>, hyper::Error>>>,
    incoming: Option<Incoming>,
    rest: Vec<u8>,
    pub seen: Seen,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub http: u16,
    pub headers: HeaderMap,
    pub messages: Vec<Vec<u8>>,
    pub trailers: Option<HeaderMap>,
    /// The stream was reset, or the connection lost.
    pub error: Option<String>,
}

impl Call {
    pub async fn bytes(&mut self, bytes: impl Into<Bytes>) {
        if let Some(body) = &self.body {
            let _ = body.send(Ok(Frame::data(bytes.into()))).await;
        }
    }

    pub async fn step(&mut self, step: Ask) {
        self.bytes(frame(0, &encoded(step))).await;
    }

    pub fn half_close(&mut self) {
        self.body = None;
    }

    /// The next message; none where the stream ended.
    pub async fn message(&mut self) -> Option<Vec<u8>> {
        let within = tokio::time::timeout(Duration::from_secs(15), self.read_message()).await;
        within.expect("an answer within fifteen seconds")
    }

    async fn read_message(&mut self) -> Option<Vec<u8>> {
        if let Some(response) = self.response.take() {
            match response.await.unwrap() {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    (self.seen.http, self.seen.headers) = (head.status.as_u16(), head.headers);
                    self.incoming = Some(body);
                }
                Err(error) => self.seen.error = Some(format!("{error:?}")),
            }
        }
        loop {
            if let Some(header) = self.rest.get(..5) {
                let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
                if self.rest.len() >= 5 + length {
                    assert_eq!(header[0], 0, "the identity encoding only");
                    let message = self.rest[5..5 + length].to_vec();
                    self.rest.drain(..5 + length);
                    self.seen.messages.push(message.clone());
                    return Some(message);
                }
            }
            match self.incoming.as_mut()?.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest.extend_from_slice(&data),
                    Err(frame) => self.seen.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    self.seen.error = Some(format!("{error:?}"));
                    self.incoming = None;
                }
                None => self.incoming = None,
            }
        }
    }

    /// Everything until the end.
    pub async fn end(mut self) -> Seen {
        while self.message().await.is_some() {}
        assert!(self.rest.is_empty(), "bytes that are no message");
        self.seen
    }
}

impl Seen {
    /// The gRPC status, wherever it stood.
    pub fn status(&self) -> Status {
        let all = self.trailers.iter().chain([&self.headers]);
        let found = all.filter_map(Status::from_header_map).next();
        found.unwrap_or_else(|| panic!("no status: {self:?}"))
    }

    /// The status of a denial; none of a release.
    pub fn outcome(&self) -> Outcome {
        let status = self.status();
        if status.code() != tonic::Code::Ok {
            assert!(self.messages.len() <= 1, "more than a challenge before a denial");
            return Err(status);
        }
        match v1::ReleaseResponse::decode(self.messages.last().unwrap().as_slice()).unwrap().step {
            Some(Answer::Released(released)) => Ok(released),
            other => panic!("{other:?}"),
        }
    }

    /// All of it, `date` aside, in order, with the decision id masked.
    pub fn normal(&self) -> Vec<String> {
        let id = reason_and_id(&self.status()).1.expect("a decision id");
        let mask = |map: &HeaderMap| -> Vec<String> {
            let fields = map.iter().filter(|(name, _)| *name != "date");
            fields
                .map(|(name, value)| format!("{name}: {}", masked(name.as_str(), value.as_bytes(), &id)))
                .collect()
        };
        let mut lines = vec![format!("HTTP {}", self.http)];
        lines.extend(mask(&self.headers));
        lines.push(format!("messages {:?}", self.messages.iter().map(Vec::len).collect::<Vec<_>>()));
        lines.extend(self.trailers.iter().flat_map(mask));
        lines.push(format!("error {:?}", self.error));
        lines
    }
}

fn masked(name: &str, value: &[u8], id: &str) -> String {
    if name != "grpc-status-details-bin" {
        return String::from_utf8_lossy(value).into_owned();
    }
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD_NO_PAD
        .decode(String::from_utf8_lossy(value).trim_end_matches('='))
        .unwrap();
    let at =
        bytes.windows(id.len()).position(|window| window == id.as_bytes()).expect("the id is in the details");
    let mut hidden = bytes.clone();
    hidden[at..at + id.len()].fill(b'x');
    format!("{} as {} bytes", hex::encode(hidden), value.len())
}
