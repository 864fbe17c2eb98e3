//! Every part, in the order in which each needs the ones before it.

use crate::api::admin::AdminService;
use crate::api::front::Front;
use crate::api::release::ReleaseService;
use crate::appraisal::Appraiser;
use crate::audit::Recorder;
use crate::audit::checkpoint::LogKey;
use crate::audit::log::Log;
use crate::audit::record::Event;
use crate::broker::Broker;
use crate::challenge::admission::Admission;
use crate::cli::config::{Config, TwoPersonsMode};
use crate::cli::serve::doors::{Doors, Listeners, server_identity};
use crate::cli::serve::keep::{self, Collateral, EvidenceFiles, Heard};
use crate::cli::serve::marked::{DurableMarks, Marked};
use crate::cli::serve::recover::{self, Recovered};
use crate::cli::serve::signals::Signals;
use crate::cli::serve::{keys, sealed};
use crate::collateral::Holdings;
use crate::evidence::Verifiers;
use crate::evidence::hardware::Hardware;
use crate::evidence::sev_snp::SevSnpTrust;
use crate::evidence::tdx::TdxTrust;
use crate::freshness::Freshness;
use crate::latch::Latches;
use crate::measure::{Measures, Named};
use crate::policy::Pdp;
use crate::registry::Registry;
use crate::release::kv::Kv;
use crate::release::{Barrier, Engine, Engines};
use crate::store::marks::{self, StoredMarks};
use crate::store::sled::SledStore;
use crate::store::space::Space;
use crate::store::{StoreError, Vault};
use crate::telemetry::{Operations, Parts, Telemetry};
use crate::time::{Clock, Now, TimeSource, WallTime};
use crate::transport::acceptor::PeerKind;
use crate::transport::observer::Cause;
use crate::transport::tls;
use crate::transport::{Marks, Shards, Trust};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Why the broker does not start. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not open, or what is in it is not whole.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The audit log does not open.
    #[error(
        "the audit log: {0}; keep both directories as they are: `portcullis audit verify` says what is wrong, and \
         deploy/README.md how to go on"
    )]
    Log(String),
    /// The store has been used, and its audit log is not there.
    #[error("the audit log is missing beside a store that has been used: put it back, or restore both")]
    LogMissing,
    /// The store lacks changes that were acknowledged.
    #[error(
        "the store ends at commit {stored}, but commit {logged} was acknowledged: keep this directory and the audit log as \
         they are, and restore the last backup (`portcullis restore`, which keeps the old store beside the new one)"
    )]
    StoreBehindLog {
        /// The store's last commit.
        stored: u64,
        /// The highest commit that the log says was applied.
        logged: u64,
    },
    /// A listener's address cannot be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The threads that serve connections cannot be had.
    #[error("cannot start a thread for connections: {0}")]
    Threads(std::io::Error),
    /// `[collateral]` is not possible.
    #[error("collateral.{0}")]
    Collateral(crate::collateral::ConfigFault),
    /// A clock cannot be read at all.
    #[error("a clock cannot be read")]
    Clock,
    /// It was told to end before enough shares were given.
    #[error("ended while sealed")]
    EndedSealed,
    /// It would not hear that it is to end.
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
}

/// A running broker.
pub struct Server {
    broker: Arc<Broker>,
    registry: Arc<Registry>,
    address: SocketAddr,
    admin_address: SocketAddr,
    shutdown: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    keeper: JoinHandle<()>,
    space: Arc<Space>,
    /// Last of all: a stream that was left ends its records there.
    _shards: Arc<Shards>,
    operations: Operations,
}

impl Server {
    /// Opens what is on disk, settles what an earlier process left open, loads, listens.
    pub async fn start(config: &Config, source: Arc<dyn TimeSource>) -> Result<Server, StartError> {
        Server::start_hearing(config, source).await.map(|(server, _)| server)
    }

