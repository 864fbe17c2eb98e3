//! Why `dcap-qvl` refused: it has only words, and the audit log wants the denial. Nothing is ever accepted here.
//!
//! *Takes* what was refused. *Gives* the first check that fails, by name. *Denies* `EndorsementUntrusted`,
//! `EndorsementRevoked`, `EvidenceSignatureInvalid`, `PlatformNotAcceptable`. *Source*: `evidence.md` §5, in its order.

use super::backend::{Backend, sha256, verifies_raw};
use super::claims::TdAttributes;
use super::collateral::{CollateralError, Statement};
use super::prepare::{Prepared, untrusted};
use super::quote::{Report, malformed};
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Refusal};
use dcap_qvl::intel::parse_pck_extension_with;
use dcap_qvl::{TcbInfo, TcbStatus};

/// The first check that fails; where all of them pass, `words`, under `dcap-qvl`.
pub(super) fn diagnose(prepared: &Prepared<'_>, words: &str, checks: &mut Checks) -> Refusal {
    for (name, step) in STEPS {
        if let Err(refusal) = checks.note(name, step(prepared)) {
            return refusal;
        }
    }
    let words: String = words.chars().filter(|character| !character.is_control()).take(160).collect();
    let refusal = untrusted(format!("dcap-qvl: {words}"));
    let noted: Result<(), Refusal> = checks.note("dcap-qvl", Err(refusal.clone()));
    noted.err().unwrap_or(refusal)
}

