//! Exit codes, as sysexits(3) has them.

/// Done.
pub const OK: u8 = 0;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// Could not connect.
pub const UNAVAILABLE: u8 = 69;
/// A defect.
pub const INTERNAL: u8 = 70;
/// Verification was not possible.
pub const NOT_POSSIBLE: u8 = 75;
/// Denied.
pub const DENIED: u8 = 77;
/// The configuration is wrong, or what is on disk is not whole.
pub const CONFIGURATION: u8 = 78;
