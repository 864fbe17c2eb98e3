//! The release stage: one engine per kind of secret, sealing to the attested key, leases.
//!
//! *Takes* `Grant`. *Gives* [`Released`]. *Denies* `GrantExpired`, `GrantSuperseded`, `SecretDamaged`, `StoreUnavailable`,
//! and what re-proving the peer denies. *Source*: `protocol.md` "Sealing"; catalogue row 41.

#[cfg(feature = "server")]
mod engines;
#[cfg(feature = "server")]
mod hold;
#[cfg(feature = "server")]
pub mod kv;
#[cfg(feature = "server")]
pub mod lease;
pub mod sealing;

#[cfg(feature = "server")]
pub use engines::{Barrier, Engine, Engines, Redeeming, Released, SealedSecret};
#[cfg(feature = "server")]
pub use hold::{Hold, Renewed};
