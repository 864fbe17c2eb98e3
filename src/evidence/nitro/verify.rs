//! Whether a `nitro` document may be believed: it is of an enclave under a pinned root, unaltered, for this challenge, of now.
//!
//! *Takes* the body, [`NitroTrust`], the binding due, the time. *Gives* [`VerifiedNitro`]. *Denies* each by the name of what
//! is wrong, in the order of the checks below. *Source*: `evidence.md` §2 (checklist); RFC 9052 §4.4; RFC 9334 §10.2.
//!
//! Verified is not acceptable: an enclave in debug mode verifies. `appraisal::nitro_reference` says what is acceptable.

use super::Refusal;
use super::certificates::{Certificates, root_of};
use super::claims::{self, NitroClaims};
use super::parse::{Document, parse};
use super::trust::NitroTrust;
use crate::denial::Denial;
use crate::evidence::cose;
use crate::evidence::outcome::{Checks, Ends};
use crate::limits;
use crate::time::{Now, WallTime};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use subtle::ConstantTimeEq;

/// A document of an enclave under a pinned root, signed, bound to this challenge, fresh. Made by [`verify`] alone.
///
/// ```
/// use portcullis::evidence::nitro::{NitroClaims, VerifiedNitro};
/// fn read(verified: &VerifiedNitro) -> &NitroClaims { verified.claims() }
/// ```
/// ```compile_fail,E0451
/// use portcullis::evidence::{nitro::{NitroClaims, VerifiedNitro}, outcome::Ends};
/// fn forge(claims: NitroClaims, ends: Ends) -> VerifiedNitro { VerifiedNitro { claims, ends, subject: [0; 32] } }
/// ```
/// ```compile_fail,E0599
/// use portcullis::evidence::nitro::VerifiedNitro;
/// fn copy(verified: VerifiedNitro) -> (VerifiedNitro, VerifiedNitro) { (verified.clone(), verified) }
/// ```
#[must_use]
pub struct VerifiedNitro {
    claims: NitroClaims,
    ends: Ends,
    subject: [u8; 32],
}

impl VerifiedNitro {
    /// The claims.
    pub fn claims(&self) -> &NitroClaims {
        &self.claims
    }

    /// When each certificate ends, and from when on the document is too old.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// What a refusal is held against: SHA-256 over PCRs 0 to 15.
    pub fn subject(&self) -> [u8; 32] {
        self.subject
    }
}

impl std::fmt::Debug for VerifiedNitro {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VerifiedNitro")
            .field("module_id", &self.claims.module_id)
            .finish_non_exhaustive()
    }
}

/// What an offline examination established. It is no witness: nothing is released on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// The claims.
    pub claims: NitroClaims,
    /// The ends of everything that they rest on.
    pub ends: Ends,
}

/// Verifies a document. `due` is the *bound* of this challenge (`protocol.md`); the format needs no endorsements, so none are
/// read. **Denies** as the module says; `checks` gets each check by its name.
pub fn verify(
    body: &[u8],
    _endorsements: &[Vec<u8>],
    due: &[u8; limits::BINDING_BYTES],
    trust: &NitroTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<VerifiedNitro, Refusal> {
    let (document, claims, ends) = establish(body, Some(due), trust, now, checks)?;
    Ok(VerifiedNitro { subject: claims::subject(&document), claims, ends })
}

/// The same checks for a stored document, whose `nonce` may be of any length; without `due` freshness is not shown, and the
/// check `binding` is not among `checks`.
pub fn examine(
    body: &[u8],
    due: Option<&[u8]>,
    trust: &NitroTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<Examination, Refusal> {
    let (_, claims, ends) = establish(body, due, trust, now, checks)?;
    Ok(Examination { claims, ends })
}

fn establish<'a>(
    body: &'a [u8],
    due: Option<&[u8]>,
    trust: &NitroTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<(Document<'a>, NitroClaims, Ends), Refusal> {
    let document = checks.note("structure", parse(body))?;
    let root = checks.note("root", root_of(&document, trust))?;
    let certificates = checks.note("certificates", Certificates::of(&document, root))?;
    checks.note("certificate-usage", certificates.check_usage())?;
    checks.note("certificate-path", certificates.check_path(now))?;
    let ends = checks.note("certificate-validity", certificates.check_windows(now))?;
    checks.note("refused-keys", certificates.check_refused_keys(trust))?;
    checks.note("signature", check_signature(&document, &certificates))?;
    if let Some(due) = due {
        checks.note("binding", check_binding(&document, due))?;
    }
    let too_old_from = checks.note("timestamp", check_timestamp(document.timestamp, now))?;
    let claims = NitroClaims::of(&document, root.sha256());
    Ok((document, claims, ends.and("document timestamp", too_old_from)))
}

/// ES384 over COSE's Sig_structure, made of the bytes as they came.
fn check_signature(document: &Document<'_>, certificates: &Certificates<'_>) -> Result<(), Refusal> {
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, certificates.enclave_key()?);
    let (r, s) = document.signature.split_at(document.signature.len() / 2);
    // The library refuses these; a signature of zeros is what others forgot (CVE-2022-21449).
    let is_zero = claims::all_zero(r) || claims::all_zero(s);
    let message = cose::signed_bytes(document.protected, &[], document.payload);
    if is_zero || key.verify(&message, document.signature).is_err() {
        let detail = "the signature is not of the enclave certificate's key";
        return Err(Refusal::new(Denial::EvidenceSignatureInvalid, detail));
    }
    Ok(())
}

/// Whole, in constant time; a binding that is empty or all zeros is nobody's.
fn check_binding(document: &Document<'_>, due: &[u8]) -> Result<(), Refusal> {
    let carried = document.carried_binding().unwrap_or_default();
    let nobodys = claims::all_zero(due);
    match bool::from(carried.ct_eq(due)) && !nobodys {
        true => Ok(()),
        false => Err(Refusal::new(Denial::EvidenceBindingMismatch, "nonce is not the binding that is due")),
    }
}

/// Both limits count: at the age or the lead itself the document still stands. Gives when it is too old, exclusive.
fn check_timestamp(made: WallTime, now: Now) -> Result<WallTime, Refusal> {
    let (age, lead) = (now.wall.since(made), made.since(now.wall));
    let oldest = limits::NITRO_AGE_SECONDS.saturating_mul(1000);
    if age > oldest {
        return Err(Refusal::new(Denial::EvidenceTooOld, format!("made {age} ms ago")));
    }
    if lead > limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000) {
        return Err(Refusal::new(Denial::EvidenceFromFuture, format!("made {lead} ms ahead of now")));
    }
    Ok(made.plus(oldest).plus(1))
}
