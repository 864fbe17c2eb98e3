//! A whole registry over a map, a real log in a directory, and administrators made by hand.

use crate::api::admin::AdminService;
use crate::appraisal::Appraiser;
use crate::audit::Recorder;
use crate::audit::checkpoint::LogKey;
use crate::audit::log::Log;
use crate::audit::record::{Event, LatchSet, Record};
use crate::broker::Broker;
use crate::case::{Case, PathVersion, Stage};
use crate::challenge::Offer;
use crate::challenge::admission::{Admission, Rates};
use crate::denial::Denial;
use crate::evidence::Verifiers;
use crate::evidence::hardware::{Hardware, Held};
use crate::evidence::tdx::tests::support as intel;
use crate::evidence::tpm2::enroll::Manufacturers;
use crate::freshness::Freshness;
use crate::latch::Latches;
use crate::policy::Pdp;
use crate::registry::keys::NextSource;
use crate::registry::{Administrator, Registry, Role, enrol_first};
use crate::release::kv::Kv;
use crate::release::lease::{Lease, Leases};
use crate::release::{Barrier, Engine, Engines};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::store::keyring::tests::FixedKey;
use crate::store::memory::MemoryStore;
use crate::store::{Kind, Vault};
use crate::time::{BootTime, Clock, Now, TimeSource, WallTime};
use crate::transport::{AdminConnection, DomainConfig, Marks, MarksUnavailable, RevocationMode, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tonic::{Code, Request, Response, Status};

pub(super) const ID: &str = "spiffe://example.org/ns/payments/api";
/// 2026-06-01T00:00:00Z.
pub(super) const T0: u64 = 1_780_272_000_000;
pub(super) const LATER: &str = "2026-12-01T00:00:00Z";

#[derive(Default)]
pub(super) struct Hands {
    pub(super) wall: AtomicU64,
    pub(super) boot: AtomicU64,
}

impl Hands {
    pub(super) fn step(&self, ms: i64) {
        self.wall.store((self.wall.load(Ordering::SeqCst) as i64 + ms) as u64, Ordering::SeqCst);
    }
}

impl TimeSource for Hands {
    fn wall(&self) -> Option<WallTime> {
        Some(WallTime(self.wall.load(Ordering::SeqCst)))
    }
    fn boot(&self) -> Option<BootTime> {
        Some(BootTime(self.boot.load(Ordering::SeqCst)))
    }
    fn boot_id(&self) -> String {
        "boot".into()
    }
    fn synchronised(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct MemoryMarks(Mutex<BTreeMap<String, Vec<u8>>>);

impl Marks for MemoryMarks {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, MarksUnavailable> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }
    fn raise(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        let mut marks = self.0.lock().unwrap();
        if marks.get(name).is_none_or(|mark| mark.as_slice() < value) {
            marks.insert(name.to_owned(), value.to_vec());
        }
        Ok(())
    }
    fn replace(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        self.0.lock().unwrap().insert(name.to_owned(), value.to_vec());
        Ok(())
    }
}

/// Intel's part, of a root of its own.
pub(super) static INTEL: std::sync::LazyLock<intel::Synthetic> =
    std::sync::LazyLock::new(|| intel::Plan::at(T0 / 1000).make());

/// An administrator's end of a connection.
pub(super) struct Operator {
    pub(super) connection: Arc<AdminConnection>,
    pub(super) certificate: String,
    pub(super) key_sha256: String,
}

impl Operator {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["ada".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap();
        let chain = vec![certificate.der().clone()];
        let connection = AdminConnection::new(chain, [0; 32], "127.0.0.1:1".parse().unwrap()).unwrap();
        let key_sha256 = hex::encode(connection.leaf_spki_sha256());
        Operator { connection: Arc::new(connection), certificate: certificate.pem(), key_sha256 }
    }

    pub(super) fn asks<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(self.connection.clone());
        request
    }
}

pub(super) struct Bench {
    pub(super) service: AdminService,
    pub(super) registry: Arc<Registry>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) hands: Arc<Hands>,
    /// Who may do everything.
    pub(super) root: Operator,
    pub(super) ca: String,
    pub(super) directory: tempfile::TempDir,
}

