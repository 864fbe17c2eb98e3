//! The evidence stage: one file or folder per format, each with the same shape (constants, type, `parse`, `verify`, tests).
//!
//! *Takes* `Answer`. *Gives* [`VerifiedEvidence`]: endorsed key, signature and binding of every document.
//! *Denies* the `Evidence…` and `Endorsement…` variants, `NodesUnavailable`. *Source*: RFC 9334 (Verifier); `evidence.md` §1.

pub mod cbor;
pub mod cose;
mod documents;
pub mod hardware;
pub mod nitro;
pub mod outcome;
pub mod process;
pub mod sev_snp;
pub mod tdx;
pub mod tpm2;
mod verified;

pub use documents::Documents;
pub use verified::{HARDWARE, VerifiedEvidence, Verifiers};
