//! The latch stage.
