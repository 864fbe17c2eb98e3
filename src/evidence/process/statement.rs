//! What a statement says: the claims about one process, without any judgement of them.
//!
//! *Takes* nothing. *Gives* [`Statement`] and its parts, the subject that a latch holds, and the claims as policy and
//! audit read them. *Denies* nothing.
//! *Source*: `protocol.md` "process", "What a refusal latches".

use super::node::sha256;
use crate::limits;
use serde_json::{Value, json};

/// A whole statement: all of its claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// `eat_nonce`: the evidence binding, or what a plain attester was given as such.
    pub binding: [u8; limits::BINDING_BYTES],
    /// `iat`, Unix seconds.
    pub iat: u64,
    /// The name under which the node's key is enrolled.
    pub node: String,
    /// The kernel's boot id, with its dashes.
    pub boot_id: String,
    /// The process that spoke.
    pub process: ProcessClaims,
}

/// What an attester measured of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessClaims {
    /// The file that it executes.
    pub executable: Executable,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, strictly ascending.
    pub groups: Vec<u32>,
    /// SHA-256 of the bytes of `/proc/PID/cmdline`: the process's own word, informative only.
    pub arguments_sha256: [u8; 32],
    /// The cgroup v2 path.
    pub cgroup: String,
    /// The systemd unit, where it runs in one.
    pub systemd_unit: Option<String>,
    /// The container's id, where it runs in one.
    pub container_id: Option<String>,
    /// Clock ticks since boot.
    pub start_time: u64,
    /// The files that it will run next, where it is a launcher.
    pub program: Vec<Program>,
}

/// The file that a process executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// What the `exe` link in `/proc` says.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Its fs-verity digest alone, 32 or 64 bytes, where it has one.
    pub fs_verity: Option<Vec<u8>>,
}

/// A file that a launcher holds open and will run. For a sealed memfd the path is the name that the launcher gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its path.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

impl Statement {
    /// The subject that a refusal holds: SHA-256 over node, uid, executable, program, arguments and unit, each with its
    /// length before it, so that no two subjects run into each other. What changes at every start (pid, start time,
    /// cgroup, container) is not in it: a restart would shed the latch.
    pub fn subject(&self) -> [u8; 32] {
        let process = &self.process;
        let mut subject = Subject::new();
        subject.part(self.node.as_bytes());
        subject.part(&process.uid.to_be_bytes());
        subject.part(process.executable.path.as_bytes());
        subject.part(&process.executable.sha256);
        subject.part(&u64::try_from(process.program.len()).unwrap_or(u64::MAX).to_be_bytes());
        for program in &process.program {
            subject.part(program.path.as_bytes());
            subject.part(&program.sha256);
        }
        subject.part(&process.arguments_sha256);
        subject.part(&[u8::from(process.systemd_unit.is_some())]);
        subject.part(process.systemd_unit.as_deref().unwrap_or_default().as_bytes());
        sha256(&subject.0)
    }

    /// The claims as policy and audit read them: digests in lower-case hex, what is absent left out.
    pub fn claims_json(&self) -> Value {
        let process = &self.process;
        let mut claims = json!({
            "node": self.node,
            "boot_id": self.boot_id,
            "executable_path": process.executable.path,
            "executable_sha256": hex::encode(process.executable.sha256),
            "uid": process.uid,
            "gid": process.gid,
            "groups": process.groups,
            "arguments_sha256": hex::encode(process.arguments_sha256),
            "cgroup": process.cgroup,
            "start_time": process.start_time,
            "program_sha256": process.program.iter().map(|p| hex::encode(p.sha256)).collect::<Vec<_>>(),
            "program_paths": process.program.iter().map(|p| p.path.as_str()).collect::<Vec<_>>(),
        });
        let optional = [
            ("fs_verity", process.executable.fs_verity.as_ref().map(hex::encode)),
            ("systemd_unit", process.systemd_unit.clone()),
            ("container_id", process.container_id.clone()),
        ];
        if let Some(object) = claims.as_object_mut() {
            let present =
                optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
            object.extend(present);
        }
        claims
    }
}

struct Subject(Vec<u8>);

impl Subject {
    fn new() -> Self {
        let mut subject = Subject(Vec::new());
        subject.part(b"portcullis process subject");
        subject
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}
