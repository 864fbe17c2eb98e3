//! Steps, their order and their time.

use crate::support::wire::{GRPC, RELEASE, Wire};
use crate::support::*;
use portcullis::denial::Denial;
use portcullis::proto::v1;
use portcullis::proto::v1::release_request::Step as Ask;
use std::time::Duration;

#[test]
fn a_challenge_is_fresh_each_time() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let (one, two) = (guest.asked(&[SECRET]).await, guest.asked(&[SECRET]).await);
        for challenge in [&one.challenge, &two.challenge] {
            assert_eq!(challenge.nonce.len(), 32);
            assert!((1..=30_000).contains(&challenge.answer_within_ms));
            assert_eq!((challenge.audience.as_str(), challenge.round), (BROKER, 0));
            assert_eq!(challenge.formats, ["process"]);
            assert_eq!(challenge.channel_binding, "tls-exporter");
        }
        assert_ne!(one.challenge.nonce, two.challenge.nonce);
    });
}

#[test]
fn evidence_before_open_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut stream = guest.connection.stream(None).await.unwrap();
        stream.send(Ask::Evidence(guest.attester.evidence(&[1; 64]))).await.unwrap();
        let status = stream.message().await.unwrap_err();
        guest.refused(Err(status), Denial::RequestOutOfOrder);
        let mut stream = guest.connection.stream(None).await.unwrap();
        stream.send(Ask::Finish(v1::Finish {})).await.unwrap();
        let status = stream.message().await.unwrap_err();
        guest.refused(Err(status), Denial::RequestOutOfOrder);
        assert!(guest.ask(&[SECRET]).await.is_ok());
    });
}

#[test]
fn a_step_other_than_evidence_after_the_challenge_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        for step in [Ask::Open(open_message(&[SECRET]).0), Ask::Finish(v1::Finish {})] {
            let mut asked = guest.asked(&[SECRET]).await;
            asked.stream.send(step).await.unwrap();
            let outcome = asked.outcome().await;
            guest.refused(outcome, Denial::RequestOutOfOrder);
        }
    });
}

#[test]
fn a_half_close_before_evidence_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut asked = guest.asked(&[SECRET]).await;
        asked.stream.finish_sending();
        let outcome = asked.outcome().await;
        guest.refused(outcome, Denial::RequestOutOfOrder);
        let mut stream = guest.connection.stream(None).await.unwrap();
        stream.finish_sending();
        let status = stream.message().await.unwrap_err();
        guest.refused(Err(status), Denial::RequestOutOfOrder);
    });
}

#[test]
fn what_follows_evidence_without_hold_is_not_read() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut asked = guest.asked(&[SECRET]).await;
        let evidence = guest.attester.evidence(&asked.binding());
        asked.stream.send(Ask::Evidence(evidence.clone())).await.unwrap();
        let _ = asked.stream.send(Ask::Evidence(evidence)).await;
        asked.stream.finish_sending();
        assert!(asked.outcome().await.is_ok());
    });
}

#[test]
fn two_challenges_of_one_connection_do_not_answer_each_other() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let (mut one, mut two) = (guest.asked(&[SECRET]).await, guest.asked(&[SECRET]).await);
        let (for_one, for_two) =
            (guest.attester.evidence(&one.binding()), guest.attester.evidence(&two.binding()));
        let outcome = one.answer(for_two.clone()).await;
        guest.refused(outcome, Denial::EvidenceBindingMismatch);
        let outcome = two.answer(for_two).await;
        assert!(outcome.is_ok(), "a stream's challenge is its own");
        drop(for_one);
    });
}

#[tokio::test]
async fn a_challenge_answered_too_late_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let mut asked = guest.asked(&[SECRET]).await;
    let evidence = guest.attester.evidence(&asked.binding());
    world.hands.pass(u64::from(asked.challenge.answer_within_ms));
    let outcome = asked.answer(evidence).await;
    guest.refused(outcome, Denial::ChallengeExpired);
    assert!(guest.ask(&[SECRET]).await.is_ok(), "a late answer latches nothing");
}

