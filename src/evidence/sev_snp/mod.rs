//! Evidence format `sev-snp`: an AMD SEV-SNP attestation report.
//!
//! *Takes* a document's body and endorsements, the roots that an operator trusts, the binding that is due and the time.
//! *Gives* [`VerifiedSevSnp`]. *Denies* `EvidenceMalformed`, `EvidenceSignatureInvalid`, `EvidenceBindingMismatch`,
//! `EndorsementUntrusted`, `EndorsementExpired`, `EndorsementNotYetValid`, `EndorsementRevoked`, `CollateralUnavailable`,
//! `CollateralStale`. *Source*: AMD 56860 (SNP firmware ABI), AMD 57230 (VCEK certificates, KDS); `evidence.md` §4.
//!
//! A report has no time: that it is of now is shown by the binding in REPORT_DATA and by nothing else.

mod certificate;
mod claims;
mod kds;
mod list;
mod parse;
mod product;
mod trust;
mod verify;

pub use certificate::CertificateName;
pub use claims::{Firmware, SevSnpClaims, SevSnpGuestPolicy, SevSnpPlatform};
pub use kds::{Needed, certificate_path_of, certificate_paths, chain_path, list_path, needed};
pub use list::ListMark;
pub use parse::{Cpuid, GuestPolicy, HOST_REQUESTED, PlatformInfo, Report, parse};
pub use product::{Product, SigningKey, Tcb};
pub use trust::{PinnedRoot, SevSnpTrust, TrustError};
pub use verify::{Examined, VerifiedSevSnp, examine, verify};

/// The format's name on the wire.
pub const FORMAT: &str = "sev-snp";

#[cfg(test)]
#[path = "../../../tests/support/sev_snp.rs"]
pub(crate) mod testkit;
#[cfg(test)]
mod collateral_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors_tests;
