//! The holds themselves: begun by a refusal, doubled by the next, forgotten an hour after their end.
//!
//! Rebuilt at start from the audit log, where each refusal stands with the holds it set: what is durable is the record,
//! and there is no second copy to disagree with it.

use crate::audit::record::{LatchKey, LatchSet};
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::{BootTime, Now, WallTime};
use std::collections::BTreeMap;

/// One hold, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What it holds.
    pub key: LatchKey,
    /// Until when.
    pub until: WallTime,
    /// Its length, milliseconds.
    pub length_ms: u64,
    /// The record of the refusal that set it last.
    pub record: String,
    /// What that refusal rested on.
    pub rests_on: Vec<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    until: WallTime,
    until_boot: BootTime,
    length_ms: u64,
    record: String,
    rests_on: Vec<String>,
}

/// All holds, by identity.
#[derive(Debug, Default)]
pub struct LatchBook {
    identities: BTreeMap<SpiffeId, BTreeMap<(String, String), Entry>>,
}

impl LatchBook {
    /// The record of the refusal that holds this key now, if one does. A hold ends when either clock says so.
    pub fn holds(&self, key: &LatchKey, now: Now) -> Option<&str> {
        let entries = self.identities.get(&key.identity)?;
        let own = entries.get(&(key.subject.clone(), key.secret.clone()));
        // The overflow hold stands for subjects that have no entry of their own.
        let entry = own.or_else(|| entries.get(&overflow_slot()))?;
        entry.stands(now).then_some(entry.record.as_str())
    }

    /// Sets or doubles the hold of `key`, for a refusal that record `record` tells of. Beyond 256 of one identity, all its
    /// new subjects are held for the first length instead, and nothing is evicted.
    pub fn refuse(&mut self, key: LatchKey, record: &str, rests_on: Vec<String>, now: Now) -> LatchSet {
        self.forget(&key.identity, now);
        let entries = self.identities.entry(key.identity.clone()).or_default();
        let mut slot = (key.subject.clone(), key.secret.clone());
        let mut length_ms = limits::LATCH_FIRST_MS;
        match entries.get(&slot) {
            Some(entry) => length_ms = entry.length_ms.saturating_mul(2).min(limits::LATCH_LONGEST_MS),
            None if entries.len() >= limits::LATCHES_PER_IDENTITY => slot = overflow_slot(),
            None => {}
        }
        let entry = Entry {
            until: now.wall.plus(length_ms),
            until_boot: now.boot.plus(length_ms),
            length_ms,
            record: record.to_owned(),
            rests_on: rests_on.clone(),
        };
        let set = LatchSet {
            key: LatchKey { identity: key.identity, subject: slot.0.clone(), secret: slot.1.clone() },
            until: entry.until,
            length_ms,
            rests_on,
        };
        entries.insert(slot, entry);
        set
    }

    /// Takes over a hold that the log tells of, at start.
    pub fn replay(&mut self, set: &LatchSet, record: &str, now: Now) {
        let left = set.until.since(now.wall).min(set.length_ms);
        let entry = Entry {
            until: set.until,
            until_boot: now.boot.plus(left),
            length_ms: set.length_ms,
            record: record.to_owned(),
            rests_on: set.rests_on.clone(),
        };
        let slot = (set.key.subject.clone(), set.key.secret.clone());
        self.identities.entry(set.key.identity.clone()).or_default().insert(slot, entry);
    }

    /// Ends one hold, and forgets its length.
    pub fn clear(&mut self, key: &LatchKey) -> bool {
        let Some(entries) = self.identities.get_mut(&key.identity) else { return false };
        let cleared = entries.remove(&(key.subject.clone(), key.secret.clone())).is_some();
        if entries.is_empty() {
            self.identities.remove(&key.identity);
        }
        cleared
    }

    /// The holds that rest on something of this name: those that an administrator's change of it ends.
    pub fn resting_on(&self, what: &str) -> Vec<LatchKey> {
        let rests = |hold: &Hold| hold.rests_on.iter().any(|on| on == what);
        self.all().filter(rests).map(|hold| hold.key).collect()
    }

