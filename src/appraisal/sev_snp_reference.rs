//! Reference values of the format `sev-snp`: which guest, on which platforms, and what is never acceptable unless said.
//!
//! *Takes* TOML or JSON, and verified claims. *Gives* [`SevSnpReference`], how claims differ from it, and [`acceptable`].
//! *Denies* `PlatformNotAcceptable`. *Source*: `evidence.md` §4; AMD 56860; RFC 9334 §8.3.

use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::evidence::sev_snp::{Firmware, HOST_REQUESTED, Product, SevSnpClaims, SigningKey, Tcb};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a `sev-snp` document must claim. What is **absent** constrains nothing, but where it says otherwise; no list may be
/// empty. Digests and identifiers are hex, whole, never zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SevSnpReference {
    /// Launch measurements, 96 hex digits, one of which it must be; never absent.
    pub measurements: BTreeSet<Hex<48>>,
    /// The least TCB of each product that is acceptable, held against REPORTED, COMMITTED and LAUNCH_TCB, each component by
    /// itself; never absent. **A product that is not named is refused.** `fmc` goes with `turin`, and must be there.
    pub minimum_tcb: BTreeMap<Product, Tcb>,
    /// HOST_DATA, 64 hex digits. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_data: Option<BTreeSet<Hex<32>>>,
    /// Digests of ID keys, 96 hex digits; a guest without an ID block matches none. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_key_digests: Option<BTreeSet<Hex<48>>>,
    /// Digests of author keys, 96 hex digits; a guest without one matches none. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_key_digests: Option<BTreeSet<Hex<48>>>,
    /// FAMILY_ID, 32 hex digits. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family_ids: Option<BTreeSet<Hex<16>>>,
    /// IMAGE_ID, 32 hex digits. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ids: Option<BTreeSet<Hex<16>>>,
    /// The least GUEST_SVN, with `id_key_digests` or `author_key_digests`, as only an ID block vouches for it. Absent: not
    /// constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_guest_svn: Option<u32>,
    /// Privilege levels that the report may be asked for from, 0 to 3. **Absent: 0 alone.**
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmpls: Option<BTreeSet<u8>>,
    /// `vcek`, `vlek`. Absent: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_keys: Option<BTreeSet<SigningKey>>,
    /// Chips, 128 hex digits, on Turin 16; a VLEK names none and matches none. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chip_ids: Option<BTreeSet<String>>,
    /// Cloud providers, as a VLEK's certificate names them; a VCEK names none and matches none. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csp_ids: Option<BTreeSet<String>>,
    /// The least committed SNP firmware, such as `1.55.29`. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_firmware: Option<Firmware>,
    /// The least firmware ABI that the guest was launched to demand, `major.minor`. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_policy_abi: Option<Abi>,
    /// Mitigations that must be in force, at launch and now: a bit vector of 16 hex digits. A report before version 5 has
    /// none, and does not match. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_mitigations: Option<Hex<8>>,
    /// What the guest's launch policy must say. Absent: not constrained, but for what is never acceptable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyReference>,
    /// What the platform's state must be. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformReference>,
    /// Accepts guests that the host may read and write (POLICY.DEBUG): their secrets are the host's. For development.
    #[serde(default)]
    pub allow_debug: bool,
    /// Accepts guests that a migration agent may move (POLICY.MIGRATE_MA): the agent is trusted as the guest is.
    #[serde(default)]
    pub allow_migration_agent: bool,
    /// Accepts reports whose host masks the chip (MASK_CHIP_ID): the key is still of some genuine chip at this TCB.
    #[serde(default)]
    pub allow_masked_chip_id: bool,
}

/// What GUEST_POLICY must say, by the names of the claims. Each that is absent is not constrained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyReference {
    /// Simultaneous multithreading may be on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt_allowed: Option<bool>,
    /// The guest runs on one socket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_socket_required: Option<bool>,
    /// CXL devices and memory may be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cxl_allowed: Option<bool>,
    /// Memory must be encrypted with AES-256-XTS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aes_256_xts_required: Option<bool>,
    /// Power measurement must be off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rapl_disabled_required: Option<bool>,
    /// Ciphertext must be hidden from the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphertext_hiding_required: Option<bool>,
    /// The guest's pages may not be swapped or moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_swap_disabled: Option<bool>,
}

