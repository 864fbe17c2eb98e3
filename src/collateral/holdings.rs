//! What is held, and the fetching of what is not: one exchange at a time for one item, and none for a service that fails.
//!
//! *Takes* documents, configuration, the operator's trust. *Gives* [`Holdings`], and trust for one document. *Denies* nothing
//! itself. *Source*: `evidence.md` §1; `fail-open-catalogue.md` rows 5, 8, 15.

use super::allowance::Allowances;
use super::back_off::BackOff;
use super::config::{CollateralConfig, ConfigFault};
use super::dcap::DcapHeld;
use super::directory::{Directory, file_name};
use super::endpoint::Endpoint;
use super::exchange::{self, Answer, Failed};
use super::failure::Failure;
use super::item::{Item, Service};
use super::marks::DurableMarks;
use super::sev_snp::SevSnpHeld;
use super::status::{FileFault, HeldItem, Origin, ServiceStatus, Status};
use crate::evidence::sev_snp::{self, ListMark, SevSnpTrust};
use crate::evidence::tdx::{self, Age, Question, TdxTrust};
use crate::limits;
use crate::time::{Clock, Now, WallTime};
use crate::transport::Marks;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Sleep;

/// All collateral of this broker. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Holdings(pub(super) Arc<Inner>);

/// Trust for one document, and what could not be had for it.
#[derive(Debug)]
pub struct AtHand<T> {
    /// What the format's `verify` takes.
    pub trust: T,
    /// What is still missing, for the detail of the denial that follows from it.
    pub lacking: Vec<Lacking>,
}

/// An item that could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Which.
    pub item: Item,
    /// Why.
    pub failure: Failure,
}

pub(super) struct Inner {
    pub(super) config: CollateralConfig,
    pub(super) clock: Arc<Clock>,
    runtime: tokio::runtime::Handle,
    pub(super) sev_snp: Mutex<SevSnpHeld>,
    pub(super) dcap: Mutex<DcapHeld>,
    directory: Option<Directory>,
    under_way: Mutex<HashMap<Item, watch::Receiver<Option<Outcome>>>>,
    exchanges: Semaphore,
    services: BTreeMap<Service, Mutex<ServiceState>>,
    failed: Mutex<HashMap<Item, BackOff>>,
    faults: Mutex<Vec<FileFault>>,
    pub(super) marks: DurableMarks,
    origins: Mutex<HashMap<Item, Origin>>,
    allowances: Mutex<Allowances>,
    /// Raised with each list or statement that was not held before.
    pub(super) epoch: AtomicU64,
}

/// Whether an item is held now.
pub(super) type Outcome = Result<(), Failure>;

#[derive(Default)]
struct ServiceState {
    back_off: BackOff,
    answered: Option<WallTime>,
    failed: Option<(String, WallTime, String)>,
}

impl Holdings {
    /// Holdings under the operator's trust, with what the directory has, nothing of it older than the marks. To be called on
    /// the runtime that is to do the fetching; blocks. A directory that cannot be used is said in the status, and costs only
    /// what it held.
    pub fn open(
        config: CollateralConfig,
        trust: (SevSnpTrust, TdxTrust),
        clock: Arc<Clock>,
        marks: Arc<dyn Marks>,
        now: Now,
    ) -> Result<Holdings, ConfigFault> {
        config.check()?;
        let (sev_snp, tdx) = trust;
        let opened = config.directory.as_deref().map(Directory::open).transpose();
        let (directory, fault) = match opened {
            Ok(directory) => (directory, None),
            Err(error) => (None, Some(FileFault { file: ".".to_owned(), why: error.to_string() })),
        };
        let services = Service::ALL.map(|service| (service, Mutex::default()));
        let holdings = Holdings(Arc::new(Inner {
            clock,
            runtime: tokio::runtime::Handle::current(),
            sev_snp: Mutex::new(SevSnpHeld::new(sev_snp, config.list_max_age_seconds())),
            dcap: Mutex::new(DcapHeld::new(tdx)),
            directory,
            under_way: Mutex::default(),
            exchanges: Semaphore::new(config.exchanges),
            services: services.into(),
            failed: Mutex::default(),
            faults: Mutex::new(fault.into_iter().collect()),
            marks: DurableMarks::new(marks),
            origins: Mutex::default(),
            allowances: Mutex::default(),
            epoch: AtomicU64::new(0),
            config,
        }));
        holdings.0.load(now);
        holdings.0.keep_marks();
        Ok(holdings)
    }

