//! The audit stage: what happened, durable before anything leaves.
//!
//! *Takes* a [`record::Record`]. *Gives* its [`log::Sequence`] once it is on disk, in a hash chain and an RFC 6962 tree
//! under signed checkpoints. *Denies* `AuditUnavailable`, by the caller, wherever the log does not give one.
//! *Source*: `durability.md` "Audit"; NIST SP 800-53 AU-5, AU-9, AU-10.
//!
//! On disk, in a directory of mode 0700 that one process locks:
//!
//! - `segment-<number>.log`: a header of 4096 bytes ([`segment::Header`]), then frames ([`frame`]);
//! - `next.tmp`: the next segment, preallocated;
//! - `checkpoint`: the last signed tree head ([`checkpoint`]), replaced atomically;
//! - `archived`: where the log begins, signed, once earlier segments were moved elsewhere ([`border`], [`archive`]);
//! - `checkpoints`: one kept every 10,000 records or so, so that `verify` can say between which two a change lies.

pub mod archive;
pub mod border;
pub mod checkpoint;
pub mod flips;
pub mod frame;
pub mod log;
pub mod merkle;
pub mod ocsf;
pub mod record;
pub mod segment;
pub mod show;
pub mod verify;
pub mod watch;
mod disk;
mod head;
mod open;
mod writer;

pub use open::is_absent;
mod grant;
pub use grant::{Grant, Recorder, random_id};
