//! The one reviewed module with `unsafe`: system calls that no safe wrapper offers.
//!
//! Each function is one call, its arguments made here, its result checked here.
#![allow(unsafe_code, reason = "the only module where it is; each block says why it is sound")]

/// Whether the kernel says that its clock is synchronised: `adjtimex` with no mode bits, which only reads.
///
/// An error counts as "not synchronised".
pub fn clock_synchronised() -> bool {
    // SAFETY: `timex` is plain old data for which all-zero is a valid value, and `modes` 0 asks for a read.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed `timex`; the call writes within it.
    let outcome = unsafe { libc::adjtimex(&raw mut state) };
    outcome >= 0 && outcome != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0
}
