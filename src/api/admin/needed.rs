//! What would be needed, for each way to end without a secret: for operators, in a sentence's second half.
//!
//! *Takes* a [`Denial`]. *Gives* words. *Denies* nothing. *Source*: the table in `denial.rs`; a new row there breaks this
//! one until it says what to do about it.

use crate::denial::Denial;

/// What would be needed instead.
pub(super) fn needed(denial: Denial) -> &'static str {
    match denial {
        Denial::Defect => "the broker's own log says what failed; report it",
        Denial::RequestMalformed => "a client that keeps to the protocol: see the record's detail",
        Denial::RequestOutOfOrder => "a client that keeps to the order Open, Evidence",
        Denial::RequestOpenTooLate => "a client that sends `Open` within 10 seconds of opening the stream",
        Denial::RequestChannelBindingUnavailable => {
            "a client that can bind to the TLS exporter, or `allow_channel_binding_none` in the broker's \
             configuration"
        }
        Denial::RequestTimeoutMalformed => "a `grpc-timeout` of up to eight digits and one unit, or none",
        Denial::EvidenceFormatNotOffered => {
            "one document of each format, and only of formats that the challenge names"
        }
        Denial::DeadlinePassed => "a longer deadline of the caller, or a faster attester",
        Denial::LimitExceeded => {
            "fewer requests from this key or identity, or higher limits in the broker's configuration"
        }
        Denial::PeerIdentityAmbiguous => "a certificate with exactly one URI SAN",
        Denial::PeerIdentityMalformed => {
            "an X.509-SVID: a SPIFFE ID, a leaf with digitalSignature, both extended key usages or none"
        }
        Denial::PeerTrustDomainUnknown => "the trust domain in the broker's configuration",
        Denial::PeerUntrusted => {
            "a certificate that leads to the bundle of its own trust domain, or that bundle brought up to \
             date"
        }
        Denial::PeerCertificateNotYetValid => {
            "a certificate that is valid now; compare the clocks of its CA and the broker"
        }
        Denial::PeerCertificateExpired => {
            "a certificate that is valid now: the workload must renew it and connect again"
        }
        Denial::PeerCertificateLifetimeTooLong => {
            "a certificate within the lifetime that the trust domain declares, or another declaration"
        }
        Denial::PeerRevoked => "a new certificate: its issuer has revoked this one",
        Denial::PeerRevokedByBroker => {
            "`portcullis admin unrevoke`, if the reason for the revocation is gone"
        }
        Denial::BundleUnknown => {
            "a bundle file of the trust domain that can be read and parsed: see `portcullis admin status`"
        }
        Denial::BundleStale => {
            "a bundle file written within `bundle_max_age_seconds`: see `portcullis admin status`"
        }
        Denial::RevocationUnknown => {
            "a revocation list of every issuer of the path, readable and with a number no lower than seen: \
             see `portcullis admin status`; after a rebuilt CA, `portcullis admin crl accept`"
        }
        Denial::RevocationStale => "a current revocation list: its nextUpdate or its maximum age has passed",
        Denial::ClockSuspect => "a clock that is right, then `portcullis admin clock accept`",
        Denial::NodesUnavailable => "a store from which the enrolled nodes can be read",
        Denial::PolicyUnavailable => "a policy that can be read and compiles: `portcullis admin policy put`",
        Denial::StoreUnavailable => "a store that answers: see the broker's log",
        Denial::AuditUnavailable => "an audit log that can be written: look at its disk and its directory",
        Denial::RestoreNotAccepted => {
            "a look at what the restore could not bring back (`portcullis admin restore show`), then \
             `portcullis admin restore accept`"
        }
        Denial::ChallengeExpired => "an attester that answers within the time that the challenge names",
        Denial::EvidenceMalformed => {
            "evidence encoded as its format demands: see the record's detail; attester and broker of one \
             version"
        }
        Denial::EndorsementUntrusted => "the node's key enrolled: `portcullis admin node enroll`",
        Denial::EndorsementExpired => "a new enrolment of the node: `portcullis admin node enroll --replace`",
        Denial::EndorsementNotPermitted => {
            "an enrolment of the node whose `may_vouch_for` covers this identity"
        }
        Denial::EvidenceNodeMismatch => {
            "an attester whose configured name is the one under which its key is enrolled"
        }
        Denial::EvidenceSignatureInvalid => {
            "evidence as the node's attester signed it: something changed it on the way"
        }
        Denial::EvidenceBindingMismatch => {
            "evidence made for this very challenge, connection and request; if the workload did nothing \
             unusual, someone replays or relays"
        }
        Denial::EvidenceTooOld => "evidence made within 60 seconds; compare the clocks of node and broker",
        Denial::EvidenceFromFuture => "a node whose clock agrees with the broker's",
        Denial::EndorsementNotYetValid => {
            "certificates of the evidence that are valid now; compare the clocks of their issuer and the broker"
        }
        Denial::EndorsementRevoked => {
            "a platform whose keys are neither revoked by their vendor nor refused in the broker's configuration"
        }
        Denial::EvidenceCounterBackwards => {
            "the key of its TPM enrolled again (`portcullis admin node enroll … --tpm … --replace`), once it is known why the \
             machine was reset or restored"
        }
        Denial::CollateralUnavailable => {
            "the collateral that the record's detail names: see `portcullis admin collateral status`"
        }
        Denial::CollateralStale => {
            "newer collateral of the kind that the record's detail names: `portcullis admin collateral refresh`"
        }
        Denial::LatchHolds => {
            "the end of the hold, or of its cause: look at the refusal that it repeats; `portcullis admin \
             latch clear` ends it early"
        }
        Denial::ReferenceValuesMissing => {
            "a reference set for this workload: `portcullis admin reference put`"
        }
        Denial::ReferenceValuesExpired => {
            "a reference set whose `not_after` has not passed: `portcullis admin reference put`"
        }
        Denial::ReferenceValuesUnavailable => "a store from which the reference sets can be read",
        Denial::MeasurementMismatch => {
            "a workload that is what a reference set says (see the record's detail), or a set that says \
             what it is now"
        }
        Denial::PlatformNotAcceptable => {
            "a platform without what the record's detail names (debug mode, an old TCB), or a reference set that \
             allows it by name"
        }
        Denial::PolicyForbids => {
            "a change of the policy that forbids, named in the record's rules; no permit lifts it"
        }
        Denial::PolicySilent => "a policy that permits this workload this secret on these claims",
        Denial::PolicyUnevaluable => "a policy without the error that the record's detail names",
        Denial::ChannelBindingDemanded => {
            "a client that binds to the TLS exporter, or the demand taken from the secret: `portcullis \
             admin secret configure`"
        }
        Denial::SecretUnknown => "the secret, or a new version of it: `portcullis admin secret put`",
        Denial::SecretDisabled => "`portcullis admin secret enable`",
        Denial::SecretDamaged => {
            "the store restored, or a new version of the secret: its stored record is not what was written"
        }
        Denial::TtlTooLong => {
            "a request for at most the maximum lease of each of its secrets, or a longer maximum"
        }
        Denial::HoldUnavailable => "a longer lease, or a request without `hold`",
        Denial::ParametersNotTaken => "a request without parameters that the secret's engine does not take",
        Denial::GrantExpired => {
            "nothing but a new request, unless it comes often: then the broker is overloaded"
        }
        Denial::GrantSuperseded => {
            "nothing but a new request: something that the decision rested on changed before the secret \
             left"
        }
        Denial::LeaseRevoked => {
            "a new request, where the lease was ended by itself: `portcullis audit show` has whoever revoked it and why"
        }
        Denial::HoldExpired => {
            "whatever the rounds before it lacked: their records, of the same lease, say what was uncertain"
        }
        Denial::HoldDrained => {
            "a new stream, which a client that holds opens by itself: the broker stopped, or the connection was too old"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_denial_says_what_would_be_needed_in_its_own_words() {
        let words: BTreeSet<&str> = Denial::ALL.iter().map(|denial| needed(*denial)).collect();
        assert_eq!(words.len(), Denial::ALL.len());
        assert!(words.iter().all(|words| !words.ends_with('.') && words.len() > 20 && !words.contains("  ")));
    }
}
