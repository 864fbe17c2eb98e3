//! The time from a start to enough shares: both listeners answer, and nothing is released.
//!
//! *Takes* a store that shares open. *Gives* the vault, once they do, or nothing where the broker is told to end first. *Denies*
//! to wait beside a log that is missing, or that says more than the store has. *Source*: `deploy/keys.md`.
//!
//! Of the audit log this opens, writes and closes its own part; what an earlier process left open in it is settled by the
//! start that follows, which reads it anew. Nothing is written that needs the store's key.

use super::assemble::{self, StartError};
use super::doors::{Doors, Listeners};
use super::keep::Heard;
use super::notify;
use super::recover::{self, Recovered};
use super::signals::Signals;
use crate::api::front::Front;
use crate::api::sealed::Sealed;
use crate::audit::Recorder;
use crate::audit::log::{Log, OpenReport};
use crate::audit::record::Event;
use crate::challenge::admission::Admission;
use crate::cli::config::Config;
use crate::measure::Named;
use crate::store::keysource::ShareSet;
use crate::store::{Store, Vault};
use crate::telemetry::Operations;
use crate::time::{Clock, Now, TimeSource};
use crate::transport::acceptor::PeerKind;
use crate::transport::observer::Cause;
use crate::transport::{Marks, MarksUnavailable, Trust};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Waits for shares of `set`; none where SIGTERM or SIGINT came first. They are heard from here on.
pub(super) async fn wait(
    config: &Config,
    source: Arc<dyn TimeSource>,
    store: Arc<dyn Store>,
    set: ShareSet,
    (listeners, operations): (&Listeners, &Operations),
) -> Result<Option<(Arc<Vault>, Signals)>, StartError> {
    let now = assemble::reading(source.as_ref())?;
    if !config.storage.audit.join("checkpoint").exists() {
        return Err(StartError::LogMissing);
    }
    let mut recovered = Recovered::new(now);
    let (log, report) = open_log(config, now, &mut recovered)?;
    recover::reconcile(&report, store.last_commit().await?, 0)?;
    let clock = Arc::new(Clock::new(source, recovered.trusted_time));
    let recorder = Arc::new(Recorder::new(log, clock.boot_id()));
    let (domains, at) = (config.domains(), clock.untrusted());
    let opened = tokio::task::spawn_blocking(move || Trust::open(domains, Arc::new(NoMarksYet), at)).await;
    let unopened = |_| crate::store::StoreError::Unavailable("trust was not opened".to_owned());
    let trust = Arc::new(opened.map_err(unopened)?);
    let (heard, observer) = Heard::new(Arc::new(Named::new(Cause::names())));
    let doors = Doors { config, clock: clock.clone(), trust, observer: Arc::new(observer) };
    let (vaults, mut opened) = mpsc::channel(1);
    let admission = Admission::new(config.rates());
    let sealed = Sealed::new(store, set, recorder.clone(), clock.clone(), admission, vaults);
    let (shutdown, stopped) = watch::channel(false);
    let workloads = doors
        .acceptor(listeners.workloads()?, PeerKind::Workload, None)
        .serve(Front::new(sealed.workloads()), stopped.clone());
    let operators = doors
        .acceptor(listeners.operators()?, PeerKind::Administrator, None)
        .serve(Front::new(sealed.operators()), stopped.clone());
    let tasks = [tokio::spawn(workloads), tokio::spawn(operators)];
    let hearing = tokio::spawn(hear(heard, recorder.clone(), clock.clone()));
    note(&recorder, &clock, format!("sealed: {} shares are needed", set.threshold)).await?;
    let mut signals = Signals::listen().map_err(StartError::Signals)?;
    let probes = operations.address().map(|address| format!(", probes on {address}")).unwrap_or_default();
    super::say(&format!(
        "portcullis: sealed until {} shares are given; workloads on {}, operators on {}{probes}",
        set.threshold, listeners.address, listeners.admin_address
    ));
    // For the service manager it has started: it waits for persons, not for itself. Probes hear that it is not ready.
    let watchdog = tokio::spawn(notify::watchdog(operations.telemetry().clone()));
    notify::tell("READY=1\nSTATUS=sealed until enough shares are given");
    let vault = tokio::select! {
        vault = opened.recv() => vault,
        () = signals.asked_to_end() => None,
    };
    watchdog.abort();
    notify::tell("STATUS=");
    let _ = shutdown.send(true);
    for task in tasks {
        let _ = task.await;
    }
    hearing.abort();
    let _ = hearing.await;
    let state = if vault.is_some() { "unsealed" } else { "stopped while sealed" };
    note(&recorder, &clock, state.to_owned()).await?;
    drop(sealed);
    let log = recorder.log().clone();
    drop((recorder, doors));
    let closing = move || {
        log.close();
        drop(log);
    };
    tokio::task::spawn_blocking(closing).await.map_err(|_| StartError::Log("it did not close".to_owned()))?;
    Ok(vault.map(|vault| (Arc::new(vault), signals)))
}

fn open_log(
    config: &Config,
    now: Now,
    recovered: &mut Recovered,
) -> Result<(Arc<Log>, OpenReport), StartError> {
    let key = assemble::log_key(config)?;
    assemble::open_log(config, key, recover::horizon(now), |record| recovered.take(record))
}

async fn hear(mut heard: Heard, recorder: Arc<Recorder>, clock: Arc<Clock>) {
    while let Some((denial, case)) = heard.next().await {
        let event = Event::HandshakeRefused { denial, case: *case };
        if let Err(error) = recorder.note(event, clock.untrusted()).await {
            tracing::error!(%error, "an event could not be recorded");
        }
    }
}

async fn note(recorder: &Recorder, clock: &Clock, state: String) -> Result<(), StartError> {
    let event = Event::Input { name: "store".to_owned(), epoch: 0, state };
    let noted = recorder.note(event, clock.untrusted()).await;
    noted.map(drop).map_err(|error| StartError::Log(error.to_string()))
}

/// The marks are in the store: what they would say is not known yet.
struct NoMarksYet;

impl Marks for NoMarksYet {
    fn read(&self, _name: &str) -> Result<Option<Vec<u8>>, MarksUnavailable> {
        Err(MarksUnavailable)
    }

    fn raise(&self, _name: &str, _value: &[u8]) -> Result<(), MarksUnavailable> {
        Err(MarksUnavailable)
    }

    fn replace(&self, _name: &str, _value: &[u8]) -> Result<(), MarksUnavailable> {
        Err(MarksUnavailable)
    }
}