    /// Swaps the operator's trust, such as after a root was switched off; what it does not vouch for is let go, and what the
    /// directory has for a root that is new is taken in. Blocks.
    pub fn set_trust(&self, (sev_snp, tdx): (Option<SevSnpTrust>, Option<TdxTrust>), now: Now) {
        let before = self.0.roots();
        if let Some(trust) = sev_snp {
            locked(&self.0.sev_snp).rebase(trust, now);
        }
        if let Some(trust) = tdx {
            locked(&self.0.dcap).rebase(trust, now);
        }
        if !self.0.roots().is_subset(&before) {
            self.0.load(now);
        }
        self.0.keep_marks();
    }

    /// Trust for a `sev-snp` document, with what it needs: held, or fetched within the time given. A document that does not
    /// parse needs nothing; its verifier says why.
    pub async fn sev_snp<E: AsRef<[u8]>>(
        &self,
        body: &[u8],
        endorsements: &[E],
        within: Duration,
        now: Now,
    ) -> AtHand<SevSnpTrust> {
        let missing = |now| self.missing_for_sev_snp(body, endorsements, now);
        let lacking = self.fetch_missing(missing, None, within, now).await;
        AtHand { trust: self.sev_snp_trust(body, now), lacking }
    }

    /// Trust for a `tdx` or `sgx` document; as [`Holdings::sev_snp`].
    pub async fn tdx<E: AsRef<[u8]>>(
        &self,
        body: &[u8],
        endorsements: &[E],
        within: Duration,
        now: Now,
    ) -> AtHand<TdxTrust> {
        self.take_brought(body, endorsements, now).await;
        let missing = |now| self.missing_for_tdx(body, endorsements, now);
        let lacking = self.fetch_missing(missing, None, within, now).await;
        AtHand { trust: self.tdx_trust(body, now), lacking }
    }

    /// What a `sev-snp` document needs that neither came along nor is held, current.
    pub fn missing_for_sev_snp<E: AsRef<[u8]>>(
        &self,
        body: &[u8],
        endorsements: &[E],
        now: Now,
    ) -> Vec<Item> {
        let Ok(report) = sev_snp::parse(body) else { return Vec::new() };
        locked(&self.0.sev_snp).missing(&report, endorsements, now)
    }

    /// What a `tdx` or `sgx` document needs that neither came along nor is held, current.
    pub fn missing_for_tdx<E: AsRef<[u8]>>(&self, body: &[u8], endorsements: &[E], now: Now) -> Vec<Item> {
        let Ok(quote) = tdx::parse(body) else { return Vec::new() };
        let trust = locked(&self.0.dcap).trust_for(&quote, now);
        let Ok(platform) = tdx::platform(&quote) else { return Vec::new() };
        let known = platform
            .questions()
            .into_iter()
            .filter_map(|question| self.0.marks.known(&question).map(|age| (question, Some(age))));
        let trust = trust.with_oldest(known);
        tdx::needed(&quote, endorsements, &trust, now).into_iter().map(Item::Dcap).collect()
    }

    /// Trust for a `sev-snp` document of what is held; nothing is fetched.
    pub fn sev_snp_trust(&self, body: &[u8], now: Now) -> SevSnpTrust {
        let mut held = locked(&self.0.sev_snp);
        match sev_snp::parse(body) {
            Ok(report) => held.trust_for(&report, now),
            Err(_) => SevSnpTrust::empty(),
        }
    }

