//! What the log says since a backup, fold by fold.

use super::*;
use crate::api::admin::{Effect, Verb};
use crate::registry::{Administrator, Restored, TWO_PERSONS, TwoPersons, narrow};
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

/// The administrator's key is the name, so that two keys are two persons.
fn administrator(name: &str, roles: &[Role]) -> Administrator {
    let (name, key_sha256) = (name.to_owned(), name.to_owned());
    Administrator {
        name,
        key_sha256,
        roles: roles.iter().copied().collect(),
        not_after: WallTime(NOW.0 + 10_000),
    }
}

async fn put_administrator(vault: &Vault, one: &Administrator) {
    put(vault, Kind::Administrator, &one.key_sha256, &serde_json::to_vec(one).unwrap()).await;
}

async fn two_persons(vault: &Vault) -> TwoPersons {
    let record = vault.read(Kind::State, TWO_PERSONS).await.unwrap();
    record.map_or_else(TwoPersons::default, |record| serde_json::from_slice(&record.body).unwrap())
}

async fn put_two_persons(vault: &Vault, off: bool, roles: &[Role]) {
    let state = TwoPersons { off, roles: roles.iter().copied().collect() };
    put(vault, Kind::State, TWO_PERSONS, &serde_json::to_vec(&state).unwrap()).await;
}

#[tokio::test]
async fn no_proposal_outlives_a_restore_not_even_a_damaged_one() {
    let store = Arc::new(MemoryStore::new());
    let vault = Arc::new(Vault::create(store.clone(), &FixedKey(1)).await.unwrap());
    for id in ["aa", "bb"] {
        put(&vault, Kind::Proposal, id, b"{}").await;
    }
    store.tamper(|map| drop(map.insert(vault.key_of(Kind::Proposal, "bb"), vec![1; 100])));
    let restored = narrowed(&vault, &[]).await;
    assert!(vault.all(Kind::Proposal, 9).await.unwrap().is_empty());
    assert!(restored.lines.iter().any(|line| line.contains("2 of them: propose them anew")), "{restored:?}");
}

#[tokio::test]
async fn two_persons_that_were_switched_on_since_the_backup_are_on_and_are_never_switched_off() {
    let set = |commit, on: bool, roles: &[&str]| {
        intent(commit, "two-persons set", "two-persons", json!({ "on": on, "roles": roles, "before": [] }))
    };
    let approved = |commit, on: bool| {
        let details = json!({
            "verb": "two-persons set", "proposal": "aa",
            "details": { "on": on, "roles": [], "before": ["policy"] },
        });
        intent(commit, "pending approve", "two-persons", details)
    };
    // Off in the backup, on since.
    let vault_off = vault().await;
    put_two_persons(&vault_off, true, &[]).await;
    narrowed(&vault_off, &[set(11, true, &["policy"])]).await;
    assert_eq!(two_persons(&vault_off).await, TwoPersons { off: false, roles: [Role::Policy].into() });
    // On in the backup, off since; and on since and off again.
    for records in [vec![approved(11, false)], vec![set(11, true, &["nodes"]), approved(12, false)]] {
        let vault = vault().await;
        put_two_persons(&vault, false, &[Role::Policy]).await;
        narrowed(&vault, &records).await;
        let state = two_persons(&vault).await;
        assert!(!state.off && state.roles.contains(&Role::Policy), "{state:?}");
        assert_eq!(state.roles.contains(&Role::Nodes), records.len() == 2);
    }
    // Off in the backup, and nobody switched it on.
    let vault = vault().await;
    put_two_persons(&vault, true, &[]).await;
    narrowed(&vault, &[approved(11, false)]).await;
    assert_eq!(two_persons(&vault).await, TwoPersons { off: true, roles: BTreeSet::new() });
}

#[tokio::test]
async fn a_second_person_of_since_the_backup_makes_changes_wait_though_only_the_first_is_restored() {
    let vault = vault().await;
    put_administrator(&vault, &administrator("ada", &Role::ALL)).await;
    let second = json!({
        "key_sha256": "bob", "roles": ["policy"], "not_after": WallTime(NOW.0 + 5_000).to_string(),
    });
    narrowed(&vault, &[intent(11, "administrator put", "bob", second)]).await;
    let state = two_persons(&vault).await;
    assert_eq!(state, TwoPersons { off: false, roles: [Role::Policy].into() });
}

#[tokio::test]
async fn what_a_second_person_approved_is_replayed_as_what_it_was() {
    let vault = vault().await;
    put(&vault, Kind::Policy, crate::registry::POLICY, b"permit(principal, action, resource);").await;
    put(&vault, Kind::Node, "n1", b"{}").await;
    put_administrator(&vault, &administrator("ada", &[Role::Policy, Role::Nodes])).await;
    let approved = |commit, verb: &str, target: &str, details: Value| {
        let details = json!({ "verb": verb, "proposal": "aa", "sha256": "", "details": details });
        intent(commit, "pending approve", target, details)
    };
    let not_after = WallTime(NOW.0 + 5_000).to_string();
    let records = [
        intent(11, "propose policy put", "policy", json!({ "proposal": "aa" })),
        approved(12, "policy put", "policy", json!({})),
        approved(13, "node enrol", "n1", json!({})),
        approved(
            14,
            "administrator put",
            "ada",
            json!({ "key_sha256": "ada", "roles": ["policy"], "not_after": not_after }),
        ),
        // An approval of an act that writes nothing: only the proposal is spent.
        intent(15, "pending approve", "aa", json!({ "verb": "crl accept", "details": null })),
    ];
    let restored = narrowed(&vault, &records).await;
    assert!(vault.read(Kind::Policy, crate::registry::POLICY).await.unwrap().is_none(), "{restored:?}");
    assert!(vault.read(Kind::Node, "n1").await.unwrap().is_none());
    let ada = vault.read(Kind::Administrator, "ada").await.unwrap().unwrap();
    let ada: Administrator = serde_json::from_slice(&ada.body).unwrap();
    assert_eq!(ada.roles, BTreeSet::from([Role::Policy]));
    assert!(!restored.lines.iter().any(|line| line.contains("undone by this restore")), "{restored:?}");
}

/// A verb that changes something and is not known to a restore would be undone by it.
#[test]
fn every_verb_that_changes_something_is_replayed() {
    let reads = [Effect::Reads, Effect::Watches, Effect::Copies];
    for verb in Verb::ALL.iter().filter(|verb| !reads.contains(&verb.effect())) {
        for words in [verb.words().to_owned(), format!("propose {}", verb.words())] {
            let since = since(&[intent(11, &words, "target", json!({ "keys_sha256": ["a"] })), applied(11)]);
            assert!(since.unknown.is_empty(), "`{words}` is not known to a restore");
        }
        let approved = json!({ "verb": verb.words(), "details": {} });
        let since = since(&[intent(11, "pending approve", "target", approved), applied(11)]);
        assert!(since.unknown.is_empty(), "`{}`, approved, is not known to a restore", verb.words());
    }
}
