//! What the log says since a backup, fold by fold.

use super::*;
use crate::api::admin::{Effect, Verb};
use crate::registry::{Administrator, Restored, narrow};
use crate::store::keyring::tests::FixedKey;
use crate::store::memory::MemoryStore;
use crate::store::vault::{Kind, Vault};
use crate::store::{Transaction, marks};
use crate::time::BootTime;
use serde_json::json;
use std::sync::Arc;

const NOW: WallTime = WallTime(1_790_000_000_000);

fn record(event: Event) -> Record {
    Record { id: String::new(), time: NOW, boot_time: BootTime(0), boot_id: String::new(), event }
}

fn intent(commit: u64, verb: &str, target: &str, details: Value) -> Record {
    let act = AdminAct {
        administrator: "ada".into(),
        key_sha256: String::new(),
        verb: verb.into(),
        target: target.into(),
        details,
    };
    record(Event::AdminIntent { act, commit: Some(commit) })
}

fn applied(commit: u64) -> Record {
    record(Event::Applied { commit })
}

fn mark(name: &str, value: &str, lowered: bool) -> Record {
    record(Event::Mark { name: name.into(), value: value.into(), lowered })
}

fn since(records: &[Record]) -> Since {
    let mut since = Since::new(10);
    records.iter().for_each(|record| since.take(record));
    since.finish();
    since
}

fn revocation(identity: &str) -> Value {
    json!({ "identity": { "identity": identity, "why": "taken" } })
}

async fn vault() -> Arc<Vault> {
    Arc::new(Vault::create(Arc::new(MemoryStore::new()), &FixedKey(1)).await.unwrap())
}

async fn put(vault: &Vault, kind: Kind, name: &str, body: &[u8]) {
    let mut transaction = Transaction::default();
    vault.put(&mut transaction, kind, name, None, body).unwrap();
    vault.commit(transaction).await.unwrap();
}

async fn narrowed(vault: &Arc<Vault>, records: &[Record]) -> Restored {
    let mut restored = Restored::default();
    narrow(vault, &since(records), &mut restored, NOW).await.unwrap();
    restored
}

#[test]
fn what_the_backup_holds_already_and_what_never_was_applied_is_passed_over() {
    let revoke = |commit| intent(commit, "revoke", "", revocation("spiffe://example.org/a"));
    assert!(since(&[revoke(10), applied(10)]).revocations.is_empty());
    assert!(since(&[revoke(11), record(Event::NotApplied { commit: 11 })]).revocations.is_empty());
    assert_eq!(since(&[revoke(11), applied(11)]).revocations.len(), 1);
    // What the log left open may have been applied.
    assert_eq!(since(&[revoke(11)]).revocations.len(), 1);
}

#[tokio::test]
async fn a_revocation_that_was_lifted_again_is_not_brought_back_and_one_of_the_backup_is_not_lifted() {
    let vault = vault().await;
    let old = serde_json::to_vec(&revocation("spiffe://example.org/old")).unwrap();
    put(&vault, Kind::Revocation, "identity spiffe://example.org/old", &old).await;
    let lift = |commit, identity| intent(commit, "unrevoke", "", revocation(identity));
    let revoke = |commit, identity| intent(commit, "revoke", "", revocation(identity));
    let records = [
        revoke(11, "spiffe://example.org/a"),
        applied(11),
        lift(12, "spiffe://example.org/a"),
        applied(12),
        revoke(13, "spiffe://example.org/b"),
        applied(13),
        lift(14, "spiffe://example.org/old"),
        applied(14),
    ];
    narrowed(&vault, &records).await;
    let mut names: Vec<_> =
        vault.all(Kind::Revocation, 10).await.unwrap().into_iter().map(|one| one.name).collect();
    names.sort();
    assert_eq!(names, ["identity spiffe://example.org/b", "identity spiffe://example.org/old"]);
}

#[tokio::test]
async fn an_administrator_has_what_it_had_before_and_since_and_no_removed_or_new_one_is_there() {
    let vault = vault().await;
    let one = |key: &str, roles: &[Role]| Administrator {
        name: key.into(),
        key_sha256: key.into(),
        roles: roles.iter().copied().collect(),
        not_after: WallTime(NOW.0 + 10_000),
    };
    for admin in [
        one("kept", &[Role::Secrets, Role::Policy]),
        one("gone", &[Role::Secrets]),
        one("none", &[Role::Keys]),
    ] {
        put(&vault, Kind::Administrator, &admin.key_sha256, &serde_json::to_vec(&admin).unwrap()).await;
    }
    let again = |commit, key: &str, roles: &[&str]| {
        let not_after = WallTime(NOW.0 + 5_000).to_string();
        intent(
            commit,
            "administrator put",
            key,
            json!({ "key_sha256": key, "roles": roles, "not_after": not_after }),
        )
    };
    let records = [
        again(11, "kept", &["policy", "audit"]),
        intent(12, "administrator remove", "gone", json!({ "keys_sha256": ["gone"] })),
        again(13, "none", &["audit"]),
        again(14, "new", &["audit"]),
    ];
    let restored = narrowed(&vault, &records).await;
    let left = vault.all(Kind::Administrator, 10).await.unwrap();
    let [left] = left.as_slice() else { panic!("{restored:?}") };
    let left: Administrator = serde_json::from_slice(&left.body).unwrap();
    assert_eq!((left.name.as_str(), left.roles), ("kept", BTreeSet::from([Role::Policy])));
    assert_eq!(left.not_after, WallTime(NOW.0 + 5_000));
    assert!(restored.lines.iter().any(|line| line.contains("administrator new was put")), "{restored:?}");
}

