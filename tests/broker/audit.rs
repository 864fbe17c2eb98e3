//! Nothing leaves before its record is on disk; where the log cannot be written, nothing leaves.

use crate::support::lease::Leased;
use crate::support::*;
use portcullis::audit::record::{Event, Record};
use portcullis::case::Stage;
use portcullis::denial::Denial;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The segment under way.
fn segment(world: &World) -> PathBuf {
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(&world.config.storage.audit).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    segments.pop().unwrap()
}

/// Its record cannot be on disk, so all that can be asserted is what the caller hears, and that no lease stands.
async fn unavailable(guest: &Guest<'_>) {
    let leases = guest.world.server().broker().leases().count();
    let status = guest.ask(&[SECRET]).await.expect_err("it was released without a record");
    let id = assert_status(&status, Denial::AuditUnavailable).unwrap();
    assert!(!guest.world.records().iter().any(|record| record.id == id), "the id names nothing");
    assert_eq!(guest.world.server().broker().leases().count(), leases);
}

async fn works_again(guest: &Guest<'_>) {
    for _ in 0..100 {
        if guest.ask(&[SECRET]).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not work again");
}

#[tokio::test]
async fn a_log_removed_under_the_broker_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let (path, aside) = (segment(&world), world.directory.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    // The first of them finds it out, the second is turned away before its challenge.
    unavailable(&guest).await;
    unavailable(&guest).await;
    std::fs::rename(&aside, &path).unwrap();
    works_again(&guest).await;
}

#[tokio::test]
async fn a_log_replaced_under_the_broker_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let (path, aside) = (segment(&world), world.directory.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    std::fs::copy(&aside, &path).unwrap();
    unavailable(&guest).await;
    std::fs::rename(&aside, &path).unwrap();
    works_again(&guest).await;
}

#[tokio::test]
async fn a_log_cut_under_the_broker_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let file = std::fs::OpenOptions::new().write(true).open(segment(&world)).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(size - 1).unwrap();
    unavailable(&guest).await;
    file.set_len(size).unwrap();
    works_again(&guest).await;
}

#[tokio::test]
async fn a_write_protected_log_is_denied() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let path = segment(&world);
    let before = std::fs::metadata(&path).unwrap().permissions();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    unavailable(&guest).await;
    std::fs::set_permissions(&path, before).unwrap();
    works_again(&guest).await;
}

/// The decision is made, and its record is what fails: the secret stays where it is.
#[tokio::test]
async fn a_log_that_fails_after_the_challenge_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let mut asked = guest.asked(&[SECRET]).await;
    let evidence = guest.attester.evidence(&asked.binding());
    let (path, aside) = (segment(&world), world.directory.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    let status = asked.answer(evidence).await.unwrap_err();
    assert_status(&status, Denial::AuditUnavailable);
    std::fs::rename(&aside, &path).unwrap();
    works_again(&guest).await;
}

/// The writer hangs in the kernel, in the opening of a file: one caller waits for as long as is allowed, all others are
/// answered at once, and everything else goes on.
#[tokio::test]
async fn a_log_that_hangs_is_denied_within_its_bound() {
    use portcullis::limits::{AUDIT_CHECKPOINT_MS, AUDIT_WAIT_MS};
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let log = world.server().broker().recorder.log();
    let hanging = Leased::new(&world.config.storage.audit.join("checkpoint.tmp"));
    // A checkpoint is due after the next record; that record itself is durable, and acknowledged, before.
    world.hands.pass(AUDIT_CHECKPOINT_MS + 1_000);
    assert!(guest.ask(&[SECRET]).await.is_ok());
    assert!(log.healthy(), "nobody has waited in vain yet");
    let bound = Duration::from_millis(2 * AUDIT_WAIT_MS);
    let begun = Instant::now();
    unavailable(&guest).await;
    let first = begun.elapsed();
    assert!((Duration::from_millis(AUDIT_WAIT_MS)..bound).contains(&first), "{first:?}");
    assert!(!log.healthy());
    let begun = Instant::now();
    for _ in 0..10 {
        unavailable(&guest).await;
        unavailable(&guest.again().await).await;
    }
    let twenty = begun.elapsed();
    assert!(twenty < Duration::from_millis(AUDIT_WAIT_MS), "they wait for one another: {twenty:?}");
    // Operators are told so, and can change nothing either.
    assert_eq!(world.admin(&["status"]).await, 0);
    assert_eq!(world.admin(&["secret", "disable", SECRET]).await, 75);
    drop(hanging);
    works_again(&guest).await;
    assert!(log.healthy());
}

