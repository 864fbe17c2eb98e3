//! The power goes at any moment, under load: nothing acknowledged is lost, and it starts again by itself.

use crate::chance::{Chance, count};
use crate::disk::{self, Disk};
use crate::field::Field;
use crate::load::{Load, check};
use crate::world::{OPEN, Place};
use std::fs;
use std::io::Write;
use std::time::Duration;

/// How long a broker lives at most, milliseconds.
const LIFE_MS: u64 = 500;

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_and_it_starts_again_by_itself() {
    if !disk::can_be_made() {
        return;
    }
    let cuts = count("FAULTS_POWER_CUTS", 25);
    let mut chance = Chance::new("power cuts");
    let disk = Disk::new(256);
    let place = Place::new();
    disk.take(&place);
    let mut field = Field::new(place);
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    let mut unsynced_lost = 0;
    for round in 0..cuts {
        let witness = disk.root().join(format!("witness-{round}"));
        fs::File::create(&witness).unwrap().write_all(b"never synced").unwrap();
        let load = Load::begin(&field, round);
        std::thread::sleep(Duration::from_millis(chance.below(LIFE_MS)));
        disk.cut(chance.below(u64::MAX));
        // Some go on for a while with a dead disk: they must not acknowledge, and not hang.
        std::thread::sleep(Duration::from_millis(chance.below(3) * 200));
        field.world.kill();
        load.end(&field);
        disk.restore();
        unsynced_lost += u32::from(fs::read(&witness).map_or(true, |bytes| bytes != b"never synced"));
        field.world.start();
        check(&field);
    }
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at("var/audit"));
    let counts = field.ledger.counts();
    eprintln!("{cuts} power cuts, {unsynced_lost} of which lost what was not synced: {counts:?}");
    assert!(counts.writes > u64::from(cuts) && counts.releases > u64::from(cuts), "{counts:?}");
    assert!(unsynced_lost > 0, "no cut lost anything, so they show nothing");
}
