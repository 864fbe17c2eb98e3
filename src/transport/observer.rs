//! Who hears of connections that came to nothing: the audit log of the few worth a record, a counter of the rest.
//!
//! *Takes* refusals. *Gives* calls to a [`HandshakeObserver`]. *Denies* nothing. *Source*: `protocol.md` "A refused handshake
//! is a TLS alert".

use super::svid::Leaf;
use crate::case::Case;
use crate::denial::{Denial, Reason};
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::BootTime;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Hears of connections that were closed before any request. Called from async code: it must not block.
pub trait HandshakeObserver: Send + Sync {
    /// A handshake to be recorded: the path leads to a root, and only validity or revocation failed. The peer has not
    /// proven yet that it has the key.
    fn refused(&self, denial: Denial, case: Box<Case>);
    /// Anything else, to be counted.
    fn counted(&self, cause: Cause);
}

/// Why a connection came to nothing, without a record of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The certificate was refused.
    Denied(Denial),
    /// The TLS handshake failed otherwise.
    HandshakeFailed,
    /// The TLS handshake took too long.
    HandshakeTimedOut,
    /// ALPN did not settle on HTTP/2.
    NotHttp2,
    /// As many connections are open as may be.
    ConnectionsExhausted,
    /// As many connections of this identity are open as may be.
    IdentityConnectionsExhausted,
    /// The server's own certificate and key cannot be used.
    OwnCertificateUnusable,
    /// The system gave no connection: out of descriptors or memory.
    AcceptFailed,
}

impl Cause {
    /// The word for it in figures: a denial's own name, or one of its own.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Denied(denial) => denial.name(),
            Cause::HandshakeFailed => "HandshakeFailed",
            Cause::HandshakeTimedOut => "HandshakeTimedOut",
            Cause::NotHttp2 => "NotHttp2",
            Cause::ConnectionsExhausted => "ConnectionsExhausted",
            Cause::IdentityConnectionsExhausted => "IdentityConnectionsExhausted",
            Cause::OwnCertificateUnusable => "OwnCertificateUnusable",
            Cause::AcceptFailed => "AcceptFailed",
        }
    }

    /// Every name that one may have: the denials of an identity and of what must be current for it, and the others.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let concerned = |denial: &&Denial| match denial.reason() {
            Reason::IdentityNotCurrent => true,
            Reason::VerificationNotPossible => **denial <= Denial::ClockSuspect,
            _ => false,
        };
        let denials = Denial::ALL.iter().filter(concerned).map(|denial| Cause::Denied(*denial));
        let others = [
            Cause::HandshakeFailed,
            Cause::HandshakeTimedOut,
            Cause::NotHttp2,
            Cause::ConnectionsExhausted,
            Cause::IdentityConnectionsExhausted,
            Cause::OwnCertificateUnusable,
            Cause::AcceptFailed,
        ];
        denials.chain(others).map(Cause::name)
    }
}

/// Refusals of one listener: at most one record a minute for a leaf key, the rest counted.
pub(super) struct Refusals {
    observer: Arc<dyn HandshakeObserver>,
    recorded: Mutex<HashMap<[u8; 32], BootTime>>,
}

impl Refusals {
    pub(super) fn new(observer: Arc<dyn HandshakeObserver>) -> Self {
        Refusals { observer, recorded: Mutex::new(HashMap::new()) }
    }

    pub(super) fn count(&self, denial: Denial) {
        self.observer.counted(Cause::Denied(denial));
    }

    /// A refusal of a chain whose signatures lead to a root.
    pub(super) fn refuse(&self, denial: Denial, id: Option<&SpiffeId>, leaf: &Leaf, now: BootTime) {
        if !self.is_due(leaf.spki_sha256, now) {
            return self.count(denial);
        }
        let mut case = Case::new();
        case.identity = id.cloned();
        case.key_sha256 = hex::encode(leaf.spki_sha256);
        case.serial.clone_from(&leaf.serial);
        self.observer.refused(denial, Box::new(case));
    }

    fn is_due(&self, key: [u8; 32], now: BootTime) -> bool {
        // A panic while the lock was held leaves whole entries.
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |at: &BootTime| now.since(*at) < limits::HANDSHAKE_RECORD_MS;
        if recorded.get(&key).is_some_and(holds) {
            return false;
        }
        if recorded.len() >= limits::HANDSHAKE_RECORD_KEYS {
            recorded.retain(|_, at| holds(at));
        }
        let room = recorded.len() < limits::HANDSHAKE_RECORD_KEYS;
        if room {
            recorded.insert(key, now);
        }
        room
    }
}
