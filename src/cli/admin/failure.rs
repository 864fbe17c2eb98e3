//! How a command fails, and with which exit code.

use crate::cli::exit;
use crate::client::{CertificateRefused, refusal_in};
use std::error::Error;
use std::fmt;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The command line, or a file that it names.
    pub fn usage(text: impl Into<String>) -> Self {
        Failure { code: exit::USAGE, text: text.into() }
    }

    /// Certificate, key or bundle.
    pub fn configuration(text: impl Into<String>) -> Self {
        Failure { code: exit::CONFIGURATION, text: text.into() }
    }

    /// No connection.
    pub fn connect(text: impl Into<String>) -> Self {
        Failure { code: exit::UNAVAILABLE, text: text.into() }
    }

    /// Whoever answered is not the broker, or does not speak its protocol.
    pub fn not_the_broker(text: impl Into<String>) -> Self {
        Failure { code: exit::PROTOCOL, text: text.into() }
    }

    /// The broker refused the operator's certificate in the handshake.
    pub fn refused(why: CertificateRefused) -> Self {
        Failure { code: exit::DENIED, text: format!("the broker refuses the operator's certificate: {why}") }
    }

    /// A fault of this machine.
    pub fn internal(text: impl Into<String>) -> Self {
        Failure { code: exit::INTERNAL, text: text.into() }
    }

    /// A check that fails: everything was there, and the answer is no.
    pub fn no(text: impl Into<String>) -> Self {
        Failure { code: NO, text: text.into() }
    }

    /// The same, of one step among several.
    pub fn at(self, step: &str) -> Self {
        Failure {
            text: format!("{step}: {}; what was done stays, and applying again goes on", self.text),
            ..self
        }
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(why) = refusal_in(&status) {
            return Failure::refused(why);
        }
        if let Some(cause) = status.source() {
            return Failure::connect(format!("the connection was lost: {cause}"));
        }
        let Some(info) = status.get_details_error_info().filter(|info| info.domain == "portcullis") else {
            let (code, text) = (i32::from(status.code()), status.message());
            return Failure::not_the_broker(format!("a status {code} that no broker sent: {text}"));
        };
        let code = match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => exit::DENIED,
            Code::InvalidArgument => exit::USAGE,
            Code::NotFound | Code::AlreadyExists => NO,
            Code::FailedPrecondition if info.reason == NOT_PROVEN => NO,
            Code::FailedPrecondition | Code::ResourceExhausted => exit::NOT_POSSIBLE,
            _ => exit::INTERNAL,
        };
        Failure { code, text: format!("{} ({})", status.message(), info.reason) }
    }
}

/// What a TPM says of itself was looked at and refused: no other time makes it good.
const NOT_PROVEN: &str = "NOT_PROVEN";
/// The answer is a plain no.
const NO: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn each_kind_of_no_has_its_code() {
        let of =
            |code| Failure::from(crate::api::status::error(code, "no", "REASON", HashMap::new())).exit_code();
        assert_eq!(of(Code::PermissionDenied), 77);
        assert_eq!(of(Code::InvalidArgument), 64);
        assert_eq!((of(Code::NotFound), of(Code::AlreadyExists)), (1, 1));
        assert_eq!(of(Code::FailedPrecondition), 75);
        assert_eq!(of(Code::Internal), 70);
        // Without an `ErrorInfo` of ours nobody knows whose word it is.
        assert_eq!(Failure::from(Status::new(Code::PermissionDenied, "no")).exit_code(), 76);
        assert_eq!(Failure::from(Status::from_error("broken pipe".into())).exit_code(), 69);
        let refused = Failure::from(Status::from_error(Box::new(CertificateRefused::OutOfTime)));
        assert_eq!(refused.exit_code(), 77);
        assert!(refused.to_string().contains("has expired"), "{refused}");
    }
}
