//! The node's attester: `portcullis agent`.
//!
//! *Takes* connections of a Unix socket. *Gives* signed statements about the processes at their other ends, quotes beside. *Denies*
//! `ATTESTATION_NOT_POSSIBLE`, `REQUEST_INVALID`; it keeps nothing between attestations.
//! *Source*: `protocol.md` "The node's attester"; RFC 9334 §3 (Attesting Environment).

pub mod key;
pub mod socket;

mod files;
mod measure;
mod proc;
mod quoting;
mod service;
pub mod tpm;

#[doc(hidden)]
pub use proc::{stat_is_read, status_is_read};
#[doc(hidden)]
pub use service::start_is_sound;

use crate::evidence::process::NodeSigner;
use crate::limits;
use crate::proto::v1::attester_server::AttesterServer;
use crate::time::{Clock, ClockEvent};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quoting::NodeTpm;
use service::Connection;
use socket::PeerStream;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower_service::Service;
use tpm::QuoterConfig;

/// How an attester is set up.
pub struct AgentConfig {
    /// Where it listens; the directory exists.
    pub socket: PathBuf,
    /// The name under which its key is enrolled.
    pub node: String,
    /// Its key.
    pub signer: Arc<dyn NodeSigner>,
    /// The socket's file mode; 0666 lets every user of the node ask, each about itself alone.
    pub mode: u32,
}

/// The socket's mode where nothing else is said.
pub const SOCKET_MODE: u32 = 0o666;

/// Why an attester does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot listen.
    #[error("cannot listen at `{0}`: {1}")]
    Listen(PathBuf, io::Error),
}

/// An attester that listens, so that clients may connect, and does not answer yet.
pub struct Agent {
    listener: UnixListener,
    socket: PathBuf,
    inode: Option<(u64, u64)>,
    state: Arc<AttesterState>,
}

/// What all connections share.
pub(crate) struct AttesterState {
    node: String,
    signer: Arc<dyn NodeSigner>,
    clock: Arc<Clock>,
    proof_within_ms: u64,
    connections: Arc<Semaphore>,
    users: Mutex<HashMap<u32, User>>,
    /// The TPM whose quotes stand beside the statements, where there is one.
    tpm: OnceLock<NodeTpm>,
    /// Why callers were refused, which they are not told.
    #[cfg(test)]
    refusals: Mutex<Vec<String>>,
}

/// What one user of the node takes up.
#[derive(Clone)]
struct User {
    connections: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// Runs an attester until `shutdown`: [`Agent::bind`], then [`Agent::run`].
pub async fn serve(
    config: AgentConfig,
    clock: Arc<Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    Agent::bind(config, clock)?.run(shutdown).await;
    Ok(())
}

impl Agent {
    /// Listens. Must be called within a tokio runtime.
    pub fn bind(config: AgentConfig, clock: Arc<Clock>) -> Result<Self, AgentError> {
        let AgentConfig { socket, node, signer, mode } = config;
        let listener =
            socket::listen(&socket, mode).map_err(|error| AgentError::Listen(socket.clone(), error))?;
        let state = AttesterState {
            node,
            signer,
            clock,
            proof_within_ms: limits::ATTEST_PROOF_WITHIN_MS,
            connections: Arc::new(Semaphore::new(limits::ATTEST_CONNECTIONS)),
            users: Mutex::new(HashMap::new()),
            tpm: OnceLock::new(),
            #[cfg(test)]
            refusals: Mutex::default(),
        };
        Ok(Agent { listener, inode: inode(&socket), socket, state: Arc::new(state) })
    }

    /// With the node's TPM: beside each statement a quote that vouches for it.
    #[must_use]
    pub fn with_tpm(self, config: QuoterConfig) -> Self {
        // The first one stays.
        let _ = self.state.tpm.set(NodeTpm::new(config));
        self
    }

