//! What `/proc` says of one process.
//!
//! *Takes* a [`Peer`]. *Gives* its ids, start, address space, cgroup and what follows from that. *Denies*
//! [`NotMeasured`].
//! *Source*: proc_pid_stat(5), proc_pid_status(5), cgroups(7); systemd's cgroup names.

use super::measure::NotMeasured;
use super::socket::Peer;
use crate::{limits, sys};
use aws_lc_rs::digest;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

/// `/proc/PID` of one process, for as long as that process exists.
pub struct ProcDirectory<'p> {
    peer: &'p Peer,
    directory: OwnedFd,
}

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, strictly ascending.
    pub groups: Vec<u32>,
}

/// Where code, data, stack, arguments and environment of a process lie.
pub type Layout = Vec<u64>;

/// When a process started, and its address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Clock ticks since boot.
    pub start_time: u64,
    /// All zero where the kernel does not tell.
    pub layout: Layout,
}

impl<'p> ProcDirectory<'p> {
    /// Opens it, and makes sure that it is the peer's: the number was its own while it lived.
    pub fn open(peer: &'p Peer) -> Result<Self, NotMeasured> {
        let path = format!("/proc/{}", peer.pid.as_raw_pid());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|_| NotMeasured::Ended)?;
        let directory = ProcDirectory { peer, directory };
        directory.check_alive()?;
        Ok(directory)
    }

    /// Whether the process has not ended; a pidfd is readable once it has.
    pub fn check_alive(&self) -> Result<(), NotMeasured> {
        let mut ended = [PollFd::new(&self.peer.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut ended, Some(&now)) {
            Ok(0) => Ok(()),
            _ => Err(NotMeasured::Ended),
        }
    }

    /// Start time and address space.
    pub fn stat(&self) -> Result<Stat, NotMeasured> {
        parse_stat(&self.read("stat")?).ok_or_else(|| NotMeasured::NotUnderstood("stat".to_owned()))
    }

    /// Its ids, which every thread must share, none of them traced: a tracer of any thread has the memory of all.
    pub fn ids(&self) -> Result<Ids, NotMeasured> {
        let ids = self.ids_of("status")?;
        let tasks = self.open_at("task", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let listing = rustix::fs::Dir::read_from(&tasks).map_err(|e| unreadable("task", e))?;
        for (count, entry) in listing.enumerate() {
            let entry = entry.map_err(|e| unreadable("task", e))?;
            let name = entry.file_name().to_str().map_err(|_| NotMeasured::NotUtf8("task".to_owned()))?;
            if count > limits::ATTEST_THREADS {
                return Err(NotMeasured::TooLarge("task".to_owned()));
            }
            if name.starts_with('.') {
                continue;
            }
            match self.ids_of(&format!("task/{name}/status")) {
                Ok(of_thread) if of_thread == ids => {}
                Ok(_) => return Err(NotMeasured::IdsDiffer),
                // A thread that ended meanwhile is none.
                Err(NotMeasured::Ended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ids)
    }

    fn ids_of(&self, name: &str) -> Result<Ids, NotMeasured> {
        let text = String::from_utf8(self.read(name)?).map_err(|_| NotMeasured::NotUtf8(name.to_owned()))?;
        parse_status(&text)
    }

    /// The caller's pid must mean what it says: where its pid namespace belongs to a user namespace of its own, others
    /// there may put its pid on what they write (unix(7), SCM_CREDENTIALS; tried on Linux 6.18, without privilege). So it must be owned as this attester's is.
    pub fn check_namespace(&self) -> Result<(), NotMeasured> {
        let namespace = self.open_at("ns/pid", OFlags::RDONLY)?;
        let owner =
            sys::owning_user_namespace(namespace.as_fd()).map_err(|_| NotMeasured::ForeignNamespace)?;
        let owner = rustix::fs::fstat(&owner).map_err(|e| unreadable("ns/pid", e))?;
        let own = rustix::fs::stat("/proc/self/ns/user").map_err(|e| unreadable("ns/user", e))?;
        if (owner.st_dev, owner.st_ino) != (own.st_dev, own.st_ino) {
            return Err(NotMeasured::ForeignNamespace);
        }
        Ok(())
    }

    /// SHA-256 of the arguments as they are in its memory.
    pub fn arguments_sha256(&self) -> Result<[u8; 32], NotMeasured> {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, &self.read("cmdline")?).as_ref());
        Ok(sha256)
    }

    /// The cgroup v2 path.
    pub fn cgroup(&self) -> Result<String, NotMeasured> {
        let text =
            String::from_utf8(self.read("cgroup")?).map_err(|_| NotMeasured::NotUtf8("cgroup".to_owned()))?;
        let path =
            text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'));
        path.map(str::to_owned).ok_or_else(|| NotMeasured::NotUnderstood("cgroup".to_owned()))
    }

    /// Opens what is below it.
    pub fn open_at(&self, name: &str, flags: OFlags) -> Result<OwnedFd, NotMeasured> {
        rustix::fs::openat(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| unreadable(name, error))
    }

    /// What a link below it says.
    pub fn link(&self, name: &str) -> Result<String, NotMeasured> {
        let target =
            rustix::fs::readlinkat(&self.directory, name, Vec::new()).map_err(|e| unreadable(name, e))?;
        target.into_string().map_err(|_| NotMeasured::NotUtf8(name.to_owned()))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, NotMeasured> {
        let file = File::from(self.open_at(name, OFlags::RDONLY)?);
        let mut content = Vec::new();
        let read = file.take(limits::ATTEST_PROC_BYTES).read_to_end(&mut content);
        let length = read.map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => NotMeasured::Ended,
            _ => NotMeasured::Unreadable(name.to_owned(), error),
        })?;
        if u64::try_from(length).unwrap_or(u64::MAX) >= limits::ATTEST_PROC_BYTES {
            return Err(NotMeasured::TooLarge(name.to_owned()));
        }
        Ok(content)
    }
}

