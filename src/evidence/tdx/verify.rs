//! Whether a DCAP quote may be believed: Intel's keys, all of it of now, for this challenge, from a TCB that Intel knows.
//!
//! *Takes* a body, its endorsements, the binding due, [`TdxTrust`], the time. *Gives* [`VerifiedTdx`] or [`VerifiedSgx`].
//! *Denies* what `prepare` and `diagnosis` deny, and `PlatformNotAcceptable` for a TCB that Intel's collateral does not know
//! or calls revoked. *Source*: `evidence.md` §5; Intel QVL, as `dcap-qvl` has it.

use super::backend::Backend;
use super::claims::{PlatformClaims, SgxClaims, TcbClaims, TdxClaims};
use super::diagnosis::{STEPS, attestation_key, diagnose};
use super::pem;
use super::prepare::{Prepared, prepare};
use super::quote::{Quote, Report, malformed, parse};
use super::trust::TdxTrust;
use crate::evidence::outcome::{Checks, Ends, Refusal};
use crate::limits;
use crate::time::Now;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy};

/// A TD's quote that verified: Intel's keys, this challenge, of now. Whether its TCB and its measurements are acceptable is
/// the appraisal's to say. Made by [`verify`] alone.
///
/// ```
/// use portcullis::evidence::tdx::{TdxClaims, VerifiedTdx};
/// fn read(verified: &VerifiedTdx) -> &TdxClaims { verified.claims() }
/// ```
/// ```compile_fail,E0451
/// use portcullis::evidence::{outcome::Ends, tdx::{TdxClaims, VerifiedTdx}};
/// fn forge(claims: TdxClaims, ends: Ends) -> VerifiedTdx { VerifiedTdx { claims, ends } }
/// ```
/// ```compile_fail,E0599
/// use portcullis::evidence::tdx::VerifiedTdx;
/// fn copy(verified: VerifiedTdx) -> (VerifiedTdx, VerifiedTdx) { (verified.clone(), verified) }
/// ```
#[must_use]
pub struct VerifiedTdx {
    claims: TdxClaims,
    ends: Ends,
}

/// An SGX enclave's quote that verified; as [`VerifiedTdx`]. Made by [`verify_sgx`] alone.
///
/// ```compile_fail,E0451
/// use portcullis::evidence::{outcome::Ends, tdx::{SgxClaims, VerifiedSgx}};
/// fn forge(claims: SgxClaims, ends: Ends) -> VerifiedSgx { VerifiedSgx { claims, ends } }
/// ```
#[must_use]
pub struct VerifiedSgx {
    claims: SgxClaims,
    ends: Ends,
}

macro_rules! witness {
    ($witness:ident, $claims:ident) => {
        impl $witness {
            /// The claims.
            pub fn claims(&self) -> &$claims {
                &self.claims
            }

            /// Until when it holds: every certificate, list and statement of Intel's, by name.
            pub fn ends(&self) -> &Ends {
                &self.ends
            }

            /// What a refusal is held against: SHA-256 over the measurements.
            pub fn subject(&self) -> [u8; 32] {
                self.claims.subject()
            }
        }

        impl std::fmt::Debug for $witness {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.debug_struct(stringify!($witness)).finish_non_exhaustive()
            }
        }
    };
}

witness!(VerifiedTdx, TdxClaims);
witness!(VerifiedSgx, SgxClaims);

/// What an offline examination established. It is no witness: nothing is released on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination<C> {
    /// The claims.
    pub claims: C,
    /// The ends of everything that they rest on.
    pub ends: Ends,
}

