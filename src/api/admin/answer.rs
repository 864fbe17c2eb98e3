//! What an administrator hears where nothing was done, or not all of it: a code, a reason and the cause.
//!
//! *Takes* errors of registry, engine and store. *Gives* a status with one `ErrorInfo` and the trailer that forbids
//! retries. *Denies* nothing: it is refused already. *Source*: `admin.proto`; gRFC A6; catalogue row 29.

use crate::api::status;
use crate::registry::ChangeError;
use crate::release::kv::KvError;
use crate::store::StoreError;
use std::collections::HashMap;
use tonic::{Code, Status};

/// The kinds of refusal; each is one code and one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The key has no role for this.
    RoleMissing,
    /// The request.
    Invalid,
    /// What it is about is not there.
    NotFound,
    /// There already is such a thing.
    Exists,
    /// As many are kept as can be.
    TooMany,
    /// What the change rests on is not as expected.
    Changed,
    /// The last administrator who may put another would be gone.
    LastKeeper,
    /// It waits for a second person, and cannot be kept until then, or is not to be approved by this one.
    SecondPerson,
    /// The audit log cannot be written.
    AuditUnavailable,
    /// The clock is suspect.
    ClockSuspect,
    /// The store, or what is stored, gives no answer.
    Unavailable,
    /// It is done and in force, but not all of it could be recorded.
    Unsettled,
    /// What a TPM or a node says of itself is not proven.
    NotProven,
    /// What would prove it cannot be read, or has ended.
    CollateralUnavailable,
    /// A bug.
    Defect,
}

impl Refusal {
    fn code_and_reason(self) -> (Code, &'static str) {
        match self {
            Refusal::RoleMissing => (Code::PermissionDenied, "ROLE_MISSING"),
            Refusal::Invalid => (Code::InvalidArgument, "REQUEST_INVALID"),
            Refusal::NotFound => (Code::NotFound, "NOT_FOUND"),
            Refusal::Exists => (Code::AlreadyExists, "ALREADY_EXISTS"),
            Refusal::TooMany => (Code::ResourceExhausted, "TOO_MANY"),
            Refusal::Changed => (Code::FailedPrecondition, "CHANGED_MEANWHILE"),
            Refusal::LastKeeper => (Code::FailedPrecondition, "LAST_ADMINISTRATOR"),
            Refusal::SecondPerson => (Code::FailedPrecondition, "SECOND_PERSON_NEEDED"),
            Refusal::AuditUnavailable => (Code::FailedPrecondition, "AUDIT_UNAVAILABLE"),
            Refusal::ClockSuspect => (Code::FailedPrecondition, "CLOCK_SUSPECT"),
            Refusal::Unavailable => (Code::FailedPrecondition, "STORE_UNAVAILABLE"),
            Refusal::Unsettled => (Code::FailedPrecondition, "IN_FORCE_NOT_RECORDED"),
            Refusal::CollateralUnavailable => (Code::FailedPrecondition, "COLLATERAL_UNAVAILABLE"),
            Refusal::NotProven => (Code::FailedPrecondition, "NOT_PROVEN"),
            Refusal::Defect => (Code::Internal, "INTERNAL"),
        }
    }
}

/// The status of a refusal.
pub(super) fn refuse(refusal: Refusal, why: impl std::fmt::Display) -> Status {
    let (code, reason) = refusal.code_and_reason();
    let text: String = why.to_string().chars().take(MESSAGE_CHARACTERS).collect();
    status::error(code, &text, reason, HashMap::new())
}

pub(super) fn invalid(why: impl std::fmt::Display) -> Status {
    refuse(Refusal::Invalid, why)
}

pub(super) fn not_found(why: impl std::fmt::Display) -> Status {
    refuse(Refusal::NotFound, why)
}

pub(super) fn defect() -> Status {
    refuse(Refusal::Defect, "the broker failed; nothing was done")
}

pub(super) fn change(error: &ChangeError) -> Status {
    match error {
        ChangeError::AuditUnavailable(_) => refuse(Refusal::AuditUnavailable, error),
        ChangeError::Store(cause) => store(cause),
        ChangeError::Unsettled(_) => refuse(Refusal::Unsettled, error),
    }
}

pub(super) fn store(error: &StoreError) -> Status {
    match error {
        StoreError::Conflict | StoreError::OutOfTurn { .. } => refuse(Refusal::Changed, error),
        StoreError::TooLarge(_) | StoreError::SameKey => refuse(Refusal::Invalid, error),
        StoreError::Malformed(_) => defect(),
        StoreError::Unavailable(_)
        | StoreError::Undecided
        | StoreError::Sealed(_)
        | StoreError::Damaged(_)
        | StoreError::InUse
        | StoreError::Missing
        | StoreError::Exists
        | StoreError::KeySource(_)
        | StoreError::KeyringRefused => refuse(Refusal::Unavailable, error),
    }
}

pub(super) fn kv(error: &KvError) -> Status {
    match error {
        KvError::NotOfThisEngine
        | KvError::FieldName
        | KvError::FieldsMissing
        | KvError::TooLarge
        | KvError::Labels
        | KvError::Lease => invalid(error),
        KvError::SecretUnknown | KvError::VersionUnknown => not_found(error),
        KvError::SecretExists => refuse(Refusal::Exists, error),
        KvError::Disabled => refuse(Refusal::Changed, error),
        KvError::Store(cause) => store(cause),
    }
}

/// A compiler's errors are several lines; headers hold some kilobytes.
const MESSAGE_CHARACTERS: usize = 2000;
