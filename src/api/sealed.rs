//! What the listeners answer while the store is sealed, waiting for shares: denials to workloads, progress to operators.
//!
//! *Takes* shares, one at a time, over proven administrator connections. *Gives* the opened vault, once. *Denies* every release
//! as `StoreUnavailable`, recorded, and every other call of an operator as `SEALED`. *Source*: `durability.md` "Key sources";
//! NIST SP 800-57 part 2 §5 (split knowledge).
//!
//! Who may give a share: whoever holds a certificate of the operators' roots. The list of administrators and their roles is in
//! the store, which cannot be read yet, and it need not be: a share is itself what is proven, and the certificate keeps
//! strangers from guessing and from wasting the holders' time. Each attempt is recorded with the certificate's key.
//!
//! No call gives a share back: a share that is in is counted, and zeroized when they are put together, when they do not open
//! the store, or when the others do not come in time.

use crate::api::status::{self, status};
use crate::audit::record::{AdminAct, Event};
use crate::audit::{Recorder, random_id};
use crate::broker::Answered;
use crate::case::Case;
use crate::challenge::admission::{Admission, Caller};
use crate::denial::Denial;
use crate::limits;
use crate::proto::admin::unsealing_server::{Unsealing, UnsealingServer};
use crate::proto::admin::{UnsealRequest, UnsealResponse};
use crate::store::keysource::ShareSet;
use crate::store::keysource::shares::{Collected, Joined};
use crate::store::{Store, StoreError, Vault};
use crate::time::{BootTime, Clock, Now};
use crate::transport::AdminConnection;
use crate::transport::peer::Connection;
use http::{Request, Response};
use hyper::body::Incoming;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{Mutex, mpsc};
use tonic::body::Body;
use tonic::{Code, Status};
use zeroize::Zeroizing;

/// A sealed store, and the shares that were given so far. A clone is the same one.
#[derive(Clone)]
pub struct Sealed(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    set: ShareSet,
    recorder: Arc<Recorder>,
    clock: Arc<Clock>,
    admission: Admission,
    collected: Mutex<Progress>,
    opened: mpsc::Sender<Vault>,
}

struct Progress {
    shares: Collected,
    /// When the last one came.
    last: BootTime,
    /// Attempts of each certificate's key: how many since when.
    attempts: HashMap<[u8; 32], (u32, BootTime)>,
}

impl Sealed {
    /// That store, which shares of `set` open; the vault goes to `opened`.
    pub fn new(
        store: Arc<dyn Store>,
        set: ShareSet,
        recorder: Arc<Recorder>,
        clock: Arc<Clock>,
        admission: Admission,
        opened: mpsc::Sender<Vault>,
    ) -> Self {
        let progress = Progress { shares: Collected::new(set), last: BootTime(0), attempts: HashMap::new() };
        let collected = Mutex::new(progress);
        Sealed(Arc::new(Inner { store, set, recorder, clock, admission, collected, opened }))
    }

    /// The operators' listener's service.
    pub fn operators(&self) -> Operators {
        let server = UnsealingServer::new(self.clone()).max_decoding_message_size(SHARE_MESSAGE_BYTES);
        Operators { sealed: self.clone(), server }
    }

    /// The workloads' listener's service.
    pub fn workloads(&self) -> Workloads {
        Workloads(self.clone())
    }

    async fn take(&self, connection: &AdminConnection, share: &str) -> Result<UnsealResponse, Status> {
        let (inner, now) = (&self.0, self.0.clock.untrusted());
        let mut progress = inner.collected.lock().await;
        progress.admit(connection.leaf_spki_sha256(), now)?;
        progress.forget_late(now);
        let added = progress.shares.add(share);
        let (have, needed) = (progress.shares.count(), usize::from(inner.set.threshold));
        let joined = match added {
            Ok(joined) => joined,
            Err(error) => return Err(self.refused(connection, now, have, &error.to_string()).await),
        };
        progress.last = now.boot;
        let Some(joined) = joined else {
            self.note(connection, now, format!("share {have} of {needed} is in"), None).await?;
            return Ok(answer(have, needed, false));
        };
        self.note(connection, now, format!("share {needed} of {needed} is in"), None).await?;
        match self.open(&joined).await {
            Ok(()) => Ok(answer(needed, needed, true)),
            Err(error) => {
                let why = format!("the shares do not open the store, and are forgotten: {error}");
                Err(self.refused(connection, now, 0, &why).await)
            }
        }
    }

    async fn open(&self, joined: &Joined) -> Result<(), StoreError> {
        let vault = Vault::open(self.0.store.clone(), joined).await?;
        let taken = self.0.opened.try_send(vault);
        taken.map_err(|_| StoreError::Unavailable("the broker is opening already, or ends".to_owned()))
    }

    async fn refused(&self, connection: &AdminConnection, now: Now, have: usize, why: &str) -> Status {
        let target = format!("{have} of {} shares are in", self.0.set.threshold);
        match self.note(connection, now, target, Some(why.to_owned())).await {
            Ok(()) => refusal(Code::InvalidArgument, why, "SHARE_REFUSED"),
            Err(status) => status,
        }
    }

    /// Nothing is done that is not recorded.
    async fn note(
        &self,
        connection: &AdminConnection,
        now: Now,
        target: String,
        refused: Option<String>,
    ) -> Result<(), Status> {
        let act = AdminAct {
            administrator: "(a holder of a share)".to_owned(),
            key_sha256: hex::encode(connection.leaf_spki_sha256()),
            verb: "key unseal".to_owned(),
            target,
            details: serde_json::Value::Null,
        };
        let event = match refused {
            None => Event::AdminIntent { act, commit: None },
            Some(_) => Event::AdminRead { act, refused },
        };
        let noted = self.0.recorder.note(event, now).await.map(drop);
        noted.map_err(|error| {
            let why = format!("the audit log cannot be written: {error}");
            refusal(Code::FailedPrecondition, &why, "AUDIT_UNAVAILABLE")
        })
    }

