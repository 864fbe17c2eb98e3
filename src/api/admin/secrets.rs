//! Roles `secrets` and, for terms, `policy`: values in, never out.
//!
//! *Takes* paths, fields, terms. *Gives* versions and what is known of them. *Denies* with the engine's own words.
//! *Source*: `admin.proto`; NIST SP 800-53 SC-12, AC-5 (who keeps values does not say who gets them).

use super::access::{Caller, Plan};
use super::{AdminService, answer, listing, two_persons};
use crate::limits;
use crate::proto::admin::destroy_secret_request::Which;
use crate::proto::admin::*;
use crate::registry::Role;
use crate::release::kv::{KvError, Prepared, SecretFields, SecretMetadata, Terms, Versions};
use crate::request::SecretPath;
use prost::Message;
use std::fmt;
use tonic::Status;
use zeroize::Zeroizing;

pub(super) async fn put(
    service: &AdminService,
    caller: &Caller,
    request: PutSecretRequest,
) -> Result<PutSecretResponse, Status> {
    let path = path(&request.path)?;
    if !request.labels.is_empty() && two_persons::in_force(service).await?.contains(&Role::Policy) {
        let why = "labels wait for a second person, and a value is never kept waiting: put the secret without \
                   labels, then propose them with `secret configure`";
        return Err(answer::refuse(answer::Refusal::SecondPerson, why));
    }
    let fields = request.fields.into_iter().map(|(name, value)| (name, Zeroizing::new(value)));
    let fields = SecretFields::new(fields.collect()).map_err(|error| answer::kv(&error))?;
    let current = service.kv.metadata(&path).await.map_err(|error| answer::store(&error))?;
    let current = current.map_or(0, |metadata| metadata.current);
    if request.expected_version.is_some_and(|expected| expected != current) {
        let why = format!("the newest version is {current}, not the expected one; nothing was put");
        return Err(answer::refuse(answer::Refusal::Changed, why));
    }
    let prepared = match request.labels.is_empty() {
        true => service.kv.put(&path, &fields, caller.at.wall).await,
        false if current == 0 => service.kv.put_new(&path, &fields, request.labels, caller.at.wall).await,
        false => {
            return Err(answer::invalid("the secret is there already: change its labels with configure"));
        }
    };
    let prepared = prepared.map_err(|error| answer::kv(&error))?;
    let version =
        prepared.details.get("version").and_then(serde_json::Value::as_u64).ok_or_else(answer::defect)?;
    let change = change(service, caller, &path, Ok(prepared), request.keep_latches).await?;
    Ok(PutSecretResponse { change: Some(change), version })
}

pub(super) async fn list(
    service: &AdminService,
    _caller: &Caller,
    request: ListSecretsRequest,
) -> Result<ListSecretsResponse, Status> {
    let (after, mut limit) = (listing::place(&request.after)?, listing::size(request.limit));
    loop {
        let listed = service.kv.list(&request.prefix, after.as_deref(), limit).await;
        let listed = listed.map_err(|error| answer::store(&error))?;
        let answer = ListSecretsResponse {
            secrets: listed.secrets.iter().map(secret).collect(),
            next: listed.next.map(hex::encode).unwrap_or_default(),
        };
        if answer.encoded_len() <= limits::ADMIN_LISTED_BYTES || limit <= 1 {
            return Ok(answer);
        }
        limit /= 2;
    }
}

pub(super) async fn describe(
    service: &AdminService,
    _caller: &Caller,
    request: DescribeSecretRequest,
) -> Result<DescribeSecretResponse, Status> {
    let metadata = service.kv.metadata(&path(&request.path)?).await.map_err(|error| answer::store(&error))?;
    let metadata = metadata.ok_or_else(|| answer::kv(&KvError::SecretUnknown))?;
    let versions = metadata.versions.iter().map(|(version, state)| SecretVersion {
        version: *version,
        created: state.created.to_string(),
        destroyed: state.destroyed.map(|time| time.to_string()).unwrap_or_default(),
        sealed_sha256: state.digest.clone(),
    });
    Ok(DescribeSecretResponse { secret: Some(secret(&metadata)), versions: versions.collect() })
}

/// Enabling widens, so it waits for a trusted clock; disabling does not.
pub(super) async fn set_disabled(
    service: &AdminService,
    caller: &Caller,
    request: SetSecretDisabledRequest,
) -> Result<ChangeResponse, Status> {
    if !request.disabled {
        caller.check_clock()?;
    }
    let path = path(&request.path)?;
    let prepared = service.kv.set_disabled(&path, request.disabled).await;
    let plan = plan(&path, prepared, request.keep_latches)?;
    match request.disabled {
        true => service.change_alone(caller, plan).await,
        false => service.change(caller, plan).await,
    }
}

pub(super) async fn destroy(
    service: &AdminService,
    caller: &Caller,
    request: DestroySecretRequest,
) -> Result<ChangeResponse, Status> {
    let path = path(&request.path)?;
    let versions = match request.which {
        Some(Which::Version(version)) => Versions::One(version),
        Some(Which::All(true)) => Versions::All,
        Some(Which::All(false)) | None => return Err(answer::invalid("say which version, or all")),
    };
    let prepared = service.kv.destroy(&path, versions, caller.at.wall).await;
    change(service, caller, &path, prepared, request.keep_latches).await
}

pub(super) async fn configure(
    service: &AdminService,
    caller: &Caller,
    request: ConfigureSecretRequest,
) -> Result<ChangeResponse, Status> {
    let path = path(&request.path)?;
    let given = |seconds: u32| (seconds != 0).then_some(seconds);
    let terms = Terms {
        labels: request.labels.map(|labels| labels.labels),
        lease_default_seconds: given(request.lease_default_seconds),
        lease_maximum_seconds: given(request.lease_maximum_seconds),
        exporter_demanded: request.exporter_demanded,
    };
    let prepared = service.kv.set_terms(&path, terms).await;
    change(service, caller, &path, prepared, request.keep_latches).await
}

async fn change(
    service: &AdminService,
    caller: &Caller,
    path: &SecretPath,
    prepared: Result<Prepared, KvError>,
    keep_latches: bool,
) -> Result<ChangeResponse, Status> {
    service.change(caller, plan(path, prepared, keep_latches)?).await
}

fn plan(path: &SecretPath, prepared: Result<Prepared, KvError>, keep_latches: bool) -> Result<Plan, Status> {
    let prepared = prepared.map_err(|error| answer::kv(&error))?;
    Ok(Plan {
        target: path.to_string(),
        details: prepared.details,
        transaction: prepared.transaction,
        kinds: Vec::new(),
        rests: vec![format!("secret:{path}")],
        keep_latches,
    })
}

fn path(text: &str) -> Result<SecretPath, Status> {
    let wrong =
        "a path is 1 to 256 bytes: segments of [a-z0-9._-] joined by `/`, none of them empty, `.` or `..`";
    SecretPath::parse(text).map_err(|_| answer::invalid(wrong))
}

fn secret(metadata: &SecretMetadata) -> Secret {
    Secret {
        path: metadata.path.to_string(),
        labels: metadata.labels.clone(),
        lease_default_seconds: metadata.lease_default_seconds,
        lease_maximum_seconds: metadata.lease_maximum_seconds,
        exporter_demanded: metadata.exporter_demanded,
        disabled: metadata.disabled,
        current_version: metadata.current,
        current_destroyed: metadata.releasable().is_none(),
    }
}

impl fmt::Debug for PutSecretRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PutSecretRequest").field("path", &self.path).finish_non_exhaustive()
    }
}
