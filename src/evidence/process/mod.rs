//! Evidence format `process`: a node's attester states what it measured of one process.
//!
//! *Takes* a document's body, the enrolled nodes, the binding that is due, the peer's identity and the time. *Gives*
//! [`VerifiedStatement`]. *Denies* `EvidenceMalformed`, `EndorsementUntrusted`, `EvidenceSignatureInvalid`,
//! `EvidenceNodeMismatch`, `EvidenceBindingMismatch`, `EvidenceTooOld`, `EvidenceFromFuture`, `EndorsementExpired`,
//! `EndorsementNotPermitted`. *Source*: `protocol.md` "process"; RFC 9052 §4, RFC 9711, RFC 8949 §4.2.1.

mod node;
mod parse;
mod sign;
mod statement;
mod verify;

pub use super::outcome::Refusal;
pub(super) use node::sha256;
pub use node::{Algorithm, EnrolledNode, KeyError, KeyId, NodeKey, Nodes};
pub use parse::{ParseError, SignedStatement, parse};
pub use sign::{NodeSigner, SignError, sign};
pub use statement::{Executable, ProcessClaims, Program, Statement};
pub use verify::{Examination, VerifiedStatement, examine, verify};

/// The format's name on the wire.
pub const FORMAT: &str = "process";

/// `eat_profile` (RFC 9711 §6) of this version.
const PROFILE: &str = "urn:portcullis:process:1";

/// External AAD of the signature (RFC 9052 §4.4).
const EXTERNAL_AAD: &[u8] = b"portcullis.v1 process evidence";

// COSE header labels and algorithms (RFC 9052 §3.1, RFC 9053 §2); `Negative(n)` is −1 − n.
const HEADER_ALG: u64 = 1;
const HEADER_KID: u64 = 4;
const ALG_ES256: u64 = 6;
const ALG_EDDSA: u64 = 7;

// Claim keys (RFC 9711 §4, RFC 8392 §3).
const CLAIM_IAT: u64 = 6;
const CLAIM_NONCE: u64 = 10;
const CLAIM_PROFILE: u64 = 265;

#[cfg(test)]
mod tests;
