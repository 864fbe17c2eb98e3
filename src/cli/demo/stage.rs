//! The stage: a directory, a development CA, a broker and an attester as processes of their own, and an operator's hands.

use super::DemoError;
use crate::agent::key::FileKey;
use crate::cli::devca::{DevelopmentCa, Leaf, LeafRequest};
use crate::cli::init::{self, Paths, Plan};
use crate::client;
use crate::evidence::process::Algorithm;
use crate::spiffe::SpiffeId;
use crate::time::{SystemTime, TimeSource, WallTime};
use aws_lc_rs::digest::{SHA256, digest};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The broker's SPIFFE ID.
pub const BROKER: &str = "spiffe://demo.example/portcullis";
/// The workload's.
pub const WORKLOAD: &str = "spiffe://demo.example/ns/payments/api";
/// The secret.
pub const SECRET: &str = "kv/payments/stripe";
/// The secret that a policy forbids.
pub const FORBIDDEN: &str = "kv/payments/root-key";
/// The secret whose policy cannot be evaluated.
pub const UNEVALUABLE: &str = "kv/payments/experimental";

/// Everything that runs.
pub struct Stage {
    /// The temporary directory.
    pub root: PathBuf,
    /// The development CA.
    pub ca: DevelopmentCa,
    /// Files that `init` made.
    pub paths: Paths,
    /// The workload's program: a script, so that interpreter and script are both measured.
    pub script: PathBuf,
    /// The workload's client configuration.
    pub client: client::Config,
    admin_address: String,
    serial: AtomicU64,
    list_number: AtomicU64,
    children: Vec<Child>,
}

impl Stage {
    /// Makes everything, starts the processes, and does what an operator does before the first release.
    pub async fn set() -> Result<Stage, DemoError> {
        let root = make_root()?;
        println!("everything is in {}\n", root.display());
        let now = wall();
        let ca = DevelopmentCa::new("spiffe://demo.example", now)?;
        let plan = plan(&root)?;
        init::make(&plan, &SystemTime).await?;
        let mut stage = Stage {
            paths: Paths::of(&plan),
            script: root.join("charge.sh"),
            client: client(&root)?,
            root,
            ca,
            admin_address: String::new(),
            serial: AtomicU64::new(1),
            list_number: AtomicU64::new(0),
            children: Vec::new(),
        };
        stage.write_files()?;
        stage.start_agent()?;
        stage.start_broker()?;
        stage.operate()?;
        Ok(stage)
    }

    /// A leaf of the development CA, good for an hour.
    pub fn leaf(&self, id: &str, name: &str) -> Result<Leaf, DemoError> {
        let now = wall();
        let request = LeafRequest {
            id: SpiffeId::parse(id).ok(),
            name: name.to_owned(),
            hosts: vec!["localhost".to_owned()],
            serial: self.serial.fetch_add(1, Ordering::SeqCst).saturating_add(100),
            not_before: WallTime(now.0.saturating_sub(60_000)),
            not_after: now.plus(3_540_000),
        };
        let leaf = self.ca.leaf(&request)?;
        write(&self.root.join(format!("{name}.pem")), leaf.certificate.as_bytes(), 0o644)?;
        write(&self.root.join(format!("{name}.key")), leaf.key.as_bytes(), 0o600)?;
        Ok(leaf)
    }