    /// What every other call of an operator hears.
    async fn sealed(&self) -> Status {
        let now = self.0.clock.untrusted();
        let have = {
            let mut progress = self.0.collected.lock().await;
            progress.forget_late(now);
            progress.shares.count()
        };
        let needed = self.0.set.threshold;
        let why = format!(
            "the store is sealed: {have} of {needed} shares of set {} are in; `admin key unseal` gives one",
            hex::encode(self.0.set.set)
        );
        refusal(Code::FailedPrecondition, &why, "SEALED")
    }

    async fn deny(&self, connection: &Connection) -> Status {
        let now = self.0.clock.untrusted();
        let caller = Caller { identity: connection.spiffe_id().clone(), key: *connection.leaf_spki_sha256() };
        let _admitted = match self.0.admission.admit(&caller, now) {
            Ok(admitted) => admitted,
            Err(denial) => return status(&Answered { denial, decision_id: None }),
        };
        self.0.admission.note_unlatched_denial(&caller, now);
        let Ok(id) = random_id() else {
            return status(&Answered { denial: Denial::Defect, decision_id: None });
        };
        let mut case = Box::new(Case::new());
        case.identity = Some(caller.identity);
        case.key_sha256 = hex::encode(caller.key);
        case.serial = connection.serial().to_owned();
        case.detail = "the store is sealed until enough shares are given".to_owned();
        let denied = case.deny(Denial::StoreUnavailable);
        if let Err(error) = self.0.recorder.denied(id.clone(), &denied, Vec::new(), now).await {
            tracing::error!(%error, "a denial could not be recorded; it stands");
        }
        status(&Answered { denial: Denial::StoreUnavailable, decision_id: Some(id) })
    }
}

/// A share is shown by none.
impl std::fmt::Debug for UnsealRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("UnsealRequest").finish_non_exhaustive()
    }
}

impl Progress {
    /// So many attempts a minute are a person who mistypes; more are a program.
    fn admit(&mut self, key: &[u8; 32], now: Now) -> Result<(), Status> {
        self.attempts.retain(|_, (_, since)| now.boot.since(*since) < limits::UNSEAL_ATTEMPTS_MS);
        let known = self.attempts.contains_key(key);
        let (count, _) = match known || self.attempts.len() < UNSEALERS {
            true => self.attempts.entry(*key).or_insert((0, now.boot)),
            false => return Err(too_many()),
        };
        *count = count.saturating_add(1);
        if *count > limits::UNSEAL_ATTEMPTS { Err(too_many()) } else { Ok(()) }
    }

    fn forget_late(&mut self, now: Now) {
        if self.shares.count() > 0 && now.boot.since(self.last) > limits::UNSEAL_WITHIN_MS {
            self.shares.clear();
        }
    }
}

#[tonic::async_trait]
impl Unsealing for Sealed {
    async fn unseal(
        &self,
        request: tonic::Request<UnsealRequest>,
    ) -> Result<tonic::Response<UnsealResponse>, Status> {
        let connection = request.extensions().get::<Arc<AdminConnection>>().cloned();
        let connection = connection.ok_or_else(|| refusal(Code::Internal, "no connection", "INTERNAL"))?;
        let share = Zeroizing::new(request.into_inner().share);
        let sealed = self.clone();
        // To its end even where the caller goes away: a share is in or it is not.
        let taken = tokio::spawn(async move { sealed.take(&connection, &share).await }).await;
        let failed = |_| refusal(Code::Internal, "the broker failed; nothing was done", "INTERNAL");
        taken.map_err(failed)?.map(tonic::Response::new)
    }
}

/// The operators' listener while sealed.
#[derive(Clone)]
pub struct Operators {
    sealed: Sealed,
    server: UnsealingServer<Sealed>,
}

/// The workloads' listener while sealed.
#[derive(Clone)]
pub struct Workloads(Sealed);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl tower_service::Service<Request<Incoming>> for Operators {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answer {
        if request.uri().path() == UNSEAL {
            return Box::pin(tower_service::Service::call(&mut self.server, request));
        }
        let sealed = self.sealed.clone();
        Box::pin(async move { Ok(sealed.sealed().await.into_http()) })
    }
}

impl tower_service::Service<Request<Incoming>> for Workloads {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answer {
        let (sealed, connection) = (self.0.clone(), request.extensions().get::<Arc<Connection>>().cloned());
        Box::pin(async move {
            let answered = match connection {
                Some(connection) => sealed.deny(&connection).await,
                None => status(&Answered { denial: Denial::Defect, decision_id: None }),
            };
            Ok(answered.into_http())
        })
    }
}

fn answer(have: usize, needed: usize, unsealed: bool) -> UnsealResponse {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    UnsealResponse { have: number(have), needed: number(needed), unsealed }
}

fn refusal(code: Code, why: &str, reason: &str) -> Status {
    status::error(code, why, reason, HashMap::new())
}

fn too_many() -> Status {
    refusal(Code::ResourceExhausted, "too many attempts: wait a minute", "TOO_MANY")
}

/// The one call that is answered.
const UNSEAL: &str = "/portcullis.admin.v1.Unsealing/Unseal";
/// A share has some 125 characters.
const SHARE_MESSAGE_BYTES: usize = 1024;
/// Certificates' keys whose attempts are counted at once: far more than there are holders.
const UNSEALERS: usize = 1024;
