//! The log's directory and the file under way: every system call that the writer makes.
//!
//! *Takes* bytes. *Gives* them durably on disk, under a path that still names the file. *Denies* nothing itself; a
//! [`Fault`] says what is wrong. *Source*: `durability.md` "Audit" ("the path still names the open file").

use super::segment::{self, Header, SEGMENT_HEADER_BYTES};
use crate::limits;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why the log cannot be written now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A system call failed: no space, an I/O error, a short write.
    #[error("cannot {act}: {error}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// The operating system's words.
        error: String,
    },
    /// The path does not name the open file any more: it was removed, renamed or replaced.
    #[error("the path of the log does not name its file any more")]
    Moved,
    /// The file has another size than the broker gave it.
    #[error("the log's file was cut or lengthened under the broker")]
    Resized,
    /// The file or its directory has no write permission at all.
    #[error("the log is write-protected")]
    WriteProtected,
}

impl Fault {
    fn io(act: &'static str) -> impl FnOnce(io::Error) -> Fault {
        move |error| Fault::Io { act, error: error.to_string() }
    }
}

/// Which file an open descriptor is of; it never changes while that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
}

impl Identity {
    fn of(file: &Statx) -> Self {
        Identity { device: (file.stx_dev_major, file.stx_dev_minor), inode: file.stx_ino }
    }
}

/// What a name in `directory` stands for. Times are not asked for: who asks makes the kernel (from 6.13 on) write a new one at
/// each record, and the next sync writes the inode for it.
fn look(directory: impl AsFd, name: impl rustix::path::Arg, flags: AtFlags) -> Result<Statx, Errno> {
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::INO | StatxFlags::SIZE;
    rustix::fs::statx(directory, name, flags, wanted)
}

fn look_at_open(file: &File) -> Result<Statx, Fault> {
    look(file, "", AtFlags::EMPTY_PATH).map_err(io::Error::from).map_err(Fault::io("look at the log"))
}

/// The segment that is being written.
pub(super) struct Segment {
    pub(super) header: Header,
    /// Where the next frame goes, bytes.
    pub(super) end: u64,
    file: File,
    /// Its name in the directory.
    name: String,
    identity: Identity,
    /// The file's size, preallocation included, bytes.
    size: u64,
    /// Up to here zeros were written, bytes. A sync of records written over them has the records alone to write; into
    /// space that is merely preallocated, the file's map too.
    zeroed: u64,
}

/// The next segment, made ready.
struct Prepared {
    file: File,
    zeroed: u64,
}

/// The directory, locked.
pub(super) struct Disk {
    path: PathBuf,
    directory: File,
    identity: Identity,
    segment_bytes: u64,
    next: Option<Prepared>,
    #[cfg(test)]
    pub(super) trouble: std::sync::Arc<super::log::tests::Trouble>,
}

