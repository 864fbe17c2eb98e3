//! The appraisal stage.