    /// The same; with the signals, where it began to hear them while it waited for shares.
    pub(super) async fn start_hearing(
        config: &Config,
        source: Arc<dyn TimeSource>,
    ) -> Result<(Server, Option<Signals>), StartError> {
        let operations = start_operations(config)?;
        let space = space(config);
        // Where the disk is full the store does not open: the ballast makes room first.
        space.make_room();
        let key = log_key(config)?;
        examine(config, &key, reading(source.as_ref())?)?;
        let listeners = Listeners::bind(config).await?;
        let (vault, signals) = match keys::open(config).await? {
            keys::Opened::Vault(vault) => (vault, None),
            keys::Opened::Sealed(store, set) => {
                let doors = (&listeners, &operations);
                let waited = sealed::wait(config, source.clone(), store, set, doors).await?;
                let (vault, signals) = waited.ok_or(StartError::EndedSealed)?;
                (vault, Some(signals))
            }
        };
        let now = reading(source.as_ref())?;
        let mut recovered = Recovered::new(now);
        recover::check_log_there(&config.storage.audit, vault.store().last_commit().await?)?;
        let lived = highest_time(&vault).await?;
        let since = recover::view(now, lived);
        let (log, report) = open_log(config, key, since, |record| recovered.take(record))?;
        let last_intent = Registry::last_applied_intent(&vault).await?;
        let owed = recover::reconcile(&report, vault.store().last_commit().await?, last_intent)?;
        let highest = lived.max(recovered.trusted_time);
        let clock = Arc::new(Clock::new(source, highest));
        let recorder = Arc::new(Recorder::new(log, clock.boot_id()));
        recover::settle(&recorder, owed, now).await?;
        if let Some(restored) = crate::registry::not_accepted(&vault).await? {
            tracing::error!(
                to = restored.to,
                "the store was restored: nothing is released until `admin restore accept`"
            );
            recorder.withhold(true);
        }
        space.look();
        recorder.set_spent(space.is_spent());
        let kv = Arc::new(Kv::new(vault.clone())?);
        let marked = Arc::new(Marked::all_of(&vault).await?);
        let assembled = assemble(config, &vault, clock, recorder, recovered, kv.clone(), marked.clone());
        let (broker, collateral) = assembled.await?;
        let broker = Arc::new(broker);
        let registry = Arc::new(Registry::new(vault.clone(), broker.clone(), own_digest()));
        if config.admin.two_persons == TwoPersonsMode::Always {
            registry.demand_two_persons();
        }
        if let Some(next) = &config.storage.key_source_next {
            registry.offer_next_source(next.next(&config.storage.data));
        }
        registry.load().await;
        let started = Event::Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: vault.store().last_commit().await?.0,
        };
        broker.recorder.note(started, now).await.map_err(|error| StartError::Log(error.to_string()))?;
        let doors = (&listeners, operations);
        let server = Server::listen(config, broker, registry, kv, (marked, space), collateral, doors).await?;
        Ok((server, signals))
    }

    async fn listen(
        config: &Config,
        broker: Arc<Broker>,
        registry: Arc<Registry>,
        kv: Arc<Kv>,
        (marked, space): (Arc<Marked>, Arc<Space>),
        collateral: Collateral,
        (listeners, operations): (&Listeners, Operations),
    ) -> Result<Server, StartError> {
        let (shutdown, stopped) = watch::channel(false);
        let handshakes = Arc::new(Named::new(Cause::names()));
        let (heard, observer) = Heard::new(handshakes.clone());
        let (clock, trust) = (broker.clock.clone(), broker.trust.clone());
        let doors = Doors { config, clock, trust, observer: Arc::new(observer) };
        let shards = Arc::new(Shards::start().map_err(StartError::Threads)?);
        let (address, admin_address) = (listeners.address, listeners.admin_address);
        let release = ReleaseService::server(broker.clone());
        let audit = config.storage.audit.clone();
        let admin = AdminService::server(registry.clone(), kv, audit, collateral.holdings.clone());
        let workloads = doors
            .acceptor(listeners.workloads()?, PeerKind::Workload, Some(shards.clone()))
            .serve(Front::new(release), stopped.clone());
        let operators = doors
            .acceptor(listeners.operators()?, PeerKind::Administrator, None)
            .serve(Front::new(admin), stopped.clone());
        let listeners = vec![tokio::spawn(workloads), tokio::spawn(operators)];
        let holdings = collateral.holdings.clone();
        let keeper = tokio::spawn(keep::run(
            broker.clone(),
            registry.vault().clone(),
            EvidenceFiles::new(config.evidence.clone(), collateral),
            heard,
            (marked, space.clone()),
            stopped,
        ));
        operations.telemetry().serving(Parts {
            broker: broker.clone(),
            registry: registry.clone(),
            shards: shards.clone(),
            holdings,
            handshakes,
            identity: server_identity(config, Arc::new(tls::crypto_provider())),
            space: space.clone(),
        });
        Ok(Server {
            broker,
            registry,
            address,
            admin_address,
            shutdown,
            listeners,
            keeper,
            space,
            _shards: shards,
            operations,
        })
    }

    /// Where workloads connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Where probes and scrapers connect, where they may.
    pub fn operations_address(&self) -> Option<SocketAddr> {
        self.operations.address()
    }

    /// How the broker stands.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        self.operations.telemetry()
    }

    /// The broker behind the listeners.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// What administrators keep.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// How much room the disks have, as it was last looked at.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Drains the listeners, records the stop, and closes the log.
    pub async fn stop(self) {
        self.operations.telemetry().draining();
        let _ = self.shutdown.send(true);
        for listener in self.listeners {
            let _ = listener.await;
        }
        let _ = self.keeper.await;
        if let Err(error) = self.broker.recorder.note(Event::Stopped {}, self.broker.clock.untrusted()).await
        {
            tracing::error!(%error, "the stop could not be recorded");
        }
        let log = self.broker.recorder.log().clone();
        let closed = tokio::task::spawn_blocking(move || log.close()).await;
        if closed.is_err() {
            tracing::error!("the audit log did not close in order");
        }
    }
}

