//! To the byte: what is malformed, and what may not differ.

use crate::support::frames::{CANCEL, Frame, GOAWAY, REFUSED_STREAM, RST_STREAM};
use crate::support::wire::{Call, GRPC, RELEASE, Seen, WIRE_SERIAL, Wire, challenge_of, encoded, frame};
use crate::support::*;
use portcullis::denial::Denial;
use portcullis::proto::v1;
use portcullis::proto::v1::release_request::Step as Ask;
use prost::Message;

/// A new replica each, so that no latch and no limit of one test meets another; they differ in nothing that is sent back.
async fn replica(world: &World) -> (Wire, SoftAttester) {
    let wire = Wire::new(world).await;
    let mut attester = world.attester();
    attester.process.uid = u32::from_be_bytes(wire.identity.spki_sha256[..4].try_into().unwrap());
    assert!(wire.attempt(&[SECRET], &attester).await.outcome().is_ok());
    (wire, attester)
}

#[test]
fn not_released_is_the_same_bytes_for_every_cause() {
    common(|world| async move {
        let mut all: Vec<(String, Seen)> = Vec::new();
        for (path, denial) in [
            (UNKNOWN, Denial::SecretUnknown),
            (DISABLED, Denial::SecretDisabled),
            (DESTROYED, Denial::SecretUnknown),
            (FORBIDDEN, Denial::PolicyForbids),
            (SILENT, Denial::PolicySilent),
            (UNEVALUABLE, Denial::PolicyUnevaluable),
            (DAMAGED, Denial::SecretDamaged),
            (SWAPPED, Denial::SecretDamaged),
            ("pki/issue", Denial::PolicySilent),
        ] {
            let (wire, attester) = replica(world).await;
            let seen = wire.attempt(&[path], &attester).await;
            world.refused(seen.outcome(), denial);
            all.push((path.to_owned(), seen));
            if denial.latches() {
                let seen = wire.attempt(&[path], &attester).await;
                world.refused(seen.outcome(), Denial::LatchHolds);
                all.push((format!("{path}, latched"), seen));
            }
        }
        let opens = [
            ("ttl", v1::Open { ttl_seconds: 901, ..open_message(&[SECRET]).0 }, Denial::TtlTooLong),
            (
                "hold",
                v1::Open { hold: true, ttl_seconds: 15, ..open_message(&[SECRET]).0 },
                Denial::HoldUnavailable,
            ),
        ];
        for (what, open, denial) in opens {
            let (wire, attester) = replica(world).await;
            let seen = wire.send(open, &attester).await;
            world.refused(seen.outcome(), denial);
            all.push((what.to_owned(), seen));
        }
        let (wire, attester) = replica(world).await;
        let mut open = open_message(&[SECRET]).0;
        open.secrets[0].parameters.insert("csr".into(), vec![]);
        let seen = wire.send(open, &attester).await;
        world.refused(seen.outcome(), Denial::ParametersNotTaken);
        all.push(("parameters".to_owned(), seen));
        let spoils: [(fn(Vec<u8>) -> Vec<u8>, Denial); 2] = [
            (|body| body[1..].to_vec(), Denial::EvidenceMalformed),
            (
                |mut body| {
                    *body.last_mut().unwrap() ^= 1;
                    body
                },
                Denial::EvidenceSignatureInvalid,
            ),
        ];
        for (spoil, denial) in spoils {
            let seen = wire.attempt(&[SECRET], &SoftAttester { spoil, ..attester.clone() }).await;
            world.refused(seen.outcome(), denial);
            all.push((denial.to_string(), seen));
        }
        let mut other = attester.clone();
        other.process.executable.sha256 = [1; 32];
        let seen = wire.attempt(&[SECRET], &other).await;
        world.refused(seen.outcome(), Denial::MeasurementMismatch);
        all.push(("measurement".to_owned(), seen));
        let first = all[0].1.normal();
        for (what, seen) in &all {
            assert_eq!(seen.normal(), first, "{what}");
            assert!(
                !seen
                    .messages
                    .iter()
                    .any(|message| message.windows(VALUE.len()).any(|window| window == VALUE))
            );
        }
        assert!(first.contains(&"grpc-retry-pushback-ms: -1".to_owned()), "{first:#?}");
    });
}

