//! `--format tpm2`: the attestation key comes from a file, so its enrolment and the counters last seen are not known.
//!
//! *Takes* the key's TPM2B_PUBLIC or TPMT_PUBLIC. *Gives* the claims. *Denies* what the format denies, but for the end of an
//! enrolment and counters below those seen before; `EndorsementUntrusted` for a key that may not attest.
//! *Source*: `evidence.md` §3; TCG TPM 2.0 Library part 2 §12.2.

use super::claims::Claims;
use super::process::NOT_KNOWN;
use super::{Args, Due, Examined, Stop, Usage, files, usage};
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Refusal};
use crate::evidence::tpm2::{self, AttestationKey, Counters, EnrolledAk, PublicArea, Tpm2Trust};
use crate::time::{Now, WallTime};
use std::path::Path;

pub(super) fn examine(
    args: &Args,
    body: &[u8],
    due: &Due,
    now: Now,
    checks: &mut Checks,
) -> Result<Examined, Stop> {
    let (node, public) = given(args)?;
    let refused = |error: tpm2::KeyError| Refusal::new(Denial::EndorsementUntrusted, error.to_string());
    let key = checks.note("attestation-key-attributes", AttestationKey::new(public).map_err(refused))?;
    let enrolled = EnrolledAk {
        node,
        key,
        ek_sha256: [0; 32],
        counters: Counters::default(),
        enrolled_at: WallTime(0),
        not_after: NOT_KNOWN,
    };
    let due = match due {
        Due::Unknown => None,
        Due::Bound(bound) => Some(tpm2::Due::Bound(bound)),
        Due::Literal(bytes) => Some(tpm2::Due::ExtraData(bytes)),
    };
    let found = tpm2::examine(body, due, &Tpm2Trust::new([enrolled], 0), &|_| None, now, checks)?;
    Ok(Examined { claims: Claims::Tpm2(Box::new(found.claims)), ends: found.ends })
}

/// The node's name, empty where none is given, and the key.
fn given(args: &Args) -> Result<(String, PublicArea), Usage> {
    let given = args.ak.as_deref();
    let given =
        given.ok_or_else(|| usage("--format tpm2 needs --ak FILE: the attestation key's public area"))?;
    let (node, path) = given.split_once('=').unwrap_or(("", given));
    if args.composite_with.is_some() && node.is_empty() {
        return Err(usage("beside a `process` document --ak is NAME=FILE: both keys must be of one node"));
    }
    let path = Path::new(path);
    let bytes = files::own(path)?;
    let public = PublicArea::parse_sized(&bytes).or_else(|_| PublicArea::parse(&bytes));
    let public =
        public.map_err(|error| files::wrong(path, &format!("no public area of a TPM's key: {error}")))?;
    Ok((node.to_owned(), public))
}
