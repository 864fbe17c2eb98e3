//! Where workloads and operators connect: both sockets, and what is behind them.
//!
//! *Takes* the configuration. *Gives* [`Listeners`], bound, and [`Doors`], whose acceptors prove who comes. *Denies* where an
//! address cannot be bound. *Source*: `house.md` §1.

use super::assemble::StartError;
use super::keep;
use crate::cli::config::Config;
use crate::time::Clock;
use crate::transport::acceptor::{Acceptor, ConnectionLimits, PeerKind};
use crate::transport::administrator::AdministratorVerifier;
use crate::transport::certificate::ServerIdentity;
use crate::transport::tls;
use crate::transport::verifier::WorkloadVerifier;
use crate::transport::{Shards, Trust};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What both listeners share.
pub(super) struct Doors<'a> {
    pub(super) config: &'a Config,
    pub(super) clock: Arc<Clock>,
    pub(super) trust: Arc<Trust>,
    pub(super) observer: Arc<keep::Observer>,
}

/// Both sockets, bound once: who connects between a sealed broker and an open one waits in the backlog.
pub(super) struct Listeners {
    workloads: std::net::TcpListener,
    operators: std::net::TcpListener,
    /// Where workloads connect.
    pub(super) address: SocketAddr,
    /// Where operators connect.
    pub(super) admin_address: SocketAddr,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<Self, StartError> {
        let (workloads, address) = bind(config.broker.listen).await?;
        let (operators, admin_address) = bind(config.admin.listen).await?;
        Ok(Listeners { workloads, operators, address, admin_address })
    }

    /// The workloads' socket, once more.
    pub(super) fn workloads(&self) -> Result<TcpListener, StartError> {
        again(&self.workloads, self.address)
    }

    /// The operators' socket, once more.
    pub(super) fn operators(&self) -> Result<TcpListener, StartError> {
        again(&self.operators, self.admin_address)
    }
}

impl Doors<'_> {
    pub(super) fn acceptor(
        &self,
        listener: TcpListener,
        kind: PeerKind,
        shards: Option<Arc<Shards>>,
    ) -> Acceptor {
        let provider = Arc::new(tls::crypto_provider());
        let (clock, observer) = (self.clock.clone(), self.observer.clone());
        let roots = self.config.admin.roots.clone();
        Acceptor {
            listener,
            identity: Arc::new(server_identity(self.config, provider.clone())),
            verifier: match kind {
                PeerKind::Workload => {
                    Arc::new(WorkloadVerifier::new(self.trust.clone(), clock.clone(), observer.clone()))
                }
                PeerKind::Administrator => {
                    Arc::new(AdministratorVerifier::new(roots, clock.clone(), observer.clone()))
                }
            },
            kind,
            provider,
            clock,
            observer,
            limits: ConnectionLimits::default(),
            shards,
        }
    }
}

/// What the broker shows whoever connects.
pub(super) fn server_identity(
    config: &Config,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> ServerIdentity {
    let broker = &config.broker;
    let audience = Some(broker.spiffe_id.clone());
    ServerIdentity::new(broker.certificate.clone(), broker.key.clone(), audience, provider)
}

async fn bind(address: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen(address, error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener.into_std().map_err(failed)?, local))
}

fn again(listener: &std::net::TcpListener, address: SocketAddr) -> Result<TcpListener, StartError> {
    let copy = listener.try_clone().and_then(TcpListener::from_std);
    copy.map_err(|error| StartError::Listen(address, error))
}
