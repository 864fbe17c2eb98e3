//! What a running broker does by itself, once a second: reads its inputs anew, minds the clock, forgets what has ended,
//! and writes down what the listeners heard.

use crate::audit::record::Event;
use crate::broker::Broker;
use crate::case::Case;
use crate::cli::evidence::EvidenceSection;
use crate::cli::serve::marked::Marked;
use crate::collateral::Holdings;
use crate::denial::Denial;
use crate::limits;
use crate::measure::Named;
use crate::registry::attestation;
use crate::store::space::Space;
use crate::store::{Vault, marks};
use crate::time::ClockEvent;
use crate::transport::Marks;
use crate::transport::observer::{Cause, HandshakeObserver};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub use crate::api::admin::HIGHEST_TIME;

/// Refused handshakes on their way to the log.
pub struct Heard(mpsc::Receiver<(Denial, Box<Case>)>);

/// The listeners' end: it never blocks, and what does not fit is only counted.
pub struct Observer(mpsc::Sender<(Denial, Box<Case>)>, Arc<Named>);

impl Heard {
    /// Both ends; each refusal is counted by the name of its cause, too.
    pub fn new(counters: Arc<Named>) -> (Heard, Observer) {
        let (sender, receiver) = mpsc::channel(HEARD);
        (Heard(receiver), Observer(sender, counters))
    }
}

impl Heard {
    /// The next one; none once the listeners are gone.
    pub(super) async fn next(&mut self) -> Option<(Denial, Box<Case>)> {
        self.0.recv().await
    }
}

impl HandshakeObserver for Observer {
    fn refused(&self, denial: Denial, case: Box<Case>) {
        self.1.count(Cause::Denied(denial).name());
        if self.0.try_send((denial, case)).is_err() {
            tracing::warn!(%denial, "a refused handshake was not recorded: too many at once");
        }
    }

    fn counted(&self, cause: Cause) {
        self.1.count(cause.name());
        tracing::debug!(?cause, "a connection came to nothing");
    }
}

/// Runs until `stopped`.
pub async fn run(
    broker: Arc<Broker>,
    vault: Arc<Vault>,
    mut files: EvidenceFiles,
    mut heard: Heard,
    (marked, space): (Arc<Marked>, Arc<Space>),
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::RELOAD_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u64;
    let counters = tokio::spawn(keep_counters(broker.clone(), vault.clone(), stopped.clone()));
    let refreshing = files.collateral.holdings.keep_fresh();
    let room = tokio::spawn(keep_room(broker.clone(), space));
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            _ = ticks.tick() => {
                count = count.wrapping_add(1);
                tick(&broker, &vault, &marked, count).await;
                marked.settle(&broker).await;
                if count.is_multiple_of(EVIDENCE_TICKS) {
                    files.look(&broker).await;
                }
            }
            Some((denial, case)) = heard.0.recv() => {
                note(&broker, Event::HandshakeRefused { denial, case: *case }).await;
            }
        }
    }
    refreshing.abort();
    room.abort();
    if counters.await.is_err() {
        tracing::error!("the counters of TPMs were not all kept; the audit log has them");
    }
}

/// Keeps what was seen of TPMs, once a second and at the stop: by itself, so that a slow store delays no reading of inputs.
async fn keep_counters(broker: Arc<Broker>, vault: Arc<Vault>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::RELOAD_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            _ = ticks.tick() => attestation::keep_counters(broker.verifiers.seen(), &vault).await,
        }
    }
    attestation::keep_counters(broker.verifiers.seen(), &vault).await;
}

async fn tick(broker: &Arc<Broker>, vault: &Vault, marked: &Marked, count: u64) {
    let now = broker.clock.untrusted();
    reload(broker).await;
    probe_log(broker).await;
    match broker.clock.tick() {
        Some(ClockEvent::Suspected(suspect)) => {
            tracing::error!(%suspect, "the clock is suspect: nothing is released");
            note(broker, Event::Clock { state: suspect.to_string() }).await;
        }
        Some(ClockEvent::Healed) => note(broker, Event::Clock { state: "trusted".to_owned() }).await,
        None => {}
    }
    broker.leases().forget_ended(now);
    for shed in broker.admission.take_shed(now) {
        let event = Event::Counted {
            identity: Some(shed.caller.identity),
            key_sha256: hex::encode(shed.caller.key),
            denial: Denial::LimitExceeded,
            count: shed.count,
            since: shed.since,
        };
        note(broker, event).await;
    }
    if count.is_multiple_of(KEEP_TIME_TICKS) && broker.clock.now().is_ok() {
        let highest = broker.clock.highest().0.to_be_bytes();
        if let Err(error) = marks::raise(vault, HIGHEST_TIME, &highest).await {
            tracing::error!(%error, "the highest time could not be kept");
        } else if count.is_multiple_of(RECORD_TIME_TICKS) {
            marked.owe(HIGHEST_TIME, &highest, false);
        }
    }
}

