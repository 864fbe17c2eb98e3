//! The policy stage: Cedar policies over a proven workload and a secret.
//!
//! *Takes* `AttestationResult`. *Gives* [`Permit`]. *Denies* `PolicyForbids`, `PolicySilent`, `PolicyUnevaluable`,
//! `PolicyUnavailable`, the `Secret…` variants, `ChannelBindingDemanded`, `TtlTooLong`, `HoldUnavailable`,
//! `ParametersNotTaken`, `StoreUnavailable`. *Source*: NIST SP 800-162 (PDP); SP 800-53 AC-3; Cedar language 4.

mod hardware;
pub mod question;
pub mod index;
mod structure;
pub mod compile;
pub mod cedar;
pub mod table;
pub mod explain;
mod permit;

pub use permit::{Catalog, Pdp, Permit, Permitted, SecretStanding, Unknown};
