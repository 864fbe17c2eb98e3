//! One world for each test: a real broker on loopback, its files, its clock under the test's hands, a CA built in code, and
//! a software node attester. Tests earn their witnesses through the same pipeline as everyone; there is no back door.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use futures_util::future::BoxFuture;
use portcullis::audit::record::{AdminAct, Record};
use portcullis::cli::config::Config;
use portcullis::cli::devca::{DevelopmentCa, Leaf, LeafRequest};
use portcullis::cli::init::{self, Paths, Plan};
use portcullis::cli::serve::{Server, StartError};
use portcullis::client::raw::{Identity, RawStream};
use portcullis::client::{self, AttestError, Attester, Connection, Lease, ReleaseError, Request};
use portcullis::denial::Denial;
use portcullis::evidence::process::{
    Executable, NodeKey, NodeSigner, ProcessClaims, SignError, Statement, sign,
};
use portcullis::proto::v1;
use portcullis::registry::{Change, Changed};
use portcullis::release::kv::{Kv, SecretFields};
use portcullis::release::sealing::Recipient;
use portcullis::request::{ReleaseRequest, SecretPath};
use portcullis::spiffe::{IdPattern, SpiffeId};
use portcullis::store::{Kind, StoreError, Transaction};
use portcullis::time::{BootTime, Clock, SystemTime, TimeSource, WallTime};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub mod acts;
pub mod attempt;
pub mod common;
pub mod hardware;
pub mod frames;
pub mod lease;
pub mod raw;
pub mod rig;
pub mod wire;

pub use acts::*;
pub use attempt::*;
pub use common::*;

/// The broker of every world.
pub const BROKER: &str = "spiffe://example.org/portcullis";
/// The workload of every world.
pub const WORKLOAD: &str = "spiffe://example.org/ns/payments/api";
/// The secret of every world.
pub const SECRET: &str = "kv/payments/stripe";
/// Its value, which must not leave but by a release.
pub const VALUE: &[u8] = b"sk_live_do-not-leak-0123456789";
/// The node of every world.
pub const NODE: &str = "node-1.example";
/// Permits the workload its secret.
pub const POLICY: &str = r#"
@id("payments")
permit (
    principal == Workload::"spiffe://example.org/ns/payments/api",
    action == Action::"release",
    resource in Folder::"kv/payments"
);
"#;

/// The system's clocks, and the test's hands on them.
#[derive(Default)]
pub struct Hands {
    wall: AtomicI64,
    boot: AtomicU64,
    unreadable: AtomicBool,
    synchronised: AtomicBool,
}

impl Hands {
    /// Time passes: both clocks go on.
    pub fn pass(&self, milliseconds: u64) {
        self.wall.fetch_add(milliseconds as i64, Ordering::SeqCst);
        self.boot.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn step(&self, milliseconds: i64) {
        self.wall.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// The wall clock cannot be read, or can again.
    pub fn set_unreadable(&self, unreadable: bool) {
        self.unreadable.store(unreadable, Ordering::SeqCst);
    }

    /// What the kernel says of its synchronisation.
    pub fn set_synchronised(&self, synchronised: bool) {
        self.synchronised.store(synchronised, Ordering::SeqCst);
    }

    pub fn now(&self) -> WallTime {
        self.wall().unwrap_or_default()
    }
}

impl TimeSource for Hands {
    fn wall(&self) -> Option<WallTime> {
        if self.unreadable.load(Ordering::SeqCst) {
            return None;
        }
        let wall = SystemTime.wall()?.0 as i64 + self.wall.load(Ordering::SeqCst);
        Some(WallTime(wall as u64))
    }

    fn boot(&self) -> Option<BootTime> {
        Some(BootTime(SystemTime.boot()?.0 + self.boot.load(Ordering::SeqCst)))
    }

    fn boot_id(&self) -> String {
        SystemTime.boot_id()
    }

    fn synchronised(&self) -> bool {
        self.synchronised.load(Ordering::SeqCst)
    }
}

/// A node's key in memory.
pub struct NodeKeyPair {
    pair: Ed25519KeyPair,
    public: NodeKey,
}

impl NodeKeyPair {
    pub fn generate() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = NodeKey::from_ed25519(pair.public_key().as_ref()).unwrap();
        NodeKeyPair { pair, public }
    }

    pub fn public(&self) -> &NodeKey {
        &self.public
    }
}

impl NodeSigner for NodeKeyPair {
    fn public_key(&self) -> &NodeKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        self.pair.sign(message).as_ref().try_into().map_err(|_| SignError)
    }
}

