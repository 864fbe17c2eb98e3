//! The challenge stage.
