//! Moving what is old to another place: whole segments, behind a signed border, from where everything goes on.
//!
//! *Takes* the log's directory, its key, and a place. *Gives* the segments there, verifiable on their own; the log begins at
//! the border. *Denies* to move what a start may need, and a log that does not verify. *Source*: `durability.md` "Audit".
//!
//! The order makes it safe to be interrupted at any point, and to be done again: each segment is copied, synced and read
//! back; the archive gets its own checkpoint; the border is written beside the log in one step; and only then are the
//! originals removed, the oldest first. A broker may run meanwhile: it has only the last segment open, which never moves.

use super::border::{self, BORDER, Border, BorderError};
use super::checkpoint::LogKey;
use super::open::{CHECKPOINT, HISTORY};
use super::segment::{self, Header, Reader};
use super::verify::{VerifyError, verify};
use crate::time::WallTime;
use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags, flock};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// How far to archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Records before this wall time.
    Time(WallTime),
    /// Records before this number.
    Record(u64),
}

/// What was archived.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Archived {
    /// Segments that were moved.
    pub segments: u64,
    /// The first record that is still in the log.
    pub first: u64,
    /// The first segment that is still in the log.
    pub segment: u64,
}

/// Why nothing, or not everything, was moved; what is in the log is whole either way.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The log is not what it was signed as; nothing is moved then.
    #[error("the log does not verify, and nothing was moved: {0}")]
    Verify(#[from] VerifyError),
    /// The border.
    #[error("the border of the log: {0}")]
    Border(#[from] BorderError),
    /// The place holds another file of a segment's name.
    #[error("{0} is there already and is another file: archive to another directory")]
    Other(PathBuf),
    /// The place holds segments that do not join these.
    #[error("{0} ends at segment {1}, which these do not follow: archive to another directory")]
    Gap(PathBuf, u64),
    /// Another archive is under way.
    #[error("another archive is under way")]
    Locked,
    /// The place is the log's own.
    #[error("the archive must be another directory than the log's")]
    SamePlace,
}

/// Moves the segments that lie wholly before `before` into `to`. What the last `keep_ms` wrote stays, as a start needs it.
/// Gives none where there is nothing to move.
pub fn archive(
    directory: &Path,
    to: &Path,
    key: &LogKey,
    before: Before,
    now: WallTime,
    keep_ms: u64,
) -> Result<Option<Archived>, ArchiveError> {
    make_directory(to)?;
    if std::fs::canonicalize(directory)? == std::fs::canonicalize(to)? {
        return Err(ArchiveError::SamePlace);
    }
    let _lock = lock(directory)?;
    let border = Border::read(directory, key.public())?;
    // Every record is read, so what is signed here is what was signed before.
    let report = verify(directory, key.public(), None)?;
    let segments = border::counting(directory, border.as_ref())?;
    // A clock that is ahead would let go of what the next start needs: the last record says what the broker's own said.
    let now = now.min(report.last_time.unwrap_or_default());
    if let Some(next) = next_border(&segments, before, now, keep_ms, report.signed)? {
        copy_all(&segments, next.number, to)?;
        close(directory, to, &segments, &next, key)?;
        replace(directory, BORDER, &note(&next, key)?)?;
    }
    // What an earlier attempt left behind its border is removed too.
    match Border::read(directory, key.public())? {
        Some(border) => remove_before(directory, to, &border),
        None => Ok(None),
    }
}

/// The header of the last segment before which everything may go.
fn next_border(
    segments: &[(u64, PathBuf)],
    before: Before,
    now: WallTime,
    keep_ms: u64,
    signed: u64,
) -> Result<Option<Header>, ArchiveError> {
    let mut found = None;
    let needed = now.0.saturating_sub(keep_ms);
    for (_, path) in segments.iter().skip(1) {
        let header = header(path)?;
        let asked = match before {
            Before::Time(time) => header.highest_time < time,
            Before::Record(record) => header.first <= record,
        };
        let free = header.highest_time.0 < needed && header.oldest_intent.is_none() && header.first <= signed;
        if asked && free {
            found = Some(header);
        }
    }
    Ok(found)
}

fn copy_all(segments: &[(u64, PathBuf)], border: u64, to: &Path) -> Result<(), ArchiveError> {
    if let Some((last, _)) = segment::list(to)?.last()
        && let Some((first, _)) = segments.first()
        && last.saturating_add(1) < *first
    {
        return Err(ArchiveError::Gap(to.to_owned(), *last));
    }
    for (number, path) in segments.iter().filter(|(number, _)| *number < border) {
        copy(path, &to.join(segment::name(*number)))?;
    }
    sync_directory(to)?;
    Ok(())
}

/// Gives the archive what its own verification needs: where it begins, where it ends, and the checkpoints between.
fn close(
    directory: &Path,
    to: &Path,
    segments: &[(u64, PathBuf)],
    next: &Header,
    key: &LogKey,
) -> Result<(), ArchiveError> {
    let first_there = segment::list(to)?.first().map(|(number, _)| *number);
    let begins_here = first_there == segments.first().map(|(number, _)| *number);
    let beginning = directory.join(BORDER);
    if begins_here && first_there != Some(1) && beginning.exists() {
        replace(to, BORDER, &std::fs::read_to_string(beginning)?)?;
    }
    let history = directory.join(HISTORY);
    if history.exists() {
        replace(to, HISTORY, &std::fs::read_to_string(history)?)?;
    }
    replace(to, CHECKPOINT, &note(next, key)?)?;
    Ok(())
}

fn note(header: &Header, key: &LogKey) -> Result<String, ArchiveError> {
    let unsignable = || io::Error::new(io::ErrorKind::InvalidData, "a segment's header has no tree");
    Ok(Border::sign(header, key).ok_or_else(unsignable)?)
}

/// Removes originals whose copy is there, the oldest first: whatever is left is what follows.
fn remove_before(directory: &Path, to: &Path, border: &Border) -> Result<Option<Archived>, ArchiveError> {
    let mut moved = 0_u64;
    for (number, path) in segment::list(directory)?.into_iter().filter(|(number, _)| *number < border.segment)
    {
        let copy = to.join(segment::name(number));
        if !copy.exists() || !same(&path, &copy)? {
            return Err(ArchiveError::Other(copy));
        }
        std::fs::remove_file(&path)?;
        moved = moved.saturating_add(1);
        sync_directory(directory)?;
    }
    let archived = Archived { segments: moved, first: border.size, segment: border.segment };
    Ok((moved > 0).then_some(archived))
}

fn header(path: &Path) -> io::Result<Header> {
    Ok(Reader::open(path)?.header().clone())
}

/// Copies a segment, whole under its name or not at all, and reads the copy back.
fn copy(from: &Path, to: &Path) -> Result<(), ArchiveError> {
    if to.exists() {
        return if same(from, to)? { Ok(()) } else { Err(ArchiveError::Other(to.to_owned())) };
    }
    let temporary = to.with_extension("partial");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from)?;
    let mut copied = File::from(opened);
    io::copy(&mut File::open(from)?, &mut copied)?;
    copied.sync_all()?;
    if !same(from, &temporary)? {
        return Err(io::Error::other("the copy of a segment is not what was copied").into());
    }
    let here = rustix::fs::CWD;
    rustix::fs::renameat_with(here, &temporary, here, to, RenameFlags::NOREPLACE).map_err(io::Error::from)?;
    Ok(())
}

fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
    loop {
        let count = one.read(&mut left)?;
        let (Some(left), Some(right)) = (left.get(..count), right.get_mut(..count)) else { return Ok(false) };
        other.read_exact(right)?;
        if left != right {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

/// Replaces a small file atomically and durably.
fn replace(directory: &Path, name: &str, content: &str) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.partial"));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&temporary, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}

fn make_directory(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// One archive at a time; the directory itself is a running broker's.
fn lock(directory: &Path) -> Result<File, ArchiveError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory.join(LOCK), flags, Mode::from_raw_mode(0o600));
    let file = File::from(opened.map_err(io::Error::from)?);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ArchiveError::Locked),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

const LOCK: &str = "archive.lock";
/// Read at once to compare, bytes.
const COMPARED: usize = 256 * 1024;

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
