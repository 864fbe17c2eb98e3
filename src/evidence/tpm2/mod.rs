//! Evidence format `tpm2`: a quote of a TPM 2.0 by an attestation key (AK) that was enrolled for a node.
//!
//! *Takes* a document's body, the enrolled AKs, the counters last seen of each, the binding that is due and the time. *Gives*
//! [`VerifiedTpm2`]. *Denies* `EvidenceMalformed`, `EndorsementUntrusted`, `EndorsementExpired`, `EvidenceSignatureInvalid`,
//! `EvidenceBindingMismatch`, `EvidenceCounterBackwards`; [`enroll`] further `Endorsement…`, `Collateral…` and
//! `ChallengeExpired`. *Source*: TCG TPM 2.0 Library 1.59 parts 1 to 3; TCG PC Client Platform Firmware Profile 1.06;
//! `evidence.md` §3.
//!
//! A quote names no time and needs no certificate: whether its key is a TPM's was settled once, by [`enroll`].

mod algorithm;
mod attest;
mod claims;
mod credential;
mod der;
mod document;
mod ek_certificate;
pub mod enroll;
#[cfg(test)]
mod enroll_tests;
mod event_log;
mod key;
mod public;
mod seen;
#[cfg(test)]
pub(crate) mod tests;
mod trust;
#[cfg(test)]
mod vectors_tests;
mod verify;
pub(crate) mod wire;

pub use super::outcome::Refusal;
pub use algorithm::Hash;
pub use attest::{Attest, ClockInfo, Selection, Signature};
pub use claims::{EventLogClaims, PcrIndex, PcrValue, Tpm2Claims};
pub use document::{Document, parse};
pub use event_log::{Event, EventLog};
pub use key::{AttestationKey, EndorsementKey, KeyError};
pub use public::{AkName, Curve, PublicArea, PublicKey, Scheme};
pub use seen::{Recorded, Seen, SeenOf};
pub use trust::{Counters, EnrolledAk, Tpm2Trust};
pub use verify::{Due, Examination, VerifiedTpm2, examine, verify};
pub use wire::Malformed;

/// The format's name on the wire.
pub const FORMAT: &str = "tpm2";
