//! Faults: what the program does when it is killed, when the power goes, when the disk is full, fails or lies damaged.
//!
//! *Takes* the built program, gcc, and for some a machine on which ext4 can be mounted. *Gives* counts on standard error. *Denies*
//! nothing. Counts are set by `FAULTS_KILLS` and `FAULTS_POWER_CUTS`, chance by `FAULTS_SEED`. *Source*: `durability.md`.
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
    dead_code,
    reason = "tests run on known input, and share more than each uses"
)]

mod chance;
mod damage;
mod disk;
mod failing;
mod field;
mod hanging;
mod kill;
mod ledger;
mod load;
mod operators;
mod power;
mod shim;
mod space;
#[path = "../support/probe.rs"]
mod probe;
#[path = "../support/cli.rs"]
mod world;
