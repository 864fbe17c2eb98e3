//! Leases that live only while they are attested.

use crate::support::wire::{GRPC, RELEASE, Wire};
use crate::support::*;
use portcullis::audit::record::{Event, Record};
use portcullis::cli::devca::LeafRequest;
use portcullis::denial::{Denial, Reason};
use portcullis::proto::v1;
use portcullis::proto::v1::release_request::Step as Ask;
use portcullis::proto::v1::release_response::Step as Answer;
use portcullis::release::kv::Versions;
use portcullis::release::lease::Lease;
use portcullis::request::SecretPath;
use portcullis::store::Kind;
use portcullis::time::WallTime;
use std::time::Duration;
use tonic::Status;

/// A world where a lease of 4 s is attested again every 1.1 to 1.3 s.
async fn quick() -> World {
    World::build(Build { broker_extra: "answer_within_ms = 1000", ..Build::default() }).await
}

/// A guest that holds a lease.
struct Holder<'w> {
    guest: Guest<'w>,
    asked: Asked,
    released: v1::Released,
}

fn held(ttl_seconds: u32) -> v1::Open {
    v1::Open { hold: true, ttl_seconds, ..open_message(&[SECRET]).0 }
}

impl<'w> Holder<'w> {
    async fn new(world: &'w World) -> Holder<'w> {
        Holder::of(Guest::new(world).await, 4).await
    }

    async fn of(guest: Guest<'w>, ttl_seconds: u32) -> Holder<'w> {
        let mut asked = ask(&guest.connection, held(ttl_seconds)).await.expect("a challenge");
        let evidence = guest.attester.evidence(&asked.binding());
        asked.stream.send(Ask::Evidence(evidence)).await.unwrap();
        let released = match step(&mut asked).await {
            Ok(Some(Answer::Released(released))) => released,
            other => panic!("not released: {other:?}"),
        };
        Holder { guest, asked, released }
    }

    /// The next challenge, which takes the place of the last.
    async fn challenge(&mut self) -> v1::Challenge {
        match step(&mut self.asked).await {
            Ok(Some(Answer::Challenge(challenge))) => {
                self.asked.challenge = challenge.clone();
                challenge
            }
            other => panic!("no challenge: {other:?}"),
        }
    }

    async fn answer(&mut self) -> Result<Option<Answer>, Status> {
        let evidence = self.guest.attester.evidence(&self.asked.binding());
        self.send(Ask::Evidence(evidence)).await
    }

    async fn send(&mut self, ask: Ask) -> Result<Option<Answer>, Status> {
        self.asked.stream.send(ask).await.unwrap();
        step(&mut self.asked).await
    }

    /// A whole round; the lease's new end.
    async fn renewed(&mut self) -> prost_types::Timestamp {
        self.challenge().await;
        match self.answer().await {
            Ok(Some(Answer::Renewed(renewed))) => renewed.not_after.unwrap(),
            other => panic!("not renewed: {other:?}"),
        }
    }

    fn lease(&self) -> Option<Lease> {
        self.guest.world.leases().into_iter().find(|lease| lease.id == self.released.lease_id)
    }

    /// The stream ended with exactly this; the lease is gone, or stands, as the reason has it.
    fn ended(&self, outcome: Result<Option<Answer>, Status>, denial: Denial) -> Record {
        let status = outcome.expect_err("it goes on");
        let record = self.guest.refused(Err(status), denial);
        let case = record.case().unwrap();
        assert_eq!(case.lease.as_ref(), Some(&self.released.lease_id));
        assert_eq!(self.lease().is_none(), denial.reason().ends_lease() || denial == Denial::HoldExpired);
        record
    }

    fn events(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Record> {
        self.guest.world.records().into_iter().filter(|record| wanted(&record.event)).collect()
    }
}

async fn step(asked: &mut Asked) -> Result<Option<Answer>, Status> {
    let message = tokio::time::timeout(Duration::from_secs(8), asked.stream.message()).await;
    Ok(message.expect("within 8 s")?.and_then(|message| message.step))
}

#[tokio::test]
async fn each_round_is_attested_anew_and_moves_the_end() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    let first = holder.asked.challenge.clone();
    assert_eq!(first.round, 0);
    assert_eq!(holder.released.reattest_within_ms, 1333);
    let mut end = holder.released.not_after.unwrap();
    for round in 1..=3 {
        let challenge = holder.challenge().await;
        assert_eq!(challenge.round, round);
        assert_ne!(challenge.nonce, first.nonce);
        let same =
            |one: &v1::Challenge| (one.audience.clone(), one.formats.clone(), one.channel_binding.clone());
        assert_eq!(same(&challenge), same(&first), "all else stays");
        let Ok(Some(Answer::Renewed(renewed))) = holder.answer().await else { panic!("not renewed") };
        let later = renewed.not_after.unwrap();
        assert!((later.seconds, later.nanos) > (end.seconds, end.nanos));
        end = later;
        let lease = holder.lease().expect("it stands");
        assert_eq!(lease.not_after.0, later.seconds as u64 * 1000 + later.nanos as u64 / 1_000_000);
    }
    let renewals = holder.events(|event| matches!(event, Event::Renewed { .. }));
    assert_eq!(renewals.len(), 3, "each is on record");
    let rounds: Vec<u64> = renewals.iter().map(|record| record.case().unwrap().round).collect();
    assert_eq!(rounds, [1, 2, 3]);
    assert!(world.undelivered().is_empty());
}

#[tokio::test]
async fn finish_ends_the_lease_and_the_stream_with_ok() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    assert!(holder.lease().is_some());
    assert_eq!(holder.send(Ask::Finish(v1::Finish {})).await.unwrap(), None);
    assert_eq!(holder.lease(), None);
    let ended = holder.events(|event| matches!(event, Event::LeaseEnded { .. }));
    assert_eq!(ended.len(), 1);
}

#[tokio::test]
async fn finish_voids_an_open_challenge() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    holder.challenge().await;
    assert_eq!(holder.send(Ask::Finish(v1::Finish {})).await.unwrap(), None);
    assert_eq!(holder.lease(), None);
}

