//! The way to a TPM: the kernel's device, or swtpm's socket. Both carry the TPM's commands as they are.
//!
//! *Takes* an [`Address`] and a command's bytes. *Gives* the response's bytes, whole and within a time. *Denies* nothing itself.
//! *Source*: Linux `Documentation/security/tpm`, `drivers/char/tpm/tpm-dev-common.c`; swtpm(8) "--server".

use super::command::TpmError;
use crate::limits;
use crate::time::{SystemTime, TimeSource};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a TPM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A device of the kernel's; `/dev/tpmrm0` has the kernel's resource manager in front.
    Device(PathBuf),
    /// swtpm's command socket over TCP, on this machine.
    SwtpmTcp(SocketAddr),
    /// swtpm's command socket in the file system.
    SwtpmUnix(PathBuf),
}

/// Why text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `device`, `device:/dev/…`, `swtpm`, `swtpm:/path` or `swtpm:127.0.0.1:port`")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    /// A TPM on another machine is none of this node's, so swtpm's address is a loopback one.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once(':') {
            None if text == "device" => Ok(Address::Device(PathBuf::from(DEVICE))),
            None if text == "swtpm" => Ok(Address::SwtpmTcp(SocketAddr::from(SWTPM))),
            Some(("device", path)) if path.starts_with('/') => Ok(Address::Device(path.into())),
            Some(("swtpm", path)) if path.starts_with('/') => Ok(Address::SwtpmUnix(path.into())),
            Some(("swtpm", address)) => {
                let address: SocketAddr = address.parse().map_err(|_| AddressError)?;
                address.ip().is_loopback().then_some(Address::SwtpmTcp(address)).ok_or(AddressError)
            }
            _ => Err(AddressError),
        }
    }
}

/// An open TPM. After an error it is not used again: an answer may still come, to a command that nobody waits for.
pub(super) struct Channel {
    file: File,
    broken: bool,
}

impl Channel {
    pub(super) fn open(address: &Address) -> Result<Self, TpmError> {
        let opened = match address {
            Address::Device(path) => {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)
            }
            Address::SwtpmTcp(address) => {
                let within = Duration::from_millis(limits::TPM_COMMAND_WITHIN_MS);
                TcpStream::connect_timeout(address, within).and_then(|stream| {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    Ok(OwnedFd::from(stream))
                })
            }
            Address::SwtpmUnix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_nonblocking(true)?;
                Ok(OwnedFd::from(stream))
            }),
        };
        let file = File::from(opened.map_err(|error| TpmError::Open(address.clone(), error))?);
        Ok(Channel { file, broken: false })
    }

    /// Sends a command and gives its response. One that takes longer than `within_ms` is given up, and the channel with it.
    pub(super) fn transmit(&mut self, command: &[u8], within_ms: u64) -> Result<Vec<u8>, TpmError> {
        if self.broken {
            return Err(TpmError::Broken);
        }
        let outcome = Deadline::after(within_ms).and_then(|deadline| {
            self.send(command, &deadline)?;
            self.receive(&deadline)
        });
        self.broken = outcome.is_err();
        outcome
    }

    fn send(&mut self, command: &[u8], deadline: &Deadline) -> Result<(), TpmError> {
        let mut rest = command;
        while !rest.is_empty() {
            deadline.wait(&self.file, PollFlags::OUT)?;
            match self.file.write(rest) {
                Ok(0) => return Err(TpmError::Io(io::ErrorKind::WriteZero.into())),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if is_to_be_repeated(&error) => {}
                Err(error) => return Err(TpmError::Io(error)),
            }
        }
        Ok(())
    }

    /// A device gives a response by one read, a socket in any pieces; its length stands in its header.
    fn receive(&mut self, deadline: &Deadline) -> Result<Vec<u8>, TpmError> {
        let mut response = Vec::new();
        let mut piece = vec![0; limits::TPM_RESPONSE_BYTES];
        loop {
            deadline.wait(&self.file, PollFlags::IN)?;
            match self.file.read(&mut piece) {
                Ok(0) => return Err(TpmError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => response.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) if is_to_be_repeated(&error) => continue,
                Err(error) => return Err(TpmError::Io(error)),
            }
            let announced = response.get(2..6).and_then(|size| size.try_into().ok()).map(u32::from_be_bytes);
            match announced.and_then(|size| usize::try_from(size).ok()) {
                Some(size) if !(HEADER_BYTES..=limits::TPM_RESPONSE_BYTES).contains(&size) => {
                    return Err(TpmError::Malformed("a response of impossible length"));
                }
                Some(size) if response.len() == size => return Ok(response),
                Some(size) if response.len() > size => {
                    return Err(TpmError::Malformed("bytes follow a response"));
                }
                _ => {}
            }
        }
    }
}

/// The end of a command's time, by the clock that does not step.
struct Deadline {
    until_boot_ms: u64,
}