/// The challenge is put before any secret is looked up.
#[test]
fn nothing_before_evidence_depends_on_the_secret() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        let mut shapes = Vec::new();
        for path in [SECRET, UNKNOWN, FORBIDDEN, DISABLED, DAMAGED, "pki/issue"] {
            let mut call = wire.release().await;
            call.step(Ask::Open(open_message(&[path]).0)).await;
            let message = call.message().await.unwrap();
            let challenge = v1::Challenge { nonce: vec![], ..challenge_of(&message) };
            shapes.push((message.len(), challenge, format!("{:?}", without_date(&call.seen))));
        }
        assert!(shapes.iter().all(|shape| *shape == shapes[0]), "{shapes:#?}");
    });
}

fn without_date(seen: &Seen) -> Vec<(String, String)> {
    let fields = seen.headers.iter().filter(|(name, _)| *name != "date");
    fields.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect()
}

async fn invalid(world: &World, call: Call, denial: Denial) {
    let seen = call.end().await;
    assert_eq!((seen.http, &seen.error), (200, &None), "{seen:?}");
    world.refused(seen.outcome(), denial);
}

#[test]
fn a_message_that_does_not_decode_is_denied() {
    common(|world| async move {
        let (wire, attester) = replica(world).await;
        let open = encoded(Ask::Open(open_message(&[SECRET]).0));
        // A wire type that does not exist, a length past the end, a text that is no UTF-8, and no step at all.
        let messages =
            [vec![0x0f], open[..open.len() - 1].to_vec(), vec![0x0a, 4, 0x0a, 2, 0x0a, 0xff], vec![]];
        for message in &messages {
            let mut call = wire.release().await;
            call.bytes(frame(0, message)).await;
            invalid(world, call, Denial::RequestMalformed).await;
        }
        for message in &messages {
            let mut call = wire.release().await;
            call.bytes(frame(0, &open)).await;
            assert!(call.message().await.is_some());
            call.bytes(frame(0, message)).await;
            invalid(world, call, Denial::RequestMalformed).await;
        }
        assert!(wire.attempt(&[SECRET], &attester).await.outcome().is_ok(), "the connection goes on");
    });
}

#[test]
fn a_compressed_message_is_denied() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        let open = encoded(Ask::Open(open_message(&[SECRET]).0));
        for flag in [1, 2, 255] {
            let mut call = wire.release().await;
            call.bytes(frame(flag, &open)).await;
            invalid(world, call, Denial::RequestMalformed).await;
        }
        let mut call = wire.release().await;
        call.bytes(frame(0, &open)).await;
        assert!(call.message().await.is_some());
        call.bytes(frame(1, &[0x1f, 0x8b])).await;
        invalid(world, call, Denial::RequestMalformed).await;
    });
}

#[test]
fn an_oversized_message_is_denied() {
    common(|world| async move {
        let (wire, attester) = replica(world).await;
        // The length alone says it; nothing of it needs to come.
        for length in [512 * 1024 + 1, u32::MAX] {
            let mut call = wire.release().await;
            call.bytes([&[0][..], &length.to_be_bytes()].concat()).await;
            invalid(world, call, Denial::RequestMalformed).await;
        }
        // The largest that is allowed: an Open whose unknown field fills it.
        let open = encoded(Ask::Open(open_message(&[SECRET]).0));
        let filler = 512 * 1024 - open.len() - 4;
        let mut large = open.clone();
        prost::encoding::encode_key(15, prost::encoding::WireType::LengthDelimited, &mut large);
        prost::encoding::encode_varint(filler as u64, &mut large);
        large.resize(512 * 1024, 0);
        assert!(v1::ReleaseRequest::decode(large.as_slice()).is_ok());
        let mut call = wire.release().await;
        call.bytes(frame(0, &large)).await;
        assert!(call.message().await.is_some(), "exactly 512 KiB are a message: {:?}", call.seen);
        assert!(wire.attempt(&[SECRET], &attester).await.outcome().is_ok());
    });
}

