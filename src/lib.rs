//! Portcullis: a secrets broker that releases only to a workload attested for this very request.
//!
//! The flow, in the order a request meets it; a stage may name earlier stages, never later ones:
//!
//! `transport` → `challenge` → `evidence` → `freshness` → `latch` → `appraisal` → `policy` → `audit` → `release`,
//! driven by [`broker`], spoken over gRPC by [`api`].
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::disallowed_methods,
        missing_docs,
        reason = "tests run on known input"
    )
)]

// Before the stages, importable by all.
#[cfg(feature = "server")]
pub mod case;
pub mod denial;
pub mod limits;
#[cfg(feature = "server")]
pub mod measure;
pub mod proto;
pub mod request;
pub mod spiffe;
#[cfg(feature = "server")]
pub mod store;
mod sys;
pub mod time;
pub mod tls;

// The stages, in the order of the flow.
#[cfg(feature = "server")]
pub mod transport;
pub mod challenge;
#[cfg(feature = "server")]
pub mod evidence;
#[cfg(feature = "server")]
pub mod freshness;
#[cfg(feature = "server")]
pub mod latch;
#[cfg(feature = "server")]
pub mod appraisal;
#[cfg(feature = "server")]
pub mod policy;
#[cfg(feature = "server")]
pub mod audit;
pub mod release;

// Beside them.
#[cfg(feature = "server")]
pub mod agent;
#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "server")]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod collateral;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod telemetry;
