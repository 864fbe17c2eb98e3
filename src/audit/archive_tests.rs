//! Archives of a log: each verifies by itself and all together, and an interruption loses nothing.

use super::*;
use crate::audit::checkpoint::tests::key;
use crate::audit::log::tests::{ORIGIN, Place, open, place, record, written};
use crate::audit::show::{self, Filter};
use crate::audit::verify::{VerifyError, verify_with};
use crate::audit::{checkpoint::LogPublicKey, log::Sequence};

const NOW: WallTime = WallTime(1_790_001_000_000);

fn public() -> LogPublicKey {
    key(ORIGIN).public().clone()
}

fn run(place: &Place, to: &Path, record: u64) -> Result<Option<Archived>, ArchiveError> {
    archive(&place.path, to, &key(ORIGIN), Before::Record(record), NOW, 0)
}

fn numbers(directory: &Path) -> Vec<u64> {
    segment::list(directory).unwrap().into_iter().map(|(number, _)| number).collect()
}

/// What is shown of a log and its archives.
fn shown(places: &[&Path]) -> Vec<u64> {
    let places: Vec<_> = places.iter().map(|place| place.to_path_buf()).collect();
    show::records_in(&places, Filter::default()).unwrap().map(|found| found.unwrap().0.0).collect()
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A log as it is met after an interruption: verified, opened, gone on with, and archived at last.
async fn goes_on(log: &Path, to: &Path, records: u64) {
    assert!(verify_with(log, &[to.to_owned()], &public(), None).unwrap().records == records);
    let (opened, report) = open(log);
    assert_eq!(report.records, records);
    assert_eq!(opened.append(&record(records)).await, Ok(Sequence(records)));
    drop(opened);
    archive(log, to, &key(ORIGIN), Before::Record(50), NOW, 0).unwrap();
    assert!(!numbers(log).contains(&1));
    let whole = verify_with(log, &[to.to_owned()], &public(), None).unwrap();
    assert_eq!((whole.records, whole.first), (records + 1, 0));
}

#[tokio::test]
async fn an_archive_the_rest_and_both_together_verify_and_are_shown() {
    let place = written(200).await;
    let kept = std::fs::read_to_string(place.path.join(CHECKPOINT)).unwrap();
    let (one, two) = (place.path.with_file_name("one"), place.path.with_file_name("two"));
    let first = run(&place, &one, 80).unwrap().unwrap();
    assert!(first.first <= 80 && first.first > 40 && first.segment == first.segments + 1, "{first:?}");
    let second = run(&place, &two, 150).unwrap().unwrap();
    assert!(second.first > first.first);
    let rest = verify(&place.path, &public(), Some(&kept)).unwrap();
    assert_eq!((rest.records, rest.first, rest.signed), (200, second.first, 200));
    let of_one = verify(&one, &public(), None).unwrap();
    assert_eq!((of_one.first, of_one.records), (0, first.first));
    let of_two = verify(&two, &public(), None).unwrap();
    assert_eq!((of_two.first, of_two.records), (first.first, second.first));
    let all = verify_with(&place.path, &[two.clone(), one.clone()], &public(), Some(&kept)).unwrap();
    assert_eq!((all.first, all.records, all.root), (0, 200, rest.root));
    assert_eq!(shown(&[&place.path, &one, &two]), (0..200).collect::<Vec<_>>());
    assert_eq!(shown(&[&place.path]), (second.first..200).collect::<Vec<_>>());
    // A log goes on, and is archived on into the same place.
    let (log, report) = open(&place.path);
    assert_eq!(report.records, 200);
    for number in 200..260 {
        log.append(&record(number)).await.unwrap();
    }
    drop(log);
    run(&place, &two, 200).unwrap().unwrap();
    let all = verify_with(&place.path, &[one.clone(), two.clone()], &public(), Some(&kept)).unwrap();
    assert_eq!((all.first, all.records), (0, 260));
    verify(&two, &public(), None).unwrap();
    assert_eq!(run(&place, &two, 200).unwrap(), None);
}

#[tokio::test]
async fn an_interruption_at_any_step_loses_nothing_and_is_made_good() {
    let place = written(120).await;
    let (whole, to) = (place.path.with_file_name("whole"), place.path.with_file_name("to"));
    copy_directory(&place.path, &whole);
    let done = run(&place, &to, 80).unwrap().unwrap();
    let moved: Vec<u64> = (1..done.segment).collect();
    for copied in 0..=moved.len() {
        for (bordered, removed) in [(false, 0), (true, 0), (true, 1), (true, moved.len())] {
            if bordered && copied < moved.len() {
                continue;
            }
            let at = tempfile::tempdir().unwrap();
            let (log, archive) = (at.path().join("log"), at.path().join("archive"));
            copy_directory(&whole, &log);
            std::fs::create_dir(&archive).unwrap();
            for number in &moved[..copied] {
                std::fs::copy(to.join(segment::name(*number)), archive.join(segment::name(*number))).unwrap();
            }
            if bordered {
                std::fs::copy(to.join(CHECKPOINT), archive.join(CHECKPOINT)).unwrap();
                std::fs::copy(place.path.join(BORDER), log.join(BORDER)).unwrap();
            }
            for number in &moved[..removed] {
                std::fs::remove_file(log.join(segment::name(*number))).unwrap();
            }
            goes_on(&log, &archive, 120).await;
        }
    }
}

#[tokio::test]
async fn a_missing_beginning_without_its_border_or_with_another_is_refused() {
    let place = written(120).await;
    let to = place.path.with_file_name("to");
    run(&place, &to, 80).unwrap().unwrap();
    let first = numbers(&place.path)[0];
    let refused = |what: &str| {
        assert!(verify(&place.path, &public(), None).is_err(), "{what}");
        let opened = crate::audit::log::Log::open(&place.path, key(ORIGIN), WallTime(u64::MAX), |_| {});
        assert!(opened.is_err(), "{what}");
    };
    let border = std::fs::read(place.path.join(BORDER)).unwrap();
    std::fs::remove_file(place.path.join(BORDER)).unwrap();
    refused("no border");
    std::fs::copy(to.join(CHECKPOINT), place.path.join(BORDER)).unwrap();
    verify(&place.path, &public(), None).unwrap();
    let mut changed = border.clone();
    changed[40] ^= 1;
    std::fs::write(place.path.join(BORDER), changed).unwrap();
    refused("a changed border");
    std::fs::write(place.path.join(BORDER), &border).unwrap();
    // One segment more is gone than the border says.
    let segment = place.path.join(segment::name(first));
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::remove_file(&segment).unwrap();
    refused("a cut beginning");
    // The header that the border was signed over is another.
    let mut header = bytes.clone();
    header[100] ^= 1;
    std::fs::write(&segment, header).unwrap();
    refused("a changed header");
    std::fs::write(&segment, bytes).unwrap();
    verify(&place.path, &public(), None).unwrap();
}

#[tokio::test]
async fn a_checkpoint_of_archived_records_asks_for_the_archive() {
    let place = place();
    let early = {
        let (log, _) = open(&place.path);
        for number in 0..10 {
            log.append(&record(number)).await.unwrap();
        }
        let early = log.checkpoint().await.unwrap();
        for number in 10..120 {
            log.append(&record(number)).await.unwrap();
        }
        early
    };
    let to = place.path.with_file_name("to");
    run(&place, &to, 80).unwrap().unwrap();
    let error = verify(&place.path, &public(), Some(&early)).unwrap_err();
    assert!(matches!(error, VerifyError::BeforeBorder { size: 10, .. }), "{error}");
    verify_with(&place.path, &[to], &public(), Some(&early)).unwrap();
}

#[tokio::test]
async fn what_a_start_may_need_and_a_log_that_does_not_verify_are_not_moved() {
    let place = written(120).await;
    let to = place.path.with_file_name("to");
    let keep = |ms| archive(&place.path, &to, &key(ORIGIN), Before::Record(u64::MAX), NOW, ms);
    assert_eq!(keep(200_000).unwrap(), None);
    let before = numbers(&place.path);
    let some = keep(60_000).unwrap().unwrap();
    assert!(some.first <= 60 && numbers(&place.path).len() < before.len(), "{some:?}");
    assert!(matches!(run(&place, &place.path, 100), Err(ArchiveError::SamePlace)));
    let path = place.path.join(segment::name(*numbers(&place.path).last().unwrap()));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let before = numbers(&place.path);
    assert!(matches!(run(&place, &to, 100), Err(ArchiveError::Verify(_))));
    assert_eq!(numbers(&place.path), before);
}

#[tokio::test]
async fn a_place_with_another_logs_segments_is_refused() {
    let place = written(120).await;
    let other = written(110).await;
    let to = place.path.with_file_name("to");
    std::fs::create_dir(&to).unwrap();
    let mut foreign = std::fs::read(other.path.join(segment::name(1))).unwrap();
    foreign[4200] ^= 1;
    std::fs::write(to.join(segment::name(1)), foreign).unwrap();
    assert!(matches!(run(&place, &to, 80), Err(ArchiveError::Other(_))));
    verify(&place.path, &public(), None).unwrap();
}
