//! What a test does behind the callers' backs, and what it reads of the log afterwards.

use super::*;

/// Permits the workload something else than its secret.
pub const ELSEWHERE: &str = r#"
@id("elsewhere")
permit (
    principal == Workload::"spiffe://example.org/ns/payments/api",
    action == Action::"release",
    resource in Folder::"kv/elsewhere"
);
"#;

/// The same executable as another user: another subject, that the reference set allows as well.
pub fn other_subject() -> ProcessClaims {
    ProcessClaims { uid: 1001, ..process() }
}

impl World {
    /// Flips the last byte of a record at rest, past the audited change.
    pub async fn damage(&self, kind: Kind, name: &str) {
        let vault = self.server().registry().vault().clone();
        let key = vault.key_of(kind, name);
        let mut value = vault.store().get(&key).await.unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        let mut transaction = Transaction::default();
        transaction.puts.push(portcullis::store::Entry { key, value });
        vault.commit(transaction).await.unwrap();
    }

    /// Puts a policy and keeps the holds that rest on the old one, as an administrator may.
    pub async fn put_policy_and_keep_latches(&self, text: &str) {
        let changed = self.put(Kind::Policy, "policy", text.as_bytes(), &[]).await;
        assert!(changed.latches_ended.is_empty());
    }

    /// Every release that was taken back: the decision, the lease, and why.
    pub fn undelivered(&self) -> Vec<(String, String, String)> {
        use portcullis::audit::record::Event;
        let taken_back = |record: Record| match record.event {
            Event::Undelivered { decision_id, lease_id, detail } => Some((decision_id, lease_id, detail)),
            _ => None,
        };
        self.records().into_iter().filter_map(taken_back).collect()
    }

    /// Every release on the log.
    pub fn releases(&self) -> Vec<Record> {
        use portcullis::audit::record::Event;
        let released = |record: &Record| matches!(record.event, Event::Released { .. });
        self.records().into_iter().filter(released).collect()
    }
}

/// `portcullis admin …`.
#[derive(clap::Parser)]
struct AdminLine {
    #[command(flatten)]
    args: portcullis::cli::admin::Args,
}

impl World {
    /// What `portcullis admin` does with these arguments, as the first administrator, over the operators' listener; gives
    /// its exit code.
    pub async fn admin(&self, arguments: &[&str]) -> u8 {
        let etc = self.directory.path().join("etc");
        let path = |name: &str| etc.join(name).display().to_string();
        let address = format!("127.0.0.1:{}", self.server().admin_address().port());
        let (certificate, key, bundle) = (path("ada.pem"), path("ada.key"), path("example.org.pem"));
        let connection = [
            "admin",
            "--admin-address",
            &address,
            "--admin-cert",
            &certificate,
            "--admin-key",
            &key,
            "--bundle",
            &bundle,
            "--broker-id",
            BROKER,
        ];
        let line = [&connection, arguments].concat();
        let parsed =
            <AdminLine as clap::Parser>::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
        portcullis::cli::admin::run(parsed.args).await
    }
}

/// The holds that a denial set, and the record that it repeats.
pub fn latches_of(record: &Record) -> (Vec<portcullis::audit::record::LatchSet>, Option<String>) {
    match &record.event {
        portcullis::audit::record::Event::Denied { latches, repeats, .. } => {
            (latches.clone(), repeats.clone())
        }
        other => panic!("no denial: {other:?}"),
    }
}

impl World {
    /// One whole release of another secret.
    pub async fn release_with_path(&self, path: &str) -> Result<Lease, ReleaseError> {
        self.release_with(&self.attester(), Request::of([path])).await
    }
}

/// Starts; where an earlier server of this very process has only just stopped, the store's own threads may still have it
/// open for a moment.
async fn start_server(config: &Config, hands: Arc<Hands>) -> Server {
    use portcullis::cli::serve::StartError;
    use portcullis::store::StoreError;
    for _ in 0..500 {
        match Server::start(config, hands.clone()).await {
            Err(StartError::Store(StoreError::InUse)) => tokio::time::sleep(Duration::from_millis(10)).await,
            outcome => return outcome.unwrap(),
        }
    }
    panic!("the store stays open after its server was stopped")
}

/// Hears nothing of handshakes.
struct Deaf;