#[tokio::test]
async fn a_challenge_that_nobody_answers_is_denied() {
    let build = Build { broker_extra: "answer_within_ms = 300", ..Build::default() };
    let world = World::build(build).await;
    let guest = Guest::new(&world).await;
    let mut asked = guest.asked(&[SECRET]).await;
    assert_eq!(asked.challenge.answer_within_ms, 300);
    let outcome = tokio::time::timeout(Duration::from_secs(3), asked.outcome()).await.unwrap();
    guest.refused(outcome, Denial::ChallengeExpired);
}

/// The whole of `Evidence` must arrive in time, however it trickles.
#[tokio::test]
async fn evidence_that_trickles_past_its_time_is_denied() {
    let build = Build { broker_extra: "answer_within_ms = 300", ..Build::default() };
    let world = World::build(build).await;
    let wire = Wire::new(&world).await;
    assert!(wire.attempt(&[SECRET], &world.attester()).await.outcome().is_ok());
    let mut call = wire.release().await;
    call.step(Ask::Open(open_message(&[SECRET]).0)).await;
    call.message().await.unwrap();
    for _ in 0..8 {
        call.bytes(vec![0]).await;
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    let outcome = call.end().await.outcome();
    world.refused(outcome, Denial::ChallengeExpired);
}

/// This one really waits, ten seconds.
#[test]
fn open_that_does_not_come_is_denied() {
    common(|world| async move {
        let wire = Wire::new(world).await;
        let (silent, mut slow) = (wire.release().await, wire.release().await);
        slow.bytes(vec![0, 0]).await;
        for call in [silent, slow] {
            let seen = call.end().await;
            assert_eq!(seen.messages.len(), 0);
            world.refused(seen.outcome(), Denial::RequestOpenTooLate);
        }
    });
}

#[test]
fn a_deadline_that_passes_is_denied_as_such() {
    common(|world| async move {
        let wire = Wire::new(world).await;
        let mut call = wire.call(RELEASE, &[GRPC, ("grpc-timeout", "300m")]).await;
        call.step(Ask::Open(open_message(&[SECRET]).0)).await;
        call.message().await.expect("a challenge");
        let outcome = call.end().await.outcome();
        world.refused(outcome, Denial::DeadlinePassed);
        for timeout in ["0S", "0n", "1n", "20m"] {
            let call = wire.call(RELEASE, &[GRPC, ("grpc-timeout", timeout)]).await;
            let outcome = call.end().await.outcome();
            world.refused(outcome, Denial::DeadlinePassed);
        }
        let mut call = wire.call(RELEASE, &[GRPC, ("grpc-timeout", "99999999H")]).await;
        call.step(Ask::Open(open_message(&[SECRET]).0)).await;
        assert!(call.message().await.is_some());
    });
}

/// Zero is no deadline that could still be kept, even where the request is there at once.
#[test]
fn a_zero_deadline_is_denied_before_anything() {
    common(|world| async move {
        let wire = Wire::new(world).await;
        let mut call = wire.call(RELEASE, &[GRPC, ("grpc-timeout", "0S")]).await;
        call.step(Ask::Open(open_message(&[SECRET]).0)).await;
        let seen = call.end().await;
        assert_eq!(seen.messages.len(), 0, "no challenge");
        world.refused(seen.outcome(), Denial::DeadlinePassed);
    });
}

#[test]
fn a_malformed_deadline_is_denied_and_never_none() {
    common(|world| async move {
        let wire = Wire::new(world).await;
        for timeout in ["", "1", "S", "-1S", "1.5S", "123456789S", "1 S", "1s", "99999999999H"] {
            let mut call = wire.call(RELEASE, &[GRPC, ("grpc-timeout", timeout)]).await;
            call.step(Ask::Open(open_message(&[SECRET]).0)).await;
            let outcome = call.end().await.outcome();
            world.refused(outcome, Denial::RequestTimeoutMalformed);
        }
        let twice = [GRPC, ("grpc-timeout", "10S"), ("grpc-timeout", "10S")];
        let mut call = wire.call(RELEASE, &twice).await;
        call.step(Ask::Open(open_message(&[SECRET]).0)).await;
        let outcome = call.end().await.outcome();
        world.refused(outcome, Denial::RequestTimeoutMalformed);
    });
}

#[tokio::test]
async fn no_channel_binding_in_common_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let with = |names: &[&str]| v1::Open {
        channel_bindings: names.iter().map(|name| (*name).to_owned()).collect(),
        ..open_message(&[SECRET]).0
    };
    for names in [&["none"][..], &["tls-unique"], &["tls-unique", "none", "tls-server-end-point"]] {
        let outcome = guest.send(with(names)).await;
        guest.refused(outcome, Denial::RequestChannelBindingUnavailable);
    }
    for names in [&["tls-exporter"][..], &["none", "tls-exporter"], &["tls-unique", "tls-exporter"]] {
        let asked = ask(&guest.connection, with(names)).await.unwrap();
        assert_eq!(asked.challenge.channel_binding, "tls-exporter");
        assert!(guest.send(with(names)).await.is_ok());
    }
}

