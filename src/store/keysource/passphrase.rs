//! A passphrase as key source: argon2id makes the key of it, each time anew.
//!
//! *Takes* the passphrase's bytes, from wherever `cli` was told to read them: never arguments, never the environment.
//! *Gives* a key. *Denies* one that is too short to be one or too long, and parameters out of their bounds. *Source*:
//! RFC 9106 §3.1, §4.

use super::lock::{Argon2id, Lock};
use super::{Key, KeySource, KeySourceError};
use crate::limits;
use argon2::{Algorithm, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

/// A passphrase, zeroized when dropped.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Of these bytes; one line end at their end is not part of it. **Denies** `PassphraseLength`.
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, KeySourceError> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        let fits = limits::PASSPHRASE_BYTES.contains(&bytes.len());
        fits.then_some(Passphrase(bytes)).ok_or(KeySourceError::PassphraseLength)
    }

    fn derive(&self, with: &Argon2id) -> Result<Key, KeySourceError> {
        let failed = |_| KeySourceError::PassphraseParameters;
        let params = Params::new(with.memory_kib, with.passes, with.lanes, Some(32)).map_err(failed)?;
        let mut blocks = vec![Block::default(); params.block_count()];
        let argon = argon2::Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut outcome = Ok(());
        let key = Key::init_with_mut(|key: &mut [u8; 32]| {
            outcome = argon.hash_password_into_with_memory(&self.0, &with.salt, key, &mut blocks);
        });
        blocks.iter_mut().for_each(Zeroize::zeroize);
        outcome.map_err(failed).map(|()| key)
    }
}

impl KeySource for Passphrase {
    fn name(&self) -> &'static str {
        "passphrase"
    }

    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        let argon = Argon2id::new()?;
        let key = self.derive(&argon)?;
        Ok((Lock::Passphrase(argon), key))
    }

    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError> {
        match lock {
            Lock::Passphrase(argon) => self.derive(argon),
            Lock::Key | Lock::Shares(_) => {
                Err(KeySourceError::OtherKind { wants: lock.name(), has: self.name() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn passphrase(text: &str) -> Result<Passphrase, KeySourceError> {
        Passphrase::new(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn the_same_passphrase_and_parameters_give_the_same_key_and_no_other_does() {
        let source = passphrase("correct horse battery staple\n").unwrap();
        let (lock, key) = source.lock().unwrap();
        let again = passphrase("correct horse battery staple").unwrap().unlock(&lock).unwrap();
        assert_eq!(key.expose_secret(), again.expose_secret());
        let other = passphrase("correct horse battery stable").unwrap().unlock(&lock).unwrap();
        assert_ne!(key.expose_secret(), other.expose_secret());
        let (another, salted) = source.lock().unwrap();
        assert!(
            another != lock && salted.expose_secret() != key.expose_secret(),
            "each lock has its own salt"
        );
        let refused = source.unlock(&Lock::Key).map(drop);
        assert_eq!(refused, Err(KeySourceError::OtherKind { wants: "key", has: "passphrase" }));
    }

    #[test]
    fn a_passphrase_that_is_too_short_or_too_long_is_refused() {
        for text in ["", "\n", "short", &"x".repeat(2000)] {
            assert_eq!(passphrase(text).map(drop), Err(KeySourceError::PassphraseLength));
        }
    }
}