pub(super) type Step = fn(&Prepared<'_>) -> Result<(), Refusal>;

/// What `dcap-qvl` does in one call: passed together, and looked at one by one where it refuses.
pub(super) const STEPS: [(&str, Step); 12] = [
    ("root-ca-crl-signature", root_crl_signature),
    ("tcb-info-signature", tcb_info_signature),
    ("qe-identity-signature", qe_identity_signature),
    ("pck-chain", pck_chain),
    ("pck-crl-signature", pck_crl_signature),
    ("revocation", revocation),
    ("qe-report-signature", qe_report_signature),
    ("attestation-key", attestation_key),
    ("qe-identity-match", qe_identity_match),
    ("quote-signature", quote_signature),
    ("tcb-level", tcb_level),
    ("td-attributes", td_attributes),
];

fn root_crl_signature(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let signed = prepared.root_crl.is_by(&prepared.root);
    held(signed, || untrusted("the root did not sign the root CA CRL"))
}

fn tcb_info_signature(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    statement(prepared, "TCB info", &prepared.tcb_info.statement)
}

fn qe_identity_signature(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    statement(prepared, "QE identity", &prepared.qe_identity.statement)
}

fn statement(prepared: &Prepared<'_>, name: &str, statement: &Statement) -> Result<(), Refusal> {
    let signer = &statement.signer;
    held(signer.is_by(&prepared.root), || {
        untrusted(format!("the root did not sign the signer of the {name}"))
    })?;
    let signed = verifies_raw(&signer.key, statement.text.as_bytes(), &statement.signature);
    held(signed, || untrusted(format!("the signature over the {name} is not of its signer")))
}

fn pck_chain(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let platform = &prepared.platform;
    held(platform.pck_ca.is_by(&prepared.root), || untrusted("the root did not sign the PCK CA"))?;
    held(platform.pck.is_by(&platform.pck_ca), || untrusted("the PCK CA did not sign the PCK certificate"))
}

fn pck_crl_signature(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let signed = prepared.pck_crl.is_by(&prepared.platform.pck_ca);
    held(signed, || untrusted("the PCK CA did not sign the PCK CRL"))
}

fn revocation(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let of_root = [
        ("root", &*prepared.root),
        ("PCK CA", &prepared.platform.pck_ca),
        ("TCB signing certificate", &prepared.tcb_info.statement.signer),
        ("QE identity signing certificate", &prepared.qe_identity.statement.signer),
    ];
    let of_root = of_root.into_iter().find(|(_, certificate)| prepared.root_crl.revokes(certificate));
    let of_ca = prepared.pck_crl.revokes(&prepared.platform.pck).then_some("PCK certificate");
    match of_root.map(|(name, _)| name).or(of_ca) {
        Some(name) => Err(Refusal::new(Denial::EndorsementRevoked, format!("the {name} is revoked"))),
        None => Ok(()),
    }
}

fn qe_report_signature(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let quote = prepared.quote;
    let signed = verifies_raw(&prepared.platform.pck.key, quote.qe_report.bytes, quote.qe_report_signature);
    held(signed, || invalid("the PCK certificate's key did not sign the QE report"))
}

/// SHA-256 of attestation key and authentication data, then zeros.
pub(super) fn attestation_key(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let quote = prepared.quote;
    let hash = sha256(&[quote.attestation_key.as_slice(), quote.qe_authentication].concat());
    let due = [hash.as_slice(), &[0; 32]].concat();
    let named = quote.qe_report.report_data.as_slice() == due;
    held(named, || untrusted("the QE report names another attestation key"))
}

fn qe_identity_match(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let (report, identity) = (&prepared.quote.qe_report, &prepared.qe_identity.whole().map_err(unreadable)?);
    let debug = report.attributes.first().is_none_or(|flags| flags & 0x02 != 0);
    let same = *report.mrsigner == identity.mrsigner
        && report.isv_prod_id == identity.isvprodid
        && masked(report.misc_select, &identity.miscselect, &identity.miscselect_mask)
        && masked(report.attributes, &identity.attributes, &identity.attributes_mask);
    held(same && !debug, || untrusted("the quoting enclave is not the one that Intel names"))?;
    let level = identity.tcb_levels.iter().find(|level| report.isv_svn >= level.tcb.isvsvn);
    let level = level.ok_or_else(|| unacceptable("the quoting enclave is below every TCB level"))?;
    held(level.tcb_status != TcbStatus::Revoked, || unacceptable("the quoting enclave's TCB is revoked"))
}

fn masked(value: &[u8], expected: &[u8], mask: &[u8]) -> bool {
    let all = value.iter().zip(expected).zip(mask);
    all.into_iter().all(|((value, expected), mask)| value & mask == expected & mask)
}

fn quote_signature(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let quote = prepared.quote;
    let signed = verifies_raw(quote.attestation_key, quote.signed, quote.signature);
    held(signed, || invalid("the attestation key did not sign the quote"))
}

fn tcb_level(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let info = &prepared.tcb_info.whole().map_err(unreadable)?;
    match &prepared.quote.report {
        Report::Enclave(_) => level_of(prepared, info, None),
        Report::Td(report) => {
            module(info, report.tee_tcb_svn, report.mrsignerseam, report.seam_attributes)?;
            level_of(prepared, info, Some(report.tee_tcb_svn))?;
            report.v15.map_or(Ok(()), |v15| level_of(prepared, info, Some(v15.tee_tcb_svn2)))
        }
    }
}

fn level_of(prepared: &Prepared<'_>, info: &TcbInfo, svn: Option<&[u8; 16]>) -> Result<(), Refusal> {
    let extension = parse_pck_extension_with::<Backend>(&prepared.platform.pck.der);
    let extension = extension.map_err(|_| malformed("the PCK certificate has no readable SGX extension"))?;
    let met = |level: &&dcap_qvl::TcbLevel| {
        let short = level.shortfalls(&extension.cpu_svn, extension.pce_svn, svn);
        short.is_ok_and(|short| short.is_empty())
    };
    let level = info.tcb_levels.iter().find(met);
    let level = level.ok_or_else(|| unacceptable("the platform is below every TCB level"))?;
    held(level.tcb_status != TcbStatus::Revoked, || unacceptable("the platform's TCB is revoked"))?;
    let Some(svn) = svn else { return Ok(()) };
    let identity = info.tdx_module_identity(svn);
    let identity = identity.map_err(|_| unacceptable("Intel names no TDX module of this version"))?;
    let Some(identity) = identity else { return Ok(()) };
    let level = identity.tcb_levels.iter().find(|level| level.shortfall(svn).is_none());
    let level = level.ok_or_else(|| unacceptable("the TDX module is below every TCB level"))?;
    held(level.tcb_status != TcbStatus::Revoked, || unacceptable("the TDX module's TCB is revoked"))
}

/// Signer and attributes of the TDX module, as its version's identity has them, else as the platform's.
fn module(info: &TcbInfo, svn: &[u8; 16], signer: &[u8; 48], attributes: &[u8; 8]) -> Result<(), Refusal> {
    let identity = info.tdx_module_identity(svn);
    let identity = identity.map_err(|_| unacceptable("Intel names no TDX module of this version"))?;
    let expected =
        identity.map(|identity| (&identity.mrsigner, &identity.attributes, &identity.attributes_mask));
    let base = info.tdx_module.as_ref().map(|base| (&base.mrsigner, &base.attributes, &base.attributes_mask));
    let expected = expected.or(base).ok_or_else(|| untrusted("the TCB info names no TDX module"))?;
    let [due_signer, due, mask] =
        [expected.0, expected.1, expected.2].map(|text| hex::decode(text).unwrap_or_default());
    let unmasked = attributes.iter().zip(&mask).any(|(value, mask)| value & !mask != 0);
    let same = due_signer == signer
        && mask.len() == attributes.len()
        && !unmasked
        && masked(attributes, &due, &mask);
    held(same, || unacceptable("the TDX module is not the one that Intel names"))
}

fn td_attributes(prepared: &Prepared<'_>) -> Result<(), Refusal> {
    let Report::Td(report) = &prepared.quote.report else { return Ok(()) };
    TdAttributes::never(report.td_attributes).map_or(Ok(()), |why| Err(unacceptable(why)))
}

fn held(holds: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal()) }
}

fn unreadable(error: CollateralError) -> Refusal {
    malformed(format!("an endorsement is no collateral: {error}"))
}

fn invalid(detail: &str) -> Refusal {
    Refusal::new(Denial::EvidenceSignatureInvalid, detail)
}

fn unacceptable(detail: &str) -> Refusal {
    Refusal::new(Denial::PlatformNotAcceptable, detail)
}