    /// Trust for a `tdx` or `sgx` document of what is held, which refuses what is older than the marks; nothing is fetched.
    pub fn tdx_trust(&self, body: &[u8], now: Now) -> TdxTrust {
        let Ok(quote) = tdx::parse(body) else { return locked(&self.0.dcap).base().clone() };
        let trust = locked(&self.0.dcap).trust_for(&quote, now);
        let Ok(platform) = tdx::platform(&quote) else { return trust };
        let known = platform.questions().map(|question| (question, self.0.marks.known(&question)));
        // Nobody reads the marks for a platform that somebody made up; its quote is refused all the same.
        if known.iter().all(|(_, age)| age.is_some()) || tdx::is_issued(&quote, &trust) {
            return trust.with_oldest(known);
        }
        trust
    }

    /// Gets items, each from its service unless it is held and current; what could not be had within the time given comes
    /// back with the reason. The fetching itself goes on.
    pub async fn get(&self, items: Vec<Item>, within: Duration) -> Vec<Lacking> {
        let mut deadline = std::pin::pin!(tokio::time::sleep(within));
        self.get_until(items, None, deadline.as_mut()).await
    }

    /// What is held, and how the services fare.
    pub fn status(&self, now: Now) -> Status {
        let mut held = locked(&self.0.sev_snp).all();
        held.extend(locked(&self.0.dcap).all());
        held.sort_by_key(|(item, _, _, ends)| (*ends, item.clone()));
        let shown = |(item, issued, obtained, ends): (Item, WallTime, Now, WallTime)| HeldItem {
            what: item.to_string(),
            service: item.service(),
            origin: locked(&self.0.origins).get(&item).copied().unwrap_or(Origin::Directory),
            issued,
            obtained: obtained.wall,
            ends,
            current: self.0.is_current(&item, now) == Some(true),
        };
        Status {
            held: held.into_iter().map(shown).collect(),
            services: self.0.services.iter().filter_map(|service| self.0.shown(service, now)).collect(),
            faults: locked(&self.0.faults).clone(),
            under_way: locked(&self.0.under_way).len(),
        }
    }

    /// Whether what is taken in outlives a restart.
    pub fn is_durable(&self) -> bool {
        self.0.directory.is_some()
    }

    /// How new AMD's lists are, for whoever keeps that durably: handed back in the trust at a start
    /// ([`SevSnpTrust::remember`]), no older list is taken, even where the directory was lost or put back.
    pub fn list_marks(&self) -> Vec<ListMark> {
        locked(&self.0.sev_snp).marks()
    }

    /// Two rounds: what a document is, its certificate may say first.
    pub(super) async fn fetch_missing(
        &self,
        missing: impl Fn(Now) -> Vec<Item>,
        identity: Option<&str>,
        within: Duration,
        now: Now,
    ) -> Vec<Lacking> {
        let mut deadline = std::pin::pin!(tokio::time::sleep(within));
        let mut lacking: Vec<Lacking> = Vec::new();
        for _ in 0..2 {
            let mut items = missing(now);
            items.retain(|item| lacking.iter().all(|known| known.item != *item));
            if items.is_empty() {
                break;
            }
            lacking.extend(self.get_until(items, identity, deadline.as_mut()).await);
        }
        lacking
    }

    async fn get_until(
        &self,
        items: Vec<Item>,
        identity: Option<&str>,
        mut deadline: Pin<&mut Sleep>,
    ) -> Vec<Lacking> {
        let begin = |item: Item| (Inner::begin(&self.0, &item, Wish::Missing(identity)), item);
        let waiting: Vec<_> = items.into_iter().map(begin).collect();
        let mut lacking = Vec::new();
        for (begun, item) in waiting {
            let outcome = match begun {
                Ok(None) => Ok(()),
                Ok(Some(receiver)) => tokio::select! {
                    biased;
                    outcome = ended(receiver) => outcome,
                    () = deadline.as_mut() => Err(Failure::TimedOut),
                },
                Err(failure) => Err(failure),
            };
            if let Err(failure) = outcome {
                lacking.push(Lacking { item, failure });
            }
        }
        lacking
    }
}

