//! Who may ask at all just now: limits on what one key and one identity can make the broker do and write.
//!
//! *Takes* a proven identity and key. *Gives* a place that is given back when dropped. *Denies* `LimitExceeded`: counted,
//! with one audit record a minute. *Source*: `protocol.md` "Denials on the wire"; the issue, "per-identity limits".

use crate::denial::Denial;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::{BootTime, Now, WallTime};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is counted: an identity, by one of its keys.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Caller {
    /// The SPIFFE ID.
    pub identity: SpiffeId,
    /// SHA-256 of the leaf's SPKI.
    pub key: [u8; 32],
}

/// What one caller may cause; from the configuration, by default from `limits`.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Streams of one identity at once.
    pub streams_per_identity: usize,
    /// Records that one key may cause.
    pub records_per_key: Rate,
    /// Records that one identity may cause.
    pub records_per_identity: Rate,
    /// Denials of one key that latch nothing.
    pub denials_per_key: Rate,
    /// Denials of one identity that latch nothing.
    pub denials_per_identity: Rate,
}

/// A token bucket's figures.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: u64,
    /// Tokens of a full bucket.
    pub burst: u64,
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |per_second, burst| Rate { per_second, burst };
        Rates {
            streams_per_identity: limits::STREAMS_PER_IDENTITY,
            records_per_key: rate(limits::RECORDS_PER_KEY_PER_SECOND, limits::RECORDS_PER_KEY_BURST),
            records_per_identity: rate(
                limits::RECORDS_PER_IDENTITY_PER_SECOND,
                limits::RECORDS_PER_IDENTITY_BURST,
            ),
            denials_per_key: rate(limits::DENIALS_PER_KEY_PER_SECOND, limits::DENIALS_PER_KEY_BURST),
            denials_per_identity: rate(
                limits::DENIALS_PER_IDENTITY_PER_SECOND,
                limits::DENIALS_PER_IDENTITY_BURST,
            ),
        }
    }
}

/// The counters of all callers.
#[derive(Default)]
pub struct Admission {
    rates: Rates,
    state: Arc<Mutex<State>>,
}

/// A stream that was let in; its place is given back when this is dropped.
#[must_use]
pub struct Admitted {
    state: Arc<Mutex<State>>,
    identity: SpiffeId,
}

/// Requests that were shed since the last report, for one audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shed {
    /// Who.
    pub caller: Caller,
    /// How many.
    pub count: u64,
    /// Since when.
    pub since: WallTime,
}

#[derive(Default)]
struct State {
    streams: HashMap<SpiffeId, usize>,
    records_of_keys: Buckets<[u8; 32]>,
    records_of_identities: Buckets<SpiffeId>,
    denials_of_keys: Buckets<[u8; 32]>,
    denials_of_identities: Buckets<SpiffeId>,
    shed: HashMap<Caller, (u64, WallTime, BootTime)>,
}

impl Admission {
    /// Counters under these rates.
    pub fn new(rates: Rates) -> Self {
        Admission { rates, state: Arc::default() }
    }

    /// Lets a stream in, and takes from what its caller may have written. **Denies** `LimitExceeded`.
    pub fn admit(&self, caller: &Caller, now: Now) -> Result<Admitted, Denial> {
        let mut state = self.state();
        if !state.has_room(caller, &self.rates, now) {
            state.count_shed(caller, now);
            return Err(Denial::LimitExceeded);
        }
        *state.streams.entry(caller.identity.clone()).or_default() =
            state.streams_of(&caller.identity).saturating_add(1);
        Ok(Admitted { state: self.state.clone(), identity: caller.identity.clone() })
    }

    /// Takes note of a denial that latches nothing: unverified, malformed or uncertain. Too many, and its caller is shed.
    pub fn note_unlatched_denial(&self, caller: &Caller, now: Now) {
        let mut state = self.state();
        state.denials_of_keys.take(&caller.key, &self.rates.denials_per_key, now);
        state.denials_of_identities.take(&caller.identity, &self.rates.denials_per_identity, now);
    }

    /// Those shed who are due a record: at most one a minute each.
    pub fn take_shed(&self, now: Now) -> Vec<Shed> {
        let mut state = self.state();
        let due = |at: &BootTime| now.boot.since(*at) >= SHED_RECORD_MS;
        let callers: Vec<Caller> =
            state.shed.iter().filter(|(_, (_, _, at))| due(at)).map(|(caller, _)| caller.clone()).collect();
        let take = |caller: Caller| {
            let (count, since, _) = state.shed.remove(&caller)?;
            Some(Shed { caller, count, since })
        };
        callers.into_iter().filter_map(take).collect()
    }

    /// Streams that are open now, of all callers.
    pub fn streams(&self) -> usize {
        self.state().streams.values().fold(0, |all, one| all.saturating_add(*one))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state.streams_of(&self.identity).saturating_sub(1);
        match left {
            0 => state.streams.remove(&self.identity),
            _ => state.streams.insert(self.identity.clone(), left),
        };
    }
}

