//! What operators and their machines look at: whether the broker lives, is ready, could release, and its figures.
//!
//! *Takes* a running broker. *Gives* plain answers on a listener of its own, which name no identity and no path. *Denies*
//! nothing, and can hold up nothing: it has its own thread, and asks the stages for numbers that they keep anyway.
//! *Source*: gRPC Health Checking Protocol; OpenMetrics 1.0; the section "Operations".
//!
//! Three questions, three answers, kept apart because what follows from a *no* differs:
//! *lives* (else restart it), *ready* (else send it nobody), *could release* (else wake somebody, and restart nothing: no
//! restart makes a stale list fresh, and every broker of a fleet would go at once).

mod listener;
mod metrics;
mod page;
mod pulse;
mod standing;

pub use listener::Operations;
pub use standing::Obstacle;

use crate::broker::Broker;
use crate::collateral::Holdings;
use crate::measure::Named;
use crate::registry::Registry;
use crate::transport::Shards;
use crate::transport::certificate::ServerIdentity;
use pulse::Pulse;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// Where the process stands between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It opens and verifies what is on disk.
    Starting,
    /// It answers, if only with denials.
    Serving,
    /// It answers what is open, and takes nothing new.
    Draining,
}

/// The broker, as far as it is looked at.
pub struct Parts {
    /// Every stage.
    pub broker: Arc<Broker>,
    /// What administrators keep.
    pub registry: Arc<Registry>,
    /// The threads that serve workloads.
    pub shards: Arc<Shards>,
    /// Fetched, imported and kept collateral.
    pub holdings: Holdings,
    /// Connections that came to nothing, by cause.
    pub handshakes: Arc<Named>,
    /// The broker's own certificate.
    pub identity: ServerIdentity,
    /// The store's directory, and the audit log's.
    pub directories: [(&'static str, PathBuf); 2],
}

/// What is known, for whoever asks. It outlives no broker and is there before it.
pub struct Telemetry {
    phase: watch::Sender<Phase>,
    parts: OnceLock<Parts>,
    pulse: Pulse,
}

impl Telemetry {
    fn new() -> Self {
        Telemetry {
            phase: watch::Sender::new(Phase::Starting),
            parts: OnceLock::new(),
            pulse: Pulse::default(),
        }
    }

    /// The broker serves from now on.
    pub fn serving(&self, parts: Parts) {
        self.pulse.begin();
        // Set once: there is one broker in a process's life.
        let _first = self.parts.set(parts);
        self.phase.send_replace(Phase::Serving);
    }

    /// The broker drains from now on; to be said before its listeners close.
    pub fn draining(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Whether the process, the store's committer and the audit log's writer answer; else which does not.
    pub fn lives(&self) -> Result<(), &'static str> {
        self.parts.get().map_or(Ok(()), |_| self.pulse.silent().map_or(Ok(()), Err))
    }

    /// Whether requests are answered, denials included.
    pub fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Serving
    }

    /// Why nothing could be released now; none where something could.
    pub fn obstacle(&self) -> Option<Obstacle> {
        match self.parts.get() {
            Some(parts) if self.is_ready() => standing::obstacle(parts, &self.pulse),
            Some(_) | None => Some(Obstacle::NotServing),
        }
    }

    /// Hears of each moment at which an answer may have become another.
    pub fn moments(&self) -> (watch::Receiver<Phase>, watch::Receiver<u64>) {
        (self.phase.subscribe(), self.pulse.beats())
    }

    /// All figures, in OpenMetrics text.
    pub fn figures(self: &Arc<Self>) -> Result<String, std::fmt::Error> {
        metrics::text(self)
    }
}
