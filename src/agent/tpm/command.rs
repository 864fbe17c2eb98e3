//! TPM commands and responses: header, handles, authorisations, parameters.
//!
//! *Takes* a [`Command`]. *Gives* its [`Response`], or the [`TpmError`]. *Denies* nothing itself. *Source*: TCG TPM 2.0 Library
//! part 1 §18 (structure), part 2 §6.6 (response codes), part 3.

use super::transport::{Address, Channel};
use crate::evidence::tpm2::Malformed;
use crate::evidence::tpm2::wire::{Reader, put_sized};
use crate::limits;
use std::io;
use std::time::Duration;
use zeroize::Zeroizing;

/// Why a TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It cannot be opened.
    #[error("cannot open {0:?}: {1}")]
    Open(Address, io::Error),
    /// It cannot be written to or read from.
    #[error("the TPM does not talk: {0}")]
    Io(io::Error),
    /// It did not answer in time.
    #[error("the TPM did not answer in time")]
    TimedOut,
    /// It failed before and was not opened again.
    #[error("the TPM failed before")]
    Broken,
    /// The clock cannot be read, so nothing can be waited for.
    #[error("the clock cannot be read")]
    Clock,
    /// It answered something that is no answer.
    #[error("the TPM's answer is malformed: {0}")]
    Malformed(&'static str),
    /// It refused, with this TPM_RC.
    #[error("the TPM refused {command}: {code:#05x}")]
    Refused {
        /// The command.
        command: &'static str,
        /// TPM_RC (part 2 §6.6.3).
        code: u32,
    },
    /// Its key is not one that may attest, or be encrypted to.
    #[error("the TPM's key: {0}")]
    Key(#[from] crate::evidence::tpm2::KeyError),
    /// PCRs changed while they were read, again and again.
    #[error("PCRs keep changing while they are read")]
    PcrsChange,
    /// A credential is not one.
    #[error("the credential is malformed")]
    Credential,
}

impl From<Malformed> for TpmError {
    fn from(error: Malformed) -> Self {
        TpmError::Malformed(error.problem)
    }
}

/// What authorises the use of a handle.
#[derive(Clone)]
pub(super) enum Auth {
    /// A password, empty in most cases.
    Password(Zeroizing<Vec<u8>>),
    /// A policy session, which ends with the command.
    Policy(u32),
}

impl Auth {
    pub(super) fn empty() -> Self {
        Auth::Password(Zeroizing::new(Vec::new()))
    }
}

/// A command, built part by part.
pub(super) struct Command {
    name: &'static str,
    code: u32,
    handles: Vec<u8>,
    auths: Vec<Auth>,
    parameters: Vec<u8>,
    gives_handle: bool,
    within_ms: u64,
}

/// What a command gave.
pub(super) struct Response {
    /// The handle of what it made, 0 where it makes none.
    pub(super) handle: u32,
    /// Its parameters.
    pub(super) parameters: Vec<u8>,
}

impl Command {
    pub(super) fn new(name: &'static str, code: u32) -> Self {
        Command {
            name,
            code,
            handles: Vec::new(),
            auths: Vec::new(),
            parameters: Vec::new(),
            gives_handle: false,
            within_ms: limits::TPM_COMMAND_WITHIN_MS,
        }
    }

    /// A handle that needs no authorisation.
    pub(super) fn handle(mut self, handle: u32) -> Self {
        self.handles.extend_from_slice(&handle.to_be_bytes());
        self
    }

    /// A handle and what authorises its use; those that need one stand first.
    pub(super) fn authorised(mut self, handle: u32, auth: Auth) -> Self {
        self.auths.push(auth);
        self.handle(handle)
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.parameters.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.parameters.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A parameter as it is.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend_from_slice(bytes);
        self
    }

    /// A TPM2B.
    pub(super) fn sized(mut self, bytes: &[u8]) -> Self {
        put_sized(&mut self.parameters, bytes);
        self
    }

    /// It makes an object or session, whose handle stands in the response.
    pub(super) fn giving_handle(mut self) -> Self {
        self.gives_handle = true;
        self
    }

    /// It makes a key, which may take long.
    pub(super) fn within(mut self, milliseconds: u64) -> Self {
        self.within_ms = milliseconds;
        self
    }

    /// Sends it. A TPM that says that it is busy is asked again, a few times.
    pub(super) fn run(self, channel: &mut Channel) -> Result<Response, TpmError> {
        let bytes = Zeroizing::new(self.encoded());
        for _ in 0..limits::TPM_RETRIES {
            let response = channel.transmit(&bytes, self.within_ms)?;
            match self.decoded(&response) {
                Err(TpmError::Refused { code: RETRY | YIELDED | TESTING, .. }) => {
                    std::thread::sleep(Duration::from_millis(limits::TPM_RETRY_MS));
                }
                outcome => return outcome,
            }
        }
        Err(TpmError::Refused { command: self.name, code: RETRY })
    }

    fn encoded(&self) -> Vec<u8> {
        let mut body = [&self.code.to_be_bytes()[..], &self.handles].concat();
        if !self.auths.is_empty() {
            let auths: Vec<u8> = self.auths.iter().flat_map(encoded_auth).collect();
            body.extend_from_slice(&length(auths.len()));
            body.extend_from_slice(&auths);
        }
        body.extend_from_slice(&self.parameters);
        let tag = if self.auths.is_empty() { NO_SESSIONS } else { SESSIONS };
        [&tag.to_be_bytes()[..], &length(body.len().saturating_add(6)), &body].concat()
    }

    fn decoded(&self, response: &[u8]) -> Result<Response, TpmError> {
        let mut reader = Reader::new(response, "response");
        let (tag, _) = (reader.u16()?, reader.u32()?);
        match reader.u32()? {
            0 => {}
            code => return Err(TpmError::Refused { command: self.name, code }),
        }
        if tag != if self.auths.is_empty() { NO_SESSIONS } else { SESSIONS } {
            return Err(TpmError::Malformed("a response of another tag than its command's"));
        }
        let handle = if self.gives_handle { reader.u32()? } else { 0 };
        let length = match self.auths.is_empty() {
            true => reader.left(),
            false => usize::try_from(reader.u32()?).map_err(|_| TpmError::Malformed("a length"))?,
        };
        // What follows the parameters are the sessions' own answers, which say nothing to a password.
        Ok(Response { handle, parameters: reader.take(length)?.to_vec() })
    }
}

/// TPMS_AUTH_COMMAND. A policy session of neither salt nor bound key proves nothing by HMAC, so it has none.
fn encoded_auth(auth: &Auth) -> Vec<u8> {
    let (session, attributes, secret): (u32, u8, &[u8]) = match auth {
        Auth::Password(password) => (handle::PASSWORD, CONTINUE, password),
        Auth::Policy(session) => (*session, 0, &[]),
    };
    let mut out = session.to_be_bytes().to_vec();
    put_sized(&mut out, &[]);
    out.push(attributes);
    put_sized(&mut out, secret);
    out
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// TPM_CC (part 2 §6.5.2).
pub(super) mod code {
    pub(in super::super) const CREATE_PRIMARY: u32 = 0x131;
    pub(in super::super) const ACTIVATE_CREDENTIAL: u32 = 0x147;
    pub(in super::super) const NV_READ: u32 = 0x14e;
    pub(in super::super) const POLICY_SECRET: u32 = 0x151;
    pub(in super::super) const CREATE: u32 = 0x153;
    pub(in super::super) const LOAD: u32 = 0x157;
    pub(in super::super) const QUOTE: u32 = 0x158;
    pub(in super::super) const FLUSH_CONTEXT: u32 = 0x165;
    pub(in super::super) const NV_READ_PUBLIC: u32 = 0x169;
    pub(in super::super) const READ_PUBLIC: u32 = 0x173;
    pub(in super::super) const START_AUTH_SESSION: u32 = 0x176;
    pub(in super::super) const PCR_READ: u32 = 0x17e;
}

/// TPM_RH (part 2 §7.4).
pub(super) mod handle {
    pub(in super::super) const OWNER: u32 = 0x4000_0001;
    pub(in super::super) const NULL: u32 = 0x4000_0007;
    pub(in super::super) const PASSWORD: u32 = 0x4000_0009;
    pub(in super::super) const ENDORSEMENT: u32 = 0x4000_000b;
}

// TPM_ST (part 2 §6.9).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// TPMA_SESSION continueSession.
const CONTINUE: u8 = 1;
// TPM_RC that mean "not now".
const YIELDED: u32 = 0x908;
const TESTING: u32 = 0x90a;
const RETRY: u32 = 0x922;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_encoded_as_the_library_says() {
        let command = Command::new("ReadPublic", code::READ_PUBLIC).handle(0x8100_0001);
        assert_eq!(hex::encode(command.encoded()), "80010000000e0000017381000001");
        let auth = Auth::Password(Zeroizing::new(b"pw".to_vec()));
        let command = Command::new("NV_Read", code::NV_READ)
            .authorised(0x4000_0001, auth)
            .handle(0x01c0_0002)
            .u16(2)
            .u16(0);
        let expected = "8002000000250000014e4000000101c000020000000b4000000900000100027077";
        assert_eq!(hex::encode(command.encoded()), expected.to_owned() + "00020000");
    }

    #[test]
    fn responses_are_read_strictly() {
        let command = || Command::new("X", 1);
        let authorised = || Command::new("X", 1).authorised(1, Auth::empty());
        let decoded = |command: Command, hex: &str| command.decoded(&hex::decode(hex).unwrap());
        assert_eq!(decoded(command(), "80010000000c00000000abcd").unwrap().parameters, [0xab, 0xcd]);
        let given = decoded(command().giving_handle(), "80010000000f0000000080000001ab").unwrap();
        assert_eq!((given.handle, given.parameters), (0x8000_0001, vec![0xab]));
        let given = decoded(authorised(), "8002000000140000000000000001ab0000010000").unwrap();
        assert_eq!(given.parameters, [0xab]);
        for (command, hex) in [
            (command(), "8001000000"),
            (command(), "80020000000a00000000"),
            (authorised(), "80010000000a00000000"),
            (authorised(), "80020000000e00000000ffffffff"),
            (command().giving_handle(), "80010000000c000000000000"),
        ] {
            assert!(matches!(decoded(command, hex), Err(TpmError::Malformed(_))), "{hex}");
        }
        let refused = decoded(authorised(), "80010000000a000001df");
        assert!(matches!(refused, Err(TpmError::Refused { command: "X", code: 0x1df })));
    }
}
