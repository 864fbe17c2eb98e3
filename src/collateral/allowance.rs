//! How many exchanges one identity may cause: whoever may connect can make up chips that nobody has ever seen.
//!
//! *Takes* identities and the boot clock. *Gives* whether one more exchange may begin on their behalf. *Denies* nothing itself.
//! *Source*: `evidence.md` §1; AMD's service answers about one request in ten seconds to one address.

use crate::limits;
use crate::time::BootTime;
use std::collections::HashMap;

/// What identities have caused of late.
#[derive(Default)]
pub(super) struct Allowances(HashMap<String, Minute>);

struct Minute {
    began: BootTime,
    exchanges: u32,
}

impl Allowances {
    /// Whether this identity may cause one exchange more, which counts then. So many of them that one more cannot be
    /// remembered may not: what is not counted is not limited.
    pub(super) fn take(&mut self, identity: &str, per_minute: u32, now: BootTime) -> bool {
        if self.0.len() >= limits::COLLATERAL_IDENTITIES && !self.0.contains_key(identity) {
            self.0.retain(|_, minute| !minute.is_over(now));
            if self.0.len() >= limits::COLLATERAL_IDENTITIES {
                return false;
            }
        }
        let minute = self.0.entry(identity.to_owned()).or_insert(Minute { began: now, exchanges: 0 });
        if minute.is_over(now) {
            *minute = Minute { began: now, exchanges: 0 };
        }
        let may = minute.exchanges < per_minute;
        if may {
            minute.exchanges = minute.exchanges.saturating_add(1);
        }
        may
    }
}

impl Minute {
    fn is_over(&self, now: BootTime) -> bool {
        now.since(self.began) >= 60_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_has_its_own_and_gets_it_back_after_a_minute() {
        let mut allowances = Allowances::default();
        let mut take = |identity: &str, at: u64| allowances.take(identity, 2, BootTime(at));
        assert!(take("a", 0) && take("a", 10) && !take("a", 59_999));
        assert!(take("b", 59_999), "another's is untouched");
        assert!(take("a", 60_000) && take("a", 60_000) && !take("a", 119_999));
    }

    #[test]
    fn more_identities_than_can_be_remembered_wait_for_the_minute_to_end() {
        let mut allowances = Allowances::default();
        for number in 0..limits::COLLATERAL_IDENTITIES {
            assert!(allowances.take(&number.to_string(), 1, BootTime(0)));
        }
        assert!(!allowances.take("one more", 1, BootTime(59_999)));
        assert!(allowances.take("one more", 1, BootTime(60_000)));
    }
}