impl Bench {
    pub(super) async fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let audit = directory.path().join("audit");
        let key = LogKey::create(&directory.path().join("audit.key"), "portcullis/test").unwrap();
        let (log, _) = Log::open(&audit, key, WallTime(0), |_| ()).unwrap();
        let hands = Arc::new(Hands::default());
        hands.wall.store(T0, Ordering::SeqCst);
        hands.boot.store(1_000_000, Ordering::SeqCst);
        let clock = Arc::new(Clock::new(hands.clone(), WallTime(0)));
        let now = clock.now().unwrap();
        let store = Arc::new(MemoryStore::new());
        let vault = Arc::new(Vault::create(store.clone(), &FixedKey(1)).await.unwrap());
        let recorder = Arc::new(Recorder::new(Arc::new(log), "boot".to_owned()));
        let root = Operator::new();
        let first = Administrator {
            name: "root".into(),
            key_sha256: root.key_sha256.clone(),
            roles: Role::ALL.into(),
            not_after: WallTime(T0 + 86_400_000),
        };
        enrol_first(&vault, &recorder, &first, now).await.unwrap();
        let (ca, domain) = domain(directory.path());
        let trust = Arc::new(Trust::open(vec![domain], Arc::new(MemoryMarks::default()), now));
        // As after a restore, so that there is one to accept.
        crate::registry::leave_unaccepted(&vault).await;
        let kv = Arc::new(Kv::new(vault.clone()).unwrap());
        let broker = Arc::new(broker(clock, trust, recorder, kv.clone()));
        let registry = Arc::new(Registry::new(vault, broker, BTreeSet::from([[0xbb; 32]])));
        registry.load().await;
        registry.offer_next_source(NextSource::Source(Arc::new(FixedKey(2))));
        registry.broker().verifiers.set_hardware(Hardware {
            manufacturers: Held::Known(Arc::new(Manufacturers::none())),
            ..Hardware::default()
        });
        let intel = crate::evidence::tdx::TdxTrust::none().with_root(&INTEL.root_der).unwrap();
        let trust = (crate::evidence::sev_snp::SevSnpTrust::amd(), intel);
        let clock = registry.broker().clock.clone();
        let marks = Arc::new(MemoryMarks::default());
        let holdings = crate::collateral::Holdings::open(Default::default(), trust, clock, marks, now);
        let service = AdminService::new(registry.clone(), kv, audit);
        let service = AdminService { collateral: Some(holdings.unwrap()), ..service };
        Bench { service, registry, store, hands, root, ca, directory }
    }

    pub(super) fn now(&self) -> Now {
        self.registry.broker().clock.untrusted()
    }

    /// An operator with these roles alone, for a day.
    pub(super) async fn operator(&self, name: &str, roles: &[Role]) -> Operator {
        use crate::proto::admin::{PutAdministratorRequest, put_administrator_request::Key};
        let operator = Operator::new();
        let request = PutAdministratorRequest {
            name: name.into(),
            roles: roles.iter().map(|role| role.name().to_owned()).collect(),
            not_after: "2026-06-02T00:00:00Z".into(),
            key: Some(Key::CertificatePem(operator.certificate.clone())),
        };
        use crate::proto::admin::admin_server::Admin;
        self.service.put_administrator(self.root.asks(request)).await.unwrap();
        operator
    }

    /// A refusal that holds, as a request would leave it.
    pub(super) fn refuse(&self, subject: &str, secret: &str, denial: Denial, stage: Stage) -> LatchSet {
        let mut case = Box::new(Case::new());
        case.stage = stage;
        case.identity = Some(SpiffeId::parse(ID).unwrap());
        case.subject = subject.into();
        case.node = Some("n1".into());
        case.secrets = vec![PathVersion { path: secret.into(), version: None }];
        if stage >= Stage::Policy {
            case.refused_secret = Some(secret.into());
        }
        let mut sets = self.registry.broker().latches.refuse(&case.deny(denial), "refusal", self.now());
        sets.remove(0)
    }

    pub(super) fn enter_lease(&self, id: &str) {
        let now = self.now();
        self.registry.broker().leases().enter(Lease {
            id: id.into(),
            identity: SpiffeId::parse(ID).unwrap(),
            key_sha256: "ab".repeat(32),
            secrets: vec![("kv/a".into(), 1)],
            not_after: now.wall.plus(300_000),
            not_after_boot: now.boot.plus(300_000),
            decision_id: "0".repeat(32),
        });
    }

    /// All records, oldest first.
    pub(super) fn records(&self) -> Vec<Record> {
        let directory = self.directory.path().join("audit");
        let records = crate::audit::show::records(&directory, Default::default()).unwrap();
        records.map(|record| record.unwrap().1).collect()
    }

    /// The verbs of intents and of refusals, in order.
    pub(super) fn acts(&self) -> Vec<String> {
        let act = |record: &Record| match &record.event {
            Event::AdminIntent { act, .. } => Some(act.verb.clone()),
            Event::AdminRead { act, refused: Some(_) } => Some(format!("refused {}", act.verb)),
            _ => None,
        };
        self.records().iter().filter_map(act).collect()
    }

    /// Moves the log's file away under the broker, or back.
    pub(super) fn break_log(&self, broken: bool) {
        let (here, away) = (self.segment(), self.directory.path().join("away"));
        let (from, to) = if broken { (here, away) } else { (away, here) };
        std::fs::rename(from, to).unwrap();
    }

    /// Everything that the log's directory holds.
    pub(super) fn log_bytes(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.directory.path().join("audit")).unwrap();
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap_or_default()).collect()
    }

    /// All that is stored, but the marks of intents.
    pub(super) fn stored(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        self.store.tamper(|map| all = map.clone());
        all.retain(|key, _| key.first() != Some(&Kind::State.code()));
        all
    }

    fn segment(&self) -> PathBuf {
        self.directory.path().join("audit").join("segment-0000000001.log")
    }
}

