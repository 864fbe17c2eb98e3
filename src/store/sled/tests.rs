//! The engine against its model, through restarts and damage.

use super::super::Expect;
use super::super::memory::MemoryStore;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

fn put(key: &str, value: &[u8]) -> Transaction {
    let entry = Entry { key: key.as_bytes().to_vec(), value: value.to_vec() };
    Transaction { puts: vec![entry], ..Default::default() }
}

fn checked(key: &str, expect: Expect, value: &[u8]) -> Transaction {
    Transaction { checks: vec![(key.as_bytes().to_vec(), expect)], ..put(key, value) }
}

fn refusal(outcome: Result<SledStore, StoreError>) -> StoreError {
    outcome.map(|_| ()).unwrap_err()
}

fn is_damaged(directory: &Path) -> bool {
    matches!(refusal(SledStore::open(directory)), StoreError::Damaged(text) if text.contains("restore"))
}

/// A store whose sync is in the test's hands.
fn with_sync(directory: &Path, sync: Sync) -> SledStore {
    drop(SledStore::create(directory).unwrap());
    let lock = lock(directory).unwrap();
    let id = read_marker(directory).unwrap();
    SledStore::start(id, directory, open_engine(directory).unwrap(), sync, lock).unwrap()
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let large = vec![0xab; 300_000];
    let store = SledStore::create(directory.path()).unwrap();
    let id = store.id();
    assert_eq!(store.last_commit().await, Ok(CommitNumber(0)));
    assert_eq!(store.commit(put("small", b"1"), None).await, Ok(CommitNumber(1)));
    assert_eq!(store.commit(put("large", &large), Some(CommitNumber(2))).await, Ok(CommitNumber(2)));
    drop(store);
    for _ in 0..3 {
        let store = SledStore::open(directory.path()).unwrap();
        assert_eq!(store.id(), id);
        assert_eq!(store.last_commit().await, Ok(CommitNumber(2)));
        assert_eq!(store.get(b"small").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(store.get(b"large").await.unwrap(), Some(large.clone()));
    }
}

#[tokio::test]
async fn a_failed_check_applies_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(directory.path()).unwrap();
    store.commit(put("a", b"1"), None).await.unwrap();
    for expect in [Expect::Absent, Expect::Value(b"2".to_vec()), Expect::Value(vec![])] {
        let mut transaction = checked("a", expect, b"3");
        transaction.puts.push(Entry { key: b"b".to_vec(), value: b"3".to_vec() });
        assert_eq!(store.commit(transaction, None).await, Err(StoreError::Conflict));
    }
    assert_eq!(store.commit(checked("c", Expect::Any, b"3"), None).await, Err(StoreError::Conflict));
    assert_eq!(store.get(b"b").await, Ok(None));
    assert_eq!(store.commit(checked("a", Expect::Any, b"2"), None).await, Ok(CommitNumber(2)));
    assert_eq!(
        store.commit(checked("a", Expect::Value(b"2".to_vec()), b"3"), None).await,
        Ok(CommitNumber(3))
    );
}

#[tokio::test]
async fn a_commit_under_another_number_than_the_next_is_out_of_turn() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(directory.path()).unwrap();
    for number in [0, 2] {
        let outcome = store.commit(put("a", b"1"), Some(CommitNumber(number))).await;
        assert_eq!(outcome, Err(StoreError::OutOfTurn { next: 1 }));
    }
    assert_eq!(store.get(b"a").await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_get_distinct_numbers_and_all_their_writes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::create(directory.path()).unwrap());
    let writers = (0..64).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut numbers = Vec::new();
            for write in 0..10 {
                numbers.push(store.commit(put(&format!("{writer}/{write}"), b"x"), None).await.unwrap());
            }
            numbers
        })
    });
    let mut numbers = BTreeSet::new();
    for writer in writers.collect::<Vec<_>>() {
        numbers.extend(writer.await.unwrap());
    }
    assert_eq!(numbers, (1..=640).map(CommitNumber).collect());
    drop(store);
    let store = SledStore::open(directory.path()).unwrap();
    assert_eq!(store.scan(b"", None, 1000).await.unwrap().len(), 640);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_compare_and_swaps_of_one_value_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::create(directory.path()).unwrap());
    let racers = (0_u8..64).map(|racer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(checked("a", Expect::Absent, &[racer]), None).await })
    });
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(number) => won += number.0,
            Err(error) => assert_eq!(error, StoreError::Conflict),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(directory.path()).unwrap();
    assert_eq!(refusal(SledStore::open(directory.path())), StoreError::InUse);
    assert_eq!(refusal(SledStore::create(directory.path())), StoreError::InUse);
    drop(store);
    assert!(SledStore::open(directory.path()).is_ok());
}