/// What is kept and fetched for hardware evidence, and the marks below which nothing counts.
pub struct Collateral {
    /// What is held.
    pub holdings: Holdings,
    /// The store's.
    pub marks: Arc<dyn Marks>,
}

/// The files that hardware evidence is held against, and what they were when they were last read whole.
pub struct EvidenceFiles {
    section: Arc<EvidenceSection>,
    collateral: Collateral,
    seen: Option<[u8; 32]>,
}

impl EvidenceFiles {
    /// Not looked at yet.
    pub fn new(section: EvidenceSection, collateral: Collateral) -> Self {
        EvidenceFiles { section: Arc::new(section), collateral, seen: None }
    }

    /// Reads them anew where they changed, or could not all be used before.
    async fn look(&mut self, broker: &Arc<Broker>) {
        let (section, seen, now) = (self.section.clone(), self.seen, broker.clock.untrusted());
        let (broker, marks) = (broker.clone(), self.collateral.marks.clone());
        let read = tokio::task::spawn_blocking(move || {
            let fingerprint = section.fingerprint();
            if seen == Some(fingerprint) {
                return None;
            }
            let hardware = section.read_against(marks.as_ref(), now);
            let unknown = hardware.unknown();
            broker.verifiers.set_hardware(hardware);
            Some((fingerprint, unknown))
        });
        match read.await {
            Ok(None) => {}
            Ok(Some((fingerprint, unknown))) => {
                for (format, why) in &unknown {
                    tracing::error!(format, why, "evidence of this format cannot be decided");
                }
                self.seen = unknown.is_empty().then_some(fingerprint);
            }
            Err(error) => tracing::error!(%error, "what evidence is held against was not read"),
        }
    }
}

/// Where the disk is full its ballast is let go, and what is recorded from then on is denials and acts of administrators. By
/// itself: a file system that hangs holds up this look alone.
async fn keep_room(broker: Arc<Broker>, space: Arc<Space>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::DISK_LOOK_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looking = space.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || looking.look()).await {
            tracing::error!(%error, "the room on the disk was not looked at");
        }
        broker.recorder.set_spent(space.is_spent());
    }
}

/// Files are read where blocking is allowed; a reload that panics leaves the snapshots, whose ends still hold.
async fn reload(broker: &Arc<Broker>) {
    let (trust, now) = (broker.trust.clone(), broker.clock.untrusted());
    match tokio::task::spawn_blocking(move || trust.reload(now)).await {
        Ok(changes) => {
            for change in changes {
                tracing::info!(input = change.name, epoch = change.epoch, state = change.state, "input");
                let event = Event::Input { name: change.name, epoch: change.epoch, state: change.state };
                note(broker, event).await;
            }
        }
        Err(error) => tracing::error!(%error, "inputs were not read"),
    }
}

/// A log that failed is tried again once a second, so that it serves from the moment it can, and not from the request after.
async fn probe_log(broker: &Broker) {
    let log = broker.recorder.log();
    if !log.healthy() && log.checkpoint().await.is_ok() {
        tracing::warn!("the audit log is written again");
        let (name, epoch) = ("audit".to_owned(), log.size());
        note(broker, Event::Input { name, epoch, state: "written again".to_owned() }).await;
    }
}

async fn note(broker: &Broker, event: Event) {
    if let Err(error) = broker.recorder.note(event, broker.clock.untrusted()).await {
        tracing::error!(%error, "an event could not be recorded");
    }
}

/// Refused handshakes that wait for the log: a minute's worth of distinct keys at a few a second.
const HEARD: usize = 256;
/// The highest time is kept every so many ticks: a start is then at most ten seconds too lenient, and the log's own last
/// record usually makes up for those.
const KEEP_TIME_TICKS: u64 = 10;
/// And recorded once an hour, for a restore.
const RECORD_TIME_TICKS: u64 = 3_600;
/// Roots, lists and collateral change by the day.
const EVIDENCE_TICKS: u64 = 10;
