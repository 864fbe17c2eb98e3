//! Enrolment of an attestation key: proof that it lives in the very TPM whose endorsement key a manufacturer certified.
//!
//! *Takes* a node's [`Request`], [`Manufacturers`], the EKs that an administrator approved, the time. *Gives* a [`Credential`] for the
//! node to open and a [`Pending`] that takes the answer once; then [`EnrolledAk`]. *Denies* `EvidenceMalformed`,
//! `EndorsementUntrusted`, `EndorsementExpired`, `EndorsementNotYetValid`, `EndorsementRevoked`, `CollateralUnavailable`,
//! `CollateralStale`, `ChallengeExpired`, `Defect`. *Source*: TCG TPM 2.0 Library part 1 §9.5.3.3, §24; TCG EK Credential Profile 2.5;
//! `evidence.md` §3 ("AK enrolment").
//!
//! Four keys must be one (CVE-2021-3406): the EK of the certificate, the EK that the credential is encrypted to, the AK whose
//! Name is in the credential, and the AK that is pinned. Each is computed here from the one before.

pub use super::credential::{Credential, NotMade};
pub use super::ek_certificate::{EkCertificate, ManufacturerError, Manufacturers, Revocation};

use super::Refusal;
use super::credential;
use super::key::{AttestationKey, EndorsementKey, KeyError};
use super::trust::{Counters, EnrolledAk};
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Ends};
use crate::limits;
use crate::time::{Now, WallTime};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeSet;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a node says of itself, all of it to be proven.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The TPMT_PUBLIC of its endorsement key.
    pub ek_public: &'a [u8],
    /// Its certificate, DER, as read from the TPM; none where the TPM has none.
    pub ek_certificate: Option<&'a [u8]>,
    /// Certificates that lead from that to a root.
    pub issuers: &'a [Vec<u8>],
    /// The TPMT_PUBLIC of the attestation key.
    pub ak_public: &'a [u8],
}

/// A challenge that waits for its answer. It is answered once, rightly or wrongly: [`Pending::finish`] takes it.
///
/// ```compile_fail,E0382
/// use portcullis::{evidence::{outcome::Checks, tpm2::enroll::Pending}, time::{Now, WallTime}};
/// fn twice(pending: Pending, now: Now, end: WallTime, checks: &mut Checks) {
///     let _ = pending.finish("node", b"first", end, now, checks);
///     let _ = pending.finish("node", b"second", end, now, checks);
/// }
/// ```
#[must_use]
pub struct Pending {
    key: AttestationKey,
    ek_sha256: [u8; 32],
    ends: Option<Ends>,
    vouched_by: VouchedBy,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    until: WallTime,
    until_boot: crate::time::BootTime,
}

/// Who says that the EK is a TPM's; goes into the record of the enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VouchedBy {
    /// A manufacturer, by a certificate.
    Manufacturer(EkCertificate),
    /// An administrator, who approved its hash.
    Administrator,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pending").field("ak_name", &self.key.name()).finish_non_exhaustive()
    }
}

/// Checks what a node says and challenges its TPM. `approved_eks` are SHA-256 of SubjectPublicKeyInfos: an EK among them needs
/// no certificate, and what certificate it has is not looked at. **Denies** as the module says.
pub fn begin(
    request: &Request<'_>,
    manufacturers: &Manufacturers,
    approved_eks: &BTreeSet<[u8; 32]>,
    now: Now,
    checks: &mut Checks,
) -> Result<(Credential, Pending), Refusal> {
    let ek = EndorsementKey::parse(request.ek_public).map_err(|error| unfit("endorsement key", &error));
    let ek = checks.note("endorsement-key", ek)?;
    let vouched_by = vouched(&ek, request, manufacturers, approved_eks, now, checks)?;
    let key = AttestationKey::parse(request.ak_public).map_err(|error| unfit("attestation key", &error));
    let key = checks.note("attestation-key", key)?;
    let (credential, secret) = checks.note("credential", challenge(&ek, &key))?;
    let ends = match &vouched_by {
        VouchedBy::Manufacturer(certificate) => Some(certificate.ends.clone()),
        VouchedBy::Administrator => None,
    };
    let pending = Pending {
        key,
        ek_sha256: ek.sha256(),
        ends,
        vouched_by,
        secret,
        until: now.wall.plus(limits::TPM2_ENROL_WITHIN_MS),
        until_boot: now.boot.plus(limits::TPM2_ENROL_WITHIN_MS),
    };
    Ok((credential, pending))
}

