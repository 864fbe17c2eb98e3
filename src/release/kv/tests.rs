//! Versions, terms and damage of static secrets.

use super::*;
use crate::store::Store;
use crate::store::keyring::tests::FixedKey;
use crate::store::memory::MemoryStore;
use zeroize::Zeroizing;

struct Bench {
    store: Arc<MemoryStore>,
    vault: Arc<Vault>,
    kv: Kv,
}

const NOW: WallTime = WallTime(1_790_000_000_000);

async fn bench() -> Bench {
    let store = Arc::new(MemoryStore::new());
    let vault = Arc::new(Vault::create(store.clone(), &FixedKey(1)).await.unwrap());
    let kv = Kv::new(vault.clone()).unwrap();
    Bench { store, vault, kv }
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

fn fields(value: &str) -> SecretFields {
    let value = Zeroizing::new(value.as_bytes().to_vec());
    SecretFields::new(BTreeMap::from([("value".to_owned(), value)])).unwrap()
}

impl Bench {
    async fn commit(&self, prepared: Prepared) -> serde_json::Value {
        self.vault.commit(prepared.transaction).await.unwrap();
        prepared.details
    }

    async fn put(&self, at: &str, value: &str) -> serde_json::Value {
        self.commit(self.kv.put(&path(at), &fields(value), NOW).await.unwrap()).await
    }

    async fn metadata(&self, at: &str) -> SecretMetadata {
        self.kv.metadata(&path(at)).await.unwrap().unwrap()
    }

    async fn value(&self, at: &str, version: u64) -> Result<String, KvError> {
        let epoch = self.kv.metadata(&path(at)).await?.map_or(0, |metadata| metadata.epoch);
        let fields = self.kv.open(&path(at), version, epoch).await?;
        let (_, value) = fields.iter().next().unwrap();
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }
}

fn is_damaged(outcome: Result<String, KvError>) -> bool {
    matches!(outcome, Err(KvError::Store(StoreError::Damaged(_))))
}

#[tokio::test]
async fn versions_count_up_and_each_opens() {
    let bench = bench().await;
    assert_eq!(bench.kv.metadata(&path("kv/a")).await, Ok(None));
    bench.put("kv/a", "first").await;
    let details = bench.put("kv/a", "second").await;
    assert_eq!(details["version"], 2);
    assert_eq!(details["fields"], json!(["value"]));
    assert!(!details.to_string().contains("second"));
    let metadata = bench.metadata("kv/a").await;
    assert_eq!((metadata.current, metadata.epoch, metadata.releasable()), (2, 2, Some(2)));
    assert_eq!((metadata.lease_default_seconds, metadata.lease_maximum_seconds), (300, 900));
    assert_eq!(bench.value("kv/a", 1).await.as_deref(), Ok("first"));
    assert_eq!(bench.value("kv/a", 2).await.as_deref(), Ok("second"));
    assert_eq!(bench.value("kv/a", 3).await, Err(KvError::VersionUnknown));
    assert_eq!(bench.value("kv/b", 1).await, Err(KvError::SecretUnknown));
}

#[tokio::test]
async fn nothing_stored_shows_a_path_or_a_value() {
    let bench = bench().await;
    bench.put("kv/payments/stripe", "hunter2-hunter2").await;
    bench.store.tamper(|map| {
        for bytes in map.iter().flat_map(|(key, value)| [key, value]) {
            for plain in [b"stripe".as_slice(), b"hunter2"] {
                assert!(!bytes.windows(plain.len()).any(|window| window == plain));
            }
        }
    });
}

#[tokio::test]
async fn a_path_of_another_engine_is_refused() {
    let bench = bench().await;
    for other in ["kv", "pki/a", "kvx/a"] {
        let outcome = bench.kv.put(&path(other), &fields("x"), NOW).await.map(|_| ());
        assert_eq!(outcome, Err(KvError::NotOfThisEngine), "{other}");
    }
    assert_eq!(bench.kv.metadata(&path("kv")).await, Ok(None), "the stand-in is nobody's secret");
}

#[tokio::test]
async fn a_disabled_secret_does_not_open_until_enabled() {
    let bench = bench().await;
    bench.put("kv/a", "x").await;
    bench.commit(bench.kv.set_disabled(&path("kv/a"), true).await.unwrap()).await;
    assert!(bench.metadata("kv/a").await.disabled);
    assert_eq!(bench.value("kv/a", 1).await, Err(KvError::Disabled));
    bench.put("kv/a", "y").await;
    assert_eq!(bench.value("kv/a", 2).await, Err(KvError::Disabled), "a new version enables nothing");
    bench.commit(bench.kv.set_disabled(&path("kv/a"), false).await.unwrap()).await;
    assert_eq!(bench.value("kv/a", 2).await.as_deref(), Ok("y"));
}

#[tokio::test]
async fn a_destroyed_version_is_gone_and_no_older_one_takes_its_place() {
    let bench = bench().await;
    bench.put("kv/a", "first").await;
    bench.put("kv/a", "second").await;
    let prepared = bench.kv.destroy(&path("kv/a"), Versions::One(2), NOW).await.unwrap();
    assert_eq!(bench.commit(prepared).await["destroyed_versions"], json!([2]));
    assert_eq!(bench.value("kv/a", 2).await, Err(KvError::VersionUnknown));
    assert_eq!(bench.metadata("kv/a").await.releasable(), None);
    for versions in [Versions::One(2), Versions::One(9)] {
        let outcome = bench.kv.destroy(&path("kv/a"), versions, NOW).await.map(|_| ());
        assert_eq!(outcome, Err(KvError::VersionUnknown));
    }
    bench.commit(bench.kv.destroy(&path("kv/a"), Versions::All, NOW).await.unwrap()).await;
    assert_eq!(bench.value("kv/a", 1).await, Err(KvError::VersionUnknown));
    let values = bench.vault.all(Kind::SecretValue, 10).await.unwrap();
    assert!(values.is_empty());
    assert_eq!(bench.put("kv/a", "third").await["version"], 3, "a number is never given twice");
    assert_eq!(bench.metadata("kv/a").await.releasable(), Some(3));
}

#[tokio::test]
async fn the_oldest_version_goes_when_there_are_too_many() {
    let bench = bench().await;
    for _ in 0..limits::SECRET_VERSIONS {
        bench.put("kv/a", "x").await;
    }
    assert_eq!(bench.put("kv/a", "x").await["forgotten_version"], 1);
    assert_eq!(bench.value("kv/a", 1).await, Err(KvError::VersionUnknown));
    let values = bench.vault.all(Kind::SecretValue, 100).await.unwrap();
    assert_eq!(values.len(), limits::SECRET_VERSIONS);
}

#[tokio::test]
async fn labels_and_leases_keep_to_their_bounds() {
    let bench = bench().await;
    bench.put("kv/a", "x").await;
    let at = path("kv/a");
    let labels = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    for wrong in [labels("", "x"), labels("A", "x"), labels("a", &"x".repeat(257))] {
        assert_eq!(bench.kv.set_labels(&at, wrong).await.map(|_| ()), Err(KvError::Labels));
    }
    let many = (0..=limits::LABELS).map(|index| (index.to_string(), String::new())).collect();
    assert_eq!(bench.kv.set_labels(&at, many).await.map(|_| ()), Err(KvError::Labels));
    for (default, maximum) in [(0, 10), (11, 10), (1, 901), (0, 0)] {
        let outcome = bench.kv.set_lease(&at, default, maximum).await.map(|_| ());
        assert_eq!(outcome, Err(KvError::Lease), "{default} {maximum}");
    }
    bench.commit(bench.kv.set_labels(&at, labels("team", "pay")).await.unwrap()).await;
    bench.commit(bench.kv.set_lease(&at, 60, 120).await.unwrap()).await;
    bench.commit(bench.kv.set_exporter_demanded(&at, true).await.unwrap()).await;
    let metadata = bench.metadata("kv/a").await;
    assert_eq!(metadata.labels, labels("team", "pay"));
    assert_eq!((metadata.lease_default_seconds, metadata.lease_maximum_seconds), (60, 120));
    assert!(metadata.exporter_demanded);
    assert_eq!(metadata.epoch, 4, "one more each change");
    let unknown = bench.kv.set_lease(&path("kv/b"), 60, 120).await.map(|_| ());
    assert_eq!(unknown, Err(KvError::SecretUnknown));
}

#[tokio::test]
async fn of_two_prepared_changes_the_second_conflicts() {
    let bench = bench().await;
    let first = bench.kv.put(&path("kv/a"), &fields("first"), NOW).await.unwrap();
    let second = bench.kv.put(&path("kv/a"), &fields("second"), NOW).await.unwrap();
    bench.commit(first).await;
    assert_eq!(bench.vault.commit(second.transaction).await, Err(StoreError::Conflict));
    assert_eq!(bench.value("kv/a", 1).await.as_deref(), Ok("first"));
}

#[tokio::test]
async fn either_record_put_back_alone_is_damaged() {
    let bench = bench().await;
    bench.put("kv/a", "old").await;
    let value_key = bench.vault.key_of(Kind::SecretValue, "kv/a@1");
    let old = bench.store.get(&value_key).await.unwrap().unwrap();
    // The same version, sealed again to the same place: only the digest in the metadata tells.
    let again = bench.vault.seal(Kind::SecretValue, "kv/a@1", 1, &fields("new").encode()).unwrap();
    bench.store.tamper(|map| drop(map.insert(value_key.clone(), again.value)));
    assert!(is_damaged(bench.value("kv/a", 1).await));
    bench.store.tamper(|map| drop(map.remove(&value_key)));
    assert!(is_damaged(bench.value("kv/a", 1).await), "a missing value is damage, not an unknown version");
    bench.store.tamper(|map| drop(map.insert(value_key.clone(), old)));
    assert_eq!(bench.value("kv/a", 1).await.as_deref(), Ok("old"));

    let metadata_key = bench.vault.key_of(Kind::SecretMetadata, "kv/a");
    let before = bench.store.get(&metadata_key).await.unwrap().unwrap();
    bench.commit(bench.kv.destroy(&path("kv/a"), Versions::All, NOW).await.unwrap()).await;
    bench.store.tamper(|map| drop(map.insert(metadata_key, before)));
    assert!(is_damaged(bench.value("kv/a", 1).await), "metadata from before the value was destroyed");
}

#[tokio::test]
async fn damaged_metadata_are_damaged_and_not_unknown() {
    let bench = bench().await;
    bench.put("kv/a", "x").await;
    let key = bench.vault.key_of(Kind::SecretMetadata, "kv/a");
    bench.store.tamper(|map| map.get_mut(&key).unwrap()[60] ^= 1);
    assert!(matches!(bench.kv.metadata(&path("kv/a")).await, Err(StoreError::Damaged(_))));
    assert!(is_damaged(bench.value("kv/a", 1).await));
}

#[tokio::test]
async fn listing_gives_each_secret_once_by_prefix() {
    let bench = bench().await;
    for index in 0..30 {
        bench.put(&format!("kv/{}/{index}", if index % 3 == 0 { "a" } else { "b" }), "x").await;
    }
    let (mut paths, mut after) = (std::collections::BTreeSet::new(), None);
    loop {
        let listing = bench.kv.list("kv/a/", after.as_deref(), 4).await.unwrap();
        assert!(listing.secrets.len() <= 4);
        for secret in listing.secrets {
            assert!(paths.insert(secret.path), "once");
        }
        match listing.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(paths.len(), 10);
    assert!(paths.iter().all(|path| path.as_str().starts_with("kv/a/")));
}
