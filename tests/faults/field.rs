//! A broker with one enrolled node and one workload, whose evidence this process signs itself: what is tested here is the
//! broker, and an attester that reads a large executable for each request would be most of the time.

use crate::ledger::Ledger;
use crate::operators::Ada;
use crate::world::{NODE, Place, World, wall, write};
use futures_util::future::BoxFuture;
use portcullis::agent::key::FileKey;
use portcullis::client::{AttestError, Attester, Config, Connection, ReleaseError};
use portcullis::evidence::process::{Algorithm, Executable, ProcessClaims, Statement, sign};
use portcullis::proto::v1;
use portcullis::spiffe::SpiffeId;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

pub const WORKLOAD: &str = "spiffe://cli.example/ns/app/faults";

/// A broker over all its lives, and what its callers know.
pub struct Field {
    pub world: World,
    pub runtime: Runtime,
    pub node: Node,
    pub ledger: Ledger,
}

/// Signs what the reference set wants.
#[derive(Clone)]
pub struct Node(Arc<FileKey>);

impl Field {
    /// Running, with nothing in it but what releases need.
    pub fn new(place: Place) -> Field {
        let key = FileKey::generate(&place.at("node.key"), Algorithm::EdDsa).unwrap();
        write(&place.at("node.pub"), key.public_pem(), 0o644);
        write(&place.at("reference.toml"), reference(), 0o644);
        place.workload(WORKLOAD, "faults");
        let world = World::over(place);
        world.enrol_node();
        world.admin(&["reference", "put", &world.path("reference.toml")]).must(0);
        world.admin(&["policy", "put", &world.path("policy.cedar")]).must(0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Field { world, runtime: runtime.unwrap(), node: Node(Arc::new(key)), ledger: Ledger::default() }
    }

    pub fn ada(&self) -> Ada {
        Ada::of(&self.world)
    }

    /// How the workload reaches the broker of now.
    pub fn config(&self) -> Config {
        let at = |name: &str| self.world.at(name);
        Config {
            broker: self.world.address.clone(),
            broker_id: SpiffeId::parse(crate::world::BROKER).unwrap(),
            certificate: at("faults.pem"),
            key: at("faults.key"),
            bundle: at("etc/bundle.pem"),
            attester: at("none.sock"),
            deadline: Duration::from_secs(10),
        }
    }

    /// One release over a connection of its own.
    pub fn release(&self, path: &str) -> Result<portcullis::client::Lease, ReleaseError> {
        let (config, request) = (self.config(), portcullis::client::Request::of([path]));
        self.runtime.block_on(portcullis::client::release(&config, &self.node, request))
    }

    pub async fn connect(config: &Config) -> Result<Connection, ReleaseError> {
        Connection::open(config).await
    }

    /// Every lease that the log says was released, and a log that verifies.
    pub fn audit(&self, directory: &Path) {
        let key = self.world.path("etc/audit.pub");
        self.world.audit_of(directory, &["verify", "--key", &key]).must(0);
        let shown =
            self.world.audit_of(directory, &["show", "--output", "json", "--kind", "released"]).must(0);
        let recorded: BTreeSet<String> = shown
            .text()
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["event"]["lease_id"].as_str().unwrap().to_owned()
            })
            .collect();
        self.ledger.found_leases(&recorded);
    }
}

fn reference() -> String {
    format!(
        "[[set]]\nname = \"faults-1\"\nworkload = \"{WORKLOAD}\"\nnot_after = {}\n[set.process]\n\
         executables = [{{ sha256 = \"{}\" }}]\n",
        wall().plus(86_400_000),
        hex::encode([0xab; 32]),
    )
}

impl Attester for Node {
    fn attest<'a>(
        &'a self,
        binding: &'a [u8; 64],
        _formats: &'a [String],
    ) -> BoxFuture<'a, Result<v1::Evidence, AttestError>> {
        let statement = Statement {
            binding: *binding,
            iat: wall().seconds(),
            node: NODE.to_owned(),
            boot_id: "6d1e5f5c-6f0c-4b0e-9d50-000000000001".to_owned(),
            process: process(),
        };
        let body = sign(&statement, self.0.as_ref()).unwrap();
        let document = v1::Document { format: "process".to_owned(), body, endorsements: vec![] };
        Box::pin(async move { Ok(v1::Evidence { documents: vec![document] }) })
    }
}

fn process() -> ProcessClaims {
    ProcessClaims {
        executable: Executable { path: "/usr/bin/app".into(), sha256: [0xab; 32], fs_verity: None },
        uid: 1000,
        gid: 1000,
        groups: vec![],
        arguments_sha256: [1; 32],
        cgroup: "/system.slice/app.service".into(),
        systemd_unit: Some("app.service".into()),
        container_id: None,
        start_time: 1234,
        program: vec![],
    }
}
