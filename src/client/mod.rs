//! What a workload links: one call that earns its secrets, or says why not.
//!
//! *Takes* a [`Config`], an [`Attester`] and a [`Request`]. *Gives* a [`Lease`]. *Denies*: every other outcome is a
//! [`ReleaseError`]; nothing is tried again, cached, or replaced by anything older. *Source*: `protocol.md`.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::client::{Config, Request, SocketAttester, release};
//!
//! let config = Config::from_lookup(|name| std::env::var(name).ok())?;
//! let attester = SocketAttester::new(&config.attester);
//! let lease = release(&config, &attester, Request::of(["kv/payments/stripe"])).await?;
//! for secret in &lease.secrets {
//!     println!("{} has {} fields until {}", secret.path, secret.fields.len(), lease.not_after);
//! }
//! # Ok(())
//! # }
//! ```

mod alert;
mod attester;
mod config;
mod connection;
mod credentials;
mod error;
mod hold;
mod lease;
mod link;
pub mod raw;
mod release;
mod status;
mod svid;
mod tls;

pub use attester::{AttestError, Attester, SocketAttester};
pub use config::{Config, ConfigError, DEFAULT_ATTESTER, DEFAULT_DEADLINE_SECONDS};
pub use connection::Connection;
pub use error::{CertificateRefused, ConnectError, Imposture, Kind, PeerRefused, ReleaseError, Violation};
pub use hold::{Held, hold};
pub use lease::{Lease, Secret, Value};
pub use release::{Request, release};
#[doc(hidden)]
pub use status::is_of_portcullis;

#[cfg(feature = "server")]
pub(crate) use alert::{Heard, Listening, refusal_in};

#[cfg(test)]
#[cfg(feature = "server")]
pub(crate) mod tests;
