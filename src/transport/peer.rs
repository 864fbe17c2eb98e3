//! The two ends of one TLS connection, as facts.
//!
//! *Takes* what the handshake left. *Gives* [`Connection`], [`AdminConnection`]; the witness [`Peer`] is made of the former
//! by `Trust::prove`. *Denies* `PeerIdentityAmbiguous`, `PeerIdentityMalformed`. *Source*: RFC 9266; SPIFFE X.509-SVID §2.

pub use super::trust::Peer;

use super::svid::{self, Leaf};
use crate::denial::Denial;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::WallTime;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;

/// Facts of one TLS connection of a workload. It proves nothing by itself. Each request has it, in an `Arc`, among its
/// extensions.
pub struct Connection {
    spiffe_id: SpiffeId,
    link: Link,
}

/// Facts of one TLS connection of an administrator; which administrator that is, the administrators' list says.
pub struct AdminConnection {
    link: Link,
}

/// What both kinds have.
struct Link {
    chain: Vec<CertificateDer<'static>>,
    leaf: Leaf,
    exporter: [u8; limits::EXPORTER_BYTES],
    remote: SocketAddr,
    go_away: tokio::sync::Notify,
    draining: tokio::sync::watch::Sender<bool>,
}

impl Connection {
    /// Of a chain, leaf first, and the exporter (RFC 9266). **Denies** `PeerIdentityAmbiguous`, `PeerIdentityMalformed`.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        exporter: [u8; limits::EXPORTER_BYTES],
        remote: SocketAddr,
    ) -> Result<Self, Denial> {
        let (spiffe_id, leaf) = svid::check_workload(&chain)?;
        Ok(Connection { spiffe_id, link: Link::new(chain, leaf, exporter, remote) })
    }

    /// The SPIFFE ID in the leaf.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    pub(super) fn leaf(&self) -> &Leaf {
        &self.link.leaf
    }
}

impl AdminConnection {
    /// Of a chain, leaf first, and the exporter (RFC 9266). **Denies** `PeerIdentityMalformed`.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        exporter: [u8; limits::EXPORTER_BYTES],
        remote: SocketAddr,
    ) -> Result<Self, Denial> {
        let leaf = svid::check_administrator(&chain)?;
        Ok(AdminConnection { link: Link::new(chain, leaf, exporter, remote) })
    }
}

macro_rules! facts {
    ($($type:ty),+) => {$(
        impl $type {
            /// The certificates as presented, leaf first, DER.
            pub fn chain(&self) -> &[CertificateDer<'static>] {
                &self.link.chain
            }

            /// SHA-256 of the leaf's SubjectPublicKeyInfo, as encoded in the certificate.
            pub fn leaf_spki_sha256(&self) -> &[u8; 32] {
                &self.link.leaf.spki_sha256
            }

            /// The leaf's serial number, hex.
            pub fn serial(&self) -> &str {
                &self.link.leaf.serial
            }

            /// When the leaf ends.
            pub fn not_after(&self) -> WallTime {
                self.link.leaf.window.ends
            }

            /// TLS exporter, label `EXPORTER-Channel-Binding`, empty context (RFC 9266 §2).
            pub fn exporter(&self) -> &[u8; limits::EXPORTER_BYTES] {
                &self.link.exporter
            }

            /// The other end's address.
            pub fn remote(&self) -> SocketAddr {
                self.link.remote
            }

            /// Asks for a graceful end: GOAWAY once what is already queued is out; open streams go on for a while.
            pub fn go_away(&self) {
                self.link.go_away.notify_one();
            }

            /// Tells the streams that are held on it that it takes no new ones: their holders go elsewhere.
            pub(super) fn drain(&self) {
                self.link.draining.send_replace(true);
            }

            /// Waits until the connection takes no new streams.
            pub async fn drained(&self) {
                // The sender lives as long as this does.
                let mut draining = self.link.draining.subscribe();
                let _draining = draining.wait_for(|draining| *draining).await;
            }

            /// Waits until [`Self::go_away`] is called.
            pub(super) async fn asked_to_go_away(&self) {
                self.link.go_away.notified().await;
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.debug_struct(stringify!($type)).field("remote", &self.link.remote).finish_non_exhaustive()
            }
        }
    )+};
}

facts!(Connection, AdminConnection);

impl Link {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        leaf: Leaf,
        exporter: [u8; limits::EXPORTER_BYTES],
        remote: SocketAddr,
    ) -> Self {
        let draining = tokio::sync::watch::Sender::new(false);
        Link { chain, leaf, exporter, remote, go_away: tokio::sync::Notify::new(), draining }
    }
}
