//! `--format tdx` and `--format sgx`: a quote, and Intel's collateral from the attester or from files of one's own.
//!
//! *Takes* collateral as JSON, lists in DER or PEM. *Gives* the claims. *Denies* what the formats deny.
//! *Source*: `evidence.md` §5; `deploy/attestation/tdx.md`.

use super::claims::Claims;
use super::{Args, Due, Examined, Format, Stop, Usage, check_endorsements, files};
use crate::denial::{Class, Denial};
use crate::evidence::outcome::{Checks, Refusal};
use crate::evidence::tdx::{self, Collateral, Report, TdxTrust};
use crate::time::Now;

pub(super) fn examine(
    args: &Args,
    format: Format,
    body: &[u8],
    due: &Due,
    now: Now,
    checks: &mut Checks,
) -> Result<Examined, Stop> {
    let due = due.fixed()?;
    let trust = trust(args)?;
    let endorsements: Vec<Vec<u8>> =
        args.endorsement.iter().map(|path| files::body(path)).collect::<Result<_, _>>()?;
    check_endorsements(&endorsements, checks)?;
    if format == Format::Sgx {
        let found = tdx::examine_sgx(body, &endorsements, due, &trust, now, checks)?;
        return Ok(Examined { claims: Claims::Sgx(Box::new(found.claims)), ends: found.ends });
    }
    let found = tdx::examine(body, &endorsements, due, &trust, now, checks)?;
    Ok(Examined { claims: Claims::Tdx(Box::new(found.claims)), ends: found.ends })
}

/// What an undecided quote says of itself that no collateral would make acceptable: with debug on its host reads it, whoever
/// signed it. For the appraisal to refuse, unless reference values allow it.
pub(super) fn never_acceptable(format: Format, body: &[u8], refusal: &Refusal) -> Option<Refusal> {
    let is_dcap = matches!(format, Format::Tdx | Format::Sgx);
    if !is_dcap || refusal.denial.class() == Class::Refused {
        return None;
    }
    let debug = match tdx::parse(body).ok()?.report {
        Report::Td(report) => report.td_attributes.first().is_some_and(|bits| bits & TD_DEBUG != 0),
        Report::Enclave(report) => report.attributes.first().is_some_and(|bits| bits & SGX_DEBUG != 0),
    };
    let detail = "debug is on, by the quote's own word";
    debug.then(|| Refusal::new(Denial::PlatformNotAcceptable, detail))
}

fn trust(args: &Args) -> Result<TdxTrust, Usage> {
    let mut trust = match &args.roots {
        None => TdxTrust::intel(),
        Some(directory) => {
            let mut trust = TdxTrust::none();
            for (path, der) in files::roots(directory)? {
                trust = trust.with_root(&der).map_err(|error| files::wrong(&path, &error.to_string()))?;
            }
            trust
        }
    };
    for path in &args.collateral {
        trust = trust.with_collateral(collateral(path, &files::own(path)?)?);
    }
    for path in &args.crl {
        for list in files::lists(path)? {
            // By its issuer a list belongs where it belongs, whichever of its two names it stands under.
            let written = serde_json::json!({ "pck_crl": hex::encode(list) });
            trust = trust.with_collateral(collateral(path, written.to_string().as_bytes())?);
        }
    }
    Ok(trust)
}

fn collateral(path: &std::path::Path, json: &[u8]) -> Result<Collateral, Usage> {
    Collateral::parse(json).map_err(|error| files::wrong(path, &error.to_string()))
}

/// TDATTRIBUTES.DEBUG, bit 0 (Intel 348551 table 3.23).
const TD_DEBUG: u8 = 0x01;
/// ATTRIBUTES.DEBUG, bit 1 (Intel SDM volume 3D, "ATTRIBUTES").
const SGX_DEBUG: u8 = 0x02;
