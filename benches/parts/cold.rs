//! A release by a workload that has no connection yet, beside a bare handshake that proves both sides and carries nothing.

use super::support::World;
use portcullis::client::{Connection, Request};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Milliseconds, the medians of many in turns: a cold release, and a bare handshake.
pub async fn milliseconds(world: &World, config: &portcullis::client::Config) -> (f64, f64) {
    let attester = world.attester();
    let (server, client) = (server(world), client(world));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Its own thread, as the broker has its own process.
    std::thread::spawn(move || serve(listener.into_std().unwrap(), server));
    let (mut cold, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = super::nanoseconds();
        let connection = Connection::open(config).await.unwrap();
        connection.release(&attester, Request::of([super::SECRET])).await.unwrap();
        cold.push(super::nanoseconds() - begun);
        drop(connection);
        let begun = super::nanoseconds();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = client.connect(name, stream).await.unwrap();
        // The client is done before the server has looked at its certificate: the answer says that it has.
        let mut answer = [0; 1];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();
        bare.push(super::nanoseconds() - begun);
    }
    (median(cold), median(bare))
}

fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[1]).await;
                let _ = tokio::io::AsyncWriteExt::flush(&mut stream).await;
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
            });
        }
    });
}

fn roots(world: &World) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.ca.root().as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

fn pair(certificate: &[u8], key: &[u8]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(certificate).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(key).unwrap())
}

fn server(world: &World) -> TlsAcceptor {
    let provider = Arc::new(portcullis::transport::tls::crypto_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots(world), provider.clone());
    let etc = world.directory.path().join("etc");
    let read = |name: &str| std::fs::read(etc.join(name)).unwrap();
    let (chain, key) = pair(&read("broker.pem"), &read("broker.key"));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    // No resumption, as the broker has none.
    config.send_tls13_tickets = 0;
    TlsAcceptor::from(Arc::new(config))
}

fn client(world: &World) -> TlsConnector {
    let provider = Arc::new(portcullis::transport::tls::crypto_provider());
    let (chain, key) = pair(world.leaf.certificate.as_bytes(), world.leaf.key.as_bytes());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(world))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

fn median(mut times: Vec<u64>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2] as f64 / 1e6
}

const ROUNDS: usize = 300;
