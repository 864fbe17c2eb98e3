//! `--format nitro`: all that is needed comes with the document, but for the root.
//!
//! *Takes* roots from files, or Amazon's. *Gives* the claims. *Denies* what the format denies.
//! *Source*: `evidence.md` §2.

use super::claims::Claims;
use super::{Args, Due, Examined, Stop, Usage, files, usage};
use crate::evidence::nitro::{self, NitroTrust};
use crate::evidence::outcome::Checks;
use crate::time::Now;

pub(super) fn examine(
    args: &Args,
    body: &[u8],
    due: &Due,
    now: Now,
    checks: &mut Checks,
) -> Result<Examined, Stop> {
    let found = nitro::examine(body, due.bytes(), &trust(args)?, now, checks)?;
    Ok(Examined { claims: Claims::Nitro(Box::new(found.claims)), ends: found.ends })
}

fn trust(args: &Args) -> Result<NitroTrust, Usage> {
    let Some(directory) = &args.roots else {
        return NitroTrust::aws().map_err(|error| usage(format!("the root that is compiled in: {error}")));
    };
    let mut trust = NitroTrust::default();
    for (path, der) in files::roots(directory)? {
        let name = path.display().to_string();
        trust = trust.and_root(&name, &der, None).map_err(|error| files::wrong(&path, &error.to_string()))?;
    }
    Ok(trust)
}
