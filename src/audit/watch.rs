//! Flips while they happen: the same search as `audit flips`, over what this process records.
//!
//! *Takes* each durable record. *Gives* how many flips it made certain. *Denies* nothing. *Source*: NIST SP 800-53 AU-6(1).
//!
//! Where nothing was denied yet, a release costs one load. A flip is certain ten minutes after its release, once that can be
//! taken as delivered; what an earlier process recorded is `audit flips`'s to find.

use super::flips::Flips;
use super::log::Sequence;
use super::record::{Event, Record};
use crate::measure::Counter;
use crate::time::WallTime;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The search, and how many it found.
#[derive(Default)]
pub struct FlipWatch {
    /// Whether anything was denied since the start.
    denied: AtomicBool,
    flips: Mutex<Flips>,
    found: Counter,
}

impl FlipWatch {
    /// Takes a record that is durable.
    pub(super) fn take(&self, sequence: Sequence, record: &Record) {
        let concerned = match &record.event {
            Event::Denied { .. } => {
                self.denied.store(true, Ordering::Relaxed);
                true
            }
            Event::Released { .. } | Event::Undelivered { .. } => self.denied.load(Ordering::Relaxed),
            _ => false,
        };
        if concerned {
            let certain = self.flips().push(sequence, record);
            certain.iter().for_each(|_| self.found.count());
        }
    }

    /// How many were certain by `now`.
    pub fn found(&self, now: WallTime) -> u64 {
        if self.denied.load(Ordering::Relaxed) {
            let certain = self.flips().certain(now);
            certain.iter().for_each(|_| self.found.count());
        }
        self.found.value()
    }

    fn flips(&self) -> MutexGuard<'_, Flips> {
        // A panic while the lock was held leaves at most one record half taken, of a figure.
        self.flips.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::flips::DELIVERY_MS;
    use crate::audit::show::tests::{PAY, WEB, case, denied, released};
    use crate::denial::Denial;

    #[test]
    fn a_flip_is_found_once_its_release_can_be_taken_as_delivered() {
        let watch = FlipWatch::default();
        let records = [
            released(0, case(WEB, "kv/a")),
            denied(1, Denial::PolicySilent, case(PAY, "kv/a")),
            released(2, case(WEB, "kv/a")),
            released(3, case(PAY, "kv/a")),
            released(4, case(PAY, "kv/a")),
        ];
        for (sequence, record) in (0..).zip(&records) {
            watch.take(Sequence(sequence), record);
        }
        let last = records[3].time;
        assert_eq!(watch.found(last), 0);
        assert_eq!(watch.found(last.plus(DELIVERY_MS + 1)), 1);
        assert_eq!(watch.found(last.plus(DELIVERY_MS + 2)), 1, "each is counted once");
    }
}
