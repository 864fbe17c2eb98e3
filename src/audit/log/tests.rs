//! The log under load, under faults, after crashes and after tampering.

use super::*;
use crate::audit::checkpoint::tests::key;
use crate::audit::checkpoint::{Checkpoint, NoteError};
use crate::audit::frame::HEADER_BYTES;
use crate::audit::merkle::{self, tests::by_definition};
use crate::audit::record::{AdminAct, Event};
use crate::audit::segment::{self, SEGMENT_HEADER_BYTES};
use crate::time::BootTime;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::AtomicU8;

/// Makes the writer's system calls fail, as a bad disk would.
#[derive(Default)]
pub struct Trouble {
    write: AtomicU8,
    sync: AtomicU8,
    allocate: AtomicU8,
    hang: AtomicBool,
}

const ENOSPC: u8 = 28;
const EIO: u8 = 5;

fn raised(switch: &AtomicU8) -> io::Result<()> {
    match switch.load(Ordering::SeqCst) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number.into())),
    }
}

impl Trouble {
    /// A failing write leaves half of its bytes behind.
    pub fn before_write(&self, file: &std::fs::File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.write.load(Ordering::SeqCst) != 0 {
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
        }
        raised(&self.write)
    }
    pub fn before_sync(&self) -> io::Result<()> {
        while self.hang.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        raised(&self.sync)
    }
    pub fn before_allocate(&self) -> io::Result<()> {
        raised(&self.allocate)
    }
}

pub const ORIGIN: &str = "portcullis/test";
/// Small enough that a few dozen records fill several.
pub const SEGMENT: u64 = 16 * 1024;

pub fn record(number: u64) -> Record {
    let act = AdminAct {
        administrator: "ada".into(),
        key_sha256: "00".repeat(32),
        verb: "policy put".into(),
        target: format!("policy-{number}"),
        details: serde_json::Value::Null,
    };
    Record {
        id: format!("{number:032x}"),
        time: WallTime(1_790_000_000_000 + number * 1000),
        boot_time: BootTime(number),
        boot_id: "boot".into(),
        event: Event::AdminRead { act, refused: None },
    }
}

pub fn with(number: u64, event: Event) -> Record {
    Record { event, ..record(number) }
}

pub fn intent(number: u64, commit: u64) -> Record {
    let Event::AdminRead { act, .. } = record(number).event else { unreachable!() };
    with(number, Event::AdminIntent { act, commit: Some(commit) })
}

pub fn open(directory: &Path) -> (Log, OpenReport) {
    Log::open_sized(directory, key(ORIGIN), WallTime(u64::MAX), |_| {}, SEGMENT).unwrap()
}

fn open_error(directory: &Path) -> OpenError {
    Log::open_sized(directory, key(ORIGIN), WallTime(u64::MAX), |_| {}, SEGMENT).err().unwrap()
}

pub struct Place {
    _keep: tempfile::TempDir,
    pub path: PathBuf,
}

pub fn place() -> Place {
    let keep = tempfile::tempdir().unwrap();
    let path = keep.path().join("audit");
    Place { _keep: keep, path }
}

/// A closed log of so many records.
pub async fn written(records: u64) -> Place {
    let place = place();
    let (log, _) = open(&place.path);
    for number in 0..records {
        assert_eq!(log.append(&record(number)).await, Ok(Sequence(number)));
    }
    place
}

/// All frames, as the files hold them.
pub fn frames(directory: &Path) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (_, path) in segment::list(directory).unwrap() {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[SEGMENT_HEADER_BYTES as usize..];
        while rest.len() > HEADER_BYTES && rest[..4] != [0; 4] {
            let length = HEADER_BYTES + u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            frames.push(rest[..length].to_vec());
            rest = &rest[length..];
        }
    }
    frames
}

