//! Reference values for `tdx`: what a trust domain may be, and what its platform must be.
//!
//! *Takes* TOML or JSON, then claims of a quote that verified. *Gives* [`TdxReference`], how claims differ from it, and
//! whether the platform is acceptable. *Denies* `PlatformNotAcceptable`.
//! *Source*: RFC 9334 §8.3 (reference values); `evidence.md` §5; Intel TDX module ABI 348551.

use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::evidence::tdx::{PlatformClaims, SgxClaims, TcbClaims, TcbStatus, TdxClaims};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;

/// What a `tdx` document must claim. Every list that is **absent** constrains nothing; none may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxReference {
    /// MRTD: the TD's firmware and initial content; never absent.
    pub mrtd: BTreeSet<Measurement>,
    /// RTMR0: the virtual firmware's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr0: Option<BTreeSet<Measurement>>,
    /// RTMR1: boot loader and kernel. Never absent without `firmware_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr1: Option<BTreeSet<Measurement>>,
    /// RTMR2: command line, initrd, operating system. Never absent without `firmware_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr2: Option<BTreeSet<Measurement>>,
    /// RTMR3: the application's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr3: Option<BTreeSet<Measurement>>,
    /// That MRTD alone vouches: for TDs whose whole content is in it. Else it would vouch for any kernel that it boots.
    #[serde(default, skip_serializing_if = "is_false")]
    pub firmware_only: bool,
    /// MRCONFIGID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrconfigid: Option<BTreeSet<Measurement>>,
    /// MROWNER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrowner: Option<BTreeSet<Measurement>>,
    /// MROWNERCONFIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrownerconfig: Option<BTreeSet<Measurement>>,
    /// MRSERVICETD; a report without one (TDX 1.0) matches no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrservicetd: Option<BTreeSet<Measurement>>,
    /// MRSEAM: the TDX module, beyond Intel's own judgement of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrseam: Option<BTreeSet<Measurement>>,
    /// TDATTRIBUTES, whole, as 16 hex digits in the quote's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td_attributes: Option<BTreeSet<Hex<8>>>,
    /// XFAM, whole, as 16 hex digits in the quote's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xfam: Option<BTreeSet<Hex<8>>>,
    /// The platform; absent: as [`TdxPlatform::default`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub platform: TdxPlatform,
}

/// What makes a genuine quote acceptable. What is absent is at its safe side; what loosens is named for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxPlatform {
    /// Intel's words that will do; `Revoked` never does. Absent: `UpToDate` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcb_statuses: Option<BTreeSet<TcbStatus>>,
    /// Advisories, such as `INTEL-SA-00615`, none of which may apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_advisories: Option<BTreeSet<String>>,
    /// The lowest tcbEvaluationDataNumber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_tcb_evaluation_data_number: Option<u32>,
    /// The lowest TEE_TCB_SVN, each of its 16 components by itself, at launch and now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_tee_tcb_svn: Option<Hex<16>>,
    /// FMSPCs: only these products.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmspcs: Option<BTreeSet<Hex<6>>>,
    /// FMSPCs: not these products.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_fmspcs: Option<BTreeSet<Hex<6>>>,
    /// PPIDs: only these machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppids: Option<BTreeSet<Hex<16>>>,
    /// SGX types: 0 standard, 1 scalable, 2 scalable with integrity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sgx_types: Option<BTreeSet<u8>>,
    /// Whether it must (true) or must not (false) be one that packages can be added to; servers are. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_platform: Option<bool>,
    /// Whether Intel must or must not keep its root keys. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_keys: Option<bool>,
    /// Whether hyper-threading must or must not be on. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smt_enabled: Option<bool>,
    /// Lets the host read and write the TD's memory.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_debug: bool,
    /// Lets the host watch the TD: the other bits of the group "under debug".
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_profiling: bool,
    /// Lets other TDs serve it; which ones, `mrservicetd` says.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_service_td: bool,
    /// Lets the TD use performance monitoring.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_performance_monitoring: bool,
}

