//! `kill -9` at any moment: under load, and while it starts.

use crate::chance::{Chance, count};
use crate::field::Field;
use crate::load::{Load, check};
use crate::world::{OPEN, Place};
use std::process::Stdio;
use std::time::Duration;

/// How long a broker lives at most, milliseconds: some of its writes are then under way, and some are done.
const LIFE_MS: u64 = 400;
/// A start takes about as long.
const START_MS: u64 = 250;

#[test]
fn nothing_acknowledged_is_lost_to_kill_9_and_it_starts_again_by_itself() {
    let kills = count("FAULTS_KILLS", 100);
    let mut chance = Chance::new("kill -9");
    let mut field = Field::new(Place::new());
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    let mut while_starting = 0;
    for round in 0..kills {
        let load = Load::begin(&field, round);
        std::thread::sleep(Duration::from_millis(chance.below(LIFE_MS)));
        field.world.kill();
        load.end(&field);
        if chance.below(4) == 0 {
            while_starting += 1;
            kill_while_starting(&field, chance.below(START_MS));
        }
        field.world.start();
        check(&field);
    }
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at("var/audit"));
    let counts = field.ledger.counts();
    eprintln!("{kills} kills under load, {while_starting} more while starting: {counts:?}");
    assert!(counts.writes > u64::from(kills) && counts.releases > u64::from(kills), "{counts:?}");
    assert!(counts.in_doubt > 0, "no write was ever under way");
}

fn kill_while_starting(field: &Field, after_ms: u64) {
    let mut command = field.world.serve();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(after_ms));
    child.kill().unwrap();
    child.wait().unwrap();
}