/// What PLATFORM_INFO must say, by the names of the claims. Each that is absent is not constrained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlatformReference {
    /// Simultaneous multithreading is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt_enabled: Option<bool>,
    /// Transparent memory encryption is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsme_enabled: Option<bool>,
    /// Memory has error correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc_enabled: Option<bool>,
    /// Power measurement is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rapl_disabled: Option<bool>,
    /// Ciphertext in memory is hidden from the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphertext_hiding_enabled: Option<bool>,
    /// Memory was found to have no aliases (BadRAM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_check_complete: Option<bool>,
    /// Trusted I/O is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tio_enabled: Option<bool>,
}

/// Why a reference is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SevSnpReferenceError {
    /// A list is there, and empty: it would say either everything or nothing.
    #[error("`{0}` is empty: leave it out, or say what is allowed")]
    ListEmpty(&'static str),
    /// A value that nothing could match, or that another one makes meaningless.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// So many bytes in hex; never zero, as nothing measures to zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex<const N: usize>([u8; N]);

/// A firmware ABI, `major.minor`, decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Abi {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
}

/// Whether a genuine platform is acceptable, to this reference, or where there is none to anyone: then with no minimum TCB,
/// and nothing allowed that a reference would have to allow by name. **Denies** `PlatformNotAcceptable`.
pub fn acceptable(claims: &SevSnpClaims, reference: Option<&SevSnpReference>) -> Result<(), Refusal> {
    let allows = |flag: fn(&SevSnpReference) -> bool| reference.is_some_and(flag);
    let vmpls = reference.and_then(|reference| reference.vmpls.as_ref());
    let level = u8::try_from(claims.vmpl).ok();
    let level_is_among =
        vmpls.map_or(level == Some(0), |set| level.is_some_and(|level| set.contains(&level)));
    let masked = claims.signing_key == SigningKey::Vcek && claims.chip_id.is_none();
    let wrong = [
        (
            claims.policy.debug_allowed && !allows(|r| r.allow_debug),
            "POLICY.DEBUG: the host may read it".into(),
        ),
        (
            claims.policy.migration_agent_allowed && !allows(|r| r.allow_migration_agent),
            "POLICY.MIGRATE_MA: a migration agent may move it".into(),
        ),
        (claims.policy.unknown.is_some(), "POLICY has bits that are not known".into()),
        (claims.vmpl == HOST_REQUESTED, "the host asked for the report, not the guest".into()),
        (!level_is_among, format!("VMPL {}", claims.vmpl)),
        (masked && !allows(|r| r.allow_masked_chip_id), "the host masks the chip".into()),
    ];
    if let Some((_, detail)) = wrong.into_iter().find(|(is_wrong, _): &(bool, String)| *is_wrong) {
        return Err(Refusal::new(Denial::PlatformNotAcceptable, detail));
    }
    match reference.and_then(|reference| reference.platform_difference(claims)) {
        Some(detail) => Err(Refusal::new(Denial::PlatformNotAcceptable, detail)),
        None => Ok(()),
    }
}

