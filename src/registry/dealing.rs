//! Shares that are dealt while the broker serves: each sealed to its holder's key, and none in force before enough were read back.
//!
//! *Takes* the holders' public keys. *Gives* each one's share, which that holder alone can open; nothing else of them ever.
//! *Denies* to lock the store with shares that nobody has. *Source*: NIST SP 800-57 part 2 §5 (split knowledge); RFC 9180 base mode.
//!
//! ```text
//! holder's key = "pch1-" and hex of: X25519 public key, 32 ‖ SHA-256 of it, first 4
//! sealed share = "pce1-" and hex of: encapsulated key, 32 ‖ the share's text, sealed with AES-256-GCM and a tag of 16
//! ```
//! Whoever asks for the dealing sees sealed shares alone, so no administrator can put a key together out of them. What was dealt is
//! in memory until then: a broker that ends in between still opens with the source that it had.

use crate::limits;
use crate::release::sealing::{Recipient, Sealed, seal};
use crate::request::RecipientKey;
use crate::store::keysource::shares::{Collected, Joined, deal};
use crate::store::keysource::{Key, KeySource, KeySourceError, Lock, ShareSet};
use crate::time::Now;
use aws_lc_rs::agreement::{PrivateKey, X25519};
use secrecy::ExposeSecret;
use std::sync::Mutex;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A holder's public key.
pub struct HolderKey(RecipientKey);

/// What was dealt last, until it is in force, replaced or too old.
#[derive(Default)]
pub struct Dealing(Mutex<Option<Dealt>>);

struct Dealt {
    set: ShareSet,
    joined: Joined,
    read_back: Collected,
    since: Now,
}

/// What a share that was read back led to.
pub enum Confirmed {
    /// So many were read back.
    Waiting(usize),
    /// Enough were: this locks the keyring.
    Whole((Lock, Key)),
}

impl Dealing {
    /// Deals a key's shares, sealed to their holders in order; what was dealt before is forgotten.
    pub fn deal(
        &self,
        holders: &[HolderKey],
        threshold: u8,
        now: Now,
    ) -> Result<Vec<String>, KeySourceError> {
        let count = u8::try_from(holders.len()).map_err(|_| KeySourceError::ShareNumbers)?;
        let set = ShareSet::new(threshold, count)?;
        let (joined, texts) = deal(set)?;
        let sealed: Result<Vec<String>, _> =
            holders.iter().zip(&texts).map(|(holder, text)| holder.seal(text)).collect();
        *self.waiting() = Some(Dealt { set, joined, read_back: Collected::new(set), since: now });
        sealed
    }

    /// Takes a share that its holder read back. **Denies** `NotDealt`, `ShareAltered`, and what [`Collected::add`] does.
    pub fn confirm(&self, share: &str, now: Now) -> Result<Confirmed, KeySourceError> {
        let mut waiting = self.waiting();
        if waiting.as_ref().is_some_and(|dealt| dealt.is_late(now)) {
            *waiting = None;
        }
        let dealt = waiting.as_mut().ok_or(KeySourceError::NotDealt)?;
        let Some(joined) = dealt.read_back.add(share)? else {
            return Ok(Confirmed::Waiting(dealt.read_back.count()));
        };
        let (lock, key) = dealt.joined.lock()?;
        let (_, again) = joined.lock()?;
        let same = bool::from(again.expose_secret().ct_eq(key.expose_secret()));
        if same { Ok(Confirmed::Whole((lock, key))) } else { Err(KeySourceError::ShareAltered) }
    }

    /// The set that waits, and how many of its shares were read back.
    pub fn standing(&self, now: Now) -> Option<(ShareSet, usize)> {
        let waiting = self.waiting();
        let dealt = waiting.as_ref().filter(|dealt| !dealt.is_late(now))?;
        Some((dealt.set, dealt.read_back.count()))
    }