#[tokio::test]
async fn marks_stand_where_they_stood_and_are_lowered_by_an_administrators_word_alone() {
    let vault = vault().await;
    for (name, value) in [("crl/a", 5), ("crl/b", 5), ("crl/c", 5), ("crl/d", 9)] {
        put(&vault, Kind::Mark, name, &[value]).await;
    }
    let records = [
        mark("crl/a", "07", false),
        mark("crl/a", "06", false),
        mark("crl/b", "08", false),
        mark("crl/b", "02", true),
        mark("crl/b", "03", false),
        mark("crl/d", "04", false),
        mark("crl/new", "01", false),
    ];
    narrowed(&vault, &records).await;
    for (name, stands) in [("crl/a", 7), ("crl/b", 3), ("crl/c", 5), ("crl/d", 9), ("crl/new", 1)] {
        assert_eq!(marks::read(&vault, name).await.unwrap(), Some(vec![stands]), "{name}");
    }
}

#[tokio::test]
async fn the_highest_time_is_that_of_the_last_release_or_of_an_accepted_clock() {
    let vault = vault().await;
    put(&vault, Kind::Mark, HIGHEST_TIME, &(NOW.0 - 50_000).to_be_bytes()).await;
    let released =
        record(Event::Released { case: crate::case::Case::new(), lease_id: String::new(), not_after: NOW });
    narrowed(&vault, std::slice::from_ref(&released)).await;
    assert_eq!(marks::read(&vault, HIGHEST_TIME).await.unwrap(), Some(NOW.0.to_be_bytes().to_vec()));
    let back = WallTime(NOW.0 - 20_000);
    let accepted = intent(11, "clock accept", "clock", json!({ "time": back.to_string() }));
    narrowed(&vault, &[released, accepted, applied(11)]).await;
    assert_eq!(marks::read(&vault, HIGHEST_TIME).await.unwrap(), Some(back.0.to_be_bytes().to_vec()));
}

#[tokio::test]
async fn an_attestation_key_that_was_removed_or_replaced_is_gone_and_its_node_is_not() {
    let vault = vault().await;
    for (kind, name) in [
        (Kind::Node, "n1"),
        (Kind::Node, "n2"),
        (Kind::AttestationKey, "aa"),
        (Kind::AttestationKey, "bb"),
        (Kind::AttestationKey, "cc"),
    ] {
        put(&vault, kind, name, b"{}").await;
    }
    let records = [
        intent(11, "node remove", "n1", json!({ "ak_names": ["aa"] })),
        intent(12, "node remove", "n2", json!({ "key_sha256": null, "ak_names": [] })),
        intent(13, "node enrol proof", "n1", json!({ "ak_name": "dd", "replaces_ak_names": ["bb"] })),
    ];
    narrowed(&vault, &records).await;
    let names =
        async |kind| vault.all(kind, 9).await.unwrap().into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(
        (names(Kind::Node).await, names(Kind::AttestationKey).await),
        (vec!["n1".to_owned()], vec!["cc".to_owned()])
    );
}

#[tokio::test]
async fn a_verb_that_is_not_known_is_reported_and_so_is_a_damaged_record() {
    let store = Arc::new(MemoryStore::new());
    let vault = Arc::new(Vault::create(store.clone(), &FixedKey(1)).await.unwrap());
    put(&vault, Kind::Node, "node-1", b"{}").await;
    store.tamper(|map| drop(map.insert(vault.key_of(Kind::Node, "node-1"), vec![1; 100])));
    let records = [
        intent(11, "later verb", "", Value::Null),
        applied(11),
        intent(12, "node remove", "node-1", Value::Null),
        applied(12),
    ];
    let restored = narrowed(&vault, &records).await;
    let says = |text: &str| restored.lines.iter().any(|line| line.contains(text));
    assert!(says("`later verb` was done 1 times") && says("damaged"), "{restored:?}");
}

/// A verb that narrows and is not replayed would be un-done by a restore.
#[test]
fn every_verb_that_narrows_is_replayed() {
    for verb in Verb::ALL.iter().filter(|verb| verb.effect() == Effect::Narrows) {
        // It ends a lease, which its own record says.
        if verb.words() == "lease revoke" {
            continue;
        }
        let since =
            since(&[intent(11, verb.words(), "target", json!({ "keys_sha256": ["a"] })), applied(11)]);
        assert!(since.unknown.is_empty(), "`{}` is not known to a restore", verb.words());
    }
}
