//! The broker's configuration: one TOML file; unknown keys are refused, every key has its unit in its name.
//!
//! *Takes* a file. *Gives* [`Config`]. *Denies* nothing: it is refused with the line and the cause.
//! *Source*: `deploy/portcullis.toml`, where every key is explained.

use crate::challenge::Offer;
use crate::challenge::admission::{Rate, Rates};
use crate::cli::evidence::EvidenceSection;
use crate::cli::keyplace::KeyPlace;
use crate::collateral::CollateralConfig;
use crate::limits;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::transport::{DomainConfig, RevocationMode};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker itself.
    pub broker: BrokerSection,
    /// Where it keeps things.
    pub storage: StorageSection,
    /// The operators' listener.
    pub admin: AdminSection,
    /// Whose workloads it serves; at least one.
    pub trust_domain: Vec<TrustDomainSection>,
    /// Which evidence it takes.
    #[serde(default)]
    pub evidence: EvidenceSection,
    /// Where what hardware evidence needs besides is fetched from, and kept.
    #[serde(default)]
    pub collateral: CollateralConfig,
    /// The listener for probes and scrapers; without the section there is none.
    #[serde(default)]
    pub operations: Option<OperationsSection>,
    /// Limits on callers.
    #[serde(default)]
    pub limits: LimitsSection,
    /// Logs.
    #[serde(default)]
    pub log: LogSection,
}

/// `[broker]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSection {
    /// The broker's SPIFFE ID, as in its certificate; clients are configured with it.
    pub spiffe_id: SpiffeId,
    /// Where workloads connect.
    pub listen: SocketAddr,
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM, PKCS#8.
    pub key: PathBuf,
    /// Milliseconds to answer a challenge, 1 to 30 000.
    #[serde(default = "default_answer_within_ms")]
    pub answer_within_ms: u32,
    /// The longest time between two attestations of a held lease, milliseconds, 1000 to 300 000.
    #[serde(default = "default_reattest_within_ms")]
    pub reattest_within_ms: u32,
    /// Whether clients that cannot reach the TLS exporter are served at all.
    #[serde(default)]
    pub allow_channel_binding_none: bool,
}

/// `[storage]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSection {
    /// The store's directory.
    pub data: PathBuf,
    /// The audit log's directory.
    pub audit: PathBuf,
    /// The key file: 32 bytes as 64 hex digits, 0600, outside `data`. The short form of `key_source = "file:…"`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Where the store's key comes from; this or `key_file`.
    #[serde(default)]
    pub key_source: Option<KeyPlace>,
    /// What `admin key rekey` moves to, and what is tried where the first does not open the store.
    #[serde(default)]
    pub key_source_next: Option<KeyPlace>,
    /// The key that signs the audit log's checkpoints; empty where it is a credential.
    #[serde(default)]
    pub audit_key_file: PathBuf,
    /// The file that is let go when the disk is full, MiB; 0 is none.
    #[serde(default = "default_ballast_mib")]
    pub ballast_mib: u32,
    /// The systemd credential that holds that key; this or `audit_key_file`.
    #[serde(default)]
    pub audit_key_credential: Option<String>,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSection {
    /// Where operators connect.
    pub listen: SocketAddr,
    /// PEM: the roots of operators' certificates; their own, never a trust domain's.
    pub roots: PathBuf,
    /// When changes that widen who may get a secret wait for a second person.
    #[serde(default)]
    pub two_persons: TwoPersonsMode,
}

/// `admin.two_persons`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TwoPersonsMode {
    /// Once two persons have a role; two together can switch it off.
    #[default]
    OnceTwo,
    /// Always; whoever is alone changes nothing of the kind.
    Always,
}

/// `[operations]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationsSection {
    /// Where probes and scrapers connect: plain HTTP, without certificates.
    #[serde(default = "default_operations")]
    pub listen: SocketAddr,
    /// Whether that address may be another than this machine's own.
    #[serde(default)]
    pub allow_beyond_loopback: bool,
}

