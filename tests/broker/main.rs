//! All that a caller can observe, from outside: real gRPC over real mTLS, one module per stage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests run on known input"
)]

#[path = "../support/mod.rs"]
mod support;

mod appraisal;
mod audit;
mod catalogue;
mod clock;
mod latch;
mod policy;
mod release;
