//! Collateral: what verifiers need besides evidence and roots, fetched from vendors' services and kept while it holds.
//!
//! *Takes* parsed documents, files, answers of AMD's KDS and of Intel's PCS or an operator's PCCS. *Gives* trust values for
//! the evidence stage, and says what could not be had. *Denies* nothing itself: what is absent or past its end, the verifier
//! denies (`CollateralUnavailable`, `CollateralStale`). *Source*: RFC 9334 §8.4; `evidence.md` §1 "What goes stale".
//!
//! It stands beside the stages, and no stage knows it: who drives them asks for what a document needs, and hands it in.
//!
//! - **Nothing is trusted because it was fetched.** Every part is signed by its vendor and is verified against the pinned
//!   roots before it is kept, each time it is read from disk, and by the verifier again. TLS only keeps others from making
//!   it look absent; so does a wrong CA file, a dead or a hostile service: they deny, and loosen nothing.
//! - **No verdict is kept**, only what is immutable (a VCEK's certificate for one chip and TCB, an intermediate) or dated
//!   (lists, TCB infos, QE identities). What is dated is used until its own end, is asked for again long before, and a
//!   failure to get a newer one neither shortens nor lengthens its life.
//! - **Every wait is bounded**: one exchange by one deadline from connect to the last byte, in bytes too; a caller by its
//!   own deadline; a service that says 429 or 5xx, or says nothing, is left alone for a while, in which callers hear so at once.
//! - **One exchange at a time for one item**, however many wait for it; it goes on when they give up.

mod accept;
mod allowance;
mod back_off;
mod config;
mod dcap;
mod directory;
mod endpoint;
mod exchange;
mod failure;
mod held;
mod holdings;
mod import;
mod item;
mod marks;
mod refresh;
mod sev_snp;
mod status;
mod supply;

pub use config::{CollateralConfig, ConfigFault, SevSnpService, TdxService};
pub use failure::Failure;
pub use holdings::{AtHand, Holdings, Lacking};
pub use import::Import;
pub use item::{Item, Service};
pub use marks::remember_lists;
pub use status::{FileFault, HeldItem, Origin, ServiceStatus, Status};

#[cfg(test)]
mod tests;