/// SHA-384.
pub type Measurement = Hex<48>;

/// So many bytes as lower-case hex; either case is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex<const N: usize>([u8; N]);

/// Why TDX reference values are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdxReferenceError {
    /// A list is there, and empty: it would say either everything or nothing.
    #[error("`{0}` is empty: leave it out, or say what is allowed")]
    ListEmpty(&'static str),
    /// A zero measurement where every TD has one.
    #[error("`mrtd` is zero: no TD measures so")]
    MrtdZero,
    /// MRTD without what it boots.
    #[error("`{0}` is missing: MRTD vouches for any kernel that it boots (or say `firmware_only = true`)")]
    BootMissing(&'static str),
    /// Both, which says nothing.
    #[error("`firmware_only` stands beside `{0}`")]
    FirmwareOnlyWith(&'static str),
    /// A status that never verifies.
    #[error("`Revoked` can not be allowed")]
    Revoked,
}

impl TdxReference {
    /// What does not depend on time.
    pub fn check_shape(&self) -> Result<(), TdxReferenceError> {
        self.check_lists()?;
        if self.mrtd.contains(&Hex([0; 48])) {
            return Err(TdxReferenceError::MrtdZero);
        }
        for (name, list) in [("rtmr1", &self.rtmr1), ("rtmr2", &self.rtmr2)] {
            match (self.firmware_only, list) {
                (false, None) => return Err(TdxReferenceError::BootMissing(name)),
                (true, Some(_)) => return Err(TdxReferenceError::FirmwareOnlyWith(name)),
                (false, Some(_)) | (true, None) => {}
            }
        }
        self.platform.check_shape()
    }

    fn check_lists(&self) -> Result<(), TdxReferenceError> {
        let lists = [
            ("mrtd", self.mrtd.is_empty()),
            ("rtmr0", empty(&self.rtmr0)),
            ("rtmr1", empty(&self.rtmr1)),
            ("rtmr2", empty(&self.rtmr2)),
            ("rtmr3", empty(&self.rtmr3)),
            ("mrconfigid", empty(&self.mrconfigid)),
            ("mrowner", empty(&self.mrowner)),
            ("mrownerconfig", empty(&self.mrownerconfig)),
            ("mrservicetd", empty(&self.mrservicetd)),
            ("mrseam", empty(&self.mrseam)),
            ("td_attributes", empty(&self.td_attributes)),
            ("xfam", empty(&self.xfam)),
        ];
        first_empty(&lists)
    }

    /// The claims that are not as the reference says, in words; none where all are.
    pub fn differences(&self, claims: &TdxClaims) -> Vec<String> {
        let boots = self.firmware_only || (self.rtmr1.is_some() && self.rtmr2.is_some());
        let service_td = claims.mrservicetd.as_deref().unwrap_or_default();
        let measurements = [
            ("RTMR0", &self.rtmr0, claims.rtmr0.as_str()),
            ("RTMR1", &self.rtmr1, &claims.rtmr1),
            ("RTMR2", &self.rtmr2, &claims.rtmr2),
            ("RTMR3", &self.rtmr3, &claims.rtmr3),
            ("MRCONFIGID", &self.mrconfigid, &claims.mrconfigid),
            ("MROWNER", &self.mrowner, &claims.mrowner),
            ("MROWNERCONFIG", &self.mrownerconfig, &claims.mrownerconfig),
            ("MRSERVICETD", &self.mrservicetd, service_td),
            ("MRSEAM", &self.mrseam, &claims.mrseam),
        ];
        let measured = measurements.into_iter().filter(|(_, list, claim)| !among(list, claim));
        let measured = measured.map(|(name, _, claim)| format!("{name} `{claim}`"));
        let mrtd = (!has(&self.mrtd, &claims.mrtd)).then(|| format!("MRTD `{}`", claims.mrtd));
        let flags = [
            ("TDATTRIBUTES", &self.td_attributes, &claims.td_attributes),
            ("XFAM", &self.xfam, &claims.xfam),
        ];
        let flags = flags.into_iter().filter(|(_, list, claim)| !among(list, claim));
        let flags = flags.map(|(name, _, claim)| format!("{name} `{claim}`"));
        let boots = (!boots).then(|| "a TD of which only the firmware is known".to_owned());
        mrtd.into_iter().chain(measured).chain(flags).chain(boots).collect()
    }

    /// Whether the platform, genuine as it is, will do. **Denies** `PlatformNotAcceptable`.
    pub fn acceptable(&self, claims: &TdxClaims) -> Result<(), Refusal> {
        self.platform.acceptable(claims)
    }
}

impl TdxPlatform {
    fn check_shape(&self) -> Result<(), TdxReferenceError> {
        let lists = [
            ("tcb_statuses", empty(&self.tcb_statuses)),
            ("denied_advisories", empty(&self.denied_advisories)),
            ("fmspcs", empty(&self.fmspcs)),
            ("denied_fmspcs", empty(&self.denied_fmspcs)),
            ("ppids", empty(&self.ppids)),
            ("sgx_types", empty(&self.sgx_types)),
        ];
        first_empty(&lists)?;
        match self.tcb_statuses.as_ref().is_some_and(|statuses| statuses.contains(&TcbStatus::Revoked)) {
            true => Err(TdxReferenceError::Revoked),
            false => Ok(()),
        }
    }

    /// Whether a TD's platform will do; with [`TdxPlatform::default`] where nothing is configured. **Denies**
    /// `PlatformNotAcceptable`.
    pub fn acceptable(&self, claims: &TdxClaims) -> Result<(), Refusal> {
        let attributes = &claims.attributes;
        let bound =
            |hash: &Option<String>| hash.as_ref().is_some_and(|hash| hash.bytes().any(|digit| digit != b'0'));
        let served =
            bound(&claims.mrservicetd) || bound(&claims.current_service_td) || attributes.service_td_extended;
        let flags = [
            (attributes.debug && !self.allow_debug, "debug is on"),
            (attributes.profiling && !self.allow_profiling, "profiling is on"),
            (served && !self.allow_service_td, "a service TD is bound"),
            (
                attributes.performance_monitoring && !self.allow_performance_monitoring,
                "performance monitoring is on",
            ),
            (!attributes.sept_ve_disable, "SEPT_VE_DISABLE is not set"),
            (attributes.migratable, "the TD is migratable"),
        ];
        let flags = flags.into_iter().filter(|(refused, _)| *refused).map(|(_, why)| why.to_owned());
        let versions = std::iter::once(&claims.tee_tcb_svn).chain(&claims.tee_tcb_svn2);
        let low =
            versions.filter(|svn| !self.reaches(svn)).map(|svn| format!("TEE_TCB_SVN `{svn}` is too low"));
        refuse(flags.chain(low).chain(self.tcb(&claims.tcb)).chain(self.machine(&claims.platform)).collect())
    }

    /// The same for an enclave, of which debug and Intel's words count. **Denies** `PlatformNotAcceptable`.
    pub fn acceptable_enclave(&self, claims: &SgxClaims) -> Result<(), Refusal> {
        let debug = (claims.debug && !self.allow_debug).then(|| "debug is on".to_owned());
        refuse(debug.into_iter().chain(self.tcb(&claims.tcb)).chain(self.machine(&claims.platform)).collect())
    }

    fn reaches(&self, svn: &str) -> bool {
        let Some(Hex(minimum)) = self.minimum_tee_tcb_svn else { return true };
        let svn: Option<[u8; 16]> = hex::decode(svn).ok().and_then(|svn| svn.try_into().ok());
        svn.is_some_and(|svn| svn.iter().zip(minimum).all(|(have, needed)| *have >= needed))
    }

    fn tcb(&self, tcb: &TcbClaims) -> Vec<String> {
        let will_do = match &self.tcb_statuses {
            Some(statuses) => statuses.contains(&tcb.status),
            None => tcb.status == TcbStatus::UpToDate,
        };
        let status =
            (!will_do || tcb.status == TcbStatus::Revoked).then(|| format!("TCB status {}", tcb.status));
        let denied = |id: &&String| {
            let denied = self.denied_advisories.iter().flatten();
            denied.into_iter().any(|denied| denied.eq_ignore_ascii_case(id))
        };
        let advisories = tcb.advisory_ids.iter().filter(denied).map(|id| format!("advisory {}", bounded(id)));
        let number =
            self.minimum_tcb_evaluation_data_number.filter(|minimum| tcb.evaluation_data_number < *minimum);
        let number = number.map(|minimum| {
            format!("evaluation data number {} is below {minimum}", tcb.evaluation_data_number)
        });
        status.into_iter().chain(advisories).chain(number).collect()
    }

    fn machine(&self, platform: &PlatformClaims) -> Vec<String> {
        let wanted = |wanted: Option<bool>, is: Option<bool>| wanted.is_none_or(|wanted| is == Some(wanted));
        let denied = self.denied_fmspcs.as_ref().is_some_and(|denied| has(denied, &platform.fmspc));
        let types = self.sgx_types.as_ref().is_none_or(|types| types.contains(&platform.sgx_type));
        let checks = [
            (among(&self.fmspcs, &platform.fmspc) && !denied, format!("FMSPC `{}`", platform.fmspc)),
            (among(&self.ppids, &platform.ppid), format!("PPID `{}`", bounded(&platform.ppid))),
            (types, format!("SGX type {}", platform.sgx_type)),
            (wanted(self.dynamic_platform, platform.dynamic_platform), "dynamic platform".to_owned()),
            (wanted(self.cached_keys, platform.cached_keys), "cached keys".to_owned()),
            (wanted(self.smt_enabled, platform.smt_enabled), "hyper-threading".to_owned()),
        ];
        checks.into_iter().filter(|(fits, _)| !fits).map(|(_, what)| what).collect()
    }
}

fn refuse(reasons: Vec<String>) -> Result<(), Refusal> {
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Refusal::new(Denial::PlatformNotAcceptable, reasons.join("; "))),
    }
}