#[tokio::test]
async fn finish_sent_with_the_evidence_takes_effect_after_the_release() {
    let world = quick().await;
    let guest = Guest::new(&world).await;
    let mut asked = ask(&guest.connection, held(4)).await.unwrap();
    let evidence = guest.attester.evidence(&asked.binding());
    asked.stream.send(Ask::Evidence(evidence)).await.unwrap();
    asked.stream.send(Ask::Finish(v1::Finish {})).await.unwrap();
    assert!(matches!(step(&mut asked).await, Ok(Some(Answer::Released(_)))));
    assert_eq!(step(&mut asked).await.unwrap(), None);
    let records = world.records();
    assert!(records.iter().any(|record| matches!(record.event, Event::LeaseEnded { .. })));
}

#[tokio::test]
async fn a_finish_before_evidence_is_denied() {
    let world = quick().await;
    let guest = Guest::new(&world).await;
    let mut asked = ask(&guest.connection, held(4)).await.unwrap();
    asked.stream.send(Ask::Finish(v1::Finish {})).await.unwrap();
    let outcome = asked.outcome().await;
    guest.refused(outcome, Denial::RequestOutOfOrder);
}

#[tokio::test]
async fn a_half_close_or_a_lost_stream_leaves_the_lease_to_its_end() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    holder.asked.stream.finish_sending();
    assert_eq!(step(&mut holder.asked).await.unwrap(), None);
    assert!(holder.lease().is_some());
    let reset = Holder::of(Guest::stranger(&world, WORKLOAD).await, 4).await;
    let Holder { guest, asked, released } = reset;
    drop(asked);
    drop(guest);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.leases().iter().any(|lease| lease.id == released.lease_id));
    world.hands.pass(4_000);
    eventually("both leases end", || world.leases().is_empty() || world.leases().len() == 1).await;
    assert!(world.leases().iter().all(|lease| lease.id != released.lease_id));
}

