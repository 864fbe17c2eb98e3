//! The one reviewed module with `unsafe`: system calls that no safe wrapper offers.
//!
//! Each function is one call, its arguments made here, its result checked here.
#![allow(unsafe_code, reason = "the only module where it is; each block says why it is sound")]
#![cfg_attr(not(feature = "server"), allow(dead_code, reason = "most of it is for the node's attester"))]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Whether the kernel says that its clock is synchronised: `adjtimex` with no mode bits, which only reads.
///
/// An error counts as "not synchronised".
pub fn clock_synchronised() -> bool {
    // SAFETY: `timex` is plain old data for which all-zero is a valid value, and `modes` 0 asks for a read.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed `timex`; the call writes within it.
    let outcome = unsafe { libc::adjtimex(&raw mut state) };
    outcome >= 0 && outcome != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0
}

/// Who connected a Unix socket, as the kernel noted it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id in this process's namespace; 0 where it is not visible here.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// SO_PEERCRED. By hand, because rustix makes a `Pid` that cannot be 0 of whatever the kernel says.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of_u32::<libc::ucred>();
    // SAFETY: both pointers are to live, exclusively borrowed values, and `length` is the size of the first.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    checked(outcome)?;
    if length != size_of_u32::<libc::ucred>() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(PeerCredentials { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid })
}

/// SO_PEERPIDFD (Linux 6.5): the very process that connected, whoever has its number by now.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut descriptor: libc::c_int = -1;
    let mut length = size_of_u32::<libc::c_int>();
    // SAFETY: as above.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut descriptor).cast(),
            &raw mut length,
        )
    };
    checked(outcome)?;
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel has just opened this descriptor for this process, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What one read of a Unix socket gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes; 0 = the end.
    pub length: usize,
    /// The process that wrote them, by SCM_CREDENTIALS; none where the kernel said nothing.
    pub writer: Option<i32>,
}

/// One `recvmsg` on a socket with SO_PASSCRED, which never gives bytes of two writers at once.
///
/// There is room for the credentials alone, so descriptors that were sent along are closed by the kernel, unopened.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = ControlBuffer { bytes: [0; CONTROL_BYTES], _align: [] };
    // SAFETY: `msghdr` is plain old data for which all-zero is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message points to the buffer and the control space above, both live, exclusively borrowed and of the
    // lengths given.
    let outcome = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = usize::try_from(outcome).map_err(|_| io::Error::last_os_error())?;
    Ok(Received { length, writer: writer(&message) })
}

fn writer(message: &libc::msghdr) -> Option<i32> {
    // SAFETY: the message is one that `recvmsg` filled in, its control space still alive.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return None;
    }
    // SAFETY: not null, so it points to a whole header within the control space, which is aligned for one.
    let (level, kind, length) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
    // SAFETY: arithmetic on sizes, no memory is touched.
    let whole = length == usize::try_from(unsafe { libc::CMSG_LEN(size_of_u32::<libc::ucred>()) }).ok()?;
    if level != libc::SOL_SOCKET || kind != libc::SCM_CREDENTIALS || !whole {
        return None;
    }
    // SAFETY: the header says that a whole `ucred` follows it, within the control space.
    let credentials = unsafe { libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned() };
    Some(credentials.pid)
}

/// Room for one SCM_CREDENTIALS, aligned as a `cmsghdr` must be.
#[repr(C)]
struct ControlBuffer {
    _align: [libc::cmsghdr; 0],
    bytes: [u8; CONTROL_BYTES],
}

// SAFETY: arithmetic on sizes, no memory is touched.
#[expect(clippy::as_conversions, reason = "32 bytes, in a constant, where `try_from` cannot be called")]
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// FS_IOC_MEASURE_VERITY: the file's fs-verity digest, without its algorithm; none where the file has none, or its file
/// system cannot.
pub fn verity_digest(file: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut measured = VerityDigest { algorithm: 0, size: VERITY_DIGEST_BYTES, digest: [0; 64] };
    // SAFETY: the ioctl reads `size` and writes at most so many bytes behind the head; the value is live and
    // exclusively borrowed.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY, &raw mut measured) };
    if outcome < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENODATA | libc::ENOTTY | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        };
    }
    let digest = measured.digest.get(..usize::from(measured.size)).map(<[u8]>::to_vec);
    digest.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// `struct fsverity_digest` with room for the longest digest, SHA-512.
#[repr(C)]
struct VerityDigest {
    algorithm: u16,
    size: u16,
    digest: [u8; 64],
}

const VERITY_DIGEST_BYTES: u16 = 64;

/// `_IOWR('f', 134, struct fsverity_digest)` (linux/fsverity.h).
const FS_IOC_MEASURE_VERITY: libc::Ioctl = 0xc004_6686;

/// NS_GET_USERNS: the user namespace that owns this namespace.
pub fn owning_user_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the ioctl takes no argument and gives a new descriptor or an error.
    let descriptor = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    checked(descriptor)?;
    // SAFETY: the kernel has just opened this descriptor for this process, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `_IO(0xb7, 1)` (linux/nsfs.h).
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// Begins to trace a thread, for the tests: PTRACE_SEIZE, which does not stop it.
#[cfg(test)]
pub fn trace(thread: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the request takes no pointer that is read or written.
    checked(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing) }.try_into().unwrap_or(-1))
}

fn checked(outcome: libc::c_int) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(clippy::as_conversions, reason = "sizes of small structs")]
const fn size_of_u32<T>() -> u32 {
    size_of::<T>() as u32
}
