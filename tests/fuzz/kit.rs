//! What the entries need: machines under test roots, keys, a fixed time, and files where a parser takes a file alone.
//!
//! *Takes* nothing. *Gives* [`kit`], made once a process: its keys are new each time. *Denies* nothing.
//! *Source*: the builders of `tests/support`.

use portcullis::agent::key::FileKey;
use portcullis::audit::checkpoint::{Checkpoint, LogKey};
use portcullis::audit::frame::Body;
use portcullis::audit::log::Log;
use portcullis::audit::segment::Reader;
use portcullis::cli::devca::{DevelopmentCa, Leaf, LeafRequest};
use portcullis::evidence::nitro::NitroTrust;
use portcullis::evidence::process::{
    self, EnrolledNode, Executable, NodeSigner, Nodes, ProcessClaims, Program, Statement,
};
use portcullis::evidence::sev_snp::SevSnpTrust;
use portcullis::evidence::tdx::TdxTrust;
use portcullis::evidence::tpm2::{AttestationKey, Counters, EnrolledAk, Tpm2Trust};
use portcullis::release::sealing::{Recipient, seal};
use portcullis::request::RecipientKey;
use portcullis::spiffe::{IdPattern, SpiffeId};
use portcullis::store::keysource::{Key, KeySource, KeySourceError, Lock};
use portcullis::time::{BootTime, Now, WallTime};
use std::cell::OnceCell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[path = "../support/corim.rs"]
pub mod corim;
#[path = "ek.rs"]
pub mod ek;
#[path = "../support/nitro.rs"]
pub mod nitro;
#[path = "../support/sev_snp.rs"]
pub mod sev_snp;
#[path = "../support/tdx.rs"]
pub mod tdx;
#[path = "../support/tpm2.rs"]
pub mod tpm2;

/// Every entry's time: 2026-09-21T14:13:20Z.
pub const SECONDS: u64 = 1_790_000_000;
pub const NOW: Now = Now { wall: WallTime(SECONDS * 1000), boot: BootTime(1_000_000) };
/// What each good document is bound to.
pub const BOUND: [u8; 64] = [0x5a; 64];
pub const IDENTITY: &str = "spiffe://example.org/ns/app/api";
pub const STORE: [u8; 16] = [7; 16];

/// A document, what came along, and who is trusted.
pub struct Machine<T> {
    pub body: Vec<u8>,
    pub endorsements: Vec<Vec<u8>>,
    pub trust: T,
}

pub struct Kit {
    pub process: Machine<Nodes>,
    pub nitro: Machine<NitroTrust>,
    pub snp: Machine<SevSnpTrust>,
    pub snp_list: Vec<u8>,
    pub tdx: Machine<TdxTrust>,
    pub sgx: Machine<TdxTrust>,
    pub tpm2: Machine<Tpm2Trust>,
    pub ek: ek::Certified,
    pub recipient: Sealing,
    pub ak: tpm2::Ak,
    pub event_log: Vec<u8>,
    pub publisher: corim::Publisher,
    pub ca: DevelopmentCa,
    pub leaf: Leaf,
    pub node_pkcs8: Vec<u8>,
}

/// The kit of this process.
pub fn kit() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(Kit::new)
}

impl Kit {
    fn new() -> Kit {
        let node_pkcs8 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_der();
        let ca = DevelopmentCa::new("spiffe://example.org", NOW.wall).unwrap();
        let ak = tpm2::Ak::p256();
        let event_log = tpm2::event_log(&[tpm2::SHA256], None, &[(0, 8, b"version"), (7, 1, b"policy")]);
        let (snp, snp_list) = snp_machine();
        Kit {
            process: process_machine(&FileKey::from_pkcs8(&node_pkcs8).unwrap()),
            nitro: nitro_machine(),
            snp,
            snp_list,
            tdx: tdx_machine(),
            sgx: sgx_machine(),
            tpm2: tpm2_machine(&ak),
            ek: ek::Certified::new(),
            recipient: Sealing::new(),
            ak,
            event_log,
            publisher: corim::Publisher::new(),
            leaf: ca.leaf(&leaf_request()).unwrap(),
            ca,
            node_pkcs8,
        }
    }
}

fn leaf_request() -> LeafRequest {
    LeafRequest {
        id: Some(SpiffeId::parse(IDENTITY).unwrap()),
        name: "leaf".into(),
        hosts: vec![],
        serial: 1,
        not_before: WallTime(NOW.wall.0 - 1000),
        not_after: NOW.wall.plus(3_600_000),
    }
}

fn process_machine(key: &FileKey) -> Machine<Nodes> {
    let file = |path: &str, byte| Executable { path: path.into(), sha256: [byte; 32], fs_verity: None };
    let statement = Statement {
        binding: BOUND,
        iat: SECONDS,
        node: "node-1".into(),
        boot_id: "0f3b8a8e-6f4a-4f4e-9d1e-2b7c8d9e0a1b".into(),
        process: ProcessClaims {
            executable: file("/usr/bin/portcullis", 1),
            uid: 1000,
            gid: 1000,
            groups: vec![10, 20],
            arguments_sha256: [2; 32],
            cgroup: "/system.slice/app.service".into(),
            systemd_unit: Some("app.service".into()),
            container_id: Some("abc".into()),
            start_time: 12_345,
            program: vec![Program { path: "/usr/bin/app".into(), sha256: [3; 32] }],
        },
    };
    let node = EnrolledNode {
        name: "node-1".into(),
        public_key: key.public_key().clone(),
        not_after: NOW.wall.plus(86_400_000),
        may_vouch_for: vec![IdPattern::parse("spiffe://example.org/ns/*").unwrap()],
        measurements: Default::default(),
    };
    let body = process::sign(&statement, key).unwrap();
    Machine { body, endorsements: vec![], trust: Nodes::new([node], 1) }
}

