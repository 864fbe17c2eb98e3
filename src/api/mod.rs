//! gRPC: beside the client and the attester, the only place that knows tonic and prost.
//!
//! *Takes* HTTP/2 requests of proven connections. *Gives* messages, or a status that is the same for one reason.
//! *Denies* what is malformed. *Source*: `protocol.md`; gRPC over HTTP/2.

pub mod admin;
pub mod front;
pub mod health;
mod held;
pub mod release;
pub mod sealed;
pub mod status;
