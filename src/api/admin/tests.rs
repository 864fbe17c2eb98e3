//! The calls, one by one, through the service's own trait.

mod bench;
mod keys;
mod pending;
mod tpm;
#[path = "../../../tests/support/corim.rs"]
mod corim;

use super::*;
use crate::audit::record::Event;
use crate::case::{Case, PathVersion, Stage};
use crate::denial::Denial;
use crate::proto::admin::put_administrator_request::Key;
use crate::proto::admin::{
    enrol_node_request, put_reference_sets_request, remove_administrator_request, revoke_request,
    unrevoke_request,
};
use crate::registry::Role;
use crate::spiffe::SpiffeId;
use bench::{Bench, ID, LATER, Operator, T0, code};
use std::collections::BTreeMap;
use tonic::Code;

const VALUE: &str = "hunter2-hunter2-hunter2";
const PERMIT: &str = "@id(\"pay\") permit (principal in IdentityFolder::\"spiffe://example.org/ns/payments\", action, resource in Folder::\"kv/payments\");";

fn put_secret(path: &str) -> PutSecretRequest {
    PutSecretRequest {
        path: path.into(),
        fields: BTreeMap::from([("value".to_owned(), VALUE.as_bytes().to_vec())]),
        ..Default::default()
    }
}

fn set(name: &str, digest: &str) -> PutReferenceSetsRequest {
    let toml = format!(
        "[[set]]\nname = \"{name}\"\nworkload = \"{ID}\"\nnot_after = {LATER}\n[set.process]\nexecutables = [{{ sha256 = \"{digest}\" }}]\n"
    );
    PutReferenceSetsRequest { sets: Some(put_reference_sets_request::Sets::Toml(toml)), keep_latches: false }
}

fn import(name: &str) -> ImportReferenceSetsRequest {
    let publisher = corim::Publisher::new();
    let enclave = corim::triple("m", &[corim::sha384(corim::unsigned(0), 1)]);
    ImportReferenceSetsRequest {
        corim: publisher.sign(&corim::Manifest::of(vec![enclave])),
        signers: vec![publisher.pem().into_bytes()],
        format: "nitro".into(),
        name: name.into(),
        workload: ID.into(),
        not_after: LATER.into(),
        ..Default::default()
    }
}

fn node(name: &str, seed: u8) -> EnrolNodeRequest {
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    use aws_lc_rs::signature::KeyPair;
    let spki = crate::evidence::process::NodeKey::from_ed25519(pair.public_key().as_ref()).unwrap();
    EnrolNodeRequest {
        name: name.into(),
        public_key: Some(enrol_node_request::PublicKey::Spki(spki.spki().to_vec())),
        not_after: LATER.into(),
        may_vouch_for: vec!["spiffe://example.org/ns/payments/*".into()],
        ..Default::default()
    }
}

fn administrator(operator: &Operator, roles: &[&str]) -> PutAdministratorRequest {
    PutAdministratorRequest {
        name: "eve".into(),
        key: Some(Key::KeySha256(operator.key_sha256.clone())),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        not_after: LATER.into(),
    }
}

fn revoke_identity(pattern: &str) -> RevokeRequest {
    RevokeRequest { whom: Some(revoke_request::Whom::Identity(pattern.into())), why: "stolen".into() }
}

/// An intermediate of AMD's, as it is.
const ASK: &[u8] = include_bytes!("../../../certs/amd/ask-milan.der");

