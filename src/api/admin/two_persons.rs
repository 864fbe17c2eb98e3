//! Whether changes wait for a second person: on by itself once two persons have a role, off only by two.
//!
//! *Takes* the administrators there are. *Gives* the roles whose changes wait. *Denies* switching it on where nobody could
//! approve, and off where the configuration demands it. *Source*: NIST SP 800-53 AC-3(2).

use super::access::{Caller, Plan};
use super::answer::{self, Refusal};
use super::{AdminService, listing};
use crate::proto::admin::{ChangeResponse, SetTwoPersonsRequest};
use crate::registry::{Administrators, Role, TWO_PERSONS, TwoPersons};
use crate::store::{Kind, Opened, Transaction};
use serde_json::json;
use std::collections::BTreeSet;
use tonic::Status;

/// The roles whose changes wait for a second person.
pub(super) async fn in_force(service: &AdminService) -> Result<BTreeSet<Role>, Status> {
    if service.registry.two_persons_always() {
        return Ok(Role::ALL.into());
    }
    Ok(stored(service).await?.1.roles)
}

/// The same, by name; what cannot be read is said, not taken for none.
pub(super) async fn names(service: &AdminService) -> Vec<String> {
    match in_force(service).await {
        Ok(roles) => roles.into_iter().map(|role| role.name().to_owned()).collect(),
        Err(_) => vec!["(unknown)".to_owned()],
    }
}

pub(super) async fn set(
    service: &AdminService,
    caller: &Caller,
    request: SetTwoPersonsRequest,
) -> Result<ChangeResponse, Status> {
    let (previous, state) = stored(service).await?;
    let next = match request.on {
        true => on(service, caller)?,
        false if service.registry.two_persons_always() => {
            let why = "the broker's configuration demands two persons (`admin.two_persons`)";
            return Err(answer::refuse(Refusal::SecondPerson, why));
        }
        false => TwoPersons { off: true, roles: BTreeSet::new() },
    };
    let mut transaction = Transaction::default();
    put(service, &mut transaction, previous.as_ref(), &next)?;
    let plan = Plan {
        target: "two-persons".to_owned(),
        details: json!({ "on": request.on, "roles": next.roles, "before": state.roles }),
        transaction,
        kinds: Vec::new(),
        rests: Vec::new(),
        keep_latches: true,
    };
    match request.on {
        true => service.change_alone(caller, plan).await,
        false => service.change_about(caller, plan, Role::ALL.into()).await,
    }
}

/// Adds to a change of the administrators: what two of them can do together waits from this very commit on.
pub(super) async fn follow(
    service: &AdminService,
    caller: &Caller,
    transaction: &mut Transaction,
    after: &Administrators,
) -> Result<(), Status> {
    let (previous, state) = stored(service).await?;
    let next = state.with(after, caller.now);
    match next == state {
        true => Ok(()),
        false => put(service, transaction, previous.as_ref(), &next),
    }
}

fn on(service: &AdminService, caller: &Caller) -> Result<TwoPersons, Status> {
    let known = service.registry.administrators();
    let known = known.as_ref().as_ref();
    let known =
        known.ok_or_else(|| answer::refuse(Refusal::Unavailable, "the administrators cannot be read"))?;
    let next = TwoPersons::default().with(known, caller.now);
    match next.roles.is_empty() {
        true => {
            Err(answer::refuse(Refusal::SecondPerson, "there is no second person who could approve anything"))
        }
        false => Ok(next),
    }
}

async fn stored(service: &AdminService) -> Result<(Option<Opened>, TwoPersons), Status> {
    let record = service.registry.vault().read(Kind::State, TWO_PERSONS).await;
    let record = record.map_err(|error| answer::store(&error))?;
    let state = record.as_ref().map(|record| listing::parse(&record.body)).transpose()?;
    Ok((record, state.unwrap_or_default()))
}

fn put(
    service: &AdminService,
    transaction: &mut Transaction,
    previous: Option<&Opened>,
    state: &TwoPersons,
) -> Result<(), Status> {
    let body = serde_json::to_vec(state).map_err(|_| answer::defect())?;
    let put = service.registry.vault().put(transaction, Kind::State, TWO_PERSONS, previous, &body);
    put.map(drop).map_err(|error| answer::store(&error))
}
