//! The vocabulary of the audit log: one [`Record`] for each decision, admin act and change of state.
//!
//! Encoded as one JSON object. It names people, keys, paths, versions, digests and reasons; never a secret, never an
//! evidence body. *Source*: NIST SP 800-53 AU-3 (content of audit records); OCSF class 6003 is a view of it (`ocsf`).

use crate::case::Case;
use crate::denial::Denial;
use crate::spiffe::SpiffeId;
use crate::time::{BootTime, WallTime};
use serde::{Deserialize, Serialize};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 32 hex digits, random: what the caller sees as `decision_id`.
    pub id: String,
    /// CLOCK_REALTIME, milliseconds since 1970, trusted or not.
    pub time: WallTime,
    /// CLOCK_BOOTTIME, milliseconds.
    pub boot_time: BootTime,
    /// The kernel's boot id.
    pub boot_id: String,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A request ended in a release; recorded before the secret leaves.
    Released {
        /// The request.
        case: Case,
        /// The lease.
        lease_id: String,
        /// When the lease ends, wall clock.
        not_after: WallTime,
    },
    /// A held lease was attested again and goes on; recorded before its holder hears of it.
    Renewed {
        /// The request, and the round.
        case: Case,
        /// The lease.
        lease_id: String,
        /// When the lease ends from now on, wall clock.
        not_after: WallTime,
    },
    /// A release that was recorded could not be delivered; its lease has ended. Of a `Renewed` record: it was not renewed.
    Undelivered {
        /// The id of the `Released` or `Renewed` record.
        decision_id: String,
        /// The lease that ended.
        lease_id: String,
        /// Why.
        detail: String,
    },
    /// A request ended without a secret.
    Denied {
        /// Why.
        denial: Denial,
        /// `refused` or `uncertain`; the denial's class, written out for readers of the log.
        class: String,
        /// What the caller heard.
        reason: String,
        /// The request.
        case: Case,
        /// The holds that this refusal began or lengthened; empty where it latches nothing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        latches: Vec<LatchSet>,
        /// The record of the refusal that this one repeats, where a latch held.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        repeats: Option<String>,
    },
    /// A TLS handshake was refused although the path verifies to a bundle: expired, not yet valid, or revoked.
    HandshakeRefused {
        /// Why.
        denial: Denial,
        /// The peer.
        case: Case,
    },
    /// Requests or handshakes of one caller that were counted instead of recorded one by one.
    Counted {
        /// The identity, where it was proven.
        identity: Option<SpiffeId>,
        /// SHA-256 of the leaf's SPKI, hex.
        key_sha256: String,
        /// What they ended in.
        denial: Denial,
        /// How many since `since`.
        count: u64,
        /// The beginning of the count.
        since: WallTime,
    },
    /// An administrator's change is about to be applied; durable before it takes effect.
    AdminIntent {
        /// The act.
        act: AdminAct,
        /// The store's commit number that it will have; none where it changes no store.
        commit: Option<u64>,
    },
    /// A change was applied; only now was it acknowledged.
    Applied {
        /// The commit number of its intent.
        commit: u64,
    },
    /// A change whose intent stands in the log never reached the store; written at the next start.
    NotApplied {
        /// The commit number of its intent.
        commit: u64,
    },
    /// An administrator read something (explain, listings), or was refused.
    AdminRead {
        /// The act.
        act: AdminAct,
        /// Why it was refused; none where it was answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    /// A lease ended before its time.
    LeaseEnded {
        /// Which.
        lease_id: String,
        /// Why: an administrator's act, or the workload's own.
        detail: String,
    },
    /// A latch was ended before its time.
    LatchCleared {
        /// Which: identity, subject and secret as in [`LatchSet`].
        key: LatchKey,
        /// The record id of the administrator's act that ended it.
        by: String,
    },
    /// The clock became suspect, healed, or was accepted.
    Clock {
        /// What it is now.
        state: String,
    },
    /// An input changed: a bundle, a list, a certificate was read, or cannot be read any more.
    Input {
        /// Which.
        name: String,
        /// Its epoch from now on.
        epoch: u64,
        /// What it is now.
        state: String,
    },
    /// A high-water mark stands higher than any record said; or lower, at an administrator's word.
    Mark {
        /// Which.
        name: String,
        /// What it is now: an unsigned integer, big-endian, hex.
        value: String,
        /// Whether it may have gone down.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lowered: bool,
    },
    /// The broker started.
    Started {
        /// Its version.
        version: String,
        /// The store's commit number.
        commit: u64,
    },
    /// The broker stopped in order.
    Stopped {},
}

/// An administrator's act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdminAct {
    /// The administrator's name.
    pub administrator: String,
    /// SHA-256 of the key, hex.
    pub key_sha256: String,
    /// The verb, such as `secret put`.
    pub verb: String,
    /// What it is about, such as a path; never a value.
    pub target: String,
    /// More, such as a version or a digest; never a value.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

/// What a latch holds: one verified subject of one identity, for one secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LatchKey {
    /// The identity.
    pub identity: SpiffeId,
    /// The verified subject, hex of a SHA-256; empty where the identity has too many latches (all new subjects).
    pub subject: String,
    /// The secret's path; empty for every new subject's.
    pub secret: String,
}

/// A hold that a refusal began or lengthened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatchSet {
    /// What it holds.
    pub key: LatchKey,
    /// Until when, wall clock.
    pub until: WallTime,
    /// Its length, milliseconds; the next evaluated refusal doubles it.
    pub length_ms: u64,
    /// What the refusal rested on, such as `reference`, `policy`, `secret`, `node`: an act that changes it ends the hold.
    pub rests_on: Vec<String>,
}

impl Record {
    /// The denial of a record that is one.
    pub fn denial(&self) -> Option<Denial> {
        match &self.event {
            Event::Denied { denial, .. }
            | Event::HandshakeRefused { denial, .. }
            | Event::Counted { denial, .. } => Some(*denial),
            Event::Released { .. }
            | Event::Renewed { .. }
            | Event::Undelivered { .. }
            | Event::AdminIntent { .. }
            | Event::Applied { .. }
            | Event::NotApplied { .. }
            | Event::AdminRead { .. }
            | Event::LeaseEnded { .. }
            | Event::LatchCleared { .. }
            | Event::Clock { .. }
            | Event::Input { .. }
            | Event::Mark { .. }
            | Event::Started { .. }
            | Event::Stopped {} => None,
        }
    }

    /// The case of a record that has one.
    pub fn case(&self) -> Option<&Case> {
        match &self.event {
            Event::Released { case, .. }
            | Event::Renewed { case, .. }
            | Event::Denied { case, .. }
            | Event::HandshakeRefused { case, .. } => Some(case),
            Event::Undelivered { .. }
            | Event::Counted { .. }
            | Event::AdminIntent { .. }
            | Event::Applied { .. }
            | Event::NotApplied { .. }
            | Event::AdminRead { .. }
            | Event::LeaseEnded { .. }
            | Event::LatchCleared { .. }
            | Event::Clock { .. }
            | Event::Input { .. }
            | Event::Mark { .. }
            | Event::Started { .. }
            | Event::Stopped {} => None,
        }
    }
}