fn empty<T>(list: &Option<BTreeSet<T>>) -> bool {
    list.as_ref().is_some_and(BTreeSet::is_empty)
}

fn first_empty(lists: &[(&'static str, bool)]) -> Result<(), TdxReferenceError> {
    match lists.iter().find(|(_, empty)| *empty) {
        Some((name, _)) => Err(TdxReferenceError::ListEmpty(name)),
        None => Ok(()),
    }
}

fn among<const N: usize>(list: &Option<BTreeSet<Hex<N>>>, claim: &str) -> bool {
    list.as_ref().is_none_or(|list| has(list, claim))
}

fn has<const N: usize>(list: &BTreeSet<Hex<N>>, claim: &str) -> bool {
    Hex::parse(claim).is_some_and(|claim| list.contains(&claim))
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_default(platform: &TdxPlatform) -> bool {
    *platform == TdxPlatform::default()
}

/// Intel's words and a platform's are signed, and still a log's lines are bounded.
fn bounded(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(40).collect()
}

impl<const N: usize> Hex<N> {
    /// Parses twice `N` hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        hex::decode(text).ok()?.try_into().ok().map(Hex)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> std::fmt::Display for Hex<N> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> std::fmt::Debug for Hex<N> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{self}")
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Hex::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("not {N} bytes in hex")))
    }
}

#[cfg(test)]
#[path = "tdx_reference_tests.rs"]
mod tests;