/// `[[trust_domain]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDomainSection {
    /// Its name.
    pub name: TrustDomain,
    /// Its bundle: SPIFFE JSON or PEM.
    pub bundle: PathBuf,
    /// The oldest that file may be, seconds.
    pub bundle_max_age_seconds: u64,
    /// How it revokes: declared, never inferred.
    pub revocation: Revocation,
    /// With `crl`: its revocation lists, DER or PEM.
    #[serde(default)]
    pub crl_files: Vec<PathBuf>,
    /// With `crl`: the oldest a list may be by its `thisUpdate`, seconds.
    #[serde(default)]
    pub crl_max_age_seconds: Option<u64>,
    /// With `short-lived`: a leaf's longest whole lifetime, seconds.
    #[serde(default)]
    pub leaf_max_lifetime_seconds: Option<u64>,
}

/// How a trust domain revokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revocation {
    /// By certificate revocation lists.
    Crl,
    /// By leaves that end soon.
    ShortLived,
}

/// `[limits]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Streams of one identity at once.
    pub streams_per_identity: Option<usize>,
    /// Requests of one key, a second.
    pub requests_per_key_per_second: Option<u64>,
    /// Requests of one identity, a second.
    pub requests_per_identity_per_second: Option<u64>,
}

/// `[log]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Text for people, or JSON for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives of tracing's `EnvFilter`.
    pub level: Option<String>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be: unknown key, wrong type, no TOML.
    #[error("{path}: {error}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Line and cause.
        error: Box<toml::de::Error>,
    },
    /// Each key is well formed, but what they say together, or a number, is not possible.
    #[error("{key}: {why}")]
    Impossible {
        /// Which key.
        key: String,
        /// Why.
        why: String,
    },
}

impl Config {
    /// Reads and checks a file. Relative paths are relative to the file's directory.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        let parsed = toml::from_str::<Config>(&text);
        let mut config = parsed
            .map_err(|error| ConfigError::Malformed { path: path.to_owned(), error: Box::new(error) })?;
        if let Err((key, why)) = config.storage.check_keys() {
            impossible(key, why)?;
        }
        config.resolve(path.parent().unwrap_or(Path::new(".")));
        config.check()?;
        Ok(config)
    }

    /// What is offered to every workload.
    pub fn offer(&self) -> Offer {
        Offer {
            audience: self.broker.spiffe_id.clone(),
            formats: self.evidence.formats(),
            answer_within_ms: self.broker.answer_within_ms,
            channel_binding_none: self.broker.allow_channel_binding_none,
            reattest_within_ms: self.broker.reattest_within_ms,
        }
    }

    /// Limits on callers: those of `limits`, where the file names none.
    pub fn rates(&self) -> Rates {
        let mut rates = Rates::default();
        let rate = |per_second: u64| Rate { per_second, burst: per_second.saturating_mul(10) };
        if let Some(streams) = self.limits.streams_per_identity {
            rates.streams_per_identity = streams;
        }
        if let Some(per_second) = self.limits.requests_per_key_per_second {
            rates.records_per_key = rate(per_second);
        }
        if let Some(per_second) = self.limits.requests_per_identity_per_second {
            rates.records_per_identity = rate(per_second);
        }
        rates
    }

    /// The trust domains, as the transport takes them.
    pub fn domains(&self) -> Vec<DomainConfig> {
        self.trust_domain.iter().map(TrustDomainSection::domain).collect()
    }

    fn resolve(&mut self, base: &Path) {
        let mut paths = vec![
            &mut self.broker.certificate,
            &mut self.broker.key,
            &mut self.storage.data,
            &mut self.storage.audit,
            &mut self.admin.roots,
        ];
        for domain in &mut self.trust_domain {
            paths.push(&mut domain.bundle);
            paths.extend(&mut domain.crl_files);
        }
        paths.extend(self.evidence.paths());
        for path in paths {
            *path = base.join(&*path);
        }
        self.storage.resolve_keys(base);
        self.collateral.resolve(base);
    }

    fn check(&self) -> Result<(), ConfigError> {
        let answer = self.broker.answer_within_ms;
        if answer == 0 || answer > limits::ANSWER_WITHIN_MS_MAX {
            return impossible("broker.answer_within_ms", "must be 1 to 30000");
        }
        let intervals = limits::HOLD_INTERVAL_MS_MIN..=limits::HOLD_INTERVAL_MS_MAX;
        if !intervals.contains(&self.broker.reattest_within_ms) {
            return impossible("broker.reattest_within_ms", "must be 1000 to 300000");
        }
        if self.trust_domain.is_empty() {
            return impossible("trust_domain", "at least one is needed");
        }
        if let Some(operations) = &self.operations
            && !operations.listen.ip().is_loopback()
            && !operations.allow_beyond_loopback
        {
            let why = "plain HTTP without certificates is for this machine: name a loopback address, or set \
                       operations.allow_beyond_loopback where the network admits nobody else";
            return impossible("operations.listen", why);
        }
        if let Err(why) = self.evidence.check() {
            return impossible("evidence", &why);
        }
        if let Err(fault) = self.collateral.check() {
            return impossible(&format!("collateral.{}", fault.key), &fault.why);
        }
        let mut names = std::collections::BTreeSet::new();
        for domain in &self.trust_domain {
            if !names.insert(&domain.name) {
                return impossible("trust_domain.name", &format!("`{}` stands twice", domain.name));
            }
            domain.check()?;
        }
        Ok(())
    }
}

