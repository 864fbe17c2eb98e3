//! Room on the disk: alarms before it ends, and a file that is let go when it does.
//!
//! *Takes* the directories of store and log. *Gives* how each file system stands ([`Space::standing`], for whoever watches),
//! and room for a store to open and for administrators' acts to be recorded where there is none. *Denies* nothing itself:
//! while the ballast is out the recorder records no release. *Source*: `durability.md` "Audit" (ballast, alarms), "sled"
//! (it cannot be opened while the disk is full).

use crate::limits;
use crate::time::Stopwatch;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, statvfs};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much room a file system has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It cannot be asked.
    #[default]
    Unknown,
    /// The ballast was let go: nothing is released.
    Spent,
    /// Less than 10 % is free.
    VeryLow,
    /// Less than 20 % is free.
    Low,
    /// More.
    Ample,
}

impl Level {
    /// The word in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Level::Unknown => "unknown",
            Level::Spent => "spent",
            Level::VeryLow => "very-low",
            Level::Low => "low",
            Level::Ample => "ample",
        }
    }

    fn of(free: u64, total: u64, ballast_out: bool) -> Self {
        let percent = |parts: u64| total.checked_div(100).unwrap_or(0).saturating_mul(parts);
        match free {
            _ if ballast_out => Level::Spent,
            free if free < percent(10) => Level::VeryLow,
            free if free < percent(20) => Level::Low,
            _ => Level::Ample,
        }
    }
}

/// How one file system stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is on it: `store`, `audit`, or both.
    pub directories: &'static [&'static str],
    /// Bytes that this user can still write.
    pub free_bytes: u64,
    /// Its size, bytes.
    pub total_bytes: u64,
    /// What that means.
    pub level: Level,
}

/// The file systems of store and log, each with its ballast.
pub struct Space {
    places: Vec<Place>,
    ballast_bytes: u64,
    standing: Mutex<Option<(Stopwatch, Vec<Standing>)>>,
}

struct Place {
    directories: &'static [&'static str],
    directory: PathBuf,
}

impl Space {
    /// Those of `store` and `audit`, with a ballast of so many bytes on each; 0 is none. Nothing is written yet.
    pub fn new(store: &Path, audit: &Path, ballast_bytes: u64) -> Self {
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let shared = device(store).is_some() && device(store) == device(audit);
        let place = |directories, path: &Path| Place { directories, directory: path.to_owned() };
        let places = match shared {
            true => vec![place(&["store", "audit"], store)],
            false => vec![place(&["store"], store), place(&["audit"], audit)],
        };
        Space { places, ballast_bytes, standing: Mutex::default() }
    }

    /// How every file system stood when it was last looked at; nothing where that is too long ago to mean anything. Plain
    /// reading: it asks nothing of the disk.
    pub fn standing(&self) -> Vec<Standing> {
        let longest = limits::DISK_KNOWN_MS.saturating_mul(1_000_000);
        let looked = self.lock();
        let recent = looked.as_ref().filter(|(at, _)| at.nanoseconds() <= longest);
        recent.map(|(_, standing)| standing.clone()).unwrap_or_default()
    }

    /// Whether a ballast is out: what room there is, is for opening, and for what administrators do.
    pub fn is_spent(&self) -> bool {
        let looked = self.lock();
        looked.iter().flat_map(|(_, all)| all).any(|standing| standing.level == Level::Spent)
    }

    /// Lets a ballast go where there is no room, and does nothing else: for before a store is opened.
    pub fn make_room(&self) {
        for place in &self.places {
            let ballast = place.directory.join(BALLAST);
            let full = room(&place.directory).is_ok_and(|(free, _)| free < NO_ROOM_BYTES);
            if full && std::fs::remove_file(&ballast).is_ok() {
                tracing::error!(name = %place.directories.join(", "), "the disk is full: the ballast was let go");
            }
        }
    }

    /// Looks at every file system, lets a ballast go where there is no room, makes it again where there is, and says in the
    /// log what changed. It blocks on the disk.
    pub fn look(&self) {
        let looked: Vec<Standing> = self.places.iter().map(|place| self.look_at(place)).collect();
        let before = self.lock().replace((Stopwatch::start(), looked.clone()));
        let before = before.map(|(_, standing)| standing).unwrap_or_default();
        for now in looked {
            let earlier = before.iter().find(|one| one.directories == now.directories).map(|one| one.level);
            tell(earlier, &now);
        }
    }

