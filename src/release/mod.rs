//! The release stage: sealing to the attested key, engines, leases.

pub mod sealing;
