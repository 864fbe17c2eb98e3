//! Changes that wait for a second person.

use super::*;
use crate::audit::record::AdminAct;
use crate::limits;
use crate::registry::TWO_PERSONS;
use crate::store::Kind;

/// Something that waits, for each way to end it: `root` can approve the first, reject the second, withdraw the third.
pub(super) async fn prepare(bench: &Bench) {
    let second = bench.operator("second", &[Role::Secrets]).await;
    for (path, who) in [("kv/w1", &second), ("kv/w2", &second), ("kv/w3", &bench.root)] {
        bench.service.put_secret(bench.root.asks(put_secret(path))).await.unwrap();
        bench.service.set_secret_disabled(bench.root.asks(disabled(path, true))).await.unwrap();
        let waits = bench.service.set_secret_disabled(who.asks(disabled(path, false))).await.unwrap();
        assert!(!waits.into_inner().proposal.is_empty());
    }
}

/// The id of the proposal about `target`; `none` where none waits.
pub(super) async fn id(bench: &Bench, target: &str) -> String {
    let all = bench.registry.vault().all(Kind::Proposal, 100).await.unwrap();
    let all = all.iter().map(|one| serde_json::from_slice::<serde_json::Value>(&one.body).unwrap());
    let found = all.into_iter().find(|one| one["target"] == target);
    found.map_or_else(|| "none".to_owned(), |one| one["id"].as_str().unwrap().to_owned())
}

fn disabled(path: &str, disabled: bool) -> SetSecretDisabledRequest {
    SetSecretDisabledRequest { path: path.into(), disabled, keep_latches: false }
}

fn policy(tail: &str) -> PutPolicyRequest {
    PutPolicyRequest { text: format!("{PERMIT}{tail}"), ..Default::default() }
}

async fn propose(bench: &Bench, who: &Operator, tail: &str) -> String {
    let put = bench.service.put_policy(who.asks(policy(tail))).await.unwrap().into_inner();
    put.change.unwrap().proposal
}

async fn approve(bench: &Bench, who: &Operator, id: &str) -> Code {
    let request = ApprovePendingRequest { id: id.into(), ..Default::default() };
    code(bench.service.approve_pending(who.asks(request)).await)
}

async fn text(bench: &Bench) -> String {
    bench.service.show_policy(bench.root.asks(ShowPolicyRequest {})).await.unwrap().into_inner().text
}

async fn count(bench: &Bench) -> usize {
    let list = bench.service.list_pending(bench.root.asks(ListPendingRequest {})).await.unwrap();
    list.into_inner().proposals.len()
}

fn last_intent(bench: &Bench) -> AdminAct {
    let intent = |record: crate::audit::record::Record| match record.event {
        Event::AdminIntent { act, .. } => Some(act),
        _ => None,
    };
    bench.records().into_iter().filter_map(intent).next_back().unwrap()
}

#[tokio::test]
async fn with_one_administrator_a_change_is_made_at_once_and_with_two_after_the_others_approval() {
    let bench = Bench::new().await;
    let alone = bench.service.put_policy(bench.root.asks(policy(""))).await.unwrap().into_inner();
    assert!(alone.change.unwrap().proposal.is_empty());
    let bob = bench.operator("bob", &[Role::Policy]).await;
    let waits = propose(&bench, &bench.root, "\n").await;
    assert_eq!(text(&bench).await, PERMIT);
    let proposed = last_intent(&bench);
    assert_eq!((proposed.verb.as_str(), proposed.administrator.as_str()), ("propose policy put", "root"));
    assert_eq!(proposed.details["proposal"], waits);
    let shown = bench.service.show_pending(bob.asks(ShowPendingRequest { id: waits.clone() })).await.unwrap();
    let shown = shown.into_inner();
    assert!(shown.request.contains("@id"), "{}", shown.request);
    let sha256 = shown.proposal.unwrap().sha256;
    let wrong = ApprovePendingRequest { id: waits.clone(), sha256: "00".repeat(32) };
    assert_eq!(code(bench.service.approve_pending(bob.asks(wrong)).await), Code::FailedPrecondition);
    let right = ApprovePendingRequest { id: waits.clone(), sha256: sha256.clone() };
    bench.service.approve_pending(bob.asks(right)).await.unwrap();
    assert_eq!(text(&bench).await, format!("{PERMIT}\n"));
    let act = last_intent(&bench);
    assert_eq!((act.verb.as_str(), act.administrator.as_str()), ("pending approve", "bob"));
    assert_eq!((&act.details["proposed_by"], &act.details["verb"]), (&"root".into(), &"policy put".into()));
    assert_eq!(act.details["sha256"], sha256);
    // Once.
    assert_eq!(approve(&bench, &bob, &waits).await, Code::NotFound);
    assert_eq!(count(&bench).await, 0);
}