#[tokio::test]
async fn a_lost_store_is_damaged_and_never_starts_fresh() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert_eq!(refusal(SledStore::open(&path.join("nowhere"))), StoreError::Missing);
    assert_eq!(refusal(SledStore::open(path)), StoreError::Missing);
    drop(SledStore::create(path).unwrap());
    assert_eq!(refusal(SledStore::create(path)), StoreError::Exists);

    std::fs::rename(path.join("format"), path.join("away")).unwrap();
    assert!(is_damaged(path));
    assert_eq!(refusal(SledStore::create(path)), StoreError::Exists);
    std::fs::write(path.join("format"), "portcullis store 1\n00\n").unwrap();
    assert!(is_damaged(path));
    std::fs::write(path.join("format"), marker_text(StoreId([1; 16]))).unwrap();
    assert!(is_damaged(path), "another store's marker");
    std::fs::rename(path.join("away"), path.join("format")).unwrap();
    assert!(SledStore::open(path).is_ok());

    std::fs::remove_dir_all(path.join("sled")).unwrap();
    assert!(is_damaged(path));
    assert_eq!(refusal(SledStore::create(path)), StoreError::Exists);
    assert!(!path.join("sled").exists());
}

#[tokio::test]
async fn an_emptied_or_overwritten_database_is_damaged() {
    for spoil in
        [|_: &[u8]| Vec::new(), |whole: &[u8]| vec![0; whole.len()], |whole: &[u8]| vec![0xff; whole.len()]]
    {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::create(directory.path()).unwrap();
        store.commit(put("a", &[7; 100]), None).await.unwrap();
        drop(store);
        let log = directory.path().join("sled/db");
        std::fs::write(&log, spoil(&std::fs::read(&log).unwrap())).unwrap();
        for entry in std::fs::read_dir(directory.path().join("sled")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("snap.") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        assert!(is_damaged(directory.path()));
    }
}

/// Any one byte: either it lay in unused space and all is there, or the store says so; what is cut off shows in the number.
#[tokio::test]
async fn a_flipped_byte_is_damaged_or_harmless_or_shows_in_the_commit_number() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(directory.path()).unwrap();
    for index in 0..50 {
        store.commit(put(&format!("{index:03}"), &[7; 200]), None).await.unwrap();
    }
    drop(store);
    let whole = std::fs::read(directory.path().join("sled/db")).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut noticed = 0;
    for step in 0..40 {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("sled")).unwrap();
        for name in ["format", "sled/conf"] {
            std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
        }
        let mut flipped = whole.clone();
        flipped[step * used / 40] ^= 0x10;
        std::fs::write(copy.path().join("sled/db"), flipped).unwrap();
        match SledStore::open(copy.path()) {
            Err(StoreError::Damaged(_)) => noticed += 1,
            Err(error) => panic!("{error}"),
            Ok(store) => {
                let last = store.last_commit().await.unwrap().0;
                noticed += u32::from(last < 50);
                let entries = store.scan(b"", None, 1000).await.unwrap();
                assert_eq!(entries.len(), usize::try_from(last).unwrap(), "what is there is whole");
                assert!(entries.iter().all(|entry| entry.value == [7; 200]));
            }
        }
    }
    assert!(noticed > 0, "some of the flips hit something");
}

#[tokio::test]
async fn looking_at_a_store_changes_nothing_of_it_though_opening_a_damaged_one_cuts_its_end_off() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(directory.path()).unwrap();
    for number in 0..40_u8 {
        store.commit(put("a", &[number; 3000]), None).await.unwrap();
    }
    drop(store);
    assert_eq!(SledStore::examine(directory.path()), Ok(Some(CommitNumber(40))));
    let database = engine_directory(directory.path()).join("db");
    let mut bytes = std::fs::read(&database).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&database, &bytes).unwrap();
    let found = SledStore::examine(directory.path()).unwrap();
    assert!(found < Some(CommitNumber(40)), "{found:?}");
    assert_eq!(std::fs::read(&database).unwrap(), bytes);
    assert!(!directory.path().join(COPY).exists());
    drop(SledStore::open(directory.path()).unwrap());
    assert_ne!(std::fs::read(&database).unwrap(), bytes);
}

#[tokio::test]
async fn a_missing_or_stray_chunk_is_damaged() {
    for stray in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::create(directory.path()).unwrap();
        store.commit(put("a", &[7; 10_000]), None).await.unwrap();
        drop(store);
        let db = open_engine(directory.path()).unwrap();
        let (chunk, _) = db.scan_prefix([chunks::CHUNK]).next().unwrap().unwrap();
        match stray {
            true => db.insert([chunk.as_ref(), b"x"].concat(), b"y").unwrap(),
            false => db.remove(chunk).unwrap(),
        };
        db.flush().unwrap();
        drop(db);
        assert!(is_damaged(directory.path()));
    }
}

