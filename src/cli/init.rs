//! `portcullis init`: keys, an empty store, the audit log, the first administrator, a configuration.
//!
//! *Takes* directories and names. *Gives* files, each new, none overwritten. *Denies* where anything of them is there
//! already: what has been used is restored, never begun again. *Source*: `deploy/README.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod recover;

use crate::audit::checkpoint::LogKey;
use crate::audit::log::Log;
use crate::audit::record::Event;
use crate::audit::{Recorder, random_id};
use crate::cli::devca::{CaError, DevelopmentCa, LeafRequest};
use crate::cli::exit;
use crate::cli::keyplace::KeyPlace;
use crate::registry::{Administrator, ChangeError, Role, enrol_first};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::store::keysource::{Given, KeyFile, KeySource, KeySourceError, ShareSet, shares};
use crate::store::sled::SledStore;
use crate::store::{StoreError, Vault};
use crate::time::{Now, SystemTime, TimeSource, WallTime};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Make keys, an empty store, the audit log, the first administrator's certificate and a configuration.
///
/// Example: portcullis init --directory /etc/portcullis --data /var/lib/portcullis
///          --broker-id spiffe://example.org/portcullis --administrator ada
///
/// Example: portcullis init --broker-id spiffe://example.org/portcullis --administrator ada
///          --key-source shares --shares 5 --threshold 3
///
/// With --recover-admin, beside a broker that is stopped: make another administrator, of all roles, in the store there is.
///
/// Example: portcullis init --directory /etc/portcullis --recover-admin bob.pem --administrator bob
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where configuration, keys and certificates go.
    #[arg(long, default_value = "/etc/portcullis")]
    pub directory: PathBuf,
    /// Where the store and the audit log go.
    #[arg(long, default_value = "/var/lib/portcullis")]
    pub data: PathBuf,
    /// The broker's SPIFFE ID.
    #[arg(long, required_unless_present = "recover_admin", conflicts_with = "recover_admin")]
    pub broker_id: Option<String>,
    /// Make the owner of this certificate (PEM) an administrator, by the configuration in `directory`.
    #[arg(long, value_name = "CERTIFICATE")]
    pub recover_admin: Option<PathBuf>,
    /// The administrator's name.
    #[arg(long)]
    pub administrator: String,
    /// How long the administrator's roles, and the first one's certificate, last, days.
    #[arg(long, default_value_t = 365)]
    pub administrator_days: u16,
    /// What opens the store: file:PATH, credential:NAME, passphrase:terminal, passphrase:fd:N, passphrase:credential:NAME or
    /// shares. Default: a new key file, store.key.
    #[arg(long)]
    pub key_source: Option<KeyPlace>,
    /// With `shares`: how many there are.
    #[arg(long, default_value_t = 5)]
    pub shares: u8,
    /// With `shares`: how many of them open the store.
    #[arg(long, default_value_t = 3)]
    pub threshold: u8,
    /// Where workloads connect.
    #[arg(long, default_value = "127.0.0.1:8443")]
    pub listen: String,
    /// Where operators connect.
    #[arg(long, default_value = "127.0.0.1:8444")]
    pub admin_listen: String,
    /// Where probes and scrapers connect, over plain HTTP: an address of this machine alone.
    #[arg(long, default_value = "127.0.0.1:8445")]
    pub operations_listen: String,
}

/// What is to be made.
pub struct Plan {
    /// Where configuration, keys and certificates go.
    pub directory: PathBuf,
    /// Where the store and the audit log go.
    pub data: PathBuf,
    /// The broker's SPIFFE ID.
    pub broker_id: SpiffeId,
    /// The first administrator's name.
    pub administrator: String,
    /// How long its certificate and roles last, milliseconds.
    pub administrator_ms: u64,
    /// Where workloads connect.
    pub listen: String,
    /// Where operators connect.
    pub admin_listen: String,
    /// Where probes and scrapers connect; none = nowhere.
    pub operations_listen: Option<String>,
    /// The part of the configuration about trust domains.
    pub trust_domains: String,
    /// What opens the store; none: a new key file in `directory`.
    pub key_source: Option<KeyPlace>,
    /// With shares: how many open it, and how many there are.
    pub threshold_of_shares: (u8, u8),
}

