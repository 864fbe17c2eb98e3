//! The appraisal stage.

pub mod claims;
pub mod reference_text;
pub mod reference_set;
pub mod reference_values;
