//! Role `operations`: what is kept of vendors' collateral, and how it gets newer.
//!
//! *Takes* files, or the wish for newer ones. *Gives* what is held with its ends, and how the services fare. *Denies* a file that
//! is not genuine, is older than what was seen, or does not read; what is held stays as it was. *Source*: issue 5, point 4.

use super::access::Caller;
use super::answer::{self, Refusal};
use super::{AdminService, trust, written};
use crate::audit::record::Event;
use crate::collateral::{Failure, HeldItem, Holdings, Import, Lacking, ServiceStatus};
use crate::evidence::sev_snp::SigningKey;
use crate::limits;
use crate::proto::admin::accept_collateral_request::What as Accepted;
use crate::proto::admin::import_collateral_request::What;
use crate::proto::admin::*;
use serde_json::json;
use std::time::Duration;
use tonic::Status;

pub(super) async fn status(
    service: &AdminService,
    _caller: &Caller,
    _request: CollateralStatusRequest,
) -> Result<CollateralStatusResponse, Status> {
    let status = holdings(service)?.status(service.registry.broker().clock.untrusted());
    Ok(CollateralStatusResponse {
        held: status.held.into_iter().map(item).collect(),
        services: status.services.into_iter().map(shown).collect(),
        faults: status
            .faults
            .into_iter()
            .map(|fault| CollateralFault { file: fault.file, why: fault.why })
            .collect(),
        under_way: u64::try_from(status.under_way).unwrap_or(u64::MAX),
    })
}

