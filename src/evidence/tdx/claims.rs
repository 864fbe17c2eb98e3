//! What a verified DCAP quote says: of the TD or enclave, of its platform, and what Intel says of that platform's TCB.
//!
//! *Takes* a quote that verified. *Gives* [`TdxClaims`], [`SgxClaims`]. *Denies* nothing. *Source*: Intel TDX module ABI
//! 348551 table 3.23 (TDATTRIBUTES); Intel PCS API version 4 (TCB status); `evidence.md` §5.

use super::backend::sha256;
use super::quote::{EnclaveReport, Quote, TdReport};
use dcap_qvl::quote::TDAttributes;
use dcap_qvl::{PckCertFlag, QuoteClaims};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The claims of a trust domain. Byte strings are lower-case hex, as they stand in the quote; what a report's version
/// does not have is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxClaims {
    /// 4 or 5.
    pub quote_version: u16,
    /// Measurement of the TD's initial content, SHA-384: its firmware.
    pub mrtd: String,
    /// Run-time measurement 0: the virtual firmware's configuration.
    pub rtmr0: String,
    /// Run-time measurement 1: boot loader and kernel.
    pub rtmr1: String,
    /// Run-time measurement 2: command line, initrd, operating system.
    pub rtmr2: String,
    /// Run-time measurement 3: the application's own.
    pub rtmr3: String,
    /// Chosen for the TD's configuration by who started it.
    pub mrconfigid: String,
    /// Chosen for the TD's owner.
    pub mrowner: String,
    /// Chosen for the owner's configuration.
    pub mrownerconfig: String,
    /// REPORTDATA: the binding.
    pub report_data: String,
    /// TDATTRIBUTES.
    pub td_attributes: String,
    /// The same, by name.
    pub attributes: TdAttributes,
    /// Extended features that the TD may use.
    pub xfam: String,
    /// Measurement of the TDX module.
    pub mrseam: String,
    /// Signer of the TDX module; zeros are Intel.
    pub mrsignerseam: String,
    /// SEAMATTRIBUTES.
    pub seam_attributes: String,
    /// TEE_TCB_SVN at launch.
    pub tee_tcb_svn: String,
    /// TEE_TCB_SVN of now (TDX 1.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tee_tcb_svn2: Option<String>,
    /// Hash of the service TDs; zeros without one (TDX 1.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrservicetd: Option<String>,
    /// Partition of the TD, 0 for one without (TDX 1.5 extended).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<u8>,
    /// Unique to a launch (TDX 1.5 extended).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td_id: Option<String>,
    /// Hash of the device information (TDX 1.5 extended).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<String>,
    /// Hash of the service TDs bound now (TDX 1.5 extended).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_service_td: Option<String>,
    /// What Intel says of its TCB.
    pub tcb: TcbClaims,
    /// Its platform.
    pub platform: PlatformClaims,
}

/// TDATTRIBUTES by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdAttributes {
    /// DEBUG, bit 0: the host reads and writes the TD's memory.
    pub debug: bool,
    /// Any other bit of the group "under debug", 1 to 7, such as profiling: the host may watch the TD.
    pub profiling: bool,
    /// SEPT_VE_DISABLE, bit 28: the host cannot make the TD trust an absent page. Without it nothing verifies.
    pub sept_ve_disable: bool,
    /// MIGRATABLE, bit 29. With it nothing verifies.
    pub migratable: bool,
    /// SERVTD_EXT, bit 17.
    pub service_td_extended: bool,
    /// PKS, bit 30.
    pub protection_keys: bool,
    /// KL, bit 31.
    pub key_locker: bool,
    /// PERFMON, bit 63.
    pub performance_monitoring: bool,
}

/// The claims of an SGX enclave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxClaims {
    /// 3.
    pub quote_version: u16,
    /// Measurement of the enclave, SHA-256.
    pub mrenclave: String,
    /// SHA-256 of the key that signed the enclave.
    pub mrsigner: String,
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// ATTRIBUTES: flags and XFRM.
    pub attributes: String,
    /// DEBUG: the host reads and writes the enclave's memory.
    pub debug: bool,
    /// MISCSELECT.
    pub misc_select: String,
    /// REPORTDATA.
    pub report_data: String,
    /// What Intel says of its TCB.
    pub tcb: TcbClaims,
    /// Its platform.
    pub platform: PlatformClaims,
}

/// What Intel says of a TCB, by the collateral that counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbClaims {
    /// Platform, TDX module and quoting enclave together.
    pub status: TcbStatus,
    /// Security advisories that apply to any of them.
    pub advisory_ids: BTreeSet<String>,
    /// tcbEvaluationDataNumber, the lower of TCB info and QE identity: how new Intel's judgement is.
    pub evaluation_data_number: u32,
    /// Of platform and TDX module alone.
    pub platform_status: TcbStatus,
    /// When that level was the newest, RFC 3339.
    pub platform_date: String,
    /// Of the TCB of now, where it may differ from that at launch (TDX 1.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_status: Option<TcbStatus>,
    /// Of the quoting enclave alone.
    pub qe_status: TcbStatus,
    /// The quoting enclave's ISVSVN.
    pub qe_isv_svn: u16,
}