impl State {
    fn streams_of(&self, identity: &SpiffeId) -> usize {
        self.streams.get(identity).copied().unwrap_or_default()
    }

    fn has_room(&mut self, caller: &Caller, rates: &Rates, now: Now) -> bool {
        self.streams_of(&caller.identity) < rates.streams_per_identity
            && self.denials_of_keys.has(&caller.key, &rates.denials_per_key, now)
            && self.denials_of_identities.has(&caller.identity, &rates.denials_per_identity, now)
            && self.records_of_keys.take(&caller.key, &rates.records_per_key, now)
            && self.records_of_identities.take(&caller.identity, &rates.records_per_identity, now)
    }

    fn count_shed(&mut self, caller: &Caller, now: Now) {
        if self.shed.len() >= limits::LIMITED_CALLERS && !self.shed.contains_key(caller) {
            return;
        }
        let entry = self.shed.entry(caller.clone()).or_insert((0, now.wall, now.boot));
        entry.0 = entry.0.saturating_add(1);
    }
}

/// Token buckets in thousandths of a token, so that a millisecond is never rounded away.
struct Buckets<K>(HashMap<K, (u64, BootTime)>);

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Buckets(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    fn has(&mut self, key: &K, rate: &Rate, now: Now) -> bool {
        self.level(key, rate, now) >= 1000
    }

    /// Takes one token, or leaves the bucket as it is.
    fn take(&mut self, key: &K, rate: &Rate, now: Now) -> bool {
        let level = self.level(key, rate, now);
        let taken = level.checked_sub(1000);
        self.make_room(key, now);
        self.0.insert(key.clone(), (taken.unwrap_or(level), now.boot));
        taken.is_some()
    }

    fn level(&self, key: &K, rate: &Rate, now: Now) -> u64 {
        let full = rate.burst.saturating_mul(1000);
        let Some((level, at)) = self.0.get(key) else { return full };
        level.saturating_add(now.boot.since(*at).saturating_mul(rate.per_second)).min(full)
    }

    /// Beyond the bound the longest idle is forgotten: its bucket is the fullest, so the least is forgiven.
    fn make_room(&mut self, key: &K, now: Now) {
        if self.0.len() < limits::LIMITED_CALLERS || self.0.contains_key(key) {
            return;
        }
        let before = self.0.len();
        self.0.retain(|_, (_, at)| now.boot.since(*at) < IDLE_MS);
        if self.0.len() == before {
            let oldest = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.0.remove(&key));
        }
    }
}

/// One record a minute of those shed (the issue's own figure).
const SHED_RECORD_MS: u64 = 60_000;
/// After a minute every bucket here is full again or nearly: burst / rate is 10 to 20 s.
const IDLE_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(key: u8) -> Caller {
        Caller { identity: SpiffeId::parse("spiffe://example.org/a").unwrap(), key: [key; 32] }
    }

    fn at(ms: u64) -> Now {
        Now { wall: WallTime(1_000_000 + ms), boot: BootTime(ms) }
    }

    #[test]
    fn a_key_that_only_fails_is_shed_and_its_neighbour_is_not() {
        let admission = Admission::default();
        for _ in 0..limits::DENIALS_PER_KEY_BURST {
            admission.note_unlatched_denial(&caller(1), at(0));
        }
        assert_eq!(admission.admit(&caller(1), at(0)).err(), Some(Denial::LimitExceeded));
        assert!(admission.admit(&caller(2), at(0)).is_ok());
        assert!(admission.admit(&caller(1), at(1000)).is_ok());
    }

    #[test]
    fn what_is_shed_is_told_once_a_minute() {
        let admission = Admission::default();
        for _ in 0..limits::DENIALS_PER_KEY_BURST {
            admission.note_unlatched_denial(&caller(1), at(0));
        }
        for _ in 0..3 {
            assert!(admission.admit(&caller(1), at(0)).is_err());
        }
        assert_eq!(admission.take_shed(at(59_999)), vec![]);
        let shed = admission.take_shed(at(60_000));
        assert_eq!(shed, vec![Shed { caller: caller(1), count: 3, since: at(0).wall }]);
        assert_eq!(admission.take_shed(at(120_000)), vec![]);
    }

    #[test]
    fn places_are_given_back() {
        let admission = Admission::default();
        let places: Vec<_> =
            (0..limits::STREAMS_PER_IDENTITY).map(|n| admission.admit(&caller(n as u8), at(0))).collect();
        assert!(places.iter().all(Result::is_ok));
        assert!(admission.admit(&caller(1), at(0)).is_err());
        drop(places);
        assert!(admission.admit(&caller(1), at(0)).is_ok());
    }
}
