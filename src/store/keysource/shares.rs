//! Shamir shares as key source: so many holders of so many together open the store, and fewer learn nothing.
//!
//! *Takes* two numbers, or shares as text. *Gives* shares, each once, or the key again. *Denies* `ShareMalformed`,
//! `ShareOfOtherSet`, `ShareRepeated`. *Source*: Shamir, "How to share a secret" (1979), over GF(256), by `blahaj`.
//!
//! ```text
//! share = "pcs1-" and, in groups of four, the hex digits of
//!         set, 8 ‖ u8 threshold ‖ u8 shares ‖ u8 number, from 1 ‖ share of the key, 32 ‖ SHA-256 of all this, first 5
//! ```
//! The checksum finds what was mistyped, and tells nothing of the key. What was altered on purpose, together with its checksum,
//! gives another key, which does not open the keyring.

use super::lock::{Lock, ShareSet};
use super::{Key, KeySource, KeySourceError, copy};
use blahaj::{Share, Sharks};
use rand::{TryCryptoRng, TryRng};
use secrecy::ExposeSecret;
use std::convert::Infallible;
use zeroize::Zeroizing;

/// A key that exists in shares, or did until they were put together.
pub struct Joined {
    set: ShareSet,
    key: Key,
}

/// Makes a random key and its shares, in order. Nothing of it is kept anywhere.
pub fn deal(set: ShareSet) -> Result<(Joined, Vec<Zeroizing<String>>), KeySourceError> {
    let mut outcome = Ok(());
    let key = Key::init_with_mut(|key: &mut [u8; 32]| outcome = aws_lc_rs::rand::fill(key));
    outcome.map_err(|_| KeySourceError::NoRandomness)?;
    let mut source = Randomness { failed: false };
    let dealt: Vec<Share> =
        Sharks(set.threshold).dealer_rng(key.expose_secret(), &mut source).take(set.shares.into()).collect();
    if source.failed {
        return Err(KeySourceError::NoRandomness);
    }
    let texts = dealt.iter().map(|share| text(&set, share)).collect();
    Ok((Joined { set, key }, texts))
}

impl KeySource for Joined {
    fn name(&self) -> &'static str {
        "shares"
    }

    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        Ok((Lock::Shares(self.set), copy(&self.key)))
    }

    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError> {
        match lock {
            Lock::Shares(set) if *set == self.set => Ok(copy(&self.key)),
            Lock::Shares(set) => Err(other_set(&self.set, set)),
            Lock::Key | Lock::Passphrase(_) => {
                Err(KeySourceError::OtherKind { wants: lock.name(), has: self.name() })
            }
        }
    }
}

/// Shares on their way to being enough. A share that is in can be counted and forgotten, and never be had again.
pub struct Collected {
    set: ShareSet,
    shares: Vec<Share>,
}

impl Collected {
    /// None yet, of that set.
    pub fn new(set: ShareSet) -> Self {
        Collected { set, shares: Vec::with_capacity(set.threshold.into()) }
    }

    /// How many are in.
    pub fn count(&self) -> usize {
        self.shares.len()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        // Each is zeroized as it is dropped.
        self.shares.clear();
    }

    /// Takes one; with the last of those needed gives the key, and forgets them.
    pub fn add(&mut self, text: &str) -> Result<Option<Joined>, KeySourceError> {
        let (set, share) = parse(text)?;
        if set != self.set {
            return Err(other_set(&set, &self.set));
        }
        let number = share.x.0;
        if self.shares.iter().any(|have| have.x.0 == number) {
            return Err(KeySourceError::ShareRepeated(number));
        }
        self.shares.push(share);
        if self.count() < self.set.threshold.into() {
            return Ok(None);
        }
        let joined = join(self.set, &self.shares);
        self.clear();
        joined.map(Some)
    }
}

fn join(set: ShareSet, shares: &[Share]) -> Result<Joined, KeySourceError> {
    let sharks = Sharks(set.threshold);
    let bytes = sharks.recover(shares).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| KeySourceError::ShareMalformed("the shares do not go together"))?;
    let whole: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| KeySourceError::ShareMalformed(LENGTH))?;
    Ok(Joined { set, key: Key::init_with_mut(|key: &mut [u8; 32]| *key = *whole) })
}

fn text(set: &ShareSet, share: &Share) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
    bytes.extend_from_slice(&set.set);
    bytes.extend_from_slice(&[set.threshold, set.shares, share.x.0]);
    bytes.extend(share.y.iter().map(|byte| byte.0));
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    let digits = Zeroizing::new(hex::encode(bytes.as_slice()));
    let mut text = Zeroizing::new(String::with_capacity(TEXT));
    text.push_str(PREFIX);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && index.is_multiple_of(4) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

