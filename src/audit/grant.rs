//! The witness that a permitted release is on disk, before it happens.

use crate::audit::log::{Log, LogError};
use crate::audit::record::{Event, LatchSet, Record};
use crate::audit::watch::FlipWatch;
use crate::case::{Case, Denied, Stage};
use crate::denial::Denial;
use crate::evidence::VerifiedEvidence;
use crate::limits;
use crate::policy::{Permit, Permitted};
use crate::time::{BootTime, Now, WallTime};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Writes decisions, and nothing leaves before it has.
pub struct Recorder {
    log: Arc<Log>,
    boot_id: String,
    /// Releases whose record is in doubt: they were denied, so a second record takes them back once the log works.
    in_doubt: Mutex<Vec<Event>>,
    /// The store was restored and that is not accepted: no release is recorded.
    withheld: AtomicBool,
    /// The disk is full and its ballast is out: what room there is, is for denials and for what administrators do.
    spent: AtomicBool,
    flips: FlipWatch,
}

/// The decision to release is durable. It names lease, versions and epochs, ends in seconds, and is spent by value.
///
/// Nobody but [`Recorder::record`] makes one:
/// ```compile_fail
/// let forged = portcullis::audit::Grant {};
/// ```
#[must_use]
pub struct Grant {
    permit: Permit,
    decision_id: String,
    lease_id: String,
    not_after: WallTime,
    not_after_boot: BootTime,
    expires: BootTime,
}

impl Recorder {
    /// A recorder over this log.
    pub fn new(log: Arc<Log>, boot_id: String) -> Self {
        Recorder {
            log,
            boot_id,
            in_doubt: Mutex::new(Vec::new()),
            withheld: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            flips: FlipWatch::default(),
        }
    }

    /// Denials that a release followed, as far as this process recorded both.
    pub fn flips(&self) -> &FlipWatch {
        &self.flips
    }

    /// The log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Records no release from now on (true), or again.
    pub fn withhold(&self, withheld: bool) {
        self.withheld.store(withheld, Ordering::SeqCst);
    }

    /// Says whether the disk's last room is being used.
    pub fn set_spent(&self, spent: bool) {
        self.spent.store(spent, Ordering::SeqCst);
    }

    /// Whether releases can be recorded: the log is written, and not into the disk's last room.
    pub fn is_healthy(&self) -> bool {
        self.log.healthy() && !self.spent.load(Ordering::SeqCst)
    }

    /// Whether no release is recorded because the store was restored.
    pub fn is_withheld(&self) -> bool {
        self.withheld.load(Ordering::SeqCst)
    }

    /// Records the release that `permit` permits, or that a held lease goes on. **Denies** `AuditUnavailable` where the record is not durable,
    /// `RestoreNotAccepted` where the store was restored and that is not accepted.
    pub async fn record(&self, mut permit: Permit, now: Now) -> Result<Grant, Denied> {
        permit.evidence_mut().case_mut().stage = Stage::Audit;
        if self.is_withheld() {
            return Err(permit.into_case().deny(Denial::RestoreNotAccepted));
        }
        if self.spent.load(Ordering::SeqCst) {
            return Err(permit.into_case().deny_because(Denial::AuditUnavailable, "the disk's last room"));
        }
        let lease_id = permit.evidence().held().map_or_else(random_id, |held| Ok(held.lease_id.clone()));
        let (Ok(decision_id), Ok(lease_id)) = (random_id(), lease_id) else {
            return Err(permit.into_case().deny(Denial::Defect));
        };
        let life = u64::from(permit.ttl_seconds()).saturating_mul(1000);
        let not_after = now.wall.plus(life);
        // The record borrows the case for as long as it is written: a copy of all its text costs more than the hash.
        let case = std::mem::take(permit.evidence_mut().case_mut());
        let case = Case { stage: Stage::Release, ..case };
        let event = match permit.evidence().held() {
            None => Event::Released { case, lease_id: lease_id.clone(), not_after },
            Some(_) => Event::Renewed { case, lease_id: lease_id.clone(), not_after },
        };
        let doubt =
            InDoubt { recorder: self, decision_id: &decision_id, lease_id: &lease_id, settled: false };
        let record = self.entry(decision_id.clone(), event, now);
        let appended = self.append(&record).await;
        if let Event::Released { case, .. } | Event::Renewed { case, .. } = record.event {
            *permit.evidence_mut().case_mut() = Case { stage: Stage::Audit, ..case };
        }
        if let Err(error) = appended {
            return Err(permit.into_case().deny_because(Denial::AuditUnavailable, error));
        }
        doubt.settle();
        let left = permit.usable_until().since(now.wall).min(limits::GRANT_MS);
        let (not_after_boot, expires) = (now.boot.plus(life), now.boot.plus(left));
        Ok(Grant { permit, decision_id, lease_id, not_after, not_after_boot, expires })
    }

