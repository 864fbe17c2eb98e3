//! What a start finds: the store and the log, held against each other, and the state that the log alone keeps.

use crate::audit::log::OpenReport;
use crate::audit::record::{Event, Record};
use crate::cli::serve::StartError;
use crate::evidence::tpm2::{self, Recorded};
use crate::latch::LatchBook;
use crate::limits;
use crate::release::lease::{Lease, Leases};
use crate::store::CommitNumber;
use crate::time::{Now, WallTime};
use std::path::Path;

/// Records since then matter for what is kept in memory: the longest lease, and a latch until it is forgotten.
pub fn horizon(now: Now) -> WallTime {
    let lease = u64::from(limits::LEASE_MAXIMUM_SECONDS).saturating_mul(1000);
    let latch = limits::LATCH_LONGEST_MS.saturating_add(limits::LATCH_FORGOTTEN_MS);
    WallTime(now.wall.0.saturating_sub(lease.max(latch)))
}

/// From when on a start reads: so that what an earlier process saw last is in view, however long ago it ended. `lived` is a time
/// at which it still ran; counters of TPMs that it had no time to write to the store are in records of then.
pub fn view(now: Now, lived: WallTime) -> WallTime {
    horizon(Now { wall: now.wall.min(lived), ..now })
}

/// The state that is rebuilt from the log.
pub struct Recovered {
    /// Holds that stand or are still remembered.
    pub latches: LatchBook,
    /// Leases that have not ended.
    pub leases: Leases,
    /// The latest time of a release: a clock that was trusted said it. Other records' times were perhaps never trusted.
    pub trusted_time: WallTime,
    /// Counters of TPMs, as the claims of verified quotes state them.
    pub counters: Recorded,
    now: Now,
}

impl Recovered {
    /// Nothing yet.
    pub fn new(now: Now) -> Self {
        Recovered {
            latches: LatchBook::default(),
            leases: Leases::default(),
            trusted_time: WallTime(0),
            counters: Recorded::default(),
            now,
        }
    }

    /// Takes one record, in the log's order.
    pub fn take(&mut self, record: &Record) {
        if let Event::Released { case, .. } | Event::Renewed { case, .. } | Event::Denied { case, .. } =
            &record.event
            && let Some(claims) = case.claims.get(tpm2::FORMAT)
        {
            self.counters.take(claims, record.time);
        }
        if record.time < horizon(self.now) {
            return;
        }
        match &record.event {
            Event::Denied { denial, case, latches, .. } => {
                latches.iter().for_each(|set| self.latches.replay(set, &record.id, self.now));
                if let Some(lease) = case.lease.as_ref().filter(|_| denial.reason().ends_lease()) {
                    drop(self.leases.end(lease));
                }
            }
            Event::LatchCleared { key, .. } => drop(self.latches.clear(key)),
            // Where a hold began before the horizon its release is not read, and a renewal has all of it.
            Event::Released { case, lease_id, not_after } | Event::Renewed { case, lease_id, not_after } => {
                self.trusted_time = self.trusted_time.max(record.time);
                let Some(identity) = case.identity.clone() else { return };
                let left = not_after.since(self.now.wall);
                let secrets = case.secrets.iter();
                let first = self.leases.find(lease_id).map(|lease| lease.decision_id);
                self.leases.enter(Lease {
                    id: lease_id.clone(),
                    identity,
                    key_sha256: case.key_sha256.clone(),
                    secrets: secrets.map(|one| (one.path.clone(), one.version.unwrap_or(0))).collect(),
                    not_after: *not_after,
                    not_after_boot: self.now.boot.plus(left),
                    decision_id: first.unwrap_or_else(|| record.id.clone()),
                });
            }
            // Of a renewal: the lease stands as before; when exactly it would have ended is not kept.
            Event::Undelivered { decision_id, lease_id, .. } => {
                if self.leases.find(lease_id).is_some_and(|lease| lease.decision_id == *decision_id) {
                    drop(self.leases.end(lease_id));
                }
            }
            Event::LeaseEnded { lease_id, .. } => drop(self.leases.end(lease_id)),
            Event::HandshakeRefused { .. }
            | Event::Counted { .. }
            | Event::AdminIntent { .. }
            | Event::Applied { .. }
            | Event::NotApplied { .. }
            | Event::AdminRead { .. }
            | Event::Clock { .. }
            | Event::Input { .. }
            | Event::Mark { .. }
            | Event::Started { .. }
            | Event::Stopped {} => {}
        }
    }
}

