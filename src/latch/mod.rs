//! The latch stage: a refusal of verified evidence holds, for identity, verified subject and secret.
//!
//! *Takes* `CurrentEvidence`. *Gives* [`Unlatched`]: no earlier refusal of this subject stands. *Denies* `LatchHolds`.
//! *Source*: `protocol.md` "What a refusal latches"; SP 800-53 AC-3 (a denial is binding and bounded in time).

mod book;
mod unlatched;

pub use book::{Hold, LatchBook};
pub use unlatched::{Latches, Unlatched};
