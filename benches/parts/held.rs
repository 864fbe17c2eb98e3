//! What a held lease costs while nothing happens to it.

use super::Broker;
use super::support::{SECRET, SoftAttester, World, open_message};
use portcullis::client::Connection;
use portcullis::client::raw::RawStream;
use portcullis::proto::v1;
use portcullis::proto::v1::release_request::Step as Ask;
use portcullis::proto::v1::release_response::Step as Answer;
use portcullis::request::ReleaseRequest;

/// KiB of the broker's memory for each of a thousand held streams, their connections aside.
pub async fn kibibytes(world: &World, broker: &Broker) -> f64 {
    let attester = world.attester();
    let mut connections = Vec::new();
    for _ in 0..STREAMS.div_ceil(STREAMS_PER_CONNECTION) {
        connections.push(world.connect().await.unwrap());
    }
    // Whatever the first streams of a connection allocate for good is there before the count.
    for connection in &connections {
        drop(hold(connection, &attester).await);
    }
    let before = broker.anonymous_kibibytes();
    let mut held = Vec::new();
    for number in 0..STREAMS {
        held.push(hold(&connections[number % connections.len()], &attester).await);
    }
    let after = broker.anonymous_kibibytes();
    assert_eq!(held.len(), STREAMS);
    after.saturating_sub(before) as f64 / STREAMS as f64
}

async fn hold(connection: &Connection, attester: &SoftAttester) -> RawStream {
    let open = v1::Open { hold: true, ttl_seconds: 900, ..open_message(&[SECRET]).0 };
    let mut stream = connection.stream(None).await.unwrap();
    stream.send(Ask::Open(open.clone())).await.unwrap();
    let Some(Answer::Challenge(challenge)) = stream.next().await.unwrap() else { panic!("no challenge") };
    let nonce: [u8; 32] = challenge.nonce.as_slice().try_into().unwrap();
    let request = ReleaseRequest::parse(open).unwrap();
    let binding = connection.identity().binding(&nonce, 0, &challenge.audience, &request);
    stream.send(Ask::Evidence(attester.evidence(binding.as_bytes()))).await.unwrap();
    let Some(Answer::Released(_)) = stream.next().await.unwrap() else { panic!("not released") };
    stream
}

const STREAMS: usize = 1_000;
/// One less than a connection may have.
const STREAMS_PER_CONNECTION: usize = 63;