impl Deadline {
    fn after(milliseconds: u64) -> Result<Self, TpmError> {
        let now = SystemTime.boot().ok_or(TpmError::Clock)?;
        Ok(Deadline { until_boot_ms: now.plus(milliseconds).0 })
    }

    fn wait(&self, file: &File, for_what: PollFlags) -> Result<(), TpmError> {
        loop {
            let now = SystemTime.boot().ok_or(TpmError::Clock)?.0;
            let left =
                self.until_boot_ms.checked_sub(now).filter(|left| *left > 0).ok_or(TpmError::TimedOut)?;
            let left = Timespec::try_from(Duration::from_millis(left)).map_err(|_| TpmError::Clock)?;
            match poll(&mut [PollFd::new(file, for_what)], Some(&left)) {
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(TpmError::Io(error.into())),
            }
        }
    }
}

fn is_to_be_repeated(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The kernel's device with its resource manager, which keeps this agent's objects apart from others'.
const DEVICE: &str = "/dev/tpmrm0";
/// Where swtpm listens unless it is told otherwise (swtpm(8), "--port").
const SWTPM: ([u8; 4], u16) = ([127, 0, 0, 1], 2321);
/// Tag, size and response code.
const HEADER_BYTES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn addresses_are_local() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(parse("device"), Ok(Address::Device("/dev/tpmrm0".into())));
        assert_eq!(parse("device:/dev/tpm1"), Ok(Address::Device("/dev/tpm1".into())));
        assert_eq!(parse("swtpm:/run/swtpm/sock"), Ok(Address::SwtpmUnix("/run/swtpm/sock".into())));
        assert_eq!(parse("swtpm:127.0.0.1:2321"), Ok(Address::SwtpmTcp("127.0.0.1:2321".parse().unwrap())));
        assert_eq!(parse("swtpm"), Ok(Address::SwtpmTcp("127.0.0.1:2321".parse().unwrap())));
        assert_eq!(parse("swtpm:[::1]:2321"), Ok(Address::SwtpmTcp("[::1]:2321".parse().unwrap())));
        for text in
            ["", "swtpm:", "swtpm:10.0.0.1:2321", "swtpm:tpm.example:2321", "device:tpm0", "/dev/tpm0"]
        {
            assert_eq!(parse(text), Err(AddressError), "{text}");
        }
    }

    const COMMAND: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 1];

    /// What comes of a command to a TPM that answers in these pieces and then says no more, and of the command after it.
    fn outcomes(pieces: Vec<Vec<u8>>) -> [Result<Vec<u8>, TpmError>; 2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tpm");
        let listener = UnixListener::bind(&path).unwrap();
        let tpm = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; COMMAND.len()]).unwrap();
            for piece in pieces {
                if stream.write_all(&piece).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let mut channel = Channel::open(&Address::SwtpmUnix(path)).unwrap();
        let outcomes = [channel.transmit(&COMMAND, 200), channel.transmit(&COMMAND, 200)];
        drop(channel);
        tpm.join().unwrap();
        outcomes
    }

    #[test]
    fn a_response_comes_in_any_pieces() {
        let response = [0x80, 1, 0, 0, 0, 11, 0, 0, 0, 0, 0x77];
        for length in [1, 2, 5, 6, 10, 11] {
            let [outcome, next] = outcomes(response.chunks(length).map(<[u8]>::to_vec).collect());
            assert_eq!(outcome.unwrap(), response);
            assert!(matches!(next, Err(TpmError::TimedOut)));
        }
    }

    #[test]
    fn a_tpm_that_says_nothing_half_or_too_much_is_given_up_and_not_used_again() {
        let late = |pieces| match outcomes(pieces) {
            [Err(TpmError::TimedOut), Err(TpmError::Broken)] => true,
            other => panic!("{other:?}"),
        };
        assert!(late(vec![]));
        assert!(late(vec![vec![0x80, 1, 0, 0]]));
        let mut slow = vec![vec![0x80, 1, 0, 0, 0x04, 0, 0, 0, 0, 0]];
        slow.extend(vec![vec![0]; 1000]);
        assert!(late(slow));
        let malformed = |response: &[u8]| match outcomes(vec![response.to_vec()]) {
            [Err(TpmError::Malformed(_)), Err(TpmError::Broken)] => true,
            other => panic!("{other:?}"),
        };
        for size in [[0, 0, 0, 9], [0xff, 0xff, 0xff, 0xff], [0, 1, 0, 0]] {
            assert!(malformed(&[&[0x80, 1][..], &size, &[0; 4]].concat()));
        }
        assert!(malformed(&[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn a_tpm_that_is_not_there_is_said_so() {
        let nowhere = Channel::open(&Address::Device("/nonexistent/tpm".into()));
        assert!(matches!(nowhere, Err(TpmError::Open(..))));
        let nobody = Channel::open(&Address::SwtpmUnix("/nonexistent/sock".into()));
        assert!(matches!(nobody, Err(TpmError::Open(..))));
    }
}
