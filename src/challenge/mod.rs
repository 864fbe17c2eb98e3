//! The challenge stage: a nonce of this stream alone, and the binding that evidence must carry.
//!
//! *Takes* `Peer` + `ReleaseRequest`. *Gives* [`Challenge`], then [`Answer`]: the challenge spent, the evidence in hand.
//! *Denies* `ChallengeExpired`, `RequestChannelBindingUnavailable`, `LimitExceeded`, and what re-proving the peer denies.
//! *Source*: RFC 9334 §10.2; `protocol.md` "The idea".

#[cfg(feature = "server")]
pub mod admission;
#[cfg(feature = "server")]
pub mod answer;
pub mod binding;
#[cfg(feature = "server")]
mod nonce;
#[cfg(feature = "server")]
pub mod round;

#[cfg(feature = "server")]
pub use answer::{Answer, Challenge, Offer};