    /// Records a denial under `id`. The denial stands, whether or not this succeeds.
    pub async fn denied(
        &self,
        id: String,
        denied: &Denied,
        latches: Vec<LatchSet>,
        now: Now,
    ) -> Result<(), LogError> {
        let repeats = (denied.denial == Denial::LatchHolds).then(|| denied.case.detail.clone());
        let event = Event::Denied {
            denial: denied.denial,
            class: denied.denial.class().name().to_owned(),
            reason: denied.denial.reason().name().to_owned(),
            case: (*denied.case).clone(),
            latches,
            repeats,
        };
        self.append(&self.entry(id, event, now)).await
    }

    /// Records anything else, under a fresh id, which is returned.
    pub async fn note(&self, event: Event, now: Now) -> Result<String, LogError> {
        let id = random_id().map_err(|_| LogError::RecordTooLarge)?;
        self.append(&self.entry(id.clone(), event, now)).await?;
        Ok(id)
    }

    /// Appends, and then what is owed about records in doubt; those stay owed where that fails.
    async fn append(&self, record: &Record) -> Result<(), LogError> {
        let sequence = self.log.append(record).await?;
        self.flips.take(sequence, record);
        let owed = std::mem::take(&mut *self.in_doubt());
        for event in owed {
            let Ok(id) = random_id() else { continue };
            let now = Now { wall: record.time, boot: record.boot_time };
            if self.log.append(&self.entry(id, event.clone(), now)).await.is_err() {
                self.in_doubt().push(event);
            }
        }
        Ok(())
    }

    fn in_doubt(&self) -> MutexGuard<'_, Vec<Event>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: String, event: Event, now: Now) -> Record {
        Record { id, time: now.wall, boot_time: now.boot, boot_id: self.boot_id.clone(), event }
    }
}

/// A release record on its way. Where its append fails, times out or is dropped, the record may still be found later, so
/// its taking back is owed from that moment.
struct InDoubt<'a> {
    recorder: &'a Recorder,
    decision_id: &'a str,
    lease_id: &'a str,
    settled: bool,
}

impl InDoubt<'_> {
    fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.recorder.in_doubt().push(Event::Undelivered {
                decision_id: self.decision_id.to_owned(),
                lease_id: self.lease_id.to_owned(),
                detail: "its record was in doubt, and it was denied".to_owned(),
            });
        }
    }
}

impl Grant {
    /// The evidence.
    pub fn evidence(&self) -> &VerifiedEvidence {
        self.permit.evidence()
    }

    /// The evidence, to prove the peer again.
    pub fn evidence_mut(&mut self) -> &mut VerifiedEvidence {
        self.permit.evidence_mut()
    }

    /// What was granted, in the order asked.
    pub fn secrets(&self) -> &[Permitted] {
        self.permit.secrets()
    }

    /// The id of the record.
    pub fn decision_id(&self) -> &str {
        &self.decision_id
    }

    /// The lease.
    pub fn lease_id(&self) -> &str {
        &self.lease_id
    }

    /// The lease's end, wall clock.
    pub fn not_after(&self) -> WallTime {
        self.not_after
    }

    /// The lease's end, boot clock.
    pub fn not_after_boot(&self) -> BootTime {
        self.not_after_boot
    }

    /// Within what time the lease is attested again, milliseconds; 0 unless it is held.
    pub fn reattest_within_ms(&self) -> u32 {
        self.permit.reattest_within_ms()
    }

    /// Until when this can be redeemed, on the boot clock (exclusive).
    pub fn expires(&self) -> BootTime {
        self.expires
    }

    /// Gives the witness up for a second record.
    pub fn into_case(self) -> Box<Case> {
        self.permit.into_case()
    }
}

/// 32 hex digits of 16 random bytes: one length, no order. **Denies** `Defect` without randomness.
pub fn random_id() -> Result<String, Denial> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Denial::Defect)?;
    Ok(hex::encode(bytes))
}