fn nitro_machine() -> Machine<NitroTrust> {
    let chain = nitro::Chain::new(SECONDS);
    let trust = NitroTrust::aws().unwrap().and_root("test", &chain.root, None).unwrap();
    Machine { body: chain.attest(&BOUND, NOW.wall.0), endorsements: vec![], trust }
}

fn snp_machine() -> (Machine<SevSnpTrust>, Vec<u8>) {
    let authority = sev_snp::Authority::new("Milan");
    let vcek = authority.vcek();
    let mut trust = SevSnpTrust::empty();
    trust.add_root(&authority.ark).unwrap();
    let endorsements = vec![vcek.certificate.clone(), authority.ask.clone()];
    let list = authority.list(&[], 1, SECONDS - 60, Some(SECONDS + 86_400));
    (Machine { body: vcek.sign(authority.report(3, &BOUND)), endorsements, trust }, list)
}

fn tdx_machine() -> Machine<TdxTrust> {
    let made = tdx::Plan::at(SECONDS).make();
    let trust = TdxTrust::none().with_root(&made.root_der).unwrap();
    Machine { body: made.quote(&BOUND), endorsements: vec![made.collateral.clone()], trust }
}

fn sgx_machine() -> Machine<TdxTrust> {
    let made = tdx::Plan::sgx_at(SECONDS).make();
    let trust = TdxTrust::none().with_root(&made.root_der).unwrap();
    Machine { body: made.sgx_quote(&BOUND), endorsements: vec![made.collateral.clone()], trust }
}

/// A workload's key pair, and a secret that was sealed to it: encapsulated key, then ciphertext.
pub struct Sealing {
    pub recipient: Recipient,
    pub sealed: Vec<u8>,
}

impl Sealing {
    pub const INFO: &[u8] = b"what it is sealed under";

    fn new() -> Sealing {
        let recipient = Recipient::generate().unwrap();
        let public = RecipientKey::parse(recipient.public_key()).unwrap();
        let sealed = seal(&public, Sealing::INFO, b"plaintext").unwrap();
        Sealing { recipient, sealed: [sealed.encapsulated_key, sealed.ciphertext].concat() }
    }
}

fn tpm2_machine(ak: &tpm2::Ak) -> Machine<Tpm2Trust> {
    let enrolled = EnrolledAk {
        node: "node-1".into(),
        key: AttestationKey::parse(&ak.public()).unwrap(),
        ek_sha256: [7; 32],
        enrolled_at: NOW.wall,
        counters: Counters::default(),
        not_after: NOW.wall.plus(86_400_000),
    };
    let quote = tpm2::Quote::of(&tpm2::hash(tpm2::SHA256, &[&BOUND]));
    Machine { body: quote.signed(ak), endorsements: vec![], trust: Tpm2Trust::new([enrolled], 1) }
}

/// A key source whose key is known.
pub struct Known;

impl KeySource for Known {
    fn name(&self) -> &'static str {
        "known"
    }

    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        Ok((Lock::Key, root_key()))
    }

    fn unlock(&self, _lock: &Lock) -> Result<Key, KeySourceError> {
        Ok(root_key())
    }
}

pub fn root_key() -> Key {
    Key::init_with_mut(|key: &mut [u8; 32]| *key = [9; 32])
}

/// A log's key, its file, and a segment with two records.
pub struct Written {
    pub key: LogKey,
    pub key_file: Vec<u8>,
    pub segment: Vec<u8>,
    pub note: String,
}

pub fn log() -> &'static Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    WRITTEN.get_or_init(write_log)
}

fn write_log() -> Written {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.key");
    let key = LogKey::create(&path, "portcullis/fuzz").unwrap();
    let place = directory.path().join("audit");
    let (log, _) = Log::open(&place, LogKey::load(&path).unwrap(), NOW.wall, |_| ()).unwrap();
    log.close();
    let file = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|one| one == "log")).unwrap();
    let mut segment = std::fs::read(&file).unwrap();
    segment.truncate(SEGMENT_HEADER_BYTES);
    let (mut previous, first) = {
        std::fs::write(&file, &segment).unwrap();
        let reader = Reader::open(&file).unwrap();
        (reader.header().previous, reader.header().first)
    };
    for (sequence, body) in (first..).zip([&br#"{"a":1}"#[..], b"{}"]) {
        let body = Body::new(body.to_vec()).unwrap();
        previous = body.frame(&mut segment, sequence, 1, previous);
    }
    let root = previous;
    let checkpoint = Checkpoint { origin: "portcullis/fuzz".into(), size: 2, root };
    Written { note: checkpoint.sign(&key), key_file: std::fs::read(&path).unwrap(), key, segment }
}

/// `src/audit/segment.rs`: a header has a block of its own.
const SEGMENT_HEADER_BYTES: usize = 4096;

/// Writes `bytes` to a file of this thread, mode 0600, and hands its path over.
pub fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let path = scratch().join(name);
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let outcome = read(&path);
    std::fs::remove_file(&path).unwrap();
    outcome
}

fn scratch() -> PathBuf {
    thread_local!(static SCRATCH: OnceCell<tempfile::TempDir> = const { OnceCell::new() });
    SCRATCH.with(|scratch| scratch.get_or_init(|| tempfile::tempdir().unwrap()).path().to_owned())
}
