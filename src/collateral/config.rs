//! `[collateral]`: where collateral is fetched from, how long is waited, and where it is kept.
//!
//! *Takes* TOML. *Gives* [`CollateralConfig`]. *Denies* nothing; what cannot be is refused with its key and the cause.
//! *Source*: `house.md` §4 (units stand in names).

use super::back_off::Waits;
use super::endpoint::Endpoint;
use super::item::Service;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `[collateral]`. Without a service's section nothing of it is fetched: what attesters bring along, and what an
/// administrator imports, is all there is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollateralConfig {
    /// A directory to keep collateral in across restarts; the broker makes it and owns it. Default: none, memory alone.
    pub directory: Option<PathBuf>,
    /// Milliseconds for one exchange, from the name's resolution to the last byte: 1 to 60000. Default: 5000.
    pub exchange_within_ms: u64,
    /// Milliseconds that a release waits at most for what its evidence lacks; the exchange goes on without it: 0 to 10000.
    /// Default: 3000.
    pub release_waits_ms: u64,
    /// Items that may be fetched on behalf of one identity within a minute: 1 to 1000. Default: 10. A new chip takes one, with
    /// a list and an intermediate up to three; a quote of a new platform four.
    pub fetches_per_identity_per_minute: u32,
    /// Exchanges at once, of all services: 1 to 64. Default: 4.
    pub exchanges: usize,
    /// Seconds after which a newer list, TCB info or QE identity is asked for, although the held one has not ended; at least
    /// 60. A revocation is known this late at most, while the service answers. Default: 86400, a day.
    pub refresh_every_seconds: u64,
    /// Seconds before its end from which on a newer one is asked for at each look, once a minute. Default: 259200, three
    /// days: as long may a service be out without a denial.
    pub refresh_ahead_seconds: u64,
    /// Milliseconds for which a service is left alone after it failed, doubled with each failure after it: 1 to the longest.
    /// Default: 10000, AMD's own rate.
    pub back_off_first_ms: u64,
    /// The longest such time, milliseconds, also where the service asks for more: up to an hour. Default: 600000.
    pub back_off_longest_ms: u64,
    /// `[collateral.sev-snp]`
    #[serde(rename = "sev-snp")]
    pub sev_snp: Option<SevSnpService>,
    /// `[collateral.tdx]`
    pub tdx: Option<TdxService>,
}

/// `[collateral.sev-snp]`: AMD's key distribution service, or a copy of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SevSnpService {
    /// Its base: `https://kdsintf.amd.com`, or your own. HTTP to a loopback address only. Required.
    pub address: String,
    /// CAs of the service's certificate, PEM. Required with `https`, refused with `http`. Read at each exchange.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The oldest a revocation list may be by its thisUpdate, seconds. Default: its own nextUpdate decides.
    #[serde(default)]
    pub list_max_age_seconds: Option<u64>,
}

/// `[collateral.tdx]`: Intel's provisioning certification service, or your own PCCS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxService {
    /// Its base: `https://api.trustedservices.intel.com`, or your PCCS, such as `https://pccs.example.org:8081`. With Intel's
    /// own, the root CA's list comes from `https://certificates.trustedservices.intel.com`. HTTP to a loopback address only.
    /// Required.
    pub address: String,
    /// CAs of the service's certificate, PEM. Required with `https`, refused with `http`. Read at each exchange.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Why a configuration is refused: the key, below `collateral`, and the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct ConfigFault {
    /// Which key.
    pub key: String,
    /// Why.
    pub why: String,
}

impl Default for CollateralConfig {
    fn default() -> Self {
        CollateralConfig {
            directory: None,
            exchange_within_ms: 5_000,
            release_waits_ms: 3_000,
            fetches_per_identity_per_minute: 10,
            exchanges: 4,
            refresh_every_seconds: 86_400,
            refresh_ahead_seconds: 259_200,
            back_off_first_ms: 10_000,
            back_off_longest_ms: 600_000,
            sev_snp: None,
            tdx: None,
        }
    }
}

