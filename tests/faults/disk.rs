//! A disk with a volatile cache and a power switch, made of two ext4 file systems, each on a loop device.
//!
//! *Takes* root and loop devices. *Gives* a directory on ext4 whose disk is a file on another ext4. *Denies* nothing. *Source*: the
//! loop driver turns a flush into an fsync of its file (`drivers/block/loop.c`), so what the inner file system wrote and
//! did not flush is in the outer one's page cache alone, and is lost when that is shut down (`cut.c`).
//!
//! What it does not show: a sector that was written in part, and a disk that lies about flushes.

use crate::shim::build;
use crate::world::{Place, copy_directory, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted, until it is dropped.
pub struct Disk {
    folder: tempfile::TempDir,
}

/// Whether disks can be made here; said loudly where not, and a failure under `CI=true` unless `FAULTS_NO_DISKS` is set.
pub fn can_be_made() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let tried = fs::create_dir(folder.path().join("mounted")).is_ok()
        && command(&["mkfs.ext4", "-q", "-F", "image", "4096"], folder.path())
            .output()
            .is_ok_and(|it| it.status.success())
        && command(&["mount", "-o", "loop", "image", "mounted"], folder.path())
            .output()
            .is_ok_and(|it| it.status.success());
    if tried {
        must(&["umount", "mounted"], folder.path());
        return true;
    }
    let said = "ext4 cannot be mounted over a loop device here (it takes root, and a kernel that has both)";
    let accepted = std::env::var("FAULTS_NO_DISKS").is_ok();
    assert!(accepted || std::env::var("CI").as_deref() != Ok("true"), "{said}");
    eprintln!("SKIPPED, NO POWER CUT AND NO FULL DISK TESTED: {said}");
    false
}

impl Disk {
    /// An empty one of so many MiB.
    pub fn new(mebibytes: u32) -> Disk {
        // Its platters are in memory where they can be: nothing here measures a disk.
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("portcullis-disk-");
        let folder = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.unwrap();
        let disk = Disk { folder };
        build("cut.c", &[], &disk.at("cut"), &[]);
        fs::create_dir(disk.at("outer")).unwrap();
        fs::create_dir(disk.at("inner")).unwrap();
        let size = |mebibytes: u32| format!("{mebibytes}M");
        disk.must(&["mkfs.ext4", "-q", "-F", "-m", "0", "outer.img", &size(mebibytes + mebibytes / 8 + 32)]);
        disk.must(&["mount", "-o", "loop", "outer.img", "outer"]);
        // Written once whole, so that what is written over it later needs no journal of the outer file system to be found.
        disk.must(&[
            "dd",
            "if=/dev/zero",
            "of=outer/inner.img",
            "bs=1M",
            &format!("count={mebibytes}"),
            "status=none",
        ]);
        disk.must(&[
            "mkfs.ext4",
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            "outer/inner.img",
        ]);
        disk.must(&["sync", "outer/inner.img"]);
        disk.must(&["mount", "-o", "loop", "outer/inner.img", "inner"]);
        disk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.at("inner")
    }

    /// Moves a place's store and log onto it.
    pub fn take(&self, place: &Place) {
        let (from, to) = (place.at("var"), self.root().join("var"));
        copy_directory(&from, &to);
        self.must(&["sync", "-f", "inner"]);
        fs::remove_dir_all(&from).unwrap();
        std::os::unix::fs::symlink(&to, &from).unwrap();
    }

    /// The power goes, in the middle of whatever is being written. Nothing can be read or written then.
    pub fn cut(&self, seed: u64) {
        let seed = (seed % 1_000_000).to_string();
        must(&["./cut", "outer", "outer/inner.img", &seed], self.folder.path());
    }

    /// The power comes back: both file systems are mounted again, from what was on the medium. Nobody may have files open.
    pub fn restore(&self) {
        self.must(&["umount", "inner"]);
        self.must(&["umount", "outer"]);
        self.must(&["mount", "-o", "loop", "outer.img", "outer"]);
        self.must(&["mount", "-o", "loop", "outer/inner.img", "inner"]);
    }

    fn must(&self, words: &[&str]) {
        must(words, self.folder.path());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for mounted in ["inner", "outer"] {
            // Lazily, as a test that failed may have left a process there.
            let _ = command(&["umount", "-l", mounted], self.folder.path()).output();
        }
    }
}

fn command(words: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(folder).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

#[track_caller]
fn must(words: &[&str], folder: &Path) {
    run(&mut command(words, folder)).must(0);
}