async fn assemble(
    config: &Config,
    vault: &Arc<Vault>,
    clock: Arc<Clock>,
    recorder: Arc<Recorder>,
    recovered: Recovered,
    kv: Arc<Kv>,
    marked: Arc<Marked>,
) -> Result<(Broker, Collateral), StartError> {
    let marks: Arc<dyn Marks> = Arc::new(DurableMarks(StoredMarks::start(vault.clone())?, marked));
    let (domains, now) = (config.domains(), clock.untrusted());
    let collateral_marks = marks.clone();
    let opened = tokio::task::spawn_blocking(move || Trust::open(domains, marks, now)).await;
    let trust = Arc::new(opened.map_err(|_| StoreError::Unavailable("trust was not opened".to_owned()))?);
    let kv: Arc<dyn Engine> = kv;
    let engines = BTreeMap::from([("kv".to_owned(), kv)]);
    let verifiers = Arc::new(Verifiers::new(None));
    verifiers.seen().remember(recovered.counters);
    let collateral = open_collateral(config, &clock, collateral_marks, &verifiers).await?;
    let appraiser = Arc::new(Appraiser::new());
    let pdp = Arc::new(Pdp::new(Arc::new(engines.clone())));
    let engines = Arc::new(Engines {
        engines,
        trust: trust.clone(),
        verifiers: verifiers.clone(),
        appraiser: appraiser.clone(),
        pdp: pdp.clone(),
        leases: Arc::new(recovered.leases),
        barrier: Arc::new(Barrier::default()),
    });
    let broker = Broker {
        offer: config.offer(),
        clock,
        freshness: Freshness::new(trust.clone()),
        trust,
        revocations_known: AtomicBool::new(false),
        admission: Admission::new(config.rates()),
        verifiers,
        latches: Arc::new(Latches::new(recovered.latches)),
        appraiser,
        pdp,
        recorder,
        engines,
        measures: Measures::default(),
    };
    Ok((broker, collateral))
}

