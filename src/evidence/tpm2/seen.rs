//! The counters last seen of each enrolled key: in memory, where verification asks, and owed to whoever keeps them durably.
//!
//! *Takes* the counters of verified quotes; at a start, those that were kept and those that the audit log holds. *Gives* the
//! greatest of an enrolment. *Denies* nothing itself; [`Seen::check_kept`] refuses with `StoreUnavailable`. *Source*:
//! `evidence.md` §3, check 8; TCG TPM 2.0 Library part 1 §36; `durability.md`, "What only narrows".
//!
//! What must be durable before a secret leaves is that the quote was seen, and it is: the claims of its document, counters and
//! key's Name included, stand in the record of the decision, and that is durable first. A start reads the log's last hour of the
//! process before it, whenever that ended ([`Recorded`]), so a release never waits for the store. The store's mark has to be there
//! only before the log's record is out of that view. It is written within seconds; while it cannot be, no quote is taken.

use super::public::AkName;
use super::trust::{Counters, EnrolledAk, Tpm2Trust};
use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::time::WallTime;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One enrolment of one key, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenOf {
    /// The key.
    pub name: AkName,
    /// When it was enrolled.
    pub enrolled_at: WallTime,
    /// The greatest counters.
    pub counters: Counters,
}

/// What the audit log holds: counters of quotes that verified, each with the latest time at which it was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recorded(BTreeMap<String, BTreeMap<Counters, WallTime>>);

/// The counters last seen, of every enrolment.
#[derive(Default)]
pub struct Seen {
    entries: Mutex<BTreeMap<Enrolment, Entry>>,
    recorded: Mutex<Recorded>,
    /// Whether the last attempt to keep them failed.
    not_kept: AtomicBool,
}

type Enrolment = (AkName, WallTime);

#[derive(Clone, Copy, Default)]
struct Entry {
    counters: Counters,
    kept: Counters,
}

impl Recorded {
    /// Takes the claims of one record: those of a verified quote name its key and its counters.
    pub fn take(&mut self, claims: &serde_json::Value, time: WallTime) {
        let number = |name: &str| claims.get(name)?.as_u64().and_then(|number| u32::try_from(number).ok());
        let name = claims.get("ak_name").and_then(serde_json::Value::as_str);
        let (Some(name), Some(reset), Some(restart)) = (name, number("reset_count"), number("restart_count"))
        else {
            return;
        };
        let of_key = self.0.entry(name.to_owned()).or_default();
        let latest = of_key.entry(Counters { reset, restart }).or_default();
        *latest = time.max(*latest);
    }

    /// The greatest that were recorded under this enrolment, or none.
    pub fn of(&self, name: &AkName, enrolled_at: WallTime) -> Option<Counters> {
        let of_key = self.0.get(&hex::encode(name.as_bytes()))?;
        of_key.iter().rev().find(|(_, time)| **time >= enrolled_at).map(|(counters, _)| *counters)
    }
}

impl Seen {
    /// Hands in what the audit log holds, before any enrolment is loaded.
    pub fn remember(&self, recorded: Recorded) {
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = recorded;
    }

    /// Whether this enrolment's counters were loaded.
    pub fn is_loaded(&self, ak: &EnrolledAk) -> bool {
        self.entries().contains_key(&(ak.key.name(), ak.enrolled_at))
    }

    /// Loads an enrolment: `kept` is what the store has of it. What the log holds beyond that is still to be kept.
    pub fn load(&self, ak: &EnrolledAk, kept: Counters) {
        let name = ak.key.name();
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = recorded.of(&name, ak.enrolled_at).unwrap_or_default();
        let mut entries = self.entries();
        let entry = entries.entry((name, ak.enrolled_at)).or_default();
        entry.kept = kept.max(entry.kept);
        entry.counters = recorded.max(kept).max(entry.counters);
    }

    /// Forgets the enrolments that are not among these.
    pub fn forget_others(&self, trust: &Tpm2Trust) {
        let enrolled = |(name, at): &Enrolment| trust.by_name(name).is_some_and(|ak| ak.enrolled_at == *at);
        self.entries().retain(|enrolment, _| enrolled(enrolment));
    }

    /// Notes the counters of a verified quote: none lower counts from now on.
    pub fn note(&self, ak: &EnrolledAk, counters: Counters) {
        let mut entries = self.entries();
        let entry = entries.entry((ak.key.name(), ak.enrolled_at)).or_default();
        entry.counters = counters.max(entry.counters);
    }

    /// The greatest counters seen under this enrolment.
    pub fn last(&self, ak: &EnrolledAk) -> Option<Counters> {
        self.entries().get(&(ak.key.name(), ak.enrolled_at)).map(|entry| entry.counters)
    }

    /// What was seen and is not kept yet, at most so many.
    pub fn not_kept(&self, most: usize) -> Vec<SeenOf> {
        let entries = self.entries();
        let open = entries.iter().filter(|(_, entry)| entry.counters > entry.kept).take(most);
        let seen = |((name, enrolled_at), entry): (&Enrolment, &Entry)| SeenOf {
            name: name.clone(),
            enrolled_at: *enrolled_at,
            counters: entry.counters,
        };
        open.map(seen).collect()
    }