/// A software attester: it states whatever the test wants, signed by whatever key.
#[derive(Clone)]
pub struct SoftAttester {
    pub key: Arc<NodeKeyPair>,
    pub node: String,
    pub process: ProcessClaims,
    /// Seconds that `iat` is before now; negative: ahead.
    pub age_seconds: i64,
    pub hands: Arc<Hands>,
    /// What is done to the body before it leaves.
    pub spoil: fn(Vec<u8>) -> Vec<u8>,
}

impl SoftAttester {
    pub fn body(&self, binding: &[u8; 64]) -> Vec<u8> {
        let iat = self.hands.now().seconds() as i64 - self.age_seconds;
        let statement = Statement {
            binding: *binding,
            iat: iat as u64,
            node: self.node.clone(),
            boot_id: "6d1e5f5c-6f0c-4b0e-9d50-000000000001".into(),
            process: self.process.clone(),
        };
        (self.spoil)(sign(&statement, self.key.as_ref()).unwrap())
    }

    pub fn evidence(&self, binding: &[u8; 64]) -> v1::Evidence {
        let document =
            v1::Document { format: "process".into(), body: self.body(binding), endorsements: vec![] };
        v1::Evidence { documents: vec![document] }
    }
}

impl Attester for SoftAttester {
    fn attest<'a>(
        &'a self,
        binding: &'a [u8; 64],
        _formats: &'a [String],
    ) -> BoxFuture<'a, Result<v1::Evidence, AttestError>> {
        Box::pin(async move { Ok(self.evidence(binding)) })
    }
}

/// The executable that every world's reference set allows.
pub fn process() -> ProcessClaims {
    ProcessClaims {
        executable: Executable { path: "/usr/bin/payments".into(), sha256: [0xab; 32], fs_verity: None },
        uid: 1000,
        gid: 1000,
        groups: vec![],
        arguments_sha256: [1; 32],
        cgroup: "/system.slice/payments.service".into(),
        systemd_unit: Some("payments.service".into()),
        container_id: None,
        start_time: 1234,
        program: vec![],
    }
}

/// How a world is made; each test breaks one thing of it.
pub struct Build {
    pub revocation: &'static str,
    pub broker_extra: &'static str,
    pub limits: &'static str,
    pub more_domains: Vec<&'static str>,
    pub bundle_max_age_seconds: u64,
    pub crl_max_age_seconds: u64,
}

impl Default for Build {
    fn default() -> Self {
        Build {
            revocation: "crl",
            broker_extra: "",
            limits: "",
            more_domains: vec![],
            bundle_max_age_seconds: 7 * 86_400,
            crl_max_age_seconds: 7 * 86_400,
        }
    }
}

/// A whole world.
pub struct World {
    pub directory: tempfile::TempDir,
    pub hands: Arc<Hands>,
    pub ca: DevelopmentCa,
    pub server: Option<Server>,
    pub config: Config,
    pub paths: Paths,
    pub node_key: Arc<NodeKeyPair>,
    pub leaf: Leaf,
    pub client: client::Config,
    crl_number: Mutex<u64>,
}

impl World {
    pub async fn new() -> World {
        World::build(Build::default()).await
    }

