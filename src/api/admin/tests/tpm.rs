//! Enrolments of attestation keys, by a TPM in software.

use super::*;
use crate::evidence::hardware::{Hardware, Held};
use crate::evidence::tpm2::Counters;
use crate::evidence::tpm2::tests::soft;
use crate::limits;
use crate::registry::attestation::keep_counters;
use crate::store::Kind;

/// A node's TPM.
pub(super) struct Node {
    ek: soft::Ek,
    ak: soft::Ak,
}

impl Node {
    pub(super) fn new() -> Self {
        Node { ek: soft::Ek::p256(), ak: soft::Ak::p256() }
    }

    /// For node `n1`, its EK approved.
    pub(super) fn request(&self) -> BeginTpmEnrolmentRequest {
        BeginTpmEnrolmentRequest {
            node: "n1".into(),
            ek_public: self.ek.public(),
            ak_public: self.ak.public(),
            approved_ek_sha256: vec![hex::encode(soft::hash(soft::SHA256, &[self.ek.spki()]))],
            ..Default::default()
        }
    }

    fn answer(&self, challenge: &BeginTpmEnrolmentResponse) -> FinishTpmEnrolmentRequest {
        let answer = self.ek.activate(&challenge.id_object, &challenge.encrypted_secret, &self.ak.name());
        FinishTpmEnrolmentRequest {
            id: challenge.id.clone(),
            node: "n1".into(),
            answer: answer.unwrap(),
            ..Default::default()
        }
    }

    async fn enroll(&self, bench: &Bench, replace: bool) -> Code {
        let request = BeginTpmEnrolmentRequest { replace, ..self.request() };
        match bench.service.begin_tpm_enrolment(bench.root.asks(request)).await {
            Err(status) => status.code(),
            Ok(challenge) => finish(bench, self.answer(challenge.get_ref())).await,
        }
    }
}

/// The right answer to an enrolment that the first administrator has begun, where one could be.
pub(super) async fn proof(bench: &Bench) -> FinishTpmEnrolmentRequest {
    let node = Node::new();
    match bench.service.begin_tpm_enrolment(bench.root.asks(node.request())).await {
        Ok(challenge) => node.answer(challenge.get_ref()),
        Err(_) => FinishTpmEnrolmentRequest { id: "none".into(), node: "n1".into(), ..Default::default() },
    }
}

async fn begun(bench: &Bench, node: &Node) -> BeginTpmEnrolmentResponse {
    bench.service.begin_tpm_enrolment(bench.root.asks(node.request())).await.unwrap().into_inner()
}

async fn finish(bench: &Bench, request: FinishTpmEnrolmentRequest) -> Code {
    code(bench.service.finish_tpm_enrolment(bench.root.asks(request)).await)
}

async fn with_node() -> Bench {
    let bench = Bench::new().await;
    bench.service.enrol_node(bench.root.asks(node("n1", 1))).await.unwrap();
    bench
}

fn trusted(bench: &Bench) -> usize {
    bench.registry.attestation_keys().as_ref().as_ref().unwrap().len()
}

#[tokio::test]
async fn an_answer_in_time_enrols_the_key_and_a_late_one_nothing() {
    let bench = with_node().await;
    let (early, late) = (Node::new(), Node::new());
    let challenges = [begun(&bench, &early).await, begun(&bench, &late).await];
    let within = i64::try_from(limits::TPM2_ENROL_WITHIN_MS).unwrap();
    let pass = |ms: i64| {
        bench.hands.step(ms);
        bench.hands.boot.fetch_add(ms as u64, std::sync::atomic::Ordering::SeqCst);
    };
    pass(within - 1);
    assert_eq!(finish(&bench, early.answer(&challenges[0])).await, Code::Ok);
    pass(1);
    assert_eq!(finish(&bench, late.answer(&challenges[1])).await, Code::FailedPrecondition);
    assert_eq!(trusted(&bench), 1);
    assert_eq!(bench.acts().last().unwrap(), "refused node enrol proof");
}

#[tokio::test]
async fn no_more_wait_than_can_and_what_is_late_makes_room() {
    let bench = with_node().await;
    let node = Node::new();
    for _ in 0..limits::TPM2_ENROLMENTS {
        begun(&bench, &node).await;
    }
    let one_more = bench.service.begin_tpm_enrolment(bench.root.asks(node.request())).await;
    assert_eq!(code(one_more), Code::ResourceExhausted);
    let within = limits::TPM2_ENROL_WITHIN_MS;
    bench.hands.step(within as i64);
    bench.hands.boot.fetch_add(within, std::sync::atomic::Ordering::SeqCst);
    begun(&bench, &node).await;
}

#[tokio::test]
async fn a_key_is_enrolled_anew_only_where_it_is_said_and_takes_the_place_of_the_others_then() {
    let bench = with_node().await;
    let (first, second) = (Node::new(), Node::new());
    assert_eq!(first.enroll(&bench, false).await, Code::Ok);
    assert_eq!(first.enroll(&bench, false).await, Code::AlreadyExists);
    assert_eq!(second.enroll(&bench, false).await, Code::Ok);
    assert_eq!(trusted(&bench), 2);
    assert_eq!(second.enroll(&bench, true).await, Code::Ok);
    assert_eq!(trusted(&bench), 1);
    for _ in 1..limits::TPM2_KEYS_PER_NODE {
        assert_eq!(Node::new().enroll(&bench, false).await, Code::Ok);
    }
    assert_eq!(Node::new().enroll(&bench, false).await, Code::ResourceExhausted);
}

