//! The freshness stage: everything the decision rests on is current now, and until when.
//!
//! *Takes* `VerifiedEvidence`. *Gives* [`CurrentEvidence`], with the earliest end of all inputs.
//! *Denies* what re-proving the peer denies (`BundleStale`, `RevocationStale`, `PeerRevoked`, …) and `EndorsementExpired`.
//! *Source*: `evidence.md` §1 "What goes stale"; RFC 9334 §10.

use crate::case::{Denied, Stage};
use crate::denial::Denial;
use crate::evidence::VerifiedEvidence;
use crate::time::{Now, WallTime};
use crate::transport::trust::Trust;
use std::sync::Arc;

/// What freshness is held against.
pub struct Freshness {
    trust: Arc<Trust>,
}

/// Verified evidence all of whose inputs are current, and until when the first of them ends.
///
/// Nobody but [`Freshness::check`] makes one:
/// ```compile_fail
/// let forged = portcullis::freshness::CurrentEvidence {};
/// ```
#[must_use]
pub struct CurrentEvidence {
    verified: VerifiedEvidence,
    usable_until: WallTime,
}

impl Freshness {
    /// Freshness against this trust.
    pub fn new(trust: Arc<Trust>) -> Self {
        Freshness { trust }
    }

    /// Proves the peer again and looks at the end of every input. Verification takes time, and trust may have changed.
    pub fn check(&self, mut verified: VerifiedEvidence, now: Now) -> Result<CurrentEvidence, Denied> {
        verified.case_mut().stage = Stage::Freshness;
        if let Err(denial) = verified.reprove(&self.trust, now) {
            return Err(verified.into_case().deny(denial));
        }
        let ends = verified.documents().ends();
        if let Err(refusal) = ends.check(now, Denial::EndorsementExpired) {
            return Err(verified.into_case().deny_because(refusal.denial, refusal.detail));
        }
        let usable_until = verified.peer().usable_until().min(ends.first().1);
        Ok(CurrentEvidence { verified, usable_until })
    }
}

impl CurrentEvidence {
    /// The evidence.
    pub fn evidence(&self) -> &VerifiedEvidence {
        &self.verified
    }

    /// The evidence, for a later stage to note what it found or to prove the peer again.
    pub fn evidence_mut(&mut self) -> &mut VerifiedEvidence {
        &mut self.verified
    }

    /// The earliest end of all that this rests on, exclusive.
    pub fn usable_until(&self) -> WallTime {
        self.usable_until
    }

    /// Gives the witness up for its record.
    pub fn into_evidence(self) -> VerifiedEvidence {
        self.verified
    }
}
