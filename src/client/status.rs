//! What a gRPC status says, and whether the broker said it.
//!
//! *Takes* a `tonic::Status`. *Gives* [`ReleaseError`]. *Denies* nothing new: a status without exactly one `ErrorInfo` of
//! ours is nobody's denial, and releases nothing either. *Source*: `protocol.md` "Denials on the wire".

use super::alert::refusal_in;
use super::error::{CertificateRefused, ConnectError, Imposture, ReleaseError};
use super::link::explain;
use crate::denial::Reason;
use prost::Message;
use std::error::Error;
use tonic::Code;
use tonic_types::{ErrorDetail, ErrorInfo, RpcStatusExt};

/// Where a status comes from.
pub(super) enum Origin {
    /// From our own side of the connection: it broke, or was reset. With the explanation.
    Local(String),
    /// From our own side: the peer refused our certificate, by an alert.
    Refused(CertificateRefused),
    /// From a broker or an attester, with its one `ErrorInfo`.
    Portcullis(ErrorInfo),
    /// From anything else: a balancer, a mesh, a gRPC library.
    Foreign,
}

/// Tells where a status comes from.
pub(super) fn origin(status: &tonic::Status) -> Origin {
    if let Some(refusal) = refusal_in(status) {
        return Origin::Refused(refusal);
    }
    if let Some(cause) = status.source() {
        return Origin::Local(explain(cause));
    }
    error_info(status).map_or(Origin::Foreign, Origin::Portcullis)
}

/// Reads the status with which a stream ended in place of a release.
pub(super) fn read(status: &tonic::Status) -> ReleaseError {
    match origin(status) {
        Origin::Local(why) => ReleaseError::Connect(ConnectError::Lost(why)),
        Origin::Refused(why) => ReleaseError::CertificateRefused(why),
        Origin::Portcullis(info) => denial(status.code(), &info).unwrap_or(foreign(status)),
        Origin::Foreign => foreign(status),
    }
}

fn foreign(status: &tonic::Status) -> ReleaseError {
    ReleaseError::NotTheBroker(Imposture::Status(status.code().into()))
}

fn denial(code: Code, info: &ErrorInfo) -> Option<ReleaseError> {
    let reason = Reason::parse(&info.reason).filter(|reason| Code::from_i32(reason.grpc_code()) == code)?;
    let decision_id = info.metadata.get("decision_id").filter(|id| is_decision_id(id)).cloned();
    Some(match reason {
        Reason::NotReleased
        | Reason::IdentityNotCurrent
        | Reason::RequestInvalid
        | Reason::ChallengeNotCurrent => ReleaseError::Denied { reason, decision_id },
        Reason::VerificationNotPossible
        | Reason::Overloaded
        | Reason::DeadlineExceeded
        | Reason::Internal => ReleaseError::NotPossible { reason, decision_id },
    })
}

/// The one `ErrorInfo` of our domain, in details whose code and message are those of the status.
fn error_info(status: &tonic::Status) -> Option<ErrorInfo> {
    let details = tonic_types::Status::decode(status.details()).ok()?;
    if details.code != i32::from(status.code()) || details.message != status.message() {
        return None;
    }
    let infos = details.check_error_details_vec().ok()?.into_iter().filter_map(|detail| match detail {
        ErrorDetail::ErrorInfo(info) => Some(info),
        _ => None,
    });
    let mut infos = infos.collect::<Vec<_>>();
    let info = infos.pop().filter(|info| info.domain == DOMAIN)?;
    infos.is_empty().then_some(info)
}

/// Whether details, under a code and a message of their own, are what Portcullis says. For the tests of the parser: nothing
/// else needs it.
#[doc(hidden)]
pub fn is_of_portcullis(details: &[u8]) -> bool {
    let Ok(said) = tonic_types::Status::decode(details) else { return false };
    let status =
        tonic::Status::with_details(Code::from_i32(said.code), said.message, details.to_vec().into());
    !matches!(read(&status), ReleaseError::NotTheBroker(_))
}

/// An id is shown to people and pasted into commands: nothing else than such characters may be in it.
fn is_decision_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=DECISION_ID_BYTES).contains(&id.len()) && id.bytes().all(allowed)
}

