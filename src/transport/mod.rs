//! The transport stage: who is at the other end, provable now.
//!
//! *Takes* a TCP connection. *Gives* requests with a [`Connection`] among their extensions, and [`Peer`], the first
//! witness. *Denies* everything from `PeerIdentityAmbiguous` to `RevocationStale`; what is provably wrong already in the
//! handshake. *Source*: RFC 8446; RFC 9113; RFC 5280; SPIFFE X.509-SVID; `protocol.md` "Connection".

pub mod acceptor;
#[cfg(test)]
mod acceptor_tests;
pub mod administrator;
pub mod bundle;
pub mod certificate;
pub mod domain;
pub mod file;
pub mod observer;
pub mod path;
pub mod peer;
pub mod revocation;
pub mod shards;
pub mod svid;
#[cfg(test)]
mod testkit;
pub mod tls;
pub mod trust;
pub mod verifier;

pub use acceptor::{Acceptor, ConnectionLimits, PeerKind};
pub use administrator::AdministratorVerifier;
pub use certificate::{IdentityError, ServerIdentity};
pub use observer::{Cause, HandshakeObserver};
pub use peer::{AdminConnection, Connection, Peer};
pub use shards::Shards;
pub use trust::{
    DomainConfig, DomainStatus, InputChange, Marks, MarksUnavailable, RevocationMode, Revocations, Trust,
};
pub use verifier::WorkloadVerifier;
