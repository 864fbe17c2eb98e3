//! `portcullis verify` as its users run it: real files, the real program, every shared document at its own time.
//!
//! *Takes* `../shared/vectors`, and documents made under test roots. *Gives* nothing. *Denies* nothing.
//! *Source*: the vectors' READMEs; `deploy/attestation/README.md`.
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

#[path = "../support/nitro.rs"]
mod nitro_kit;
#[path = "../support/sev_snp.rs"]
mod sev_snp_kit;
#[path = "../support/tdx.rs"]
mod tdx_kit;
#[path = "../support/tpm2.rs"]
mod tpm2_kit;

mod composite;
mod dcap;
mod desk;
mod nitro;
mod process;
mod sev_snp;
mod tpm2;
mod usage;