#[tokio::test]
async fn a_restore_is_accepted_by_two_and_releases_nothing_while_it_waits_for_the_second() {
    let bench = Bench::new().await;
    let recorder = &bench.registry.broker().recorder;
    recorder.withhold(true);
    let bob = bench.operator("bob", &[Role::Operations]).await;
    let accepted = bench.service.accept_restore(bench.root.asks(AcceptRestoreRequest {})).await.unwrap();
    let waits = accepted.into_inner().proposal;
    assert!(!waits.is_empty() && recorder.is_withheld());
    assert_eq!(approve(&bench, &bench.root, &waits).await, Code::FailedPrecondition);
    assert!(recorder.is_withheld());
    assert_eq!(approve(&bench, &bob, &waits).await, Code::Ok);
    assert!(!recorder.is_withheld());
    let again = bench.service.accept_restore(bench.root.asks(AcceptRestoreRequest {})).await;
    assert_eq!(code(again), Code::NotFound);
}

#[tokio::test]
async fn nobody_approves_or_rejects_their_own_whatever_the_certificate() {
    let bench = Bench::new().await;
    // Another key of the same person, put while that person was alone.
    let again = bench.operator("root", &[Role::Policy, Role::Administrators]).await;
    let bob = bench.operator("bob", &[Role::Policy]).await;
    let waits = propose(&bench, &bench.root, "").await;
    assert_eq!(approve(&bench, &bench.root, &waits).await, Code::FailedPrecondition);
    assert_eq!(approve(&bench, &again, &waits).await, Code::FailedPrecondition);
    let reject = |who: &Operator| {
        let request = RejectPendingRequest { id: waits.clone(), why: "too wide".into() };
        who.asks(request)
    };
    assert_eq!(code(bench.service.reject_pending(reject(&again)).await), Code::FailedPrecondition);
    let withdraw = |who: &Operator| who.asks(WithdrawPendingRequest { id: waits.clone() });
    assert_eq!(code(bench.service.withdraw_pending(withdraw(&bob)).await), Code::FailedPrecondition);
    assert_eq!((count(&bench).await, text(&bench).await), (1, String::new()));
    assert_eq!(code(bench.service.reject_pending(reject(&bob)).await), Code::Ok);
    assert_eq!(approve(&bench, &bob, &waits).await, Code::NotFound);
    assert_eq!(text(&bench).await, "");
}

#[tokio::test]
async fn who_lacks_the_role_for_a_change_does_not_approve_it() {
    let bench = Bench::new().await;
    bench.operator("bob", &[Role::Policy]).await;
    let carol = bench.operator("carol", &[Role::Secrets, Role::Nodes]).await;
    let waits = propose(&bench, &bench.root, "").await;
    assert_eq!(approve(&bench, &carol, &waits).await, Code::PermissionDenied);
    assert_eq!(text(&bench).await, "");
}

#[tokio::test]
async fn an_approval_of_what_has_changed_since_is_refused() {
    let bench = Bench::new().await;
    let bob = bench.operator("bob", &[Role::Policy]).await;
    let (first, second) = (propose(&bench, &bench.root, "\n").await, propose(&bench, &bob, "\n\n").await);
    assert_eq!(approve(&bench, &bench.root, &second).await, Code::Ok);
    assert_eq!(approve(&bench, &bob, &first).await, Code::FailedPrecondition);
    assert_eq!(text(&bench).await, format!("{PERMIT}\n\n"));
    // Even where what stands now is to the letter what stood then: it was written since.
    let (back, forth) = (propose(&bench, &bob, "\n").await, propose(&bench, &bench.root, "\n\n").await);
    assert_eq!(approve(&bench, &bob, &forth).await, Code::Ok);
    assert_eq!(approve(&bench, &bench.root, &back).await, Code::FailedPrecondition);
}

