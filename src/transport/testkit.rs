//! A small CA, a clock and marks for the tests of this stage; deterministic times, real files.

use super::trust::{DomainConfig, Marks, MarksUnavailable, RevocationMode, Trust};
use crate::spiffe::TrustDomain;
use crate::time::{BootTime, Clock, Now, TimeSource, WallTime};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlIssuingDistributionPoint,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// 2026-01-01T00:00:00Z, Unix seconds: when every test begins.
pub const T0: u64 = 1_767_225_600;
pub const HOUR: i64 = 3_600;
pub const ID: &str = "spiffe://example.org/ns/payments/api";

/// `seconds` after [`T0`].
pub fn at(seconds: i64) -> Now {
    let wall = (T0 as i64 + seconds) as u64 * 1000;
    Now { wall: WallTime(wall), boot: BootTime((1_000_000 + seconds) as u64 * 1000) }
}

/// T0 + `seconds`, as rcgen wants it; a macro, as its type is another crate's.
macro_rules! date {
    ($seconds:expr) => {{
        let base = rcgen::date_time_ymd(2026, 1, 1);
        let seconds: i64 = $seconds;
        let span = std::time::Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { base - span } else { base + span }
    }};
}
pub(super) use date;

#[derive(Default)]
pub struct Hands {
    pub wall: AtomicU64,
    pub boot: AtomicU64,
}

impl Hands {
    pub fn set(&self, now: Now) {
        self.wall.store(now.wall.0, Ordering::SeqCst);
        self.boot.store(now.boot.0, Ordering::SeqCst);
    }
}

impl TimeSource for Hands {
    fn wall(&self) -> Option<WallTime> {
        Some(self.wall.load(Ordering::SeqCst)).filter(|ms| *ms > 0).map(WallTime)
    }
    fn boot(&self) -> Option<BootTime> {
        Some(BootTime(self.boot.load(Ordering::SeqCst)))
    }
    fn boot_id(&self) -> String {
        "boot".into()
    }
    fn synchronised(&self) -> bool {
        true
    }
}

/// A clock that stands at T0 + `seconds`, and the hands that move it.
pub fn clock(seconds: i64) -> (Arc<Hands>, Arc<Clock>) {
    let hands = Arc::new(Hands::default());
    hands.set(at(seconds));
    let clock = Arc::new(Clock::new(hands.clone(), WallTime(0)));
    assert!(clock.now().is_ok());
    (hands, clock)
}

#[derive(Default)]
pub struct MemoryMarks {
    pub values: Mutex<BTreeMap<String, Vec<u8>>>,
    pub broken: AtomicBool,
}

impl MemoryMarks {
    fn check(&self) -> Result<(), MarksUnavailable> {
        if self.broken.load(Ordering::SeqCst) { Err(MarksUnavailable) } else { Ok(()) }
    }
}

impl Marks for MemoryMarks {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, MarksUnavailable> {
        self.check().map(|()| self.values.lock().unwrap().get(name).cloned())
    }
    fn raise(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        self.check()?;
        let mut values = self.values.lock().unwrap();
        let mark = values.entry(name.to_owned()).or_default();
        *mark = mark.clone().max(value.to_vec());
        Ok(())
    }
    fn replace(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        self.check()?;
        self.values.lock().unwrap().insert(name.to_owned(), value.to_vec());
        Ok(())
    }
}

/// A CA.
pub struct Authority {
    pub issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
}

/// A leaf with its key, and the certificates that lead from it to a root.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

/// Validity in seconds after T0.
pub fn validity(params: &mut CertificateParams, begins: i64, ends: i64) {
    params.not_before = date!(begins);
    params.not_after = date!(ends);
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, -HOUR, 1000 * HOUR);
    params
}

pub fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(7_u64));
    validity(&mut params, -10, HOUR);
    params
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

