//! The witness that the claims are those of a current reference set.

use crate::appraisal::claims::{AttestedClaims, Claims, REFERENCE_SET};
use crate::appraisal::reference_values::{Appraisal, ReferenceValues};
use crate::case::{Case, Denied, Stage};
use crate::denial::Denial;
use crate::evidence::VerifiedEvidence;
use crate::latch::Unlatched;
use crate::time::{Now, WallTime};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The reference values of this broker.
pub struct Appraiser {
    reference: ArcSwap<Option<Snapshot>>,
}

struct Snapshot {
    values: ReferenceValues,
    epoch: u64,
}

/// Evidence whose claims match a reference set that has not expired.
///
/// Nobody but [`Appraiser::appraise`] makes one:
/// ```compile_fail
/// let forged = portcullis::appraisal::AttestationResult {};
/// ```
#[must_use]
pub struct AttestationResult {
    unlatched: Unlatched,
    claims: Box<AttestedClaims>,
    usable_until: WallTime,
}

impl Appraiser {
    /// An appraiser that knows nothing yet, and so denies.
    pub fn new() -> Self {
        Appraiser { reference: ArcSwap::from_pointee(None) }
    }

    /// Swaps the reference values; none = they could not be read.
    pub fn set(&self, values: Option<ReferenceValues>, epoch: u64) {
        self.reference.store(Arc::new(values.map(|values| Snapshot { values, epoch })));
    }

    /// The epoch of the reference values; none where they could not be read.
    pub fn epoch(&self) -> Option<u64> {
        self.reference.load().as_ref().as_ref().map(|snapshot| snapshot.epoch)
    }

    /// The ends of all reference sets; none where they could not be read.
    pub fn ends(&self) -> Option<Vec<WallTime>> {
        let reference = self.reference.load();
        let snapshot = reference.as_ref().as_ref()?;
        Some(snapshot.values.sets().map(|set| set.not_after).collect())
    }

    /// Holds the claims against the reference sets of this workload. **Denies** as the module says.
    pub fn appraise(&self, mut unlatched: Unlatched, now: Now) -> Result<AttestationResult, Denied> {
        unlatched.evidence_mut().case_mut().stage = Stage::Appraisal;
        let reference = self.reference.load();
        let Some(reference) = reference.as_ref() else {
            return Err(unlatched.into_case().deny(Denial::ReferenceValuesUnavailable));
        };
        unlatched.evidence_mut().case_mut().epochs.insert("reference".to_owned(), reference.epoch);
        let identity = unlatched.evidence().peer().connection().spiffe_id();
        let claims = Claims::from(unlatched.evidence().documents());
        match reference.values.appraise(identity, &claims, now) {
            Appraisal::Matches { set, not_after } => {
                note_match(unlatched.evidence_mut().case_mut(), &set);
                let usable_until = unlatched.usable_until().min(not_after);
                let claims = Box::new(AttestedClaims::new(claims, &set));
                Ok(AttestationResult { unlatched, claims, usable_until })
            }
            Appraisal::NotAcceptable { set, detail } => Err(unlatched
                .into_case()
                .deny_because(Denial::PlatformNotAcceptable, format!("reference:{set}: {detail}"))),
            Appraisal::Mismatch { detail } => {
                Err(unlatched.into_case().deny_because(Denial::MeasurementMismatch, detail))
            }
            Appraisal::Expired { set } => Err(unlatched
                .into_case()
                .deny_because(Denial::ReferenceValuesExpired, format!("reference:{set}"))),
            Appraisal::Missing => Err(unlatched.into_case().deny(Denial::ReferenceValuesMissing)),
        }
    }
}

/// The record says which set matched, among the claims that policy will read.
fn note_match(case: &mut Case, set: &str) {
    case.rules.push(format!("reference:{set}"));
    for claims in case.claims.values_mut() {
        if let Some(object) = claims.as_object_mut() {
            object.insert(REFERENCE_SET.to_owned(), set.into());
        }
    }
}

impl Default for Appraiser {
    fn default() -> Self {
        Appraiser::new()
    }
}

impl AttestationResult {
    /// The evidence.
    pub fn evidence(&self) -> &VerifiedEvidence {
        self.unlatched.evidence()
    }

    /// The evidence, for a later stage.
    pub fn evidence_mut(&mut self) -> &mut VerifiedEvidence {
        self.unlatched.evidence_mut()
    }

    /// The attestation result of each format, as policy reads it.
    pub fn claims(&self) -> &AttestedClaims {
        &self.claims
    }

    /// The earliest end of all that this rests on, exclusive.
    pub fn usable_until(&self) -> WallTime {
        self.usable_until
    }

    /// Gives the witness up for its record.
    pub fn into_case(self) -> Box<Case> {
        self.unlatched.into_case()
    }
}
