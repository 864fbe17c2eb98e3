//! The policy stage.

pub mod question;
pub mod index;
mod structure;
pub mod compile;
pub mod cedar;
pub mod table;
pub mod explain;