#[tokio::test]
async fn values_never_leave_the_log_and_old_chunks_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(directory.path()).unwrap();
    let size = limits::STORE_TRANSACTION_BYTES - 10;
    for round in 0..6 {
        store.commit(put("policy", &vec![round; size >> round]), None).await.unwrap();
    }
    for index in 0..200 {
        store.commit(put(&format!("{index:03}"), &vec![1; 4095]), None).await.unwrap();
    }
    assert!(blobs_empty(&directory.path().join("sled/blobs")));
    let stray = store.inner().unwrap().db.scan_prefix([chunks::CHUNK]).count();
    assert_eq!(stray, (size >> 5).div_ceil(limits::STORE_CHUNK_BYTES));
    std::fs::write(directory.path().join("sled/blobs/1"), "x").unwrap();
    assert!(matches!(store.commit(put("a", b"1"), None).await, Err(StoreError::Sealed(_))));
    drop(store);
    assert!(SledStore::open(directory.path()).is_err());
}

#[tokio::test]
async fn a_stale_snapshot_of_an_interrupted_open_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    drop(SledStore::create(directory.path()).unwrap());
    let stale = directory.path().join("sled/snap.00000000000000FF.generating");
    std::fs::write(&stale, "half").unwrap();
    assert!(SledStore::open(directory.path()).is_ok());
    assert!(!stale.exists());
}

#[tokio::test]
async fn a_failed_sync_seals_the_store_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let store = with_sync(
        directory.path(),
        Box::new(move || match failing.load(Ordering::SeqCst) {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        }),
    );
    let first = store.commit(put("a", b"1"), None).await;
    assert!(matches!(&first, Err(StoreError::Sealed(cause)) if cause.contains("fdatasync")), "{first:?}");
    fails.store(false, Ordering::SeqCst);
    assert_eq!(store.commit(put("b", b"1"), None).await.unwrap_err(), first.clone().unwrap_err());
    assert_eq!(store.get(b"a").await.unwrap_err(), first.unwrap_err());
}

#[tokio::test]
async fn a_panic_in_the_engine_seals_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_sync(directory.path(), Box::new(|| panic!("as sled does")));
    let sealed = StoreError::Sealed("the storage engine panicked".into());
    assert_eq!(store.commit(put("a", b"1"), None).await, Err(sealed.clone()));
    assert_eq!(store.last_commit().await, Err(sealed));
}

/// A disk whose syncs hang until they are let go.
struct Hang(Arc<(Mutex<bool>, Condvar)>);

impl Hang {
    fn new(directory: &Path) -> (Self, SledStore) {
        let hang = Hang(Arc::new((Mutex::new(true), Condvar::new())));
        let held = Arc::clone(&hang.0);
        let sync = move || {
            let guard = held.0.lock().unwrap();
            drop(held.1.wait_while(guard, |hung| *hung).unwrap());
            Ok(())
        };
        (hang, with_sync(directory, Box::new(sync)))
    }

    fn let_go(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }
}