#[tokio::test]
async fn a_proposal_ends_and_goes_with_whoever_made_it() {
    let bench = Bench::new().await;
    let bob = bench.operator("bob", &[Role::Policy]).await;
    let waits = propose(&bench, &bob, "").await;
    let whom = Some(remove_administrator_request::Whom::Name("bob".into()));
    bench.service.remove_administrator(bench.root.asks(RemoveAdministratorRequest { whom })).await.unwrap();
    assert_eq!((count(&bench).await, approve(&bench, &bench.root, &waits).await), (0, Code::NotFound));
    // By removing the other nobody is alone: what waited for two still does.
    let stays = propose(&bench, &bench.root, "").await;
    assert!(!stays.is_empty());
    assert_eq!(text(&bench).await, "");
}

#[tokio::test]
async fn a_proposal_past_its_time_is_not_approved_and_makes_room() {
    let bench = Bench::new().await;
    let carol = Operator::new();
    let request = PutAdministratorRequest {
        name: "carol".into(),
        ..administrator(&carol, &["policy", "administrators"])
    };
    bench.service.put_administrator(bench.root.asks(request)).await.unwrap();
    let root = PutAdministratorRequest {
        name: "root".into(),
        ..administrator(&bench.root, &["policy", "administrators", "audit", "operations"])
    };
    let longer = bench.service.put_administrator(bench.root.asks(root)).await.unwrap().into_inner();
    assert_eq!(approve(&bench, &carol, &longer.proposal).await, Code::Ok);
    let waits = propose(&bench, &bench.root, "").await;
    bench.hands.step(limits::PROPOSAL_MS as i64);
    bench.hands.boot.fetch_add(limits::PROPOSAL_MS, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(approve(&bench, &carol, &waits).await, Code::FailedPrecondition);
    assert_eq!((count(&bench).await, text(&bench).await), (1, String::new()));
    propose(&bench, &bench.root, "\n").await;
    assert_eq!(count(&bench).await, 1);
}

#[tokio::test]
async fn what_only_narrows_is_done_by_one() {
    let bench = Bench::new().await;
    for path in ["kv/a", "kv/b"] {
        bench.service.put_secret(bench.root.asks(put_secret(path))).await.unwrap();
    }
    bench.service.put_reference_sets(bench.root.asks(set("pay-1", &"aa".repeat(32)))).await.unwrap();
    bench.service.enrol_node(bench.root.asks(node("n1", 1))).await.unwrap();
    bench.operator("bob", &[Role::Administrators]).await;
    let root = &bench.root;
    let which = Some(destroy_secret_request::Which::All(true));
    let remove = RemoveReferenceSetRequest { name: "pay-1".into(), ..Default::default() };
    let changes = [
        bench.service.set_secret_disabled(root.asks(disabled("kv/a", true))).await,
        bench
            .service
            .destroy_secret(root.asks(DestroySecretRequest {
                path: "kv/b".into(),
                which,
                ..Default::default()
            }))
            .await,
        bench.service.remove_reference_set(root.asks(remove)).await,
        bench
            .service
            .remove_node(root.asks(RemoveNodeRequest { name: "n1".into(), ..Default::default() }))
            .await,
    ];
    for change in changes {
        let change = change.unwrap().into_inner();
        assert!(change.proposal.is_empty() && change.commit > 0, "{change:?}");
    }
    let revoked = bench.service.revoke(root.asks(revoke_identity(ID))).await.unwrap().into_inner();
    assert!(revoked.change.unwrap().proposal.is_empty());
    let waits = [
        bench.service.set_secret_disabled(root.asks(disabled("kv/a", false))).await,
        bench
            .service
            .unrevoke(root.asks(UnrevokeRequest { whom: Some(unrevoke_request::Whom::Identity(ID.into())) }))
            .await,
        bench.service.put_reference_sets(root.asks(set("pay-2", &"ab".repeat(32)))).await,
        bench.service.put_administrator(root.asks(administrator(&Operator::new(), &["audit"]))).await,
    ];
    for change in waits {
        let change = change.unwrap().into_inner();
        assert!(!change.proposal.is_empty(), "{change:?}");
    }
    let accept = AcceptBundleRequest { trust_domain: "example.org".into() };
    let accept = bench.service.accept_bundle(root.asks(accept)).await.unwrap().into_inner();
    assert!(!accept.proposal.is_empty() && accept.accepted.is_empty(), "{accept:?}");
}

#[tokio::test]
async fn removing_a_workloads_last_set_waits_where_a_wider_pattern_would_then_count() {
    let bench = Bench::new().await;
    let put = |name: &str, workload: &str| {
        let mut request = set(name, &"aa".repeat(32));
        if let Some(put_reference_sets_request::Sets::Toml(text)) = &mut request.sets {
            *text = text.replace(&format!("\"{ID}\""), &format!("\"{workload}\""));
            assert!(text.contains(workload));
        }
        request
    };
    for (name, workload) in [("own-1", ID), ("own-2", ID), ("all", "spiffe://example.org/*")] {
        bench.service.put_reference_sets(bench.root.asks(put(name, workload))).await.unwrap();
    }
    let bob = bench.operator("bob", &[Role::Reference]).await;
    let remove = async |name: &str| {
        let request = RemoveReferenceSetRequest { name: name.into(), ..Default::default() };
        bench.service.remove_reference_set(bench.root.asks(request)).await.unwrap().into_inner()
    };
    let another_stays = remove("own-1").await;
    assert!(another_stays.proposal.is_empty() && another_stays.commit > 0, "{another_stays:?}");
    let last = remove("own-2").await;
    assert!(!last.proposal.is_empty(), "{last:?}");
    assert_eq!(approve(&bench, &bob, &last.proposal).await, Code::Ok);
    let nothing_wider = remove("all").await;
    assert!(nothing_wider.proposal.is_empty() && nothing_wider.commit > 0, "{nothing_wider:?}");
}

#[tokio::test]
async fn a_value_never_waits_and_labels_with_one_are_refused() {
    let bench = Bench::new().await;
    let bob = bench.operator("bob", &[Role::Policy]).await;
    let labels = BTreeMap::from([("owner".to_owned(), "pay".to_owned())]);
    let labelled = PutSecretRequest { labels: labels.clone(), ..put_secret("kv/a") };
    assert_eq!(code(bench.service.put_secret(bench.root.asks(labelled)).await), Code::FailedPrecondition);
    let put = bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap().into_inner();
    assert!(put.change.unwrap().proposal.is_empty());
    let terms =
        ConfigureSecretRequest { path: "kv/a".into(), labels: Some(Labels { labels }), ..Default::default() };
    let waits = bench.service.configure_secret(bench.root.asks(terms)).await.unwrap().into_inner().proposal;
    assert_eq!(approve(&bench, &bob, &waits).await, Code::Ok);
    let described = bench
        .service
        .describe_secret(bob.asks(DescribeSecretRequest { path: "kv/a".into() }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(described.secret.unwrap().labels["owner"], "pay");
    assert!(!bench.log_bytes().windows(7).any(|window| window == b"hunter2"));
}

#[tokio::test]
async fn two_persons_are_done_without_by_two_only() {
    let bench = Bench::new().await;
    let turn = |who: &Operator, on| who.asks(SetTwoPersonsRequest { on });
    assert_eq!(code(bench.service.set_two_persons(turn(&bench.root, true)).await), Code::FailedPrecondition);
    let bob = bench.operator("bob", &[Role::Administrators]).await;
    let off = bench.service.set_two_persons(turn(&bench.root, false)).await.unwrap().into_inner();
    assert!(!propose(&bench, &bench.root, "").await.is_empty());
    assert_eq!(approve(&bench, &bench.root, &off.proposal).await, Code::FailedPrecondition);
    assert_eq!(approve(&bench, &bob, &off.proposal).await, Code::Ok);
    assert!(propose(&bench, &bench.root, "\n").await.is_empty());
    // Another administrator does not switch it on again; one does, at once.
    bench.operator("carol", &[Role::Administrators]).await;
    assert!(propose(&bench, &bench.root, "\n\n").await.is_empty());
    assert_eq!(code(bench.service.set_two_persons(turn(&bench.root, true)).await), Code::Ok);
    assert!(!propose(&bench, &bench.root, "\n\n\n").await.is_empty());
    bench.registry.demand_two_persons();
    assert_eq!(code(bench.service.set_two_persons(turn(&bench.root, false)).await), Code::FailedPrecondition);
}

#[tokio::test]
async fn where_the_configuration_demands_it_whoever_is_alone_changes_nothing_that_widens() {
    let bench = Bench::new().await;
    bench.registry.demand_two_persons();
    let waits = propose(&bench, &bench.root, "").await;
    assert_eq!(approve(&bench, &bench.root, &waits).await, Code::FailedPrecondition);
    let put = bench.service.put_administrator(bench.root.asks(administrator(&Operator::new(), &["policy"])));
    assert!(!put.await.unwrap().into_inner().proposal.is_empty());
    let status = bench.service.status(bench.root.asks(StatusRequest {})).await.unwrap().into_inner();
    assert_eq!(status.two_persons.len(), Role::ALL.len());
}

#[tokio::test]
async fn a_role_that_takes_two_to_use_takes_two_to_give() {
    let bench = Bench::new().await;
    let bob = bench.operator("bob", &[Role::Policy]).await;
    // Else the first administrator would make a second person of its own.
    let puppet = Operator::new();
    let put = PutAdministratorRequest { name: "puppet".into(), ..administrator(&puppet, &["policy"]) };
    let waits = bench.service.put_administrator(bench.root.asks(put)).await.unwrap().into_inner().proposal;
    assert!(!waits.is_empty());
    assert_eq!(approve(&bench, &puppet, &waits).await, Code::PermissionDenied);
    assert_eq!(approve(&bench, &bob, &waits).await, Code::Ok);
}

#[tokio::test]
async fn the_same_change_proposed_twice_waits_once_and_only_so_many_wait() {
    let bench = Bench::new().await;
    bench.operator("bob", &[Role::Policy]).await;
    let first = propose(&bench, &bench.root, "").await;
    assert_eq!(propose(&bench, &bench.root, "").await, first);
    for n in 1..limits::PROPOSALS {
        assert!(!propose(&bench, &bench.root, &"\n".repeat(n)).await.is_empty());
    }
    let more = bench.service.put_policy(bench.root.asks(policy("\n\n\t"))).await;
    assert_eq!(code(more), Code::ResourceExhausted);
    assert_eq!(count(&bench).await, limits::PROPOSALS);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_neither_proposed_nor_approved() {
    let bench = Bench::new().await;
    let bob = bench.operator("bob", &[Role::Policy]).await;
    let waits = propose(&bench, &bench.root, "").await;
    let before = bench.stored();
    bench.break_log(true);
    assert_eq!(code(bench.service.put_policy(bench.root.asks(policy("\n"))).await), Code::FailedPrecondition);
    assert_eq!(approve(&bench, &bob, &waits).await, Code::FailedPrecondition);
    assert_eq!(bench.stored(), before);
    bench.break_log(false);
    assert_eq!(approve(&bench, &bob, &waits).await, Code::Ok);
}

#[tokio::test]
async fn where_it_cannot_be_read_whether_two_are_needed_nothing_widens() {
    let bench = Bench::new().await;
    bench.operator("bob", &[Role::Policy]).await;
    let key = bench.registry.vault().key_of(Kind::State, TWO_PERSONS);
    bench.store.tamper(|map| {
        map.get_mut(&key).unwrap().pop();
    });
    assert_eq!(code(bench.service.put_policy(bench.root.asks(policy(""))).await), Code::FailedPrecondition);
    let status = bench.service.status(bench.root.asks(StatusRequest {})).await.unwrap().into_inner();
    assert_eq!(status.two_persons, ["(unknown)"]);
}
