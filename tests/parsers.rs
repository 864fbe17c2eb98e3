//! Every parser of `tests/fuzz/entries.rs` under mutations of what it accepts: no panic, nothing that hangs. Stable Rust, no libFuzzer.
//!
//! *Takes* `PORTCULLIS_FUZZ_SEED` (one number) and `PORTCULLIS_FUZZ_MS` (for each parser), where they are there. *Gives* nothing.
//! *Denies* nothing. *Source*: `house.md` §7.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests run on known input"
)]

#[path = "fuzz/entries.rs"]
mod entries;

use entries::{ALL, Entry, apply};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Some 70 parsers of which two run at once: about ten seconds together.
const MILLISECONDS: u64 = 300;
const SEED: u64 = 0x706f_7274;
/// A parser that takes this long for some kilobytes has no bound.
const AT_MOST: Duration = Duration::from_secs(5);

#[test]
fn every_parser_accepts_its_seeds() {
    for entry in ALL {
        let seeds = (entry.seeds)();
        assert!(!seeds.is_empty(), "{}", entry.name);
        for seed in seeds {
            assert!((entry.accepts)(&seed), "{} refuses {}", entry.name, hex::encode(&seed));
            assert!(entries::drive(entry.name, &[&[0], &seed[..]].concat()), "{}", entry.name);
        }
        // What a target does: its seed, not edited, and a byte that begins nothing.
        assert!(entries::drive(entry.name, &[1]), "{}", entry.name);
        assert!(!entries::drive(entry.name, &[0, 0xff]), "{} accepts anything", entry.name);
    }
}

#[test]
fn no_mutation_of_what_a_parser_accepts_makes_it_panic_or_hang() {
    // Keys are made first, so that no parser's time is spent on them.
    entries::kit::kit();
    let seed = setting("PORTCULLIS_FUZZ_SEED").unwrap_or(SEED);
    let time = Duration::from_millis(setting("PORTCULLIS_FUZZ_MS").unwrap_or(MILLISECONDS));
    let broken: Vec<String> = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| scope.spawn(move || mutate_half(half, seed, time)));
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "seed {seed}:\n{}", broken.join("\n"));
}

#[test]
fn every_entry_has_its_target_and_no_target_is_of_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for entry in ALL {
        let target = folder.join(format!("targets/{}.rs", entry.name));
        let target =
            std::fs::read_to_string(&target).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
        assert!(target.contains(&format!("entries::drive(\"{}\", data);", entry.name)), "{}", entry.name);
        assert!(manifest.contains(&format!("\nname = \"{}\"\n", entry.name)), "{}", entry.name);
    }
    assert_eq!(std::fs::read_dir(folder.join("targets")).unwrap().count(), ALL.len() + 1);
    assert_eq!(manifest.matches("[[bin]]").count(), ALL.len() + 1);
    // The first byte of `any` reaches each.
    for (at, entry) in ALL.iter().enumerate() {
        assert!(entries::drive_any(&[at as u8, 1]), "{}", entry.name);
    }
    assert!(ALL.len() <= 256);
}

fn mutate_half(half: usize, seed: u64, time: Duration) -> Vec<String> {
    let entries = ALL.iter().enumerate().filter(|(at, _)| at % 2 == half);
    entries.filter_map(|(at, entry)| mutate(entry, seed.wrapping_add(at as u64), time).err()).collect()
}

/// Mutates until the time is up; the same bytes for the same seed, however many there is time for.
fn mutate(entry: &Entry, seed: u64, time: Duration) -> Result<(), String> {
    let seeds = (entry.seeds)();
    let mut random = Random(seed);
    let (begun, mut accepted, mut tried) = (Instant::now(), 0_u64, 0_u64);
    while begun.elapsed() < time || tried < 8 {
        let bytes = random.mutation(&seeds);
        let one = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (entry.accepts)(&bytes)));
        let spent = one.elapsed();
        tried += 1;
        match outcome {
            Ok(yes) if spent < AT_MOST => accepted += u64::from(yes),
            Ok(_) => return Err(format!("{} took {spent:?} for {}", entry.name, hex::encode(&bytes))),
            Err(_) => return Err(format!("{} panics at {}", entry.name, hex::encode(&bytes))),
        }
    }
    eprintln!("{}: {accepted} of {tried} accepted", entry.name);
    Ok(())
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// xorshift64*: good enough to choose edits by, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A seed with one to eight edits, or, one time in sixteen, bytes that come from nowhere.
    fn mutation(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if self.next() >> 60 == 0 {
            let length = self.next() >> 55;
            return (0..length).map(|_| (self.next() >> 32) as u8).collect();
        }
        let mut bytes = seeds[(self.next() >> 32) as usize % seeds.len()].clone();
        for _ in 0..=(self.next() >> 61) {
            let [_, _, _, edit @ ..] = self.next().to_le_bytes();
            apply(&mut bytes, edit);
        }
        bytes
    }
}