/// A used store without its log does not start, before a new log is begun beside it.
pub fn check_log_there(directory: &Path, stored: CommitNumber) -> Result<(), StartError> {
    let absent = crate::audit::is_absent(directory).map_err(|error| StartError::Log(error.to_string()))?;
    if absent && stored.0 > FIRST_COMMITS { Err(StartError::LogMissing) } else { Ok(()) }
}

/// Holds the log against the store. Refuses a store that is older than what the log says was acknowledged.
pub fn reconcile(
    report: &OpenReport,
    stored: CommitNumber,
    last_intent: u64,
) -> Result<Vec<Event>, StartError> {
    if report.created && stored.0 > FIRST_COMMITS {
        return Err(StartError::LogMissing);
    }
    if stored.0 < report.last_applied {
        return Err(StartError::StoreBehindLog { stored: stored.0, logged: report.last_applied });
    }
    let settle = |number: &u64| match *number == last_intent {
        true => Event::Applied { commit: *number },
        false => Event::NotApplied { commit: *number },
    };
    Ok(report.open_intents.iter().map(settle).collect())
}

/// Commits that `init` may make before the log exists: the keyring alone.
const FIRST_COMMITS: u64 = 1;

/// Writes the second records that an earlier process still owed.
pub async fn settle(
    recorder: &crate::audit::Recorder,
    events: Vec<Event>,
    now: Now,
) -> Result<(), StartError> {
    for event in events {
        recorder.note(event, now).await.map_err(|error| StartError::Log(error.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(last_applied: u64, open_intents: Vec<u64>) -> OpenReport {
        OpenReport {
            created: false,
            records: 1,
            last_time: WallTime(0),
            highest_time: WallTime(0),
            last_applied,
            open_intents,
            torn_tail: false,
        }
    }

    fn record(time: u64, event: Event) -> Record {
        let boot_time = crate::time::BootTime(0);
        Record { id: "a".into(), time: WallTime(time), boot_time, boot_id: "boot".into(), event }
    }

    #[test]
    fn counters_are_taken_from_before_the_horizon_and_leases_are_not() {
        let now = Now { wall: WallTime(1_000_000_000), boot: crate::time::BootTime(0) };
        let old = horizon(now).0 - 1;
        assert_eq!(view(now, WallTime(now.wall.0 + 1)), horizon(now));
        assert!(view(now, WallTime(old)).0 < old);
        let mut case = crate::case::Case::new();
        case.identity = Some(crate::spiffe::SpiffeId::parse("spiffe://example.org/a").unwrap());
        let name = format!("000b{}", "5a".repeat(32));
        let claims = serde_json::json!({ "ak_name": name, "reset_count": 7, "restart_count": 1 });
        case.claims.insert("tpm2".to_owned(), claims);
        let released = |time| {
            let event =
                Event::Released { case: case.clone(), lease_id: "b".into(), not_after: WallTime(u64::MAX) };
            record(time, event)
        };
        let mut recovered = Recovered::new(now);
        recovered.take(&released(old));
        let name = tpm2::AkName::parse(&hex::decode(name).unwrap()).unwrap();
        assert_eq!(
            recovered.counters.of(&name, WallTime(old)),
            Some(tpm2::Counters { reset: 7, restart: 1 })
        );
        assert_eq!((recovered.leases.standing(now).len(), recovered.trusted_time), (0, WallTime(0)));
        recovered.take(&released(old + 1));
        assert_eq!(recovered.leases.standing(now).len(), 1);
    }

    #[test]
    fn a_store_behind_the_log_refuses_to_start() {
        let refused = reconcile(&report(7, vec![]), CommitNumber(6), 6);
        assert!(matches!(refused, Err(StartError::StoreBehindLog { stored: 6, logged: 7 })));
    }

    #[test]
    fn an_open_intent_is_settled_by_what_the_store_says() {
        let events = reconcile(&report(6, vec![5, 7]), CommitNumber(7), 7).unwrap();
        assert_eq!(events, vec![Event::NotApplied { commit: 5 }, Event::Applied { commit: 7 }]);
    }

    #[test]
    fn a_missing_log_beside_a_used_store_refuses_to_start() {
        let created = OpenReport { created: true, ..report(0, vec![]) };
        assert!(matches!(reconcile(&created, CommitNumber(9), 0), Err(StartError::LogMissing)));
    }
}
