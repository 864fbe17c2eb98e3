//! One request by hand, to the raw status: what exactly a caller heard, held against what the log says.

use super::*;
use portcullis::audit::record::Event;
use portcullis::challenge::binding::{Binding, Inputs};
use portcullis::denial::Reason;
use portcullis::proto::v1::release_request::Step as Ask;
use portcullis::proto::v1::release_response::Step as Answer;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, RpcStatusExt};

pub type Outcome = Result<v1::Released, Status>;

/// A stream whose challenge has come.
pub struct Asked {
    pub stream: RawStream,
    pub identity: Identity,
    pub open: v1::Open,
    pub challenge: v1::Challenge,
}

/// Sends `Open`; the challenge, or the status in its place.
pub async fn ask(connection: &Connection, open: v1::Open) -> Result<Asked, Status> {
    let mut stream = connection.stream(None).await.map_err(|error| Status::unknown(error.to_string()))?;
    let _ = stream.send(Ask::Open(open.clone())).await;
    match stream.message().await?.and_then(|message| message.step) {
        Some(Answer::Challenge(challenge)) => {
            Ok(Asked { stream, identity: connection.identity().clone(), open, challenge })
        }
        other => panic!("no challenge: {other:?}"),
    }
}

impl Asked {
    /// The binding that is due.
    pub fn binding(&self) -> [u8; 64] {
        self.binding_as(|_| {})
    }

    /// The binding of another request, connection, key, identity or audience: one thing of it changed.
    pub fn binding_as(&self, change: impl FnOnce(&mut Parts)) -> [u8; 64] {
        let mut parts = Parts {
            nonce: self.challenge.nonce.as_slice().try_into().unwrap(),
            round: self.challenge.round,
            channel: match self.challenge.channel_binding.as_str() {
                "none" => vec![],
                _ => self.identity.exporter.to_vec(),
            },
            spki_sha256: self.identity.spki_sha256,
            id: self.identity.id.clone(),
            audience: self.challenge.audience.clone(),
            open: self.open.clone(),
        };
        change(&mut parts);
        parts.binding()
    }

    pub async fn answer(&mut self, evidence: v1::Evidence) -> Outcome {
        let _ = self.stream.send(Ask::Evidence(evidence)).await;
        self.outcome().await
    }

    /// The end of the stream, after which nothing follows.
    pub async fn outcome(&mut self) -> Outcome {
        match self.stream.message().await?.and_then(|message| message.step) {
            Some(Answer::Released(released)) => {
                assert_eq!(
                    self.stream.message().await.unwrap(),
                    None,
                    "OK follows the release, and nothing else"
                );
                Ok(released)
            }
            other => panic!("neither released nor denied: {other:?}"),
        }
    }
}

/// The inputs of a binding, each open to the test.
pub struct Parts {
    pub nonce: [u8; 32],
    pub round: u64,
    pub channel: Vec<u8>,
    pub spki_sha256: [u8; 32],
    pub id: SpiffeId,
    pub audience: String,
    pub open: v1::Open,
}

impl Parts {
    fn binding(self) -> [u8; 64] {
        let request = ReleaseRequest::parse(self.open).unwrap();
        *Binding::compute(&Inputs {
            nonce: &self.nonce,
            round: self.round,
            channel: &self.channel,
            client_spki_sha256: &self.spki_sha256,
            client_id: &self.id,
            audience: &self.audience,
            request: &request,
        })
        .as_bytes()
    }
}

/// A whole request: `Open`, challenge, evidence, end.
pub async fn attempt(connection: &Connection, open: v1::Open, attester: &SoftAttester) -> Outcome {
    let mut asked = ask(connection, open).await?;
    let evidence = attester.evidence(&asked.binding());
    asked.answer(evidence).await
}

/// A replica of the workload, with a key, a connection and a subject of its own. Its first request succeeded.
pub struct Guest<'w> {
    pub world: &'w World,
    pub config: client::Config,
    pub serial: u64,
    pub connection: Connection,
    pub attester: SoftAttester,
}

static SERIAL: AtomicU64 = AtomicU64::new(1000);

impl<'w> Guest<'w> {
    pub async fn new(world: &'w World) -> Guest<'w> {
        let guest = Guest::stranger(world, WORKLOAD).await;
        let released = guest.ask(&[SECRET]).await.unwrap_or_else(|status| panic!("{}", world.why(&status)));
        assert_eq!(released.secrets.len(), 1);
        guest
    }

    /// Of any identity; nothing was asked yet.
    pub async fn stranger(world: &'w World, id: &str) -> Guest<'w> {
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let (_, config) = world.workload(id, serial);
        let connection = world.connect_as(&config).await.expect("it connects");
        let mut attester = world.attester();
        attester.process.uid = serial as u32;
        Guest { world, config, serial, connection, attester }
    }

    pub async fn ask(&self, paths: &[&str]) -> Outcome {
        self.send(open_message(paths).0).await
    }

    pub async fn send(&self, open: v1::Open) -> Outcome {
        attempt(&self.connection, open, &self.attester).await
    }

    /// `Open` and its challenge.
    pub async fn asked(&self, paths: &[&str]) -> Asked {
        ask(&self.connection, open_message(paths).0).await.expect("a challenge")
    }

    /// The same replica on a new connection.
    pub async fn again(&self) -> Guest<'w> {
        let connection = self.world.connect_as(&self.config).await.expect("it connects");
        let (config, attester) = (self.config.clone(), self.attester.clone());
        Guest { world: self.world, config, serial: self.serial, connection, attester }
    }

    /// Denied for exactly this; gives its record.
    pub fn refused(&self, outcome: Outcome, denial: Denial) -> Record {
        let record = self.world.refused(outcome, denial);
        if let Some(case) = record.case() {
            assert_eq!(case.identity.as_ref(), Some(&self.connection.identity().id));
            assert_eq!(case.key_sha256, hex::encode(self.connection.identity().spki_sha256));
        }
        record
    }

    /// The broker closes the connection, soon.
    pub async fn is_sent_away(&self) {
        eventually("the connection goes away", || self.connection.is_closed()).await;
    }

    pub async fn stays(&self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!self.connection.is_closed(), "the connection went away");
    }
}

