//! The one mapping from a denial to what its caller hears.
//!
//! *Takes* an `Answered`. *Gives* a `tonic::Status` with exactly one `ErrorInfo` and the pushback trailer.
//! *Denies* nothing: it is denied already. *Source*: `protocol.md` "Denials on the wire"; google.rpc.ErrorInfo; gRFC A6.

use crate::broker::Answered;
use crate::denial::Reason;
use std::collections::HashMap;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "portcullis";

/// The status of a denial: the same for every cause of one reason, but for the decision id.
pub fn status(answered: &Answered) -> Status {
    let reason = answered.denial.reason();
    let metadata: HashMap<String, String> =
        answered.decision_id.iter().map(|id| ("decision_id".to_owned(), id.clone())).collect();
    error(Code::from_i32(reason.grpc_code()), message(reason), reason.name(), metadata)
}

/// A status with one `ErrorInfo` of ours and the trailer that forbids retries; the attester's errors have this shape too.
pub fn error(code: Code, message: &str, reason: &str, metadata: HashMap<String, String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    let mut trailers = MetadataMap::new();
    trailers.insert("grpc-retry-pushback-ms", MetadataValue::from_static("-1"));
    Status::with_error_details_and_metadata(code, message, details, trailers)
}

fn message(reason: Reason) -> &'static str {
    match reason {
        Reason::Internal => "the broker failed; nothing was released",
        Reason::RequestInvalid => "the request is not valid",
        Reason::IdentityNotCurrent => "the identity cannot be proven now",
        Reason::ChallengeNotCurrent => "the challenge was not answered in time",
        Reason::NotReleased => "not released",
        Reason::VerificationNotPossible => "verification is not possible now; nothing was released",
        Reason::Overloaded => "too many requests; nothing was decided",
        Reason::DeadlineExceeded => "the deadline passed; nothing was released",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::Denial;

    #[test]
    fn every_denial_maps_to_a_code_that_nothing_retries() {
        for denial in Denial::ALL {
            let status = status(&Answered { denial: *denial, decision_id: Some("0".repeat(32)) });
            let forbidden = [Code::Ok, Code::Unavailable, Code::Cancelled, Code::Unknown, Code::Aborted];
            assert!(!forbidden.contains(&status.code()), "{denial}");
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (denial.reason().name(), "portcullis"));
            assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
        }
    }

    #[test]
    fn one_reason_has_one_text_and_differs_by_the_decision_id_alone() {
        let of = |denial| status(&Answered { denial, decision_id: Some("ab".repeat(16)) });
        let (a, b) = (of(Denial::SecretUnknown), of(Denial::PolicyForbids));
        assert_eq!(a.message(), b.message());
        assert_eq!(a.details(), b.details());
    }
}
