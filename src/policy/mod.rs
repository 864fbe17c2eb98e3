//! The policy stage.
