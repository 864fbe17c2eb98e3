//! Role `policy`: the one text of all policies.
//!
//! *Takes* Cedar text. *Gives* it in force, or the compiler's words. *Denies* what does not compile and validate.
//! *Source*: `policy/`; catalogue rows 10, 26.

use super::access::{Caller, Plan};
use super::{AdminService, answer, written};
use crate::limits;
use crate::policy::cedar::PolicySet;
use crate::proto::admin::*;
use crate::registry::POLICY;
use crate::store::{Kind, Opened, Transaction, Vault};
use serde_json::json;
use tonic::Status;

pub(super) async fn put(
    service: &AdminService,
    caller: &Caller,
    request: PutPolicyRequest,
) -> Result<PutPolicyResponse, Status> {
    let vault = service.registry.vault();
    let (previous, before) = stored(vault).await?;
    let before_sha256 = written::sha256(before.as_bytes());
    if !request.expected_sha256.is_empty() && request.expected_sha256 != before_sha256 {
        let why = format!("the policy in force is {before_sha256}, not the expected one; nothing was put");
        return Err(answer::refuse(answer::Refusal::Changed, why));
    }
    let text = request.text;
    let set = compile(text.clone()).await?;
    let sha256 = written::sha256(text.as_bytes());
    let mut transaction = Transaction::default();
    let put = vault.put(&mut transaction, Kind::Policy, POLICY, previous.as_ref(), text.as_bytes());
    put.map_err(|error| answer::store(&error))?;
    let plan = Plan {
        target: POLICY.to_owned(),
        details: json!({ "policy_sha256": sha256, "replaces_sha256": before_sha256, "policies": set.len() }),
        transaction,
        kinds: vec![Kind::Policy],
        rests: vec!["policy".to_owned()],
        keep_latches: request.keep_latches,
    };
    let policies = u32::try_from(set.len()).unwrap_or(u32::MAX);
    let change = service.change(caller, plan).await?;
    Ok(PutPolicyResponse { change: Some(change), sha256, policies })
}

pub(super) async fn show(
    service: &AdminService,
    _caller: &Caller,
    _request: ShowPolicyRequest,
) -> Result<ShowPolicyResponse, Status> {
    let (_, text) = stored(service.registry.vault()).await?;
    let sha256 = written::sha256(text.as_bytes());
    Ok(ShowPolicyResponse { text, sha256 })
}

/// The stored text; empty where none was put.
pub(super) async fn stored(vault: &Vault) -> Result<(Option<Opened>, String), Status> {
    let record = vault.read(Kind::Policy, POLICY).await.map_err(|error| answer::store(&error))?;
    let text = record.as_ref().map_or(Ok(""), |record| std::str::from_utf8(&record.body));
    let unknown = |_| answer::refuse(answer::Refusal::Unavailable, "the stored policy is no text");
    let text = text.map_err(unknown)?.to_owned();
    Ok((record, text))
}

/// Compiles where it keeps no release waiting.
pub(super) async fn compile(text: String) -> Result<PolicySet, Status> {
    if text.len() > limits::POLICY_BYTES {
        return Err(answer::invalid("the policy text is over 1 MiB"));
    }
    let compiled = tokio::task::spawn_blocking(move || PolicySet::compile(&text)).await;
    compiled.map_err(|_| answer::defect())?.map_err(answer::invalid)
}
