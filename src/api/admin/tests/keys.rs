//! Rotation, rewrap and rekey, while others read and write.

use super::super::*;
use super::bench::{Bench, code};
use super::put_secret;
use crate::audit::record::Event;
use crate::registry::Role;
use crate::registry::dealing::{HolderKey, open};
use crate::request::SecretPath;
use crate::store::keyring::tests::FixedKey;
use crate::store::keysource::Key;
use crate::store::{Kind, Store, StoreError, Vault};
use tonic::Code;

/// Lets a rewrap under way come to its end.
pub(super) async fn until_rewrapped(bench: &Bench) {
    for _ in 0..60_000 {
        if !bench.service.keys().work().running {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("the rewrap does not end: {:?}", bench.service.keys().work());
}

/// A share of two that were dealt, read back.
pub(super) fn read_back(bench: &Bench) -> ConfirmRekeyRequest {
    let (holders, private) = holders();
    let dealt = bench.service.keys().dealing().deal(&holders, 2, bench.now()).unwrap();
    ConfirmRekeyRequest { share: open(&private[1], &dealt[1]).unwrap().to_string() }
}

fn holders() -> (Vec<HolderKey>, Vec<Key>) {
    let private = [1, 2].map(|byte| Key::init_with_mut(|key: &mut [u8; 32]| *key = [byte; 32]));
    (private.iter().map(|key| HolderKey::of(key).unwrap()).collect(), private.into())
}

async fn status(bench: &Bench) -> KeyStatusResponse {
    bench.service.key_status(bench.root.asks(KeyStatusRequest {})).await.unwrap().into_inner()
}

async fn rotate(bench: &Bench) -> u32 {
    bench.service.rotate_key(bench.root.asks(RotateKeyRequest {})).await.unwrap().into_inner().term
}

async fn put(bench: &Bench, path: &str) {
    bench.service.put_secret(bench.root.asks(put_secret(path))).await.unwrap();
}

async fn rewrap(bench: &Bench) {
    bench.service.rewrap_key(bench.root.asks(RewrapKeyRequest {})).await.unwrap();
}

/// Records by term.
fn terms(status: &KeyStatusResponse) -> Vec<(u32, u64)> {
    status.terms.iter().map(|one| (one.term, one.records)).collect()
}

/// Every secret's value opens and is the one that its metadata name.
async fn all_open(bench: &Bench, paths: usize) {
    let vault = bench.registry.vault();
    for index in 0..paths {
        let path = format!("kv/s/{index}");
        let metadata = bench.service.kv.metadata(&SecretPath::parse(&path).unwrap()).await.unwrap().unwrap();
        for (version, state) in &metadata.versions {
            let value = vault.read(Kind::SecretValue, &format!("{path}@{version}")).await.unwrap().unwrap();
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.sealed());
            assert_eq!(state.digest, hex::encode(digest), "{path}@{version}");
        }
    }
}

#[tokio::test]
async fn a_rewrap_seals_everything_anew_and_drops_the_old_term() {
    let bench = Bench::new().await;
    for index in 0..40 {
        put(&bench, &format!("kv/s/{index}")).await;
    }
    put(&bench, "kv/s/7").await;
    let before = status(&bench).await;
    assert_eq!((before.term, before.terms.len(), before.rewrapping), (1, 1, false));
    assert_eq!(rotate(&bench).await, 2);
    // What is written now is of the new term; with it an old version stays behind, until the rewrap.
    put(&bench, "kv/s/8").await;
    let between = status(&bench).await;
    assert!(terms(&between)[0].1 > 70 && terms(&between)[1].1 >= 2, "{between:?}");
    rewrap(&bench).await;
    until_rewrapped(&bench).await;
    let after = status(&bench).await;
    assert_eq!((after.term, after.terms.len(), after.stuck.len()), (2, 1, 0), "{after:?}");
    assert!(after.sealed_anew >= 80);
    all_open(&bench, 40).await;
    let unknown = SecretPath::parse("kv/none").unwrap();
    assert_eq!(
        bench.service.kv.metadata(&unknown).await,
        Ok(None),
        "the stand-in is of a term that there is"
    );
    let again = Vault::open(bench.store.clone(), &FixedKey(1)).await.unwrap();
    assert_eq!(again.keyring().terms(), vec![2]);
    let acts: Vec<String> = bench.acts().into_iter().filter(|verb| verb.starts_with("key ")).collect();
    assert_eq!(acts, ["key rotate", "key rewrap", "key rewrap"]);
    let nothing = bench.service.rewrap_key(bench.root.asks(RewrapKeyRequest {})).await;
    assert_eq!(code(nothing), Code::InvalidArgument);
}

#[tokio::test]
async fn each_change_of_keys_is_recorded_with_the_number_that_it_has() {
    let bench = Bench::new().await;
    rotate(&bench).await;
    rewrap(&bench).await;
    until_rewrapped(&bench).await;
    bench.service.rekey(bench.root.asks(RekeyRequest::default())).await.unwrap();
    let mut intended = Vec::new();
    for record in bench.records() {
        match record.event {
            Event::AdminIntent { act, commit } if act.verb.starts_with("key ") => {
                intended.push(commit.unwrap())
            }
            Event::Applied { commit } if intended.last() == Some(&commit) => intended.push(0),
            _ => {}
        }
    }
    let (numbers, applied): (Vec<u64>, Vec<u64>) = intended.iter().partition(|number| **number > 0);
    assert_eq!((numbers.len(), applied.len()), (4, 4), "{intended:?}");
    assert!(numbers.is_sorted());
    assert_eq!(bench.store.last_commit().await.unwrap().0, numbers[3]);
}

#[tokio::test]
async fn writes_and_reads_go_on_during_a_rewrap() {
    let bench = Bench::new().await;
    for index in 0..60 {
        put(&bench, &format!("kv/s/{index}")).await;
    }
    rotate(&bench).await;
    rewrap(&bench).await;
    let mut rounds = 0;
    while bench.service.keys().work().running {
        put(&bench, &format!("kv/s/{}", rounds % 60)).await;
        all_open(&bench, 60).await;
        crate::store::marks::raise(bench.registry.vault(), "mark", &(rounds as u32 + 1).to_be_bytes())
            .await
            .unwrap();
        rounds += 1;
        assert!(rounds < 50_000, "{:?}", bench.service.keys().work());
        tokio::task::yield_now().await;
    }
    assert!(rounds > 1, "nothing was written meanwhile");
    let after = status(&bench).await;
    assert_eq!((after.terms.len(), after.stuck.len()), (1, 0), "{after:?}");
    all_open(&bench, 60).await;
}

#[tokio::test]
async fn a_rewrap_that_was_cut_off_goes_on_with_the_next_start() {
    let bench = Bench::new().await;
    for index in 0..60 {
        put(&bench, &format!("kv/s/{index}")).await;
    }
    rotate(&bench).await;
    rewrap(&bench).await;
    for _ in 0..1000 {
        if bench.service.keys().work().sealed > 10 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // The service ends, as a process does, in the middle.
    let Bench { service, registry, store, .. } = bench;
    let (kv, audit) = (service.kv.clone(), service.audit_directory.clone());
    drop(service);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let left = Vault::open(store.clone(), &FixedKey(1)).await.unwrap();
    assert_eq!(left.keyring().terms(), vec![1, 2]);
    let next = AdminService::new(registry, kv, audit);
    assert!(next.keys().records().await.unwrap()[&1] > 0, "it was not cut off in the middle");
    next.keys().resume();
    for _ in 0..10_000 {
        if next.keys().keyring().terms() == vec![2] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let counted = next.keys().records().await.unwrap();
    assert_eq!(counted.keys().copied().collect::<Vec<u32>>(), vec![2]);
}

#[tokio::test]
async fn a_record_that_cannot_be_sealed_anew_keeps_its_term_and_is_named() {
    let bench = Bench::new().await;
    put(&bench, "kv/s/0").await;
    put(&bench, "kv/s/1").await;
    let vault = bench.registry.vault().clone();
    let key = vault.key_of(Kind::SecretValue, "kv/s/1@1");
    bench.store.tamper(|map| map.get_mut(&key).unwrap()[100] ^= 1);
    rotate(&bench).await;
    rewrap(&bench).await;
    until_rewrapped(&bench).await;
    let after = status(&bench).await;
    assert_eq!(after.terms.len(), 2, "{after:?}");
    assert!(after.stuck.iter().any(|why| why.contains("SecretValue record")), "{after:?}");
    assert_eq!(vault.read(Kind::SecretValue, "kv/s/0@1").await.unwrap().unwrap().version, 1);
    // Once what is damaged is gone, the same act ends it.
    let all = destroy_secret_request::Which::All(true);
    let destroy = DestroySecretRequest { path: "kv/s/1".into(), which: Some(all), ..Default::default() };
    bench.service.destroy_secret(bench.root.asks(destroy)).await.unwrap();
    rewrap(&bench).await;
    until_rewrapped(&bench).await;
    assert_eq!(status(&bench).await.terms.len(), 1);
}

#[tokio::test]
async fn a_rekey_changes_what_opens_the_store_and_nothing_else() {
    let bench = Bench::new().await;
    put(&bench, "kv/s/0").await;
    let before = bench.stored();
    let answer = bench.service.rekey(bench.root.asks(RekeyRequest::default())).await.unwrap().into_inner();
    assert_eq!(answer.locked_with, "a key (file or credential)");
    let changed: Vec<u8> = bench
        .stored()
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value))
        .map(|(key, _)| key[0])
        .collect();
    assert_eq!(changed, [0], "the keyring alone");
    let old = Vault::open(bench.store.clone(), &FixedKey(1)).await.map(drop);
    assert_eq!(old, Err(StoreError::KeyringRefused));
    let new = Vault::open(bench.store.clone(), &FixedKey(2)).await.unwrap();
    assert!(new.read(Kind::SecretValue, "kv/s/0@1").await.unwrap().is_some());
    // It goes on: a rotation seals for the new key, and the same key again changes nothing.
    rotate(&bench).await;
    assert_eq!(Vault::open(bench.store.clone(), &FixedKey(2)).await.unwrap().keyring().terms(), vec![1, 2]);
    assert_eq!(
        code(bench.service.rekey(bench.root.asks(RekeyRequest::default())).await),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_rekey_waits_for_another_administrator_once_two_keep_the_keys() {
    let bench = Bench::new().await;
    let bob = bench.operator("bob", &[Role::Keys]).await;
    // One alone may start a term and seal anew: who can read what stays as it is.
    rotate(&bench).await;
    rewrap(&bench).await;
    until_rewrapped(&bench).await;
    let waits = bench.service.rekey(bench.root.asks(RekeyRequest::default())).await.unwrap().into_inner();
    let id = waits.change.unwrap().proposal;
    assert!(!id.is_empty() && waits.locked_with.is_empty());
    let opens = async |byte| Vault::open(bench.store.clone(), &FixedKey(byte)).await.map(drop);
    assert_eq!((opens(1).await, opens(2).await), (Ok(()), Err(StoreError::KeyringRefused)));
    let approve = |id: &str| ApprovePendingRequest { id: id.into(), ..Default::default() };
    let own = bench.service.approve_pending(bench.root.asks(approve(&id))).await;
    assert_eq!(code(own), Code::FailedPrecondition);
    // The keyring that was agreed on is another one now.
    rotate(&bench).await;
    let stale = bench.service.approve_pending(bob.asks(approve(&id))).await;
    assert_eq!(code(stale), Code::FailedPrecondition);
    let again = bench.service.rekey(bench.root.asks(RekeyRequest::default())).await.unwrap().into_inner();
    let id = again.change.unwrap().proposal;
    let made = bench.service.approve_pending(bob.asks(approve(&id))).await.unwrap().into_inner();
    assert!(made.proposal.is_empty() && made.commit > 0);
    assert_eq!((opens(1).await, opens(2).await), (Err(StoreError::KeyringRefused), Ok(())));
    assert_eq!(code(bench.service.approve_pending(bob.asks(approve(&id))).await), Code::NotFound);
}

#[tokio::test]
async fn shares_that_were_dealt_lock_the_store_once_enough_were_read_back() {
    let bench = Bench::new().await;
    let (holders, private) = holders();
    let named = RekeyRequest {
        holders: vec![ShareHolder { name: "hana".into(), key: holders[0].text() }],
        threshold: 2,
    };
    assert_eq!(code(bench.service.rekey(bench.root.asks(named)).await), Code::InvalidArgument);
    let dealt = bench.service.keys().dealing().deal(&holders, 2, bench.now()).unwrap();
    let before = bench.stored();
    let shares = [0, 1].map(|index: usize| open(&private[index], &dealt[index]).unwrap().to_string());
    let confirm = async |share: &str| {
        bench.service.confirm_rekey(bench.root.asks(ConfirmRekeyRequest { share: share.into() })).await
    };
    assert_eq!(code(confirm("pcs1-0").await), Code::InvalidArgument);
    let first = confirm(&shares[0]).await.unwrap().into_inner();
    assert_eq!((first.have, first.needed, first.change), (1, 2, None));
    assert!(status(&bench).await.dealt.ends_with("1 of 2 read back"));
    assert_eq!(bench.stored(), before);
    let last = confirm(&shares[1]).await.unwrap().into_inner();
    assert!(last.locked_with.starts_with("2 of 2 shares") && last.change.unwrap().commit > 0);
    assert_eq!(code(confirm(&shares[1]).await), Code::FailedPrecondition);
    let old = Vault::open(bench.store.clone(), &FixedKey(1)).await.map(drop);
    assert_eq!(old, Err(StoreError::KeyringRefused));
    let records = format!("{:?}", bench.records());
    assert!(shares.iter().all(|share| !records.contains(&share[40..70])));
    let debug = format!("{:?}", ConfirmRekeyRequest { share: shares[0].clone() });
    assert!(!debug.contains(&shares[0][40..70]), "{debug}");
}
