//! What a verified report claims, as policy and the audit log read it.
//!
//! *Takes* a report, and what its verification established. *Gives* [`SevSnpClaims`]. *Denies* nothing itself.
//! *Source*: AMD 56860 "ATTESTATION_REPORT", "GUEST_POLICY", "PLATFORM_INFO".

use super::parse::{Cpuid, GuestPolicy, PlatformInfo, Report};
use super::product::{Product, SigningKey, Tcb};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The claims of a report. Digests and identifiers are lower-case hex; what is zero in the report, and so says nothing, is
/// absent here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SevSnpClaims {
    /// The line of processors, as the signing key's path shows.
    pub product: Product,
    /// The processor by CPUID; from report version 3 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuid: Option<Cpuid>,
    /// The report's version.
    pub version: u32,
    /// What signed it.
    pub signing_key: SigningKey,
    /// The chip, 64 bytes, on Turin 8; with a VCEK its certificate says the same. Absent where the host masks it, as hosts do
    /// that have a VLEK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chip_id: Option<String>,
    /// The cloud provider of a VLEK, such as `CN=cc-us-east-2.amazonaws.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csp_id: Option<String>,
    /// Whether the platform masks its chip's key.
    pub chip_key_masked: bool,
    /// The privilege level that the report was asked for from, 0 the highest; 4294967295: by the host, not by the guest.
    pub vmpl: u32,
    /// The launch measurement, 48 bytes.
    pub measurement: String,
    /// What the host added at launch, 32 bytes; zero where it added nothing.
    pub host_data: String,
    /// SHA-384 of the key that signed the ID block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_key_digest: Option<String>,
    /// SHA-384 of the key that certified the ID key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_key_digest: Option<String>,
    /// From the ID block, 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family_id: Option<String>,
    /// From the ID block, 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// The guest's own security version, from its ID block.
    pub guest_svn: u32,
    /// The guest's instance, 32 bytes.
    pub report_id: String,
    /// Its migration agent's instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_id_ma: Option<String>,
    /// What the guest was launched under.
    pub policy: SevSnpGuestPolicy,
    /// The platform's state.
    pub platform: SevSnpPlatform,
    /// The TCB that the signing key stands for.
    pub reported_tcb: Tcb,
    /// The TCB that the platform cannot go back behind.
    pub committed_tcb: Tcb,
    /// The TCB that runs.
    pub current_tcb: Tcb,
    /// The TCB when the guest was launched.
    pub launch_tcb: Tcb,
    /// The SNP firmware that runs.
    pub current_firmware: Firmware,
    /// The SNP firmware that the platform cannot go back behind.
    pub committed_firmware: Firmware,
    /// Mitigations in force at launch, a bit vector of 8 bytes, the highest first; from report version 5 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_mitigations: Option<String>,
    /// Mitigations in force now, the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_mitigations: Option<String>,
}

/// GUEST_POLICY by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SevSnpGuestPolicy {
    /// The least firmware ABI, major.
    pub abi_major: u8,
    /// The least firmware ABI, minor.
    pub abi_minor: u8,
    /// Simultaneous multithreading may be on.
    pub smt_allowed: bool,
    /// A migration agent may move the guest.
    pub migration_agent_allowed: bool,
    /// The host may read and write the guest's memory.
    pub debug_allowed: bool,
    /// The guest runs on one socket only.
    pub single_socket_required: bool,
    /// CXL devices and memory may be there.
    pub cxl_allowed: bool,
    /// Memory must be encrypted with AES-256-XTS.
    pub aes_256_xts_required: bool,
    /// Power measurement (RAPL) must be off.
    pub rapl_disabled_required: bool,
    /// Ciphertext must be hidden from the host.
    pub ciphertext_hiding_required: bool,
    /// The guest's pages may not be swapped or moved.
    pub page_swap_disabled: bool,
    /// Bits that this version has no name for, 8 bytes, the highest first; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// PLATFORM_INFO by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SevSnpPlatform {
    /// Simultaneous multithreading is on.
    pub smt_enabled: bool,
    /// Transparent memory encryption is on.
    pub tsme_enabled: bool,
    /// Memory has error correction.
    pub ecc_enabled: bool,
    /// Power measurement (RAPL) is off.
    pub rapl_disabled: bool,
    /// Ciphertext in memory is hidden from the host.
    pub ciphertext_hiding_enabled: bool,
    /// Memory was found to have no aliases since the last reset (BadRAM, CVE-2024-21944).
    pub alias_check_complete: bool,
    /// Trusted I/O is on.
    pub tio_enabled: bool,
    /// All of it, 8 bytes, the highest first: AMD adds bits without a new version of the report.
    pub bits: String,
}

