//! `--format sev-snp`: roots and intermediates from files or AMD's, certificates and lists from files alone.
//!
//! *Takes* certificates in DER or PEM, lists. *Gives* the claims. *Denies* what the format denies; a list that no trusted root
//! signed `EndorsementUntrusted`, one of the future `EndorsementNotYetValid`, one without an end `CollateralStale`.
//! *Source*: `evidence.md` §4; AMD 57230.

use super::claims::Claims;
use super::{Args, Due, Examined, Stop, Usage, check_endorsements, files, usage};
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Refusal};
use crate::evidence::sev_snp::{self, SevSnpTrust, SigningKey, TrustError};
use crate::time::Now;

pub(super) fn examine(
    args: &Args,
    body: &[u8],
    due: &Due,
    now: Now,
    checks: &mut Checks,
) -> Result<Examined, Stop> {
    let due = due.fixed()?;
    let endorsements = files::endorsed_certificates(&args.endorsement)?;
    let mut trust = trust(args)?;
    if !args.crl.is_empty() {
        let lists = hand_in_lists(args, body, &mut trust, now)?;
        checks.note("revocation-lists", lists)?;
    }
    check_endorsements(&endorsements, checks)?;
    let (claims, ends) = match due {
        Some(due) => {
            let verified = sev_snp::verify(body, &endorsements, due, &trust, now, checks)?;
            (verified.claims().clone(), verified.ends().clone())
        }
        None => {
            let examined = sev_snp::examine(body, &endorsements, &trust, now, checks)?;
            (examined.claims().clone(), examined.ends().clone())
        }
    };
    Ok(Examined { claims: Claims::SevSnp(Box::new(claims)), ends })
}

fn trust(args: &Args) -> Result<SevSnpTrust, Usage> {
    let mut trust = match &args.roots {
        None => SevSnpTrust::amd(),
        Some(directory) => {
            let mut trust = SevSnpTrust::empty();
            for (path, der) in files::roots(directory)? {
                // AMD publishes each root together with its intermediate.
                let taken = trust.add_root(&der).or_else(|_| trust.add_intermediate(&der));
                taken.map_err(|_| files::wrong(&path, "neither a root nor an intermediate of AMD's kind"))?;
            }
            if trust.roots().is_empty() {
                return Err(files::wrong(
                    directory,
                    "holds no root: `ARK-Milan`, `ARK-Genoa` or `ARK-Turin`",
                ));
            }
            trust
        }
    };
    for path in &args.collateral {
        for der in files::certificates(path)? {
            let taken = match trust.hand_in_certificate(&der) {
                Err(TrustError::NoSigningKey) => trust.add_intermediate(&der),
                other => other.map(drop),
            };
            taken.map_err(|error| files::wrong(path, &error.to_string()))?;
        }
    }
    Ok(trust)
}

/// AMD publishes two lists a root, and either may name its intermediates: both are looked at, whichever place they are kept in.
fn hand_in_lists(
    args: &Args,
    body: &[u8],
    trust: &mut SevSnpTrust,
    now: Now,
) -> Result<Result<(), Refusal>, Usage> {
    let own = sev_snp::parse(body).ok().and_then(|report| report.signing_key).unwrap_or(SigningKey::Vcek);
    let other = if own == SigningKey::Vcek { SigningKey::Vlek } else { SigningKey::Vcek };
    let mut places = [own, other].into_iter();
    for path in &args.crl {
        for list in files::lists(path)? {
            let place = places.next().ok_or_else(|| usage("a report has two revocation lists at most"))?;
            match trust.hand_in_list(&list, place, u64::MAX, now).map_err(|error| refused(&error)) {
                Ok(_) => {}
                Err(Some(refusal)) => return Ok(Err(refusal)),
                Err(None) => return Err(files::wrong(path, "no whole revocation list")),
            }
        }
    }
    Ok(Ok(()))
}

fn refused(error: &TrustError) -> Option<Refusal> {
    let denial = match error {
        TrustError::ListUntrusted => Denial::EndorsementUntrusted,
        TrustError::ListFromFuture => Denial::EndorsementNotYetValid,
        TrustError::ListWithoutEnd | TrustError::ListOlder => Denial::CollateralStale,
        TrustError::CertificateMalformed
        | TrustError::NoRoot
        | TrustError::NoIntermediate
        | TrustError::NoSigningKey
        | TrustError::TooMany
        | TrustError::ListMalformed => return None,
    };
    Some(Refusal::new(denial, error.to_string()))
}
