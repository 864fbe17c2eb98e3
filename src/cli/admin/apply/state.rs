//! What the broker has now, of the kinds that a directory speaks of.
//!
//! *Takes* a connection. *Gives* [`Present`]. *Denies* nothing: a kind that may not be read ends the command before anything is
//! sent. *Source*: `admin.proto`, the calls that list and show.

use super::directory::Wanted;
use crate::cli::admin::link::Link;
use crate::cli::admin::{Failure, Operators};
use crate::proto::admin::admin_client::AdminClient;
use crate::proto::admin::*;
use std::collections::BTreeMap;

/// What there is. A kind that the directory does not speak of is empty and was not read.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// By path.
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) policy: ShowPolicyResponse,
    /// By name.
    pub(super) sets: BTreeMap<String, ReferenceSet>,
    /// By name.
    pub(super) nodes: BTreeMap<String, Node>,
}

/// Reads it.
pub(super) async fn read(
    wanted: &Wanted,
    operators: &Operators,
    client: &mut AdminClient<Link>,
) -> Result<Present, Failure> {
    let mut present = Present::default();
    if wanted.secrets.is_some() {
        let mut after = String::new();
        loop {
            let request = ListSecretsRequest { after, ..ListSecretsRequest::default() };
            let page = operators.wait(client.list_secrets(request)).await?;
            present.secrets.extend(page.secrets.into_iter().map(|one| (one.path.clone(), one)));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
    }
    if wanted.policy.is_some() {
        present.policy = operators.wait(client.show_policy(ShowPolicyRequest {})).await?;
    }
    if wanted.sets.is_some() {
        let mut after = String::new();
        loop {
            let page = client.list_reference_sets(ListReferenceSetsRequest { after, limit: 0 });
            let page = operators.wait(page).await?;
            present.sets.extend(page.sets.into_iter().map(|one| (one.name.clone(), one)));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
    }
    if wanted.nodes.is_some() {
        let mut after = String::new();
        loop {
            let page = operators.wait(client.list_nodes(ListNodesRequest { after, limit: 0 })).await?;
            present.nodes.extend(page.nodes.into_iter().map(|one| (one.name.clone(), one)));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
    }
    Ok(present)
}
