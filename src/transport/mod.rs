//! The transport stage.
