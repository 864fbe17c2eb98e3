//! The evidence stage: one file or folder per format.