fn last_segment(directory: &Path) -> PathBuf {
    segment::list(directory).unwrap().pop().unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_share_syncs_and_each_is_durable() {
    let place = place();
    let log = Arc::new(open(&place.path).0);
    let tasks: Vec<_> = (0..64_u64)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                for number in 0..20 {
                    log.append(&record(task * 20 + number)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(log.size(), 1280);
    assert!(log.syncs() < 1280 / 2, "{} syncs", log.syncs());
    let leaves: Vec<_> = frames(&place.path).iter().map(|frame| merkle::leaf(&[frame])).collect();
    assert_eq!(leaves.len(), 1280);
    assert_eq!(leaves.last(), Some(&log.head()));
    let note = log.checkpoint().await.unwrap();
    let checkpoint = Checkpoint::verify(&note, key(ORIGIN).public()).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (1280, by_definition(&leaves)));
}

#[tokio::test]
async fn a_reopened_log_continues_chain_and_tree() {
    let place = written(100).await;
    assert!(segment::list(&place.path).unwrap().len() > 1);
    let (log, report) = open(&place.path);
    assert_eq!((report.created, report.records, report.torn_tail), (false, 100, false));
    assert_eq!(report.last_time, record(99).time);
    assert_eq!(log.append(&record(100)).await, Ok(Sequence(100)));
    drop(log);
    let leaves: Vec<_> = frames(&place.path).iter().map(|frame| merkle::leaf(&[frame])).collect();
    let note = std::fs::read_to_string(place.path.join("checkpoint")).unwrap();
    let checkpoint = Checkpoint::verify(&note, key(ORIGIN).public()).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (101, by_definition(&leaves)));
}

#[tokio::test]
async fn the_horizon_sees_every_record_since_then_across_segments() {
    let place = written(100).await;
    for since in [0, 3, 50, 99] {
        let mut seen = Vec::new();
        let horizon = |record: &Record| seen.push(record.clone());
        let opened = Log::open_sized(&place.path, key(ORIGIN), record(since).time, horizon, SEGMENT);
        drop(opened.unwrap());
        assert_eq!(seen, (since..100).map(record).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn open_intents_are_reported_however_long_ago() {
    let place = place();
    let (log, _) = open(&place.path);
    log.append(&intent(0, 4)).await.unwrap();
    log.append(&with(1, Event::Applied { commit: 4 })).await.unwrap();
    log.append(&intent(2, 5)).await.unwrap();
    log.append(&intent(3, 6)).await.unwrap();
    log.append(&with(4, Event::NotApplied { commit: 6 })).await.unwrap();
    for number in 5..100 {
        log.append(&record(number)).await.unwrap();
    }
    drop(log);
    assert!(segment::list(&place.path).unwrap().len() > 2);
    let (_, report) = open(&place.path);
    assert_eq!((report.last_applied, report.open_intents), (4, vec![5]));
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let place = place();
    let (_log, report) = open(&place.path);
    assert!(report.created);
    assert!(matches!(open_error(&place.path), OpenError::Locked));
}

#[tokio::test]
async fn an_oversized_record_is_an_error_to_its_caller_alone() {
    let place = place();
    let (log, _) = open(&place.path);
    let mut large = record(0);
    large.boot_id = "x".repeat(limits::AUDIT_RECORD_BYTES);
    assert_eq!(log.append(&large).await, Err(LogError::RecordTooLarge));
    assert!(log.healthy());
    large.boot_id.truncate(limits::AUDIT_RECORD_BYTES - 1000);
    assert_eq!(log.append(&large).await, Ok(Sequence(0)));
    assert_eq!(log.append(&record(1)).await, Ok(Sequence(1)));
    drop(log);
    assert_eq!(open(&place.path).1.records, 2);
}

#[tokio::test]
async fn files_are_their_owners_alone() {
    let place = written(1).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path), 0o700);
    assert_eq!(mode(&last_segment(&place.path)), 0o600);
    assert_eq!(mode(&place.path.join("checkpoint")), 0o600);
    std::fs::set_permissions(&place.path, std::fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(open_error(&place.path), OpenError::Io(_)));
}

async fn assert_fails(log: &Log, fault: Fault) {
    for _ in 0..3 {
        assert_eq!(log.append(&record(7)).await, Err(LogError::Fault(fault.clone())));
        assert!(!log.healthy());
    }
}

/// The log works again, lost nothing it acknowledged, and kept nothing it did not.
async fn assert_recovers(log: Log, place: &Place, acknowledged: u64) {
    for number in acknowledged..acknowledged + 3 {
        assert_eq!(log.append(&record(number)).await, Ok(Sequence(number)));
        assert!(log.healthy());
    }
    drop(log);
    let mut seen = Vec::new();
    let horizon = |record: &Record| seen.push(record.clone());
    drop(Log::open_sized(&place.path, key(ORIGIN), WallTime(0), horizon, SEGMENT).unwrap());
    assert_eq!(seen, (0..acknowledged + 3).map(record).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_removed_file_denies_until_a_restart_which_refuses_the_cut() {
    let place = place();
    let (log, _) = open(&place.path);
    log.append(&record(0)).await.unwrap();
    log.checkpoint().await.unwrap();
    std::fs::remove_file(last_segment(&place.path)).unwrap();
    assert_fails(&log, Fault::Moved).await;
    drop(log);
    assert!(matches!(open_error(&place.path), OpenError::Cut { found: 0, signed: 1 }));
}

#[tokio::test]
async fn a_file_replaced_by_its_own_copy_or_by_a_directory_denies() {
    let place = place();
    let (log, _) = open(&place.path);
    log.append(&record(0)).await.unwrap();
    let path = last_segment(&place.path);
    std::fs::copy(&path, place.path.join("copy")).unwrap();
    std::fs::rename(place.path.join("copy"), &path).unwrap();
    assert_fails(&log, Fault::Moved).await;
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_fails(&log, Fault::Moved).await;
}

#[tokio::test]
async fn a_directory_moved_away_denies_and_put_back_goes_on() {
    let place = place();
    let (log, _) = open(&place.path);
    log.append(&record(0)).await.unwrap();
    let away = place.path.with_extension("away");
    std::fs::rename(&place.path, &away).unwrap();
    assert_fails(&log, Fault::Moved).await;
    std::fs::rename(&away, &place.path).unwrap();
    assert_recovers(log, &place, 1).await;
}

#[tokio::test]
async fn a_write_protected_log_denies_even_root_and_goes_on_when_it_is_not() {
    for target in ["file", "directory"] {
        let place = place();
        let (log, _) = open(&place.path);
        log.append(&record(0)).await.unwrap();
        let file = target == "file";
        let path = if file { last_segment(&place.path) } else { place.path.clone() };
        let (closed, open) = if file { (0o400, 0o600) } else { (0o500, 0o700) };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(closed)).unwrap();
        assert_fails(&log, Fault::WriteProtected).await;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
        assert_recovers(log, &place, 1).await;
    }
}

#[tokio::test]
async fn a_file_cut_under_the_broker_denies() {
    let place = place();
    let (log, _) = open(&place.path);
    log.append(&record(0)).await.unwrap();
    let file = std::fs::File::options().write(true).open(last_segment(&place.path)).unwrap();
    file.set_len(SEGMENT_HEADER_BYTES).unwrap();
    assert_fails(&log, Fault::Resized).await;
}

fn io_fault(act: &'static str, number: u8) -> Fault {
    Fault::Io { act, error: io::Error::from_raw_os_error(number.into()).to_string() }
}

#[tokio::test]
async fn a_full_disk_denies_and_the_log_goes_on_once_there_is_space() {
    let place = place();
    let (log, _) = open(&place.path);
    log.append(&record(0)).await.unwrap();
    log.trouble.write.store(ENOSPC, Ordering::SeqCst);
    log.trouble.allocate.store(ENOSPC, Ordering::SeqCst);
    assert_eq!(log.append(&record(7)).await, Err(LogError::Fault(io_fault("write to the log", ENOSPC))));
    assert_fails(&log, io_fault("preallocate a segment", ENOSPC)).await;
    log.trouble.write.store(0, Ordering::SeqCst);
    assert_fails(&log, io_fault("preallocate a segment", ENOSPC)).await;
    log.trouble.allocate.store(0, Ordering::SeqCst);
    assert_recovers(log, &place, 1).await;
    assert_eq!(segment::list(&place.path).unwrap().len(), 2);
}

#[tokio::test]
async fn a_failed_sync_is_not_repeated_but_begun_anew_behind_the_last_acknowledged_record() {
    let place = place();
    let (log, _) = open(&place.path);
    log.append(&record(0)).await.unwrap();
    log.trouble.sync.store(EIO, Ordering::SeqCst);
    assert_fails(&log, io_fault("sync the log", EIO)).await;
    log.trouble.sync.store(0, Ordering::SeqCst);
    assert_recovers(log, &place, 1).await;
    assert_eq!(segment::list(&place.path).unwrap().len(), 2);
}

#[tokio::test]
async fn a_failing_first_segment_is_begun_anew_and_not_multiplied() {
    let place = place();
    let (log, _) = open(&place.path);
    for _ in 0..3 {
        log.trouble.write.store(EIO, Ordering::SeqCst);
        assert_eq!(log.append(&record(0)).await, Err(LogError::Fault(io_fault("write to the log", EIO))));
    }
    log.trouble.write.store(0, Ordering::SeqCst);
    assert_recovers(log, &place, 0).await;
    assert_eq!(segment::list(&place.path).unwrap().len(), 1);
}

#[tokio::test]
async fn a_hung_disk_times_out_then_denies_at_once_and_recovers_by_itself() {
    let place = place();
    let (mut log, _) = open(&place.path);
    log.wait = Duration::from_millis(100);
    log.trouble.hang.store(true, Ordering::SeqCst);
    assert_eq!(log.append(&record(0)).await, Err(LogError::TimedOut));
    assert!(!log.healthy());
    assert_eq!(log.append(&record(0)).await, Err(LogError::TimedOut));
    log.trouble.hang.store(false, Ordering::SeqCst);
    while !log.healthy() {
        tokio::task::yield_now().await;
    }
    // The record in doubt was written after all.
    assert_eq!(log.append(&record(1)).await, Ok(Sequence(1)));
}

#[tokio::test]
async fn what_was_cancelled_before_its_group_began_is_not_written() {
    let place = place();
    let (log, _) = open(&place.path);
    log.trouble.hang.store(true, Ordering::SeqCst);
    let (first, second) = (record(0), record(7));
    let mut first = std::pin::pin!(log.append(&first));
    assert!(futures_util::FutureExt::now_or_never(&mut first).is_none());
    while log.shared.started.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    {
        let mut second = std::pin::pin!(log.append(&second));
        assert!(futures_util::FutureExt::now_or_never(&mut second).is_none());
    }
    log.trouble.hang.store(false, Ordering::SeqCst);
    assert_eq!(first.await, Ok(Sequence(0)));
    assert_eq!(log.append(&record(1)).await, Ok(Sequence(1)));
    assert_eq!(frames(&place.path).len(), 2);
}

#[tokio::test]
async fn a_closed_log_takes_nothing() {
    let place = place();
    let (log, _) = open(&place.path);
    log.close();
    assert_eq!(log.append(&record(0)).await, Err(LogError::Closed));
}

/// Cuts, zeroes or changes a closed log as if the machine had stopped before its last checkpoint.
async fn crashed(records: u64, checkpointed: u64) -> Place {
    let place = place();
    let (log, _) = open(&place.path);
    let mut note = std::fs::read(place.path.join("checkpoint")).unwrap();
    for number in 0..records {
        log.append(&record(number)).await.unwrap();
        if number + 1 == checkpointed {
            note = log.checkpoint().await.unwrap().into_bytes();
        }
    }
    drop(log);
    std::fs::write(place.path.join("checkpoint"), note).unwrap();
    place
}

fn zero(path: &Path, from: u64, count: usize) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; count], from).unwrap();
}

