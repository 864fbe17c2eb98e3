//! Claims that verified evidence makes, and the form in which policy and the audit log read them.
//!
//! *Takes* what a verifier established. *Gives* [`ProcessClaims`] to the appraisal, [`AttestedClaims`] to policy and audit.
//! *Denies* nothing itself. *Source*: `protocol.md`, the `process` document; RFC 9334 §8.4 (attestation results).

use crate::evidence::Documents;
use crate::evidence::nitro::NitroClaims;
use crate::evidence::sev_snp::SevSnpClaims;
use crate::evidence::tdx::TdxClaims;
use crate::evidence::tpm2::Tpm2Claims;
use crate::evidence::{nitro, process as process_format, sev_snp, tdx, tpm2};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// What the verified documents of one request say, each format by itself; a format that was not sent is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Of a `process` document.
    pub process: Option<ProcessClaims>,
    /// Of a `tpm2` document.
    pub tpm2: Option<Tpm2Claims>,
    /// Of a `nitro` document.
    pub nitro: Option<NitroClaims>,
    /// Of a `sev-snp` document.
    pub sev_snp: Option<SevSnpClaims>,
    /// Of a `tdx` document.
    pub tdx: Option<TdxClaims>,
}

impl From<&Documents> for Claims {
    fn from(documents: &Documents) -> Self {
        Claims {
            process: documents.process().map(|process| ProcessClaims::from(process.statement())),
            tpm2: documents.tpm2().map(|quote| quote.claims().clone()),
            nitro: documents.nitro().map(|document| document.claims().clone()),
            sev_snp: documents.sev_snp().map(|report| report.claims().clone()),
            tdx: documents.tdx().map(|quote| quote.claims().clone()),
        }
    }
}

/// A file that a launcher will run, measured by the node's attester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The path, as /proc shows it.
    pub path: String,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

/// What a verified `process` document says of one process, in the node's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessClaims {
    /// The node's enrolled name.
    pub node: String,
    /// The kernel's boot id, with dashes.
    pub boot_id: String,
    /// The executable's path, as /proc's `exe` link says.
    pub executable_path: String,
    /// SHA-256 of the executable.
    pub executable_sha256: [u8; 32],
    /// Its fs-verity digest, 32 or 64 bytes, where the file has one.
    pub fs_verity: Option<Vec<u8>>,
    /// User id.
    pub uid: u64,
    /// Group id.
    pub gid: u64,
    /// Supplementary groups, ascending.
    pub groups: Vec<u64>,
    /// SHA-256 of the command line: the process's own word, informative only.
    pub arguments_sha256: [u8; 32],
    /// The cgroup v2 path.
    pub cgroup: String,
    /// The systemd unit, where there is one.
    pub systemd_unit: Option<String>,
    /// The container's id, where there is one.
    pub container_id: Option<String>,
    /// Clock ticks from boot to the process's start.
    pub start_time: u64,
    /// What a launcher will run, in its order; none for a process that speaks for itself.
    pub program: Option<Vec<Program>>,
}

impl From<&crate::evidence::process::Statement> for ProcessClaims {
    /// The same claims, in the appraisal's words: an empty `program` on the wire is none.
    fn from(statement: &crate::evidence::process::Statement) -> Self {
        let process = &statement.process;
        let programs = process.program.iter();
        let program: Vec<Program> =
            programs.map(|program| Program { path: program.path.clone(), sha256: program.sha256 }).collect();
        ProcessClaims {
            node: statement.node.clone(),
            boot_id: statement.boot_id.clone(),
            executable_path: process.executable.path.clone(),
            executable_sha256: process.executable.sha256,
            fs_verity: process.executable.fs_verity.clone(),
            uid: process.uid.into(),
            gid: process.gid.into(),
            groups: process.groups.iter().map(|group| (*group).into()).collect(),
            arguments_sha256: process.arguments_sha256,
            cgroup: process.cgroup.clone(),
            systemd_unit: process.systemd_unit.clone(),
            container_id: process.container_id.clone(),
            start_time: process.start_time,
            program: (!program.is_empty()).then_some(program),
        }
    }
}