#[tokio::test]
async fn a_round_that_is_refused_ends_lease_and_stream_at_once_and_latches() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    holder.renewed().await;
    holder.challenge().await;
    holder.guest.attester.process.executable.sha256 = [0xcd; 32];
    let outcome = holder.answer().await;
    let record = holder.ended(outcome, Denial::MeasurementMismatch);
    assert_eq!(record.case().unwrap().round, 2);
    let outcome = holder.guest.ask(&[SECRET]).await;
    holder.guest.refused(outcome, Denial::LatchHolds);
}

#[tokio::test]
async fn evidence_of_an_earlier_round_is_denied_and_ends_the_lease() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    let old = holder.guest.attester.evidence(&holder.asked.binding());
    holder.challenge().await;
    let outcome = holder.send(Ask::Evidence(old)).await;
    holder.ended(outcome, Denial::EvidenceBindingMismatch);
    let mut holder = Holder::of(holder.guest.again().await, 4).await;
    holder.challenge().await;
    // The right nonce under the wrong round.
    let other = holder.asked.binding_as(|parts| parts.round = 0);
    let evidence = holder.guest.attester.evidence(&other);
    let outcome = holder.send(Ask::Evidence(evidence)).await;
    holder.ended(outcome, Denial::EvidenceBindingMismatch);
}

#[tokio::test]
async fn unasked_evidence_and_a_second_open_end_the_lease() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    let outcome = holder.answer().await;
    holder.ended(outcome, Denial::RequestOutOfOrder);
    let mut holder = Holder::of(holder.guest.again().await, 4).await;
    let outcome = holder.send(Ask::Open(held(4))).await;
    holder.ended(outcome, Denial::RequestOutOfOrder);
    let mut holder = Holder::of(holder.guest.again().await, 4).await;
    holder.challenge().await;
    let outcome = holder.send(Ask::Evidence(v1::Evidence { documents: vec![] })).await;
    holder.ended(outcome, Denial::RequestMalformed);
    let mut holder = Holder::of(holder.guest.again().await, 4).await;
    holder.challenge().await;
    let document = v1::Document { format: "nitro".into(), body: vec![1], endorsements: vec![] };
    let outcome = holder.send(Ask::Evidence(v1::Evidence { documents: vec![document] })).await;
    holder.ended(outcome, Denial::EvidenceFormatNotOffered);
}

#[tokio::test]
async fn a_round_that_nobody_answers_ends_the_lease() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    holder.challenge().await;
    let outcome = step(&mut holder.asked).await;
    holder.ended(outcome, Denial::ChallengeExpired);
}

#[tokio::test]
async fn an_uncertain_round_extends_nothing_and_the_next_one_may() {
    let world = quick().await;
    let mut holder = Holder::of(Guest::new(&world).await, 8).await;
    holder.challenge().await;
    let end = holder.lease().unwrap().not_after;
    world.put_reference("payments-1", &"ab".repeat(32), 0).await;
    holder
        .asked
        .stream
        .send(Ask::Evidence(holder.guest.attester.evidence(&holder.asked.binding())))
        .await
        .unwrap();
    // The next challenge takes the place of the renewal.
    let challenge = holder.challenge().await;
    assert_eq!(challenge.round, 2);
    assert_eq!(holder.lease().unwrap().not_after, end);
    let uncertain = holder.events(|event| {
        matches!(event, Event::Denied { denial: Denial::ReferenceValuesExpired, case, .. } if case.round == 1)
    });
    assert_eq!(uncertain.len(), 1);
    world.put_reference("payments-1", &"ab".repeat(32), 86_400_000).await;
    assert!(matches!(holder.answer().await, Ok(Some(Answer::Renewed(_)))));
    assert!(holder.lease().unwrap().not_after > end);
}

