//! A file that whoever opens it next has to wait for: the one way to make another's call on a file hang, from outside and
//! without a file system of one's own.
#![allow(unsafe_code, reason = "rustix has no leases")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A write lease on a file (fcntl(2), "Leases"): `open` of it blocks, in this process too, until this is dropped or
/// `/proc/sys/fs/lease-break-time` (45 s) has passed.
pub struct Leased(#[allow(dead_code, reason = "held, not read")] File);

impl Leased {
    /// Makes the file, empty, where nobody has it open.
    pub fn new(path: &Path) -> Leased {
        let file = File::create(path).unwrap();
        // The kernel tells the holder by a signal that somebody waits; this one is ignored by default, and SIGIO kills.
        for (command, argument) in [(F_SETSIG, libc::SIGURG), (libc::F_SETLEASE, libc::F_WRLCK)] {
            // SAFETY: the descriptor is open for as long as `file` lives, and both commands take an integer.
            let outcome = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
            assert_eq!(outcome, 0, "no lease on {}: {}", path.display(), std::io::Error::last_os_error());
        }
        Leased(file)
    }
}

/// `asm-generic/fcntl.h`; every Linux of ours has it so.
const F_SETSIG: libc::c_int = 10;