    /// Forgets what was dealt: it is in force, or never will be.
    pub fn forget(&self) {
        *self.waiting() = None;
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<Dealt>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Dealt {
    fn is_late(&self, now: Now) -> bool {
        now.boot.since(self.since.boot) > limits::DEALT_MS
    }
}

impl HolderKey {
    /// Of its text. **Denies** `HolderMalformed`.
    pub fn parse(text: &str) -> Result<Self, KeySourceError> {
        let wrong = KeySourceError::HolderMalformed;
        let digits = text.trim().strip_prefix(HOLDER).ok_or(wrong("it does not begin with pch1-"))?;
        let mut bytes = [0; KEY + CHECKSUM];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| wrong("it is not 72 hex digits"))?;
        let (key, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(wrong("it is too short"))?;
        if checksum(key) != *sum {
            return Err(wrong("its checksum does not hold: it is mistyped"));
        }
        RecipientKey::parse(key).map(HolderKey).map_err(|_| wrong("it is no X25519 key"))
    }

    /// The one of this private key.
    pub fn of(private: &Key) -> Result<Self, KeySourceError> {
        let wrong = KeySourceError::HolderMalformed("no public key can be computed");
        let pair = PrivateKey::from_private_key(&X25519, private.expose_secret());
        let public = pair.and_then(|pair| pair.compute_public_key().map_err(Into::into));
        let public = public.map_err(|_| wrong.clone())?;
        RecipientKey::parse(public.as_ref()).map(HolderKey).map_err(|_| wrong)
    }

    /// As text.
    pub fn text(&self) -> String {
        let key = self.0.as_bytes();
        format!("{HOLDER}{}{}", hex::encode(key), hex::encode(checksum(key)))
    }

    fn seal(&self, share: &str) -> Result<String, KeySourceError> {
        let sealed = seal(&self.0, INFO, share.as_bytes()).map_err(|_| KeySourceError::NoRandomness)?;
        Ok(format!("{SEALED}{}{}", hex::encode(&sealed.encapsulated_key), hex::encode(&sealed.ciphertext)))
    }
}

/// Opens a sealed share with its holder's private key; gives the share's text. **Denies** `ShareMalformed`, `ShareUnopened`.
pub fn open(private: &Key, sealed: &str) -> Result<Zeroizing<String>, KeySourceError> {
    let wrong = KeySourceError::ShareMalformed;
    let digits = sealed.trim().strip_prefix(SEALED).ok_or(wrong("it does not begin with pce1-"))?;
    let bytes = hex::decode(digits).map_err(|_| wrong("it has other than hex digits"))?;
    let (encapsulated, ciphertext) = bytes.split_first_chunk::<KEY>().ok_or(wrong("it is too short"))?;
    let sealed = Sealed { encapsulated_key: encapsulated.to_vec(), ciphertext: ciphertext.to_vec() };
    let opened = Recipient::from_private(private.expose_secret()).open(&sealed, INFO);
    let opened = opened.map_err(|_| KeySourceError::ShareUnopened)?;
    let text = std::str::from_utf8(&opened).map_err(|_| KeySourceError::ShareUnopened)?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

const HOLDER: &str = "pch1-";
const SEALED: &str = "pce1-";
const INFO: &[u8] = b"portcullis share v1";
const KEY: usize = 32;
const CHECKSUM: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{BootTime, WallTime};

    fn at(ms: u64) -> Now {
        Now { wall: WallTime(0), boot: BootTime(ms) }
    }

    fn private(byte: u8) -> Key {
        Key::init_with_mut(|key: &mut [u8; 32]| *key = [byte; 32])
    }

    fn dealt(dealing: &Dealing) -> Vec<String> {
        let keys: Vec<HolderKey> = [1, 2, 3]
            .map(|byte| HolderKey::parse(&HolderKey::of(&private(byte)).unwrap().text()).unwrap())
            .into();
        dealing.deal(&keys, 2, at(0)).unwrap()
    }

    fn waits(dealing: &Dealing, share: &str, now: Now) -> Result<usize, KeySourceError> {
        dealing.confirm(share, now).map(|confirmed| match confirmed {
            Confirmed::Waiting(count) => count,
            Confirmed::Whole(_) => 0,
        })
    }

    #[test]
    fn each_share_opens_for_its_holder_alone_and_enough_of_them_are_the_key() {
        let dealing = Dealing::default();
        let sealed = dealt(&dealing);
        for (share, byte) in sealed.iter().zip(1_u8..) {
            let other = open(&private(byte + 1), share).map(drop);
            assert_eq!(other, Err(KeySourceError::ShareUnopened));
            assert!(open(&private(byte), share).unwrap().starts_with("pcs1-"));
        }
        let [first, last] = [0, 2].map(|index| open(&private(index as u8 + 1), &sealed[index]).unwrap());
        assert_eq!(waits(&dealing, &first, at(1)), Ok(1));
        assert_eq!(waits(&dealing, &first, at(1)), Err(KeySourceError::ShareRepeated(1)));
        assert_eq!(dealing.standing(at(1)).unwrap().1, 1);
        let Confirmed::Whole((Lock::Shares(set), _)) = dealing.confirm(&last, at(1)).unwrap() else {
            panic!()
        };
        assert_eq!((set.threshold, set.shares), (2, 3));
    }

    #[test]
    fn what_was_dealt_before_or_too_long_ago_is_forgotten() {
        let dealing = Dealing::default();
        assert_eq!(waits(&dealing, "pcs1-", at(0)), Err(KeySourceError::NotDealt));
        let old = open(&private(1), &dealt(&dealing)[0]).unwrap();
        let new = open(&private(1), &dealt(&dealing)[0]).unwrap();
        assert!(matches!(waits(&dealing, &old, at(1)), Err(KeySourceError::ShareOfOtherSet { .. })));
        assert_eq!(waits(&dealing, &new, at(limits::DEALT_MS)), Ok(1));
        assert_eq!(waits(&dealing, &new, at(limits::DEALT_MS + 1)), Err(KeySourceError::NotDealt));
        assert!(dealing.standing(at(0)).is_none());
    }

    #[test]
    fn a_key_with_any_character_changed_or_missing_is_no_holders() {
        let text = HolderKey::of(&private(1)).unwrap().text();
        for index in 0..text.len() {
            let cut = [&text[..index], &text[index + 1..]].concat();
            assert!(HolderKey::parse(&cut).is_err(), "{index}");
            let digit = if text.as_bytes()[index] == b'7' { "8" } else { "7" };
            assert!(
                HolderKey::parse(&[&text[..index], digit, &text[index + 1..]].concat()).is_err(),
                "{index}"
            );
        }
    }
}
