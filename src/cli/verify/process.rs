//! `--format process`: the node's key comes from a file, so its enrolment is not known.
//!
//! *Takes* `NAME=FILE` for each node. *Gives* the claims. *Denies* what the format denies, but for the end of an enrolment and
//! the identities that a node may vouch for. *Source*: `protocol.md` "process".

use super::claims::Claims;
use super::{Args, Due, Examined, Stop, Usage, files, usage};
use crate::evidence::outcome::Checks;
use crate::evidence::process::{self, EnrolledNode, NodeKey, Nodes};
use crate::time::{Now, WallTime};
use std::path::Path;

/// The end of an enrolment of which nobody said it; it is not shown.
pub(super) const NOT_KNOWN: WallTime = WallTime(u64::MAX);

pub(super) fn examine(
    args: &Args,
    body: &[u8],
    due: &Due,
    now: Now,
    checks: &mut Checks,
) -> Result<Examined, Stop> {
    if args.node_key.is_empty() {
        return Err(
            usage("--format process needs --node-key NAME=FILE: the key of the node that vouches").into()
        );
    }
    let nodes: Vec<EnrolledNode> = args.node_key.iter().map(|given| node(given)).collect::<Result<_, _>>()?;
    let found = process::examine(body, &Nodes::new(nodes, 0), due.fixed()?, now, checks)?;
    Ok(Examined { claims: Claims::Process(Box::new(found.statement)), ends: found.ends })
}

fn node(given: &str) -> Result<EnrolledNode, Usage> {
    let named = given.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let (name, path) =
        named.ok_or_else(|| usage("--node-key is NAME=FILE, such as node-1.example=node-1.pem"))?;
    let path = Path::new(path);
    let public_key =
        NodeKey::from_spki(&files::spki(path)?).map_err(|error| files::wrong(path, &error.to_string()))?;
    Ok(EnrolledNode {
        name: name.to_owned(),
        public_key,
        not_after: NOT_KNOWN,
        may_vouch_for: Vec::new(),
        measurements: Default::default(),
    })
}