#[test]
fn a_message_that_is_cut_is_denied() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        let open = frame(0, &encoded(Ask::Open(open_message(&[SECRET]).0)));
        // Of a message that ends right behind its length the gRPC library says that none came: invalid by another name.
        let cuts = [
            (1, Denial::RequestMalformed),
            (5, Denial::RequestOutOfOrder),
            (6, Denial::RequestMalformed),
            (open.len() - 1, Denial::RequestMalformed),
        ];
        for (length, denial) in cuts {
            let mut call = wire.release().await;
            call.bytes(open[..length].to_vec()).await;
            call.half_close();
            invalid(world, call, denial).await;
        }
        let mut call = wire.release().await;
        call.bytes(open).await;
        assert!(call.message().await.is_some());
        call.bytes(vec![0, 0]).await;
        call.half_close();
        invalid(world, call, Denial::RequestMalformed).await;
    });
}

#[test]
fn a_message_may_come_in_pieces() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        let mut call = wire.release().await;
        for byte in frame(0, &encoded(Ask::Open(open_message(&[SECRET]).0))) {
            call.bytes(vec![byte]).await;
        }
        assert!(call.message().await.is_some());
    });
}

#[test]
fn unknown_fields_are_ignored_and_not_bound() {
    common(|world| async move {
        let (wire, attester) = replica(world).await;
        let open = open_message(&[SECRET]).0;
        let mut message = open.encode_to_vec();
        prost::encoding::string::encode(99, &"from the future".to_owned(), &mut message);
        let mut step = Vec::new();
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut step);
        prost::encoding::encode_varint(message.len() as u64, &mut step);
        step.extend(message);
        prost::encoding::uint64::encode(77, &1, &mut step);
        let mut call = wire.release().await;
        call.bytes(frame(0, &step)).await;
        let challenge = challenge_of(&call.message().await.unwrap());
        let binding = wire.binding(&challenge, open);
        call.step(Ask::Evidence(attester.evidence(&binding))).await;
        assert!(call.end().await.outcome().is_ok());
    });
}

#[test]
fn another_content_type_is_415() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        for kind in
            ["application/grpc+json", "application/json", "application/grpc-web", "application/grpc;x", ""]
        {
            let seen = wire.call(RELEASE, &[("content-type", kind)]).await.end().await;
            assert_eq!((seen.http, seen.messages.len()), (415, 0), "{kind}");
        }
        let seen = wire.call(RELEASE, &[]).await.end().await;
        assert_eq!(seen.http, 415);
        let seen = wire.call(RELEASE, &[GRPC, GRPC]).await.end().await;
        assert_eq!(seen.http, 415);
        let mut call = wire.call(RELEASE, &[("content-type", "application/grpc+proto")]).await;
        call.step(Ask::Open(open_message(&[SECRET]).0)).await;
        assert!(call.message().await.is_some());
    });
}

/// The path is exact; what is not the method is the library's UNIMPLEMENTED, which is nobody's denial.
#[test]
fn an_unknown_method_is_nobodys_denial() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        for path in
            ["/portcullis.v1.Broker/release", "/portcullis.v1.Broker/Release/", "/portcullis.v1.Broker", "/"]
        {
            let mut call = wire.call(path, &[GRPC]).await;
            call.step(Ask::Open(open_message(&[SECRET]).0)).await;
            call.half_close();
            let seen = call.end().await;
            assert_eq!(seen.messages.len(), 0, "{path}");
            let status = seen.status();
            assert_eq!((status.code(), status.details().len()), (tonic::Code::Unimplemented, 0), "{path}");
        }
    });
}

