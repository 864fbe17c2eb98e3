//! The freshness stage.
