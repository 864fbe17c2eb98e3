//! The program as its users run it: real processes, real files, ports that it picks; one module per command.
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

#[path = "../support/cli.rs"]
mod world;
#[path = "../support/probe.rs"]
mod probe;

#[path = "../support/corim.rs"]
mod corim;

mod admin;
mod apply;
mod audit;
mod backup;
mod damage;
mod completions;
mod exec;
mod figures;
mod get;
mod import;
mod key;
mod hold;
mod operations;
mod people;
mod revoke;
mod serve;
mod usage;
