//! The accept loop: TCP, TLS 1.3, HTTP/2, each with its bounds.
//!
//! *Takes* a listener and a service. *Gives* the service's answers; each request has `Arc<Connection>` or
//! `Arc<AdminConnection>` among its extensions. *Denies* connections over a limit. *Source*: RFC 9113; RFC 9266;
//! `protocol.md` "Connection"; `fail-open-catalogue.md` rows 24, 25.

use super::certificate::ServerIdentity;
use super::observer::{Cause, HandshakeObserver};
use super::peer::{AdminConnection, Connection};
use super::shards::Shards;
use super::tls;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::{Clock, WallTime};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Whose certificates a listener takes; it must go with the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// SVIDs: requests carry `Arc<Connection>`.
    Workload,
    /// Administrators' certificates: requests carry `Arc<AdminConnection>`.
    Administrator,
}

/// The bounds of a listener's connections; the defaults are those of `limits.rs`.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// A TLS handshake, milliseconds.
    pub handshake_ms: u64,
    /// Handshakes under way at once.
    pub handshakes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Connections of one identity at once.
    pub connections_per_identity: usize,
    /// A connection's greatest age, milliseconds.
    pub connection_age_ms: u64,
    /// Time for open streams after GOAWAY, milliseconds.
    pub drain_ms: u64,
    /// Concurrent streams of a connection.
    pub streams: u32,
    /// Header fields of a request, bytes.
    pub header_bytes: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            handshake_ms: limits::HANDSHAKE_MS,
            handshakes: limits::HANDSHAKES,
            connections: limits::CONNECTIONS,
            connections_per_identity: limits::CONNECTIONS_PER_IDENTITY,
            connection_age_ms: limits::CONNECTION_AGE_MS,
            drain_ms: limits::DRAIN_MS,
            streams: limits::STREAMS_PER_CONNECTION,
            header_bytes: limits::HEADER_BYTES,
        }
    }
}

/// One listener and everything that its connections need.
pub struct Acceptor {
    /// Where connections come from.
    pub listener: TcpListener,
    /// The certificate to show.
    pub identity: Arc<ServerIdentity>,
    /// Judges clients' certificates.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// Whose they are.
    pub kind: PeerKind,
    /// The algorithms, as [`tls::crypto_provider`] makes them.
    pub provider: Arc<CryptoProvider>,
    /// The time.
    pub clock: Arc<Clock>,
    /// Hears of connections that came to nothing.
    pub observer: Arc<dyn HandshakeObserver>,
    /// The bounds.
    pub limits: ConnectionLimits,
    /// Where connections are served; none = where the acceptor itself runs.
    pub shards: Option<Arc<Shards>>,
}

impl Acceptor {
    /// Serves until `shutdown` says true (or its sender is gone), then drains: no new connections, GOAWAY on the open ones,
    /// time for their streams, and the rest closed.
    pub async fn serve<S, B>(self, service: S, mut shutdown: watch::Receiver<bool>)
    where
        S: tower_service::Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let connections = Arc::new(Semaphore::new(self.limits.connections));
        let shards = self.shards.clone();
        let (listener, shared) = Shared::split(self);
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = stopped(&mut shutdown) => break,
                Some(_) = tasks.join_next() => {}
                accepted = accept(&listener, &handshakes) => match accepted {
                    Ok((stream, remote, handshake)) => {
                        let Ok(slot) = connections.clone().try_acquire_owned() else {
                            shared.observer.counted(Cause::ConnectionsExhausted);
                            continue;
                        };
                        let (shared, service, shutdown) = (shared.clone(), service.clone(), shutdown.clone());
                        let run = move |stream| async move {
                            shared.run(stream, remote, handshake, service, shutdown).await;
                            drop(slot);
                        };
                        match &shards {
                            None => drop(tasks.spawn(run(stream))),
                            Some(shards) => hand_over(shards, &mut tasks, stream, run),
                        }
                    }
                    Err(error) => shared.accept_failed(&error).await,
                },
            }
        }
        drop(listener);
        // Each task ends by itself within the drain; a defect in one must not keep the process.
        let all = async { while tasks.join_next().await.is_some() {} };
        let longest = shared.limits.drain_ms.saturating_add(shared.limits.handshake_ms);
        let _ = tokio::time::timeout(Duration::from_millis(longest), all).await;
        tasks.shutdown().await;
    }
}

