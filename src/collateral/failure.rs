//! Why something is not to be had from a service.
//!
//! *Takes* what went wrong. *Gives* [`Failure`]. *Denies* nothing itself: what is not there the verifier denies.
//! *Source*: RFC 9110 §15; `evidence.md` §1 "What goes stale and what is unreachable".

use serde::Serialize;

/// Each way in which an item could not be had. None of them says anything about the item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "failure", content = "detail")]
pub enum Failure {
    /// No service is configured for it.
    #[error("no service is configured")]
    NotConfigured,
    /// The clock is suspect: nothing can be called current.
    #[error("the clock is suspect")]
    ClockSuspect,
    /// The service failed a short while ago; it is not asked before so many milliseconds have passed.
    #[error("not asked again within {0} ms, as it failed just now")]
    BackingOff(u64),
    /// As much was fetched on behalf of this identity as may be for now.
    #[error("as much was fetched for this identity as may be within a minute")]
    TooOften,
    /// The store does not say how new it must be.
    #[error("the marks of what was seen before cannot be read")]
    MarksUnavailable,
    /// As many items are being fetched as may be.
    #[error("too many are being fetched")]
    Busy,
    /// The name does not resolve, or nobody listens.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// Not whole within the deadline.
    #[error("no whole answer in time")]
    TimedOut,
    /// The CA file cannot be read, or holds no certificate.
    #[error("the CA file: {0}")]
    Roots(String),
    /// The handshake failed; the service's certificate is not of the configured CAs, for another name, or not of now.
    #[error("TLS: {0}")]
    Tls(String),
    /// The connection broke in the middle, or what was said is not HTTP/1.1.
    #[error("half an answer, or none: {0}")]
    Broken(String),
    /// More bytes than are read.
    #[error("{0} of more than {1} bytes")]
    TooLarge(&'static str, usize),
    /// It points elsewhere, and is not followed.
    #[error("status {0}: redirects are not followed")]
    Redirected(u16),
    /// Status 429.
    #[error("status 429: throttled")]
    Throttled,
    /// Status 5xx.
    #[error("status {0}")]
    ServerError(u16),
    /// Any other status but 200.
    #[error("status {0}")]
    Status(u16),
    /// Status 200, and not what was asked for.
    #[error("not what was asked for: {0}")]
    WrongContent(String),
    /// It reads, and no pinned root vouches for it.
    #[error("not genuine: {0}")]
    Untrusted(String),
    /// It is genuine, and older than what was seen before.
    #[error("older than what was seen before")]
    Older,
    /// It is genuine, and has ended.
    #[error("what there is has ended")]
    Ended,
    /// A bug: the fetching ended without an outcome.
    #[error("a bug ended the fetching")]
    Defect,
}

impl Failure {
    /// Whether the service as a whole is in trouble, so that other items would not fare better now.
    pub(super) fn is_of_service(&self) -> bool {
        match self {
            Failure::Unreachable(_)
            | Failure::TimedOut
            | Failure::Roots(_)
            | Failure::Tls(_)
            | Failure::Broken(_)
            | Failure::Throttled
            | Failure::ServerError(_) => true,
            Failure::NotConfigured
            | Failure::ClockSuspect
            | Failure::BackingOff(_)
            | Failure::TooOften
            | Failure::MarksUnavailable
            | Failure::Busy
            | Failure::TooLarge(..)
            | Failure::Redirected(_)
            | Failure::Status(_)
            | Failure::WrongContent(_)
            | Failure::Untrusted(_)
            | Failure::Older
            | Failure::Ended
            | Failure::Defect => false,
        }
    }

    /// Whether asking for the same item at once would be of no use.
    pub(super) fn is_of_item(&self) -> bool {
        match self {
            Failure::TooLarge(..)
            | Failure::Redirected(_)
            | Failure::Status(_)
            | Failure::WrongContent(_)
            | Failure::Untrusted(_)
            | Failure::Older
            | Failure::Ended
            | Failure::Defect => true,
            other => other.is_of_service(),
        }
    }
}
