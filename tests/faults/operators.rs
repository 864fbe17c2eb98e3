//! The operators' API from within this process: a command for each write would be mostly the command.

use crate::world::World;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::proto::admin::admin_client::AdminClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;

pub type Operators = AdminClient<Link>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where the operators' listener is, and ada's files.
#[derive(Clone)]
pub struct Ada {
    address: String,
    config: Arc<rustls::ClientConfig>,
}

impl Ada {
    pub fn of(world: &World) -> Ada {
        let mut roots = rustls::RootCertStore::empty();
        certificates(&world.at("etc/bundle.pem")).into_iter().for_each(|root| roots.add(root).unwrap());
        let key = PrivateKeyDer::from_pem_file(world.at("etc/ada.key")).unwrap();
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(portcullis::tls::crypto_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(certificates(&world.at("etc/ada.pem")), key)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ada { address: world.admin_address.clone(), config: Arc::new(config) }
    }

    pub async fn connect(&self) -> Result<Operators, Failure> {
        let stream = tokio::net::TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let (requests, connection) =
            handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(AdminClient::with_origin(Link(requests), "https://localhost".parse()?))
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(|one| one.unwrap()).collect()
}

/// The sending end of one connection.
#[derive(Clone)]
pub struct Link(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Link {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