fn end_of(directory: &Path) -> u64 {
    let frames = frames(directory).iter().map(Vec::len).sum::<usize>() as u64;
    SEGMENT_HEADER_BYTES + frames
}

#[tokio::test]
async fn a_torn_tail_that_was_never_acknowledged_is_cut_off() {
    let place = crashed(10, 9).await;
    let (path, end) = (last_segment(&place.path), end_of(&place.path));
    let whole = frames(&place.path);
    let begin = end - whole[9].len() as u64;
    let sector = begin.next_multiple_of(512);
    assert!(sector < end, "the last record spans a sector");
    zero(&path, sector, (end - sector) as usize);
    let (log, report) = open(&place.path);
    assert_eq!((report.records, report.torn_tail), (9, true));
    assert_eq!(log.append(&record(9)).await, Ok(Sequence(9)));
    drop(log);
    assert_eq!(open(&place.path).1.records, 10);
}

#[tokio::test]
async fn a_file_that_ends_inside_its_last_record_is_a_torn_tail() {
    let place = crashed(10, 9).await;
    let file = std::fs::File::options().write(true).open(last_segment(&place.path)).unwrap();
    file.set_len(end_of(&place.path) - 200).unwrap();
    let (_, report) = open(&place.path);
    assert_eq!((report.records, report.torn_tail), (9, true));
}

