//! Callers: operators who write, workloads who ask, all at once, until the broker is gone.

use crate::field::{Field, Node};
use crate::ledger::Ledger;
use crate::operators::{Ada, Operators};
use portcullis::client::{Config, Connection, ReleaseError, Request};
use portcullis::proto::admin::revoke_request::Whom;
use portcullis::proto::admin::{
    DescribeSecretRequest, ListRevocationsRequest, PutSecretRequest, RevokeRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::Code;

const WRITERS: u64 = 4;
const READERS: u64 = 3;
/// Secrets of each writer; all together are asked for at once, and 16 is the most.
const SECRETS: u64 = 4;
/// Nothing may take longer: the broker bounds each of its waits at three seconds.
const HANG: Duration = Duration::from_secs(20);

/// Callers at work.
pub struct Load {
    tasks: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Begins; `round` keeps values of different lives apart.
    pub fn begin(field: &Field, round: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let caller = Writer { writer, round, ada: field.ada(), ledger: field.ledger.clone() };
            tasks.push(field.runtime.spawn(caller.run(stop.clone())));
        }
        for _ in 0..READERS {
            let caller =
                Reader { config: field.config(), node: field.node.clone(), ledger: field.ledger.clone() };
            tasks.push(field.runtime.spawn(caller.run(stop.clone())));
        }
        Load { tasks, stop }
    }

    /// Ends, whatever became of the broker. A caller that is not done in time hangs, which none may.
    pub fn end(self, field: &Field) {
        self.stop.store(true, Ordering::SeqCst);
        field.runtime.block_on(async {
            for task in self.tasks {
                tokio::time::timeout(HANG, task).await.expect("a caller hangs").unwrap();
            }
        });
    }
}

struct Writer {
    writer: u64,
    round: u32,
    ada: Ada,
    ledger: Ledger,
}

impl Writer {
    async fn run(self, stop: Arc<AtomicBool>) {
        let Ok(mut operators) = self.ada.connect().await else { return };
        if self.writer == 0 && !self.revoke(&mut operators).await {
            return;
        }
        for number in 0_u64.. {
            if stop.load(Ordering::SeqCst) || !self.put(&mut operators, number).await {
                return;
            }
        }
    }

    /// Whether to go on.
    async fn put(&self, operators: &mut Operators, number: u64) -> bool {
        let path = format!("kv/app/load/{}-{}", self.writer, number % SECRETS);
        // Some larger than one chunk of the store.
        let padding = ".".repeat(if number.is_multiple_of(5) { 9000 } else { 40 });
        let value = format!("{} {} {number} {padding}", self.round, self.writer).into_bytes();
        self.ledger.sends(&path, &value);
        let fields = BTreeMap::from([("value".to_owned(), value)]);
        let request = PutSecretRequest { path: path.clone(), fields, ..Default::default() };
        match operators.put_secret(request).await {
            Ok(answer) => self.ledger.acknowledged(&path, answer.into_inner().version),
            Err(status) => {
                self.ended(&status);
                return false;
            }
        }
        true
    }

    async fn revoke(&self, operators: &mut Operators) -> bool {
        let identity = format!("spiffe://cli.example/gone/{}", self.round);
        self.ledger.revokes(&identity);
        let whom = Some(Whom::Identity(identity.clone()));
        match operators.revoke(RevokeRequest { whom, why: "a test".to_owned() }).await {
            Ok(_) => self.ledger.revoked(&identity),
            Err(status) => {
                self.ended(&status);
                return false;
            }
        }
        true
    }

    /// A refusal by a broker that cannot write may come, but then no confident one.
    fn ended(&self, status: &tonic::Status) {
        let fine = matches!(
            status.code(),
            Code::Unknown | Code::Unavailable | Code::Cancelled | Code::FailedPrecondition
        );
        assert!(fine || status.code() == Code::Internal, "{status:?}");
    }
}

struct Reader {
    config: Config,
    node: Node,
    ledger: Ledger,
}

impl Reader {
    async fn run(self, stop: Arc<AtomicBool>) {
        // Warm and cold connections.
        while !stop.load(Ordering::SeqCst) {
            let Ok(connection) = Connection::open(&self.config).await else { return };
            for _ in 0..8 {
                if !self.release(&connection).await {
                    return;
                }
            }
        }
    }

    async fn release(&self, connection: &Connection) -> bool {
        match connection.release(&self.node, Request::of([crate::world::OPEN])).await {
            Ok(lease) => self.ledger.leased(&lease.lease_id),
            // What a grant rests on may have changed meanwhile; a confident no may not be.
            Err(ReleaseError::NotPossible { .. }) => self.ledger.denied(),
            Err(error @ (ReleaseError::Denied { .. } | ReleaseError::Protocol(_))) => panic!("{error}"),
            Err(_) => return false,
        }
        true
    }
}

/// Holds everything that was acknowledged against what the broker of now has.
pub fn check(field: &Field) {
    field.runtime.block_on(async {
        let mut operators = field.ada().connect().await.unwrap();
        let (known, new): (Vec<_>, Vec<_>) =
            field.ledger.paths().into_iter().partition(|path| field.ledger.is_acknowledged(path));
        let mut newest = known;
        for path in new {
            match operators.describe_secret(DescribeSecretRequest { path: path.clone() }).await {
                Ok(_) => newest.push(path),
                Err(status) if status.code() == Code::NotFound => field.ledger.found(&path, 0, b""),
                Err(status) => panic!("{status:?}"),
            }
        }
        values(field, newest).await;
        let listed =
            operators.list_revocations(ListRevocationsRequest::default()).await.unwrap().into_inner();
        let found: BTreeSet<String> = listed.revocations.into_iter().map(|one| one.identity).collect();
        field.ledger.found_revoked(&found);
    });
}

async fn values(field: &Field, newest: Vec<String>) {
    let connection = Connection::open(&field.config()).await.unwrap();
    for some in newest.chunks(16) {
        let request = Request::of(some.iter().cloned());
        let lease = connection.release(&field.node, request).await.unwrap();
        field.ledger.leased(&lease.lease_id);
        for (path, secret) in some.iter().zip(&lease.secrets) {
            field.ledger.found(path, secret.version, secret.fields["value"].expose_secret());
        }
    }
}