    /// Every hold that is still remembered, ended or not.
    pub fn all(&self) -> impl Iterator<Item = Hold> + '_ {
        self.identities.iter().flat_map(|(identity, entries)| {
            entries.iter().map(move |((subject, secret), entry)| Hold {
                key: LatchKey {
                    identity: identity.clone(),
                    subject: subject.clone(),
                    secret: secret.clone(),
                },
                until: entry.until,
                length_ms: entry.length_ms,
                record: entry.record.clone(),
                rests_on: entry.rests_on.clone(),
            })
        })
    }

    fn forget(&mut self, identity: &SpiffeId, now: Now) {
        if let Some(entries) = self.identities.get_mut(identity) {
            entries.retain(|_, entry| now.boot < entry.until_boot.plus(limits::LATCH_FORGOTTEN_MS));
        }
    }
}

impl Entry {
    fn stands(&self, now: Now) -> bool {
        now.wall < self.until && now.boot < self.until_boot
    }
}

/// The slot of "every new subject of this identity".
fn overflow_slot() -> (String, String) {
    (String::new(), String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(ms: u64) -> Now {
        Now { wall: WallTime(1_790_000_000_000 + ms), boot: BootTime(ms) }
    }

    fn key(subject: &str, secret: &str) -> LatchKey {
        let identity = SpiffeId::parse("spiffe://example.org/a").unwrap();
        LatchKey { identity, subject: subject.into(), secret: secret.into() }
    }

    #[test]
    fn a_refusal_holds_a_minute_and_the_next_doubles_it_up_to_fifteen() {
        let mut book = LatchBook::default();
        let mut at = 0;
        for expected in [60_000, 120_000, 240_000, 480_000, 900_000, 900_000] {
            let set = book.refuse(key("s", "kv/a"), "r", vec![], now(at));
            assert_eq!(set.length_ms, expected);
            assert_eq!(book.holds(&key("s", "kv/a"), now(at + expected - 1)), Some("r"));
            at += expected;
            assert_eq!(book.holds(&key("s", "kv/a"), now(at)), None);
        }
    }

    #[test]
    fn a_hold_is_of_one_subject_and_one_secret() {
        let mut book = LatchBook::default();
        book.refuse(key("s", "kv/a"), "r", vec![], now(0));
        assert_eq!(book.holds(&key("other", "kv/a"), now(1)), None);
        assert_eq!(book.holds(&key("s", "kv/b"), now(1)), None);
    }

    #[test]
    fn a_latch_is_forgotten_an_hour_after_its_end() {
        let mut book = LatchBook::default();
        book.refuse(key("s", "kv/a"), "r", vec![], now(0));
        let set = book.refuse(key("s", "kv/a"), "r", vec![], now(60_000 + 3_600_000));
        assert_eq!(set.length_ms, 60_000);
    }

    #[test]
    fn the_257th_subject_is_held_with_all_new_ones_and_nothing_is_evicted() {
        let mut book = LatchBook::default();
        for n in 0..256 {
            book.refuse(key(&format!("s{n}"), "kv/a"), "r", vec![], now(0));
        }
        assert_eq!(book.holds(&key("new", "kv/a"), now(1)), None);
        let set = book.refuse(key("new", "kv/a"), "r", vec![], now(1));
        assert_eq!((set.key.subject.as_str(), set.length_ms), ("", 60_000));
        assert!(book.holds(&key("newer", "kv/z"), now(2)).is_some());
        assert!(book.holds(&key("s0", "kv/a"), now(2)).is_some());
    }

    #[test]
    fn a_hold_ends_by_either_clock_and_survives_a_restart() {
        let mut book = LatchBook::default();
        let set = book.refuse(key("s", "kv/a"), "r", vec!["policy".into()], now(0));
        let back = Now { wall: WallTime(1), boot: BootTime(60_001) };
        assert_eq!(book.holds(&key("s", "kv/a"), back), None);
        let mut again = LatchBook::default();
        let restarted = Now { wall: now(20_000).wall, boot: BootTime(5) };
        again.replay(&set, "r", restarted);
        assert_eq!(again.holds(&key("s", "kv/a"), restarted), Some("r"));
        assert_eq!(again.resting_on("policy"), vec![key("s", "kv/a")]);
        assert!(again.clear(&key("s", "kv/a")));
        assert_eq!(again.holds(&key("s", "kv/a"), restarted), None);
    }
}