    /// Answers until `shutdown`, then lets what is under way end, for as long as an attestation takes at most.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let state = self.state.clone();
        tokio::spawn(async move {
            if let Some(tpm) = state.tpm.get() {
                tpm.warm_up().await;
            }
        });
        let (stop, stopped) = watch::channel(());
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = tick.tick() => self.tick(),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream, stopped.clone()),
                    // Out of descriptors, say: some are given back soon.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        self.remove_socket();
        drop(stopped);
        let _ = stop.send(());
        let _ = tokio::time::timeout(Duration::from_millis(limits::DRAIN_MS), stop.closed()).await;
    }

    fn tick(&self) {
        match self.state.clock.tick() {
            Some(ClockEvent::Suspected(cause)) => {
                tracing::error!(%cause, "the clock is suspect; nothing is attested")
            }
            Some(ClockEvent::Healed) => tracing::info!("the clock is trusted again"),
            None => {}
        }
        self.state.forget_idle_users();
    }

    /// Serves a connection, or closes it at once where there are too many.
    fn accept(&self, stream: UnixStream, stopped: watch::Receiver<()>) {
        let stream = match PeerStream::new(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "the peer cannot be identified"),
        };
        let uid = stream.peer().uid;
        let Some(places) = self.state.places_for(uid) else {
            return tracing::warn!(uid, "too many connections");
        };
        let state = self.state.clone();
        tokio::spawn(async move {
            serve_connection(stream, state, stopped).await;
            drop(places);
        });
    }

    /// Removes the socket file, where it is still this attester's.
    fn remove_socket(&self) {
        if self.inode.is_some() && inode(&self.socket) == self.inode {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

impl AttesterState {
    /// A place among all connections and one among those of its user.
    fn places_for(&self, uid: u32) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let all = self.connections.clone().try_acquire_owned().ok()?;
        let own = self.user(uid).connections.try_acquire_owned().ok()?;
        Some((all, own))
    }

    /// The turns at measuring of that user.
    fn turns_of(&self, uid: u32) -> Arc<Semaphore> {
        self.user(uid).turns
    }

    fn user(&self, uid: u32) -> User {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || User {
            connections: Arc::new(Semaphore::new(limits::ATTEST_CONNECTIONS_PER_USER)),
            turns: Arc::new(Semaphore::new(limits::ATTEST_MEASUREMENTS_PER_USER)),
        };
        users.entry(uid).or_insert_with(new).clone()
    }

    /// Users without a connection or measurement: each of those holds a share of its semaphore.
    fn forget_idle_users(&self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users
            .retain(|_, user| Arc::strong_count(&user.connections) > 1 || Arc::strong_count(&user.turns) > 1);
    }
}

/// HTTP/2 with every limit said; ends with the peer, with `stopped`, with its age, or once somebody else has written.
async fn serve_connection(stream: PeerStream, state: Arc<AttesterState>, mut stopped: watch::Receiver<()>) {
    let foreign = stream.foreign();
    let connection = Connection { state, peer: stream.peer(), foreign: foreign.clone() };
    let service = AttesterServer::new(connection).max_decoding_message_size(limits::ATTEST_MESSAGE_BYTES);
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(limits::ATTEST_STREAMS)
        .max_header_list_size(limits::HEADER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(limits::MESSAGE_BYTES);
    let service = hyper::service::service_fn(move |request| service.clone().call(request));
    let serving = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stopped.changed() => {}
        () = foreign.written() => {}
        () = tokio::time::sleep(Duration::from_millis(limits::ATTEST_CONNECTION_MS)) => {}
    }
    serving.as_mut().graceful_shutdown();
    // What is under way may end: an attestation, or the status that says why there is none.
    let patience = if foreign.is_written() { FAREWELL_MS } else { limits::DRAIN_MS };
    let _ = tokio::time::timeout(Duration::from_millis(patience), serving).await;
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// HTTP/2's own default, more than a request takes.
const WINDOW_BYTES: u32 = 65_535;

/// For the last status on a connection from which nothing is read any more.
const FAREWELL_MS: u64 = 1_000;

#[cfg(test)]
mod tests;