impl Pending {
    /// Takes the answer: what TPM2_ActivateCredential gave. `not_after` is the end that the administrator chose; the EK's
    /// certificates may end it sooner. **Denies** `ChallengeExpired`, `EndorsementUntrusted`, `EndorsementExpired`.
    pub fn finish(
        self,
        node: &str,
        answer: &[u8],
        not_after: WallTime,
        now: Now,
        checks: &mut Checks,
    ) -> Result<EnrolledAk, Refusal> {
        checks.note("answer-in-time", self.check_time(now))?;
        checks.note("activation", self.check_answer(answer))?;
        let not_after = self.ends.as_ref().map_or(not_after, |ends| ends.first().1.min(not_after));
        let enrolled = EnrolledAk {
            node: node.to_owned(),
            key: self.key,
            ek_sha256: self.ek_sha256,
            counters: Counters::default(),
            enrolled_at: now.wall,
            not_after,
        };
        checks.note("enrolment", enrolled.ends().check(now, Denial::EndorsementExpired))?;
        Ok(enrolled)
    }

    /// Who says that the EK is a TPM's.
    pub fn vouched_by(&self) -> &VouchedBy {
        &self.vouched_by
    }

    /// The key that would be enrolled.
    pub fn attestation_key(&self) -> &AttestationKey {
        &self.key
    }

    /// SHA-256 over the EK's SubjectPublicKeyInfo.
    pub fn ek_sha256(&self) -> &[u8; 32] {
        &self.ek_sha256
    }

    /// From when on the answer is too late.
    pub fn until(&self) -> WallTime {
        self.until
    }

    /// Whether an answer would be in time.
    pub fn is_open(&self, now: Now) -> bool {
        self.check_time(now).is_ok()
    }

    /// By both clocks: neither a wall clock set back nor a suspended machine gives more time.
    fn check_time(&self, now: Now) -> Result<(), Refusal> {
        match now.wall < self.until && now.boot < self.until_boot {
            true => Ok(()),
            false => Err(Refusal::new(Denial::ChallengeExpired, "the credential was not activated in time")),
        }
    }

    fn check_answer(&self, answer: &[u8]) -> Result<(), Refusal> {
        match bool::from(self.secret.as_slice().ct_eq(answer)) {
            true => Ok(()),
            false => {
                let detail = "the credential was not activated: the two keys are not of one TPM";
                Err(Refusal::new(Denial::EndorsementUntrusted, detail))
            }
        }
    }
}

fn vouched(
    ek: &EndorsementKey,
    request: &Request<'_>,
    manufacturers: &Manufacturers,
    approved_eks: &BTreeSet<[u8; 32]>,
    now: Now,
    checks: &mut Checks,
) -> Result<VouchedBy, Refusal> {
    if approved_eks.contains(&ek.sha256()) {
        return checks.note("endorsement-approved", Ok(VouchedBy::Administrator));
    }
    let certificate = request.ek_certificate.ok_or_else(|| {
        let hash = hex::encode(ek.sha256());
        let detail = format!("endorsement key {hash} has no certificate, and no administrator approved it");
        Refusal::new(Denial::EndorsementUntrusted, detail)
    });
    let checked = certificate.and_then(|der| manufacturers.check(der, request.issuers, now));
    let certificate = checks.note("endorsement-certificate", checked)?;
    checks.note("endorsement-key-certified", check_certified(ek, &certificate))?;
    Ok(VouchedBy::Manufacturer(certificate))
}

fn check_certified(ek: &EndorsementKey, certificate: &EkCertificate) -> Result<(), Refusal> {
    match ek.public().key == certificate.key {
        true => Ok(()),
        false => {
            let detail = "the certificate is of another key than the endorsement key";
            Err(Refusal::new(Denial::EndorsementUntrusted, detail))
        }
    }
}

type Secret = Zeroizing<[u8; SECRET_BYTES]>;

fn challenge(ek: &EndorsementKey, key: &AttestationKey) -> Result<(Credential, Secret), Refusal> {
    let defect = |NotMade| Refusal::new(Denial::Defect, NotMade.to_string());
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    SystemRandom::new().fill(secret.as_mut_slice()).map_err(|_| defect(NotMade))?;
    let credential = credential::make(ek, &key.name(), secret.as_slice()).map_err(defect)?;
    Ok((credential, secret))
}

fn unfit(what: &str, error: &KeyError) -> Refusal {
    let denial = match error {
        KeyError::Malformed(_) => Denial::EvidenceMalformed,
        KeyError::Attributes(_) | KeyError::Scheme | KeyError::Point => Denial::EndorsementUntrusted,
    };
    Refusal::new(denial, format!("{what}: {error}"))
}

/// As long as SHA-256, the shortest Name hash: a TPM takes no longer one.
const SECRET_BYTES: usize = 32;