/// The systemd unit of a cgroup: the first part that is no slice, where systemd made it (system.slice/x.service,
/// user.slice/user-0.slice/session-1.scope). What a unit makes below itself is its own word, and not looked at.
pub fn systemd_unit(cgroup: &str) -> Option<String> {
    let unit = parts(cgroup).find(|part| !part.ends_with(".slice"))?;
    // systemd puts `_` before a name that could be taken for a file of the kernel's.
    let unit = unit.strip_prefix('_').unwrap_or(unit);
    let (name, _) = unit.rsplit_once('.').filter(|(_, kind)| UNIT_KINDS.contains(kind))?;
    (!name.is_empty()).then(|| unit.to_owned())
}

/// The container's id in a cgroup: the outermost part that is one, alone or in a scope's name (docker-ID.scope,
/// cri-containerd-ID.scope), and never below a service, where a user may name groups at will.
pub fn container_id(cgroup: &str) -> Option<String> {
    for part in parts(cgroup) {
        let scope = part.strip_suffix(".scope");
        let name = scope.unwrap_or(part);
        let id = name.rsplit_once('-').map_or(name, |(_, id)| id);
        if id.len() == CONTAINER_ID_DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Some(id.to_owned());
        }
        if scope.is_some() || part.ends_with(".service") {
            return None;
        }
    }
    None
}

fn parts(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.split('/').filter(|part| !part.is_empty())
}

/// Field 22, and those of the address space: 26 to 28 and 45 to 51. The name in field 2 may hold anything, so it is cut
/// off at the last parenthesis.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let end_of_name = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(end_of_name..)?).ok()?.strip_prefix(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first of them is field 3.
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
    let layout = (26..=28).chain(45..=51).map(field).collect::<Option<Layout>>()?;
    Some(Stat { start_time: field(22)?, layout })
}

fn parse_status(text: &str) -> Result<Ids, NotMeasured> {
    let numbers = |key: &str| -> Result<Vec<u32>, NotMeasured> {
        let not_understood = || NotMeasured::NotUnderstood(format!("status, {key}"));
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let numbers =
            line.ok_or_else(not_understood)?.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        numbers.map_err(|_| not_understood())
    };
    let one = |key: &str| match numbers(key)?.as_slice() {
        [real, effective, saved, file_system]
            if [effective, saved, file_system].iter().all(|id| *id == real) =>
        {
            Ok(*real)
        }
        [_, _, _, _] => Err(NotMeasured::IdsDiffer),
        _ => Err(NotMeasured::NotUnderstood(format!("status, {key}"))),
    };
    match numbers("TracerPid")?.as_slice() {
        [0] => {}
        _ => return Err(NotMeasured::Traced(numbers("Pid")?.first().copied().unwrap_or(0))),
    }
    let mut groups = numbers("Groups")?;
    groups.sort_unstable();
    groups.dedup();
    Ok(Ids { uid: one("Uid")?, gid: one("Gid")?, groups })
}

/// Whether bytes are a `stat` that is understood. For the tests of the parser: nothing else needs it.
#[doc(hidden)]
pub fn stat_is_read(bytes: &[u8]) -> bool {
    parse_stat(bytes).is_some()
}

