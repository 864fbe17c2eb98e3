//! Every way in which a release ends without a secret, as the workload sees it.
//!
//! *Takes* what the other files of `client/` found. *Gives* [`ReleaseError`] and its [`Kind`]. *Denies* everything:
//! whatever the variant, nothing was released. *Source*: `protocol.md` "Denials on the wire".

use super::attester::AttestError;
use super::config::ConfigError;
use crate::denial::{Denial, Reason};
use crate::time::Suspect;

/// Why there is no secret. No variant is ever tried again by this library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The broker's confident no: NOT_RELEASED, IDENTITY_NOT_CURRENT, REQUEST_INVALID or CHALLENGE_NOT_CURRENT.
    #[error("denied: {}", reason.name())]
    Denied {
        /// The broker's word.
        reason: Reason,
        /// The id of the audit record, for an operator.
        decision_id: Option<String>,
    },
    /// The broker refused this workload's certificate in the handshake, by a TLS alert: there is no reason and no id then.
    /// Its audit log has the refusal, at most once a minute a key.
    #[error("denied: the broker refuses this workload's certificate: {0}")]
    CertificateRefused(CertificateRefused),
    /// The broker could not decide: VERIFICATION_NOT_POSSIBLE, OVERLOADED, DEADLINE_EXCEEDED or INTERNAL.
    #[error("the broker could not verify: {}", reason.name())]
    NotPossible {
        /// The broker's word.
        reason: Reason,
        /// The id of the audit record; absent from OVERLOADED.
        decision_id: Option<String>,
    },
    /// The node's attester gave no evidence.
    #[error("no evidence: {0}")]
    Attestation(AttestError),
    /// The evidence was not there within the time that the challenge allows.
    #[error("the challenge could not be answered in time")]
    AnswerTooLate,
    /// Our own deadline passed.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// Our clock cannot be trusted, so that no certificate and no lease can be judged.
    #[error("the clock is suspect: {0}")]
    ClockSuspect(Suspect),
    /// No connection, or it was lost before `Released`.
    #[error("no connection to the broker: {0}")]
    Connect(ConnectError),
    /// Whoever answered is not the broker, or did not show that it is.
    #[error("not the broker's answer: {0}")]
    NotTheBroker(Imposture),
    /// The broker broke the protocol.
    #[error("the broker broke the protocol: {0}")]
    Protocol(Violation),
    /// What was asked for cannot be asked.
    #[error("the request is malformed: {0}")]
    Request(Denial),
    /// The configuration, or a file that it names, is wrong.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The system gave no randomness.
    #[error("no randomness for a fresh key")]
    NoRandomness,
}

/// What a caller does about an error; `cli/` has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Refused; asking again changes nothing.
    Denied,
    /// No answer could be had now.
    NotPossible,
    /// The broker could not be reached.
    Connect,
    /// The other side is not the broker, or does not speak its protocol.
    Protocol,
    /// Asked wrongly.
    Usage,
    /// Configured wrongly.
    Config,
    /// A fault of this machine.
    Internal,
}

impl ReleaseError {
    /// The kind, for decisions; the variant is for people.
    pub fn kind(&self) -> Kind {
        match self {
            ReleaseError::Denied { .. } | ReleaseError::CertificateRefused(_) => Kind::Denied,
            ReleaseError::NotPossible { .. }
            | ReleaseError::Attestation(_)
            | ReleaseError::AnswerTooLate
            | ReleaseError::DeadlinePassed
            | ReleaseError::ClockSuspect(_) => Kind::NotPossible,
            ReleaseError::Connect(_) => Kind::Connect,
            ReleaseError::NotTheBroker(_) | ReleaseError::Protocol(_) => Kind::Protocol,
            ReleaseError::Request(_) => Kind::Usage,
            ReleaseError::Config(_) => Kind::Config,
            ReleaseError::NoRandomness => Kind::Internal,
        }
    }

    /// The audit record's id, where the broker named one.
    pub fn decision_id(&self) -> Option<&str> {
        match self {
            ReleaseError::Denied { decision_id, .. } | ReleaseError::NotPossible { decision_id, .. } => {
                decision_id.as_deref()
            }
            _ => None,
        }
    }