impl Authority {
    pub fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub fn root_of(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let params = ca_params(name);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// The same name and key in another certificate.
    pub fn renewed(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        params.serial_number = Some(SerialNumber::from(9_u64));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub fn leaf(&self, id: &str) -> Identity {
        self.leaf_with(id, |_| {})
    }

    pub fn leaf_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = leaf_params(id);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain: vec![certificate.der().clone()], key }
    }

    pub fn crl(&self, number: u64, revoked: &[u64]) -> Vec<u8> {
        self.crl_with(number, revoked, |_| {})
    }

    pub fn crl_with(
        &self,
        number: u64,
        revoked: &[u64],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> Vec<u8> {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date!(-60),
            reason_code: None,
            invalidity_date: None,
        };
        let mut params = CertificateRevocationListParams {
            this_update: date!(-60),
            next_update: date!(HOUR),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None::<CrlIssuingDistributionPoint>,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub fn pem(&self) -> Vec<u8> {
        pem("CERTIFICATE", &self.certificate).into_bytes()
    }
}

impl Identity {
    pub fn through(mut self, authority: &Authority) -> Self {
        self.chain.push(authority.certificate.clone());
        self
    }

    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    pub fn connection(&self) -> Arc<super::Connection> {
        let remote = "127.0.0.1:1".parse().unwrap();
        Arc::new(super::Connection::new(self.chain.clone(), [0; 32], remote).unwrap())
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A SPIFFE bundle.
pub fn bundle(roots: &[&Authority], sequence: Option<u64>) -> Vec<u8> {
    use base64::Engine;
    let encode = |root: &&Authority| base64::engine::general_purpose::STANDARD.encode(&root.certificate);
    let key = |root| serde_json::json!({"use": "x509-svid", "kty": "EC", "x5c": [encode(root)]});
    let keys: Vec<_> = roots.iter().map(key).collect();
    let mut set = serde_json::json!({ "keys": keys });
    if let Some(sequence) = sequence {
        set["spiffe_sequence"] = sequence.into();
    }
    set.to_string().into_bytes()
}

/// Writes a file as of T0 + `seconds`.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>, seconds: i64) {
    std::fs::write(path, bytes).unwrap();
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs((T0 as i64 + seconds) as u64);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
}

/// One trust domain, `example.org`, that revokes by lists; everything good, to break one thing of.
pub struct World {
    pub folder: tempfile::TempDir,
    pub root: Authority,
    pub marks: Arc<MemoryMarks>,
}

impl World {
    pub fn new() -> Self {
        let world = World {
            folder: tempfile::tempdir().unwrap(),
            root: Authority::root("root"),
            marks: Arc::default(),
        };
        write(&world.bundle_path(), bundle(&[&world.root], Some(5)), 0);
        write(&world.crl_path(), world.root.crl(10, &[]), 0);
        world
    }

    pub fn bundle_path(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    pub fn crl_path(&self) -> PathBuf {
        self.folder.path().join("crl")
    }

    pub fn config(&self) -> DomainConfig {
        DomainConfig {
            name: TrustDomain::parse("example.org").unwrap(),
            bundle: self.bundle_path(),
            bundle_max_age_seconds: 1800,
            revocation: RevocationMode::Crl { files: vec![self.crl_path()], max_age_seconds: 7200 },
        }
    }

    pub fn trust(&self) -> Trust {
        Trust::open(vec![self.config()], self.marks.clone(), at(0))
    }

    pub fn short_lived(&self, max_lifetime_seconds: u64) -> Trust {
        let mut config = self.config();
        config.revocation = RevocationMode::ShortLived { max_lifetime_seconds };
        Trust::open(vec![config], self.marks.clone(), at(0))
    }
}

/// The SPIFFE vectors that belong to others; absent ones are said loudly, and fail a run under CI.
#[expect(clippy::disallowed_methods, reason = "CI=true is how a test run says that nothing may be skipped")]
pub fn vectors() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/spiffe");
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the SPIFFE vectors are absent");
    eprintln!("NOT RUN: the SPIFFE vectors are absent from {}", folder.display());
    None
}