/// What hardware evidence is held against: the configured trust, and around it what is kept and fetched.
async fn open_collateral(
    config: &Config,
    clock: &Arc<Clock>,
    marks: Arc<dyn Marks>,
    verifiers: &Verifiers,
) -> Result<Collateral, StartError> {
    let (section, settings, now) = (config.evidence.clone(), config.collateral.clone(), clock.untrusted());
    let (clock, marks_too) = (clock.clone(), marks.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let hardware = section.read_against(marks_too.as_ref(), now);
        let trust = (
            hardware.sev_snp.known().cloned().unwrap_or_else(SevSnpTrust::empty),
            hardware.tdx.known().cloned().unwrap_or_else(TdxTrust::none),
        );
        Holdings::open(settings, trust, clock, marks_too, now).map(|holdings| (hardware, holdings))
    });
    let opened = opened.await.map_err(|_| StoreError::Unavailable("evidence was not read".to_owned()))?;
    let (hardware, holdings): (Hardware, Holdings) = opened.map_err(StartError::Collateral)?;
    verifiers.set_hardware(hardware);
    verifiers.set_supply(Arc::new(holdings.clone()));
    Ok(Collateral { holdings, marks })
}

/// The room of store and log. A store that is not there yet has none to look at.
fn space(config: &Config) -> Arc<Space> {
    let bytes = u64::from(config.storage.ballast_mib).saturating_mul(1024 * 1024);
    Arc::new(Space::new(&config.storage.data, &config.storage.audit, bytes))
}

/// Holds store and log against each other before either is opened, as opening changes both: what is damaged stays as it is.
pub(super) fn examine(config: &Config, key: &LogKey, now: Now) -> Result<(), StartError> {
    let report = Log::examine(&config.storage.audit, key, recover::horizon(now));
    let report = report.map_err(|error| StartError::Log(error.to_string()))?;
    match SledStore::examine_with(&config.storage.data, Vault::KEYRING)? {
        Some((id, stored, keyring)) => {
            // What intents there are is told by the records alone: that they have an end is the opened log's matter.
            recover::reconcile(&report, stored, stored.0)?;
            keyring.map_or(Ok(()), |sealed| Ok(keys::try_keys(&config.storage, id, &sealed)?))
        }
        None => {
            tracing::warn!("no room to look at a copy of the store: opening it would change a damaged one");
            Ok(())
        }
    }
}

/// The key that signs the log, read once.
pub(super) fn log_key(config: &Config) -> Result<LogKey, StartError> {
    config.storage.log_key().map_err(StartError::Log)
}

pub(super) fn open_log(
    config: &Config,
    key: LogKey,
    since: WallTime,
    take: impl FnMut(&crate::audit::record::Record),
) -> Result<(Arc<Log>, crate::audit::log::OpenReport), StartError> {
    let opened = Log::open(&config.storage.audit, key, since, take);
    let (log, report) = opened.map_err(|error| StartError::Log(error.to_string()))?;
    Ok((Arc::new(log), report))
}

/// The highest wall time that an earlier process kept.
pub(super) async fn highest_time(vault: &Vault) -> Result<WallTime, StartError> {
    let mark = marks::read(vault, keep::HIGHEST_TIME).await?.unwrap_or_default();
    let mut bytes = [0; 8];
    let start = bytes.len().saturating_sub(mark.len());
    if let Some(tail) = bytes.get_mut(start..) {
        tail.copy_from_slice(mark.get(mark.len().saturating_sub(8)..).unwrap_or_default());
    }
    Ok(WallTime(u64::from_be_bytes(bytes)))
}

/// The digest of this program, which runs others as `exec`: no reference set may vouch for it alone.
fn own_digest() -> BTreeSet<[u8; 32]> {
    let read = std::fs::read("/proc/self/exe");
    let digest = |bytes: Vec<u8>| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let digest = read.ok().and_then(|bytes| <[u8; 32]>::try_from(digest(bytes).as_ref()).ok());
    if digest.is_none() {
        tracing::error!("this program cannot be read, so a reference set may name it as if it ran nothing");
    }
    digest.into_iter().collect()
}

pub(super) fn reading(source: &dyn TimeSource) -> Result<Now, StartError> {
    match (source.wall(), source.boot()) {
        (Some(wall), Some(boot)) => Ok(Now { wall, boot }),
        _ => Err(StartError::Clock),
    }
}

fn start_operations(config: &Config) -> Result<Operations, StartError> {
    let listen = config.operations.as_ref().map(|section| section.listen);
    let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
    Operations::start(listen).map_err(|error| StartError::Listen(listen.unwrap_or(unspecified), error))
}