#[tokio::test]
async fn a_lease_whose_rounds_stay_uncertain_ends_at_its_end() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    holder.challenge().await;
    world.put_reference("payments-1", &"ab".repeat(32), 0).await;
    let end = holder.lease().unwrap().not_after;
    let mut outcome = holder.answer().await;
    while let Ok(Some(Answer::Challenge(challenge))) = outcome {
        holder.asked.challenge = challenge;
        outcome = holder.answer().await;
    }
    assert!(world.hands.now() >= end);
    holder.ended(outcome, Denial::HoldExpired);
}

#[tokio::test]
async fn a_challenge_that_cannot_be_put_is_put_once_it_can() {
    let world = quick().await;
    let mut holder = Holder::of(Guest::new(&world).await, 9).await;
    // Past its nextUpdate: the peer can neither be proven nor refused.
    let list = world.ca.revocation_list(
        7,
        WallTime(world.hands.now().0 - 60_000),
        WallTime(world.hands.now().0 - 1),
        &[],
    );
    world.write("example.org.crl", list.unwrap().as_bytes()).await;
    let stale = |record: &Record| record.denial() == Some(Denial::RevocationStale);
    eventually("a round is uncertain", || world.records().iter().any(stale)).await;
    let list = world.ca.revocation_list(
        8,
        WallTime(world.hands.now().0 - 1000),
        world.hands.now().plus(86_400_000),
        &[],
    );
    world.write("example.org.crl", list.unwrap().as_bytes()).await;
    holder.renewed().await;
}

#[tokio::test]
async fn a_revoked_lease_ends_at_once() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    let id = holder.released.lease_id.clone();
    assert_eq!(world.admin(&["lease", "revoke", &id, "--why", "taken"]).await, 0);
    let begun = std::time::Instant::now();
    let outcome = step(&mut holder.asked).await;
    assert!(begun.elapsed() < Duration::from_millis(900), "it does not wait for a round");
    holder.ended(outcome, Denial::LeaseRevoked);
}

#[tokio::test]
async fn a_revoked_identity_loses_what_it_holds_at_once() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    assert_eq!(world.admin(&["revoke", "--identity", WORKLOAD, "--why", "taken"]).await, 0);
    let outcome = step(&mut holder.asked).await;
    holder.ended(outcome, Denial::LeaseRevoked);
}

#[tokio::test]
async fn a_certificate_that_is_revoked_ends_the_hold_at_the_next_round() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    world.write_crl(&[holder.guest.serial], 86_400_000).await;
    let outcome = step(&mut holder.asked).await;
    holder.ended(outcome, Denial::PeerRevoked);
    holder.guest.is_sent_away().await;
}

#[tokio::test]
async fn no_hold_outlives_its_certificate() {
    let world = quick().await;
    let now = world.hands.now();
    let leaf = LeafRequest { not_after: now.plus(4_000), ..leaf_request(WORKLOAD, 77, now) };
    let leaf = world.ca.leaf(&leaf).unwrap();
    let bundle = world.directory.path().join("etc/example.org.pem");
    let config = write_client(world.directory.path(), "brief", &leaf, &bundle);
    let connection = world.connect_as(&config).await.expect("it connects");
    let guest = Guest { world: &world, config, serial: 77, connection, attester: world.attester() };
    // Its next round would come within the minute.
    let mut holder = Holder::of(guest, 900).await;
    let outcome = step(&mut holder.asked).await;
    holder.ended(outcome, Denial::PeerCertificateExpired);
    assert!(world.hands.now().since(now) < 6_000);
}

#[tokio::test]
async fn rounds_are_not_answered_from_a_latch() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    let too_long = v1::Open { ttl_seconds: 901, ..open_message(&[SECRET]).0 };
    let outcome = holder.guest.send(too_long).await;
    holder.guest.refused(outcome, Denial::TtlTooLong);
    let outcome = holder.guest.ask(&[SECRET]).await;
    holder.guest.refused(outcome, Denial::LatchHolds);
    holder.renewed().await;
}

