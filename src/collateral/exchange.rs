//! One question over HTTPS, and the whole answer within its bounds, or why not.
//!
//! *Takes* an address, bounds, CAs in a file, the clock. *Gives* [`Answer`] for status 200, else [`Failure`]. *Denies*
//! nothing itself. *Source*: RFC 9110, RFC 9112; RFC 8446.
//!
//! A connection each, closed after it: some questions a day are asked. TLS 1.3 alone; CAs from the operator's file alone; no
//! resumption; redirects, compression and trailers are not understood. The service's certificate is not checked for
//! revocation: what it says is signed by the vendor.

use super::endpoint::Endpoint;
use super::failure::Failure;
use crate::limits;
use crate::time::Clock;
use crate::tls::TrustedTime;
use crate::transport::file;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What is asked, and within which bounds.
pub(super) struct Question<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) ca_file: Option<&'a Path>,
    /// The largest body.
    pub(super) body_bytes: usize,
    /// A header that is wanted beside it, in lower case.
    pub(super) header: Option<&'static str>,
    /// For everything together.
    pub(super) within: Duration,
}

/// An answer with status 200, whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// The wanted header's value.
    pub(super) header: Option<String>,
}

/// Why there is none, and how long the service asks to be left alone, milliseconds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) retry_after_ms: Option<u64>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Failed { failure, retry_after_ms: None }
    }
}

/// Asks once.
pub(super) async fn ask(question: &Question<'_>, clock: &Arc<Clock>) -> Result<Answer, Failed> {
    match tokio::time::timeout(question.within, exchange(question, clock)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::TimedOut.into()),
    }
}

async fn exchange(question: &Question<'_>, clock: &Arc<Clock>) -> Result<Answer, Failed> {
    let endpoint = question.endpoint;
    if !endpoint.tls {
        return converse(connect(endpoint).await?, question).await;
    }
    let ca_file = question.ca_file.ok_or_else(|| Failure::Roots("none is configured".to_owned()))?;
    let connector = connector(ca_file.to_owned(), clock.clone()).await?;
    let name = ServerName::try_from(endpoint.host.clone());
    let name = name.map_err(|_| Failure::Tls("the address names no host".to_owned()))?;
    let stream = connect(endpoint).await?;
    let stream = connector.connect(name, stream).await.map_err(|error| handshake_failure(&error))?;
    converse(stream, question).await
}

async fn connect(endpoint: &Endpoint) -> Result<TcpStream, Failure> {
    let connected = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
    connected.map_err(|error| Failure::Unreachable(error.to_string()))
}

/// TLS with the CAs of this moment's file.
async fn connector(ca_file: PathBuf, clock: Arc<Clock>) -> Result<TlsConnector, Failure> {
    let made = tokio::task::spawn_blocking(move || client_config(&ca_file, clock)).await;
    Ok(TlsConnector::from(Arc::new(made.map_err(|_| Failure::Defect)??)))
}

fn client_config(ca_file: &Path, clock: Arc<Clock>) -> Result<rustls::ClientConfig, Failure> {
    let content = file::read(ca_file, limits::TRUST_FILE_BYTES, clock.untrusted());
    let content = content.map_err(|error| Failure::Roots(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content.bytes).collect();
    let certificates = certificates.map_err(|_| Failure::Roots("is not PEM".to_owned()))?;
    let mut roots = rustls::RootCertStore::empty();
    // A system's bundle may hold one that does not parse; what is left out is trusted less, not more.
    if let (0, _) = roots.add_parsable_certificates(certificates) {
        return Err(Failure::Roots("holds no certificate".to_owned()));
    }
    // Public CAs sign with RSA PKCS #1, which our own peers may not; so the provider's whole list of signatures.
    let provider = rustls::crypto::CryptoProvider {
        signature_verification_algorithms: rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms,
        ..crate::tls::crypto_provider()
    };
    let time = Arc::new(TrustedTime(clock));
    let mut config = rustls::ClientConfig::builder_with_details(Arc::new(provider), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Failure::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn handshake_failure(error: &std::io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => Failure::Tls(error.to_string()),
        None => Failure::Broken(error.to_string()),
    }
}

/// HTTP/1.1 over a connection that stands.
async fn converse<S>(stream: S, question: &Question<'_>) -> Result<Answer, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits::COLLATERAL_BUFFER_BYTES).max_header_size(limits::COLLATERAL_HEADER_BYTES);
    let handshake = builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| http_failure(&error))?;
    let answering = async {
        let response = sender.send_request(request(question.endpoint)?).await;
        answer(response.map_err(|error| http_failure(&error))?, question).await
    };
    // The connection moves the bytes and tells the answer how it ended; its own end is none.
    let moving = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        outcome = answering => outcome,
        never = moving => match never {},
    }
}

fn request(endpoint: &Endpoint) -> Result<Request<Empty<Bytes>>, Failure> {
    let request = Request::get(&endpoint.target)
        .header(HOST, &endpoint.authority)
        .header(USER_AGENT, "portcullis")
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new());
    request.map_err(|_| Failure::Defect)
}

async fn answer(response: Response<Incoming>, question: &Question<'_>) -> Result<Answer, Failed> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failed { failure: of_status(head.status), retry_after_ms: retry_after(&head.headers) });
    }
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(Failure::WrongContent("it is compressed".to_owned()).into());
    }
    let header = question.header.map(|name| only(&head.headers, name)).transpose()?.flatten();
    let too_large = || Failure::TooLarge("a body", question.body_bytes);
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > question.body_bytes) {
        return Err(too_large().into());
    }
    Ok(Answer { body: collected(body, question.body_bytes, too_large).await?, header })
}

async fn collected(
    mut body: Incoming,
    limit: usize,
    too_large: impl Fn() -> Failure,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| http_failure(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len().saturating_add(data.len()) > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn of_status(status: StatusCode) -> Failure {
    match status.as_u16() {
        429 => Failure::Throttled,
        code @ 300..=399 => Failure::Redirected(code),
        code @ 500..=599 => Failure::ServerError(code),
        code => Failure::Status(code),
    }
}

/// In seconds; a date is not read, and our own wait counts then.
fn retry_after(headers: &hyper::HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.saturating_mul(1000))
}

fn only(headers: &hyper::HeaderMap, name: &'static str) -> Result<Option<String>, Failure> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Failure::WrongContent(format!("the header `{name}` stands twice")));
    }
    let text = first.map(|value| value.to_str().map(str::to_owned)).transpose();
    text.map_err(|_| Failure::WrongContent(format!("the header `{name}` is no text")))
}

fn http_failure(error: &hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        return Failure::TooLarge("headers", limits::COLLATERAL_HEADER_BYTES);
    }
    Failure::Broken(error.to_string())
}