#[test]
fn authority_and_scheme_mean_nothing() {
    common(|world| async move {
        let (wire, attester) = replica(world).await;
        let mut call = wire.call(RELEASE, &[GRPC, ("host", "somewhere.else"), ("x-unknown", "1")]).await;
        let open = open_message(&[SECRET]).0;
        call.step(Ask::Open(open.clone())).await;
        let challenge = challenge_of(&call.message().await.unwrap());
        call.step(Ask::Evidence(attester.evidence(&wire.binding(&challenge, open)))).await;
        assert!(call.end().await.outcome().is_ok());
    });
}

#[test]
fn headers_over_their_limit_are_refused_and_the_connection_goes_on() {
    common(|world| async move {
        let (wire, attester) = replica(world).await;
        let long = "a".repeat(9000);
        let seen = wire.call(RELEASE, &[GRPC, ("x-long", &long)]).await.end().await;
        assert!(seen.http != 200 || seen.error.is_some(), "{seen:?}");
        assert_eq!(seen.messages.len(), 0);
        assert!(wire.attempt(&[SECRET], &attester).await.outcome().is_ok());
    });
}

#[test]
fn a_release_is_a_challenge_a_release_and_ok() {
    common(|world| async move {
        let (wire, attester) = replica(world).await;
        let seen = wire.attempt(&[SECRET, SECOND], &attester).await;
        assert_eq!((seen.http, seen.messages.len()), (200, 2));
        assert_eq!(seen.headers["content-type"], "application/grpc");
        assert!(!seen.headers.contains_key("grpc-encoding"));
        let trailers = seen.trailers.clone().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(!trailers.contains_key("grpc-status-details-bin"));
        let released = seen.outcome().unwrap();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        assert!((16..=64).contains(&released.lease_id.len()) && released.lease_id.bytes().all(allowed));
        assert_eq!(released.reattest_within_ms, 0);
        for secret in &released.secrets {
            assert_eq!((secret.version, secret.encapsulated_key.len()), (1, 32));
            assert!(!secret.ciphertext.windows(VALUE.len()).any(|window| window == VALUE));
        }
        assert_ne!(released.secrets[0].encapsulated_key, released.secrets[1].encapsulated_key);
    });
}

#[test]
fn a_denial_in_place_of_the_challenge_is_a_status_alone() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        let mut call = wire.release().await;
        call.step(Ask::Open(v1::Open::default())).await;
        let seen = call.end().await;
        assert_eq!((seen.http, seen.messages.len()), (200, 0));
        assert_eq!(seen.headers["grpc-retry-pushback-ms"], "-1", "{seen:?}");
        assert!(seen.trailers.is_none());
        world.refused(seen.outcome(), Denial::RequestMalformed);
    });
}

/// 64 streams at once; the 65th waits in the client, and none is refused.
#[test]
fn a_connection_has_sixty_four_streams() {
    common(|world| async move {
        let (wire, _) = replica(world).await;
        let mut calls = Vec::new();
        for _ in 0..64 {
            let mut call = wire.release().await;
            call.step(Ask::Open(open_message(&[SECRET]).0)).await;
            call.message().await.expect("a challenge");
            calls.push(call);
        }
        let mut last = wire.release().await;
        last.step(Ask::Open(open_message(&[SECRET]).0)).await;
        let early = tokio::time::timeout(std::time::Duration::from_millis(300), last.message()).await;
        assert!(early.is_err(), "more than 64 at once");
        drop(calls);
    });
}

