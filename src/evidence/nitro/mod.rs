//! Evidence format `nitro`: an attestation document of an AWS Nitro Enclave, as its security module (NSM) gave it.
//!
//! *Takes* a document's body, the binding that is due, the pinned roots and the time. *Gives* [`VerifiedNitro`]. *Denies*
//! `EvidenceMalformed`, `EndorsementUntrusted`, `EndorsementExpired`, `EndorsementNotYetValid`, `EndorsementRevoked`,
//! `EvidenceSignatureInvalid`, `EvidenceBindingMismatch`, `EvidenceTooOld`, `EvidenceFromFuture`. *Source*: AWS
//! "Nitro Enclaves attestation process"; RFC 9052 §4; RFC 5280 §6; `evidence.md` §2.
//!
//! Everything that is needed comes with the document, but for the root. Nothing is fetched: AWS has revocation checking
//! switched off, its certificates live for hours, and an operator may refuse any key by name ([`NitroTrust::and_refused_key`]).

mod certificates;
mod claims;
mod parse;
#[cfg(test)]
pub(crate) mod tests;
mod trust;
#[cfg(test)]
mod vectors_tests;
mod verify;

pub use super::outcome::Refusal;
pub use claims::NitroClaims;
pub use parse::{Document, parse};
pub use trust::{NitroTrust, Root, RootError};
pub use verify::{Examination, VerifiedNitro, examine, verify};

/// The format's name on the wire.
pub const FORMAT: &str = "nitro";