impl World {
    /// Asserts all that a caller can see of a denial, the record under its id, and that no secret is in the log.
    pub fn refused(&self, outcome: Outcome, denial: Denial) -> Record {
        let status = outcome.expect_err("it was released");
        let Some(id) = reason_and_id(&status).1 else { panic!("it names no record: {status:?}") };
        let record = self.record(&id);
        assert_eq!(record.denial(), Some(denial), "{record:#?}");
        let Event::Denied { class, reason, latches, .. } = &record.event else { panic!("{record:?}") };
        assert_eq!((class.as_str(), reason.as_str()), (denial.class().name(), denial.reason().name()));
        assert_eq!(!latches.is_empty(), denial.latches(), "{latches:?}");
        assert_status(&status, denial);
        self.assert_nothing_leaked();
        record
    }

    /// The record behind a status, for a failing test's message.
    pub fn why(&self, status: &Status) -> String {
        let id = reason_and_id(status).1;
        let record = self.records().into_iter().find(|record| Some(&record.id) == id.as_ref());
        format!("not released: {status:?}: {record:#?}")
    }

    /// Leases that stand now.
    pub fn leases(&self) -> Vec<portcullis::release::lease::Lease> {
        let broker = self.server().broker();
        broker.leases().standing(broker.clock.untrusted())
    }

    /// The record that a refused handshake of this leaf left, once it has.
    pub async fn handshake_record(&self, serial: u64) -> Record {
        let of_leaf = |record: &Record| {
            let case = record.case().filter(|_| matches!(record.event, Event::HandshakeRefused { .. }));
            case.is_some_and(|case| u64::from_str_radix(&case.serial.replace(':', ""), 16) == Ok(serial))
        };
        let mut found = None;
        eventually("a refused handshake is recorded", || {
            found = self.records().into_iter().find(of_leaf);
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

/// Waits up to five seconds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..250 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within five seconds: {what}");
}

/// A status as `protocol.md` has it, to the last field; gives the record's id.
pub fn assert_status(status: &Status, denial: Denial) -> Option<String> {
    let reason = denial.reason();
    let (found, id) = reason_and_id(status);
    assert_eq!(found, reason.name(), "{denial}: {status:?}");
    let (code, message) = code_and_message(reason);
    assert_eq!((status.code(), status.message()), (code, message), "{denial}");
    let pushback: Vec<_> = status.metadata().get_all("grpc-retry-pushback-ms").iter().collect();
    assert_eq!(pushback, ["-1"], "{denial}");
    assert_eq!(id.is_some(), reason != Reason::Overloaded, "{denial}: {status:?}");
    id
}

/// Of exactly one `ErrorInfo` of ours.
pub fn reason_and_id(status: &Status) -> (String, Option<String>) {
    let details = tonic_types::Status::decode(status.details()).unwrap();
    assert_eq!((details.code, details.message.as_str()), (i32::from(status.code()), status.message()));
    assert_eq!(details.details.len(), 1, "one detail: {status:?}");
    let mut infos = details.check_error_details_vec().unwrap();
    let Some(ErrorDetail::ErrorInfo(info)) = infos.pop() else { panic!("no ErrorInfo: {status:?}") };
    assert_eq!(info.domain, "portcullis");
    assert!(info.metadata.keys().all(|key| key == "decision_id"));
    let id = info.metadata.get("decision_id").cloned();
    assert!(id.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{id:?}");
    (info.reason, id)
}

/// `protocol.md`, the table of situations; the texts are this implementation's own, one each.
pub fn code_and_message(reason: Reason) -> (Code, &'static str) {
    match reason {
        Reason::Internal => (Code::Internal, "the broker failed; nothing was released"),
        Reason::RequestInvalid => (Code::InvalidArgument, "the request is not valid"),
        Reason::IdentityNotCurrent => (Code::Unauthenticated, "the identity cannot be proven now"),
        Reason::ChallengeNotCurrent => (Code::FailedPrecondition, "the challenge was not answered in time"),
        Reason::NotReleased => (Code::PermissionDenied, "not released"),
        Reason::VerificationNotPossible => {
            (Code::FailedPrecondition, "verification is not possible now; nothing was released")
        }
        Reason::Overloaded => (Code::ResourceExhausted, "too many requests; nothing was decided"),
        Reason::DeadlineExceeded => (Code::DeadlineExceeded, "the deadline passed; nothing was released"),
    }
}