/// A platform, as its PCK certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformClaims {
    /// Family, model, stepping, platform and customised SKU: which product.
    pub fmspc: String,
    /// Which platform: Intel's own name of this machine.
    pub ppid: String,
    /// PCE id.
    pub pce_id: String,
    /// ISVSVN of the provisioning certification enclave.
    pub pce_svn: u16,
    /// CPUSVN.
    pub cpu_svn: String,
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub sgx_type: u8,
    /// `platform` or `processor`: which CA issued the PCK certificate.
    pub pck_ca: String,
    /// Of a platform with several packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_instance_id: Option<String>,
    /// Whether packages can be added; absent for single processors, as the two below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_platform: Option<bool>,
    /// Whether Intel keeps the platform's root keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_keys: Option<bool>,
    /// Whether hyper-threading is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smt_enabled: Option<bool>,
    /// Which quoting enclave made the quote.
    pub qe_id: String,
    /// SHA-256 of the root that it rests on.
    pub root_sha256: String,
}

/// Intel's word on a TCB (PCS API version 4), from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TcbStatus {
    /// All is as it should be.
    UpToDate,
    /// The software must work around something by itself.
    SWHardeningNeeded,
    /// The platform should be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// The TD should be started anew: its launch TCB is out of date, the TCB of now is not.
    TDRelaunchAdvised,
    /// That, and another configuration.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Updates are missing.
    OutOfDate,
    /// That, and another configuration.
    OutOfDateConfigurationNeeded,
    /// Broken; never verified.
    Revoked,
}

impl std::fmt::Display for TcbStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{self:?}")
    }
}

impl From<dcap_qvl::TcbStatus> for TcbStatus {
    fn from(status: dcap_qvl::TcbStatus) -> Self {
        use dcap_qvl::TcbStatus as Theirs;
        match status {
            Theirs::UpToDate => TcbStatus::UpToDate,
            Theirs::SWHardeningNeeded => TcbStatus::SWHardeningNeeded,
            Theirs::ConfigurationNeeded => TcbStatus::ConfigurationNeeded,
            Theirs::ConfigurationAndSWHardeningNeeded => TcbStatus::ConfigurationAndSWHardeningNeeded,
            Theirs::TDRelaunchAdvised => TcbStatus::TDRelaunchAdvised,
            Theirs::TDRelaunchAdvisedConfigurationNeeded => TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
            Theirs::OutOfDate => TcbStatus::OutOfDate,
            Theirs::OutOfDateConfigurationNeeded => TcbStatus::OutOfDateConfigurationNeeded,
            Theirs::Revoked => TcbStatus::Revoked,
        }
    }
}

impl TdxClaims {
    pub(super) fn new(
        quote: &Quote<'_>,
        report: &TdReport<'_>,
        tcb: TcbClaims,
        platform: PlatformClaims,
    ) -> Self {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = report.rtmr.map(hex::encode);
        TdxClaims {
            quote_version: quote.version,
            mrtd: hex::encode(report.mrtd),
            rtmr0,
            rtmr1,
            rtmr2,
            rtmr3,
            mrconfigid: hex::encode(report.mrconfigid),
            mrowner: hex::encode(report.mrowner),
            mrownerconfig: hex::encode(report.mrownerconfig),
            report_data: hex::encode(report.report_data),
            td_attributes: hex::encode(report.td_attributes),
            attributes: TdAttributes::of(report.td_attributes),
            xfam: hex::encode(report.xfam),
            mrseam: hex::encode(report.mrseam),
            mrsignerseam: hex::encode(report.mrsignerseam),
            seam_attributes: hex::encode(report.seam_attributes),
            tee_tcb_svn: hex::encode(report.tee_tcb_svn),
            tee_tcb_svn2: report.v15.map(|v15| hex::encode(v15.tee_tcb_svn2)),
            mrservicetd: report.v15.map(|v15| hex::encode(v15.mrservicetd)),
            vm_id: report.v15_extended.map(|extended| extended.vm_id),
            td_id: report.v15_extended.map(|extended| hex::encode(extended.td_id)),
            device_info: report.v15_extended.map(|extended| hex::encode(extended.device_info)),
            current_service_td: report.v15_extended.map(|extended| hex::encode(extended.current_service_td)),
            tcb,
            platform,
        }
    }

    /// What a refusal is held against: all measurements and what the owner chose, with the attributes. Not the platform: the
    /// same TD on the next machine is the same subject.
    pub fn subject(&self) -> [u8; 32] {
        let service_td = self.mrservicetd.as_deref().unwrap_or_default();
        subject(
            "portcullis tdx subject",
            &[
                &self.mrtd,
                &self.rtmr0,
                &self.rtmr1,
                &self.rtmr2,
                &self.rtmr3,
                &self.mrconfigid,
                &self.mrowner,
                &self.mrownerconfig,
                &self.td_attributes,
                &self.xfam,
                service_td,
            ],
        )
    }
}

