//! What a verified quote says, as policy and the audit log read it.
//!
//! *Takes* a verified [`Document`] and the enrolment of its key. *Gives* [`Tpm2Claims`], and the subject that a refusal is held
//! against. *Denies* nothing. *Source*: TCG PC Client Platform Firmware Profile 1.06 §2.3 (what PCRs measure); `protocol.md`
//! "What a refusal latches".

use super::algorithm::{Hash, sha256};
use super::document::Document;
use super::event_log::Replayed;
use super::trust::EnrolledAk;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// The claims of one quote. Digests are lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm2Claims {
    /// The node that the key is enrolled for.
    pub node: String,
    /// The Name of the attestation key.
    pub ak_name: String,
    /// What it signs with, such as `ecdsa-p256-sha256`.
    pub ak_algorithm: String,
    /// SHA-256 over the SubjectPublicKeyInfo of the endorsement key that it was enrolled with.
    pub ek_sha256: String,
    /// The key's qualified name, as the TPM states it.
    pub qualified_signer: String,
    /// The TPM's firmware version, 16 hex digits; obfuscated where the key is outside the endorsement hierarchy.
    pub firmware_version: String,
    /// Milliseconds that the TPM was powered since it was last cleared.
    pub clock_ms: u64,
    /// TPM resets since it was last cleared.
    pub reset_count: u32,
    /// Resumes and restarts since the last reset.
    pub restart_count: u32,
    /// The quoted PCRs by bank.
    pub pcrs: BTreeMap<Hash, BTreeMap<PcrIndex, PcrValue>>,
    /// What an event log says of them, where one came along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<EventLogClaims>,
}

/// An event log that replays to the quoted PCRs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventLogClaims {
    /// SHA-256 of the log.
    pub sha256: String,
    /// The digests that made each quoted PCR, in their order. A PCR that is not here has no event in the log.
    pub events: BTreeMap<Hash, BTreeMap<PcrIndex, Vec<PcrValue>>>,
}

/// A PCR's number, 0 to 31. Text where it is a key, as in TOML and JSON; read from a number too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PcrIndex(u8);

/// A value of a PCR, or a digest that one was extended with: 32, 48 or 64 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PcrValue(Vec<u8>);

impl Tpm2Claims {
    /// The claims of `document`, by a key that is enrolled as `ak`.
    pub(super) fn of(document: &Document<'_>, ak: &EnrolledAk, replayed: &[QuotedReplay<'_>]) -> Self {
        let attest = &document.attest;
        let mut pcrs: BTreeMap<Hash, BTreeMap<PcrIndex, PcrValue>> = BTreeMap::new();
        for ((bank, pcr), value) in attest.pcrs().zip(&document.pcr_values) {
            pcrs.entry(bank).or_default().insert(PcrIndex(pcr), PcrValue(value.to_vec()));
        }
        let events = |(log, _): &(&[u8], super::EventLog<'_>)| EventLogClaims::of(log, replayed);
        Tpm2Claims {
            node: ak.node.clone(),
            ak_name: hex::encode(document.ak_name.as_bytes()),
            ak_algorithm: ak.key.algorithm(),
            ek_sha256: hex::encode(ak.ek_sha256),
            qualified_signer: hex::encode(attest.qualified_signer),
            firmware_version: format!("{:016x}", attest.firmware_version),
            clock_ms: attest.clock.clock,
            reset_count: attest.clock.reset_count,
            restart_count: attest.clock.restart_count,
            pcrs,
            event_log: document.event_log.as_ref().map(events),
        }
    }
}

/// What a quoted PCR comes to by the log.
pub(super) struct QuotedReplay<'a> {
    pub(super) bank: Hash,
    pub(super) pcr: u8,
    pub(super) replayed: Replayed<'a>,
}

impl EventLogClaims {
    fn of(log: &[u8], replayed: &[QuotedReplay<'_>]) -> Self {
        let mut events: BTreeMap<Hash, BTreeMap<PcrIndex, Vec<PcrValue>>> = BTreeMap::new();
        for quoted in replayed {
            let digests = quoted.replayed.digests.iter().map(|digest| PcrValue(digest.to_vec())).collect();
            events.entry(quoted.bank).or_default().insert(PcrIndex(quoted.pcr), digests);
        }
        EventLogClaims { sha256: hex::encode(sha256(log)), events }
    }
}

/// What a refusal is held against: SHA-256 over the quoted PCRs below 16, each with its bank and number. PCRs 16 to 23 are
/// debug, late-launch and application registers, some of which every process may reset: a refusal would be shed by extending
/// one. Where nothing else was quoted, they are what there is.
pub(super) fn subject(document: &Document<'_>) -> [u8; 32] {
    let of_boot = document.attest.pcrs().any(|(_, pcr)| pcr < FIRST_OF_NO_BOOT);
    let mut subject = b"portcullis tpm2 subject".to_vec();
    for ((bank, pcr), value) in document.attest.pcrs().zip(&document.pcr_values) {
        if pcr < FIRST_OF_NO_BOOT || !of_boot {
            subject.extend_from_slice(&bank.id().to_be_bytes());
            subject.push(pcr);
            subject.extend_from_slice(value);
        }
    }
    sha256(&subject)
}

impl PcrIndex {
    /// One of 0 to 31.
    pub fn new(index: u8) -> Option<Self> {
        (index < 32).then_some(PcrIndex(index))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| plain).and_then(PcrIndex::new)
    }
}

impl PcrValue {
    /// A value as long as one of the banks' digests.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        matches!(bytes.len(), 32 | 48 | 64).then(|| PcrValue(bytes.to_vec()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether all bytes are 0x00, or all 0xff: what PCRs hold before anything extends them.
    pub fn is_reset(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0) || self.0.iter().all(|byte| *byte == 0xff)
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for PcrIndex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PcrIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = PcrIndex;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the number of a PCR, 0 to 31")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PcrIndex, E> {
                PcrIndex::parse(text).ok_or_else(|| E::custom("not the number of a PCR, 0 to 31"))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<PcrIndex, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<PcrIndex, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl fmt::Display for PcrValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for PcrValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl Serialize for PcrValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PcrValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = hex::decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)?;
        PcrValue::new(&bytes).ok_or_else(|| serde::de::Error::custom("not 64, 96 or 128 hex digits"))
    }
}

/// PCRs 0 to 15 are of the boot and what it started (TCG PC Client Platform Firmware Profile §2.3.4).
const FIRST_OF_NO_BOOT: u8 = 16;
