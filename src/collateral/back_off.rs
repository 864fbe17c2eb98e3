//! How long something that failed is left alone: doubling from a first to a longest time, longer where the service says so.
//!
//! *Takes* failures and the boot clock. *Gives* how long still to wait. *Denies* nothing: whoever must wait hears so at once.
//! *Source*: RFC 9110 §10.2.3 (Retry-After); RFC 6585 §4 (429).

use crate::time::BootTime;

/// The times, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) first_ms: u64,
    pub(super) longest_ms: u64,
}

/// The state of one service or one item; the default, which an answer brings back, is that it may be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct BackOff {
    failures: u32,
    until: BootTime,
}

impl BackOff {
    /// Milliseconds for which it is still left alone; none where it may be asked.
    pub(super) fn remaining(&self, now: BootTime) -> Option<u64> {
        Some(self.until.since(now)).filter(|left| *left > 0)
    }

    /// It failed. What the service asks for is granted up to the longest time: it may not switch us off for ever.
    pub(super) fn failed(&mut self, now: BootTime, asked_ms: Option<u64>, waits: Waits) {
        let own = waits.first_ms.saturating_mul(1_u64.checked_shl(self.failures).unwrap_or(u64::MAX));
        let wait = own.max(asked_ms.unwrap_or(0)).min(waits.longest_ms);
        self.failures = self.failures.saturating_add(1).min(MOST_DOUBLINGS);
        self.until = now.plus(wait);
    }

    /// Whether it can be forgotten: its time has passed by the longest wait.
    pub(super) fn is_over(&self, now: BootTime, waits: Waits) -> bool {
        now >= self.until.plus(waits.longest_ms)
    }
}

/// A first wait of 1 ms, doubled so often, is over a month.
const MOST_DOUBLINGS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits { first_ms: 100, longest_ms: 1000 };

    #[test]
    fn waits_double_to_the_longest() {
        let mut back_off = BackOff::default();
        let now = BootTime(5_000);
        assert_eq!(back_off.remaining(now), None);
        for expected in [100, 200, 400, 800, 1000, 1000] {
            back_off.failed(now, None, WAITS);
            assert_eq!(back_off.remaining(now), Some(expected));
        }
        assert_eq!(back_off.remaining(now.plus(999)), Some(1));
        assert_eq!(back_off.remaining(now.plus(1000)), None);
        assert!(!back_off.is_over(now.plus(1999), WAITS) && back_off.is_over(now.plus(2000), WAITS));
    }

    #[test]
    fn what_the_service_asks_for_counts_up_to_the_longest() {
        let mut back_off = BackOff::default();
        back_off.failed(BootTime(0), Some(700), WAITS);
        assert_eq!(back_off.remaining(BootTime(0)), Some(700));
        back_off.failed(BootTime(0), Some(u64::MAX), WAITS);
        assert_eq!(back_off.remaining(BootTime(0)), Some(1000));
        back_off.failed(BootTime(0), Some(0), WAITS);
        assert_eq!(back_off.remaining(BootTime(0)), Some(400));
        for _ in 0..100 {
            back_off.failed(BootTime(0), None, WAITS);
        }
        assert_eq!(back_off.remaining(BootTime(0)), Some(1000));
    }
}