#[tokio::test]
async fn the_version_does_not_change_within_a_lease() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    assert_eq!(holder.released.secrets[0].version, 1);
    world.put_secret(SECRET, b"the second").await;
    holder.renewed().await;
    let renewal = holder.events(|event| matches!(event, Event::Renewed { .. })).pop().unwrap();
    assert_eq!(renewal.case().unwrap().secrets[0].version, Some(1));
    // The held version is destroyed: nothing may go on being used.
    let path = SecretPath::parse(SECRET).unwrap();
    let prepared = world.kv().destroy(&path, Versions::One(1), world.hands.now()).await.unwrap();
    world.change(prepared.transaction, Kind::SecretMetadata, SECRET, &[]).await;
    holder.challenge().await;
    let outcome = holder.answer().await;
    holder.ended(outcome, Denial::SecretUnknown);
    assert!(
        holder.guest.again().await.ask(&[SECRET]).await.is_err(),
        "a refusal of verified evidence latches"
    );
}

#[tokio::test]
async fn a_disabled_secret_and_a_changed_policy_end_the_hold_at_the_next_round() {
    let world = quick().await;
    let mut holder = Holder::new(&world).await;
    world.disable_secret(SECRET, true).await;
    holder.challenge().await;
    let outcome = holder.answer().await;
    holder.ended(outcome, Denial::SecretDisabled);
    world.disable_secret(SECRET, false).await;
    let mut other = Guest::stranger(&world, WORKLOAD).await;
    other.attester.process.uid += 7;
    let mut holder = Holder::of(other, 4).await;
    world.put_policy(ELSEWHERE).await;
    holder.challenge().await;
    let outcome = holder.answer().await;
    holder.ended(outcome, Denial::PolicySilent);
}

#[tokio::test]
async fn a_drain_hands_held_leases_over_and_leaves_them_standing() {
    let mut world = quick().await;
    let (mut asked, released) = {
        let holder = Holder::of(Guest::new(&world).await, 900).await;
        (holder.asked, holder.released)
    };
    let server = world.server.take().unwrap();
    let stopping = tokio::spawn(server.stop());
    let status = step(&mut asked).await.expect_err("the status comes first");
    assert_eq!(reason_and_id(&status).0, Reason::VerificationNotPossible.name());
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("it waits for nobody").unwrap();
    drop(asked);
    world.start().await;
    let id = reason_and_id(&status).1.unwrap();
    assert_eq!(world.record(&id).denial(), Some(Denial::HoldDrained));
    assert!(world.leases().iter().any(|lease| lease.id == released.lease_id));
}

/// KiB of this process's own memory: broker and guests are both in it.
fn anonymous_kibibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// So many held leases, over as few connections as can be.
async fn hold_many(world: &World) -> Vec<Asked> {
    let attester = world.attester();
    let mut held_streams = Vec::new();
    while held_streams.len() < HOLDS {
        let connection = world.connect().await.expect("it connects");
        for _ in 0..HOLDS_PER_CONNECTION.min(HOLDS - held_streams.len()) {
            let mut asked = ask(&connection, held(900)).await.expect("a challenge");
            asked.stream.send(Ask::Evidence(attester.evidence(&asked.binding()))).await.unwrap();
            match within_a_minute(&mut asked).await {
                Ok(Some(Answer::Released(_))) => held_streams.push(asked),
                other => panic!("not released: {other:?}"),
            }
        }
    }
    held_streams
}

