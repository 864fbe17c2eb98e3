//! Role `operations`: what the broker rests on (clock, lists, bundles), taken at an administrator's word; and how all stands.
//!
//! *Takes* a trust domain, an issuer. *Gives* what was accepted; [`StatusResponse`]. *Denies* where there is nothing to
//! accept. *Source*: `durability.md` "Time"; RFC 5280 §5.2.3; catalogue rows 22, 33.

use super::access::{Caller, Plan};
use super::pending::Intended;
use super::{AdminService, answer, listing, written};
use crate::audit::record::Event;
use crate::proto::admin::accept_crl_request::Issuer;
use crate::proto::admin::*;
use crate::spiffe::TrustDomain as Domain;
use crate::store::{Kind, marks};
use crate::time::Now;
use crate::transport::DomainStatus;
use crate::transport::trust::AcceptError;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use tonic::Status;

/// The highest time follows the accepted one, lower too, in the store before in the clock: where a wrong future was kept,
/// the next start would else refuse again.
pub(super) async fn accept_clock(
    service: &AdminService,
    caller: &Caller,
    _request: AcceptClockRequest,
) -> Result<AcceptClockResponse, Status> {
    let clock = &service.registry.broker().clock;
    let (asked, vault) = (clock.untrusted(), service.registry.vault());
    let highest = asked.wall.0.to_be_bytes();
    let reset = marks::prepare_reset(vault, HIGHEST_TIME, &highest).await;
    let plan = Plan {
        target: "clock".to_owned(),
        details: json!({
            "time": asked.wall.to_string(),
            "highest": clock.highest().to_string(),
            "suspect": caller.suspect.map(|suspect| suspect.to_string()),
        }),
        transaction: reset.map_err(|error| answer::store(&error))?,
        kinds: Vec::new(),
        rests: Vec::new(),
        keep_latches: true,
    };
    let change = service.change(caller, plan).await?;
    let accepted =
        clock.accept().map_err(|suspect| answer::refuse(answer::Refusal::ClockSuspect, suspect))?;
    let state = format!("accepted as {} by {}", accepted.wall, change.record);
    let noted = service.registry.broker().recorder.note(Event::Clock { state }, accepted).await;
    noted.map_err(|error| {
        answer::refuse(answer::Refusal::Unsettled, format!("the clock is accepted, but: {error}"))
    })?;
    Ok(AcceptClockResponse { record: change.record, time: accepted.wall.to_string() })
}