    /// Publishes a revocation list that ends after `life_ms`, and waits until the broker has read it.
    pub async fn publish_list(&self, revoked: &[u64], life_ms: u64) -> Result<(), DemoError> {
        let before = self.count_records("revocation");
        self.write_list(revoked, life_ms)?;
        for _ in 0..100 {
            if self.count_records("revocation") > before {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(DemoError::Waited("the broker did not read the new revocation list".to_owned()))
    }

    /// Runs this program with these arguments and the environment of the workload.
    pub fn portcullis(&self, arguments: &[&str]) -> Result<Output, DemoError> {
        let text = arguments.join(" ");
        println!("$ portcullis {text}");
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).envs(self.workload_environment()).stdin(Stdio::null());
        command.output().map_err(|error| DemoError::System(text, error))
    }

    /// Runs `portcullis admin …`, which must succeed, and gives what it printed.
    pub fn admin(&self, arguments: &[&str]) -> Result<String, DemoError> {
        let text = arguments.join(" ");
        println!("$ portcullis admin {text}");
        let mut command = Command::new("/proc/self/exe");
        command.arg("admin").args(arguments).envs(self.admin_environment()).stdin(Stdio::null());
        let output = command.output().map_err(|error| DemoError::System(text.clone(), error))?;
        if !output.status.success() {
            return Err(DemoError::Command(text, String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// For `--keep`.
    pub fn print_how_to_talk(&self) {
        println!("\nbroker and attester are running until Ctrl-C. As the workload:\n");
        self.workload_environment().iter().for_each(|(name, value)| println!("  export {name}={value}"));
        println!("  portcullis exec --secret {SECRET}:value=STRIPE_KEY -- {}", self.script.display());
        println!("\nAs the operator:\n");
        self.admin_environment().iter().for_each(|(name, value)| println!("  export {name}={value}"));
        println!("  portcullis admin status\n  portcullis admin secret list");
        println!("  portcullis audit show --dir {}", self.paths.audit.display());
    }

    fn workload_environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PORTCULLIS_BROKER", self.client.broker.clone()),
            ("PORTCULLIS_BROKER_ID", BROKER.to_owned()),
            ("PORTCULLIS_CERT", self.client.certificate.display().to_string()),
            ("PORTCULLIS_KEY", self.client.key.display().to_string()),
            ("PORTCULLIS_BUNDLE", self.client.bundle.display().to_string()),
            ("PORTCULLIS_ATTESTER_SOCKET", self.client.attester.display().to_string()),
        ]
    }

    fn admin_environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PORTCULLIS_ADMIN", self.admin_address.clone()),
            ("PORTCULLIS_BROKER_ID", BROKER.to_owned()),
            ("PORTCULLIS_ADMIN_CERT", self.paths.admin_certificate.display().to_string()),
            ("PORTCULLIS_ADMIN_KEY", self.paths.admin_key.display().to_string()),
            ("PORTCULLIS_BUNDLE", self.client.bundle.display().to_string()),
        ]
    }

    fn write_files(&self) -> Result<(), DemoError> {
        let etc = self.root.join("etc");
        write(&self.client.bundle, self.ca.root().as_bytes(), 0o644)?;
        self.write_list(&[], 3_600_000)?;
        let broker = self.leaf(BROKER, "broker")?;
        write(&etc.join("broker.pem"), broker.certificate.as_bytes(), 0o644)?;
        write(&etc.join("broker.key"), broker.key.as_bytes(), 0o600)?;
        self.leaf(WORKLOAD, "workload")?;
        write(&self.script, SCRIPT.as_bytes(), 0o755)?;
        write(&self.root.join("policy.cedar"), POLICY.as_bytes(), 0o644)?;
        write(&self.root.join("value"), b"sk_live_0123456789abcdef", 0o600)?;
        write(&self.root.join("reference.toml"), self.reference_sets()?.as_bytes(), 0o644)
    }

    fn write_list(&self, revoked: &[u64], life_ms: u64) -> Result<(), DemoError> {
        let now = wall();
        let number = self.list_number.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let begins = WallTime(now.0.saturating_sub(1000));
        let list = self.ca.revocation_list(number, begins, now.plus(life_ms), revoked)?;
        let path = self.root.join("etc/demo.example.crl");
        let draft = path.with_extension("draft");
        write(&draft, list.as_bytes(), 0o644)?;
        std::fs::rename(&draft, &path).map_err(|error| DemoError::System(path.display().to_string(), error))
    }

    /// The workload is this launcher, running exactly this interpreter with exactly this script.
    fn reference_sets(&self) -> Result<String, DemoError> {
        let not_after = wall().plus(86_400_000);
        Ok(format!(
            "[[set]]\nname = \"charge-1\"\nworkload = \"{WORKLOAD}\"\nnot_after = {not_after}\n\n[set.process]\n\
             launcher = true\nexecutables = [{{ sha256 = \"{}\" }}]\n\
             programs = [[{{ sha256 = \"{}\" }}, {{ sha256 = \"{}\" }}]]\n",
            file_digest(Path::new("/proc/self/exe"))?,
            file_digest(Path::new("/bin/sh"))?,
            file_digest(&self.script)?,
        ))
    }

    fn start_agent(&mut self) -> Result<(), DemoError> {
        let key = self.root.join("node.key");
        let key_error = |error: &dyn std::fmt::Display| DemoError::NodeKey(error.to_string());
        let made = FileKey::generate(&key, Algorithm::Es256).map_err(|error| key_error(&error))?;
        write(&self.root.join("node.pub"), made.public_pem().as_bytes(), 0o644)?;
        let arguments = [
            "agent".to_owned(),
            "--node".to_owned(),
            NODE.to_owned(),
            "--key".to_owned(),
            key.display().to_string(),
            "--socket".to_owned(),
            self.client.attester.display().to_string(),
        ];
        self.start(&arguments, "agent.log").map(drop)
    }

    fn start_broker(&mut self) -> Result<(), DemoError> {
        let configuration = self.paths.configuration.display().to_string();
        let line = self.start(&["serve".to_owned(), "--config".to_owned(), configuration], "broker.log")?;
        let address = |after: &str| {
            let rest = line.split(after).nth(1)?;
            Some(rest.split([',', '\n']).next()?.trim().to_owned())
        };
        match (address("workloads on "), address("operators on ")) {
            (Some(workloads), Some(operators)) => {
                self.client.broker = workloads;
                self.admin_address = operators;
                Ok(())
            }
            _ => Err(DemoError::Command("serve".to_owned(), format!("it said: {line}; see broker.log"))),
        }
    }

    /// Starts a process and waits for its first line, which it prints once it listens.
    fn start(&mut self, arguments: &[String], log: &str) -> Result<String, DemoError> {
        let text = arguments.join(" ");
        println!("$ portcullis {text} &");
        let system = |error| DemoError::System(text.clone(), error);
        let log = std::fs::File::create(self.root.join(log)).map_err(system)?;
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(system)?;
        let output = child.stdout.take();
        self.children.push(child);
        let mut line = String::new();
        if let Some(output) = output {
            BufReader::new(output).read_line(&mut line).map_err(system)?;
        }
        println!("  {}", line.trim_end());
        Ok(line)
    }

    /// What an operator does before the first release.
    fn operate(&self) -> Result<(), DemoError> {
        let at = |name: &str| self.root.join(name).display().to_string();
        let value = format!("value=@{}", at("value"));
        for secret in [SECRET, FORBIDDEN, UNEVALUABLE] {
            self.admin(&["secret", "put", secret, "--field", &value])?;
        }
        let not_after = wall().plus(86_400_000).to_string();
        let below = "spiffe://demo.example/ns/*";
        let node = ["node", "enrol", NODE, "--public-key", &at("node.pub"), "--not-after", &not_after];
        self.admin(&[&node[..], &["--may-vouch-for", below]].concat())?;
        self.admin(&["reference", "put", &at("reference.toml")])?;
        self.admin(&["policy", "put", &at("policy.cedar")])?;
        println!();
        Ok(())
    }

    /// Records in the broker's own log that speak of an input.
    fn count_records(&self, input: &str) -> usize {
        let records = super::scenes::records(&self.paths.audit);
        let of_input = |record: &crate::audit::record::Record| match &record.event {
            crate::audit::record::Event::Input { name, .. } => name.contains(input),
            _ => false,
        };
        records.iter().filter(|record| of_input(record)).count()
    }
}

impl Drop for Stage {
    /// Ends the processes, and removes the directory: nothing of a demo stays.
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn plan(root: &Path) -> Result<Plan, DemoError> {
    let broker_id = SpiffeId::parse(BROKER).map_err(|error| DemoError::Waited(error.to_string()))?;
    Ok(Plan {
        directory: root.join("etc"),
        data: root.join("var"),
        broker_id,
        administrator: "ada".to_owned(),
        administrator_ms: 86_400_000,
        listen: "127.0.0.1:0".to_owned(),
        admin_listen: "127.0.0.1:0".to_owned(),
        operations_listen: None,
        trust_domains: "[[trust_domain]]\nname = \"demo.example\"\nbundle = \"demo.example.pem\"\n\
                        bundle_max_age_seconds = 86400\nrevocation = \"crl\"\ncrl_files = [\"demo.example.crl\"]\n\
                        crl_max_age_seconds = 86400\n"
            .to_owned(),
        key_source: None,
        threshold_of_shares: (0, 0),
    })
}

fn client(root: &Path) -> Result<client::Config, DemoError> {
    Ok(client::Config {
        broker: String::new(),
        broker_id: SpiffeId::parse(BROKER).map_err(|error| DemoError::Waited(error.to_string()))?,
        certificate: root.join("workload.pem"),
        key: root.join("workload.key"),
        bundle: root.join("etc/demo.example.pem"),
        attester: root.join("attester.sock"),
        deadline: Duration::from_secs(30),
    })
}

fn make_root() -> Result<PathBuf, DemoError> {
    let name = crate::audit::random_id().unwrap_or_default();
    let root = std::env::temp_dir().join(format!("portcullis-demo-{}", name.get(..8).unwrap_or_default()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&root);
    made.map_err(|error| DemoError::System(root.display().to_string(), error))?;
    let etc = std::fs::DirBuilder::new().mode(0o700).create(root.join("etc"));
    etc.map_err(|error| DemoError::System(root.display().to_string(), error))?;
    Ok(root)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), DemoError> {
    let write = || {
        let mut file = std::fs::File::create(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(content)
    };
    write().map_err(|error| DemoError::System(path.display().to_string(), error))
}

fn file_digest(path: &Path) -> Result<String, DemoError> {
    let bytes = std::fs::read(path).map_err(|error| DemoError::System(path.display().to_string(), error))?;
    Ok(hex::encode(digest(&SHA256, &bytes)))
}

/// The time, for certificates alone.
pub fn wall() -> WallTime {
    SystemTime.wall().unwrap_or_default()
}

const NODE: &str = "node-1.demo.example";

/// What the workload runs: it has the key, and says no more of it than its length.
const SCRIPT: &str =
    "#!/bin/sh\nprintf 'charge.sh: charged, with a key of %s characters\\n' \"${#STRIPE_KEY}\"\n";

const POLICY: &str = r#"// The payments API may have the payments secrets, over the TLS exporter, for at most five minutes.
@id("payments-api")
permit (
    principal == Workload::"spiffe://demo.example/ns/payments/api",
    action == Action::"release",
    resource in Folder::"kv/payments"
)
when { context.channel_binding == "tls-exporter" && context.ttl_seconds <= 300 };

// Nobody has the root key.
@id("no-root-key")
forbid (principal, action == Action::"release", resource == Secret::"kv/payments/root-key");

// A mistake: the product overflows. What this forbid would have said is not known, so nothing is released.
@id("overflows")
forbid (principal, action == Action::"release", resource == Secret::"kv/payments/experimental")
when { context.ttl_seconds * 9223372036854775807 > 0 };
"#;
