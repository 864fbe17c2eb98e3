//! Every way to end without a secret, in stage order, subject first so that they sort.
//!
//! One table: *variant · class · wire reason · latches*. The status mapping (`api/status.rs`), the audit log and the
//! tests read it; nothing else decides what a caller hears.
//! Source: `protocol.md` "Denials on the wire"; NIST SP 800-53 AC-3, SC-24, SI-17.

/// Whether a denial is a confident no, or the absence of an answer. Both stop the workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No answer could be had: something needed was stale, unreachable, undecided or in error.
    Uncertain,
    /// A confident no.
    Refused,
}

impl Class {
    /// The word in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Class::Uncertain => "uncertain",
            Class::Refused => "refused",
        }
    }
}

/// What the caller hears: `google.rpc.ErrorInfo.reason` of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A bug in the broker.
    Internal,
    /// Malformed, oversized, out of range or out of order.
    RequestInvalid,
    /// The peer's identity cannot be proven now; the connection goes away.
    IdentityNotCurrent,
    /// The challenge was not answered in time.
    ChallengeNotCurrent,
    /// Refused; one answer for every cause.
    NotReleased,
    /// Something needed for the decision is stale, unreachable, undecided or in error.
    VerificationNotPossible,
    /// Shed before any decision.
    Overloaded,
    /// The caller's deadline passed.
    DeadlineExceeded,
}

impl Reason {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Internal => "INTERNAL",
            Reason::RequestInvalid => "REQUEST_INVALID",
            Reason::IdentityNotCurrent => "IDENTITY_NOT_CURRENT",
            Reason::ChallengeNotCurrent => "CHALLENGE_NOT_CURRENT",
            Reason::NotReleased => "NOT_RELEASED",
            Reason::VerificationNotPossible => "VERIFICATION_NOT_POSSIBLE",
            Reason::Overloaded => "OVERLOADED",
            Reason::DeadlineExceeded => "DEADLINE_EXCEEDED",
        }
    }

    /// Whether a held lease that ends with it is not to be used any more; after any other it may be used until its end.
    pub fn ends_lease(self) -> bool {
        match self {
            Reason::NotReleased
            | Reason::IdentityNotCurrent
            | Reason::RequestInvalid
            | Reason::ChallengeNotCurrent => true,
            Reason::VerificationNotPossible
            | Reason::Overloaded
            | Reason::DeadlineExceeded
            | Reason::Internal => false,
        }
    }

    /// The gRPC status code that goes with it (`grpc/status.proto` numbers), for whoever answers and whoever reads. Never
    /// UNAVAILABLE, CANCELLED, UNKNOWN or ABORTED: meshes and client libraries retry those by default.
    pub fn grpc_code(self) -> i32 {
        match self {
            Reason::RequestInvalid => 3,
            Reason::DeadlineExceeded => 4,
            Reason::NotReleased => 7,
            Reason::Overloaded => 8,
            Reason::ChallengeNotCurrent | Reason::VerificationNotPossible => 9,
            Reason::Internal => 13,
            Reason::IdentityNotCurrent => 16,
        }
    }

    /// The reason of that name, as a client reads it; unknown names are none.
    pub fn parse(name: &str) -> Option<Reason> {
        [
            Reason::Internal,
            Reason::RequestInvalid,
            Reason::IdentityNotCurrent,
            Reason::ChallengeNotCurrent,
            Reason::NotReleased,
            Reason::VerificationNotPossible,
            Reason::Overloaded,
            Reason::DeadlineExceeded,
        ]
        .into_iter()
        .find(|reason| reason.name() == name)
    }
}