impl TrustDomainSection {
    fn domain(&self) -> DomainConfig {
        let revocation = match self.revocation {
            Revocation::Crl => RevocationMode::Crl {
                files: self.crl_files.clone(),
                max_age_seconds: self.crl_max_age_seconds.unwrap_or(0),
            },
            Revocation::ShortLived => RevocationMode::ShortLived {
                max_lifetime_seconds: self.leaf_max_lifetime_seconds.unwrap_or(limits::SHORT_LIVED_SECONDS),
            },
        };
        DomainConfig {
            name: self.name.clone(),
            bundle: self.bundle.clone(),
            bundle_max_age_seconds: self.bundle_max_age_seconds,
            revocation,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let key = |key: &str| format!("trust_domain `{}`: {key}", self.name);
        if self.bundle_max_age_seconds == 0 {
            return impossible(&key("bundle_max_age_seconds"), "must be at least 1");
        }
        match self.revocation {
            Revocation::Crl if self.crl_files.is_empty() => {
                impossible(&key("crl_files"), "revocation by lists needs at least one")
            }
            Revocation::Crl if self.crl_max_age_seconds.unwrap_or(0) == 0 => {
                impossible(&key("crl_max_age_seconds"), "revocation by lists needs it, at least 1")
            }
            Revocation::Crl if self.leaf_max_lifetime_seconds.is_some() => {
                impossible(&key("leaf_max_lifetime_seconds"), "goes with `short-lived` only")
            }
            Revocation::ShortLived if !self.crl_files.is_empty() || self.crl_max_age_seconds.is_some() => {
                impossible(&key("crl_files"), "lists go with `crl` only; they would not be read")
            }
            Revocation::ShortLived if self.leaf_max_lifetime_seconds == Some(0) => {
                impossible(&key("leaf_max_lifetime_seconds"), "must be at least 1")
            }
            Revocation::Crl | Revocation::ShortLived => Ok(()),
        }
    }
}

fn impossible(key: &str, why: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Impossible { key: key.to_owned(), why: why.to_owned() })
}

/// A workload asks its own node over a socket; seconds are ample, and 30 are the protocol's most.
fn default_reattest_within_ms() -> u32 {
    limits::HOLD_INTERVAL_MS
}

fn default_answer_within_ms() -> u32 {
    10_000
}

/// A segment of the audit log: room for some hundred thousand denials, or for what administrators do in a day.
fn default_ballast_mib() -> u32 {
    64
}

