//! `portcullis.admin.v1.Admin`: the operators' calls, one after the other where they change something.
//!
//! *Takes* calls of proven administrator connections. *Gives* answers, never a secret's value. *Denies* by a status that
//! names its cause. *Source*: `proto/portcullis/admin/v1/admin.proto`; NIST SP 800-53 AC-3, AC-5, AU-12.

mod access;
mod administrators;
mod attestation;
mod answer;
mod backup;
mod collateral;
mod decision;
mod explain;
mod import;
mod keys;
mod listing;
mod needed;
mod nodes;
mod operations;
mod pending;
mod persons;
mod policy;
mod reference;
mod revocations;
mod secrets;
mod trust;
mod two_persons;
mod written;

#[cfg(test)]
mod tests;

pub use crate::store::marks::HIGHEST_TIME;
pub use access::{Effect, Verb};
pub use persons::{Persons, persons};

use crate::collateral::Holdings;
use crate::limits;
use crate::proto::admin::admin_server::{Admin, AdminServer};
use crate::proto::admin::*;
use crate::registry::Registry;
use crate::registry::keys::Keys;
use crate::release::kv::Kv;
use prost::Message;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

/// The service; a clone is the same one.
#[derive(Clone)]
pub struct AdminService {
    registry: Arc<Registry>,
    kv: Arc<Kv>,
    /// Where the audit log is, for `explain` alone, which reads it.
    audit_directory: PathBuf,
    /// Vendors' collateral, where it is kept.
    collateral: Option<Holdings>,
    /// Held by whatever changes something: what an act has checked still holds when it is made.
    turn: Arc<Mutex<()>>,
    /// Held by `explain`, which may read much of the log.
    explaining: Arc<Mutex<()>>,
    /// The store's keys, and a rewrap under way.
    keys: Arc<Keys>,
    /// Enrolments of attestation keys that wait for their answer.
    enrolments: Arc<std::sync::Mutex<attestation::Waiting>>,
}

impl AdminService {
    /// The service over this registry and engine, with its message limits. `audit_directory` is that of the registry's log.
    pub fn server(
        registry: Arc<Registry>,
        kv: Arc<Kv>,
        audit_directory: PathBuf,
        collateral: Holdings,
    ) -> AdminServer<AdminService> {
        let service = AdminService::new(registry, kv, audit_directory);
        service.keys.resume();
        AdminServer::new(AdminService { collateral: Some(collateral), ..service })
            .max_decoding_message_size(limits::ADMIN_MESSAGE_BYTES)
            .max_encoding_message_size(limits::ADMIN_MESSAGE_BYTES)
    }

    fn new(registry: Arc<Registry>, kv: Arc<Kv>, audit_directory: PathBuf) -> Self {
        let (turn, explaining): (Arc<Mutex<()>>, _) = (Arc::default(), Arc::default());
        let keys = Arc::new(Keys::new(registry.clone(), kv.clone(), turn.clone()));
        let enrolments = Arc::default();
        AdminService { registry, kv, audit_directory, collateral: None, turn, explaining, keys, enrolments }
    }

    fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }
}

/// Each call: who asks, for what; then the act in the file of its group. It runs to its end even where its caller goes
/// away: what was committed must come into force.
macro_rules! calls {
    ($($call:ident: $request:ident => $response:ident, $verb:ident, |$message:ident| $target:expr, $act:path;)+) => {
        #[tonic::async_trait]
        impl Admin for AdminService {
            $(async fn $call(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let service = self.clone();
                let called = tokio::spawn(async move {
                    let target: String = {
                        let $message = request.get_ref();
                        $target
                    };
                    let mut caller = service.admit(request.extensions(), Verb::$verb, &target).await?;
                    if persons(Verb::$verb) != Persons::One {
                        caller.asks(request.get_ref().encode_to_vec());
                    }
                    $act(&service, &caller, request.into_inner()).await.map(Response::new)
                });
                called.await.unwrap_or_else(|_| Err(answer::defect()))
            })+

            type BackupStream = backup::Pieces;

            async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<backup::Pieces>, Status> {
                let caller = self.admit(request.extensions(), Verb::Backup, "").await?;
                backup::begin(self.clone(), caller).await.map(Response::new)
            }
        }
    };
}