/// The same of a `status`.
#[doc(hidden)]
pub fn status_is_read(text: &str) -> bool {
    parse_status(text).is_ok()
}

fn unreadable(name: &str, error: rustix::io::Errno) -> NotMeasured {
    match error {
        // The process ended, or the thread did.
        rustix::io::Errno::SRCH | rustix::io::Errno::NOENT
            if name.ends_with("stat") || name.ends_with("status") =>
        {
            NotMeasured::Ended
        }
        error => NotMeasured::Unreadable(name.to_owned(), error.into()),
    }
}

/// What systemd runs processes in.
const UNIT_KINDS: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];

/// Docker, containerd, CRI-O and Podman: SHA-256-sized ids in hex.
const CONTAINER_ID_DIGITS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_that_systemd_made() {
        for (cgroup, unit) in [
            ("/system.slice/worker.service", Some("worker.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/forged.service",
                Some("user@1000.service"),
            ),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/system.slice/worker.service/forged.service", Some("worker.service")),
            ("/_cpu.service", Some("cpu.service")),
            ("/init.scope", Some("init.scope")),
            ("/docker/abc/system.slice/forged.service", None),
            ("/system.slice/.service", None),
            ("/system.slice", None),
            ("/", None),
        ] {
            assert_eq!(systemd_unit(cgroup).as_deref(), unit, "{cgroup}");
        }
    }

    #[test]
    fn container_ids_are_the_outermost_and_never_below_a_service() {
        let (id, other) = ("0f".repeat(32), "ab".repeat(32));
        for cgroup in [
            format!("/docker/{id}"),
            format!("/docker/{id}/docker/{other}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/system.slice/docker-{id}.scope/init.scope/{other}"),
            format!("/kubepods/burstable/pod1234/{id}"),
            format!("/kubepods.slice/kubepods-pod12.slice/cri-containerd-{id}.scope"),
            format!("/machine.slice/libpod-{id}.scope"),
        ] {
            assert_eq!(container_id(&cgroup), Some(id.clone()), "{cgroup}");
        }
        for cgroup in [
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
            format!("/system.slice/worker.service/{id}"),
            format!("/user.slice/user-1.slice/session-1.scope/{id}"),
            format!("/docker/{}", &id[1..]),
            format!("/docker/{}", id.to_uppercase()),
            format!("/docker/{id}0"),
            "/".to_owned(),
        ] {
            assert_eq!(container_id(&cgroup), None, "{cgroup}");
        }
    }

    const STATUS: &str = "Name:\tx\nTgid:\t7\nPid:\t7\nTracerPid:\t0\nUid:\t5\t5\t5\t5\nGid:\t6\t6\t6\t6\n\
                          Groups:\t27 4 27 \nVmPeak:\t1 kB\n";

    #[test]
    fn status_gives_ids_and_groups_ascending() {
        let ids = parse_status(STATUS).unwrap();
        assert_eq!(ids, Ids { uid: 5, gid: 6, groups: vec![4, 27] });
        let none = parse_status(&STATUS.replace("27 4 27 ", "")).unwrap();
        assert_eq!(none.groups, Vec::<u32>::new());
    }

    #[test]
    fn a_traced_thread_or_one_of_mixed_ids_is_not_measured() {
        let traced = STATUS.replace("TracerPid:\t0", "TracerPid:\t9");
        assert!(matches!(parse_status(&traced), Err(NotMeasured::Traced(7))));
        let set_user = STATUS.replace("Uid:\t5\t5", "Uid:\t5\t0");
        assert!(matches!(parse_status(&set_user), Err(NotMeasured::IdsDiffer)));
        let cut = STATUS.replace("TracerPid:\t0\n", "");
        assert!(matches!(parse_status(&cut), Err(NotMeasured::NotUnderstood(_))));
        let odd = STATUS.replace("Uid:\t5\t5\t5\t5", "Uid:\t5\t5\t5");
        assert!(matches!(parse_status(&odd), Err(NotMeasured::NotUnderstood(_))));
    }

    #[test]
    fn stat_is_read_after_the_last_parenthesis() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = parse_stat(format!("1 (a) b) S {}", numbers.join(" ")).as_bytes()).unwrap();
        assert_eq!(stat.start_time, 22);
        assert_eq!(stat.layout, [26, 27, 28, 45, 46, 47, 48, 49, 50, 51]);
        assert_eq!(parse_stat(b"1 (a) S 4 5"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