macro_rules! denials {
    ($($(#[doc = $doc:literal])+ $variant:ident: $class:ident, $reason:ident, $latches:literal;)+) => {
        /// Why no secret was released. The zero value, like every other, denies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Denial { $($(#[doc = $doc])+ $variant,)+ }

        impl Denial {
            /// Every variant, in stage order.
            pub const ALL: &'static [Denial] = &[$(Denial::$variant,)+];

            /// The variant's name, as the audit log spells it.
            pub fn name(self) -> &'static str {
                match self { $(Denial::$variant => stringify!($variant),)+ }
            }

            /// Refused or uncertain.
            pub fn class(self) -> Class {
                match self { $(Denial::$variant => Class::$class,)+ }
            }

            /// What the caller hears.
            pub fn reason(self) -> Reason {
                match self { $(Denial::$variant => Reason::$reason,)+ }
            }

            /// Whether this refusal of verified evidence holds for a time (`protocol.md` "What a refusal latches").
            pub fn latches(self) -> bool {
                match self { $(Denial::$variant => $latches,)+ }
            }

            /// One sentence for an operator.
            pub fn explanation(self) -> &'static str {
                match self { $(Denial::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

denials! {
    /// A bug in the broker: it denies, and says so in the log.
    Defect: Uncertain, Internal, false;

    // Shape.
    /// A message is malformed, oversized, or a field is out of its range.
    RequestMalformed: Refused, RequestInvalid, false;
    /// A step arrived out of order.
    RequestOutOfOrder: Refused, RequestInvalid, false;
    /// `Open` did not arrive in time.
    RequestOpenTooLate: Refused, RequestInvalid, false;
    /// The client and the broker have no channel binding in common.
    RequestChannelBindingUnavailable: Refused, RequestInvalid, false;
    /// The `grpc-timeout` header is malformed; it is never read as "no deadline".
    RequestTimeoutMalformed: Refused, RequestInvalid, false;
    /// The evidence holds a format that the challenge did not offer, or one format twice.
    EvidenceFormatNotOffered: Refused, RequestInvalid, false;
    /// The caller's own deadline passed.
    DeadlinePassed: Uncertain, DeadlineExceeded, false;
    /// The caller is over one of its limits; nothing was decided.
    LimitExceeded: Uncertain, Overloaded, false;

    // Identity.
    /// The certificate has no URI SAN, or more than one.
    PeerIdentityAmbiguous: Refused, IdentityNotCurrent, false;
    /// The certificate is not an X.509-SVID: its SPIFFE ID, key usage or constraints are wrong.
    PeerIdentityMalformed: Refused, IdentityNotCurrent, false;
    /// No trust domain of that name is configured.
    PeerTrustDomainUnknown: Refused, IdentityNotCurrent, false;
    /// The certificate does not lead to the bundle of its own trust domain.
    PeerUntrusted: Refused, IdentityNotCurrent, false;
    /// A certificate of the path is not valid yet.
    PeerCertificateNotYetValid: Refused, IdentityNotCurrent, false;
    /// A certificate of the path has expired.
    PeerCertificateExpired: Refused, IdentityNotCurrent, false;
    /// The certificate lives longer than its trust domain's declared bound, and that domain revokes by short lives.
    PeerCertificateLifetimeTooLong: Refused, IdentityNotCurrent, false;
    /// A certificate of the path is on its issuer's revocation list.
    PeerRevoked: Refused, IdentityNotCurrent, false;
    /// An administrator revoked this identity or this key.
    PeerRevokedByBroker: Refused, IdentityNotCurrent, false;

    // Everything that must be current.
    /// The trust domain's bundle cannot be read.
    BundleUnknown: Uncertain, VerificationNotPossible, false;
    /// The trust domain's bundle is older than its maximum age.
    BundleStale: Uncertain, VerificationNotPossible, false;
    /// No usable revocation list covers an issuer of the path.
    RevocationUnknown: Uncertain, VerificationNotPossible, false;
    /// A revocation list is past its nextUpdate or its maximum age.
    RevocationStale: Uncertain, VerificationNotPossible, false;
    /// The clock cannot be read, or stepped.
    ClockSuspect: Uncertain, VerificationNotPossible, false;
    /// The enrolled nodes cannot be read.
    NodesUnavailable: Uncertain, VerificationNotPossible, false;
    /// The policy cannot be read, or none is loaded.
    PolicyUnavailable: Uncertain, VerificationNotPossible, false;
    /// The store does not answer.
    StoreUnavailable: Uncertain, VerificationNotPossible, false;
    /// The audit log cannot be written.
    AuditUnavailable: Uncertain, VerificationNotPossible, false;

    /// The store was restored, and no administrator has accepted that yet.
    RestoreNotAccepted: Uncertain, VerificationNotPossible, false;

    // Challenge.
    /// The challenge was not answered in time.
    ChallengeExpired: Refused, ChallengeNotCurrent, false;

    // Evidence.
    /// The evidence does not parse, or is not encoded as its format demands.
    EvidenceMalformed: Refused, NotReleased, false;
    /// The key that the evidence names is not enrolled, or does not lead to a pinned root.
    EndorsementUntrusted: Refused, NotReleased, false;
    /// The enrolment of the node that vouches has expired.
    EndorsementExpired: Refused, NotReleased, false;
    /// The node may not vouch for this identity.
    EndorsementNotPermitted: Refused, NotReleased, false;
    /// The evidence names another node than the one whose key signed it.
    EvidenceNodeMismatch: Refused, NotReleased, false;
    /// The signature over the evidence is not of the key that it names.
    EvidenceSignatureInvalid: Refused, NotReleased, false;
    /// The evidence was made for another challenge, connection, key, identity, audience or request.
    EvidenceBindingMismatch: Refused, NotReleased, false;
    /// The evidence was made too long ago.
    EvidenceTooOld: Refused, NotReleased, false;
    /// The evidence claims to have been made in the future.
    EvidenceFromFuture: Refused, NotReleased, false;
    /// A certificate that vouches for the evidence is not valid yet.
    EndorsementNotYetValid: Refused, NotReleased, false;
    /// A certificate that vouches for the evidence was revoked.
    EndorsementRevoked: Refused, NotReleased, false;
    /// A clock or counter of the evidence went back, or is not safe: its machine was reset or restored.
    EvidenceCounterBackwards: Refused, NotReleased, false;
    /// Collateral that the evidence needs is not there and could not be had.
    CollateralUnavailable: Uncertain, VerificationNotPossible, false;
    /// Collateral that the evidence needs is past its end.
    CollateralStale: Uncertain, VerificationNotPossible, false;

    // Latch.
    /// An earlier refusal of this subject for this secret still stands.
    LatchHolds: Refused, NotReleased, false;

    // Appraisal.
    /// No reference values are known for this workload.
    ReferenceValuesMissing: Uncertain, VerificationNotPossible, false;
    /// The reference values that match have expired.
    ReferenceValuesExpired: Uncertain, VerificationNotPossible, false;
    /// The stored reference values cannot be read.
    ReferenceValuesUnavailable: Uncertain, VerificationNotPossible, false;
    /// The claims are not those of any reference set of this workload.
    MeasurementMismatch: Refused, NotReleased, true;
    /// The evidence is genuine, and its platform is not acceptable: debug, an old TCB, a product that is refused.
    PlatformNotAcceptable: Refused, NotReleased, true;

    // Policy.
    /// A policy forbids.
    PolicyForbids: Refused, NotReleased, true;
    /// No policy permits; silence denies.
    PolicySilent: Refused, NotReleased, true;
    /// A policy could not be evaluated; what it would have said is not known.
    PolicyUnevaluable: Uncertain, NotReleased, false;
    /// The secret is to be had only with the TLS exporter as channel binding.
    ChannelBindingDemanded: Refused, NotReleased, true;
    /// No such secret, or all of it was destroyed.
    SecretUnknown: Refused, NotReleased, true;
    /// The secret is disabled.
    SecretDisabled: Refused, NotReleased, true;
    /// The secret's record is damaged, or is not the one that belongs there.
    SecretDamaged: Uncertain, NotReleased, false;
    /// The asked lease is longer than the maximum of the secrets asked for.
    TtlTooLong: Refused, NotReleased, true;
    /// The lease is too short to be held: no round of attestation and its answer fit into it.
    HoldUnavailable: Refused, NotReleased, true;
    /// The engine does not take these parameters.
    ParametersNotTaken: Refused, NotReleased, true;

    // Release.
    /// The grant was not redeemed within its few seconds.
    GrantExpired: Uncertain, VerificationNotPossible, false;
    /// Something that the grant rests on changed before it was redeemed.
    GrantSuperseded: Uncertain, VerificationNotPossible, false;
    /// An administrator ended the held lease.
    LeaseRevoked: Refused, NotReleased, false;
    /// The held lease reached its end before a round of attestation verified.
    HoldExpired: Uncertain, VerificationNotPossible, false;
    /// The broker or the connection is going away; the held lease stands until its end.
    HoldDrained: Uncertain, VerificationNotPossible, false;
}

impl Denial {
    /// The variant of that name, as the audit log spells it.
    pub fn parse(name: &str) -> Option<Denial> {
        Denial::ALL.iter().copied().find(|denial| denial.name() == name)
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl serde::Serialize for Denial {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Denial {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Denial::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("no denial is named `{name}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_of_verified_evidence_latch() {
        for denial in Denial::ALL {
            if denial.latches() {
                assert_eq!(denial.class(), Class::Refused, "{denial}");
                assert_eq!(denial.reason(), Reason::NotReleased, "{denial}");
                assert!(*denial > Denial::LatchHolds, "{denial} is of unverified evidence");
            }
        }
    }

    #[test]
    fn every_name_parses_back_and_is_explained() {
        for denial in Denial::ALL {
            assert_eq!(Denial::parse(denial.name()), Some(*denial));
            assert!(denial.explanation().ends_with('.'), "{denial}");
        }
    }
}
