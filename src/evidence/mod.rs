//! The evidence stage: one file or folder per format.

pub mod cbor;
pub mod process;