    /// Notes that these are durable.
    pub fn note_kept(&self, seen: &SeenOf) {
        if let Some(entry) = self.entries().get_mut(&(seen.name.clone(), seen.enrolled_at)) {
            entry.kept = seen.counters.max(entry.kept);
        }
    }

    /// Notes whether what was owed could be kept.
    pub fn set_kept(&self, all: bool) {
        self.not_kept.store(!all, Ordering::SeqCst);
    }

    /// **Denies** `StoreUnavailable` while counters that were seen cannot be kept.
    pub fn check_kept(&self) -> Result<(), Refusal> {
        match self.not_kept.load(Ordering::SeqCst) {
            false => Ok(()),
            true => {
                Err(Refusal::new(Denial::StoreUnavailable, "counters that were seen of TPMs cannot be kept"))
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Enrolment, Entry>> {
        // A panic while the lock was held leaves whole entries.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeenOf {
    /// The name of its mark in the store: an enrolment has its own.
    pub fn mark(&self) -> String {
        mark_of(&self.name, self.enrolled_at)
    }
}

impl EnrolledAk {
    /// The name of the mark in the store that keeps its counters.
    pub fn mark(&self) -> String {
        mark_of(&self.key.name(), self.enrolled_at)
    }
}

fn mark_of(name: &AkName, enrolled_at: WallTime) -> String {
    format!("tpm2:{}:{}", hex::encode(name.as_bytes()), enrolled_at.0)
}

impl Counters {
    /// As one number, big-endian, that rises with them: what a mark keeps.
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.reset) << 32 | u64::from(self.restart)).to_be_bytes()
    }

    /// From such bytes; none where they are not eight.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = *<&[u8; 8]>::try_from(bytes).ok()?;
        Some(Counters { reset: u32::from_be_bytes([a, b, c, d]), restart: u32::from_be_bytes([e, f, g, h]) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::enrolled;
    use super::*;
    use serde_json::json;

    fn counters(reset: u32, restart: u32) -> Counters {
        Counters { reset, restart }
    }

    fn key(at: u64) -> EnrolledAk {
        use crate::evidence::tpm2::tests::soft;
        let mut ak = enrolled(&soft::Ak::p256());
        ak.enrolled_at = WallTime(at);
        ak
    }

    fn claims(ak: &EnrolledAk, reset: u32, restart: u32) -> serde_json::Value {
        let name = hex::encode(ak.key.name().as_bytes());
        json!({ "ak_name": name, "reset_count": reset, "restart_count": restart })
    }

    #[test]
    fn the_greatest_of_store_log_and_memory_counts_and_what_is_not_in_the_store_is_owed() {
        let (seen, ak) = (Seen::default(), key(100));
        let mut recorded = Recorded::default();
        recorded.take(&claims(&ak, 9, 0), WallTime(99));
        recorded.take(&claims(&ak, 3, 1), WallTime(100));
        recorded.take(&claims(&ak, 4, 0), WallTime(101));
        recorded.take(&json!({ "ak_name": 7 }), WallTime(102));
        seen.remember(recorded);
        assert!(!seen.is_loaded(&ak) && seen.last(&ak).is_none());
        seen.load(&ak, counters(3, 5));
        assert!(seen.is_loaded(&ak));
        // Reset count 9 was of an enrolment before this one.
        assert_eq!(seen.last(&ak), Some(counters(4, 0)));
        let owed = seen.not_kept(8);
        assert_eq!(owed.iter().map(|one| one.counters).collect::<Vec<_>>(), [counters(4, 0)]);
        seen.note_kept(&owed[0]);
        assert_eq!(seen.not_kept(8), []);
        seen.note(&ak, counters(4, 2));
        seen.note(&ak, counters(4, 1));
        assert_eq!(seen.last(&ak), Some(counters(4, 2)));
        assert_eq!(seen.not_kept(8).len(), 1);
        assert_eq!(seen.not_kept(0), []);
    }

    #[test]
    fn another_enrolment_of_the_same_key_begins_again() {
        let (seen, first) = (Seen::default(), key(100));
        seen.note(&first, counters(8, 0));
        let second = EnrolledAk { enrolled_at: WallTime(200), ..first.clone() };
        assert_eq!(seen.last(&second), None);
        assert_ne!(first.mark(), second.mark());
        seen.load(&second, Counters::default());
        seen.forget_others(&Tpm2Trust::new([second.clone()], 1));
        assert_eq!((seen.last(&first), seen.last(&second)), (None, Some(Counters::default())));
    }

    #[test]
    fn counters_that_cannot_be_kept_refuse_until_they_are() {
        let seen = Seen::default();
        assert!(seen.check_kept().is_ok());
        seen.set_kept(false);
        assert_eq!(seen.check_kept().unwrap_err().denial, Denial::StoreUnavailable);
        seen.set_kept(true);
        assert!(seen.check_kept().is_ok());
    }

    #[test]
    fn a_mark_rises_with_its_counters_and_reads_back() {
        let ascending = [counters(0, 7), counters(1, 0), counters(1, 1), counters(0x0102_0304, 5)];
        assert!(ascending.windows(2).all(|pair| pair[0].to_bytes() < pair[1].to_bytes()));
        for one in ascending {
            assert_eq!(Counters::from_bytes(&one.to_bytes()), Some(one));
        }
        assert_eq!(Counters::from_bytes(&[0; 7]), None);
    }
}
