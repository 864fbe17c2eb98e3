//! How a keyring is locked: which kind of source opens it, and what that source needs beside its secret.
//!
//! *Takes* the bytes that stand before a sealed keyring. *Gives* [`Lock`]. *Denies* `LockMalformed`, and parameters that are
//! too weak to have been ours or too heavy to be tried. *Source*: RFC 9106 §4 (argon2id); `durability.md` "Key sources".
//!
//! ```text
//! lock = u8 kind ‖ body        1: a key of 32 bytes, no body
//!                              2: passphrase: salt, 32 ‖ u32 memory, KiB ‖ u32 passes ‖ u32 lanes
//!                              3: shares: set, 8 ‖ u8 threshold ‖ u8 shares
//! ```
//! Nothing of it is secret. It is bound into the keyring's seal, so what was altered opens nothing.

use super::KeySourceError;
use crate::limits;
use std::fmt;

/// What opens a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// A key of 32 bytes, whether from a file or a credential.
    Key,
    /// A passphrase, through argon2id.
    Passphrase(Argon2id),
    /// Shares of a key.
    Shares(ShareSet),
}

/// How a passphrase becomes a key (RFC 9106).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argon2id {
    /// Random, new with each passphrase.
    pub salt: [u8; 32],
    /// KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// Which shares belong together, and how many of them it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareSet {
    /// Random, new with each dealing: a share of another set is told apart before it is tried.
    pub set: [u8; 8],
    /// How many shares open it.
    pub threshold: u8,
    /// How many were dealt.
    pub shares: u8,
}

impl Lock {
    /// The kind of source in an operator's words.
    pub fn name(&self) -> &'static str {
        match self {
            Lock::Key => "key",
            Lock::Passphrase(_) => "passphrase",
            Lock::Shares(_) => "shares",
        }
    }

    /// As it stands before a sealed keyring.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Lock::Key => vec![KEY],
            Lock::Passphrase(argon) => {
                let numbers = [argon.memory_kib, argon.passes, argon.lanes].map(u32::to_be_bytes).concat();
                [&[PASSPHRASE], argon.salt.as_slice(), &numbers].concat()
            }
            Lock::Shares(set) => [&[SHARES], set.set.as_slice(), &[set.threshold, set.shares]].concat(),
        }
    }

    /// What [`Lock::encode`] gave, and the bytes after it.
    pub fn split(bytes: &[u8]) -> Result<(Lock, &[u8]), KeySourceError> {
        let wrong = KeySourceError::LockMalformed;
        let (kind, rest) = bytes.split_first().ok_or(wrong.clone())?;
        match *kind {
            KEY => Ok((Lock::Key, rest)),
            PASSPHRASE => {
                let (salt, rest) = rest.split_first_chunk::<32>().ok_or(wrong.clone())?;
                let (memory_kib, rest) = number(rest)?;
                let (passes, rest) = number(rest)?;
                let (lanes, rest) = number(rest)?;
                let argon = Argon2id { salt: *salt, memory_kib, passes, lanes };
                argon.check()?;
                Ok((Lock::Passphrase(argon), rest))
            }
            SHARES => {
                let (set, rest) = rest.split_first_chunk::<8>().ok_or(wrong.clone())?;
                let ([threshold, shares], rest) = rest.split_first_chunk::<2>().ok_or(wrong)?;
                let set = ShareSet { set: *set, threshold: *threshold, shares: *shares };
                set.check()?;
                Ok((Lock::Shares(set), rest))
            }
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lock::Key => write!(formatter, "a key (file or credential)"),
            Lock::Passphrase(argon) => {
                let Argon2id { memory_kib, passes, lanes, .. } = argon;
                write!(formatter, "a passphrase (argon2id, {memory_kib} KiB, {passes} passes, {lanes} lanes)")
            }
            Lock::Shares(set) => {
                write!(formatter, "{} of {} shares (set {})", set.threshold, set.shares, hex::encode(set.set))
            }
        }
    }
}