#[tokio::test]
async fn the_same_tear_before_the_checkpoint_is_refused() {
    let place = crashed(10, 10).await;
    let file = std::fs::File::options().write(true).open(last_segment(&place.path)).unwrap();
    file.set_len(end_of(&place.path) - 200).unwrap();
    assert!(matches!(open_error(&place.path), OpenError::Cut { found: 9, signed: 10 }));
}

#[tokio::test]
async fn a_missing_sector_in_an_acknowledged_record_is_refused() {
    let place = crashed(10, 0).await;
    let mut begin = SEGMENT_HEADER_BYTES;
    for (sequence, frame) in (0..9).zip(frames(&place.path)) {
        let end = begin + frame.len() as u64;
        let sector = begin.next_multiple_of(512);
        if sequence > 4 && sector < end {
            zero(&last_segment(&place.path), sector, (end - sector) as usize);
            let error = open_error(&place.path);
            assert!(matches!(error, OpenError::Damaged { sequence: at, .. } if at == sequence), "{error}");
            return;
        }
        begin = end;
    }
    panic!("no record spans a sector");
}

#[tokio::test]
async fn a_changed_byte_in_the_last_record_is_no_tear_even_without_a_checkpoint_over_it() {
    let place = crashed(10, 0).await;
    let (path, end) = (last_segment(&place.path), end_of(&place.path));
    let bytes = std::fs::read(&path).unwrap();
    let begin = end as usize - frames(&place.path)[9].len();
    for at in begin..end as usize {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        std::fs::write(&path, changed).unwrap();
        assert!(matches!(open_error(&place.path), OpenError::Damaged { sequence: 9, .. }), "byte {at}");
    }
}