calls! {
    put_secret: PutSecretRequest => PutSecretResponse, PutSecret, |m| m.path.clone(), secrets::put;
    list_secrets: ListSecretsRequest => ListSecretsResponse, ListSecrets, |m| m.prefix.clone(), secrets::list;
    describe_secret: DescribeSecretRequest => DescribeSecretResponse, DescribeSecret, |m| m.path.clone(), secrets::describe;
    set_secret_disabled: SetSecretDisabledRequest => ChangeResponse, SetSecretDisabled, |m| m.path.clone(), secrets::set_disabled;
    destroy_secret: DestroySecretRequest => ChangeResponse, DestroySecret, |m| m.path.clone(), secrets::destroy;
    configure_secret: ConfigureSecretRequest => ChangeResponse, ConfigureSecret, |m| m.path.clone(), secrets::configure;
    put_policy: PutPolicyRequest => PutPolicyResponse, PutPolicy, |_m| "policy".to_owned(), policy::put;
    show_policy: ShowPolicyRequest => ShowPolicyResponse, ShowPolicy, |_m| "policy".to_owned(), policy::show;
    put_reference_sets: PutReferenceSetsRequest => ChangeResponse, PutReferenceSets, |_m| "reference".to_owned(), reference::put;
    remove_reference_set: RemoveReferenceSetRequest => ChangeResponse, RemoveReferenceSet, |m| m.name.clone(), reference::remove;
    import_reference_sets: ImportReferenceSetsRequest => ImportReferenceSetsResponse, ImportReferenceSets, |m| m.name.clone(), import::import;
    list_reference_sets: ListReferenceSetsRequest => ListReferenceSetsResponse, ListReferenceSets, |_m| String::new(), reference::list;
    enrol_node: EnrolNodeRequest => EnrolNodeResponse, EnrolNode, |m| m.name.clone(), nodes::enrol;
    begin_tpm_enrolment: BeginTpmEnrolmentRequest => BeginTpmEnrolmentResponse, BeginTpmEnrolment, |m| m.node.clone(), attestation::begin;
    finish_tpm_enrolment: FinishTpmEnrolmentRequest => FinishTpmEnrolmentResponse, FinishTpmEnrolment, |m| m.node.clone(), attestation::finish;
    remove_node: RemoveNodeRequest => ChangeResponse, RemoveNode, |m| m.name.clone(), nodes::remove;
    list_nodes: ListNodesRequest => ListNodesResponse, ListNodes, |_m| String::new(), nodes::list;
    list_latches: ListLatchesRequest => ListLatchesResponse, ListLatches, |m| m.identity.clone(), operations::list_latches;
    clear_latch: ClearLatchRequest => ClearLatchResponse, ClearLatch, |m| m.identity.clone(), operations::clear_latch;
    list_leases: ListLeasesRequest => ListLeasesResponse, ListLeases, |m| m.identity.clone(), operations::list_leases;
    revoke_lease: RevokeLeaseRequest => RevokeLeaseResponse, RevokeLease, |m| m.id.clone(), operations::revoke_lease;
    revoke: RevokeRequest => RevokeResponse, Revoke, |m| revocations::target(m.whom.as_ref()), revocations::revoke;
    unrevoke: UnrevokeRequest => ChangeResponse, Unrevoke, |m| revocations::lifted(m.whom.as_ref()), revocations::unrevoke;
    list_revocations: ListRevocationsRequest => ListRevocationsResponse, ListRevocations, |_m| String::new(), revocations::list;
    accept_clock: AcceptClockRequest => AcceptClockResponse, AcceptClock, |_m| "clock".to_owned(), trust::accept_clock;
    accept_crl: AcceptCrlRequest => AcceptResponse, AcceptCrl, |m| m.trust_domain.clone(), trust::accept_crl;
    accept_bundle: AcceptBundleRequest => AcceptResponse, AcceptBundle, |m| m.trust_domain.clone(), trust::accept_bundle;
    status: StatusRequest => StatusResponse, Status, |_m| String::new(), trust::status;
    show_restore: ShowRestoreRequest => ShowRestoreResponse, ShowRestore, |_m| String::new(), backup::show_restore;
    accept_restore: AcceptRestoreRequest => ChangeResponse, AcceptRestore, |_m| "restore".to_owned(), backup::accept_restore;
    explain: ExplainRequest => ExplainResponse, Explain, |m| explain::target(m), explain::explain;
    put_administrator: PutAdministratorRequest => ChangeResponse, PutAdministrator, |m| m.name.clone(), administrators::put;
    remove_administrator: RemoveAdministratorRequest => ChangeResponse, RemoveAdministrator, |m| administrators::target(m), administrators::remove;
    collateral_status: CollateralStatusRequest => CollateralStatusResponse, CollateralStatus, |_m| String::new(), collateral::status;
    refresh_collateral: RefreshCollateralRequest => RefreshCollateralResponse, RefreshCollateral, |_m| "collateral".to_owned(), collateral::refresh;
    import_collateral: ImportCollateralRequest => ImportCollateralResponse, ImportCollateral, |_m| "collateral".to_owned(), collateral::import;
    accept_collateral: AcceptCollateralRequest => AcceptResponse, AcceptCollateral, |_m| "collateral".to_owned(), collateral::accept;
    list_administrators: ListAdministratorsRequest => ListAdministratorsResponse, ListAdministrators, |_m| String::new(), administrators::list;
    rotate_key: RotateKeyRequest => RotateKeyResponse, RotateKey, |_m| "key".to_owned(), keys::rotate;
    rewrap_key: RewrapKeyRequest => RewrapKeyResponse, RewrapKey, |_m| "key".to_owned(), keys::rewrap;
    rekey: RekeyRequest => RekeyResponse, Rekey, |_m| "key".to_owned(), keys::rekey;
    confirm_rekey: ConfirmRekeyRequest => ConfirmRekeyResponse, ConfirmRekey, |_m| "key".to_owned(), keys::confirm;
    key_status: KeyStatusRequest => KeyStatusResponse, KeyStatus, |_m| "key".to_owned(), keys::status;
    set_two_persons: SetTwoPersonsRequest => ChangeResponse, SetTwoPersons, |_m| "two-persons".to_owned(), two_persons::set;
    list_pending: ListPendingRequest => ListPendingResponse, ListPending, |_m| String::new(), pending::list;
    show_pending: ShowPendingRequest => ShowPendingResponse, ShowPending, |m| m.id.clone(), pending::show;
    approve_pending: ApprovePendingRequest => ChangeResponse, ApprovePending, |m| m.id.clone(), pending::approve;
    reject_pending: RejectPendingRequest => ChangeResponse, RejectPending, |m| m.id.clone(), pending::reject;
    withdraw_pending: WithdrawPendingRequest => ChangeResponse, WithdrawPending, |m| m.id.clone(), pending::withdraw;
}