/// The attestation result of a `process` document, as policy reads it and the audit log keeps it. Digests are lower-case
/// hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestedProcess {
    /// The node's enrolled name.
    pub node: String,
    /// The executable's path.
    pub executable_path: String,
    /// SHA-256 of the executable.
    pub executable_sha256: String,
    /// Its fs-verity digest, where the file has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_verity: Option<String>,
    /// User id.
    pub uid: u64,
    /// Group id.
    pub gid: u64,
    /// Supplementary groups.
    #[serde(default)]
    pub groups: BTreeSet<u64>,
    /// The cgroup v2 path.
    pub cgroup: String,
    /// The systemd unit, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<String>,
    /// The container's id, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Digests of what a launcher will run; empty without one.
    #[serde(default)]
    pub program_sha256: BTreeSet<String>,
    /// Paths of the same.
    #[serde(default)]
    pub program_paths: BTreeSet<String>,
    /// The name of the reference set that matched.
    pub reference_set: String,
}

impl AttestedProcess {
    /// The claims that matched `reference_set`.
    pub fn new(claims: &ProcessClaims, reference_set: &str) -> Self {
        let programs = claims.program.as_deref().unwrap_or_default();
        AttestedProcess {
            node: claims.node.clone(),
            executable_path: claims.executable_path.clone(),
            executable_sha256: hex::encode(claims.executable_sha256),
            fs_verity: claims.fs_verity.as_ref().map(hex::encode),
            uid: claims.uid,
            gid: claims.gid,
            groups: claims.groups.iter().copied().collect(),
            cgroup: claims.cgroup.clone(),
            systemd_unit: claims.systemd_unit.clone(),
            container_id: claims.container_id.clone(),
            program_sha256: programs.iter().map(|program| hex::encode(program.sha256)).collect(),
            program_paths: programs.iter().map(|program| program.path.clone()).collect(),
            reference_set: reference_set.to_owned(),
        }
    }
}

/// The claims of hardware evidence, and the name of the reference set that matched; empty where none was held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested<T> {
    /// What the document says.
    pub claims: T,
    /// The name of the reference set that matched.
    pub reference_set: String,
}

impl<T: Serialize> Serialize for Attested<T> {
    /// One flat object: the claims, and `reference_set` among them.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut value = serde_json::to_value(&self.claims).map_err(serde::ser::Error::custom)?;
        if let Some(object) = value.as_object_mut() {
            object.insert(REFERENCE_SET.to_owned(), self.reference_set.clone().into());
        }
        value.serialize(to)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Attested<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut value = serde_json::Value::deserialize(from)?;
        let object = value.as_object_mut().ok_or_else(|| D::Error::custom("claims are an object"))?;
        let reference_set = match object.remove(REFERENCE_SET) {
            None => String::new(),
            Some(serde_json::Value::String(name)) => name,
            Some(_) => return Err(D::Error::custom("the name of a reference set is text")),
        };
        let claims = serde_json::from_value(value).map_err(D::Error::custom)?;
        Ok(Attested { claims, reference_set })
    }
}

/// The attestation results of one request, each format under its own name; a format that was not sent is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AttestedClaims {
    /// Of a `process` document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<AttestedProcess>,
    /// Of a `tpm2` document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm2: Option<Attested<Tpm2Claims>>,
    /// Of a `nitro` document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nitro: Option<Attested<NitroClaims>>,
    /// Of a `sev-snp` document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev_snp: Option<Attested<SevSnpClaims>>,
    /// Of a `tdx` document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<Attested<TdxClaims>>,
}

