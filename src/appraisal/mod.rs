//! The appraisal stage.

pub mod claims;