/// `ErrorInfo.domain` of everything that Portcullis says.
const DOMAIN: &str = "portcullis";
/// An id of 64 random bytes in hex is as long.
const DECISION_ID_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Kind;
    use std::collections::HashMap;
    use tonic_types::{ErrorDetails, StatusExt};

    fn info(domain: &str, reason: &str, id: &str) -> ErrorDetails {
        ErrorDetails::with_error_info(reason, domain, HashMap::from([("decision_id".into(), id.into())]))
    }

    fn not_released(details: ErrorDetails) -> tonic::Status {
        tonic::Status::with_error_details(Code::PermissionDenied, "denied", details)
    }

    const FOREIGN: ReleaseError = ReleaseError::NotTheBroker(Imposture::Status(7));

    #[test]
    fn a_denial_is_read_with_its_decision_id() {
        let error = read(&not_released(info(DOMAIN, "NOT_RELEASED", "Ab-9_x")));
        let decision_id = Some("Ab-9_x".to_owned());
        assert_eq!(error, ReleaseError::Denied { reason: Reason::NotReleased, decision_id });
    }

    #[test]
    fn every_reason_is_read_under_its_own_code_alone() {
        for name in [
            "INTERNAL",
            "REQUEST_INVALID",
            "IDENTITY_NOT_CURRENT",
            "CHALLENGE_NOT_CURRENT",
            "NOT_RELEASED",
            "VERIFICATION_NOT_POSSIBLE",
            "OVERLOADED",
            "DEADLINE_EXCEEDED",
        ] {
            let reason = Reason::parse(name).unwrap();
            for code in (1..=16).map(Code::from_i32) {
                let details = info(DOMAIN, name, "d");
                let error = read(&tonic::Status::with_error_details(code, "text", details));
                let own = code == Code::from_i32(reason.grpc_code());
                assert_eq!(error.reason(), own.then_some(reason), "{name} {code:?}");
                let foreign = ReleaseError::NotTheBroker(Imposture::Status(code.into()));
                assert_eq!(error == foreign, !own, "{name} {code:?}");
            }
        }
    }

    #[test]
    fn a_refused_certificate_is_a_denial_and_a_lost_connection_is_none() {
        let refused = tonic::Status::from_error(Box::new(CertificateRefused::Revoked));
        let error = read(&refused);
        assert_eq!(error, ReleaseError::CertificateRefused(CertificateRefused::Revoked));
        assert_eq!((error.kind(), error.reason(), error.decision_id()), (Kind::Denied, None, None));
        let lost = read(&tonic::Status::from_error("broken pipe".into()));
        assert_eq!(lost, ReleaseError::Connect(ConnectError::Lost("broken pipe".into())));
    }

    #[test]
    fn a_status_without_error_info_is_not_the_brokers() {
        assert_eq!(read(&tonic::Status::permission_denied("denied")), FOREIGN);
        assert_eq!(read(&not_released(ErrorDetails::new())), FOREIGN);
        let garbage = tonic::Status::with_details(Code::PermissionDenied, "denied", vec![0xff; 9].into());
        assert_eq!(read(&garbage), FOREIGN);
    }

    #[test]
    fn another_domain_or_an_unknown_reason_is_not_the_brokers() {
        assert_eq!(read(&not_released(info("example.org", "NOT_RELEASED", "d"))), FOREIGN);
        assert_eq!(read(&not_released(info(DOMAIN, "RELEASED", "d"))), FOREIGN);
    }

    #[test]
    fn two_error_infos_are_not_the_brokers() {
        let one = || {
            ErrorDetail::ErrorInfo(ErrorInfo::new("NOT_RELEASED", DOMAIN, HashMap::<String, String>::new()))
        };
        let both =
            tonic::Status::with_error_details_vec(Code::PermissionDenied, "denied", vec![one(), one()]);
        assert_eq!(read(&both), FOREIGN);
    }

    #[test]
    fn details_of_another_code_or_message_are_not_the_brokers() {
        let details = not_released(info(DOMAIN, "NOT_RELEASED", "d")).details().to_vec();
        let other = |code, text: &str| tonic::Status::with_details(code, text, details.clone().into());
        assert_eq!(read(&other(Code::PermissionDenied, "other")), FOREIGN);
        let unavailable = ReleaseError::NotTheBroker(Imposture::Status(14));
        assert_eq!(read(&other(Code::Unavailable, "denied")), unavailable);
    }

    #[test]
    fn a_decision_id_that_could_be_a_command_is_not_shown() {
        for id in ["", "a b", "$(reboot)", "\u{1b}[2J", &"a".repeat(129)] {
            let error = read(&not_released(info(DOMAIN, "NOT_RELEASED", id)));
            assert_eq!(
                error,
                ReleaseError::Denied { reason: Reason::NotReleased, decision_id: None },
                "{id}"
            );
        }
    }
}
