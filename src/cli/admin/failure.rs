//! How a command fails, and with which exit code.

use crate::cli::exit;
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

    /// No connection, or not to the broker.
    pub fn connect(text: impl Into<String>) -> Self {
        Failure { code: exit::UNAVAILABLE, text: text.into() }
    }

    /// A fault of this machine.
    pub fn internal(text: impl Into<String>) -> Self {
        Failure { code: exit::INTERNAL, text: text.into() }
    }

    /// A check that fails: everything was there, and the answer is no.
    pub fn no(text: impl Into<String>) -> Self {
        Failure { code: NO, text: text.into() }
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
        let Some(info) = status.get_details_error_info().filter(|info| info.domain == "portcullis") else {
            let why = "the connection was lost, or the broker's listener refused the certificate";
            return Failure::connect(format!("{why}: {}", status.message()));
        };
        let code = match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => exit::DENIED,
            Code::InvalidArgument => exit::USAGE,
            Code::NotFound | Code::AlreadyExists => NO,
            Code::FailedPrecondition | Code::ResourceExhausted => exit::NOT_POSSIBLE,
            _ => exit::INTERNAL,
        };
        Failure { code, text: format!("{} ({})", status.message(), info.reason) }
    }
}

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
        assert_eq!(Failure::from(Status::new(Code::PermissionDenied, "no")).exit_code(), 69);
    }
}
