//! Measuring a process: what the kernel says of it, never what it says of itself.
//!
//! *Takes* a [`Peer`] and numbers of its descriptors. *Gives* [`Measurement`]. *Denies* [`NotMeasured`], by what could
//! not be measured; the caller hears `ATTESTATION_NOT_POSSIBLE`.
//! *Source*: `protocol.md` "process", "The node's attester"; proc(5), pidfd_open(2), pid_namespaces(7).
//!
//! Everything is read below one descriptor of `/proc/PID`, opened while the pidfd said that the process lived, so that
//! it stays about that process. Files are hashed anew each time: no stamp of a file (device, inode, mtime, ctime, size)
//! proves that its content is the same, as stores through a mapping and two writes within one tick leave them alone.
//!
//! What this cannot see: libraries and environment (`LD_PRELOAD`) of the same user, and a tracer that came and went.
//! Where users of one uid must not become each other, they need uids, or units, of their own, and reference values that
//! name them; `kernel.yama.ptrace_scope` 1 closes the second.

use super::files::{self, Found};
use super::proc::{self, Layout, ProcDirectory};
use super::socket::Peer;
use crate::evidence::process::{Executable, ProcessClaims};

/// One look at a process. Two that are equal are of the same program with no `execve` between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// What goes into the statement.
    pub claims: ProcessClaims,
    /// Device and inode of the executable.
    executable: (u64, u64),
    /// Where its address space lies: randomised at each `execve`, of the same file too.
    layout: Layout,
}

/// What could not be measured, for the node's log.
#[derive(Debug, thiserror::Error)]
pub enum NotMeasured {
    /// The process has ended.
    #[error("the process has ended")]
    Ended,
    /// It is traced: its tracer could speak in its place.
    #[error("thread {0} is traced")]
    Traced(u32),
    /// Its threads, or its real, effective, saved and file-system ids, differ: it has no one identity.
    #[error("real, effective and saved ids, or those of its threads, differ")]
    IdsDiffer,
    /// Its pid namespace belongs to another user namespace, where others may claim its pid (SCM_CREDENTIALS).
    #[error("its pid namespace is owned by another user namespace")]
    ForeignNamespace,
    /// It changed while it was measured.
    #[error("it changed while it was measured")]
    Changed,
    /// A file is deleted and no sealed memfd.
    #[error("{0}: deleted")]
    Deleted(String),
    /// A file is not a regular one.
    #[error("{0}: not a regular file")]
    NotRegular(String),
    /// A file is served by a process (FUSE), which may answer each reader otherwise.
    #[error("{0}: on a file system that a process serves")]
    Served(String),
    /// A file is larger than [`crate::limits::ATTEST_FILE_BYTES`], or something in `/proc` than its own bound.
    #[error("{0}: too large")]
    TooLarge(String),
    /// A path, cgroup or other text is not UTF-8.
    #[error("{0}: not UTF-8")]
    NotUtf8(String),
    /// `/proc` says something that is not understood, or lacks it.
    #[error("{0}: not understood")]
    NotUnderstood(String),
    /// The kernel did not let it be read.
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
}

/// Looks at the process once. Blocks: it reads and hashes files.
pub fn measure(peer: &Peer, program_fds: &[u32]) -> Result<Measurement, NotMeasured> {
    let directory = ProcDirectory::open(peer)?;
    let before = directory.stat()?;
    let ids = directory.ids()?;
    directory.check_namespace()?;
    let Found { path, sha256, fs_verity, inode } = files::executable(&directory)?;
    let cgroup = directory.cgroup()?;
    let claims = ProcessClaims {
        executable: Executable { path, sha256, fs_verity },
        uid: ids.uid,
        gid: ids.gid,
        groups: ids.groups.clone(),
        arguments_sha256: directory.arguments_sha256()?,
        systemd_unit: proc::systemd_unit(&cgroup),
        container_id: proc::container_id(&cgroup),
        cgroup,
        start_time: before.start_time,
        program: program_fds.iter().map(|fd| files::program(&directory, *fd)).collect::<Result<_, _>>()?,
    };
    // Untraced, with the same ids and address space as at the beginning, and still alive.
    if directory.ids()? != ids || directory.stat()? != before {
        return Err(NotMeasured::Changed);
    }
    directory.check_alive()?;
    Ok(Measurement { claims, executable: inode, layout: before.layout })
}