#[tokio::test]
async fn a_log_without_its_checkpoint_or_with_another_logs_is_refused() {
    let place = written(3).await;
    let path = place.path.join("checkpoint");
    let note = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open_error(&place.path), OpenError::CheckpointMissing));
    std::fs::write(&path, note.replace("\n3\n", "\n2\n")).unwrap();
    assert!(matches!(open_error(&place.path), OpenError::CheckpointInvalid(NoteError::SignatureInvalid)));
    let other = Checkpoint { origin: ORIGIN.into(), size: 3, root: Hash([0; 32]) };
    std::fs::write(&path, other.sign(&key(ORIGIN))).unwrap();
    assert!(matches!(open_error(&place.path), OpenError::RootMismatch { signed: 3 }));
    for (_, segment) in segment::list(&place.path).unwrap() {
        std::fs::remove_file(segment).unwrap();
    }
    assert!(matches!(open_error(&place.path), OpenError::Cut { found: 0, signed: 3 }));
}

#[tokio::test]
async fn a_start_that_ended_before_its_first_checkpoint_starts_again() {
    let place = written(0).await;
    std::fs::remove_file(place.path.join("checkpoint")).unwrap();
    assert!(open(&place.path).1.created);
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let place = written(100).await;
    std::fs::remove_file(place.path.join(segment::name(2))).unwrap();
    assert!(matches!(open_error(&place.path), OpenError::Damaged { segment: 2, .. }));
}