impl CollateralConfig {
    /// Makes relative paths relative to `base`.
    pub fn resolve(&mut self, base: &Path) {
        let files = [
            self.directory.as_mut(),
            self.sev_snp.as_mut().and_then(|service| service.ca_file.as_mut()),
            self.tdx.as_mut().and_then(|service| service.ca_file.as_mut()),
        ];
        for path in files.into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    /// Whether all of it is possible.
    pub fn check(&self) -> Result<(), ConfigFault> {
        let within = |key: &str, value: u64, range: std::ops::RangeInclusive<u64>| {
            let why = || format!("must be {} to {}", range.start(), range.end());
            if range.contains(&value) { Ok(()) } else { Err(fault(key, why())) }
        };
        within("exchange_within_ms", self.exchange_within_ms, 1..=60_000)?;
        within("release_waits_ms", self.release_waits_ms, 0..=10_000)?;
        let fetches = u64::from(self.fetches_per_identity_per_minute);
        within("fetches_per_identity_per_minute", fetches, 1..=1_000)?;
        within("exchanges", u64::try_from(self.exchanges).unwrap_or(u64::MAX), 1..=64)?;
        within("refresh_every_seconds", self.refresh_every_seconds, 60..=31_536_000)?;
        within("refresh_ahead_seconds", self.refresh_ahead_seconds, 0..=31_536_000)?;
        within("back_off_longest_ms", self.back_off_longest_ms, 1..=3_600_000)?;
        within("back_off_first_ms", self.back_off_first_ms, 1..=self.back_off_longest_ms)?;
        for service in Service::ALL {
            if let Some((address, ca_file)) = self.service(service) {
                check_service(service, address, ca_file)?;
            }
        }
        if let Some(service) = &self.sev_snp
            && service.list_max_age_seconds == Some(0)
        {
            return Err(fault("sev-snp.list_max_age_seconds", "must be at least 1".to_owned()));
        }
        Ok(())
    }

    /// A service's base and CA file; none where it is not configured.
    pub(super) fn service(&self, service: Service) -> Option<(&str, Option<&Path>)> {
        match service {
            Service::SevSnp => self.sev_snp.as_ref().map(|s| (s.address.as_str(), s.ca_file.as_deref())),
            Service::Tdx => self.tdx.as_ref().map(|s| (s.address.as_str(), s.ca_file.as_deref())),
        }
    }

    pub(super) fn waits(&self) -> Waits {
        Waits { first_ms: self.back_off_first_ms, longest_ms: self.back_off_longest_ms }
    }

    /// The oldest a list of AMD's may be; without one its nextUpdate decides.
    pub(super) fn list_max_age_seconds(&self) -> u64 {
        self.sev_snp.as_ref().and_then(|service| service.list_max_age_seconds).unwrap_or(u64::MAX)
    }
}

fn check_service(service: Service, address: &str, ca_file: Option<&Path>) -> Result<(), ConfigFault> {
    let key = |key: &str| format!("{}.{key}", service.name());
    let endpoint = Endpoint::parse_base(address).map_err(|why| fault(&key("address"), why.to_owned()))?;
    match (endpoint.tls, ca_file) {
        (true, None) => Err(fault(&key("ca_file"), "`https` needs it: no CA is built in".to_owned())),
        (false, Some(_)) => Err(fault(&key("ca_file"), "goes with `https` only".to_owned())),
        (true, Some(_)) | (false, None) => Ok(()),
    }
}

fn fault(key: &str, why: String) -> ConfigFault {
    ConfigFault { key: key.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        directory = "collateral"
        [sev-snp]
        address = "https://kdsintf.amd.com"
        ca_file = "ca.pem"
        [tdx]
        address = "http://127.0.0.1:8081/pccs"
    "#;

    fn read(text: &str) -> Result<CollateralConfig, String> {
        let config: CollateralConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|fault| fault.to_string())?;
        Ok(config)
    }

    #[test]
    fn without_a_section_nothing_is_fetched_and_paths_are_relative_to_the_file() {
        let config = read("").unwrap();
        assert_eq!(config, CollateralConfig::default());
        assert!(Service::ALL.into_iter().all(|service| config.service(service).is_none()));
        let mut config = read(GOOD).unwrap();
        config.resolve(Path::new("/etc/portcullis"));
        assert_eq!(config.directory.as_deref(), Some(Path::new("/etc/portcullis/collateral")));
        let (_, ca_file) = config.service(Service::SevSnp).unwrap();
        assert_eq!(ca_file, Some(Path::new("/etc/portcullis/ca.pem")));
    }

    /// The page's example, as it stands, and with every key that it shows with its default.
    #[test]
    fn the_operators_page_shows_a_configuration_that_reads_and_the_defaults_that_are() {
        #[derive(Deserialize)]
        struct File {
            collateral: CollateralConfig,
        }
        let page = include_str!("../../deploy/attestation/collateral.md");
        let example = page.split("```toml").nth(1).unwrap().split("```").next().unwrap();
        let shown = |text: &str| toml::from_str::<File>(text).unwrap().collateral;
        let config = shown(example);
        assert_eq!(config.check(), Ok(()));
        let key_line = |line: &str| line.starts_with('#') && line.as_bytes()[1].is_ascii_lowercase();
        let all: Vec<&str> =
            example.lines().map(|line| if key_line(line) { &line[1..] } else { line }).collect();
        let mut uncommented = shown(&all.join("\n"));
        let service = uncommented.sev_snp.as_mut().unwrap();
        assert_eq!(service.list_max_age_seconds.take(), Some(2_592_000), "an example: there is no default");
        assert_eq!(uncommented, config);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        for (from, to, key) in [
            ("https://kdsintf.amd.com", "http://kdsintf.amd.com", "sev-snp.address"),
            ("ca_file = \"ca.pem\"", "", "sev-snp.ca_file"),
            ("http://127.0.0.1:8081/pccs", "https://pccs.example.org", "tdx.ca_file"),
            ("/pccs\"", "/pccs\"\nca_file = \"ca.pem\"", "tdx.ca_file"),
            ("/pccs\"", "/pccs?x=1\"", "tdx.address"),
            ("ca_file = \"ca.pem\"", "ca_file = \"ca.pem\"\nlist_max_age_seconds = 0", "list_max_age"),
            ("directory", "exchange_within_ms = 0\ndirectory", "exchange_within_ms"),
            ("directory", "exchange_within_ms = 60001\ndirectory", "exchange_within_ms"),
            ("directory", "release_waits_ms = 10001\ndirectory", "release_waits_ms"),
            ("directory", "fetches_per_identity_per_minute = 0\ndirectory", "fetches_per_identity"),
            ("directory", "exchanges = 0\ndirectory", "exchanges"),
            ("directory", "refresh_every_seconds = 59\ndirectory", "refresh_every_seconds"),
            ("directory", "back_off_first_ms = 600001\ndirectory", "back_off_first_ms"),
            ("directory", "folow_redirects = true\ndirectory", "folow_redirects"),
            ("[tdx]", "[tdx]\ninsecure = true", "insecure"),
        ] {
            let error = read(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(key), "{to}: {error}");
        }
    }
}
