//! The attester's socket: who is at the other end, and whether it was they who wrote.
//!
//! *Takes* an accepted Unix socket. *Gives* [`Peer`], and [`PeerStream`] whose every read is checked. *Denies* bytes that
//! another process wrote: they are dropped, and nothing is read after them.
//! *Source*: `protocol.md` "The node's attester"; unix(7) SO_PASSCRED, SO_PEERCRED, SO_PEERPIDFD.
//!
//! A socket outlives a fork, so any child can write to it. The kernel notes the writer of every piece of a stream and
//! never joins pieces of two in one read. A privileged writer may name another pid; `measure` refuses callers whose pid
//! namespace would let an unprivileged one do so.

use crate::sys;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// The process that connected.
pub struct Peer {
    /// Its number; what `/proc` says of that number counts only while `pidfd` says that it lives.
    pub pid: rustix::process::Pid,
    /// Its effective user when it connected.
    pub uid: u32,
    /// The process itself.
    pub pidfd: OwnedFd,
}

impl Peer {
    /// Asks the kernel who connected.
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = sys::peer_credentials(stream.as_fd())?;
        let pid = rustix::process::Pid::from_raw(credentials.pid)
            .ok_or_else(|| io::Error::other("the peer is not visible in this pid namespace"))?;
        let pidfd = match sys::peer_pidfd(stream.as_fd()) {
            // Before Linux 6.5: whoever has the number now. It earns nothing unless it is also who writes.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?
            }
            pidfd => pidfd?,
        };
        Ok(Peer { pid, uid: credentials.uid, pidfd })
    }
}

/// Says, for good, that somebody else wrote on the connection.
#[derive(Clone)]
pub struct Foreign(Arc<watch::Sender<bool>>);

impl Foreign {
    fn new() -> Self {
        Foreign(Arc::new(watch::Sender::new(false)))
    }

    /// Whether it happened.
    pub fn is_written(&self) -> bool {
        *self.0.borrow()
    }

    /// Until it happens.
    pub async fn written(&self) {
        // The sender is in `self`, so this never ends in an error before its time.
        let _ = self.0.subscribe().wait_for(|written| *written).await;
    }
}

/// A connection of which only what the peer itself wrote is read. Once another process has written, reads wait for ever:
/// what is under way can still be answered, and the driver of the connection ends it.
pub struct PeerStream {
    stream: UnixStream,
    peer: Arc<Peer>,
    foreign: Foreign,
}

impl PeerStream {
    /// Identifies the peer of a connection that [`listen`]'s socket accepted.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        // The listener's option is inherited; where a kernel would not, nothing that came before counts as the peer's.
        sockopt::set_socket_passcred(&stream, true)?;
        let peer = Arc::new(Peer::of(&stream)?);
        Ok(PeerStream { stream, peer, foreign: Foreign::new() })
    }

    /// Who connected.
    pub fn peer(&self) -> Arc<Peer> {
        self.peer.clone()
    }

    /// Whether somebody else wrote.
    pub fn foreign(&self) -> Foreign {
        self.foreign.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = self.peer.pid.as_raw_pid();
        loop {
            if self.foreign.is_written() {
                return Poll::Pending;
            }
            ready!(self.stream.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match self.stream.try_io(Interest::READABLE, || sys::receive(self.stream.as_fd(), space)) {
                Ok(received) if received.length == 0 || received.writer == Some(own) => {
                    buffer.advance(received.length);
                    return Poll::Ready(Ok(()));
                }
                Ok(_) => {
                    self.foreign.0.send_replace(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Listens at `path`, in a directory that exists, with that file mode. SO_PASSCRED is on before anyone can connect.
///
/// A socket file that nobody listens at is replaced; anything else at `path` is an error.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_passcred(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "what is there is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another attester listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Connections that wait to be accepted: as many as are served at once.
const BACKLOG: i32 = 256;