/// What all connections of a listener share.
struct Shared {
    identity: Arc<ServerIdentity>,
    verifier: Arc<dyn ClientCertVerifier>,
    kind: PeerKind,
    provider: Arc<CryptoProvider>,
    clock: Arc<Clock>,
    observer: Arc<dyn HandshakeObserver>,
    limits: ConnectionLimits,
    per_identity: Arc<PerIdentity>,
}

/// The facts of a connection, by kind.
#[derive(Clone)]
enum Facts {
    Workload(Arc<Connection>),
    Administrator(Arc<AdminConnection>),
}

impl Shared {
    fn split(acceptor: Acceptor) -> (TcpListener, Arc<Self>) {
        let shared = Shared {
            identity: acceptor.identity,
            verifier: acceptor.verifier,
            kind: acceptor.kind,
            provider: acceptor.provider,
            clock: acceptor.clock,
            observer: acceptor.observer,
            limits: acceptor.limits,
            per_identity: Arc::default(),
        };
        (acceptor.listener, Arc::new(shared))
    }

    async fn accept_failed(&self, error: &Error) {
        self.observer.counted(Cause::AcceptFailed);
        match error.kind() {
            // The peer's own doing (accept(2) "Error handling"); the next one may be good.
            ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted => {
                tokio::task::yield_now().await;
            }
            _ => tokio::time::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await,
        }
    }

    async fn run<S, B>(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        handshake: OwnedSemaphorePermit,
        service: S,
        mut shutdown: watch::Receiver<bool>,
    ) where
        S: tower_service::Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let shaken = tokio::select! {
            () = stopped(&mut shutdown) => return,
            shaken = self.handshake(stream, remote) => shaken,
        };
        drop(handshake);
        let (stream, facts) = match shaken {
            Ok(shaken) => shaken,
            Err(cause) => return self.observer.counted(cause),
        };
        let Some(_slot) = self.per_identity.enter(&facts, self.limits.connections_per_identity) else {
            return self.observer.counted(Cause::IdentityConnectionsExhausted);
        };
        let of_request = facts.clone();
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            of_request.put_into(request.extensions_mut());
            call(service.clone(), request)
        });
        let mut connection = pin!(self.http2().serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            _ = connection.as_mut() => true,
            () = stopped(&mut shutdown) => false,
            () = facts.asked_to_go_away() => false,
            () = self.end_of(&facts) => false,
        };
        if !ended {
            facts.drain();
            // GOAWAY without a limit and a PING first: every stream that the peer began before it knew is served.
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(Duration::from_millis(self.limits.drain_ms), connection).await;
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Facts), Cause> {
        let key = self.identity.current(&self.clock).await.map_err(|_| Cause::OwnCertificateUnusable)?;
        let config = tls::server_config(&self.provider, key, self.verifier.clone(), self.clock.clone());
        let config = config.map_err(|_| Cause::OwnCertificateUnusable)?;
        // Without it, small frames wait for acknowledgements; a failure costs time only.
        let _ = stream.set_nodelay(true);
        let bound = Duration::from_millis(self.limits.handshake_ms);
        let stream = tokio::time::timeout(bound, TlsAcceptor::from(Arc::new(config)).accept(stream))
            .await
            .map_err(|_| Cause::HandshakeTimedOut)?
            .map_err(|_| Cause::HandshakeFailed)?;
        let (_, tls) = stream.get_ref();
        if tls.alpn_protocol() != Some(tls::ALPN_H2) {
            return Err(Cause::NotHttp2);
        }
        let facts = self.facts(tls, remote)?;
        Ok((stream, facts))
    }

    fn facts(&self, tls: &rustls::ServerConnection, remote: SocketAddr) -> Result<Facts, Cause> {
        let chain = tls.peer_certificates().ok_or(Cause::HandshakeFailed)?.to_vec();
        let exporter = tls
            .export_keying_material([0; limits::EXPORTER_BYTES], EXPORTER_LABEL, Some(&[]))
            .map_err(|_| Cause::HandshakeFailed)?;
        match self.kind {
            PeerKind::Workload => {
                let connection = Connection::new(chain, exporter, remote).map_err(Cause::Denied)?;
                Ok(Facts::Workload(Arc::new(connection)))
            }
            PeerKind::Administrator => {
                let connection = AdminConnection::new(chain, exporter, remote).map_err(Cause::Denied)?;
                Ok(Facts::Administrator(Arc::new(connection)))
            }
        }
    }

    fn http2(&self) -> hyper::server::conn::http2::Builder<TokioExecutor> {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(self.limits.header_bytes)
            .max_pending_accept_reset_streams(limits::RESET_STREAMS)
            .max_local_error_reset_streams(limits::RESET_STREAMS)
            .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .max_send_buf_size(limits::SEND_BUFFER_BYTES)
            .keep_alive_interval(Duration::from_millis(limits::KEEP_ALIVE_MS))
            .keep_alive_timeout(Duration::from_millis(limits::KEEP_ALIVE_TIMEOUT_MS));
        builder
    }

    /// Waits for the end of the leaf or of the connection's greatest age, looking at the clock now and then: timers do not
    /// run while a machine is suspended.
    async fn end_of(&self, facts: &Facts) {
        let oldest = self.clock.untrusted().boot.plus(self.limits.connection_age_ms);
        loop {
            let now = self.clock.untrusted();
            let left = facts.not_after().since(now.wall).min(oldest.since(now.boot));
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left.min(limits::CONNECTION_LOOK_MS))).await;
        }
    }
}

