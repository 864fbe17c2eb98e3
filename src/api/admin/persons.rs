//! Which changes take two persons, and which one person makes at once.
//!
//! *Takes* a [`Verb`]. *Gives* [`Persons`]. *Denies* nothing itself: `pending` keeps what waits. *Source*: NIST SP 800-53
//! AC-3(2) (dual authorization), AC-5.
//!
//! The rule: what widens who may get a secret takes two; what only narrows, takes effect at once by one; so does what is
//! about values, which are never kept in a proposal, and what only a broken clock or a wrong hold asks for at night. The match
//! is exhaustive, so that a new verb is decided here.

use super::access::Verb;

/// How many persons a verb takes, where two can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persons {
    /// Looked at, narrowed, or about values: one.
    One,
    /// Who gets a secret may be widened: it waits for another person.
    Two,
    /// As asked: the act says of what only narrows that it does (`AdminService::change_alone`); everything else waits.
    ByRequest,
}

/// The table.
pub fn persons(verb: Verb) -> Persons {
    match verb {
        // Reading.
        Verb::ListSecrets
        | Verb::DescribeSecret
        | Verb::ShowPolicy
        | Verb::ListReferenceSets
        | Verb::ListNodes
        | Verb::ListLatches
        | Verb::ListLeases
        | Verb::ListRevocations
        | Verb::Status
        | Verb::Explain
        | Verb::ListAdministrators
        | Verb::ListPending
        | Verb::ShowPending
        | Verb::ShowRestore => Persons::One,
        // What leaves is ciphertext.
        Verb::Backup => Persons::One,
        // Vendors' own statements, verified, and never older than what was seen.
        Verb::CollateralStatus | Verb::RefreshCollateral | Verb::ImportCollateral => Persons::One,
        // A new term, and all sealed in it: who may read what stays as it is.
        Verb::KeyStatus | Verb::RotateKey | Verb::RewrapKey => Persons::One,
        // What two agreed on when the shares were dealt; each holder brings one.
        Verb::ConfirmRekey => Persons::One,
        // It only asks a TPM for a proof.
        Verb::BeginTpmEnrolment => Persons::One,
        // Narrowing. An administrator who is removed leaves behind what waits for two: nobody is alone by removing others.
        Verb::DestroySecret
        | Verb::RemoveNode
        | Verb::RevokeLease
        | Verb::Revoke
        | Verb::RemoveAdministrator => Persons::One,
        // Values. Labels of a new secret are what policy reads, and are refused there while two persons are needed.
        Verb::PutSecret => Persons::One,
        // At night: every request is verified in full still, and a suspect clock takes no approval.
        Verb::ClearLatch | Verb::AcceptClock => Persons::One,
        // The second person's own part, and taking back.
        Verb::ApprovePending | Verb::RejectPending | Verb::WithdrawPending => Persons::One,
        // Widening.
        Verb::ConfigureSecret
        | Verb::PutPolicy
        | Verb::PutReferenceSets
        | Verb::ImportReferenceSets
        | Verb::EnrolNode
        | Verb::FinishTpmEnrolment
        | Verb::AcceptCollateral
        | Verb::Unrevoke
        | Verb::AcceptCrl
        | Verb::AcceptBundle
        | Verb::PutAdministrator
        // What opens the store, and with it everything.
        | Verb::Rekey
        // It lets a past release again.
        | Verb::AcceptRestore => Persons::Two,
        // Disabling narrows, enabling widens; two persons are switched on by one, and off by two; a workload's last reference
        // set may be all that keeps those of a wider pattern from counting for it.
        Verb::SetSecretDisabled | Verb::SetTwoPersons | Verb::RemoveReferenceSet => Persons::ByRequest,
    }
}
