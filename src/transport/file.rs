//! Watched files: read when they changed, bounded, and never through a pipe that would hang the reader.
//!
//! *Takes* a path and a bound. *Gives* [`Content`], or what it was before. *Denies* nothing itself; an unreadable file is
//! an error that its caller turns into "unknown". *Source*: `fail-open-catalogue.md` row 38.

use crate::time::{Now, WallTime};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What a file held when it was read.
#[derive(Clone)]
pub struct Content {
    /// Its bytes; zeroized when dropped, as one of the files is a private key.
    pub bytes: Zeroizing<Vec<u8>>,
    /// When it was last written, by the file system's own word.
    pub written: WallTime,
    /// SHA-256 of the bytes.
    pub digest: [u8; 32],
    stamp: Stamp,
    /// Whether a later write is sure to change the stamp: the file system's time is coarse.
    settled: bool,
}

/// Identity and times of a file; equal stamps of a settled file mean equal content.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file that is read again only when it changed.
pub struct Watched {
    path: PathBuf,
    limit: u64,
    last: Option<Result<Content, String>>,
}

impl Watched {
    /// A file not read yet; more than `limit` bytes are an error.
    pub fn new(path: PathBuf, limit: u64) -> Self {
        Watched { path, limit, last: None }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks again. An error stands until the file can be read; it never gives old content.
    pub fn look(&mut self, now: Now) -> &Result<Content, String> {
        let unchanged = match &self.last {
            Some(Ok(content)) => content.settled && stamp_of(&self.path).is_ok_and(|s| s == content.stamp),
            Some(Err(_)) | None => false,
        };
        if unchanged && let Some(last) = self.last.take() {
            return self.last.insert(last);
        }
        let read = read(&self.path, self.limit, now).map_err(|error| error.to_string());
        self.last.insert(read)
    }
}

/// Reads a regular file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64, now: Now) -> std::io::Result<Content> {
    // Without O_NONBLOCK, opening a FIFO waits for a writer.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len().min(limit)).unwrap_or(0)));
    (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    let stamp = Stamp::of(&file.metadata()?);
    let written = stamp.written();
    let digest = super::svid::sha256(&bytes);
    Ok(Content { bytes, written, digest, stamp, settled: now.wall.since(written) > SETTLED_MS })
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn written(&self) -> WallTime {
        let milliseconds = u64::try_from(self.modified.1).unwrap_or(0) / 1_000_000;
        WallTime::from_seconds(self.modified.0).plus(milliseconds)
    }
}

fn stamp_of(path: &Path) -> std::io::Result<Stamp> {
    std::fs::metadata(path).map(|metadata| Stamp::of(&metadata))
}

/// Twice the coarsest file system time in use (FAT: 2 s), so that two writes within one tick are not missed.
const SETTLED_MS: u64 = 4_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::BootTime;

    fn now(wall: u64) -> Now {
        Now { wall: WallTime(wall), boot: BootTime(1) }
    }

    #[test]
    fn a_change_is_seen_and_a_removed_file_gives_no_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut watched = Watched::new(path.clone(), 10);
        assert!(watched.look(now(0)).is_err());
        std::fs::write(&path, b"one").unwrap();
        assert_eq!(&**watched.look(now(0)).as_ref().unwrap().bytes, b"one");
        std::fs::write(&path, b"two").unwrap();
        assert_eq!(&**watched.look(now(0)).as_ref().unwrap().bytes, b"two");
        std::fs::remove_file(&path).unwrap();
        assert!(watched.look(now(u64::MAX)).is_err());
    }

    #[test]
    fn a_file_just_written_is_read_again_although_its_stamp_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, b"one").unwrap();
        let written = read(&path, 10, now(0)).unwrap().written.0;
        assert!(!read(&path, 10, now(written + SETTLED_MS)).unwrap().settled);
        assert!(read(&path, 10, now(written + SETTLED_MS + 1)).unwrap().settled);
        let mut watched = Watched::new(path, 10);
        for (wall, looked_again) in [(written, true), (written + SETTLED_MS + 1, false)] {
            watched.look(now(wall)).as_ref().unwrap();
            // A content that the file does not hold shows whether the file was read.
            watched.last.as_mut().unwrap().as_mut().unwrap().bytes = Zeroizing::new(b"old".to_vec());
            let content = watched.look(now(wall)).as_ref().unwrap();
            assert_eq!(&**content.bytes == b"one", looked_again);
        }
    }

    #[test]
    fn an_oversized_file_and_a_pipe_are_errors_and_do_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, [0; 11]).unwrap();
        assert!(Watched::new(path.clone(), 10).look(now(0)).is_err());
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(Watched::new(pipe, 10).look(now(0)).is_err());
        assert!(Watched::new(folder.path().into(), 10).look(now(0)).is_err());
    }
}