#[tokio::test]
async fn a_change_without_its_record_is_not_made() {
    use portcullis::audit::record::AdminAct;
    use portcullis::registry::{Change, ChangeError};
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let (path, aside) = (segment(&world), world.directory.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    let secret = portcullis::request::SecretPath::parse(SECRET).unwrap();
    let prepared = world.kv().set_disabled(&secret, true).await.unwrap();
    let act = AdminAct {
        administrator: "test".into(),
        key_sha256: String::new(),
        verb: "secret disable".into(),
        target: SECRET.into(),
        details: serde_json::Value::Null,
    };
    let change = Change {
        act,
        transaction: Some(prepared.transaction),
        kinds: vec![portcullis::store::Kind::SecretMetadata],
        ends_latches_on: vec![],
    };
    let now = world.server().broker().clock.untrusted();
    let outcome = world.server().registry().change(change, now).await;
    assert!(matches!(outcome, Err(ChangeError::AuditUnavailable(_))), "{outcome:?}");
    std::fs::rename(&aside, &path).unwrap();
    works_again(&guest).await;
}

#[tokio::test]
async fn a_release_is_on_record_with_all_that_it_rests_on() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let before = world.records().len();
    let released = guest.ask(&[SECRET]).await.unwrap();
    let records = world.records();
    let record = &records[before];
    let Event::Released { case, lease_id, not_after } = &record.event else { panic!("{record:?}") };
    assert_eq!(*lease_id, released.lease_id);
    assert_eq!(not_after.seconds() as i64, released.not_after.unwrap().seconds);
    assert_eq!(case.stage, Stage::Release);
    assert_eq!((case.secrets[0].path.as_str(), case.secrets[0].version), (SECRET, Some(1)));
    assert_eq!(case.rules, ["reference:payments-1", "payments"]);
    assert_eq!((case.channel_binding.as_str(), case.round, case.hold), ("tls-exporter", 0, false));
    assert_eq!(case.formats, ["process"]);
    for input in ["trust", "nodes", "reference", "policy"] {
        assert!(case.epochs.contains_key(input), "{input}: {case:?}");
    }
    assert_eq!((case.claims_sha256.len(), case.subject.len(), case.key_sha256.len()), (64, 64, 64));
    assert!(!case.serial.is_empty() && case.claims.contains_key("process"));
    assert_eq!(record.boot_id, world.server().broker().clock.boot_id());
    let lease = world.leases().into_iter().find(|lease| lease.id == *lease_id).unwrap();
    assert_eq!((lease.decision_id, lease.secrets), (record.id.clone(), vec![(SECRET.to_owned(), 1)]));
    world.assert_nothing_leaked();
}

#[tokio::test]
async fn an_act_is_recorded_before_and_after() {
    let world = World::new().await;
    let changed = world.disable_secret(SECRET, true).await;
    let records = world.records();
    let at = |wanted: &dyn Fn(&Record) -> bool| records.iter().position(wanted).unwrap();
    let number = changed.commit.unwrap().0;
    let intent = at(&|record| record.id == changed.record);
    let applied = at(&|record| record.event == Event::Applied { commit: number });
    assert!(
        matches!(records[intent].event, Event::AdminIntent { commit: Some(found), .. } if found == number)
    );
    assert!(intent < applied);
}

#[tokio::test]
async fn the_log_verifies_after_releases_denials_and_a_restart() {
    use portcullis::audit::checkpoint::LogKey;
    let mut world = World::new().await;
    world.released().await;
    {
        let guest = Guest::new(&world).await;
        guest.refused(guest.ask(&[UNKNOWN]).await, Denial::SecretUnknown);
    }
    world.stop().await;
    world.start().await;
    world.released().await;
    world.stop().await;
    let key = LogKey::load(&world.config.storage.audit_key_file).unwrap();
    let report = portcullis::audit::verify::verify(&world.config.storage.audit, key.public(), None);
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.records as usize, world.records().len());
}