impl TdAttributes {
    /// By the eight bytes of TDATTRIBUTES, little-endian.
    fn of(bytes: &[u8; 8]) -> TdAttributes {
        let bits = u64::from_le_bytes(*bytes);
        let bit = |at: u32| bits.checked_shr(at).is_some_and(|shifted| shifted & 1 == 1);
        TdAttributes {
            debug: bit(0),
            profiling: bits & 0xfe != 0,
            service_td_extended: bit(17),
            sept_ve_disable: bit(28),
            migratable: bit(29),
            protection_keys: bit(30),
            key_locker: bit(31),
            performance_monitoring: bit(63),
        }
    }

    /// Why such a TD never verifies: bits that must be zero, migration, or pages that the host may take away unseen.
    pub(super) fn never(bytes: &[u8; 8]) -> Option<&'static str> {
        let attributes = TdAttributes::of(bytes);
        let reserved = TDAttributes::parse(*bytes).ok().is_none_or(|attributes| attributes.reserved != 0);
        match (reserved, attributes.migratable, attributes.sept_ve_disable) {
            (true, ..) => Some("reserved TDATTRIBUTES are set"),
            (_, true, _) => Some("the TD is migratable"),
            (.., false) => Some("SEPT_VE_DISABLE is not set"),
            (false, false, true) => None,
        }
    }
}

impl SgxClaims {
    pub(super) fn new(
        quote: &Quote<'_>,
        report: &EnclaveReport<'_>,
        tcb: TcbClaims,
        platform: PlatformClaims,
    ) -> Self {
        SgxClaims {
            quote_version: quote.version,
            mrenclave: hex::encode(report.mrenclave),
            mrsigner: hex::encode(report.mrsigner),
            isv_prod_id: report.isv_prod_id,
            isv_svn: report.isv_svn,
            attributes: hex::encode(report.attributes),
            debug: report.attributes.first().is_some_and(|flags| flags & SGX_DEBUG != 0),
            misc_select: hex::encode(report.misc_select),
            report_data: hex::encode(report.report_data),
            tcb,
            platform,
        }
    }

    /// What a refusal is held against: the measurement, its signer and attributes.
    pub fn subject(&self) -> [u8; 32] {
        let numbers = format!("{} {}", self.isv_prod_id, self.isv_svn);
        subject("portcullis sgx subject", &[&self.mrenclave, &self.mrsigner, &self.attributes, &numbers])
    }
}

impl TcbClaims {
    pub(super) fn new(claims: &QuoteClaims) -> Self {
        let (platform, qe) = (&claims.platform.tcb_level, &claims.qe);
        let current = claims.platform.current_tcb_level.as_ref();
        // dcap-qvl's own union leaves out those of the TCB of now.
        let advisory_ids = claims.tcb.advisory_ids.iter().chain(&platform.advisory_ids);
        let advisory_ids = advisory_ids.chain(&qe.tcb_level.advisory_ids);
        let advisory_ids = advisory_ids.chain(current.into_iter().flat_map(|level| &level.advisory_ids));
        TcbClaims {
            status: claims.tcb.status.into(),
            advisory_ids: advisory_ids.cloned().collect(),
            evaluation_data_number: claims.tcb.eval_data_number,
            platform_status: platform.tcb_status.into(),
            platform_date: platform.tcb_date.clone(),
            current_status: current.map(|level| level.tcb_status.into()),
            qe_status: qe.tcb_level.tcb_status.into(),
            qe_isv_svn: qe.report.isv_svn,
        }
    }
}

impl PlatformClaims {
    pub(super) fn new(claims: &QuoteClaims, quote: &Quote<'_>, pck_ca: &str, root_sha256: [u8; 32]) -> Self {
        let pck = &claims.platform.pck;
        PlatformClaims {
            fmspc: hex::encode(pck.fmspc),
            ppid: hex::encode(&pck.ppid),
            pce_id: hex::encode(&pck.pce_id),
            pce_svn: pck.pce_svn,
            cpu_svn: hex::encode(pck.cpu_svn),
            sgx_type: pck.sgx_type,
            pck_ca: pck_ca.to_owned(),
            platform_instance_id: pck.platform_instance_id.map(hex::encode),
            dynamic_platform: flag(pck.dynamic_platform),
            cached_keys: flag(pck.cached_keys),
            smt_enabled: flag(pck.smt_enabled),
            qe_id: hex::encode(quote.qe_id),
            root_sha256: hex::encode(root_sha256),
        }
    }
}

fn flag(flag: PckCertFlag) -> Option<bool> {
    match flag {
        PckCertFlag::True => Some(true),
        PckCertFlag::False => Some(false),
        PckCertFlag::Undefined => None,
    }
}

/// SHA-256 over a label and the parts, each with its length before it, so that no two subjects run into each other.
fn subject(label: &str, parts: &[&str]) -> [u8; 32] {
    let mut bytes = label.as_bytes().to_vec();
    for part in parts {
        bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    sha256(&bytes)
}

/// ATTRIBUTES.DEBUG (Intel SDM volume 3D, table 35-3).
const SGX_DEBUG: u8 = 0x02;