#[test]
fn a_stream_that_is_left_latches_nothing_and_is_no_release() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let of_guest = |world: &World| {
            let key = hex::encode(guest.connection.identity().spki_sha256);
            let records = world.records();
            records.iter().filter(|record| record.case().is_some_and(|case| case.key_sha256 == key)).count()
        };
        let before = of_guest(world);
        for _ in 0..5 {
            drop(guest.asked(&[SECRET]).await);
        }
        assert!(guest.ask(&[SECRET]).await.is_ok());
        let records = world.records();
        assert_eq!(of_guest(world), before + 1, "{:#?}", &records[records.len() - 6..]);
    });
}

/// Libraries send again by themselves what was refused at the level of HTTP/2. So every stream whose `Open` was read ends
/// with its status, is never reset in such a way, and is below no GOAWAY's last stream.
async fn assert_nothing_asks_for_a_replay(wire: &Wire, streams: u32) -> Vec<Frame> {
    // What comes behind a status, comes with it or within the grace of a GOAWAY.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let frames = wire.tapped.frames();
    for stream in (0..streams).map(|number| 2 * number + 1) {
        let statuses = frames.iter().filter(|frame| frame.is_status_of(stream)).count();
        assert_eq!(statuses, 1, "stream {stream}: {frames:?}");
        for reset in frames.iter().filter(|frame| frame.kind == RST_STREAM && frame.stream == stream) {
            let code = reset.number(0);
            assert!(![REFUSED_STREAM, CANCEL].contains(&code), "stream {stream} is reset: {code}");
        }
        for goaway in frames.iter().filter(|frame| frame.kind == GOAWAY) {
            assert!(goaway.number(0) >= stream, "stream {stream} is refused by GOAWAY {}", goaway.number(0));
        }
    }
    frames
}

/// Where the status of a stream stands among the frames, and where the first GOAWAY does.
fn status_and_goaway(frames: &[Frame], stream: u32) -> (usize, Option<usize>) {
    let status = frames.iter().position(|frame| frame.is_status_of(stream)).unwrap();
    (status, frames.iter().position(|frame| frame.kind == GOAWAY))
}

/// A stream with its challenge, and the evidence that is due.
async fn challenged(wire: &Wire, attester: &SoftAttester) -> (Call, v1::Evidence) {
    let open = open_message(&[SECRET]).0;
    let mut call = wire.release().await;
    call.step(Ask::Open(open.clone())).await;
    let challenge = challenge_of(&call.message().await.expect("a challenge"));
    let evidence = attester.evidence(&wire.binding(&challenge, open));
    (call, evidence)
}

#[test]
fn a_denied_stream_is_never_refused_at_the_level_of_http2() {
    common(|world| async move {
        let (wire, attester) = replica(world).await;
        // Before the challenge.
        for (headers, step) in [
            (&[GRPC][..], Ask::Open(v1::Open::default())),
            (&[GRPC], Ask::Finish(v1::Finish {})),
            (&[GRPC, ("grpc-timeout", "soon")], Ask::Open(open_message(&[SECRET]).0)),
        ] {
            let mut call = wire.call(RELEASE, headers).await;
            call.step(step).await;
            assert_eq!(reason_and_id(&call.end().await.status()).0, "REQUEST_INVALID");
        }
        // After it: the client would go on sending, or has half-closed.
        let documents = |evidence: &v1::Evidence, body: Vec<u8>| {
            let documents = vec![v1::Document { body, ..evidence.documents[0].clone() }];
            v1::Evidence { documents }
        };
        for (spoil, half_close) in
            [(Some(vec![7]), false), (Some(vec![7]), true), (Some(vec![]), false), (None, false)]
        {
            let (mut call, evidence) = challenged(&wire, &attester).await;
            let step =
                spoil.map_or(Ask::Finish(v1::Finish {}), |body| Ask::Evidence(documents(&evidence, body)));
            call.step(step).await;
            if half_close {
                call.half_close();
            }
            assert!(call.end().await.outcome().is_err());
        }
        // The last of them released: nothing in between has shut the connection.
        assert!(wire.attempt(&[SECRET], &attester).await.outcome().is_ok());
        let frames = assert_nothing_asks_for_a_replay(&wire, 1 + 3 + 4 + 1).await;
        assert!(frames.iter().all(|frame| frame.kind != GOAWAY), "{frames:?}");
    });
}

