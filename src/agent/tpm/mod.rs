//! The node's TPM: quotes by an attestation key (AK), and what its enrolment needs.
//!
//! *Takes* an [`Address`] and the *bound* of a challenge. *Gives* [`Quoter`] for evidence, [`Tpm`] for enrolment. *Denies*
//! nothing itself; a [`TpmError`] becomes `ATTESTATION_NOT_POSSIBLE`. *Source*: TCG TPM 2.0 Library parts 1 to 3; TCG EK
//! Credential Profile 2.5; `protocol.md` "The node's attester".
//!
//! Every call blocks, for as long as a TPM takes and no longer than [`crate::limits`] says: call it off the runtime's threads.
//! No TSS library stands between: some dozen commands are written by hand in `command.rs` and `keys.rs`.

mod command;
mod credential;
mod keys;
mod quote;
mod quoter;
mod transport;

pub use command::TpmError;
pub use keys::{AkKind, EkKind, Loaded, WrappedAk};
pub use quote::{Quoted, Selection};
pub use quoter::{AkSource, Enrolment, Quoter, QuoterConfig};
pub use transport::{Address, AddressError};

use crate::limits;
use command::{Auth, Command, code, handle};
use transport::Channel;
use zeroize::Zeroizing;

/// A TPM that is open. What it loaded stays loaded until it is flushed; behind a resource manager, until this is dropped.
pub struct Tpm {
    channel: Channel,
    /// The endorsement hierarchy's authorisation, empty unless its owner set one.
    endorsement_auth: Zeroizing<Vec<u8>>,
}

impl Tpm {
    /// Opens it. It must have been started (TPM2_Startup), as firmware, the kernel or swtpm's `startup-clear` does.
    pub fn open(address: &Address) -> Result<Self, TpmError> {
        Ok(Tpm { channel: Channel::open(address)?, endorsement_auth: Zeroizing::new(Vec::new()) })
    }

    /// With the endorsement hierarchy's authorisation, where its owner set one.
    pub fn with_endorsement_auth(mut self, auth: Zeroizing<Vec<u8>>) -> Self {
        self.endorsement_auth = auth;
        self
    }

    /// Frees a transient object or a session.
    pub fn flush(&mut self, loaded: Loaded) -> Result<(), TpmError> {
        match loaded.is_transient() {
            true => self.flush_handle(loaded.handle()),
            false => Ok(()),
        }
    }

    fn flush_handle(&mut self, object: u32) -> Result<(), TpmError> {
        // The handle of this command stands among its parameters.
        let command = Command::new("FlushContext", code::FLUSH_CONTEXT).u32(object);
        self.run(command).map(|_| ())
    }

    fn endorsement(&self) -> (u32, Auth) {
        (handle::ENDORSEMENT, Auth::Password(self.endorsement_auth.clone()))
    }

    fn run(&mut self, command: Command) -> Result<command::Response, TpmError> {
        command.run(&mut self.channel)
    }
}

/// How long a command may take that makes a key.
const CREATE_MS: u64 = limits::TPM_CREATE_WITHIN_MS;
