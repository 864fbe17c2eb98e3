//! Measuring files: the executable of a process, and the programs that it holds open.
//!
//! *Takes* a [`ProcDirectory`] and the number of a descriptor. *Gives* path, SHA-256, fs-verity digest. *Denies*
//! [`NotMeasured`]: what is deleted, not regular, served by a process, too large.
//! *Source*: `protocol.md` "process"; memfd_create(2), fcntl(2) F_GET_SEALS, linux/fsverity.h.
//!
//! A sealed memfd (write, shrink, grow and the seals themselves) can never change, so it is measured though it has no
//! name in any directory. Its "path" is the name that its maker gave it: `exec` gives it the path of the program that it
//! copied. That name is the launcher's word, as good as the launcher, whose own digest stands in "executable".

use super::measure::NotMeasured;
use super::proc::ProcDirectory;
use crate::evidence::process::Program;
use crate::{limits, sys};
use aws_lc_rs::digest;
use rustix::fs::{FileType, Mode, OFlags, SealFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};

/// A measured file.
pub struct Found {
    /// Its path.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Its fs-verity digest, where it has one.
    pub fs_verity: Option<Vec<u8>>,
    /// Device and inode.
    pub inode: (u64, u64),
}

/// The file that the process executes, opened through `/proc` itself, never by its path.
pub fn executable(directory: &ProcDirectory<'_>) -> Result<Found, NotMeasured> {
    let path = directory.link("exe")?;
    if path.ends_with(DELETED) {
        return Err(NotMeasured::Deleted(path));
    }
    let (file, inode) = open(directory, "exe")?;
    let fs_verity = sys::verity_digest(file.as_fd()).map_err(|e| NotMeasured::Unreadable(path.clone(), e))?;
    let sha256 = sha256(file, &path)?;
    // Renamed or replaced by an `execve` meanwhile: path and content would be of two files.
    if directory.link("exe")? != path {
        return Err(NotMeasured::Changed);
    }
    Ok(Found { path, sha256, fs_verity, inode })
}

/// The file behind the caller's descriptor `number`.
pub fn program(directory: &ProcDirectory<'_>, number: u32) -> Result<Program, NotMeasured> {
    let name = format!("fd/{number}");
    let link = directory.link(&name)?;
    let (file, _) = open(directory, &name)?;
    let path = program_path(link, &file)?;
    let sha256 = sha256(file, &path)?;
    Ok(Program { path, sha256 })
}

fn program_path(link: String, file: &File) -> Result<String, NotMeasured> {
    let Some(name) = link.strip_suffix(DELETED) else { return Ok(link) };
    // Only a memfd can have these seals: other files of the kernel's memory file system are sealed against sealing.
    let sealed = rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(IMMUTABLE));
    match name.strip_prefix(MEMFD) {
        Some(name) if sealed && !name.is_empty() => Ok(name.to_owned()),
        _ => Err(NotMeasured::Deleted(link)),
    }
}

/// Opens what a link of `/proc` leads to, after making sure that opening it does nothing: a pipe would wait, a device
/// might do anything.
fn open(directory: &ProcDirectory<'_>, name: &str) -> Result<(File, (u64, u64)), NotMeasured> {
    let unreadable = |error: rustix::io::Errno| NotMeasured::Unreadable(name.to_owned(), error.into());
    let handle = directory.open_at(name, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&handle).map_err(unreadable)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(NotMeasured::NotRegular(name.to_owned()));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > limits::ATTEST_FILE_BYTES {
        return Err(NotMeasured::TooLarge(name.to_owned()));
    }
    if rustix::fs::fstatfs(&handle).map_err(unreadable)?.f_type == FUSE {
        return Err(NotMeasured::Served(name.to_owned()));
    }
    let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(again, flags, Mode::empty()).map_err(unreadable)?;
    Ok((File::from(file), (stat.st_dev, stat.st_ino)))
}

fn sha256(file: File, path: &str) -> Result<[u8; 32], NotMeasured> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut file = file.take(limits::ATTEST_FILE_BYTES.saturating_add(1));
    let mut buffer = vec![0; READ_BYTES];
    let mut total: u64 = 0;
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(NotMeasured::Unreadable(path.to_owned(), error)),
        };
        total = total.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        context.update(buffer.get(..length).unwrap_or_default());
    }
    if total > limits::ATTEST_FILE_BYTES {
        return Err(NotMeasured::TooLarge(path.to_owned()));
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    Ok(sha256)
}

/// What the kernel appends to the link of a file that has no name any more, as no memfd ever had.
const DELETED: &str = " (deleted)";

/// What it puts before the name of a memfd.
const MEMFD: &str = "/memfd:";

/// With all of these, content and length are as they were when the last one was set, for ever.
const IMMUTABLE: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// FUSE_SUPER_MAGIC (linux/magic.h).
const FUSE: rustix::fs::FsWord = 0x6573_5546;

/// Read at once: large enough that system calls do not count beside hashing.
const READ_BYTES: usize = 256 * 1024;
