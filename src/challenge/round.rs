//! Rounds after the first: a held lease is attested again, and how often.
//!
//! *Takes* the terms of a hold. *Gives* [`Held`], what a later round is about, and the interval between rounds. *Denies*
//! nothing itself. *Source*: `protocol.md`, "With `hold`".

use crate::limits;
use crate::request::SecretPath;

/// A held lease, as every later round is about it: who vouches is asked again, what was released stays the same.
#[derive(Debug)]
pub struct Held {
    /// The lease.
    pub lease_id: String,
    /// The secrets and the versions that were released, in the order asked; a version does not change within a lease.
    pub secrets: Vec<(SecretPath, u64)>,
}

/// How often a held lease is attested again; from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldTerms {
    /// The longest time between two rounds, milliseconds.
    pub reattest_within_ms: u32,
    /// Time to answer a challenge, milliseconds.
    pub answer_within_ms: u32,
}

impl HoldTerms {
    /// The time between rounds of a lease of so many seconds: what is configured, or a third of a shorter lease, so that an
    /// uncertain round can be followed by a good one. None where a lease is too short for a round within it.
    pub fn interval_ms(self, ttl_seconds: u32) -> Option<u32> {
        let ttl_ms = u64::from(ttl_seconds).saturating_mul(1000);
        let third = u32::try_from(ttl_ms / ROUNDS_IN_A_LEASE).unwrap_or(u32::MAX);
        let interval = self.reattest_within_ms.min(third);
        let round = u64::from(interval).saturating_add(u64::from(self.answer_within_ms));
        (interval >= limits::HOLD_INTERVAL_MS_MIN && round < ttl_ms).then_some(interval)
    }
}

/// Rounds that a short lease has time for.
const ROUNDS_IN_A_LEASE: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: HoldTerms = HoldTerms { reattest_within_ms: 60_000, answer_within_ms: 10_000 };

    #[test]
    fn a_round_and_its_answer_end_before_the_lease_does() {
        for ttl in 0..=900 {
            let Some(interval) = TERMS.interval_ms(ttl) else { continue };
            assert!(interval + TERMS.answer_within_ms < ttl * 1000, "{ttl}");
            assert!((limits::HOLD_INTERVAL_MS_MIN..=TERMS.reattest_within_ms).contains(&interval), "{ttl}");
        }
    }

    #[test]
    fn a_lease_too_short_for_a_round_cannot_be_held() {
        assert_eq!(TERMS.interval_ms(0), None);
        assert_eq!(TERMS.interval_ms(15), None, "5 s and 10 s to answer are no less than 15 s");
        assert_eq!(TERMS.interval_ms(16), Some(5_333));
        assert_eq!(TERMS.interval_ms(300), Some(60_000));
        assert_eq!(TERMS.interval_ms(u32::MAX), Some(60_000));
        let quick = HoldTerms { answer_within_ms: 1, ..TERMS };
        assert_eq!(quick.interval_ms(2), None, "rounds do not follow each other faster than a second");
        assert_eq!(quick.interval_ms(3), Some(1_000));
    }
}
