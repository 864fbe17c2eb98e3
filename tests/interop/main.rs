//! A client in another language: Python, with stock grpcio, against the program as its users run it.
//!
//! *Takes* Python with grpcio, pyOpenSSL, cryptography and protobuf, and `protoc`, from Debian. *Gives* nothing. *Denies* nothing.
//! Where they are missing it says so, and under `CI=true` that is a failure. *Source*: `protocol.md`, by way of `client/`.
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

mod python;
mod releases;
#[path = "../support/cli.rs"]
mod world;