impl SevSnpReference {
    /// Whether it may be put: no list is empty, no product has another's TCB, nothing contradicts itself.
    pub fn check_shape(&self) -> Result<(), SevSnpReferenceError> {
        fn empty<T>(list: &Option<BTreeSet<T>>) -> bool {
            list.as_ref().is_some_and(BTreeSet::is_empty)
        }
        let lists = [
            ("measurements", self.measurements.is_empty()),
            ("minimum_tcb", self.minimum_tcb.is_empty()),
            ("host_data", empty(&self.host_data)),
            ("id_key_digests", empty(&self.id_key_digests)),
            ("author_key_digests", empty(&self.author_key_digests)),
            ("family_ids", empty(&self.family_ids)),
            ("image_ids", empty(&self.image_ids)),
            ("vmpls", empty(&self.vmpls)),
            ("signing_keys", empty(&self.signing_keys)),
            ("chip_ids", empty(&self.chip_ids)),
            ("csp_ids", empty(&self.csp_ids)),
        ];
        if let Some((name, _)) = lists.into_iter().find(|(_, empty)| *empty) {
            return Err(SevSnpReferenceError::ListEmpty(name));
        }
        let fmc_fits = |(product, tcb): (&Product, &Tcb)| tcb.fmc.is_some() == (*product == Product::Turin);
        let without_id_block = self.id_key_digests.is_none() && self.author_key_digests.is_none();
        let wrong = [
            (
                !self.minimum_tcb.iter().all(fmc_fits),
                "minimum_tcb: `fmc` is there for turin, and for no other",
            ),
            (
                self.minimum_guest_svn.is_some() && without_id_block,
                "minimum_guest_svn needs id_key_digests or author_key_digests",
            ),
            (self.vmpls.iter().flatten().any(|vmpl| *vmpl > 3), "vmpls: 0 to 3"),
            (
                !self.chip_ids.iter().flatten().all(|chip| is_chip_id(chip)),
                "chip_ids: 128 or 16 lower-case hex digits",
            ),
        ];
        match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, what)) => Err(SevSnpReferenceError::Contradiction(what)),
            None => Ok(()),
        }
    }

    /// The claims of the guest that are not as the reference says, in words; none where all are.
    pub fn differences(&self, claims: &SevSnpClaims) -> Vec<String> {
        let wanted = |differs: bool, what: &str| differs.then(|| what.to_owned());
        let svn = self.minimum_guest_svn.is_some_and(|minimum| claims.guest_svn < minimum);
        let measured = self.measurements.iter().any(|allowed| allowed.is(Some(&claims.measurement)));
        let all = [
            (!measured).then(|| format!("measurement `{}`", claims.measurement)),
            wanted(!among(&self.host_data, Some(&claims.host_data)), "host data"),
            wanted(!among(&self.id_key_digests, claims.id_key_digest.as_ref()), "ID key digest"),
            wanted(!among(&self.author_key_digests, claims.author_key_digest.as_ref()), "author key digest"),
            wanted(!among(&self.family_ids, claims.family_id.as_ref()), "family id"),
            wanted(!among(&self.image_ids, claims.image_id.as_ref()), "image id"),
            svn.then(|| format!("guest SVN {}", claims.guest_svn)),
        ];
        all.into_iter().flatten().collect()
    }

    /// The first thing about the platform that is not as the reference says.
    fn platform_difference(&self, claims: &SevSnpClaims) -> Option<String> {
        let key = self.signing_keys.as_ref().is_none_or(|set| set.contains(&claims.signing_key));
        let named = |set: &Option<BTreeSet<String>>, claim: &Option<String>| {
            set.as_ref().is_none_or(|set| claim.as_ref().is_some_and(|claim| set.contains(claim)))
        };
        let firmware = self.minimum_firmware.is_none_or(|minimum| claims.committed_firmware >= minimum);
        let abi = Abi { major: claims.policy.abi_major, minor: claims.policy.abi_minor };
        let abi_fits = self.minimum_policy_abi.is_none_or(|minimum| abi >= minimum);
        let wrong = [
            (!key, format!("signed by a {}", claims.signing_key.name())),
            (!named(&self.chip_ids, &claims.chip_id), "the chip is not listed".to_owned()),
            (!named(&self.csp_ids, &claims.csp_id), "the cloud provider is not listed".to_owned()),
            (!firmware, format!("committed firmware {}", claims.committed_firmware)),
            (!abi_fits, format!("launched for firmware ABI {}.{}", abi.major, abi.minor)),
            (!self.mitigations_fit(claims), "a mitigation is not in force".to_owned()),
        ];
        let simple = wrong.into_iter().find(|(is_wrong, _)| *is_wrong).map(|(_, detail)| detail);
        self.tcb_difference(claims)
            .or(simple)
            .or_else(|| self.policy.and_then(|policy| policy.difference(claims)))
            .or_else(|| self.platform.and_then(|platform| platform.difference(claims)))
    }

    fn tcb_difference(&self, claims: &SevSnpClaims) -> Option<String> {
        let Some(minimum) = self.minimum_tcb.get(&claims.product) else {
            return Some(format!("no minimum TCB is set for {}", claims.product.name()));
        };
        let held = [
            ("REPORTED_TCB", &claims.reported_tcb),
            ("COMMITTED_TCB", &claims.committed_tcb),
            ("LAUNCH_TCB", &claims.launch_tcb),
        ];
        held.into_iter().find_map(|(name, tcb)| {
            let lower = tcb.lower_than(minimum);
            (!lower.is_empty()).then(|| format!("{name} is below the minimum in {}", lower.join(", ")))
        })
    }

    fn mitigations_fit(&self, claims: &SevSnpClaims) -> bool {
        let Some(Hex(required)) = self.required_mitigations else { return true };
        [&claims.launch_mitigations, &claims.current_mitigations].into_iter().all(|claimed| {
            let decoded = claimed.as_ref().and_then(|claimed| hex::decode(claimed).ok()).unwrap_or_default();
            decoded.len() == required.len()
                && decoded.iter().zip(required).all(|(has, must)| has & must == must)
        })
    }
}