fn parse(text: &str) -> Result<(ShareSet, Share), KeySourceError> {
    let wrong = KeySourceError::ShareMalformed;
    let lower = Zeroizing::new(text.trim().to_ascii_lowercase());
    let digits = lower.strip_prefix(PREFIX).ok_or(wrong("it does not begin with pcs1-"))?;
    let mut compact = Zeroizing::new(String::with_capacity(TEXT));
    compact.extend(digits.chars().filter(|one| *one != '-' && *one != ' ').take(TEXT));
    let mut bytes = Zeroizing::new([0; BYTES]);
    if compact.len() != BYTES.saturating_mul(2) {
        return Err(wrong(LENGTH));
    }
    hex::decode_to_slice(compact.as_bytes(), bytes.as_mut())
        .map_err(|_| wrong("it has other than hex digits"))?;
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(wrong(LENGTH))?;
    if checksum(body) != *sum {
        return Err(wrong("its checksum does not hold: it is mistyped"));
    }
    let (set, rest) = body.split_first_chunk::<8>().ok_or(wrong(LENGTH))?;
    let ([threshold, shares], point) = rest.split_first_chunk::<2>().ok_or(wrong(LENGTH))?;
    let set = ShareSet { set: *set, threshold: *threshold, shares: *shares };
    let share = Share::try_from(point).map_err(wrong)?;
    if share.x.0 == 0 || share.x.0 > set.shares {
        return Err(wrong("its number is not one of its set"));
    }
    Ok((set, share))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

fn other_set(found: &ShareSet, wanted: &ShareSet) -> KeySourceError {
    KeySourceError::ShareOfOtherSet { found: hex::encode(found.set), wanted: hex::encode(wanted.set) }
}

/// aws-lc's randomness, as `blahaj` wants it. Where there is none, the dealing is thrown away.
struct Randomness {
    failed: bool,
}

impl TryRng for Randomness {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes).map(|()| u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes).map(|()| u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.failed |= aws_lc_rs::rand::fill(bytes).is_err();
        Ok(())
    }
}

impl TryCryptoRng for Randomness {}

const PREFIX: &str = "pcs1-";
const LENGTH: &str = "it is too short or too long";
/// Of SHA-256: one mistyped share of a million million passes, and then does not open the store.
const CHECKSUM: usize = 5;
const BYTES: usize = 8 + 2 + 1 + 32 + CHECKSUM;
/// Prefix, digits and the dashes between.
const TEXT: usize = PREFIX.len() + BYTES * 2 + BYTES / 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn dealt() -> (ShareSet, Joined, Vec<Zeroizing<String>>) {
        let set = ShareSet::new(3, 5).unwrap();
        let (joined, texts) = deal(set).unwrap();
        (set, joined, texts)
    }

    fn refused(collected: &mut Collected, text: &str) -> KeySourceError {
        collected.add(text).map(drop).unwrap_err()
    }

    #[test]
    fn any_three_of_five_give_the_key_and_are_forgotten() {
        let (set, joined, texts) = dealt();
        let (lock, key) = joined.lock().unwrap();
        for chosen in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
            let mut collected = Collected::new(set);
            assert!(collected.add(&texts[chosen[0]]).unwrap().is_none());
            // As a person types it: capitals, blanks, no dashes.
            let typed = texts[chosen[1]].to_uppercase().replace('-', " ").replacen("PCS1 ", "PCS1-", 1);
            assert!(collected.add(&format!("  {typed}\n")).unwrap().is_none());
            assert_eq!(collected.count(), 2);
            let again = collected.add(&texts[chosen[2]]).unwrap().unwrap();
            assert_eq!(again.unlock(&lock).unwrap().expose_secret(), key.expose_secret());
            assert_eq!(collected.count(), 0);
        }
        let refused = joined.unlock(&Lock::Key).map(drop);
        assert_eq!(refused, Err(KeySourceError::OtherKind { wants: "key", has: "shares" }));
    }

    #[test]
    fn a_share_with_any_character_changed_or_missing_is_malformed() {
        let (set, _, texts) = dealt();
        let mut collected = Collected::new(set);
        for index in 0..texts[0].len() {
            let mut typed = texts[0].to_string().into_bytes();
            let original = typed[index];
            typed[index] = if original == b'7' { b'8' } else { b'7' };
            let typed = String::from_utf8(typed).unwrap();
            let refusal = refused(&mut collected, &typed);
            assert!(matches!(refusal, KeySourceError::ShareMalformed(_)), "{index}: {refusal}");
            assert!(!refusal.to_string().contains(&texts[0][5..12]));
            if original != b'-' {
                let cut = [&texts[0][..index], &texts[0][index + 1..]].concat();
                assert!(
                    matches!(refused(&mut collected, &cut), KeySourceError::ShareMalformed(_)),
                    "{index}"
                );
            }
        }
        assert!(matches!(refused(&mut collected, ""), KeySourceError::ShareMalformed(_)));
        assert_eq!(collected.count(), 0);
    }

    #[test]
    fn a_share_twice_or_of_another_set_is_refused_and_those_that_are_in_stay() {
        let ((set, _, texts), (_, _, others)) = (dealt(), dealt());
        let mut collected = Collected::new(set);
        collected.add(&texts[3]).unwrap();
        assert_eq!(refused(&mut collected, &texts[3]), KeySourceError::ShareRepeated(4));
        assert!(matches!(refused(&mut collected, &others[0]), KeySourceError::ShareOfOtherSet { .. }));
        assert_eq!(collected.count(), 1);
    }

    #[test]
    fn an_altered_share_with_a_right_checksum_gives_another_key() {
        let (set, joined, texts) = dealt();
        let (_, mut share) = parse(&texts[0]).unwrap();
        share.y[0].0 ^= 1;
        let mut collected = Collected::new(set);
        collected.add(&text(&set, &share)).unwrap();
        collected.add(&texts[1]).unwrap();
        let wrong = collected.add(&texts[2]).unwrap().unwrap();
        assert_ne!(wrong.key.expose_secret(), joined.key.expose_secret());
    }
}