impl portcullis::transport::HandshakeObserver for Deaf {
    fn refused(&self, _denial: Denial, _case: Box<portcullis::case::Case>) {}

    fn counted(&self, _cause: portcullis::transport::Cause) {}
}

impl World {
    /// A second listener of the same broker in everything but the catalog that its policy stage asks. Gives its address;
    /// it serves as long as what else is given lives.
    pub async fn serve_with_catalog(
        &self,
        catalog: Arc<dyn portcullis::policy::Catalog>,
    ) -> (String, tokio::sync::watch::Sender<bool>) {
        use portcullis::policy::{Pdp, cedar::PolicySet};
        let one = self.server().broker();
        let pdp = Pdp::new(catalog);
        pdp.set(Some(PolicySet::compile(POLICY).unwrap()), one.pdp.epoch().unwrap());
        let broker = Arc::new(portcullis::broker::Broker {
            offer: one.offer.clone(),
            clock: one.clock.clone(),
            trust: one.trust.clone(),
            revocations_known: AtomicBool::new(true),
            admission: portcullis::challenge::admission::Admission::new(self.config.rates()),
            verifiers: one.verifiers.clone(),
            freshness: portcullis::freshness::Freshness::new(one.trust.clone()),
            latches: one.latches.clone(),
            appraiser: one.appraiser.clone(),
            pdp: Arc::new(pdp),
            recorder: one.recorder.clone(),
            engines: one.engines.clone(),
            measures: Default::default(),
        });
        self.serve(broker).await
    }

    /// Another listener with another broker behind it.
    pub async fn serve(
        &self,
        broker: Arc<portcullis::broker::Broker>,
    ) -> (String, tokio::sync::watch::Sender<bool>) {
        use portcullis::transport::{Acceptor, ConnectionLimits, PeerKind, ServerIdentity, WorkloadVerifier};
        let provider = Arc::new(portcullis::transport::tls::crypto_provider());
        let section = &self.config.broker;
        let (certificate, key) = (section.certificate.clone(), section.key.clone());
        let identity =
            ServerIdentity::new(certificate, key, Some(section.spiffe_id.clone()), provider.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let observer = Arc::new(Deaf);
        let verifier = WorkloadVerifier::new(broker.trust.clone(), broker.clock.clone(), observer.clone());
        let acceptor = Acceptor {
            listener,
            identity: Arc::new(identity),
            verifier: Arc::new(verifier),
            kind: PeerKind::Workload,
            provider,
            clock: broker.clock.clone(),
            observer,
            limits: ConnectionLimits::default(),
            shards: None,
        };
        let service = portcullis::api::release::ReleaseService::server(broker);
        let front = portcullis::api::front::Front::new(service);
        let (shutdown, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(acceptor.serve(front, stopped));
        (address, shutdown)
    }

    /// A connection to where the configuration says, by the test's clock.
    pub async fn connect_exactly(&self, config: &client::Config) -> Result<Connection, ReleaseError> {
        Connection::open_by(config, Arc::new(Clock::new(self.hands.clone(), WallTime(0)))).await
    }
}

/// Every record of a log directory, in order, of a log that may still be open: the bodies are plain JSON in the segments.
pub fn read_records(directory: &Path) -> Vec<Record> {
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    let mut records = Vec::new();
    for segment in segments {
        let bytes = used(&segment);
        let mut rest = bytes.as_slice();
        while let Some(start) = find(rest, br#"{"id":""#) {
            rest = &rest[start..];
            let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Record>();
            let record = values.next().and_then(Result::ok);
            rest = &rest[values.byte_offset().max(1)..];
            records.extend(record);
        }
    }
    records
}

/// A file without the zeros at its end: segments are preallocated, and 64 MiB take seconds to look through.
pub fn used(path: &Path) -> Vec<u8> {
    use std::io::Read;
    const CHUNK: usize = 64 * 1024;
    // The log replaces its checkpoint while we look: a name that is gone again has nothing to show.
    let Ok(mut file) = std::fs::File::open(path) else { return Vec::new() };
    let (mut bytes, zeros) = (Vec::new(), vec![0; CHUNK]);
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).unwrap();
        if chunk.is_empty() || chunk[..] == zeros[..chunk.len()] {
            return bytes;
        }
        bytes.extend(chunk);
    }
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    // Splitting by the first byte is quick where the compiler does not optimise.
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == wanted[0]) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}
