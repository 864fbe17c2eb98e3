//! The format `tpm2` against a real TPM 2.0, in software: swtpm, and tpm2-tools as the second opinion.
//!
//! *Takes* `swtpm`, `swtpm_setup` and tpm2-tools, from Debian. *Gives* nothing. *Denies* nothing. Where they are missing it
//! says so, and under `CI=true` that is a failure. *Source*: swtpm(8), tpm2_quote(1), tpm2_checkquote(1).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests run on known input"
)]

mod enrolling;
mod enrolment;
mod lab;
mod quotes;
mod releasing;
mod silent;
mod swtpm;
#[path = "../support/tpm2.rs"]
mod soft;
#[allow(dead_code, reason = "others use the rest")]
#[path = "../support/cli.rs"]
mod world;
