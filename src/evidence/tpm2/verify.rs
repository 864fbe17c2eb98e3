//! Whether a quote may be believed: it is by an enrolled key, unaltered, for this challenge, of a TPM that did not go back.
//!
//! *Takes* the body, [`Tpm2Trust`], the counters last seen, the binding due, the time. *Gives* [`VerifiedTpm2`]. *Denies* each
//! by the name of what is wrong, in the order of the checks below. *Source*: `evidence.md` §3 (checklist); TCG TPM 2.0 Library
//! part 1 §31.4, part 3 §18.4; RFC 9334 §10.2.
//!
//! Verified is not acceptable: any PCRs verify. `appraisal::tpm2_reference` says which are acceptable.

use super::Refusal;
use super::algorithm::sha256;
use super::claims::{self, QuotedReplay, Tpm2Claims};
use super::document::{Document, parse};
use super::public::AkName;
use super::trust::{Counters, EnrolledAk, Tpm2Trust};
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Ends};
use crate::limits;
use crate::time::Now;
use subtle::ConstantTimeEq;

/// A quote by an enrolled key, bound to this challenge, of a TPM whose counters did not go back. Made by [`verify`] alone.
///
/// ```
/// use portcullis::evidence::tpm2::{Tpm2Claims, VerifiedTpm2};
/// fn read(verified: &VerifiedTpm2) -> &Tpm2Claims { verified.claims() }
/// ```
/// ```compile_fail,E0451
/// use portcullis::evidence::{outcome::Ends, tpm2::{AkName, Counters, Tpm2Claims, VerifiedTpm2}};
/// fn forge(claims: Tpm2Claims, ends: Ends, name: AkName, counters: Counters) -> VerifiedTpm2 { VerifiedTpm2 { claims, ends, name, counters, subject: [0; 32] } }
/// ```
/// ```compile_fail,E0599
/// use portcullis::evidence::tpm2::VerifiedTpm2;
/// fn copy(verified: VerifiedTpm2) -> (VerifiedTpm2, VerifiedTpm2) { (verified.clone(), verified) }
/// ```
#[must_use]
pub struct VerifiedTpm2 {
    claims: Tpm2Claims,
    ends: Ends,
    name: AkName,
    counters: Counters,
    subject: [u8; 32],
}

impl VerifiedTpm2 {
    /// The claims.
    pub fn claims(&self) -> &Tpm2Claims {
        &self.claims
    }

    /// When the enrolment of the key ends; a quote itself knows no time.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// What a refusal is held against: SHA-256 over the quoted PCRs.
    pub fn subject(&self) -> [u8; 32] {
        self.subject
    }

    /// The key that signed, by its Name.
    pub fn ak_name(&self) -> &AkName {
        &self.name
    }

    /// The counters, to be kept as the last seen of this key: the greater of these and those kept.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl std::fmt::Debug for VerifiedTpm2 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("VerifiedTpm2").field("node", &self.claims.node).finish_non_exhaustive()
    }
}

/// What an offline examination established. It is no witness: nothing is released on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// The claims.
    pub claims: Tpm2Claims,
    /// The ends of everything that they rest on.
    pub ends: Ends,
    /// The counters.
    pub counters: Counters,
}

/// What `extraData` is to be.
#[derive(Clone, Copy, Debug)]
pub enum Due<'a> {
    /// SHA-256 of this *bound* (`protocol.md`), as in every release.
    Bound(&'a [u8; limits::BINDING_BYTES]),
    /// These bytes themselves, as others' quotes have them.
    ExtraData(&'a [u8]),
}

/// Verifies a document. `due` is the *bound* of this challenge (`protocol.md`); `last_seen` gives the counters that were last
/// seen of a key, from memory; the format needs no endorsements, so none are read. **Denies** as the module says; `checks`
/// gets each check by its name.
pub fn verify(
    body: &[u8],
    _endorsements: &[Vec<u8>],
    due: &[u8; limits::BINDING_BYTES],
    trust: &Tpm2Trust,
    last_seen: &dyn Fn(&AkName) -> Option<Counters>,
    now: Now,
    checks: &mut Checks,
) -> Result<VerifiedTpm2, Refusal> {
    let (document, Examination { claims, ends, counters }) =
        establish(body, Some(Due::Bound(due)), trust, last_seen, now, checks)?;
    Ok(VerifiedTpm2 { subject: claims::subject(&document), name: document.ak_name, claims, ends, counters })
}

/// The same checks for a stored document; without `due` freshness is not shown, and the check `binding` is not among `checks`.
pub fn examine(
    body: &[u8],
    due: Option<Due<'_>>,
    trust: &Tpm2Trust,
    last_seen: &dyn Fn(&AkName) -> Option<Counters>,
    now: Now,
    checks: &mut Checks,
) -> Result<Examination, Refusal> {
    establish(body, due, trust, last_seen, now, checks).map(|(_, examination)| examination)
}

fn establish<'a>(
    body: &'a [u8],
    due: Option<Due<'_>>,
    trust: &Tpm2Trust,
    last_seen: &dyn Fn(&AkName) -> Option<Counters>,
    now: Now,
    checks: &mut Checks,
) -> Result<(Document<'a>, Examination), Refusal> {
    let document = checks.note("structure", parse(body))?;
    let ak = checks.note("attestation-key", enrolled(&document, trust))?;
    checks.note("enrolment", ak.ends().check(now, Denial::EndorsementExpired))?;
    checks.note("signature-scheme", check_scheme(&document, ak))?;
    checks.note("signature", check_signature(&document, ak))?;
    if let Some(due) = due {
        checks.note("binding", check_binding(&document, due))?;
    }
    checks.note("pcr-digest", check_pcr_digest(&document, ak))?;
    let replayed = checks.note("event-log", check_event_log(&document))?;
    let seen = last_seen(&document.ak_name).map_or(ak.counters, |seen| seen.max(ak.counters));
    let counters = checks.note("clock", check_clock(&document, seen))?;
    let claims = Tpm2Claims::of(&document, ak, &replayed);
    Ok((document, Examination { claims, ends: ak.ends(), counters }))
}