impl PolicyReference {
    fn difference(&self, claims: &SevSnpClaims) -> Option<String> {
        let policy = &claims.policy;
        first_difference([
            ("policy.smt_allowed", self.smt_allowed, policy.smt_allowed),
            ("policy.single_socket_required", self.single_socket_required, policy.single_socket_required),
            ("policy.cxl_allowed", self.cxl_allowed, policy.cxl_allowed),
            ("policy.aes_256_xts_required", self.aes_256_xts_required, policy.aes_256_xts_required),
            ("policy.rapl_disabled_required", self.rapl_disabled_required, policy.rapl_disabled_required),
            (
                "policy.ciphertext_hiding_required",
                self.ciphertext_hiding_required,
                policy.ciphertext_hiding_required,
            ),
            ("policy.page_swap_disabled", self.page_swap_disabled, policy.page_swap_disabled),
        ])
    }
}

impl PlatformReference {
    fn difference(&self, claims: &SevSnpClaims) -> Option<String> {
        let platform = &claims.platform;
        first_difference([
            ("platform.smt_enabled", self.smt_enabled, platform.smt_enabled),
            ("platform.tsme_enabled", self.tsme_enabled, platform.tsme_enabled),
            ("platform.ecc_enabled", self.ecc_enabled, platform.ecc_enabled),
            ("platform.rapl_disabled", self.rapl_disabled, platform.rapl_disabled),
            (
                "platform.ciphertext_hiding_enabled",
                self.ciphertext_hiding_enabled,
                platform.ciphertext_hiding_enabled,
            ),
            ("platform.alias_check_complete", self.alias_check_complete, platform.alias_check_complete),
            ("platform.tio_enabled", self.tio_enabled, platform.tio_enabled),
        ])
    }
}

fn first_difference(flags: [(&str, Option<bool>, bool); 7]) -> Option<String> {
    let differs = |(_, wanted, is): &(&str, Option<bool>, bool)| wanted.is_some_and(|wanted| wanted != *is);
    flags.into_iter().find(differs).map(|(name, _, is)| format!("{name} is {is}"))
}

fn among<const N: usize>(allowed: &Option<BTreeSet<Hex<N>>>, claim: Option<&String>) -> bool {
    allowed.as_ref().is_none_or(|set| set.iter().any(|allowed| allowed.is(claim)))
}

fn is_chip_id(text: &str) -> bool {
    matches!(text.len(), 16 | 128) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl<const N: usize> Hex<N> {
    /// Parses so many bytes in hex.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; N] = hex::decode(text).ok()?.try_into().ok()?;
        (bytes != [0; N]).then_some(Hex(bytes))
    }

    fn is(&self, claim: Option<&String>) -> bool {
        claim.is_some_and(|claim| *claim == self.to_string())
    }
}

impl Abi {
    /// Parses `major.minor`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Abi { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Hex::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("not {N} bytes in hex that are not all zero")))
    }
}

impl Serialize for Abi {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}.{}", self.major, self.minor))
    }
}

impl<'de> Deserialize<'de> for Abi {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Abi::parse(&text).ok_or_else(|| serde::de::Error::custom("not a firmware ABI, such as `1.55`"))
    }
}

#[cfg(test)]
mod tests;
