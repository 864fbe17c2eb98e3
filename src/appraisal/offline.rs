//! What the offline verifier asks of claims beyond the reference sets of the broker.
//!
//! *Takes* verified claims. *Gives* their differences, in words. *Denies* `PlatformNotAcceptable`.
//! *Source*: RFC 9334 §8.3; `evidence.md` §3 (coverage of PCRs), §5 (SGX); Intel SGX, "REPORT" (measurements).
//!
//! SGX enclaves are verified offline alone: no `sgx` document is evidence for a release, so no reference set of the broker
//! speaks of them.

use super::claims::ProcessClaims;
use super::reference_set::ProcessReference;
use super::tdx_reference::{Hex, TdxPlatform};
use super::tpm2_reference::Tpm2Reference;
use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::evidence::tdx::SgxClaims;
use crate::evidence::tpm2::Tpm2Claims;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What an `sgx` quote must claim. A list that is **absent** constrains nothing; none may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxReference {
    /// MRENCLAVE: the enclave itself, 64 hex digits. Absent only beside `mrsigner` with `isv_prod_ids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrenclave: Option<BTreeSet<Hex<32>>>,
    /// MRSIGNER: SHA-256 of the key that signed it, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrsigner: Option<BTreeSet<Hex<32>>>,
    /// ISVPRODID: which of its signer's enclaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isv_prod_ids: Option<BTreeSet<u16>>,
    /// The least ISVSVN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_isv_svn: Option<u16>,
    /// The platform, as for `tdx`; absent: its safe defaults.
    #[serde(default)]
    pub platform: TdxPlatform,
}

/// Why a reference is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SgxReferenceError {
    /// Nothing says which enclave.
    #[error("neither `mrenclave`, nor `mrsigner` with `isv_prod_ids`: nothing says which enclave")]
    Enclave,
    /// A list is there, and empty: it would say either everything or nothing.
    #[error("`{0}` is empty: leave it out, or say what is allowed")]
    ListEmpty(&'static str),
}

impl SgxReference {
    /// Whether the values say which enclave.
    pub fn check_shape(&self) -> Result<(), SgxReferenceError> {
        let empty = |list: &Option<BTreeSet<Hex<32>>>| list.as_ref().is_some_and(BTreeSet::is_empty);
        let lists = [
            ("mrenclave", empty(&self.mrenclave)),
            ("mrsigner", empty(&self.mrsigner)),
            ("isv_prod_ids", self.isv_prod_ids.as_ref().is_some_and(BTreeSet::is_empty)),
        ];
        if let Some((name, _)) = lists.into_iter().find(|(_, empty)| *empty) {
            return Err(SgxReferenceError::ListEmpty(name));
        }
        let by_signer = self.mrsigner.is_some() && self.isv_prod_ids.is_some();
        if self.mrenclave.is_some() || by_signer { Ok(()) } else { Err(SgxReferenceError::Enclave) }
    }

    /// Whether the platform, genuine as it is, will do. **Denies** `PlatformNotAcceptable`.
    pub fn acceptable(&self, claims: &SgxClaims) -> Result<(), Refusal> {
        self.platform.acceptable_enclave(claims)
    }

    /// The claims that are not as the reference says, in words; none where all are.
    pub fn differences(&self, claims: &SgxClaims) -> Vec<String> {
        let among = |list: &Option<BTreeSet<Hex<32>>>, claim: &str| {
            list.as_ref().is_none_or(|list| Hex::parse(claim).is_some_and(|claim| list.contains(&claim)))
        };
        let product = self.isv_prod_ids.as_ref().is_none_or(|ids| ids.contains(&claims.isv_prod_id));
        let svn = self.minimum_isv_svn.is_none_or(|minimum| claims.isv_svn >= minimum);
        let checks = [
            (among(&self.mrenclave, &claims.mrenclave), format!("MRENCLAVE `{}`", claims.mrenclave)),
            (among(&self.mrsigner, &claims.mrsigner), format!("MRSIGNER `{}`", claims.mrsigner)),
            (product, format!("ISVPRODID {}", claims.isv_prod_id)),
            (svn, format!("ISVSVN {}", claims.isv_svn)),
        ];
        checks.into_iter().filter(|(fits, _)| !fits).map(|(_, what)| what).collect()
    }
}

/// The claims of a process that are not as the reference says, in words; none where all are.
pub fn process_differences(reference: &ProcessReference, claims: &ProcessClaims) -> Vec<String> {
    reference.differences(claims)
}

/// Whether a quote is acceptable where no reference values say what it must cover: the defaults, and what only a reference
/// could make good. **Denies** `PlatformNotAcceptable` for a quote of no PCR of the firmware's, which says nothing of the
/// boot, and for one of several banks, as nobody said which counts.
pub fn tpm2_acceptable_without_reference(claims: &Tpm2Claims) -> Result<(), Refusal> {
    Tpm2Reference::default().acceptable(claims)?;
    let refused = |detail: &str| Err(Refusal::new(Denial::PlatformNotAcceptable, detail));
    let of_firmware = |pcr: &crate::evidence::tpm2::PcrIndex| pcr.get() < FIRMWARE_PCRS;
    match claims.pcrs.values().any(|pcrs| pcrs.keys().any(of_firmware)) {
        false => refused("no PCR of 0 to 7 is quoted: nothing says what booted"),
        true if claims.pcrs.len() > 1 => {
            refused("several banks are quoted, and no reference values say which counts")
        }
        true => Ok(()),
    }
}

/// PCRs below this are extended by firmware in every boot (TCG PC Client Platform Firmware Profile 1.06 §2.3.4, table 1).
const FIRMWARE_PCRS: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enclave_is_named_by_itself_or_by_signer_and_product() {
        let hex = |byte: u8| [Hex::parse(&hex::encode([byte; 32])).unwrap()].into();
        let shape = |reference: SgxReference| reference.check_shape();
        let of = SgxReference::default;
        assert_eq!(shape(of()), Err(SgxReferenceError::Enclave));
        assert_eq!(shape(SgxReference { mrenclave: Some(hex(1)), ..of() }), Ok(()));
        let signer = SgxReference { mrsigner: Some(hex(1)), ..of() };
        assert_eq!(shape(signer.clone()), Err(SgxReferenceError::Enclave));
        assert_eq!(shape(SgxReference { isv_prod_ids: Some([0].into()), ..signer.clone() }), Ok(()));
        let empty = SgxReference { isv_prod_ids: Some([].into()), ..signer };
        assert_eq!(shape(empty), Err(SgxReferenceError::ListEmpty("isv_prod_ids")));
        assert!(toml::from_str::<SgxReference>("mr_enclave = []").is_err());
    }
}