pub(super) fn code<T>(outcome: Result<Response<T>, Status>) -> Code {
    outcome.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn domain(directory: &std::path::Path) -> (String, DomainConfig) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 5, 31),
        next_update: date_time_ymd(2026, 12, 1),
        crl_number: SerialNumber::from(7_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap();
    let (bundle, crl) = (directory.join("bundle.pem"), directory.join("crl.pem"));
    std::fs::write(&bundle, issuer.pem()).unwrap();
    let written = std::time::UNIX_EPOCH + std::time::Duration::from_millis(T0);
    std::fs::File::options().append(true).open(&bundle).unwrap().set_modified(written).unwrap();
    std::fs::write(&crl, list.pem().unwrap()).unwrap();
    let config = DomainConfig {
        name: TrustDomain::parse("example.org").unwrap(),
        bundle,
        bundle_max_age_seconds: 10 * 365 * 86_400,
        revocation: RevocationMode::Crl { files: vec![crl], max_age_seconds: 10 * 365 * 86_400 },
    };
    (issuer.pem(), config)
}

fn broker(clock: Arc<Clock>, trust: Arc<Trust>, recorder: Arc<Recorder>, kv: Arc<Kv>) -> Broker {
    let engines: BTreeMap<String, Arc<dyn Engine>> =
        BTreeMap::from([("kv".to_owned(), kv as Arc<dyn Engine>)]);
    let (verifiers, appraiser) = (Arc::new(Verifiers::new(None)), Arc::new(Appraiser::new()));
    let pdp = Arc::new(Pdp::new(Arc::new(engines.clone())));
    let engines = Arc::new(Engines {
        engines,
        trust: trust.clone(),
        verifiers: verifiers.clone(),
        appraiser: appraiser.clone(),
        pdp: pdp.clone(),
        leases: Arc::new(Leases::default()),
        barrier: Arc::new(Barrier::default()),
    });
    Broker {
        offer: Offer {
            audience: SpiffeId::parse("spiffe://example.org/portcullis").unwrap(),
            formats: vec!["process".into(), "tpm2".into()],
            answer_within_ms: 5000,
            channel_binding_none: false,
            reattest_within_ms: 60_000,
        },
        clock,
        freshness: Freshness::new(trust.clone()),
        trust,
        revocations_known: AtomicBool::new(false),
        admission: Admission::new(Rates::default()),
        verifiers,
        latches: Arc::new(Latches::default()),
        appraiser,
        pdp,
        recorder,
        engines,
        measures: Default::default(),
    }
}