    pub async fn build(build: Build) -> World {
        let directory = tempfile::tempdir().unwrap();
        let hands = Arc::new(Hands::default());
        let now = hands.now();
        let root = directory.path();
        let ca = DevelopmentCa::new("spiffe://example.org", now).unwrap();
        let plan = plan(root, &build);
        init::make(&plan, hands.as_ref()).await.unwrap();
        let paths = Paths::of(&plan);
        let etc = root.join("etc");
        std::fs::write(etc.join("example.org.pem"), ca.root()).unwrap();
        let list = ca.revocation_list(1, WallTime(now.0 - 60_000), now.plus(86_400_000), &[]).unwrap();
        std::fs::write(etc.join("example.org.crl"), list).unwrap();
        let broker = ca.leaf(&leaf_request(BROKER, 2, now)).unwrap();
        std::fs::write(etc.join("broker.pem"), &broker.certificate).unwrap();
        std::fs::write(etc.join("broker.key"), &broker.key).unwrap();
        let leaf = ca.leaf(&leaf_request(WORKLOAD, 3, now)).unwrap();
        if !build.broker_extra.is_empty() || !build.limits.is_empty() {
            let text = std::fs::read_to_string(&paths.configuration).unwrap();
            let text = text.replace("[storage]", &format!("{}\n[storage]", build.broker_extra));
            std::fs::write(&paths.configuration, format!("{text}\n{}", build.limits)).unwrap();
        }
        let config = Config::read(&paths.configuration).unwrap();
        let client = write_client(root, "workload", &leaf, &etc.join("example.org.pem"));
        let mut world = World {
            directory,
            hands,
            ca,
            server: None,
            config,
            paths,
            node_key: Arc::new(NodeKeyPair::generate()),
            leaf,
            client,
            crl_number: Mutex::new(1),
        };
        world.start().await;
        world.furnish().await;
        world
    }

    /// Starts the broker, again after a stop.
    pub async fn start(&mut self) {
        let server = self.try_start().await.unwrap();
        self.client.broker = format!("127.0.0.1:{}", server.address().port());
        self.server = Some(server);
    }