    fn look_at(&self, place: &Place) -> Standing {
        let directories = place.directories;
        let name = directories.join(", ");
        let Ok(mut room) = room(&place.directory) else {
            return Standing { directories, free_bytes: 0, total_bytes: 0, level: Level::Unknown };
        };
        let ballast = place.directory.join(BALLAST);
        if self.ballast_bytes > 0 {
            match plan(room.0, self.ballast_bytes, ballast.exists()) {
                Plan::LetGo => {
                    if let Err(error) = std::fs::remove_file(&ballast) {
                        tracing::error!(%error, %name, "the ballast file cannot be let go");
                    }
                }
                Plan::Make => {
                    if let Err(error) = make(&ballast, self.ballast_bytes) {
                        tracing::warn!(%error, %name, "the ballast file cannot be made");
                        // Half of it would only take the room that it is for.
                        let _ = std::fs::remove_file(&ballast);
                    }
                }
                Plan::Leave => {}
            }
            room = self::room(&place.directory).unwrap_or(room);
        }
        let out = self.ballast_bytes > 0 && !ballast.exists();
        let (free_bytes, total_bytes) = room;
        Standing { directories, free_bytes, total_bytes, level: Level::of(free_bytes, total_bytes, out) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Stopwatch, Vec<Standing>)>> {
        // A panic while the lock was held leaves one reading or the other.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    LetGo,
    Make,
    Leave,
}

/// What to do about a ballast, with so many bytes free beside it. Between the two bounds it stays as it is.
fn plan(free: u64, ballast: u64, there: bool) -> Plan {
    match there {
        true if free < NO_ROOM_BYTES => Plan::LetGo,
        false if free >= ballast.saturating_add(NO_ROOM_BYTES.saturating_mul(4)) => Plan::Make,
        _ => Plan::Leave,
    }
}

/// Free bytes for this user, and all.
fn room(directory: &Path) -> io::Result<(u64, u64)> {
    let asked = statvfs(directory)?;
    Ok((asked.f_bavail.saturating_mul(asked.f_frsize), asked.f_blocks.saturating_mul(asked.f_frsize)))
}

/// Real blocks: a sparse file would hold nothing.
fn make(path: &Path, bytes: u64) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = vec![0; WRITTEN];
            for _ in 0..bytes.div_ceil(WRITTEN_BYTES) {
                file.write_all(&zeros)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

fn tell(earlier: Option<Level>, now: &Standing) {
    if earlier == Some(now.level) {
        return;
    }
    let name = now.directories.join(", ");
    let (free, total, level) = (now.free_bytes, now.total_bytes, now.level.name());
    match now.level {
        Level::Ample if earlier.is_none() => {}
        Level::Ample => tracing::info!(%name, free, total, level, "there is room on the disk again"),
        Level::Low => tracing::warn!(%name, free, total, level, "less than 20 % of the disk is free"),
        Level::VeryLow => tracing::error!(%name, free, total, level, "less than 10 % of the disk is free"),
        Level::Spent => {
            tracing::error!(
                %name,
                free,
                total,
                level,
                "the disk is full and the ballast is out: nothing is released"
            );
        }
        Level::Unknown => tracing::error!(%name, level, "the disk cannot be asked for its room"),
    }
}

/// The ballast's name in its directory.
const BALLAST: &str = "ballast";
/// With less free than this a store may not open: sled's segments are 512 KiB, and it writes several, and the log one of its
/// own.
const NO_ROOM_BYTES: u64 = 16 * 1024 * 1024;
/// Written at once where space cannot be reserved.
const WRITTEN: usize = 1024 * 1024;
const WRITTEN_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_ballast_is_let_go_where_there_is_no_room_and_made_again_where_there_is_ample() {
        assert_eq!(plan(15 * MIB, 64 * MIB, true), Plan::LetGo);
        assert_eq!(plan(16 * MIB, 64 * MIB, true), Plan::Leave);
        assert_eq!(plan(0, 64 * MIB, false), Plan::Leave);
        // What letting go frees is not taken for room.
        assert_eq!(plan(15 * MIB + 64 * MIB, 64 * MIB, false), Plan::Leave);
        assert_eq!(plan(128 * MIB, 64 * MIB, false), Plan::Make);
    }

    #[test]
    fn the_alarms_are_at_20_and_10_percent() {
        let level = |free| Level::of(free, 1000, false);
        assert_eq!(
            (level(200), level(199), level(100), level(99)),
            (Level::Ample, Level::Low, Level::Low, Level::VeryLow)
        );
        assert_eq!(Level::of(900, 1000, true), Level::Spent);
        assert!(Level::Spent < Level::VeryLow && Level::VeryLow < Level::Low && Level::Low < Level::Ample);
    }

    #[test]
    fn a_ballast_takes_real_room_and_one_file_system_has_one() {
        let directory = tempfile::tempdir().unwrap();
        let (store, audit) = (directory.path().join("store"), directory.path().join("audit"));
        std::fs::create_dir(&store).unwrap();
        std::fs::create_dir(&audit).unwrap();
        let space = Space::new(&store, &audit, 2 * MIB);
        assert_eq!(space.standing(), []);
        space.look();
        let standing = space.standing();
        assert_eq!((standing.len(), standing[0].directories), (1, ["store", "audit"].as_slice()));
        assert!(standing[0].level > Level::Spent && !space.is_spent());
        let metadata = std::fs::metadata(store.join(BALLAST)).unwrap();
        assert!(metadata.blocks() * 512 >= 2 * MIB && !audit.join(BALLAST).exists());
        // None is wanted: none is made, and its absence is no alarm.
        std::fs::remove_file(store.join(BALLAST)).unwrap();
        let none = Space::new(&store, &audit, 0);
        none.look();
        assert!(!store.join(BALLAST).exists() && !none.is_spent());
    }
}
