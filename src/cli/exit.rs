//! Exit codes, as sysexits(3) has them.

/// Done.
pub const OK: u8 = 0;
/// `verify`: refused. `audit verify` uses the same for a log that is not what was signed.
pub const REFUSED: u8 = 1;
/// `verify`: not decided, as something is missing or stale.
pub const UNDECIDED: u8 = 2;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// Could not connect.
pub const UNAVAILABLE: u8 = 69;
/// A defect.
pub const INTERNAL: u8 = 70;
/// Verification was not possible.
pub const NOT_POSSIBLE: u8 = 75;
/// Whoever answered is not the broker, or does not speak its protocol.
pub const PROTOCOL: u8 = 76;
/// Denied.
pub const DENIED: u8 = 77;
/// The configuration is wrong, or what is on disk is not whole.
pub const CONFIGURATION: u8 = 78;
/// `exec`: the program is there and cannot be run, as a shell says it.
pub const NOT_EXECUTABLE: u8 = 126;
/// `exec`: there is no such program, as a shell says it.
pub const NOT_FOUND: u8 = 127;
/// `exec`: added to the number of the signal that ended the child, as a shell says it.
pub const SIGNALLED: u8 = 128;
