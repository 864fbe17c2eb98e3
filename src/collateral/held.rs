//! A part that is kept, with its end.
//!
//! *Takes* a verified part and its dates. *Gives* it to a verifier against a reading of the clock. *Denies* nothing itself.
//! *Source*: `house.md` §2 on `Fresh`.

use crate::time::{Fresh, Now, WallTime};

/// A part and how long it may be used.
#[derive(Clone, Debug)]
pub(super) struct Held<T> {
    part: T,
    issued: WallTime,
    life: Fresh<()>,
}

impl<T> Held<T> {
    /// A part obtained at `now` that holds until `ends`, exclusive.
    pub(super) fn new(part: T, issued: WallTime, ends: WallTime, now: Now) -> Self {
        Held { part, issued, life: Fresh::new((), now, ends) }
    }

    /// Whether it may be used.
    pub(super) fn is_current(&self, now: Now) -> bool {
        self.life.at(now).is_some()
    }

    /// What a verifier is handed: a part that may be used, or one past the end that stands in itself, which the verifier sees
    /// and calls stale where absence would be called unavailable. One that ended by the boot clock alone is not given out:
    /// the verifier would not see it.
    pub(super) fn for_verifier(&self, now: Now) -> Option<&T> {
        (self.is_current(now) || now.wall >= self.ends()).then_some(&self.part)
    }

    /// The part, to be compared with a newer one, shown, or written; never to be verified with.
    pub(super) fn part(&self) -> &T {
        &self.part
    }

    /// thisUpdate, issueDate, or notBefore where it has none of these.
    pub(super) fn issued(&self) -> WallTime {
        self.issued
    }

    /// When it was obtained.
    pub(super) fn obtained(&self) -> Now {
        self.life.obtained()
    }

    /// Its end, exclusive.
    pub(super) fn ends(&self) -> WallTime {
        self.life.usable_until()
    }

    /// Whether it is time to ask for a newer one: it is old, or its end is near.
    pub(super) fn is_due(&self, now: Now, every_ms: u64, ahead_ms: u64) -> bool {
        let age = now.boot.since(self.obtained().boot).max(now.wall.since(self.obtained().wall));
        age >= every_ms || self.ends().since(now.wall) <= ahead_ms || !self.is_current(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::BootTime;

    fn at(wall: u64, boot: u64) -> Now {
        Now { wall: WallTime(wall), boot: BootTime(boot) }
    }

    #[test]
    fn a_part_is_given_until_its_end_and_past_it_only_where_the_verifier_sees_the_end() {
        let held = Held::new(7, WallTime(500), WallTime(2000), at(1000, 10));
        assert_eq!(held.for_verifier(at(1999, 1009)), Some(&7));
        assert!(!held.is_current(at(2000, 100)));
        assert_eq!(held.for_verifier(at(2000, 100)), Some(&7));
        assert_eq!(held.for_verifier(at(1500, 1010)), None, "the wall clock was set back");
    }

    #[test]
    fn a_newer_one_is_due_by_age_or_ahead_of_the_end() {
        let held = Held::new(7, WallTime(500), WallTime(20_000), at(1000, 10));
        assert!(!held.is_due(at(5999, 5009), 5000, 100));
        assert!(held.is_due(at(6000, 5010), 5000, 100));
        assert!(held.is_due(at(1500, 5010), 5000, 100), "by either clock");
        assert!(held.is_due(at(2000, 1010), 5000, 18_000));
    }
}
