//! A client of the wire alone: TLS and HTTP/2 as a test wants them, without the library that behaves.

use super::World;
use portcullis::denial::Reason;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Believes any server: these tests are about what the broker does.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS as the world's workload, with resumption as rustls does it by default.
pub fn tls(world: &World) -> Arc<rustls::ClientConfig> {
    let chain = CertificateDer::pem_slice_iter(world.leaf.certificate.as_bytes());
    let chain: Vec<_> = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(world.leaf.key.as_bytes()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_early_data = true;
    Arc::new(config)
}

pub async fn connect(world: &World, tls: &Arc<rustls::ClientConfig>) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(world.server().address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(tls.clone()).connect(name, socket).await.unwrap()
}

/// One `Release` call with these headers more and this body; gives its `ErrorInfo.reason` and `decision_id`.
pub async fn call(world: &World, headers: &[(&str, &str)], body: Vec<u8>) -> (Reason, String) {
    use http_body_util::Full;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let stream = connect(world, &tls(world)).await;
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let running = tokio::spawn(connection);
    let mut request = http::Request::post("https://localhost/portcullis.v1.Broker/Release")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).expect("a status alone");
    running.abort();
    let details = tonic_types::StatusExt::get_details_error_info(&status).expect("an ErrorInfo");
    (Reason::parse(&details.reason).unwrap(), details.metadata["decision_id"].clone())
}