/// Every call, in an order in which each works; gives its code.
async fn call_all(bench: &Bench, operator: &Operator) -> Vec<(Verb, Code)> {
    let service = &bench.service;
    bench.refuse("aa", "kv/a", Denial::PolicySilent, Stage::Policy);
    bench.enter_lease("lease-aaaaaaaaaaaa");
    let mut codes = Vec::new();
    macro_rules! calls {
        ($($verb:ident $call:ident $message:expr;)+) => {
            $(codes.push((Verb::$verb, code(service.$call(operator.asks($message)).await)));)+
        };
    }
    let crl = AcceptCrlRequest {
        trust_domain: "example.org".into(),
        issuer: Some(accept_crl_request::Issuer::Pem(bench.ca.clone())),
    };
    calls! {
        ListLatches list_latches ListLatchesRequest::default();
        ClearLatch clear_latch ClearLatchRequest { identity: ID.into(), ..Default::default() };
        ListLeases list_leases ListLeasesRequest::default();
        RevokeLease revoke_lease RevokeLeaseRequest { id: "lease-aaaaaaaaaaaa".into(), why: "stolen".into() };
        PutSecret put_secret put_secret("kv/a");
        ListSecrets list_secrets ListSecretsRequest::default();
        DescribeSecret describe_secret DescribeSecretRequest { path: "kv/a".into() };
        ConfigureSecret configure_secret ConfigureSecretRequest { path: "kv/a".into(), lease_default_seconds: 60, ..Default::default() };
        SetSecretDisabled set_secret_disabled SetSecretDisabledRequest { path: "kv/a".into(), disabled: true, ..Default::default() };
        DestroySecret destroy_secret DestroySecretRequest { path: "kv/a".into(), which: Some(destroy_secret_request::Which::All(true)), ..Default::default() };
        PutPolicy put_policy PutPolicyRequest { text: PERMIT.into(), ..Default::default() };
        ShowPolicy show_policy ShowPolicyRequest {};
        PutReferenceSets put_reference_sets set("pay-1", &"aa".repeat(32));
        ImportReferenceSets import_reference_sets import("pay-2");
        ListReferenceSets list_reference_sets ListReferenceSetsRequest::default();
        RemoveReferenceSet remove_reference_set RemoveReferenceSetRequest { name: "pay-1".into(), ..Default::default() };
        EnrolNode enrol_node node("n1", 1);
        BeginTpmEnrolment begin_tpm_enrolment tpm::Node::new().request();
        FinishTpmEnrolment finish_tpm_enrolment tpm::proof(bench).await;
        ListNodes list_nodes ListNodesRequest::default();
        RemoveNode remove_node RemoveNodeRequest { name: "n1".into(), ..Default::default() };
        Revoke revoke revoke_identity(ID);
        ListRevocations list_revocations ListRevocationsRequest::default();
        Unrevoke unrevoke UnrevokeRequest { whom: Some(unrevoke_request::Whom::Identity(ID.into())) };
        AcceptClock accept_clock AcceptClockRequest {};
        AcceptCrl accept_crl crl;
        AcceptBundle accept_bundle AcceptBundleRequest { trust_domain: "example.org".into() };
        Backup backup BackupRequest {};
        ShowRestore show_restore ShowRestoreRequest {};
        AcceptRestore accept_restore AcceptRestoreRequest {};
        Status status StatusRequest {};
        Explain explain ExplainRequest { identity: ID.into(), secret: "kv/a".into(), ..Default::default() };
        PutAdministrator put_administrator administrator(&Operator::new(), &["audit"]);
        CollateralStatus collateral_status CollateralStatusRequest {};
        RefreshCollateral refresh_collateral RefreshCollateralRequest {};
        ImportCollateral import_collateral ImportCollateralRequest { what: Some(import_collateral_request::What::SevSnpIntermediate(ASK.to_vec())) };
        AcceptCollateral accept_collateral AcceptCollateralRequest { what: Some(accept_collateral_request::What::Dcap(bench::INTEL.collateral.clone())) };
        ListAdministrators list_administrators ListAdministratorsRequest {};
        SetTwoPersons set_two_persons SetTwoPersonsRequest { on: true };
        ListPending list_pending ListPendingRequest {};
        ShowPending show_pending ShowPendingRequest { id: pending::id(bench, "kv/w1").await };
        ApprovePending approve_pending ApprovePendingRequest { id: pending::id(bench, "kv/w1").await, ..Default::default() };
        RejectPending reject_pending RejectPendingRequest { id: pending::id(bench, "kv/w2").await, why: "no".into() };
        WithdrawPending withdraw_pending WithdrawPendingRequest { id: pending::id(bench, "kv/w3").await };
        RemoveAdministrator remove_administrator RemoveAdministratorRequest { whom: Some(remove_administrator_request::Whom::Name("eve".into())) };
        RotateKey rotate_key RotateKeyRequest {};
        RewrapKey rewrap_key RewrapKeyRequest {};
        Rekey rekey RekeyRequest::default();
        ConfirmRekey confirm_rekey keys::read_back(bench);
        KeyStatus key_status KeyStatusRequest {};
    }
    codes
}

