//! The audit stage: what happened, durable before anything leaves.

pub mod record;