pub(super) async fn accept_crl(
    service: &AdminService,
    caller: &Caller,
    request: AcceptCrlRequest,
) -> Result<AcceptResponse, Status> {
    let domain = domain(&request.trust_domain)?;
    let issuer = match request.issuer {
        Some(Issuer::Pem(pem)) => written::certificate(&pem)?,
        Some(Issuer::Der(der)) => der,
        None => return Err(answer::invalid("the certificate of the lists' issuer is missing")),
    };
    let details = json!({ "issuer_sha256": written::sha256(&issuer), "epoch": epoch(service, &domain) });
    if let Some(waits) = agreed(service, caller, domain.as_str(), &details).await? {
        return Ok(waits);
    }
    let intended = service.registry.intend(caller.act(domain.as_str(), details), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let (trust, now, name) = (service.registry.broker().trust.clone(), caller.now, domain.clone());
    let accepted = tokio::task::spawn_blocking(move || trust.accept_crl(&name, &issuer, now)).await;
    let marks = accepted.map_err(|_| answer::defect())?.map_err(|error| not_accepted(&error))?;
    let accepted: Vec<String> =
        marks.into_iter().map(|(name, value)| format!("{name} = {}", hex::encode(value))).collect();
    note_accepted(service, caller, &domain, "revocation", &record, &accepted).await?;
    Ok(AcceptResponse { record, accepted, proposal: String::new() })
}

pub(super) async fn accept_bundle(
    service: &AdminService,
    caller: &Caller,
    request: AcceptBundleRequest,
) -> Result<AcceptResponse, Status> {
    let domain = domain(&request.trust_domain)?;
    let details = json!({ "epoch": epoch(service, &domain) });
    if let Some(waits) = agreed(service, caller, domain.as_str(), &details).await? {
        return Ok(waits);
    }
    let intended = service.registry.intend(caller.act(domain.as_str(), details), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let (trust, now, name) = (service.registry.broker().trust.clone(), caller.now, domain.clone());
    let accepted = tokio::task::spawn_blocking(move || trust.accept_bundle(&name, now)).await;
    accepted.map_err(|_| answer::defect())?.map_err(|error| not_accepted(&error))?;
    let accepted = vec!["the bundle's sequence, as it is".to_owned()];
    note_accepted(service, caller, &domain, "bundle", &record, &accepted).await?;
    Ok(AcceptResponse { record, accepted, proposal: String::new() })
}

/// None where it may be accepted now. Going back widens, so it waits for a second person; `epoch` ties it to what stands.
pub(super) async fn agreed(
    service: &AdminService,
    caller: &Caller,
    target: &str,
    details: &serde_json::Value,
) -> Result<Option<AcceptResponse>, Status> {
    let about = caller.verb().roles().iter().copied().collect();
    let intended = Intended { target, details, transaction: None, about };
    let waits = service.agree(caller, intended).await?;
    if waits.is_none() {
        service.spend(caller).await?;
    }
    let answer = |waits: ChangeResponse| AcceptResponse {
        record: waits.record,
        accepted: Vec::new(),
        proposal: waits.proposal,
    };
    Ok(waits.map(answer))
}

fn epoch(service: &AdminService, domain: &Domain) -> u64 {
    service.registry.broker().trust.epoch_of(domain).unwrap_or(0)
}

pub(super) async fn status(
    service: &AdminService,
    _caller: &Caller,
    _request: StatusRequest,
) -> Result<StatusResponse, Status> {
    let broker = service.registry.broker();
    let now = broker.clock.untrusted();
    let (log, vault) = (broker.recorder.log(), service.registry.vault());
    let audit = AuditStatus { healthy: log.healthy(), records: log.size() };
    let clock = ClockStatus {
        suspect: broker.clock.now().err().map(|suspect| suspect.to_string()).unwrap_or_default(),
        time: now.wall.to_string(),
        highest: broker.clock.highest().to_string(),
    };
    Ok(StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domains: broker.trust.status(now).into_iter().map(trust_domain).collect(),
        audit: Some(audit),
        clock: Some(clock),
        epochs: epochs(service),
        counts: counts(service, now).await,
        commit: vault.store().last_commit().await.ok().map(|commit| commit.0),
        two_persons: super::two_persons::names(service).await,
    })
}

fn epochs(service: &AdminService) -> BTreeMap<String, u64> {
    let broker = service.registry.broker();
    let revocations = broker.revocations_known.load(Ordering::SeqCst);
    let epochs = [
        ("nodes", broker.verifiers.nodes_epoch()),
        ("reference", broker.appraiser.epoch()),
        ("policy", broker.pdp.epoch()),
        ("revocations", revocations.then(|| broker.trust.revocation_epoch())),
    ];
    epochs.into_iter().filter_map(|(name, epoch)| Some((name.to_owned(), epoch?))).collect()
}

async fn counts(service: &AdminService, now: Now) -> BTreeMap<String, u64> {
    let (broker, vault) = (service.registry.broker(), service.registry.vault());
    let mut counts = BTreeMap::new();
    let stored = [
        ("secrets", Kind::SecretMetadata),
        ("nodes", Kind::Node),
        ("reference_sets", Kind::ReferenceSet),
        ("revocations", Kind::Revocation),
        ("administrators", Kind::Administrator),
    ];
    for (name, kind) in stored {
        counts.extend(listing::count(vault, kind).await.map(|count| (name.to_owned(), count)));
    }
    let holds = broker.latches.all();
    let holding = holds.iter().filter(|hold| super::operations::stands(hold.until, now)).count();
    for (name, count) in [("leases", broker.leases().standing(now).len()), ("latches", holding)] {
        counts.insert(name.to_owned(), u64::try_from(count).unwrap_or(u64::MAX));
    }
    counts
}

fn trust_domain(status: DomainStatus) -> TrustDomain {
    let input = |input: crate::transport::domain::InputStatus| Input {
        state: input.state,
        usable_for_ms: (input.usable_for_ms != u64::MAX).then_some(input.usable_for_ms),
    };
    TrustDomain {
        name: status.name.to_string(),
        epoch: status.epoch,
        bundle: Some(input(status.bundle)),
        revocation: Some(input(status.revocation)),
    }
}

/// What was set, on the log, under the input's name.
async fn note_accepted(
    service: &AdminService,
    caller: &Caller,
    domain: &Domain,
    input: &str,
    record: &str,
    accepted: &[String],
) -> Result<(), Status> {
    let epoch = service.registry.broker().trust.epoch_of(domain).unwrap_or(0);
    let state = format!("accepted by {record}: {}", accepted.join(", "));
    let event = Event::Input { name: format!("{domain}/{input}"), epoch, state };
    let unsettled =
        |_| answer::refuse(answer::Refusal::Unsettled, "it is accepted, but that could not be recorded");
    service.note(caller, event).await.map(drop).map_err(unsettled)
}

fn domain(name: &str) -> Result<Domain, Status> {
    Domain::parse(name).map_err(answer::invalid)
}

fn not_accepted(error: &AcceptError) -> Status {
    match error {
        AcceptError::DomainUnknown | AcceptError::NoList => answer::not_found(error),
        AcceptError::Denied(_) | AcceptError::Marks(_) => answer::refuse(answer::Refusal::Unavailable, error),
    }
}

/// The mark of the highest wall time ever seen: 8 bytes, big-endian, milliseconds. The running broker raises it.
pub const HIGHEST_TIME: &str = "clock/highest";
