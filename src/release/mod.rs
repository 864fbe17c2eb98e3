//! The release stage.