async fn within_a_minute(asked: &mut Asked) -> Result<Option<Answer>, Status> {
    let message = tokio::time::timeout(Duration::from_secs(60), asked.stream.message()).await;
    Ok(message.expect("within a minute")?.and_then(|message| message.step))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_holds_are_handed_over_by_a_drain_and_taken_up_by_the_next_broker() {
    let limits =
        "[limits]\nrequests_per_key_per_second = 1000000\nrequests_per_identity_per_second = 1000000\n";
    let mut world = World::build(Build { limits, ..Build::default() }).await;
    let before = anonymous_kibibytes();
    let held_streams = hold_many(&world).await;
    assert_eq!(world.leases().len(), HOLDS);
    let grown = anonymous_kibibytes().saturating_sub(before);
    assert!(grown < HOLDS as u64 * HOLD_KIBIBYTES, "{grown} KiB for {HOLDS} holds");
    let server = world.server.take().unwrap();
    let stopping = tokio::spawn(server.stop());
    let mut ids = std::collections::BTreeSet::new();
    for mut asked in held_streams {
        let status = within_a_minute(&mut asked)
            .await
            .expect_err("each ends with a status, not with a lost connection");
        let (reason, id) = reason_and_id(&status);
        assert_eq!(reason, Reason::VerificationNotPossible.name());
        ids.insert(id.unwrap());
    }
    assert_eq!(ids.len(), HOLDS, "each by a record of its own");
    tokio::time::timeout(Duration::from_secs(60), stopping).await.expect("it waits for nobody").unwrap();
    world.start().await;
    let drained = world.records().into_iter().filter(|record| record.denial() == Some(Denial::HoldDrained));
    assert_eq!(drained.filter(|record| ids.contains(&record.id.to_string())).count(), HOLDS);
    assert_eq!(world.leases().len(), HOLDS, "what was handed over stands until its end");
    let taken_up = hold_many(&world).await;
    assert_eq!((taken_up.len(), world.leases().len()), (HOLDS, 2 * HOLDS));
    eprintln!("{HOLDS} holds: {grown} KiB, broker and guests together");
}

const HOLDS: usize = 1_000;
/// One less than a connection may have.
const HOLDS_PER_CONNECTION: usize = 63;
/// Of one hold, at both ends, in a debug build, beside whatever tests run meanwhile.
const HOLD_KIBIBYTES: u64 = 256;

#[tokio::test]
async fn a_renewed_lease_stands_until_its_new_end_after_a_restart_and_a_refused_one_does_not() {
    let mut world = quick().await;
    let (renewed, lease_id, refused_id) = {
        let mut holder = Holder::of(Guest::new(&world).await, 30).await;
        world.hands.pass(10_000);
        let renewed = holder.renewed().await;
        let mut refused = Holder::of(holder.guest.again().await, 30).await;
        world.hands.pass(10_000);
        refused.challenge().await;
        refused.guest.attester.process.executable.sha256 = [0xcd; 32];
        let outcome = refused.answer().await;
        refused.ended(outcome, Denial::MeasurementMismatch);
        (renewed, holder.released.lease_id.clone(), refused.released.lease_id.clone())
    };
    world.stop().await;
    world.start().await;
    let leases = world.leases();
    let lease = leases.iter().find(|lease| lease.id == lease_id).expect("it stands");
    assert_eq!(lease.not_after.seconds(), renewed.seconds as u64);
    assert!(leases.iter().all(|lease| lease.id != refused_id));
}

#[tokio::test]
async fn a_grpc_timeout_ends_a_hold_too_and_leaves_the_lease() {
    let world = quick().await;
    let wire = Wire::new(&world).await;
    let headers = [GRPC, ("grpc-timeout", "900m")];
    let mut call = wire.call(RELEASE, &headers).await;
    let open = held(4);
    call.step(Ask::Open(open.clone())).await;
    let challenge = crate::support::wire::challenge_of(&call.message().await.unwrap());
    let binding = wire.binding(&challenge, open);
    call.step(Ask::Evidence(world.attester().evidence(&binding))).await;
    assert!(call.message().await.is_some(), "released");
    let seen = call.end().await;
    assert_eq!(reason_and_id(&seen.status()).0, Reason::DeadlineExceeded.name());
    let id = reason_and_id(&seen.status()).1.unwrap();
    assert_eq!(world.record(&id).denial(), Some(Denial::DeadlinePassed));
    assert_eq!(world.leases().len(), 1);
}
