//! The release stage.

#[cfg(feature = "server")]
pub mod kv;
