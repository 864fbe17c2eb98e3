//! ActivateCredential: the TPM opens what the broker encrypted, if it holds both keys.
//!
//! *Takes* the two keys and a [`Credential`]. *Gives* the secret in it. *Denies* nothing itself. *Source*: TCG TPM 2.0 Library
//! part 1 §24, part 3 §11.1, §12.5, §23.4; TCG EK Credential Profile 2.5 §B.6.2 (PolicyA).

use super::Tpm;
use super::command::{Auth, Command, TpmError, code, handle};
use super::keys::Loaded;
use crate::evidence::tpm2::enroll::Credential;
use crate::evidence::tpm2::wire::Reader;
use zeroize::Zeroizing;

impl Tpm {
    /// Opens a credential. The TPM refuses (TPM_RC_INTEGRITY, 0x1df) what was made for another AK or EK.
    pub fn activate(
        &mut self,
        ak: &Loaded,
        ek: &Loaded,
        credential: &Credential,
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let (key, auth) = self.authorised(ek)?;
        let activate = Command::new("ActivateCredential", code::ACTIVATE_CREDENTIAL)
            .authorised(ak.handle(), Auth::empty())
            .authorised(key, auth)
            .bytes(whole(&credential.id_object)?)
            .bytes(whole(&credential.encrypted_secret)?);
        let response = self.run(activate)?;
        let mut reader = Reader::new(&response.parameters, "TPM2B_DIGEST");
        let secret = Zeroizing::new(reader.sized(64)?.to_vec());
        reader.end()?;
        Ok(secret)
    }

    /// A session in which PolicyA holds: whoever knows the endorsement hierarchy's authorisation, which is usually empty. It ends
    /// with the command that it authorises.
    pub(super) fn endorsement_policy_session(&mut self) -> Result<u32, TpmError> {
        let start = Command::new("StartAuthSession", code::START_AUTH_SESSION)
            .handle(handle::NULL)
            .handle(handle::NULL)
            .sized(&CALLER_NONCE)
            .sized(&[])
            .bytes(&[POLICY])
            .u16(NULL)
            .u16(SHA256)
            .giving_handle();
        let session = self.run(start)?.handle;
        let (hierarchy, auth) = self.endorsement();
        let secret = Command::new("PolicySecret", code::POLICY_SECRET)
            .authorised(hierarchy, auth)
            .handle(session)
            .sized(&[])
            .sized(&[])
            .sized(&[])
            .u32(0);
        match self.run(secret) {
            Ok(_) => Ok(session),
            Err(error) => {
                let _ = self.flush_handle(session);
                Err(error)
            }
        }
    }
}

/// A TPM2B whole: what came from afar is not to shift what follows it in a command.
fn whole(sized: &[u8]) -> Result<&[u8], TpmError> {
    let mut reader = Reader::new(sized, "TPM2B");
    let inner = reader.sized(1024).and_then(|_| reader.end());
    inner.map(|()| sized).map_err(|_| TpmError::Credential)
}

/// TPM_SE_POLICY.
const POLICY: u8 = 1;
const NULL: u16 = 0x0010;
const SHA256: u16 = 0x000b;
/// The caller's nonce goes into a session key, and this session has none: neither salt nor bound key.
const CALLER_NONCE: [u8; 32] = [0; 32];
