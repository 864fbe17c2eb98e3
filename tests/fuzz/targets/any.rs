//! libFuzzer's target for all entries at once, for a short run; each has a target of its own beside this one.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    entries::drive_any(data);
});