/// Others' acts wait meanwhile, so it is not waited for long; what is under way goes on.
pub(super) async fn refresh(
    service: &AdminService,
    caller: &Caller,
    _request: RefreshCollateralRequest,
) -> Result<RefreshCollateralResponse, Status> {
    let holdings = holdings(service)?;
    let intended = service.registry.intend(caller.act("collateral", json!(null)), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let (asking, now) = (holdings.clone(), caller.now);
    let refreshing = tokio::spawn(async move { asking.refresh(now).await });
    let within = Duration::from_millis(limits::COLLATERAL_REFRESH_WAITS_MS);
    let (lacking, whole) = match tokio::time::timeout(within, refreshing).await {
        Ok(ended) => (ended.map_err(|_| answer::defect())?, true),
        Err(_) => (Vec::new(), false),
    };
    let failed = lacking.into_iter().map(failure).collect();
    Ok(RefreshCollateralResponse { record, failed, goes_on: !whole })
}

pub(super) async fn import(
    service: &AdminService,
    caller: &Caller,
    request: ImportCollateralRequest,
) -> Result<ImportCollateralResponse, Status> {
    let holdings = holdings(service)?;
    let (kind, what, bytes) = match request.what {
        Some(What::SevSnpCertificate(bytes)) => ("sev-snp certificate", Import::SevSnpCertificate, bytes),
        Some(What::SevSnpIntermediate(bytes)) => ("sev-snp intermediate", Import::SevSnpIntermediate, bytes),
        Some(What::SevSnpVcekList(bytes)) => {
            ("sev-snp vcek list", Import::SevSnpList(SigningKey::Vcek), bytes)
        }
        Some(What::SevSnpVlekList(bytes)) => {
            ("sev-snp vlek list", Import::SevSnpList(SigningKey::Vlek), bytes)
        }
        Some(What::Dcap(bytes)) => ("dcap", Import::Dcap, bytes),
        None => return Err(answer::invalid("say what the file is")),
    };
    let details = json!({ "kind": kind, "sha256": written::sha256(&bytes) });
    let intended = service.registry.intend(caller.act("collateral", details), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let imported = holdings.import(what, &bytes, caller.now).await;
    let state = match &imported {
        Ok(items) => {
            let names: Vec<&str> = items.iter().map(|item| item.what.as_str()).collect();
            format!("imported by {record}: {}", names.join(", "))
        }
        Err(failure) => format!("not imported by {record}: {failure}"),
    };
    note(service, caller, state).await?;
    let items = imported.map_err(|failure| refused(&failure, "imported"))?;
    Ok(ImportCollateralResponse {
        record,
        imported: items.into_iter().map(item).collect(),
        durable: holdings.is_durable(),
    })
}

/// Going back widens, so two persons do it; the file's hash and what stands tie the approval to both.
pub(super) async fn accept(
    service: &AdminService,
    caller: &Caller,
    request: AcceptCollateralRequest,
) -> Result<AcceptResponse, Status> {
    let holdings = holdings(service)?;
    let (kind, what, bytes) = match request.what {
        Some(Accepted::SevSnpVcekList(bytes)) => {
            ("sev-snp vcek list", Import::SevSnpList(SigningKey::Vcek), bytes)
        }
        Some(Accepted::SevSnpVlekList(bytes)) => {
            ("sev-snp vlek list", Import::SevSnpList(SigningKey::Vlek), bytes)
        }
        Some(Accepted::Dcap(bytes)) => ("dcap", Import::Dcap, bytes),
        None => return Err(answer::invalid("say what the file is")),
    };
    let details = json!({ "kind": kind, "sha256": written::sha256(&bytes) });
    if let Some(waits) = trust::agreed(service, caller, "collateral", &details).await? {
        return Ok(waits);
    }
    let intended = service.registry.intend(caller.act("collateral", details), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let accepted = holdings.accept(what, &bytes, caller.now).await;
    let state = match &accepted {
        Ok(items) => format!("accepted as it is by {record}: {}", items.join(", ")),
        Err(failure) => format!("not accepted by {record}: {failure}"),
    };
    note(service, caller, state).await?;
    let accepted = accepted.map_err(|failure| refused(&failure, "accepted"))?;
    Ok(AcceptResponse { record, accepted, proposal: String::new() })
}

/// What came of it, on the log.
async fn note(service: &AdminService, caller: &Caller, state: String) -> Result<(), Status> {
    let epoch = service.registry.broker().verifiers.hardware_epoch();
    let event = Event::Input { name: "collateral".to_owned(), epoch, state };
    let unsettled = |_| answer::refuse(Refusal::Unsettled, "it is done, but that could not be recorded");
    service.note(caller, event).await.map(drop).map_err(unsettled)
}

fn refused(failure: &Failure, what: &str) -> Status {
    match failure {
        Failure::MarksUnavailable | Failure::ClockSuspect => {
            answer::refuse(Refusal::Unavailable, format!("nothing was {what}: {failure}"))
        }
        Failure::Defect => answer::defect(),
        other => answer::invalid(format!("nothing was {what}: {other}")),
    }
}

fn holdings(service: &AdminService) -> Result<&Holdings, Status> {
    let none = || answer::refuse(Refusal::Unavailable, "no collateral is kept here");
    service.collateral.as_ref().ok_or_else(none)
}

fn item(held: HeldItem) -> CollateralItem {
    CollateralItem {
        what: held.what,
        service: held.service.name().to_owned(),
        origin: held.origin.name().to_owned(),
        issued: held.issued.to_string(),
        obtained: held.obtained.to_string(),
        ends: held.ends.to_string(),
        current: held.current,
    }
}

fn shown(service: ServiceStatus) -> CollateralService {
    let failed =
        service.failed.map(|(what, when, why)| CollateralFailure { what, when: when.to_string(), why });
    CollateralService {
        service: service.service.name().to_owned(),
        address: service.address,
        backing_off_ms: service.backing_off_ms,
        answered: service.answered.map(|when| when.to_string()).unwrap_or_default(),
        failed,
    }
}

fn failure(lacking: Lacking) -> CollateralFailure {
    let Lacking { item, failure } = lacking;
    CollateralFailure { what: item.to_string(), when: String::new(), why: failure.to_string() }
}
