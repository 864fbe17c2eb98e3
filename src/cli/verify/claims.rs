//! The claims of whichever format, and what reference values say of them.
//!
//! *Takes* what a format's examination gave. *Gives* [`Claims`]. *Denies* `PlatformNotAcceptable`, by each format's own
//! appraisal. *Source*: `evidence.md` §2 to §5.

use super::Format;
use super::reference::Set;
use crate::appraisal::claims::ProcessClaims;
use crate::appraisal::nitro_reference::NitroReference;
use crate::appraisal::tdx_reference::TdxPlatform;
use crate::appraisal::{offline, sev_snp_reference};
use crate::evidence::nitro::NitroClaims;
use crate::evidence::outcome::Refusal;
use crate::evidence::process::Statement;
use crate::evidence::sev_snp::SevSnpClaims;
use crate::evidence::tdx::{SgxClaims, TdxClaims};
use crate::evidence::tpm2::Tpm2Claims;
use crate::limits;
use serde_json::{Value, json};

/// The claims of one verified document.
pub(super) enum Claims {
    Process(Box<Statement>),
    Nitro(Box<NitroClaims>),
    SevSnp(Box<SevSnpClaims>),
    Tdx(Box<TdxClaims>),
    Sgx(Box<SgxClaims>),
    Tpm2(Box<Tpm2Claims>),
}

impl Claims {
    /// As policy and the audit log read them.
    pub(super) fn json(&self) -> Value {
        match self {
            Claims::Process(statement) => statement.claims_json(),
            Claims::Nitro(claims) => json!(claims),
            Claims::SevSnp(claims) => json!(claims),
            Claims::Tdx(claims) => json!(claims),
            Claims::Sgx(claims) => json!(claims),
            Claims::Tpm2(claims) => {
                let mut claims = json!(claims);
                // Both are of the enrolment; of a key in a file nobody knows the endorsement key, nor always the node.
                if let Some(object) = claims.as_object_mut() {
                    object.remove("ek_sha256");
                    object.retain(|name, value| name != "node" || *value != json!(""));
                }
                claims
            }
        }
    }

    /// What a `process` document carries as its binding.
    pub(super) fn process_binding(&self) -> Option<[u8; limits::BINDING_BYTES]> {
        match self {
            Claims::Process(statement) => Some(statement.binding),
            Claims::Nitro(_) | Claims::SevSnp(_) | Claims::Tdx(_) | Claims::Sgx(_) | Claims::Tpm2(_) => None,
        }
    }

    /// The enrolled name of the node, where the format has one.
    pub(super) fn node(&self) -> Option<&str> {
        match self {
            Claims::Process(statement) => Some(&statement.node),
            Claims::Tpm2(claims) => Some(&claims.node),
            Claims::Nitro(_) | Claims::SevSnp(_) | Claims::Tdx(_) | Claims::Sgx(_) => None,
        }
    }

    /// Whether they are acceptable to a set, or by the safe defaults where there is none.
    pub(super) fn acceptable(&self, set: Option<&Set>) -> Result<(), Refusal> {
        match self {
            Claims::Process(_) => Ok(()),
            Claims::Nitro(claims) => match set.and_then(|set| set.nitro.as_ref()) {
                Some(reference) => reference.acceptable(claims),
                None => NitroReference::default().acceptable(claims),
            },
            Claims::SevSnp(claims) => {
                sev_snp_reference::acceptable(claims, set.and_then(|set| set.sev_snp.as_ref()))
            }
            Claims::Tdx(claims) => match set.and_then(|set| set.tdx.as_ref()) {
                Some(reference) => reference.acceptable(claims),
                None => TdxPlatform::default().acceptable(claims),
            },
            Claims::Sgx(claims) => match set.and_then(|set| set.sgx.as_ref()) {
                Some(reference) => reference.acceptable(claims),
                None => TdxPlatform::default().acceptable_enclave(claims),
            },
            Claims::Tpm2(claims) => match set.and_then(|set| set.tpm2.as_ref()) {
                Some(reference) => reference.acceptable(claims),
                None => offline::tpm2_acceptable_without_reference(claims),
            },
        }
    }

    /// The claims that are not as the set says; one that says nothing of the format differs.
    pub(super) fn differences(&self, set: &Set) -> Vec<String> {
        let found = match self {
            Claims::Process(statement) => set.process.as_ref().map(|reference| {
                offline::process_differences(reference, &ProcessClaims::from(statement.as_ref()))
            }),
            Claims::Nitro(claims) => set.nitro.as_ref().map(|reference| reference.differences(claims)),
            Claims::SevSnp(claims) => set.sev_snp.as_ref().map(|reference| reference.differences(claims)),
            Claims::Tdx(claims) => set.tdx.as_ref().map(|reference| reference.differences(claims)),
            Claims::Sgx(claims) => set.sgx.as_ref().map(|reference| reference.differences(claims)),
            Claims::Tpm2(claims) => set.tpm2.as_ref().map(|reference| reference.differences(claims)),
        };
        found.unwrap_or_else(|| vec![format!("the set says nothing of `{}`", self.format().name())])
    }

    fn format(&self) -> Format {
        match self {
            Claims::Process(_) => Format::Process,
            Claims::Nitro(_) => Format::Nitro,
            Claims::SevSnp(_) => Format::SevSnp,
            Claims::Tdx(_) => Format::Tdx,
            Claims::Sgx(_) => Format::Sgx,
            Claims::Tpm2(_) => Format::Tpm2,
        }
    }
}
