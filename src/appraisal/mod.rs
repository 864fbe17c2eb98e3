//! The appraisal stage: claims against reference values.
//!
//! *Takes* `Unlatched`. *Gives* [`AttestationResult`]. *Denies* `ReferenceValuesMissing`, `ReferenceValuesExpired`,
//! `ReferenceValuesUnavailable`, `MeasurementMismatch`, `PlatformNotAcceptable`. *Source*: RFC 9334 §7.1 (appraisal policy for evidence).

pub mod claims;
pub mod corim;
pub mod nitro_reference;
pub mod offline;
pub mod reference_text;
pub mod reference_set;
pub mod reference_values;
mod result;
pub mod sev_snp_reference;
pub mod tdx_reference;
pub mod tpm2_reference;

pub use result::{Appraiser, AttestationResult};
