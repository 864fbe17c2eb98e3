//! Files that must be whole or absent, after a crash too.
//!
//! *Takes* a path and bytes. *Gives* a file that was written, synced and named in one step. *Denies* by the operating
//! system's error; an existing file is never replaced. *Source*: open(2), renameat2(2), fsync(2).

use rustix::fs::{Mode, OFlags, RenameFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Makes the file `path` of `bytes` with permissions `mode`, durably; `AlreadyExists` where there is anything.
pub(super) fn create(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let directory = parent(path);
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut suffix = [0; 8];
    aws_lc_rs::rand::fill(&mut suffix).map_err(|_| io::Error::other("no random bytes"))?;
    let temporary = directory.join(format!(".{}.{}", name.to_string_lossy(), hex::encode(suffix)));
    let named = write_exclusive(&temporary, bytes, mode).and_then(|()| {
        let here = rustix::fs::CWD;
        Ok(rustix::fs::renameat_with(here, &temporary, here, path, RenameFlags::NOREPLACE)?)
    });
    if named.is_err() {
        // What is left is a file that nothing reads; the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    named.and_then(|()| sync_directory(&directory))
}

/// Makes the directory's entries durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that a path stands in.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn write_exclusive(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, mode)?);
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_not_replaced_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("marker");
        create(&path, b"first", Mode::RUSR).unwrap();
        let error = create(&path, b"second", Mode::RUSR).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