impl Disk {
    /// Opens the directory, making it (mode 0700) where there is none, and locks it against other processes.
    pub(super) fn open(path: &Path, segment_bytes: u64) -> io::Result<Self> {
        let made = rustix::fs::mkdir(path, Mode::from_raw_mode(0o700));
        match made {
            Ok(()) => sync_parent(path)?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = File::from(rustix::fs::open(path, directory, Mode::empty())?);
        let opened = look(&directory, "", AtFlags::EMPTY_PATH)?;
        if opened.stx_mode & 0o022 != 0 {
            return Err(io::Error::other("others than its owner may write to the directory of the log"));
        }
        // Held until the descriptor is closed; `WouldBlock` where another process holds it.
        rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        match std::fs::remove_file(path.join(NEXT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Disk {
            path: path.to_owned(),
            directory,
            identity: Identity::of(&opened),
            segment_bytes,
            next: None,
            #[cfg(test)]
            trouble: Default::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Opens an existing segment to go on at `end`; what lies behind is cut off and preallocated anew.
    ///
    /// Everything from `group`, where the last group begins, is written again: its sync may have failed before a
    /// restart, and the kernel then shows bytes as clean that never reached the disk.
    pub(super) fn resume(&self, header: Header, group: u64, end: u64) -> Result<Segment, Fault> {
        let name = segment::name(header.number);
        let file = self.open_to_write(&self.path.join(&name), OFlags::empty())?;
        file.set_len(end).map_err(Fault::io("cut the log"))?;
        self.preallocate(&file)?;
        let zeroed = self.write_zeros(&file, end)?;
        let mut last = vec![0; usize::try_from(end.saturating_sub(group)).unwrap_or(0)];
        file.read_exact_at(&mut last, group).map_err(Fault::io("read the log"))?;
        file.write_all_at(&last, group).map_err(Fault::io("write to the log"))?;
        self.sync(&file)?;
        let opened = look_at_open(&file)?;
        let (identity, size) = (Identity::of(&opened), opened.stx_size);
        Ok(Segment { header, end, file, name, identity, size, zeroed })
    }

    /// Makes the next segment ready, so that going over to it needs no space.
    pub(super) fn prepare(&mut self) -> Result<(), Fault> {
        if self.next.is_none() {
            let flags = OFlags::CREATE | OFlags::TRUNC;
            let file = self.open_to_write(&self.path.join(NEXT), flags)?;
            self.preallocate(&file)?;
            let zeroed = self.write_zeros(&file, 0)?;
            self.next = Some(Prepared { file, zeroed });
        }
        Ok(())
    }

    /// Begins a segment: its header is durable under its own name on return.
    pub(super) fn begin(&mut self, header: Header) -> Result<Segment, Fault> {
        self.prepare()?;
        let name = segment::name(header.number);
        let gone = || Fault::Io { act: "begin a segment", error: "it was not prepared".to_owned() };
        let Prepared { file, zeroed } = self.next.take().ok_or_else(gone)?;
        let encoded =
            header.encode().ok_or(Fault::Io { act: "begin a segment", error: "origin".to_owned() })?;
        file.write_all_at(&encoded, 0).map_err(Fault::io("write a segment's header"))?;
        self.sync(&file)?;
        std::fs::rename(self.path.join(NEXT), self.path.join(&name)).map_err(Fault::io("name a segment"))?;
        self.sync_directory()?;
        let opened = look_at_open(&file)?;
        let (identity, size) = (Identity::of(&opened), opened.stx_size);
        Ok(Segment { header, end: SEGMENT_HEADER_BYTES, file, name, identity, size, zeroed })
    }

    /// Writes zeros ahead of the records where few are left, so that records seldom pay for it. After a failure the
    /// segment is dirty, as after any other.
    pub(super) fn zero_ahead(&self, segment: &mut Segment) -> Result<(), Fault> {
        let ahead = segment.zeroed.saturating_sub(segment.end);
        if ahead >= limits::AUDIT_ZEROS_BYTES / 2 || segment.zeroed >= self.segment_bytes {
            return Ok(());
        }
        let from = segment.zeroed.max(segment.end);
        segment.zeroed = self.write_zeros(&segment.file, from)?;
        segment.size = segment.size.max(segment.zeroed);
        self.sync(&segment.file)
    }

    /// Gives where they end.
    fn write_zeros(&self, file: &File, from: u64) -> Result<u64, Fault> {
        let to = from.saturating_add(limits::AUDIT_ZEROS_BYTES).min(self.segment_bytes).max(from);
        let zeros = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        file.write_all_at(&zeros, from).map_err(Fault::io("write zeros ahead of the log"))?;
        Ok(to)
    }

    /// Cuts a segment off behind its last record, for good, through a descriptor that has seen no failure.
    pub(super) fn cut(&self, segment: &mut Segment) -> Result<(), Fault> {
        let file = self.open_to_write(&self.path.join(&segment.name), OFlags::empty())?;
        let size = look_at_open(&file)?.stx_size;
        if size < segment.end {
            return Err(Fault::Resized);
        }
        file.set_len(segment.end).map_err(Fault::io("cut the log"))?;
        (segment.size, segment.zeroed) = (segment.end, segment.end);
        self.sync(&file)
    }

    /// Writes `bytes` where the segment ends and makes them durable; the caller then moves the end.
    pub(super) fn write(&self, segment: &mut Segment, bytes: &[u8]) -> Result<(), Fault> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        segment.size = segment.size.max(segment.end.saturating_add(length));
        #[cfg(test)]
        self.trouble
            .before_write(&segment.file, bytes, segment.end)
            .map_err(Fault::io("write to the log"))?;
        segment.file.write_all_at(bytes, segment.end).map_err(Fault::io("write to the log"))?;
        self.sync(&segment.file)
    }

    /// Whether the path still names the open file, whole and writable.
    pub(super) fn check(&self, segment: &Segment) -> Result<(), Fault> {
        self.check_directory()?;
        self.check_file(segment)
    }

    /// The half of [`Disk::check`] that looks at the file in its directory, for before a write.
    pub(super) fn check_file(&self, segment: &Segment) -> Result<(), Fault> {
        let size = self.named_size(segment)?;
        (size == segment.size).then_some(()).ok_or(Fault::Resized)
    }

    /// Whether the path still names the open file, whose size is not known after a failed write.
    pub(super) fn check_named(&self, segment: &Segment) -> Result<(), Fault> {
        self.check_directory()?;
        self.named_size(segment).map(drop)
    }

    fn check_directory(&self) -> Result<(), Fault> {
        let named = look(CWD, &self.path, AtFlags::empty()).map_err(|_| Fault::Moved)?;
        if Identity::of(&named) != self.identity {
            return Err(Fault::Moved);
        }
        protected(named.stx_mode)
    }

    fn named_size(&self, segment: &Segment) -> Result<u64, Fault> {
        let named = look(&self.directory, &segment.name, AtFlags::SYMLINK_NOFOLLOW);
        let named = named.map_err(|_| Fault::Moved)?;
        if Identity::of(&named) != segment.identity {
            return Err(Fault::Moved);
        }
        protected(named.stx_mode)?;
        Ok(named.stx_size)
    }

    /// Replaces a small file atomically and durably.
    pub(super) fn replace(&self, name: &str, content: &str) -> Result<(), Fault> {
        let temporary = self.path.join(format!("{name}.tmp"));
        let mut file = self.open_to_write(&temporary, OFlags::CREATE | OFlags::TRUNC)?;
        file.write_all(content.as_bytes()).map_err(Fault::io("write a checkpoint"))?;
        self.sync(&file)?;
        std::fs::rename(&temporary, self.path.join(name)).map_err(Fault::io("replace a checkpoint"))?;
        self.sync_directory()
    }

    /// Appends to a small file; neither durable nor needed.
    pub(super) fn append(&self, name: &str, content: &str) -> Result<(), Fault> {
        let mut file = self.open_to_write(&self.path.join(name), OFlags::CREATE | OFlags::APPEND)?;
        file.write_all(content.as_bytes()).map_err(Fault::io("keep a checkpoint"))
    }

    fn open_to_write(&self, path: &Path, more: OFlags) -> Result<File, Fault> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from);
        file.map(File::from).map_err(Fault::io("open a file of the log"))
    }

    /// File systems without preallocation get none: then a full disk shows at the write, which fails as safely.
    fn preallocate(&self, file: &File) -> Result<(), Fault> {
        #[cfg(test)]
        self.trouble.before_allocate().map_err(Fault::io("preallocate a segment"))?;
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, self.segment_bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(Fault::io("preallocate a segment")(error.into())),
        }
    }

    fn sync(&self, file: &File) -> Result<(), Fault> {
        #[cfg(test)]
        self.trouble.before_sync().map_err(Fault::io("sync the log"))?;
        file.sync_data().map_err(Fault::io("sync the log"))
    }

    fn sync_directory(&self) -> Result<(), Fault> {
        self.directory.sync_all().map_err(Fault::io("sync the log's directory"))
    }
}

/// The permission bits count for root too, whom the kernel does not ask for them: who takes them away means it.
fn protected(mode: u16) -> Result<(), Fault> {
    (mode & 0o222 != 0).then_some(()).ok_or(Fault::WriteProtected)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// The prepared segment's name until it is begun.
const NEXT: &str = "next.tmp";
