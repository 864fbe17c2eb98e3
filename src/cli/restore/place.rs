//! The store's directory: held while a new one is made beside it, and exchanged for it in one step.

use super::RestoreError;
use crate::store::StoreError;
use crate::time::WallTime;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where the store is, and where the new one is made.
pub(super) struct Place {
    data: PathBuf,
    new: PathBuf,
    /// The old store's lock; none where there is none.
    _lock: Option<File>,
    /// The new store is in its place.
    swapped: bool,
}

impl Place {
    /// Takes the place: no broker has it, and none gets it meanwhile. Errs `InUse` where one does.
    pub(super) fn take(data: &Path, now: WallTime) -> Result<Self, RestoreError> {
        let lock = match File::open(data) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => {
                let directory = opened.map_err(failed(data))?;
                match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => Some(directory),
                    Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse.into()),
                    Err(error) => return Err(failed(data)(error.into())),
                }
            }
        };
        let mut new = data.as_os_str().to_owned();
        new.push(".restoring");
        let new = PathBuf::from(new);
        let place = Place { data: data.to_owned(), new, _lock: lock, swapped: false };
        if place.new.exists() {
            // Left behind by a restore that was interrupted; it may be the store that was replaced.
            place.keep("interrupted", now)?;
        }
        Ok(place)
    }

    /// Where the new store is made.
    pub(super) fn beside(&self) -> &Path {
        &self.new
    }

    /// Puts the new store in its place; gives where the old one is now.
    pub(super) fn swap(&mut self, now: WallTime) -> Result<Option<PathBuf>, RestoreError> {
        let there = self.data.exists();
        let flags = if there { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        renameat_with(CWD, &self.new, CWD, &self.data, flags)
            .map_err(|error| failed(&self.data)(error.into()))?;
        self.swapped = true;
        let kept = there.then(|| self.keep("replaced", now)).transpose()?;
        let parent = self.data.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed(parent))?;
        Ok(kept)
    }

    /// What stands beside the store, under a name that says what it is.
    fn keep(&self, what: &str, now: WallTime) -> Result<PathBuf, RestoreError> {
        let time: String = now.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        let mut kept = self.data.as_os_str().to_owned();
        kept.push(format!(".{what}-{time}"));
        let kept = PathBuf::from(kept);
        renameat_with(CWD, &self.new, CWD, &kept, RenameFlags::NOREPLACE)
            .map_err(|error| failed(&kept)(error.into()))?;
        Ok(kept)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.swapped {
            // What is left is set aside at the next attempt.
            let _ = std::fs::remove_dir_all(&self.new);
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |error| RestoreError::File { path, error }
}