impl Inner {
    /// Begins to fetch an item, or joins whoever does. None where it is held and current, unless a newer one is wanted.
    pub(super) fn begin(
        self: &Arc<Self>,
        item: &Item,
        wish: Wish<'_>,
    ) -> Result<Option<watch::Receiver<Option<Outcome>>>, Failure> {
        let now = self.clock.now().map_err(|_| Failure::ClockSuspect)?;
        if wish != Wish::Newer && self.is_current(item, now) == Some(true) {
            return Ok(None);
        }
        let mut under_way = locked(&self.under_way);
        if let Some(receiver) = under_way.get(item) {
            return Ok(Some(receiver.clone()));
        }
        self.check_may_ask(item, now)?;
        if under_way.len() >= limits::COLLATERAL_UNDER_WAY {
            return Err(Failure::Busy);
        }
        if let Wish::Missing(Some(identity)) = wish {
            let per_minute = self.config.fetches_per_identity_per_minute;
            if !locked(&self.allowances).take(identity, per_minute, now.boot) {
                return Err(Failure::TooOften);
            }
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(item.clone(), receiver.clone());
        drop(under_way);
        let flight = Flight { inner: self.clone(), item: item.clone(), sender };
        self.runtime.spawn(flight.fly());
        Ok(Some(receiver))
    }

    pub(super) fn is_current(&self, item: &Item, now: Now) -> Option<bool> {
        match item {
            Item::Dcap(question) => locked(&self.dcap).is_current(question, now),
            item => locked(&self.sev_snp).is_current(item, now),
        }
    }

    /// Whether neither the service nor the item is left alone just now.
    fn check_may_ask(&self, item: &Item, now: Now) -> Result<(), Failure> {
        if self.config.service(item.service()).is_none() {
            return Err(Failure::NotConfigured);
        }
        let service = self.services.get(&item.service()).ok_or(Failure::NotConfigured)?;
        let of_service = locked(service).back_off.remaining(now.boot);
        let of_item = locked(&self.failed).get(item).and_then(|back_off| back_off.remaining(now.boot));
        match of_service.max(of_item) {
            Some(left) => Err(Failure::BackingOff(left)),
            None => Ok(()),
        }
    }

    /// Fetches an item and takes it in.
    async fn fetch(self: &Arc<Self>, item: &Item) -> Outcome {
        let outcome = self.fetch_unjudged(item).await;
        let now = self.clock.untrusted();
        let asked_ms = outcome.as_ref().err().and_then(|failed| failed.retry_after_ms);
        let outcome = outcome.map_err(|failed| failed.failure);
        self.note(item, &outcome, asked_ms, now);
        outcome
    }

    async fn fetch_unjudged(self: &Arc<Self>, item: &Item) -> Result<(), Failed> {
        let answer = self.ask(item).await?;
        let now = self.clock.now().map_err(|_| Failure::ClockSuspect)?;
        if let Item::SevSnpCertificate { .. } = item {
            let lacking = locked(&self.sev_snp).lacks_intermediate(&answer.body, now);
            if let Some(intermediate) = lacking {
                let chain = self.ask(&intermediate).await?;
                self.take_answer(&intermediate, chain, now).await?;
            }
        }
        Ok(self.take_answer(item, answer, now).await?)
    }

    /// Asks for an item under its addresses in order; only where one has no such thing, the next is tried.
    async fn ask(&self, item: &Item) -> Result<Answer, Failed> {
        let (base, ca_file) = self.config.service(item.service()).ok_or(Failure::NotConfigured)?;
        let within = Duration::from_millis(self.config.exchange_within_ms);
        let permit = tokio::time::timeout(within, self.exchanges.acquire()).await;
        let _permit = permit.map_err(|_| Failure::Busy)?.map_err(|_| Failure::Defect)?;
        let mut last = Failed::from(Failure::Defect);
        for address in item.addresses(base) {
            let endpoint = Endpoint::parse(&address);
            let endpoint = endpoint.map_err(|why| Failure::Unreachable(format!("the address {why}")))?;
            // Intel's list of its root is elsewhere; a base over loopback has no CA file, and needs none.
            let question = exchange::Question {
                endpoint: &endpoint,
                ca_file,
                body_bytes: item.body_bytes(),
                header: item.header(),
                within,
            };
            match exchange::ask(&question, &self.clock).await {
                Err(failed) if matches!(failed.failure, Failure::Status(404)) => last = failed,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    async fn take_answer(self: &Arc<Self>, item: &Item, answer: Answer, now: Now) -> Outcome {
        let (inner, taken) = (self.clone(), item.clone());
        let taking = tokio::task::spawn_blocking(move || inner.take_in(&taken, answer, now));
        let written = taking.await.map_err(|_| Failure::Defect)??;
        self.write(written).await;
        if self.is_current(item, now) == Some(true) { Ok(()) } else { Err(Failure::Ended) }
    }

    /// Verifies an answer and takes it in; what is to be written, and what to be removed. Blocks.
    fn take_in(&self, item: &Item, answer: Answer, now: Now) -> Result<Changes, Failure> {
        let mut changes = Changes::default();
        match item {
            Item::SevSnpCertificate { paths } => {
                let mut held = locked(&self.sev_snp);
                changes.add(held.take_certificate(&answer.body, Some(paths), now)?);
            }
            Item::SevSnpIntermediate { .. } => {
                let taken = locked(&self.sev_snp).take_chain(&answer.body, now)?;
                if !taken.iter().any(|taken| taken.item == *item) {
                    return Err(Failure::WrongContent("another product's chain".to_owned()));
                }
                taken.into_iter().for_each(|taken| changes.add(taken));
            }
            Item::SevSnpList { product, signing_key } => {
                let mut held = locked(&self.sev_snp);
                let product = Some(*product);
                changes.add(held.take_list(&answer.body, *signing_key, product, now)?);
            }
            Item::Dcap(question) => {
                let oldest = self.marks.oldest(question)?;
                let mut held = locked(&self.dcap);
                let chain = answer.header.as_deref();
                let part = held.base().genuine_answer(question, &answer.body, chain, now)?;
                changes.written.push((item.clone(), part.json().as_bytes().to_vec()));
                held.take(part, oldest, now)?;
            }
        }
        self.settle_taken(&changes, Origin::Fetched);
        Ok(changes)
    }

    /// How new a part of Intel's must be. Blocks.
    pub(super) fn oldest(&self, question: &Question) -> Result<Age, Failure> {
        self.marks.oldest(question)
    }

    /// What was taken in counts from here on, against what was verified before it, and after a restart. Blocks.
    pub(super) fn settle_taken(&self, changes: &Changes, origin: Origin) {
        let mut origins = locked(&self.origins);
        origins.retain(|item, _| !changes.gone.contains(item));
        origins.extend(changes.written.iter().map(|(item, _)| (item.clone(), origin)));
        drop(origins);
        let narrows = |item: &Item| matches!(item, Item::SevSnpList { .. } | Item::Dcap(_));
        if changes.written.iter().any(|(item, _)| narrows(item)) {
            self.epoch.fetch_add(1, Ordering::SeqCst);
            self.keep_marks();
        }
    }

    /// Keeps how new everything is; what could not be kept is tried again with the next look at what is due, and is said.
    pub(super) fn keep_marks(&self) {
        let (lists, parts) = (locked(&self.sev_snp).marks(), locked(&self.dcap).ages());
        let kept = self.marks.keep(&lists, &parts);
        self.settle(MARKS.to_owned(), kept.map_err(|error| format!("are not kept: {error}")));
    }

    fn note(&self, item: &Item, outcome: &Outcome, asked_ms: Option<u64>, now: Now) {
        let waits = self.config.waits();
        let mut failed = locked(&self.failed);
        failed.retain(|_, back_off| !back_off.is_over(now.boot, waits));
        let Some(service) = self.services.get(&item.service()) else { return };
        let mut service = locked(service);
        match outcome {
            Ok(()) => {
                failed.remove(item);
                *service = ServiceState { answered: Some(now.wall), ..ServiceState::default() };
            }
            Err(failure) => {
                tracing::warn!(item = %item, %failure, "collateral could not be fetched");
                if failure.is_of_service() {
                    service.back_off.failed(now.boot, asked_ms, waits);
                }
                if failure.is_of_item() && failed.len() < limits::COLLATERAL_FAILED_ITEMS {
                    failed.entry(item.clone()).or_default().failed(now.boot, asked_ms, waits);
                }
                service.failed = Some((item.to_string(), now.wall, failure.to_string()));
            }
        }
    }

    fn shown(&self, (service, state): (&Service, &Mutex<ServiceState>), now: Now) -> Option<ServiceStatus> {
        let (address, _) = self.config.service(*service)?;
        let state = locked(state);
        Some(ServiceStatus {
            service: *service,
            address: address.to_owned(),
            backing_off_ms: state.back_off.remaining(now.boot).unwrap_or(0),
            answered: state.answered,
            failed: state.failed.clone(),
        })
    }

    /// Writes and removes files, off the threads that serve. A failure is said, and costs only what a restart would find.
    pub(super) async fn write(self: &Arc<Self>, changes: Changes) {
        let Some(directory) = self.directory.clone() else { return };
        let inner = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            for (item, bytes) in changes.written {
                let outcome = directory.write(&item, &bytes);
                inner
                    .settle(file_name(&item), outcome.map_err(|error| format!("cannot be written: {error}")));
            }
            for item in changes.gone {
                let outcome = directory.remove(&item);
                inner
                    .settle(file_name(&item), outcome.map_err(|error| format!("cannot be removed: {error}")));
            }
        });
        // A panic in there left whole files.
        let _ = writing.await;
    }

    /// SHA-256 of every root that is trusted now.
    fn roots(&self) -> BTreeSet<[u8; 32]> {
        let mut roots = locked(&self.sev_snp).roots();
        roots.extend(locked(&self.dcap).base().roots().iter().map(tdx::Root::sha256));
        roots
    }

    pub(super) fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// Notes what is wrong with a file, or that nothing is any more.
    pub(super) fn settle(&self, file: String, outcome: Result<(), String>) {
        let mut faults = locked(&self.faults);
        faults.retain(|fault| fault.file != file);
        if let Err(why) = outcome {
            tracing::warn!(file, why, "a collateral file does not count");
            if faults.len() < limits::COLLATERAL_FILE_FAULTS {
                faults.push(FileFault { file, why });
            }
        }
    }
}

/// What marks are called among the faults, where files have their names.
const MARKS: &str = "marks in the store";

/// Why an item is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    /// It is not held, or has ended; an identity's request needs it, or nobody's.
    Missing(Option<&'a str>),
    /// A newer one is wanted.
    Newer,
}

/// Files that follow from what was taken in.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) written: Vec<(Item, Vec<u8>)>,
    pub(super) gone: Vec<Item>,
}

impl Changes {
    pub(super) fn add(&mut self, taken: super::sev_snp::Taken) {
        self.written.push((taken.item, taken.bytes));
        self.gone.extend(taken.gone);
    }
}

/// One fetching. However it ends, it is under way no more, and whoever waits hears of it.
struct Flight {
    inner: Arc<Inner>,
    item: Item,
    sender: watch::Sender<Option<Outcome>>,
}

impl Flight {
    async fn fly(self) {
        let outcome = self.inner.fetch(&self.item).await;
        self.sender.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        locked(&self.inner.under_way).remove(&self.item);
    }
}

/// How a fetching ended; a bug where it vanished.
pub(super) async fn ended(mut receiver: watch::Receiver<Option<Outcome>>) -> Outcome {
    match receiver.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(Failure::Defect)),
        Err(_) => Err(Failure::Defect),
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is made whole before it is put in place, so what a panic left is sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
