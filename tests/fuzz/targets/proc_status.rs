//! libFuzzer's target for the entry of this name.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    entries::drive("proc_status", data);
});
