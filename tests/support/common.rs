//! One world for all tests that change nothing of it: each comes as a guest, with a key and a subject of its own.

use super::*;
use portcullis::evidence::process::EnrolledNode;
use portcullis::release::kv::Versions;
use std::future::Future;
use std::sync::LazyLock;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

pub const SECOND: &str = "kv/payments/second";
/// Its lease is at most 60 s.
pub const SHORT: &str = "kv/payments/short";
pub const UNKNOWN: &str = "kv/payments/unknown";
pub const DISABLED: &str = "kv/payments/disabled";
pub const DESTROYED: &str = "kv/payments/destroyed";
pub const FORBIDDEN: &str = "kv/payments/forbidden";
/// It exists, and no policy speaks of it.
pub const SILENT: &str = "kv/other/silent";
pub const UNEVALUABLE: &str = "kv/payments/unevaluable";
pub const EXPORTER: &str = "kv/payments/exporter";
/// Its metadata do not parse.
pub const DAMAGED: &str = "kv/payments/damaged";
/// Its value is not the one that its metadata name.
pub const SWAPPED: &str = "kv/payments/swapped";

/// The policy of the common world.
pub const COMMON_POLICY: &str = r#"
@id("payments")
permit (
    principal == Workload::"spiffe://example.org/ns/payments/api",
    action == Action::"release",
    resource in Folder::"kv/payments"
);
@id("never")
forbid (principal, action == Action::"release", resource == Secret::"kv/payments/forbidden");
@id("overflow")
forbid (principal, action == Action::"release", resource == Secret::"kv/payments/unevaluable")
when { context.ttl_seconds * 9223372036854775807 > 0 };
"#;

/// The common world, and keys of nodes whose word does not count there for the workload.
pub struct Common {
    pub world: World,
    /// Enrolled once; no longer.
    pub expired: Arc<NodeKeyPair>,
    /// Enrolled for `/batch/*` alone.
    pub elsewhere: Arc<NodeKeyPair>,
}

impl std::ops::Deref for Common {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
static COMMON: OnceCell<Common> = OnceCell::const_new();

/// Runs a test in the common world.
pub fn common<F: Future<Output = ()>>(test: impl FnOnce(&'static Common) -> F) {
    RUNTIME.block_on(async { test(COMMON.get_or_init(Common::new).await).await });
}

impl Common {
    async fn new() -> Common {
        let build = Build { broker_extra: "allow_channel_binding_none = true", ..Build::default() };
        sweep();
        let world = World::build(build).await;
        std::fs::write(world.directory.path().join(MARK), std::process::id().to_string()).unwrap();
        let (expired, elsewhere) = (Arc::new(NodeKeyPair::generate()), Arc::new(NodeKeyPair::generate()));
        world.put_node("node-expired.example", &expired, -1, "spiffe://example.org/ns/*").await;
        world
            .put_node("node-elsewhere.example", &elsewhere, 86_400_000, "spiffe://example.org/batch/*")
            .await;
        world.put_reference("ended", &"cd".repeat(32), 0).await;
        world.put_policy(COMMON_POLICY).await;
        let paths = [SECOND, SHORT, DISABLED, DESTROYED, FORBIDDEN, SILENT, UNEVALUABLE, EXPORTER, SWAPPED];
        for path in paths {
            world.put_secret(path, VALUE).await;
        }
        world.disable_secret(DISABLED, true).await;
        let kv = world.kv();
        let path = |text: &str| SecretPath::parse(text).unwrap();
        for prepared in [
            (SHORT, kv.set_lease(&path(SHORT), 30, 60).await.unwrap()),
            (EXPORTER, kv.set_exporter_demanded(&path(EXPORTER), true).await.unwrap()),
            (DESTROYED, kv.destroy(&path(DESTROYED), Versions::All, world.hands.now()).await.unwrap()),
        ] {
            world.change(prepared.1.transaction, Kind::SecretMetadata, prepared.0, &[]).await;
        }
        world.put(Kind::SecretMetadata, DAMAGED, b"not metadata", &[]).await;
        world.put(Kind::SecretValue, &format!("{SWAPPED}@1"), b"another value", &[]).await;
        Common { world, expired, elsewhere }
    }
}

/// In a common world's directory: the process that it is of.
const MARK: &str = "common-world-of-process";

/// Nothing drops a static, so a run leaves its common world behind; the next one clears those of processes that are gone.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let Ok(process) = std::fs::read_to_string(entry.path().join(MARK)) else { continue };
        if !std::path::Path::new("/proc").join(process).exists() {
            // Another run may be at it already.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl World {
    /// Enrols a node until `life_ms` from now.
    pub async fn put_node(&self, name: &str, key: &NodeKeyPair, life_ms: i64, pattern: &str) -> Changed {
        let node = EnrolledNode {
            name: name.into(),
            public_key: key.public().clone(),
            not_after: WallTime((self.hands.now().0 as i64 + life_ms) as u64),
            may_vouch_for: vec![IdPattern::parse(pattern).unwrap()],
            measurements: Default::default(),
        };
        let latches = format!("node:{name}");
        self.put(Kind::Node, name, &serde_json::to_vec(&node).unwrap(), &[&latches]).await
    }
}