/// The port after the two that `init` proposes.
fn default_operations() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8445))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [broker]
        spiffe_id = "spiffe://example.org/portcullis"
        listen = "127.0.0.1:8443"
        certificate = "broker.pem"
        key = "broker.key"
        [storage]
        data = "data"
        audit = "audit"
        key_file = "/etc/portcullis/key"
        audit_key_file = "audit.key"
        [admin]
        listen = "127.0.0.1:8444"
        roots = "admin.pem"
        [[trust_domain]]
        name = "example.org"
        bundle = "bundle.json"
        bundle_max_age_seconds = 3600
        revocation = "short-lived"
    "#;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = read(GOOD).unwrap();
        assert!(config.storage.data.is_absolute() && config.storage.data.ends_with("data"));
        assert_eq!(config.storage.key_place(), Some(KeyPlace::File("/etc/portcullis/key".into())));
        let RevocationMode::ShortLived { max_lifetime_seconds } = config.domains()[0].revocation else {
            panic!()
        };
        assert_eq!(max_lifetime_seconds, 3900);
    }

    #[test]
    fn an_unknown_key_is_refused_by_line() {
        let error = read(
            &GOOD.replace("listen = \"127.0.0.1:8443\"", "listen = \"127.0.0.1:8443\"\ninsecure = true"),
        );
        assert!(error.unwrap_err().to_string().contains("insecure"));
    }

    #[test]
    fn a_key_comes_from_one_place_and_a_passphrase_is_in_no_file() {
        let with = |to: &str| read(&GOOD.replace("key_file = \"/etc/portcullis/key\"\n", &format!("{to}\n")));
        let place = with("key_source = \"file:store.key\"").unwrap().storage.key_place().unwrap();
        assert!(matches!(place, KeyPlace::File(path) if path.is_absolute() && path.ends_with("store.key")));
        assert!(with("key_source = \"shares\"").is_ok());
        for wrong in [
            "",
            "key_file = \"a\"\nkey_source = \"shares\"",
            "key_source = \"passphrase:correct horse\"",
            "key_source = \"shares\"\nkey_source_next = \"passphrase:terminal\"",
            "key_source = \"shares\"\nkey_source_next = \"passphrase:fd:3\"",
            "key_source = \"shares\"\naudit_key_credential = \"audit.key\"",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn revocation_is_declared_and_whole() {
        for (from, to) in [
            ("revocation = \"short-lived\"", ""),
            ("revocation = \"short-lived\"", "revocation = \"none\""),
            ("revocation = \"short-lived\"", "revocation = \"crl\""),
            ("revocation = \"short-lived\"", "revocation = \"crl\"\ncrl_files = [\"a\"]"),
            ("revocation = \"short-lived\"", "revocation = \"short-lived\"\ncrl_files = [\"a\"]"),
            ("bundle_max_age_seconds = 3600", ""),
            ("bundle_max_age_seconds = 3600", "bundle_max_age_seconds = 0"),
        ] {
            assert!(read(&GOOD.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_operations_listener_stays_on_this_machine_unless_it_is_said_that_it_may_not() {
        let with = |section: &str| read(&format!("{GOOD}\n[operations]\n{section}\n"));
        assert_eq!(read(GOOD).unwrap().operations.map(|section| section.listen), None);
        let default = with("").unwrap().operations.unwrap().listen;
        assert_eq!(default, "127.0.0.1:8445".parse().unwrap());
        assert!(with("listen = \"[::1]:9\"").is_ok());
        for wide in ["0.0.0.0:8445", "10.0.0.1:8445", "[::]:8445", "[::ffff:10.0.0.1]:8445"] {
            let refused = with(&format!("listen = \"{wide}\"")).unwrap_err().to_string();
            assert!(refused.contains("allow_beyond_loopback"), "{refused}");
            let named = with(&format!("listen = \"{wide}\"\nallow_beyond_loopback = true"));
            assert_eq!(named.unwrap().operations.unwrap().listen, wide.parse().unwrap());
        }
    }
}