/// A version of the SNP firmware, `major.minor.build`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firmware {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// What verification adds to a report.
pub(super) struct Established<'a> {
    pub(super) product: Product,
    pub(super) signing_key: SigningKey,
    pub(super) csp_id: Option<&'a str>,
    pub(super) reported_tcb: Tcb,
    pub(super) committed_tcb: Tcb,
    pub(super) current_tcb: Tcb,
    pub(super) launch_tcb: Tcb,
}

impl SevSnpClaims {
    pub(super) fn new(report: &Report<'_>, established: &Established<'_>) -> Self {
        let chip_id = report.chip_id.get(..established.product.chip_id_bytes());
        SevSnpClaims {
            product: established.product,
            cpuid: report.cpuid,
            version: report.version,
            signing_key: established.signing_key,
            chip_id: chip_id.and_then(unless_zero),
            csp_id: established.csp_id.map(str::to_owned),
            chip_key_masked: report.chip_key_masked,
            vmpl: report.vmpl,
            measurement: hex::encode(report.measurement),
            host_data: hex::encode(report.host_data),
            id_key_digest: unless_zero(&report.id_key_digest),
            author_key_digest: report.author_key_enabled.then(|| hex::encode(report.author_key_digest)),
            family_id: unless_zero(&report.family_id),
            image_id: unless_zero(&report.image_id),
            guest_svn: report.guest_svn,
            report_id: hex::encode(report.report_id),
            report_id_ma: (report.report_id_ma != [0xff; 32]).then(|| hex::encode(report.report_id_ma)),
            policy: report.policy.into(),
            platform: report.platform_info.into(),
            reported_tcb: established.reported_tcb,
            committed_tcb: established.committed_tcb,
            current_tcb: established.current_tcb,
            launch_tcb: established.launch_tcb,
            current_firmware: report.current_firmware.into(),
            committed_firmware: report.committed_firmware.into(),
            launch_mitigations: report.launch_mitigations.map(vector),
            current_mitigations: report.current_mitigations.map(vector),
        }
    }
}

impl From<GuestPolicy> for SevSnpGuestPolicy {
    fn from(policy: GuestPolicy) -> Self {
        let [abi_minor, abi_major, ..] = policy.0.to_le_bytes();
        SevSnpGuestPolicy {
            abi_major,
            abi_minor,
            smt_allowed: policy.bit(16),
            migration_agent_allowed: policy.bit(18),
            debug_allowed: policy.bit(19),
            single_socket_required: policy.bit(20),
            cxl_allowed: policy.bit(21),
            aes_256_xts_required: policy.bit(22),
            rapl_disabled_required: policy.bit(23),
            ciphertext_hiding_required: policy.bit(24),
            page_swap_disabled: policy.bit(25),
            unknown: (policy.unknown() != 0).then(|| vector(policy.unknown())),
        }
    }
}

impl From<PlatformInfo> for SevSnpPlatform {
    fn from(info: PlatformInfo) -> Self {
        SevSnpPlatform {
            smt_enabled: info.bit(0),
            tsme_enabled: info.bit(1),
            ecc_enabled: info.bit(2),
            rapl_disabled: info.bit(3),
            ciphertext_hiding_enabled: info.bit(4),
            alias_check_complete: info.bit(5),
            tio_enabled: info.bit(7),
            bits: vector(info.0),
        }
    }
}

impl From<[u8; 3]> for Firmware {
    fn from([major, minor, build]: [u8; 3]) -> Self {
        Firmware { major, minor, build }
    }
}

impl Firmware {
    /// Parses `major.minor.build`, decimal.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u8> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let [major, minor, build] = numbers.try_into().ok()?;
        Some(Firmware { major, minor, build })
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

impl Serialize for Firmware {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Firmware {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Firmware::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("not a firmware version, such as `1.55.29`"))
    }
}

fn unless_zero(bytes: &[u8]) -> Option<String> {
    bytes.iter().any(|byte| *byte != 0).then(|| hex::encode(bytes))
}

fn vector(bits: u64) -> String {
    hex::encode(bits.to_be_bytes())
}