#[tokio::test]
async fn every_verb_works_for_who_may_do_everything() {
    let bench = Bench::new().await;
    pending::prepare(&bench).await;
    let codes = call_all(&bench, &bench.root).await;
    assert_eq!(codes.len(), Verb::ALL.len());
    for (verb, code) in codes {
        assert_eq!(code, Code::Ok, "{verb:?}");
    }
}

#[tokio::test]
async fn every_verb_is_refused_to_each_role_that_it_does_not_name() {
    let bench = Bench::new().await;
    for role in Role::ALL {
        let operator = bench.operator("one-role", &[role]).await;
        let before = bench.stored();
        for (verb, code) in call_all(&bench, &operator).await {
            let may = verb.roles().contains(&role);
            assert_eq!(code == Code::PermissionDenied, !may, "{role:?} {verb:?} {code:?}");
        }
        if role == Role::Audit {
            assert_eq!(bench.stored(), before);
        }
        keys::until_rewrapped(&bench).await;
    }
}

#[tokio::test]
async fn an_unknown_or_expired_key_is_refused_and_recorded() {
    let bench = Bench::new().await;
    let nobody = Operator::new();
    let outcome = bench.service.put_secret(nobody.asks(put_secret("kv/a"))).await;
    assert_eq!(code(outcome), Code::PermissionDenied);
    assert_eq!(bench.acts().last().unwrap(), "refused secret put");
    let record = bench.records().pop().unwrap();
    let Event::AdminRead { act, refused: Some(_) } = record.event else { panic!("{record:?}") };
    assert_eq!((act.key_sha256, act.target.as_str()), (nobody.key_sha256.clone(), "kv/a"));
    for (wall, expected) in [(T0 + 86_399_000, Code::Ok), (T0 + 86_400_000, Code::PermissionDenied)] {
        let ahead = wall - bench.now().wall.0;
        bench.hands.step(ahead as i64);
        bench.hands.boot.fetch_add(ahead, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(code(bench.service.status(bench.root.asks(StatusRequest {})).await), expected);
    }
}

#[tokio::test]
async fn nothing_changes_where_the_log_cannot_be_written() {
    let bench = Bench::new().await;
    let ends_in_log = |verb: Verb| verb.effect() != Effect::Watches;
    bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap();
    bench
        .service
        .put_policy(bench.root.asks(PutPolicyRequest { text: PERMIT.into(), ..Default::default() }))
        .await
        .unwrap();
    bench.service.put_reference_sets(bench.root.asks(set("pay-1", &"aa".repeat(32)))).await.unwrap();
    bench.service.enrol_node(bench.root.asks(node("n1", 1))).await.unwrap();
    bench.service.revoke(bench.root.asks(revoke_identity(ID))).await.unwrap();
    bench
        .service
        .put_administrator(bench.root.asks(administrator(&Operator::new(), &["audit"])))
        .await
        .unwrap();
    bench.service.rotate_key(bench.root.asks(RotateKeyRequest {})).await.unwrap();
    pending::prepare(&bench).await;
    let (before, latches) = (bench.stored(), bench.registry.broker().latches.all().len());
    bench.break_log(true);
    for (verb, code) in call_all(&bench, &bench.root).await {
        let expected = if ends_in_log(verb) { Code::FailedPrecondition } else { Code::Ok };
        let refused_before = matches!(verb, Verb::EnrolNode) && code == Code::AlreadyExists;
        assert!(code == expected || refused_before, "{verb:?} {code:?}");
    }
    assert_eq!(bench.stored(), before);
    assert_eq!(bench.registry.broker().latches.all().len(), latches + 1);
    assert_eq!(bench.registry.broker().leases().standing(bench.now()).len(), 1);
    bench.break_log(false);
    bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap();
    assert_ne!(bench.stored(), before);
}

#[tokio::test]
async fn a_value_is_in_no_answer_and_not_in_the_log() {
    let bench = Bench::new().await;
    let request = PutSecretRequest {
        labels: BTreeMap::from([("owner".into(), "pay".into())]),
        ..put_secret("kv/payments/stripe")
    };
    assert!(!format!("{request:?}").contains("hunter2"));
    assert!(!serde_json::to_string(&request).unwrap().contains("104,117,110"));
    let put = bench.service.put_secret(bench.root.asks(request)).await.unwrap().into_inner();
    assert_eq!(put.version, 1);
    let listed = bench
        .service
        .list_secrets(bench.root.asks(ListSecretsRequest { prefix: "kv/p".into(), ..Default::default() }))
        .await
        .unwrap()
        .into_inner();
    let described = bench
        .service
        .describe_secret(bench.root.asks(DescribeSecretRequest { path: "kv/payments/stripe".into() }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (listed.secrets[0].path.as_str(), listed.secrets[0].labels["owner"].as_str()),
        ("kv/payments/stripe", "pay")
    );
    assert_eq!(described.versions.len(), 1);
    let answers =
        [serde_json::to_string(&put), serde_json::to_string(&listed), serde_json::to_string(&described)];
    let answers: Vec<u8> = answers.into_iter().flat_map(|answer| answer.unwrap().into_bytes()).collect();
    let stored: Vec<u8> = bench.stored().into_values().flatten().collect();
    for bytes in [answers, bench.log_bytes(), stored] {
        assert!(!bytes.is_empty());
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }
}

#[tokio::test]
async fn a_secret_is_put_only_where_the_version_is_as_expected() {
    let bench = Bench::new().await;
    let expecting = |version| PutSecretRequest { expected_version: Some(version), ..put_secret("kv/a") };
    assert_eq!(code(bench.service.put_secret(bench.root.asks(expecting(1))).await), Code::FailedPrecondition);
    assert_eq!(code(bench.service.put_secret(bench.root.asks(expecting(0))).await), Code::Ok);
    assert_eq!(code(bench.service.put_secret(bench.root.asks(expecting(0))).await), Code::FailedPrecondition);
    let second = bench.service.put_secret(bench.root.asks(expecting(1))).await.unwrap().into_inner();
    assert_eq!(second.version, 2);
    let labelled =
        PutSecretRequest { labels: BTreeMap::from([("a".into(), "b".into())]), ..put_secret("kv/a") };
    assert_eq!(code(bench.service.put_secret(bench.root.asks(labelled)).await), Code::InvalidArgument);
}

#[tokio::test]
async fn a_removed_administrator_is_refused_at_once_on_an_open_connection() {
    let bench = Bench::new().await;
    let operator = bench.operator("bob", &[Role::Secrets]).await;
    assert_eq!(code(bench.service.put_secret(operator.asks(put_secret("kv/a"))).await), Code::Ok);
    let whom = Some(remove_administrator_request::Whom::KeySha256(operator.key_sha256.clone()));
    bench.service.remove_administrator(bench.root.asks(RemoveAdministratorRequest { whom })).await.unwrap();
    assert_eq!(
        code(bench.service.put_secret(operator.asks(put_secret("kv/a"))).await),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn the_last_who_may_put_administrators_is_neither_removed_nor_demoted() {
    let bench = Bench::new().await;
    let whom = Some(remove_administrator_request::Whom::Name("root".into()));
    let removal = RemoveAdministratorRequest { whom };
    assert_eq!(
        code(bench.service.remove_administrator(bench.root.asks(removal.clone())).await),
        Code::FailedPrecondition
    );
    let demotion = administrator(&bench.root, &["audit"]);
    assert_eq!(
        code(bench.service.put_administrator(bench.root.asks(demotion)).await),
        Code::FailedPrecondition
    );
    bench.operator("second", &[Role::Administrators]).await;
    assert_eq!(code(bench.service.remove_administrator(bench.root.asks(removal)).await), Code::Ok);
}

#[tokio::test]
async fn a_latch_ends_by_the_act_it_rests_on_and_stays_with_keep_latches() {
    let bench = Bench::new().await;
    bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap();
    let holds = || bench.registry.broker().latches.all().len();
    let policy = |keep_latches, tail: &str| {
        bench.root.asks(PutPolicyRequest {
            text: format!("{PERMIT}{tail}"),
            keep_latches,
            ..Default::default()
        })
    };
    bench.refuse("aa", "kv/a", Denial::PolicySilent, Stage::Policy);
    bench.service.put_policy(policy(true, "\n")).await.unwrap();
    bench.service.put_reference_sets(bench.root.asks(set("pay-1", &"aa".repeat(32)))).await.unwrap();
    assert_eq!(holds(), 1);
    let put = bench.service.put_policy(policy(false, "\n\n")).await.unwrap().into_inner();
    let change = put.change.unwrap();
    assert_eq!((change.latches_ended.len(), holds()), (1, 0));
    let cleared = bench.records().into_iter().rev().find_map(|record| match record.event {
        Event::LatchCleared { by, .. } => Some(by),
        _ => None,
    });
    assert_eq!(cleared, Some(change.record));
    bench.refuse("aa", "kv/a", Denial::MeasurementMismatch, Stage::Appraisal);
    bench.service.put_policy(policy(false, "\n\n\n")).await.unwrap();
    assert_eq!(holds(), 1);
    bench.service.put_reference_sets(bench.root.asks(set("pay-2", &"ac".repeat(32)))).await.unwrap();
    assert_eq!(holds(), 0);
    bench.refuse("aa", "kv/a", Denial::SecretDisabled, Stage::Policy);
    let other = bench.service.put_secret(bench.root.asks(put_secret("kv/b"))).await.unwrap().into_inner();
    assert!(other.change.unwrap().latches_ended.is_empty());
    bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap();
    assert_eq!(holds(), 0);
    bench.refuse("aa", "kv/a", Denial::MeasurementMismatch, Stage::Appraisal);
    bench.service.enrol_node(bench.root.asks(node("n1", 1))).await.unwrap();
    assert_eq!(holds(), 0);
}

#[tokio::test]
async fn a_revocation_ends_the_leases_of_whom_it_is_about_and_survives_a_load() {
    let bench = Bench::new().await;
    bench.enter_lease("lease-aaaaaaaaaaaa");
    let other = bench
        .service
        .revoke(bench.root.asks(revoke_identity("spiffe://example.org/ns/web/*")))
        .await
        .unwrap();
    assert!(other.into_inner().leases_ended.is_empty());
    let before = bench.registry.broker().trust.revocation_epoch();
    let revoked = bench
        .service
        .revoke(bench.root.asks(revoke_identity("spiffe://example.org/ns/payments/*")))
        .await
        .unwrap();
    assert_eq!(revoked.into_inner().leases_ended, ["lease-aaaaaaaaaaaa"]);
    assert!(bench.registry.broker().trust.revocation_epoch() > before);
    let ended = bench.records().into_iter().any(|record| {
        matches!(record.event, Event::LeaseEnded { lease_id, .. } if lease_id == "lease-aaaaaaaaaaaa")
    });
    assert!(ended);
    let listed =
        bench.service.list_revocations(bench.root.asks(ListRevocationsRequest::default())).await.unwrap();
    assert_eq!(listed.into_inner().revocations.len(), 2);
}

#[tokio::test]
async fn a_narrowing_act_waits_for_redemptions_under_way() {
    let bench = Arc::new(Bench::new().await);
    bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap();
    let barrier = bench.registry.broker().barrier().clone();
    let held = barrier.narrow().await;
    let disable = SetSecretDisabledRequest { path: "kv/a".into(), disabled: true, keep_latches: false };
    let acting = tokio::spawn({
        let bench = bench.clone();
        async move { code(bench.service.set_secret_disabled(bench.root.asks(disable)).await) }
    });
    while bench.acts().last().unwrap() != "secret set-disabled" {
        tokio::task::yield_now().await;
    }
    assert!(!acting.is_finished());
    drop(held);
    assert_eq!(acting.await.unwrap(), Code::Ok);
}

#[tokio::test]
async fn by_a_suspect_clock_only_what_narrows_is_done_until_it_is_accepted() {
    let bench = Bench::new().await;
    bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap();
    bench.hands.step(10 * 86_400_000);
    let disabled = |disabled| SetSecretDisabledRequest { path: "kv/a".into(), disabled, keep_latches: false };
    assert_eq!(
        code(bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await),
        Code::FailedPrecondition
    );
    assert_eq!(code(bench.service.set_secret_disabled(bench.root.asks(disabled(true))).await), Code::Ok);
    assert_eq!(
        code(bench.service.set_secret_disabled(bench.root.asks(disabled(false))).await),
        Code::FailedPrecondition
    );
    bench.hands.step(-10 * 86_400_000 + 60_000);
    assert_eq!(
        code(bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await),
        Code::FailedPrecondition
    );
    assert_eq!(code(bench.service.accept_clock(bench.root.asks(AcceptClockRequest {})).await), Code::Ok);
    assert_eq!(code(bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await), Code::Ok);
}

#[tokio::test]
async fn what_is_malformed_is_refused_with_its_cause_and_nothing_is_recorded_as_intended() {
    let bench = Bench::new().await;
    let (service, root) = (&bench.service, &bench.root);
    let before = bench.acts().len();
    let mut messages = Vec::new();
    macro_rules! refused {
        ($($call:ident $message:expr;)+) => {$(
            let status = service.$call(root.asks($message)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            messages.push(status.message().to_owned());
        )+};
    }
    refused! {
        put_secret put_secret("pki/a");
        put_secret put_secret("kv/A");
        put_secret PutSecretRequest { fields: BTreeMap::new(), ..put_secret("kv/a") };
        put_policy PutPolicyRequest { text: "permit (principal, action, resource) when { nonsense };".into(), ..Default::default() };
        put_reference_sets set("pay-1", &"bb".repeat(32));
        put_reference_sets set("pay 1", &"aa".repeat(32));
        put_reference_sets PutReferenceSetsRequest::default();
        enrol_node EnrolNodeRequest { may_vouch_for: vec![], ..node("n1", 1) };
        enrol_node EnrolNodeRequest { may_vouch_for: vec!["*".into()], ..node("n1", 1) };
        enrol_node EnrolNodeRequest { not_after: "2026-05-31T00:00:00Z".into(), ..node("n1", 1) };
        enrol_node EnrolNodeRequest { public_key: Some(enrol_node_request::PublicKey::Pem("x".into())), ..node("n1", 1) };
        put_administrator administrator(root, &["root"]);
        put_administrator administrator(root, &[]);
        revoke RevokeRequest { whom: None, why: "x".into() };
        revoke RevokeRequest { why: String::new(), ..revoke_identity(ID) };
        explain ExplainRequest { identity: ID.into(), ..Default::default() };
        explain ExplainRequest { decision_id: "../x".into(), ..Default::default() };
        list_nodes ListNodesRequest { after: "zz".into(), limit: 0 };
        destroy_secret DestroySecretRequest { path: "kv/a".into(), ..Default::default() };
    }
    assert!(messages.iter().all(|message| message.len() > 10), "{messages:?}");
    assert!(messages[4].contains("launcher"), "{}", messages[4]);
    assert_eq!(bench.acts().len(), before);
}

#[tokio::test]
async fn one_key_is_never_two_nodes_and_a_name_is_replaced_only_where_it_is_said() {
    let bench = Bench::new().await;
    bench.service.enrol_node(bench.root.asks(node("n1", 1))).await.unwrap();
    assert_eq!(code(bench.service.enrol_node(bench.root.asks(node("n2", 1))).await), Code::AlreadyExists);
    assert_eq!(code(bench.service.enrol_node(bench.root.asks(node("n1", 2))).await), Code::AlreadyExists);
    let replacing = EnrolNodeRequest { replace: true, ..node("n1", 2) };
    assert_eq!(code(bench.service.enrol_node(bench.root.asks(replacing)).await), Code::Ok);
    let listed =
        bench.service.list_nodes(bench.root.asks(ListNodesRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.nodes.len(), 1);
}

#[tokio::test]
async fn explain_names_each_obstacle_and_is_silent_once_none_is_left() {
    let bench = Bench::new().await;
    let ask =
        || ExplainRequest { identity: ID.into(), secret: "kv/payments/stripe".into(), ..Default::default() };
    let obstacles = |response: &ExplainResponse| -> Vec<String> {
        response
            .findings
            .iter()
            .filter(|finding| finding.obstacle)
            .map(|finding| finding.subject.clone())
            .collect()
    };
    let response = bench.service.explain(bench.root.asks(ask())).await.unwrap().into_inner();
    assert_eq!(obstacles(&response), ["nodes", "reference", "secret"]);
    bench.service.enrol_node(bench.root.asks(node("n1", 1))).await.unwrap();
    bench.service.put_reference_sets(bench.root.asks(set("pay-1", &"aa".repeat(32)))).await.unwrap();
    bench.service.put_secret(bench.root.asks(put_secret("kv/payments/stripe"))).await.unwrap();
    let response = bench.service.explain(bench.root.asks(ask())).await.unwrap().into_inner();
    assert_eq!((obstacles(&response).len(), response.policy[0].decision.as_str()), (0, "silent"));
    assert!(response.needed[0].contains("no permit"), "{:?}", response.needed);
    bench
        .service
        .put_policy(bench.root.asks(PutPolicyRequest { text: PERMIT.into(), ..Default::default() }))
        .await
        .unwrap();
    let response = bench.service.explain(bench.root.asks(ask())).await.unwrap().into_inner();
    assert_eq!((response.needed.len(), response.policy[0].decision.as_str()), (0, "permitted"));
    bench.refuse("aa", "kv/payments/stripe", Denial::PolicySilent, Stage::Policy);
    bench.service.revoke(bench.root.asks(revoke_identity(ID))).await.unwrap();
    let response = bench.service.explain(bench.root.asks(ask())).await.unwrap().into_inner();
    assert_eq!(obstacles(&response), ["revocation", "latch"]);
}

#[tokio::test]
async fn explain_finds_a_recorded_decision_and_says_what_would_be_needed() {
    let bench = Bench::new().await;
    let mut case = Box::new(Case::new());
    case.stage = Stage::Appraisal;
    case.identity = Some(SpiffeId::parse(ID).unwrap());
    case.secrets = vec![PathVersion { path: "kv/a".into(), version: None }];
    let denied = bench.registry.broker().deny(case.deny_because(Denial::MeasurementMismatch, "uid 7")).await;
    let id = denied.decision_id.unwrap();
    let ask = ExplainRequest { decision_id: id.clone(), ..Default::default() };
    let response = bench.service.explain(bench.root.asks(ask.clone())).await.unwrap().into_inner();
    let decision = response.decision.unwrap();
    assert_eq!((decision.stage.as_str(), decision.denial.as_str()), ("appraisal", "MeasurementMismatch"));
    assert_eq!((decision.detail.as_str(), decision.reason.as_str()), ("uid 7", "NOT_RELEASED"));
    assert_eq!(response.needed[0], super::needed::needed(Denial::MeasurementMismatch));
    assert!(response.findings.iter().any(|finding| finding.subject == "nodes" && finding.obstacle));
    let other = ExplainRequest { identity: "spiffe://example.org/other".into(), ..ask };
    assert_eq!(code(bench.service.explain(bench.root.asks(other)).await), Code::InvalidArgument);
    let unknown = ExplainRequest { decision_id: "0".repeat(32), ..Default::default() };
    assert_eq!(code(bench.service.explain(bench.root.asks(unknown)).await), Code::NotFound);
}

#[tokio::test]
async fn a_change_comes_into_force_even_where_its_caller_goes_away() {
    let bench = Arc::new(Bench::new().await);
    let before = bench.registry.broker().trust.revocation_epoch();
    let held = bench.registry.broker().barrier().clone();
    let held = held.narrow().await;
    let calling = tokio::spawn({
        let bench = bench.clone();
        async move { code(bench.service.revoke(bench.root.asks(revoke_identity(ID))).await) }
    });
    while bench.acts().last().unwrap() != "revoke" {
        tokio::task::yield_now().await;
    }
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    drop(held);
    // The next change waits for its turn behind the one that lost its caller.
    bench.service.put_secret(bench.root.asks(put_secret("kv/a"))).await.unwrap();
    assert!(bench.registry.broker().trust.revocation_epoch() > before);
}

#[tokio::test]
async fn an_accepted_clock_lowers_the_kept_highest_time() {
    let bench = Bench::new().await;
    let vault = bench.registry.vault();
    crate::store::marks::raise(vault, HIGHEST_TIME, &(T0 * 2).to_be_bytes()).await.unwrap();
    bench.service.accept_clock(bench.root.asks(AcceptClockRequest {})).await.unwrap();
    let kept = crate::store::marks::read(vault, HIGHEST_TIME).await.unwrap().unwrap();
    assert_eq!(kept, T0.to_be_bytes());
}
