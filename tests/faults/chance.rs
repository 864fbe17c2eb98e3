//! Random numbers that a seed repeats, and the counts that the environment sets.

/// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub struct Chance(u64);

impl Chance {
    /// Of `FAULTS_SEED`, or of the time; `what` keeps tests apart. The seed is printed, so that a run can be had again.
    pub fn new(what: &str) -> Chance {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("FAULTS_SEED").map_or(now, |text| text.parse().unwrap());
        eprintln!("{what}: FAULTS_SEED={seed}");
        Chance(what.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())))
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The count that the environment names, or the usual one.
pub fn count(name: &str, usual: u32) -> u32 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}
