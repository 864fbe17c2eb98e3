//! Evidence format `tdx`: Intel's hardware states what a trust domain is, in a DCAP quote of version 4 or 5. Format `sgx`,
//! version 3, shares all of it.
//!
//! *Takes* a quote, collateral, the binding that is due, the operator's trust and the time. *Gives* [`VerifiedTdx`],
//! [`VerifiedSgx`]. *Denies* `EvidenceMalformed`, `EvidenceBindingMismatch`, `EvidenceSignatureInvalid`, `Endorsement…`,
//! `Collateral…`, `PlatformNotAcceptable`. *Source*: `protocol.md` "tdx"; `evidence.md` §5; Intel DCAP.
//!
//! The verification of signatures, chains, revocation and TCB levels is `dcap-qvl`'s, in one call with aws-lc's primitives.
//! Before it everything cheap is checked by our own reading (`prepare`), after it what the crate leaves out; where it
//! refuses, `diagnosis` finds the denial. What the crate tolerates and is refused here: bytes other than zeros after a quote,
//! bytes within it that nothing reads, PEM in another spelling, a root in a chain that is not the pinned one, a TCB info of
//! another PCE or type, collateral at its very nextUpdate, a list without nextUpdate or number, a PCK chain in the
//! collateral, QE report data with more than the hash.

mod backend;
mod certificate;
mod claims;
mod collateral;
mod diagnosis;
mod genuine;
mod pcs;
mod pem;
mod prepare;
mod quote;
mod trust;
mod verify;

pub use claims::{PlatformClaims, SgxClaims, TcbClaims, TcbStatus, TdAttributes, TdxClaims};
pub use collateral::{Collateral, CollateralError, Part, Tee};
pub use genuine::{Age, GenuineError, GenuinePart, claimed_ages};
pub use pcs::{INTEL_PCS, INTEL_ROOT_CRL, PckCa, Question};
pub use prepare::{Platform, is_issued, needed, platform};
pub use quote::{EnclaveReport, Quote, Report, Td15, Td15Extended, TdReport, parse};
pub use trust::{Root, RootMalformed, TdxTrust};
pub use verify::{Examination, VerifiedSgx, VerifiedTdx, examine, examine_sgx, verify, verify_sgx};

/// The format's name on the wire.
pub const FORMAT: &str = "tdx";
/// The name of the same for enclaves; offline only.
pub const FORMAT_SGX: &str = "sgx";

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod vectors_tests;