#[tokio::test]
async fn a_sync_that_hangs_bounds_every_wait_and_says_what_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let (hang, mut store) = Hang::new(directory.path());
    store.wait = Duration::from_millis(100);
    assert_eq!(store.commit(put("a", b"1"), None).await, Err(StoreError::Undecided));
    let behind = store.commit(put("b", b"1"), None).await;
    assert!(matches!(behind, Err(StoreError::Unavailable(_))), "{behind:?}");
    assert!(matches!(store.get(b"a").await, Err(StoreError::Unavailable(_))));
    hang.let_go();
    store.wait = Duration::from_secs(60);
    assert_eq!(store.commit(put("c", b"1"), None).await, Ok(CommitNumber(2)), "`b` was never applied");
    assert_eq!(store.get(b"b").await, Ok(None));
    assert_eq!(store.get(b"a").await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_commit_whose_caller_left_before_its_turn_is_not_applied() {
    let directory = tempfile::tempdir().unwrap();
    let (hang, mut store) = Hang::new(directory.path());
    store.wait = Duration::from_millis(100);
    assert_eq!(store.commit(put("a", b"1"), None).await, Err(StoreError::Undecided));
    let left = tokio::time::timeout(Duration::ZERO, store.commit(put("b", b"1"), None)).await;
    assert!(left.is_err());
    hang.let_go();
    store.wait = Duration::from_secs(60);
    assert_eq!(store.commit(put("c", b"1"), None).await, Ok(CommitNumber(2)));
    assert_eq!(store.get(b"b").await, Ok(None));
}

#[tokio::test]
async fn commits_of_one_group_see_those_before_them() {
    let directory = tempfile::tempdir().unwrap();
    let (hang, store) = Hang::new(directory.path());
    let (large, larger) = (vec![1; 9_000], vec![2; 13_000]);
    // The first hangs in its sync; the others wait behind it and then share a batch.
    let first = store.commit(put("first", b"1"), None);
    let others = async {
        tokio::task::yield_now().await;
        let outcomes = futures_util::future::join_all([
            store.commit(checked("a", Expect::Absent, &large), None),
            store.commit(checked("a", Expect::Absent, b"refused"), None),
            store.commit(checked("a", Expect::Value(large.clone()), &larger), None),
            store.commit(Transaction { deletes: vec![b"first".to_vec()], ..Default::default() }, None),
            store.commit(checked("first", Expect::Absent, b"2"), Some(CommitNumber(5))),
        ]);
        let go = async { hang.let_go() };
        tokio::join!(outcomes, go).0
    };
    let (first, others) = tokio::join!(first, others);
    let number = |number| Ok(CommitNumber(number));
    assert_eq!(first, number(1));
    assert_eq!(others, [number(2), Err(StoreError::Conflict), number(3), number(4), number(5)]);
    drop(store);
    let store = SledStore::open(directory.path()).unwrap();
    assert_eq!(store.get(b"a").await.unwrap(), Some(larger));
    assert_eq!(store.get(b"first").await.unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(store.last_commit().await, number(5));
}

#[derive(Clone, Debug)]
enum Step {
    Commit { checks: Vec<(u8, u8)>, puts: Vec<(u8, u16)>, deletes: Vec<u8>, expected: Option<u8> },
    Scan { prefix: u8, after: Option<u8>, limit: usize },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..12_u8;
    let commit = (
        prop::collection::vec((key.clone(), 0..4_u8), 0..2),
        prop::collection::vec((key.clone(), 0..20_000_u16), 0..4),
        prop::collection::vec(key.clone(), 0..3),
        prop::option::weighted(0.2, 0..3_u8),
    )
        .prop_map(|(checks, puts, deletes, expected)| Step::Commit { checks, puts, deletes, expected });
    let scan = (key.clone(), prop::option::of(key), 0..6_usize)
        .prop_map(|(prefix, after, limit)| Step::Scan { prefix, after, limit });
    prop::collection::vec(prop_oneof![8 => commit, 3 => scan, 1 => Just(Step::Reopen)], 1..40)
}

/// Keys of several lengths, some the beginning of others.
fn key_of(number: u8) -> Vec<u8> {
    [&b"k"[..], &vec![number % 3; usize::from(number / 3)]].concat()
}

async fn hold_against_model(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = SledStore::create(directory.path()).unwrap();
    let model = MemoryStore::new();
    for step in steps {
        match step {
            Step::Reopen => {
                drop(store);
                store = SledStore::open(directory.path()).unwrap();
            }
            Step::Scan { prefix, after, limit } => {
                let (prefix, after) = (key_of(prefix), after.map(key_of));
                let found = store.scan(&prefix, after.as_deref(), limit).await.unwrap();
                assert!(found == model.scan(&prefix, after.as_deref(), limit).await.unwrap());
            }
            Step::Commit { checks, puts, deletes, expected } => {
                let mut transaction = Transaction::default();
                for (number, expect) in checks {
                    let key = key_of(number);
                    let expect = match (expect, model.get(&key).await.unwrap()) {
                        (0, _) => Expect::Absent,
                        (1, _) => Expect::Any,
                        (_, Some(value)) => Expect::Value(value),
                        (_, None) => Expect::Value(vec![]),
                    };
                    transaction.checks.push((key, expect));
                }
                for (number, length) in puts {
                    let value = vec![number; length.into()];
                    transaction.puts.push(Entry { key: key_of(number), value });
                }
                transaction.deletes = deletes.into_iter().map(key_of).collect();
                let last = model.last_commit().await.unwrap();
                let expected = expected.map(|offset| CommitNumber(last.0 + u64::from(offset)));
                let outcome = store.commit(transaction.clone(), expected).await;
                assert_eq!(outcome, model.commit(transaction, expected).await);
            }
        }
        assert_eq!(store.last_commit().await, model.last_commit().await);
    }
    for number in 0..12 {
        assert!(store.get(&key_of(number)).await == model.get(&key_of(number)).await);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_does_what_its_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(hold_against_model(steps));
    }
}