#[test]
fn the_exporter_is_used_whenever_the_client_can() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let with = |names: &[&str]| v1::Open {
            channel_bindings: names.iter().map(|name| (*name).to_owned()).collect(),
            ..open_message(&[SECRET]).0
        };
        for (names, chosen) in [
            (&["none", "tls-exporter"][..], "tls-exporter"),
            (&["none"], "none"),
            (&["tls-unique", "none"], "none"),
            (&[], "tls-exporter"),
        ] {
            let asked = ask(&guest.connection, with(names)).await.unwrap();
            assert_eq!(asked.challenge.channel_binding, chosen);
            assert!(guest.send(with(names)).await.is_ok());
        }
        let outcome = guest.send(with(&["tls-unique"])).await;
        guest.refused(outcome, Denial::RequestChannelBindingUnavailable);
    });
}

#[test]
fn open_out_of_its_shape_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let many = |count: usize| (0..count).map(|n| format!("kv/payments/{n}")).collect::<Vec<_>>();
        let of = |paths: &[String]| open_message(&paths.iter().map(String::as_str).collect::<Vec<_>>()).0;
        let mut bad = vec![of(&[]), of(&many(17)), open_message(&[SECRET, SECRET]).0];
        for path in [
            "",
            "/",
            "kv/",
            "/kv",
            "kv//a",
            "kv/../a",
            "kv/./a",
            "KV/a",
            "kv/a b",
            "kv/ä",
            "kv/a%2f",
            &"a".repeat(257),
        ] {
            bad.push(open_message(&[path]).0);
        }
        let change = |change: &dyn Fn(&mut v1::Open)| {
            let mut open = open_message(&[SECRET]).0;
            change(&mut open);
            open
        };
        for key in [vec![], vec![9; 31], vec![9; 33], vec![0; 32]] {
            bad.push(change(&|open| open.recipient_key = key.clone()));
        }
        let mut one = vec![0; 32];
        one[0] = 1;
        bad.push(change(&|open| open.recipient_key = one.clone()));
        let parameter = |key: &str, value: usize| {
            change(&|open| drop(open.secrets[0].parameters.insert(key.to_owned(), vec![0; value])))
        };
        bad.extend([
            parameter("", 0),
            parameter("A", 0),
            parameter("a-b", 0),
            parameter(&"a".repeat(65), 0),
            parameter("a", 8193),
        ]);
        bad.push(change(&|open| {
            open.secrets[0].parameters.extend((0..17).map(|n| (format!("k{n}"), vec![])))
        }));
        for names in [vec![""], vec!["TLS"], vec!["none", "none"], vec!["a"; 2], vec!["x_y"]] {
            bad.push(change(&|open| {
                open.channel_bindings = names.iter().map(|name| (*name).to_owned()).collect()
            }));
        }
        bad.push(change(&|open| open.channel_bindings = vec!["a".repeat(33)]));
        bad.push(change(&|open| open.channel_bindings = (0..9).map(|n| format!("b{n}")).collect()));
        for open in bad {
            let what = format!("{open:?}");
            let Err(status) = ask(&guest.connection, open).await else { panic!("a challenge for {what}") };
            guest.refused(Err(status), Denial::RequestMalformed);
        }
        assert!(guest.ask(&[SECRET]).await.is_ok());
    });
}