/// Why nothing, or not everything, was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file or directory cannot be made, or is there already.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The store cannot be made.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The key source gives no key.
    #[error("the key source: {0}")]
    Key(#[from] KeySourceError),
    /// The audit log or its key cannot be made.
    #[error("the audit log: {0}")]
    Log(String),
    /// The administrators' CA or certificate cannot be made.
    #[error("the administrators' certificates: {0}")]
    Certificate(#[from] CaError),
    /// The first administrator cannot be recorded.
    #[error("the first administrator: {0}")]
    Administrator(#[from] ChangeError),
    /// A clock cannot be read.
    #[error("a clock cannot be read")]
    Clock,
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    if let Some(certificate) = args.recover_admin.clone() {
        return run_recovery(args, certificate).await;
    }
    let broker_id = match SpiffeId::parse(&args.broker_id.unwrap_or_default()) {
        Ok(id) => id,
        Err(error) => {
            eprintln!("portcullis: --broker-id: {error}");
            return exit::USAGE;
        }
    };
    let trust_domains = example_trust_domain(broker_id.trust_domain());
    let plan = Plan {
        directory: args.directory,
        data: args.data,
        broker_id,
        administrator: args.administrator,
        administrator_ms: u64::from(args.administrator_days).saturating_mul(86_400_000),
        listen: args.listen,
        admin_listen: args.admin_listen,
        operations_listen: Some(args.operations_listen),
        trust_domains,
        key_source: args.key_source.map(absolute),
        threshold_of_shares: (args.threshold, args.shares),
    };
    match make(&plan, &SystemTime).await {
        Ok(shares) => {
            hand_out(&shares);
            print!("{}", next_steps(&plan));
            exit::OK
        }
        Err(error) => {
            eprintln!("portcullis: not made: {error}");
            exit::CONFIGURATION
        }
    }
}

async fn run_recovery(args: Args, certificate: PathBuf) -> u8 {
    let recovery = recover::Recovery {
        directory: args.directory,
        certificate,
        name: args.administrator,
        life_ms: u64::from(args.administrator_days).saturating_mul(86_400_000),
    };
    match recover::recover(&recovery, &SystemTime).await {
        Ok(one) => {
            println!(
                "`{}` is an administrator of all roles until {}: start the broker",
                one.name, one.not_after
            );
            exit::OK
        }
        Err(error) => {
            eprintln!("portcullis: no administrator was made: {error}");
            exit::CONFIGURATION
        }
    }
}

/// The configuration is in another directory than this command is run in.
fn absolute(place: KeyPlace) -> KeyPlace {
    match place {
        KeyPlace::File(path) => KeyPlace::File(std::path::absolute(&path).unwrap_or(path)),
        other => other,
    }
}

/// Shares as text, in order; none where no shares open the store.
pub type Dealt = Vec<Zeroizing<String>>;

/// Makes everything of a plan; gives the shares, where the store is opened by shares.
pub async fn make(plan: &Plan, source: &dyn TimeSource) -> Result<Dealt, InitError> {
    let (Some(wall), Some(boot)) = (source.wall(), source.boot()) else { return Err(InitError::Clock) };
    let now = Now { wall, boot };
    let paths = Paths::of(plan);
    let (key, dealt) = key_of(plan, &paths)?;
    for directory in [&plan.directory, &plan.data] {
        make_directory(directory)?;
    }
    let store = Arc::new(SledStore::create(&paths.store)?);
    if let KeyPlace::File(path) = plan.key_place() {
        KeyFile::new(&path, &paths.store).create()?;
    }
    let vault = Vault::create(store, key.as_ref()).await?;
    let origin = format!("portcullis/{}", plan.broker_id.trust_domain());
    let log_key =
        LogKey::create(&paths.audit_key, &origin).map_err(|error| InitError::Log(error.to_string()))?;
    write_new(&paths.audit_public, &format!("{}\n", log_key.public()), PUBLIC)?;
    let opened = Log::open(&paths.audit, log_key, WallTime(0), |_| ());
    let (log, _) = opened.map_err(|error| InitError::Log(error.to_string()))?;
    let recorder = Recorder::new(Arc::new(log), source.boot_id());
    let administrator = make_administrator(plan, &paths, now)?;
    enrol_first(&vault, &recorder, &administrator, now).await?;
    let stopped = recorder.note(Event::Stopped {}, now).await;
    stopped.map_err(|error| InitError::Log(error.to_string()))?;
    recorder.log().close();
    write_new(&paths.configuration, &configuration(plan, &paths), PUBLIC)?;
    Ok(dealt)
}

/// What opens the store, and the shares where it is those. A passphrase that will not do, and numbers that are impossible, are
/// refused before anything is made.
fn key_of(plan: &Plan, paths: &Paths) -> Result<(Arc<dyn KeySource>, Dealt), InitError> {
    let place = plan.key_place();
    match place.source(&paths.store) {
        Some(source) if matches!(place, KeyPlace::File(_)) => return Ok((source, Vec::new())),
        Some(source) => return Ok((Arc::new(Given::new(source.lock()?)), Vec::new())),
        None => {}
    }
    let (threshold, count) = plan.threshold_of_shares;
    let (joined, dealt) = shares::deal(ShareSet::new(threshold, count)?)?;
    Ok((Arc::new(joined), dealt))
}

/// Shows each share once, for its holder alone: at a terminal one after the other, each gone before the next is shown.
fn hand_out(shares: &[Zeroizing<String>]) {
    let ceremony = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    for (index, share) in shares.iter().enumerate() {
        println!(
            "share {} of {}, for its holder alone:\n\n    {}\n",
            index.saturating_add(1),
            shares.len(),
            share.as_str()
        );
        if ceremony {
            print!("written down? press Enter, and it is gone: ");
            let _ = std::io::stdout().flush();
            let _ = std::io::stdin().read_line(&mut String::new());
            // Screen, what scrolled off it, and the cursor (ECMA-48; xterm).
            print!("\x1b[2J\x1b[3J\x1b[H");
        }
    }
}

impl Plan {
    /// What opens the store.
    fn key_place(&self) -> KeyPlace {
        let default = || KeyPlace::File(self.directory.join("store.key"));
        self.key_source.clone().unwrap_or_else(default)
    }
}

/// Every file that `init` makes.
pub struct Paths {
    /// The configuration.
    pub configuration: PathBuf,
    /// The store's directory.
    pub store: PathBuf,
    /// The audit log's directory.
    pub audit: PathBuf,
    /// The key that everything stored is sealed under.
    pub key: PathBuf,
    /// The key that signs the log's checkpoints.
    pub audit_key: PathBuf,
    /// What verifies them.
    pub audit_public: PathBuf,
    /// The operators' root, PEM.
    pub admin_roots: PathBuf,
    /// Its key, PEM: to be taken off this machine.
    pub admin_root_key: PathBuf,
    /// The first administrator's certificate, PEM.
    pub admin_certificate: PathBuf,
    /// Its key, PEM.
    pub admin_key: PathBuf,
}

impl Paths {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Paths {
        let (directory, data) = (&plan.directory, &plan.data);
        Paths {
            configuration: directory.join("portcullis.toml"),
            store: data.join("store"),
            audit: data.join("audit"),
            key: directory.join("store.key"),
            audit_key: directory.join("audit.key"),
            audit_public: directory.join("audit.pub"),
            admin_roots: directory.join("admin-roots.pem"),
            admin_root_key: directory.join("admin-roots.key"),
            admin_certificate: directory.join(format!("{}.pem", plan.administrator)),
            admin_key: directory.join(format!("{}.key", plan.administrator)),
        }
    }
}

fn make_administrator(plan: &Plan, paths: &Paths, now: Now) -> Result<Administrator, InitError> {
    let ca = DevelopmentCa::new("Portcullis operators", now.wall)?;
    let not_after = now.wall.plus(plan.administrator_ms);
    let leaf = ca.leaf(&LeafRequest {
        id: None,
        name: plan.administrator.clone(),
        hosts: Vec::new(),
        serial: serial(),
        not_before: WallTime(now.wall.0.saturating_sub(60_000)),
        not_after,
    })?;
    write_new(&paths.admin_roots, &ca.root(), PUBLIC)?;
    write_new(&paths.admin_root_key, &ca.key(), PRIVATE)?;
    write_new(&paths.admin_certificate, &leaf.certificate, PUBLIC)?;
    write_new(&paths.admin_key, &leaf.key, PRIVATE)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf.spki);
    Ok(Administrator {
        name: plan.administrator.clone(),
        key_sha256: hex::encode(digest),
        roles: Role::ALL.into(),
        not_after,
    })
}

/// A positive serial number that no other certificate of this CA is likely to have.
fn serial() -> u64 {
    let id = random_id().unwrap_or_default();
    let head = id.get(..15).unwrap_or("1");
    u64::from_str_radix(head, 16).unwrap_or(1).max(1)
}

fn configuration(plan: &Plan, paths: &Paths) -> String {
    let section = |listen: &String| format!("[operations]\nlisten = \"{listen}\"\n\n");
    let operations = plan.operations_listen.as_ref().map(section).unwrap_or_default();
    format!(
        "# Made by `portcullis init`; every key is explained in deploy/portcullis.toml.\n\n\
         [broker]\nspiffe_id = \"{}\"\nlisten = \"{}\"\ncertificate = \"broker.pem\"\nkey = \"broker.key\"\n\n\
         [storage]\ndata = {}\naudit = {}\n{}\naudit_key_file = \"audit.key\"\n\n\
         [admin]\nlisten = \"{}\"\nroots = \"admin-roots.pem\"\n\n{}{}",
        plan.broker_id,
        plan.listen,
        quoted(&paths.store),
        quoted(&paths.audit),
        key_line(plan),
        plan.admin_listen,
        operations,
        plan.trust_domains,
    )
}

fn key_line(plan: &Plan) -> String {
    match &plan.key_source {
        None => "key_file = \"store.key\"".to_owned(),
        Some(place) => format!("key_source = {}", toml::Value::String(place.to_string())),
    }
}

fn example_trust_domain(name: &TrustDomain) -> String {
    format!(
        "[[trust_domain]]\nname = \"{name}\"\nbundle = \"{name}.bundle.json\"\nbundle_max_age_seconds = 86400\n\
         revocation = \"short-lived\"\n"
    )
}

fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

fn next_steps(plan: &Plan) -> String {
    let paths = Paths::of(plan);
    format!(
        "made {}\n\nNext:\n\
         1. Put the broker's X.509-SVID ({}) at broker.pem and broker.key in {}.\n\
         2. Put each trust domain's bundle where the configuration says, and declare how it revokes.\n\
         3. Back up {} and {}: without them nothing stored can be opened, and no checkpoint signed.\n\
         4. Take {} off this machine: it makes administrators' certificates.\n\
         5. portcullis serve --config {} --check\n",
        paths.configuration.display(),
        plan.broker_id,
        plan.directory.display(),
        plan.key_source.as_ref().map_or_else(|| paths.key.display().to_string(), kept),
        paths.audit_key.display(),
        paths.admin_root_key.display(),
        paths.configuration.display(),
    )
}

/// What is not to be lost, of a source that `init` did not make.
fn kept(place: &KeyPlace) -> String {
    match place {
        KeyPlace::Shares => "enough shares".to_owned(),
        KeyPlace::Passphrase(_) => "the passphrase".to_owned(),
        KeyPlace::File(path) => path.display().to_string(),
        KeyPlace::Credential(name) => format!("the key behind credential {name}"),
    }
}

fn make_directory(path: &Path) -> Result<(), InitError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| InitError::File { path: path.to_owned(), error })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), InitError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| InitError::File { path: path.to_owned(), error })
}

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;