impl AttestedClaims {
    /// The claims that matched `reference_set`.
    pub fn new(claims: Claims, reference_set: &str) -> Self {
        fn attested<T>(claims: Option<T>, reference_set: &str) -> Option<Attested<T>> {
            claims.map(|claims| Attested { claims, reference_set: reference_set.to_owned() })
        }
        AttestedClaims {
            process: claims.process.map(|claims| AttestedProcess::new(&claims, reference_set)),
            tpm2: attested(claims.tpm2, reference_set),
            nitro: attested(claims.nitro, reference_set),
            sev_snp: attested(claims.sev_snp, reference_set),
            tdx: attested(claims.tdx, reference_set),
        }
    }

    /// The form of `Case::claims`: by format.
    pub fn to_json(&self) -> Result<BTreeMap<String, serde_json::Value>, serde_json::Error> {
        serde_json::from_value(serde_json::to_value(self)?)
    }

    /// The same, read back from a recorded decision, which holds more than policy reads. A decision that was not appraised
    /// has no reference set; then its name is empty. Fails where a claim that policy reads is missing, or a format is unknown.
    pub fn from_json(claims: &BTreeMap<String, serde_json::Value>) -> Result<Self, serde_json::Error> {
        let mut claims = claims.clone();
        if let Some(process) = claims.get_mut("process").and_then(serde_json::Value::as_object_mut) {
            process.retain(|name, _| READ_BY_POLICY.contains(&name.as_str()));
            process.entry(REFERENCE_SET).or_insert_with(|| "".into());
        }
        serde_json::from_value(serde_json::to_value(claims)?)
    }
}

/// Every format, by its name on the wire.
pub const FORMATS: [&str; 5] =
    [process_format::FORMAT, tpm2::FORMAT, nitro::FORMAT, sev_snp::FORMAT, tdx::FORMAT];

/// Where the name of the set that matched stands among the claims of a format.
pub const REFERENCE_SET: &str = "reference_set";

/// The claims of [`AttestedProcess`].
const READ_BY_POLICY: [&str; 13] = [
    "node",
    "executable_path",
    "executable_sha256",
    "fs_verity",
    "uid",
    "gid",
    "groups",
    "cgroup",
    "systemd_unit",
    "container_id",
    "program_sha256",
    "program_paths",
    "reference_set",
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One process that speaks for itself.
    pub(crate) fn process() -> ProcessClaims {
        ProcessClaims {
            node: "n1".into(),
            boot_id: "5f3f1c2e-7f0f-4e0c-9d53-0f5f6a2b7c11".into(),
            executable_path: "/usr/bin/pay".into(),
            executable_sha256: [0xaa; 32],
            fs_verity: None,
            uid: 1000,
            gid: 1000,
            groups: vec![27, 1000],
            arguments_sha256: [0xcc; 32],
            cgroup: "/system.slice/pay.service".into(),
            systemd_unit: Some("pay.service".into()),
            container_id: None,
            start_time: 4711,
            program: None,
        }
    }

    #[test]
    fn claims_survive_the_audit_record() {
        let claims = ProcessClaims {
            program: Some(vec![Program { path: "/opt/job.py".into(), sha256: [0xbb; 32] }]),
            ..process()
        };
        let attested = AttestedClaims {
            process: Some(AttestedProcess::new(&claims, "pay-2")),
            ..AttestedClaims::default()
        };
        let recorded = attested.to_json().unwrap();
        assert_eq!(recorded["process"]["program_sha256"][0], "bb".repeat(32));
        assert_eq!(AttestedClaims::from_json(&recorded).unwrap(), attested);
    }

    #[test]
    fn a_recorded_format_that_is_not_known_is_no_claim_at_all() {
        let mut recorded = AttestedClaims::default().to_json().unwrap();
        recorded.insert("abacus".into(), serde_json::json!({}));
        assert!(
            AttestedClaims::from_json(&recorded).unwrap_err().to_string().contains("unknown field `abacus`")
        );
    }
}