    /// The broker's reason, where it gave one.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            ReleaseError::Denied { reason, .. } | ReleaseError::NotPossible { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

/// Why the broker refused our certificate, as far as an alert says it (RFC 8446 §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    /// certificate_revoked: by the trust domain's list, or by the broker's own.
    #[error("it is revoked")]
    Revoked,
    /// certificate_expired; also of one that has not begun.
    #[error("it has expired, or is not valid yet")]
    OutOfTime,
    /// unknown_ca: it leads to no bundle of the broker's, or its trust domain is not configured there.
    #[error("it leads to no authority that the broker trusts")]
    IssuerUnknown,
    /// bad_certificate.
    #[error("it is no X.509-SVID of one SPIFFE ID")]
    Malformed,
    /// access_denied, such as for a certificate that lives longer than the broker allows.
    #[error("it is none that the broker lets in")]
    AccessDenied,
}

/// Why there is no connection. There is one try, and no second.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address does not resolve, or nobody listens there.
    #[error("{0}")]
    Unreachable(String),
    /// TCP and TLS took too long.
    #[error("the handshake took too long")]
    HandshakeTooSlow,
    /// The handshake failed, for instance by the broker's alert.
    #[error("the handshake failed: {0}")]
    Handshake(String),
    /// The connection or the stream broke, without a word.
    #[error("lost: {0}")]
    Lost(String),
}

/// How the other side showed that it is not the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Imposture {
    /// Its certificate.
    #[error("{0}")]
    Certificate(PeerRefused),
    /// The handshake was not a full one of TLS 1.3 with HTTP/2, or gave no exporter.
    #[error("the connection is not a full TLS 1.3 handshake with HTTP/2 and an exporter")]
    Connection,
    /// The challenge names another audience than the configured broker.
    #[error("the challenge is for another audience")]
    Audience,
    /// A status without the one `ErrorInfo` that a broker's denial has; from a balancer, a mesh or a library.
    #[error("a status {0} that no broker sent")]
    Status(i32),
}

/// Why the server's certificate is not the broker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// It is not an X.509-SVID.
    #[error("its certificate is not an X.509-SVID ({0})")]
    NotAnSvid(Denial),
    /// It is somebody else's SVID.
    #[error("its SPIFFE ID is not the configured one")]
    OtherIdentity,
    /// It does not lead to the bundle.
    #[error("its certificate does not lead to the bundle")]
    Untrusted,
    /// It has ended.
    #[error("its certificate has expired")]
    Expired,
    /// It has not begun.
    #[error("its certificate is not valid yet")]
    NotYetValid,
}

/// How the broker broke the protocol; nothing of what it sent was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message came that does not belong there, or holds no step.
    #[error("a step out of order")]
    OutOfOrder,
    /// The stream ended with OK and without `Released`.
    #[error("the stream ended without a release")]
    EndedEarly,
    /// The challenge's nonce is not 32 bytes.
    #[error("the nonce is not 32 bytes")]
    Nonce,
    /// The challenge's time is not 1 to 30 000 ms.
    #[error("the time to answer is not 1 to 30000 ms")]
    AnswerWithin,
    /// The challenge offers no format.
    #[error("no format is offered")]
    Formats,
    /// The challenge names another channel binding than the TLS exporter, the only one asked for.
    #[error("another channel binding than tls-exporter")]
    ChannelBinding,
    /// The challenge's round is not the next one, from 0.
    #[error("the challenge's round is not the next one")]
    Round,
    /// The lease's id is not `[A-Za-z0-9_-]{16,64}`.
    #[error("the lease id is malformed")]
    LeaseId,
    /// The lease has no end, has already ended, or ends absurdly late.
    #[error("the end of the lease is absent, past or absurd")]
    NotAfter,
    /// A lease that nobody asked to hold is to be attested again, or one that was to be held is not.
    #[error("a hold that was not asked for, or none that was")]
    Hold,
    /// Not the secrets that were asked for, in that order.
    #[error("not the secrets that were asked for, in that order")]
    Secrets,
    /// A sealed secret does not open under this binding, path, version and lease.
    #[error("a sealed secret does not open")]
    Seal,
    /// What was sealed is no `SecretValue`, or one without fields.
    #[error("what was sealed is no secret value")]
    Value,
}