#[tokio::test]
async fn what_cannot_be_known_ends_each_stream_by_its_status_alone() {
    let world = World::new().await;
    let (wire, attester) = replica(&world).await;
    let (mut asked, evidence) = challenged(&wire, &attester).await;
    world.write("example.org.crl", b"not a list").await;
    let seen = wire.attempt(&[SECRET], &attester).await;
    world.refused(seen.outcome(), Denial::RevocationUnknown);
    asked.step(Ask::Evidence(evidence)).await;
    world.refused(asked.end().await.outcome(), Denial::RevocationUnknown);
    let frames = assert_nothing_asks_for_a_replay(&wire, 3).await;
    assert!(frames.iter().all(|frame| frame.kind != GOAWAY), "{frames:?}");
}

/// In place of the challenge: the status, then GOAWAY; and a stream that has its challenge still gets its own status.
#[tokio::test]
async fn a_revoked_peer_hears_its_status_before_the_connection_goes_away() {
    let world = World::new().await;
    let (wire, attester) = replica(&world).await;
    let (mut asked, evidence) = challenged(&wire, &attester).await;
    world.write_crl(&[WIRE_SERIAL], 86_400_000).await;
    let seen = wire.attempt(&[SECRET], &attester).await;
    world.refused(seen.outcome(), Denial::PeerRevoked);
    eventually("GOAWAY", || wire.tapped.frames().iter().any(|frame| frame.kind == GOAWAY)).await;
    asked.step(Ask::Evidence(evidence)).await;
    world.refused(asked.end().await.outcome(), Denial::PeerRevoked);
    let frames = assert_nothing_asks_for_a_replay(&wire, 3).await;
    let (status, goaway) = status_and_goaway(&frames, 5);
    assert!(goaway.is_some_and(|goaway| status < goaway), "{frames:?}");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), wire.driver).await;
    ended.expect("the connection ends").unwrap().expect("in order");
}

#[tokio::test]
async fn a_peer_revoked_while_it_is_challenged_hears_its_status_before_the_connection_goes_away() {
    let world = World::new().await;
    let (wire, attester) = replica(&world).await;
    let (mut asked, evidence) = challenged(&wire, &attester).await;
    world.write_crl(&[WIRE_SERIAL], 86_400_000).await;
    asked.step(Ask::Evidence(evidence)).await;
    world.refused(asked.end().await.outcome(), Denial::PeerRevoked);
    eventually("GOAWAY", || wire.tapped.frames().iter().any(|frame| frame.kind == GOAWAY)).await;
    let frames = assert_nothing_asks_for_a_replay(&wire, 2).await;
    let (status, goaway) = status_and_goaway(&frames, 3);
    assert!(goaway.is_some_and(|goaway| status < goaway), "{frames:?}");
}

/// GOAWAY comes first where the broker stops: it names no stream that it would not serve.
#[tokio::test]
async fn a_broker_that_stops_refuses_no_stream_that_it_has_read() {
    let mut world = World::new().await;
    let (wire, attester) = replica(&world).await;
    let (mut asked, _) = challenged(&wire, &attester).await;
    let stopping = tokio::spawn(world.server.take().unwrap().stop());
    eventually("GOAWAY", || wire.tapped.frames().iter().any(|frame| frame.kind == GOAWAY)).await;
    asked.step(Ask::Evidence(attester.evidence(&[9; 64]))).await;
    world.refused(asked.end().await.outcome(), Denial::EvidenceBindingMismatch);
    assert_nothing_asks_for_a_replay(&wire, 2).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), stopping).await.expect("it stops").unwrap();
}