impl Argon2id {
    /// A new salt and the parameters of today.
    pub(super) fn new() -> Result<Self, KeySourceError> {
        let mut salt = [0; 32];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| KeySourceError::NoRandomness)?;
        let (memory_kib, passes) = (limits::ARGON2_MEMORY_KIB, limits::ARGON2_PASSES);
        Ok(Argon2id { salt, memory_kib, passes, lanes: limits::ARGON2_LANES })
    }

    /// Weaker ones were never written by this program; heavier ones would be a way to stop it.
    fn check(&self) -> Result<(), KeySourceError> {
        let within = limits::ARGON2_MEMORY_KIB_BOUNDS.contains(&self.memory_kib)
            && limits::ARGON2_PASSES_BOUNDS.contains(&self.passes)
            && limits::ARGON2_LANES_BOUNDS.contains(&self.lanes);
        within.then_some(()).ok_or(KeySourceError::PassphraseParameters)
    }
}

impl ShareSet {
    /// A new set. **Denies** `ShareNumbers`: one share alone would be a key, and none can be more than there are.
    pub fn new(threshold: u8, shares: u8) -> Result<Self, KeySourceError> {
        let mut set = [0; 8];
        aws_lc_rs::rand::fill(&mut set).map_err(|_| KeySourceError::NoRandomness)?;
        let set = ShareSet { set, threshold, shares };
        set.check().map(|()| set)
    }

    fn check(&self) -> Result<(), KeySourceError> {
        let possible = self.threshold >= 2 && self.threshold <= self.shares && self.shares <= limits::SHARES;
        possible.then_some(()).ok_or(KeySourceError::ShareNumbers)
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), KeySourceError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(KeySourceError::LockMalformed)?;
    Ok((u32::from_be_bytes(*number), rest))
}

const KEY: u8 = 1;
const PASSPHRASE: u8 = 2;
const SHARES: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(lock: &Lock) -> Result<Lock, KeySourceError> {
        Lock::split(&lock.encode()).map(|(lock, rest)| {
            assert!(rest.is_empty());
            lock
        })
    }

    #[test]
    fn a_lock_reads_back_and_a_cut_one_is_malformed() {
        let passphrase = Lock::Passphrase(Argon2id::new().unwrap());
        let shares = Lock::Shares(ShareSet::new(3, 5).unwrap());
        for lock in [Lock::Key, passphrase, shares] {
            assert_eq!(parsed(&lock), Ok(lock.clone()));
            let bytes = lock.encode();
            for length in 0..bytes.len() {
                assert_eq!(Lock::split(&bytes[..length]), Err(KeySourceError::LockMalformed), "{length}");
            }
        }
        assert_eq!(Lock::split(&[9, 9, 9]), Err(KeySourceError::LockMalformed));
    }

    #[test]
    fn passphrase_parameters_are_bounded_both_ways() {
        let good = Argon2id::new().unwrap();
        for bad in [
            Argon2id { memory_kib: 8 * 1024, ..good.clone() },
            Argon2id { memory_kib: u32::MAX, ..good.clone() },
            Argon2id { passes: 1, ..good.clone() },
            Argon2id { passes: 1000, ..good.clone() },
            Argon2id { lanes: 0, ..good.clone() },
            Argon2id { lanes: 1000, ..good.clone() },
        ] {
            let refused = parsed(&Lock::Passphrase(bad.clone()));
            assert_eq!(refused, Err(KeySourceError::PassphraseParameters), "{bad:?}");
        }
    }

    #[test]
    fn numbers_of_shares_that_protect_nothing_or_open_nothing_are_refused() {
        for (threshold, shares) in [(0, 5), (1, 5), (6, 5), (2, 0), (2, 255)] {
            assert_eq!(ShareSet::new(threshold, shares), Err(KeySourceError::ShareNumbers));
            let set = ShareSet { set: [1; 8], threshold, shares };
            assert_eq!(parsed(&Lock::Shares(set)), Err(KeySourceError::ShareNumbers));
        }
    }
}