/// Verifies a TD's quote. `due` is what REPORTDATA must be; `endorsements` are the attester's collateral, each as
/// [`super::Collateral::parse`] reads it. Every check is noted in `checks`, in order.
pub fn verify<E: AsRef<[u8]>>(
    body: &[u8],
    endorsements: &[E],
    due: &[u8; limits::BINDING_BYTES],
    trust: &TdxTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<VerifiedTdx, Refusal> {
    let Examination { claims, ends } = examine(body, endorsements, Some(due), trust, now, checks)?;
    Ok(VerifiedTdx { claims, ends })
}

/// Verifies an SGX enclave's quote; all else as [`verify`].
pub fn verify_sgx<E: AsRef<[u8]>>(
    body: &[u8],
    endorsements: &[E],
    due: &[u8; limits::BINDING_BYTES],
    trust: &TdxTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<VerifiedSgx, Refusal> {
    let Examination { claims, ends } = examine_sgx(body, endorsements, Some(due), trust, now, checks)?;
    Ok(VerifiedSgx { claims, ends })
}

/// The same checks for a stored quote; without `due` freshness is not shown, and the check `binding` is not among `checks`.
pub fn examine<E: AsRef<[u8]>>(
    body: &[u8],
    endorsements: &[E],
    due: Option<&[u8; limits::BINDING_BYTES]>,
    trust: &TdxTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<Examination<TdxClaims>, Refusal> {
    let quote = checks.note("structure", parse(body).and_then(of_td))?;
    let Report::Td(report) = quote.report else { return Err(malformed(NO_TD)) };
    let (tcb, platform, ends) = verify_quote(&quote, endorsements, due, trust, now, checks)?;
    Ok(Examination { claims: TdxClaims::new(&quote, &report, tcb, platform), ends })
}

/// The same for an SGX enclave's quote.
pub fn examine_sgx<E: AsRef<[u8]>>(
    body: &[u8],
    endorsements: &[E],
    due: Option<&[u8; limits::BINDING_BYTES]>,
    trust: &TdxTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<Examination<SgxClaims>, Refusal> {
    let quote = checks.note("structure", parse(body).and_then(of_enclave))?;
    let Report::Enclave(report) = quote.report else { return Err(malformed(NO_ENCLAVE)) };
    let (tcb, platform, ends) = verify_quote(&quote, endorsements, due, trust, now, checks)?;
    Ok(Examination { claims: SgxClaims::new(&quote, &report, tcb, platform), ends })
}

fn of_td(quote: Quote<'_>) -> Result<Quote<'_>, Refusal> {
    if quote.is_tdx() { Ok(quote) } else { Err(malformed(NO_TD)) }
}

fn of_enclave(quote: Quote<'_>) -> Result<Quote<'_>, Refusal> {
    if quote.is_tdx() { Err(malformed(NO_ENCLAVE)) } else { Ok(quote) }
}

fn verify_quote<E: AsRef<[u8]>>(
    quote: &Quote<'_>,
    endorsements: &[E],
    due: Option<&[u8; limits::BINDING_BYTES]>,
    trust: &TdxTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<(TcbClaims, PlatformClaims, Ends), Refusal> {
    let prepared = prepare(quote, endorsements, due, trust, now, checks)?;
    // Debug and service TDs are for the appraisal to refuse, by name; what a status means, too.
    let root = &prepared.root.der;
    let verifier =
        QuoteVerifier::<Backend>::new_with_config(root.to_vec()).allow_debug(true).allow_service_td(true);
    let seconds = prepared.time.seconds();
    let policy = QuotePolicy::claims_only(seconds);
    let claims = match verifier.verify_with_policy(quote.bytes, collateral(&prepared), seconds, &policy) {
        Ok(claims) => claims,
        Err(error) => return Err(diagnose(&prepared, &error.to_string(), checks)),
    };
    for (name, _) in STEPS {
        checks.note(name, Ok(()))?;
    }
    checks.note("second-reading", check_second_reading(&prepared, &claims))?;
    let platform =
        PlatformClaims::new(&claims, quote, prepared.platform.ca.name(), super::backend::sha256(root));
    Ok((TcbClaims::new(&claims), platform, prepared.ends))
}

/// The parts that count, as `dcap-qvl` takes them. Without a PCK chain of the collateral's: it would go before the quote's.
/// Of an issuer chain the signer alone: after it there is the root, which was found to be the pinned one, and that is given.
fn collateral(prepared: &Prepared<'_>) -> QuoteCollateralV3 {
    let (tcb_info, qe_identity) = (&prepared.tcb_info.statement, &prepared.qe_identity.statement);
    QuoteCollateralV3 {
        pck_crl_issuer_chain: String::new(),
        root_ca_crl: prepared.root_crl.der.clone(),
        pck_crl: prepared.pck_crl.der.clone(),
        tcb_info_issuer_chain: pem::first(&tcb_info.chain),
        tcb_info: tcb_info.text.clone(),
        tcb_info_signature: tcb_info.signature.clone(),
        qe_identity_issuer_chain: pem::first(&qe_identity.chain),
        qe_identity: qe_identity.text.clone(),
        qe_identity_signature: qe_identity.signature.clone(),
        pck_certificate_chain: None,
    }
}

/// What `dcap-qvl` does not look at, or read by itself: the upper half of the QE report's data, and that both of us read
/// one quote.
fn check_second_reading(prepared: &Prepared<'_>, claims: &QuoteClaims) -> Result<(), Refusal> {
    attestation_key(prepared)?;
    let same = match (&prepared.quote.report, claims.report.as_td10(), claims.report.as_sgx()) {
        (Report::Td(ours), Some(theirs), None) => {
            *ours.report_data == theirs.report_data
                && *ours.mrtd == theirs.mr_td
                && *ours.td_attributes == theirs.td_attributes
                && ours.rtmr.map(|rtmr| *rtmr) == [theirs.rt_mr0, theirs.rt_mr1, theirs.rt_mr2, theirs.rt_mr3]
                && ours.v15.map(|v15| *v15.mrservicetd)
                    == claims.report.as_td15().map(|theirs| theirs.mr_service_td)
        }
        (Report::Enclave(ours), None, Some(theirs)) => {
            *ours.report_data == theirs.report_data
                && *ours.mrenclave == theirs.mr_enclave
                && *ours.mrsigner == theirs.mr_signer
                && *ours.attributes == theirs.attributes
        }
        _ => false,
    };
    let (ours, theirs) = (prepared.platform.sgx, &claims.platform.pck);
    let same = same && theirs.fmspc == ours.fmspc && theirs.pce_id == ours.pce_id;
    if same { Ok(()) } else { Err(malformed("two readings of the quote differ")) }
}

const NO_TD: &str = "the quote is not of a TD";
const NO_ENCLAVE: &str = "the quote is not of an SGX enclave";