impl Facts {
    fn put_into(&self, extensions: &mut http::Extensions) {
        match self {
            Facts::Workload(connection) => {
                extensions.insert(connection.clone());
            }
            Facts::Administrator(connection) => {
                extensions.insert(connection.clone());
            }
        }
    }

    async fn asked_to_go_away(&self) {
        match self {
            Facts::Workload(connection) => connection.asked_to_go_away().await,
            Facts::Administrator(connection) => connection.asked_to_go_away().await,
        }
    }

    fn drain(&self) {
        match self {
            Facts::Workload(connection) => connection.drain(),
            Facts::Administrator(connection) => connection.drain(),
        }
    }

    fn not_after(&self) -> WallTime {
        match self {
            Facts::Workload(connection) => connection.not_after(),
            Facts::Administrator(connection) => connection.not_after(),
        }
    }
}

/// Open connections by identity.
#[derive(Default)]
struct PerIdentity {
    open: Mutex<HashMap<SpiffeId, usize>>,
}

/// One open connection of an identity; administrators are counted in the whole only.
struct IdentitySlot {
    all: Arc<PerIdentity>,
    identity: Option<SpiffeId>,
}

impl PerIdentity {
    fn enter(self: &Arc<Self>, facts: &Facts, most: usize) -> Option<IdentitySlot> {
        let Facts::Workload(connection) = facts else {
            return Some(IdentitySlot { all: self.clone(), identity: None });
        };
        let identity = connection.spiffe_id().clone();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(identity.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count = count.saturating_add(1);
        Some(IdentitySlot { all: self.clone(), identity: Some(identity) })
    }
}

impl Drop for IdentitySlot {
    fn drop(&mut self) {
        let Some(identity) = &self.identity else { return };
        let mut open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(identity) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(identity);
            }
        }
    }
}

/// A permit first: what cannot be shaken hands with now waits in the kernel's backlog.
async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> Result<(TcpStream, SocketAddr, OwnedSemaphorePermit), Error> {
    let permit = handshakes.clone().acquire_owned().await.map_err(Error::other)?;
    let (stream, remote) = listener.accept().await?;
    Ok((stream, remote, permit))
}

/// The socket moves to a shard's own reactor; one that cannot is closed.
fn hand_over<F>(
    shards: &Shards,
    tasks: &mut JoinSet<()>,
    stream: TcpStream,
    run: impl FnOnce(TcpStream) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(stream) = stream.into_std() else { return };
    shards.spawn(tasks, move || async move {
        if let Ok(stream) = TcpStream::from_std(stream) {
            run(stream).await;
        }
    });
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // A sender that is gone can no longer say it.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn call<S, B>(mut service: S, request: http::Request<Incoming>) -> Result<http::Response<B>, Infallible>
where
    S: tower_service::Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
{
    std::future::poll_fn(|task| service.poll_ready(task)).await?;
    service.call(request).await
}

/// RFC 9266 §2.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