/// The key is looked up by its Name among those enrolled; nothing of it is taken from the message.
fn enrolled<'t>(document: &Document<'_>, trust: &'t Tpm2Trust) -> Result<&'t EnrolledAk, Refusal> {
    trust.by_name(&document.ak_name).ok_or_else(|| {
        let name = hex::encode(document.ak_name.as_bytes());
        Refusal::new(Denial::EndorsementUntrusted, format!("attestation key {name} is not enrolled"))
    })
}

fn check_scheme(document: &Document<'_>, ak: &EnrolledAk) -> Result<(), Refusal> {
    let invalid = || {
        let detail = format!("the signature is not by the key's own scheme, {}", ak.key.algorithm());
        Refusal::new(Denial::EvidenceSignatureInvalid, detail)
    };
    ak.key.signs_with(&document.signature).then_some(()).ok_or_else(invalid)
}

/// Over the TPMS_ATTEST as it came.
fn check_signature(document: &Document<'_>, ak: &EnrolledAk) -> Result<(), Refusal> {
    let invalid = || {
        let detail = "the signature is not of the attestation key";
        Refusal::new(Denial::EvidenceSignatureInvalid, detail)
    };
    ak.key.verifies(document.attest_bytes, &document.signature).then_some(()).ok_or_else(invalid)
}

/// Whole, in constant time; what is empty or all zeros is nobody's.
fn check_binding(document: &Document<'_>, due: Due<'_>) -> Result<(), Refusal> {
    let hashed;
    let (given, expected): (&[u8], &[u8]) = match due {
        Due::Bound(bound) => {
            hashed = sha256(bound);
            (bound, &hashed)
        }
        Due::ExtraData(bytes) => (bytes, bytes),
    };
    let nobodys = given.iter().all(|byte| *byte == 0);
    match bool::from(document.carried_binding().ct_eq(expected)) && !nobodys {
        true => Ok(()),
        false => {
            let detail = "extraData is not what the binding that is due demands";
            Err(Refusal::new(Denial::EvidenceBindingMismatch, detail))
        }
    }
}

/// The values that came along are those that the TPM hashed, in the order of the selection, by the signature's hash.
fn check_pcr_digest(document: &Document<'_>, ak: &EnrolledAk) -> Result<(), Refusal> {
    let digest = ak.key.hash().digest(&document.pcr_values);
    match digest == document.attest.pcr_digest {
        true => Ok(()),
        false => {
            let detail = "pcr_values are not those that were signed";
            Err(Refusal::new(Denial::EvidenceSignatureInvalid, detail))
        }
    }
}

/// Every quoted PCR that has an event in the log comes to its quoted value by it, and there is one: a log that says nothing
/// of the quote is another machine's.
fn check_event_log<'a>(document: &Document<'a>) -> Result<Vec<QuotedReplay<'a>>, Refusal> {
    let Some((_, log)) = &document.event_log else { return Ok(Vec::new()) };
    let mut quoted = Vec::new();
    for selection in &document.attest.selections {
        let mut by_log = log.replay(selection.bank);
        for ((bank, pcr), value) in document.attest.pcrs().zip(&document.pcr_values) {
            let Some(replayed) = (bank == selection.bank).then(|| by_log.remove(&pcr)).flatten() else {
                continue;
            };
            if replayed.value != *value {
                let detail = format!("the event log does not replay to the quoted {bank} PCR {pcr}");
                return Err(Refusal::new(Denial::EvidenceSignatureInvalid, detail));
            }
            quoted.push(QuotedReplay { bank, pcr, replayed });
        }
    }
    match quoted.is_empty() {
        false => Ok(quoted),
        true => {
            let detail = "the event log has no event of any quoted PCR";
            Err(Refusal::new(Denial::EvidenceSignatureInvalid, detail))
        }
    }
}

fn check_clock(document: &Document<'_>, seen: Counters) -> Result<Counters, Refusal> {
    let backwards = |detail: String| Refusal::new(Denial::EvidenceCounterBackwards, detail);
    let clock = &document.attest.clock;
    if !clock.safe {
        return Err(backwards("the TPM says that its clock is not safe".to_owned()));
    }
    let counters = Counters::of(clock);
    if counters < seen {
        let (Counters { reset, restart }, of) = (counters, seen);
        return Err(backwards(format!(
            "reset and restart counts are {reset} and {restart}, after {} and {}",
            of.reset, of.restart
        )));
    }
    Ok(counters)
}