#[tokio::test]
async fn nothing_is_enrolled_where_the_format_is_not_taken_or_its_roots_cannot_be_read() {
    let bench = with_node().await;
    let outcome = |manufacturers| {
        let verifiers = bench.registry.broker().verifiers.clone();
        verifiers.set_hardware(Hardware { manufacturers, ..Hardware::default() });
        bench.service.begin_tpm_enrolment(bench.root.asks(Node::new().request()))
    };
    for held in [Held::NotTaken, Held::Unknown("a file".into())] {
        assert_eq!(code(outcome(held).await), Code::FailedPrecondition);
    }
}

#[tokio::test]
async fn counters_that_were_kept_are_there_after_a_restart_and_what_cannot_be_read_is_unknown() {
    let bench = with_node().await;
    assert_eq!(Node::new().enroll(&bench, false).await, Code::Ok);
    let ak = bench.registry.attestation_keys().as_ref().as_ref().unwrap()[0].ak.clone();
    let seen = bench.registry.broker().verifiers.seen();
    seen.note(&ak, Counters { reset: 7, restart: 1 });
    keep_counters(seen, bench.registry.vault()).await;
    assert_eq!(seen.not_kept(8), []);
    // As at a start: nothing is in memory.
    seen.forget_others(&Default::default());
    assert_eq!(seen.last(&ak), None);
    bench.registry.load().await;
    assert_eq!(seen.last(&ak), Some(Counters { reset: 7, restart: 1 }));
    for (kind, name) in
        [(Kind::Mark, ak.mark()), (Kind::AttestationKey, hex::encode(ak.key.name().as_bytes()))]
    {
        let key = bench.registry.vault().key_of(kind, &name);
        let mut was = None;
        bench.store.tamper(|map| was = map.insert(key.clone(), vec![1; 100]));
        seen.forget_others(&Default::default());
        bench.registry.load().await;
        assert_eq!(bench.registry.broker().verifiers.tpm2_epoch(), None, "{kind:?}");
        bench.store.tamper(|map| drop(map.insert(key, was.unwrap())));
    }
    seen.forget_others(&Default::default());
    bench.registry.load().await;
    assert!(bench.registry.broker().verifiers.tpm2_epoch().is_some());
}

#[tokio::test]
async fn counters_that_the_store_does_not_take_are_owed_and_refuse_meanwhile() {
    let bench = with_node().await;
    assert_eq!(Node::new().enroll(&bench, false).await, Code::Ok);
    let ak = bench.registry.attestation_keys().as_ref().as_ref().unwrap()[0].ak.clone();
    let (seen, vault) = (bench.registry.broker().verifiers.seen(), bench.registry.vault());
    seen.note(&ak, Counters { reset: 7, restart: 1 });
    let mark = vault.key_of(Kind::Mark, &ak.mark());
    bench.store.tamper(|map| drop(map.insert(mark.clone(), vec![1; 100])));
    keep_counters(seen, vault).await;
    assert_eq!(seen.check_kept().unwrap_err().denial, Denial::StoreUnavailable);
    assert_eq!(seen.not_kept(8).len(), 1);
    bench.store.tamper(|map| drop(map.remove(&mark)));
    keep_counters(seen, vault).await;
    assert!(seen.check_kept().is_ok() && seen.not_kept(8).is_empty());
}

#[tokio::test]
async fn removing_a_node_or_a_key_says_in_the_log_which_keys_count_no_more() {
    let bench = with_node().await;
    let (first, second) = (Node::new(), Node::new());
    for node in [&first, &second] {
        assert_eq!(node.enroll(&bench, false).await, Code::Ok);
    }
    let name = |node: &Node| hex::encode(node.ak.name());
    let remove = |ak_name: String| {
        let request = RemoveNodeRequest { name: "n1".into(), ak_name, ..Default::default() };
        bench.service.remove_node(bench.root.asks(request))
    };
    let named = || {
        let records = bench.records();
        let details = records.iter().rev().find_map(|record| match &record.event {
            Event::AdminIntent { act, .. } => Some(act.details.clone()),
            _ => None,
        });
        details.unwrap()["ak_names"].clone()
    };
    assert_eq!(code(remove("zz".into()).await), Code::InvalidArgument);
    assert_eq!(code(remove(name(&first)).await), Code::Ok);
    assert_eq!(named(), serde_json::json!([name(&first)]));
    assert_eq!(trusted(&bench), 1);
    assert_eq!(code(remove(String::new()).await), Code::Ok);
    assert_eq!(named(), serde_json::json!([name(&second)]));
    assert_eq!(trusted(&bench), 0);
    assert_eq!(code(remove(String::new()).await), Code::NotFound);
}