    /// The same, where it may not start. Streams' tasks may outlive a stop for a moment, and the store with them.
    pub async fn try_start(&self) -> Result<Server, StartError> {
        for _ in 0..100 {
            match Server::start(&self.config, self.hands.clone()).await {
                Err(StartError::Store(StoreError::InUse)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
        panic!("the store stays in use");
    }

    /// A new certificate for the broker, as its hour is over.
    pub async fn renew_broker(&self) {
        let leaf = self.ca.leaf(&leaf_request(BROKER, 4, self.hands.now())).unwrap();
        self.write("broker.key", leaf.key.as_bytes()).await;
        self.write("broker.pem", leaf.certificate.as_bytes()).await;
    }

    /// Stops the broker in order.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Node, reference set, policy and secret, so that the workload's request succeeds.
    async fn furnish(&self) {
        let node = portcullis::evidence::process::EnrolledNode {
            name: NODE.into(),
            public_key: self.node_key.public().clone(),
            not_after: self.hands.now().plus(30 * 86_400_000),
            may_vouch_for: vec![IdPattern::parse("spiffe://example.org/ns/*").unwrap()],
            measurements: Default::default(),
        };
        self.put(Kind::Node, NODE, &serde_json::to_vec(&node).unwrap(), &[]).await;
        self.put_reference("payments-1", &"ab".repeat(32), 86_400_000).await;
        self.put_policy(POLICY).await;
        self.put_secret(SECRET, VALUE).await;
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Puts one fact as an administrator would, through the audited change.
    pub async fn put(&self, kind: Kind, name: &str, body: &[u8], latches: &[&str]) -> Changed {
        let registry = self.server().registry();
        let vault = registry.vault();
        let previous = vault.read(kind, name).await.unwrap();
        let mut transaction = Transaction::default();
        vault.put(&mut transaction, kind, name, previous.as_ref(), body).unwrap();
        self.change(transaction, kind, name, latches).await
    }

    /// Removes one fact.
    pub async fn remove(&self, kind: Kind, name: &str) -> Changed {
        let registry = self.server().registry();
        let previous = registry.vault().read(kind, name).await.unwrap().unwrap();
        let mut transaction = Transaction::default();
        registry.vault().remove(&mut transaction, &previous);
        self.change(transaction, kind, name, &[]).await
    }

    pub async fn change(
        &self,
        transaction: Transaction,
        kind: Kind,
        target: &str,
        latches: &[&str],
    ) -> Changed {
        let now = self.server().broker().clock.untrusted();
        let change = Change {
            act: AdminAct {
                administrator: "test".into(),
                key_sha256: String::new(),
                verb: "test".into(),
                target: target.into(),
                details: serde_json::Value::Null,
            },
            transaction: Some(transaction),
            kinds: vec![kind],
            ends_latches_on: latches.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.server().registry().change(change, now).await.unwrap()
    }

    pub async fn put_policy(&self, text: &str) -> Changed {
        self.put(Kind::Policy, "policy", text.as_bytes(), &["policy"]).await
    }

    /// A reference set for every workload below `/ns`, that allows one executable for so many milliseconds from now.
    pub async fn put_reference(&self, name: &str, digest: &str, life_ms: u64) -> Changed {
        let not_after = self.hands.now().plus(life_ms).to_string();
        let set = serde_json::json!({
            "name": name,
            "workload": "spiffe://example.org/ns/*",
            "not_after": not_after,
            "process": { "executables": [{ "sha256": digest }] },
        });
        self.put(Kind::ReferenceSet, name, &serde_json::to_vec(&set).unwrap(), &["reference"]).await
    }

    pub fn kv(&self) -> Kv {
        Kv::new(self.server().registry().vault().clone()).unwrap()
    }

    pub async fn put_secret(&self, path: &str, value: &[u8]) -> Changed {
        let fields = BTreeMap::from([("value".to_owned(), value.to_vec().into())]);
        let fields = SecretFields::new(fields).unwrap();
        let path_parsed = SecretPath::parse(path).unwrap();
        let prepared = self.kv().put(&path_parsed, &fields, self.hands.now()).await.unwrap();
        self.change(prepared.transaction, Kind::SecretMetadata, path, &[&format!("secret:{path}")]).await
    }

    pub async fn disable_secret(&self, path: &str, disabled: bool) -> Changed {
        let prepared = self.kv().set_disabled(&SecretPath::parse(path).unwrap(), disabled).await.unwrap();
        self.change(prepared.transaction, Kind::SecretMetadata, path, &[]).await
    }

    /// The attester that every request succeeds with.
    pub fn attester(&self) -> SoftAttester {
        SoftAttester {
            key: self.node_key.clone(),
            node: NODE.into(),
            process: process(),
            age_seconds: 0,
            hands: self.hands.clone(),
            spoil: |body| body,
        }
    }

    /// A client of the test's clock.
    pub async fn connect(&self) -> Result<Connection, ReleaseError> {
        self.connect_as(&self.client).await
    }

    pub async fn connect_as(&self, config: &client::Config) -> Result<Connection, ReleaseError> {
        let mut config = config.clone();
        config.broker = self.client.broker.clone();
        Connection::open_by(&config, Arc::new(Clock::new(self.hands.clone(), WallTime(0)))).await
    }

    /// One whole release of the world's secret.
    pub async fn release(&self) -> Result<Lease, ReleaseError> {
        self.release_with(&self.attester(), Request::of([SECRET])).await
    }

    /// One whole release that must succeed; where it does not, the record says why.
    pub async fn released(&self) -> Lease {
        self.expect(self.release().await)
    }

    /// What must have succeeded; where it did not, the record says why.
    pub fn expect<T>(&self, outcome: Result<T, ReleaseError>) -> T {
        outcome.unwrap_or_else(|error| {
            let record = error.decision_id().map(|id| self.record(id));
            panic!("not released: {error}: {record:#?}")
        })
    }

    pub async fn release_with(
        &self,
        attester: &dyn Attester,
        request: Request,
    ) -> Result<Lease, ReleaseError> {
        self.connect().await?.release(attester, request).await
    }

    /// Another workload's certificate and client configuration.
    pub fn workload(&self, id: &str, serial: u64) -> (Leaf, client::Config) {
        let leaf = self.ca.leaf(&leaf_request(id, serial, self.hands.now())).unwrap();
        let bundle = self.directory.path().join("etc/example.org.pem");
        let config = write_client(self.directory.path(), &format!("workload-{serial}"), &leaf, &bundle);
        (leaf, config)
    }

    /// Writes a new revocation list, numbered one higher, that ends after `life_ms`, and has it read.
    pub async fn write_crl(&self, revoked: &[u64], life_ms: u64) {
        let number = {
            let mut number = self.crl_number.lock().unwrap();
            *number += 1;
            *number
        };
        let now = self.hands.now();
        let list =
            self.ca.revocation_list(number, WallTime(now.0 - 1000), now.plus(life_ms), revoked).unwrap();
        self.write("example.org.crl", list.as_bytes()).await;
    }

    /// Replaces a file beside the configuration, atomically, and has the broker read it.
    pub async fn write(&self, name: &str, content: &[u8]) {
        let path = self.directory.path().join("etc").join(name);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, content).unwrap();
        std::fs::rename(&draft, &path).unwrap();
        self.reload().await;
    }

    /// What the broker does once a second: now.
    pub async fn reload(&self) {
        let broker = self.server().broker().clone();
        tokio::task::spawn_blocking(move || broker.trust.reload(broker.clock.untrusted())).await.unwrap();
    }

    /// Every record of the log, in order.
    pub fn records(&self) -> Vec<Record> {
        read_records(&self.config.storage.audit)
    }

    /// The record of one decision.
    pub fn record(&self, id: &str) -> Record {
        self.records().into_iter().find(|record| record.id == id).unwrap_or_else(|| panic!("no record {id}"))
    }

    /// Asserts that a release was denied for exactly `denial`, that the caller heard exactly its reason, and that the
    /// record says so; then that no byte of the secret is in the log.
    pub fn assert_denied<T: std::fmt::Debug>(
        &self,
        outcome: Result<T, ReleaseError>,
        denial: Denial,
    ) -> Record {
        let error = outcome.expect_err("it was released");
        assert_eq!(error.reason(), Some(denial.reason()), "{error}");
        let id = error.decision_id().expect("a denial names its record").to_owned();
        let record = self.record(&id);
        assert_eq!(record.denial(), Some(denial), "{record:?}");
        self.assert_nothing_leaked();
        record
    }

    /// No file of the log holds the secret.
    pub fn assert_nothing_leaked(&self) {
        for entry in std::fs::read_dir(&self.config.storage.audit).unwrap() {
            let bytes = used(&entry.unwrap().path());
            assert!(find(&bytes, VALUE).is_none(), "the secret is in the log");
        }
    }
}

/// A request by hand: `Open`, its challenge, and what is needed to answer it.
pub struct Manual {
    pub stream: RawStream,
    pub identity: Identity,
    pub request: ReleaseRequest,
    pub recipient: Recipient,
    pub challenge: v1::Challenge,
}

pub fn open_message(paths: &[&str]) -> (v1::Open, Recipient) {
    let recipient = Recipient::generate().unwrap();
    let secret = |path: &&str| v1::SecretRequest { path: (*path).to_owned(), parameters: Default::default() };
    let open = v1::Open {
        secrets: paths.iter().map(secret).collect(),
        recipient_key: recipient.public_key().to_vec(),
        ttl_seconds: 0,
        hold: false,
        channel_bindings: vec![],
    };
    (open, recipient)
}

impl Manual {
    /// Opens a stream and reads its challenge.
    pub async fn open(
        connection: &Connection,
        open: v1::Open,
        recipient: Recipient,
    ) -> Result<Manual, ReleaseError> {
        let mut stream = connection.stream(None).await?;
        stream.send(v1::release_request::Step::Open(open.clone())).await?;
        let challenge = match stream.next().await? {
            Some(v1::release_response::Step::Challenge(challenge)) => challenge,
            other => panic!("no challenge: {other:?}"),
        };
        let request = ReleaseRequest::parse(open).unwrap();
        Ok(Manual { stream, identity: connection.identity().clone(), request, recipient, challenge })
    }

    pub async fn of(connection: &Connection, paths: &[&str]) -> Result<Manual, ReleaseError> {
        let (open, recipient) = open_message(paths);
        Manual::open(connection, open, recipient).await
    }

    /// The binding that is due.
    pub fn binding(&self) -> [u8; 64] {
        let nonce = self.challenge.nonce.as_slice().try_into().unwrap();
        *self
            .identity
            .binding(nonce, self.challenge.round, &self.challenge.audience, &self.request)
            .as_bytes()
    }

    /// Answers, and reads the release.
    pub async fn answer(&mut self, evidence: v1::Evidence) -> Result<v1::Released, ReleaseError> {
        self.stream.send(v1::release_request::Step::Evidence(evidence)).await?;
        match self.stream.next().await? {
            Some(v1::release_response::Step::Released(released)) => Ok(released),
            other => panic!("neither released nor denied: {other:?}"),
        }
    }
}

pub fn leaf_request(id: &str, serial: u64, now: WallTime) -> LeafRequest {
    LeafRequest {
        id: Some(SpiffeId::parse(id).unwrap()),
        name: "leaf".into(),
        hosts: vec!["localhost".into()],
        serial,
        not_before: WallTime(now.0 - 60_000),
        not_after: now.plus(3_600_000 - 60_000),
    }
}

pub fn write_client(root: &Path, name: &str, leaf: &Leaf, bundle: &Path) -> client::Config {
    let (certificate, key) = (root.join(format!("{name}.pem")), root.join(format!("{name}.key")));
    std::fs::write(&certificate, &leaf.certificate).unwrap();
    std::fs::write(&key, &leaf.key).unwrap();
    client::Config {
        broker: "127.0.0.1:1".into(),
        broker_id: SpiffeId::parse(BROKER).unwrap(),
        certificate,
        key,
        bundle: bundle.to_owned(),
        attester: PathBuf::from("/nonexistent"),
        deadline: Duration::from_secs(30),
    }
}

fn plan(root: &Path, build: &Build) -> Plan {
    let mut domains = format!(
        "[[trust_domain]]\nname = \"example.org\"\nbundle = \"example.org.pem\"\nbundle_max_age_seconds = {}\n",
        build.bundle_max_age_seconds
    );
    domains += &match build.revocation {
        "crl" => format!(
            "revocation = \"crl\"\ncrl_files = [\"example.org.crl\"]\ncrl_max_age_seconds = {}\n",
            build.crl_max_age_seconds
        ),
        _ => "revocation = \"short-lived\"\n".to_owned(),
    };
    for more in &build.more_domains {
        domains += &format!(
            "[[trust_domain]]\nname = \"{more}\"\nbundle = \"{more}.pem\"\nbundle_max_age_seconds = 604800\n\
             revocation = \"short-lived\"\n"
        );
    }
    Plan {
        directory: root.join("etc"),
        data: root.join("var"),
        broker_id: SpiffeId::parse(BROKER).unwrap(),
        administrator: "ada".into(),
        administrator_ms: 30 * 86_400_000,
        listen: "127.0.0.1:0".into(),
        admin_listen: "127.0.0.1:0".into(),
        operations_listen: None,
        trust_domains: domains,
        key_source: None,
        threshold_of_shares: (0, 0),
    }
}
