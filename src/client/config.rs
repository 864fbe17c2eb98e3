//! Where the broker is, who it is, and the files that prove who we are.
//!
//! *Takes* text, from the documented variables or a caller's own source. *Gives* [`Config`]. *Denies* nothing: a missing
//! or malformed value is a [`ConfigError`], and no value is guessed. *Source*: `protocol.md` "Connection".

use crate::denial::Denial;
use crate::spiffe::{self, SpiffeId};
use std::path::PathBuf;
use std::time::Duration;

/// Everything a release needs to know; the files are read at each new connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker's address, `host:port`. It says where to connect and nothing of who answers.
    pub broker: String,
    /// The broker's SPIFFE ID, the audience; any other peer is refused, one of the same trust domain too.
    pub broker_id: SpiffeId,
    /// Our X.509-SVID, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The trust bundle of the broker's trust domain: a SPIFFE bundle (JSON) or PEM certificates.
    pub bundle: PathBuf,
    /// The node attester's Unix socket.
    pub attester: PathBuf,
    /// The longest that a release may take, connection and attestation included.
    pub deadline: Duration,
}

/// The node attester's socket where none is named (`protocol.md` "The node's attester").
pub const DEFAULT_ATTESTER: &str = "/run/portcullis/attester.sock";
/// The longest time for a challenge's answer, and as much again for all else.
pub const DEFAULT_DEADLINE_SECONDS: u64 = 60;

/// What is wrong with the configuration, or with a file that it names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable that has no default is not set.
    #[error("`{0}` is not set")]
    Missing(&'static str),
    /// The broker's address is not `host:port`.
    #[error("the broker's address is not `host:port`")]
    BrokerAddress,
    /// The broker's ID is not a SPIFFE ID.
    #[error("the broker's ID is not a SPIFFE ID: {0}")]
    BrokerId(spiffe::ParseError),
    /// The deadline is not a number of seconds from 1 to 3600.
    #[error("the deadline is not a number of seconds from 1 to 3600")]
    Deadline,
    /// A file cannot be read.
    #[error("`{}` cannot be read: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// A file does not hold what it should.
    #[error("`{}` holds {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        what: &'static str,
    },
    /// Certificate and key do not belong together, and still did not after five seconds.
    #[error("`{}` and `{}` do not belong together", certificate.display(), key.display())]
    PairMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Our own certificate is not an X.509-SVID.
    #[error("`{}` is not an X.509-SVID: {why}", certificate.display())]
    NotAnSvid {
        /// The certificate's file.
        certificate: PathBuf,
        /// `PeerIdentityAmbiguous` or `PeerIdentityMalformed`.
        why: Denial,
    },
}

impl Config {
    /// Builds the configuration from the variables `PORTCULLIS_BROKER`, `PORTCULLIS_BROKER_ID`, `PORTCULLIS_CERT`,
    /// `PORTCULLIS_KEY`, `PORTCULLIS_BUNDLE`, `PORTCULLIS_ATTESTER_SOCKET` (default
    /// `/run/portcullis/attester.sock`) and `PORTCULLIS_DEADLINE_SECONDS` (default 60). `lookup` gives a variable's
    /// value: usually `|name| std::env::var(name).ok()`, as this library itself does not read the environment.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let required =
            |name| lookup(name).filter(|value| !value.is_empty()).ok_or(ConfigError::Missing(name));
        let deadline = match lookup("PORTCULLIS_DEADLINE_SECONDS") {
            None => DEFAULT_DEADLINE_SECONDS,
            Some(text) => text.parse().map_err(|_| ConfigError::Deadline)?,
        };
        let config = Config {
            broker: required("PORTCULLIS_BROKER")?,
            broker_id: SpiffeId::parse(&required("PORTCULLIS_BROKER_ID")?).map_err(ConfigError::BrokerId)?,
            certificate: required("PORTCULLIS_CERT")?.into(),
            key: required("PORTCULLIS_KEY")?.into(),
            bundle: required("PORTCULLIS_BUNDLE")?.into(),
            attester: lookup("PORTCULLIS_ATTESTER_SOCKET")
                .unwrap_or_else(|| DEFAULT_ATTESTER.to_owned())
                .into(),
            deadline: Duration::from_secs(deadline),
        };
        config.check()?;
        Ok(config)
    }

    /// Checks what can be checked without touching a file: the address and the deadline.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.origin()?;
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        range.contains(&self.deadline).then_some(()).ok_or(ConfigError::Deadline)
    }

    /// The address as gRPC's `:scheme` and `:authority`, which mean nothing to the broker.
    pub(super) fn origin(&self) -> Result<http::Uri, ConfigError> {
        let authority: http::uri::Authority = self.broker.parse().map_err(|_| ConfigError::BrokerAddress)?;
        if authority.port_u16().is_none() || authority.host().is_empty() || self.broker.contains('@') {
            return Err(ConfigError::BrokerAddress);
        }
        let uri = http::Uri::builder().scheme("https").authority(authority).path_and_query("/").build();
        uri.map_err(|_| ConfigError::BrokerAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "PORTCULLIS_BROKER" => "broker.example.org:8443",
            "PORTCULLIS_BROKER_ID" => "spiffe://example.org/portcullis",
            "PORTCULLIS_CERT" => "/run/svid/cert.pem",
            "PORTCULLIS_KEY" => "/run/svid/key.pem",
            "PORTCULLIS_BUNDLE" => "/run/svid/bundle.json",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn the_documented_variables_are_enough() {
        let config = Config::from_lookup(lookup).unwrap();
        assert_eq!(config.broker_id.as_str(), "spiffe://example.org/portcullis");
        assert_eq!(config.attester, PathBuf::from(DEFAULT_ATTESTER));
        assert_eq!(config.deadline, Duration::from_secs(DEFAULT_DEADLINE_SECONDS));
    }

    #[test]
    fn each_required_variable_is_missed_by_name() {
        for missing in [
            "PORTCULLIS_BROKER",
            "PORTCULLIS_BROKER_ID",
            "PORTCULLIS_CERT",
            "PORTCULLIS_KEY",
            "PORTCULLIS_BUNDLE",
        ] {
            let without = |name: &str| lookup(name).filter(|_| name != missing);
            assert_eq!(Config::from_lookup(without).unwrap_err(), ConfigError::Missing(missing));
            let empty = |name: &str| if name == missing { Some(String::new()) } else { lookup(name) };
            assert_eq!(Config::from_lookup(empty).unwrap_err(), ConfigError::Missing(missing));
        }
    }

    #[test]
    fn a_malformed_value_is_refused_and_not_replaced() {
        let with = |name: &'static str, value: &'static str| {
            move |asked: &str| if asked == name { Some(value.to_owned()) } else { lookup(asked) }
        };
        for address in ["broker.example.org", "user@broker.example.org:8443", ":8443", "broker:port", "a b:1"]
        {
            let error = Config::from_lookup(with("PORTCULLIS_BROKER", address)).unwrap_err();
            assert_eq!(error, ConfigError::BrokerAddress, "{address}");
        }
        for seconds in ["0", "3601", "soon", "-1"] {
            let error = Config::from_lookup(with("PORTCULLIS_DEADLINE_SECONDS", seconds)).unwrap_err();
            assert_eq!(error, ConfigError::Deadline, "{seconds}");
        }
        let error = Config::from_lookup(with("PORTCULLIS_BROKER_ID", "spiffe://example.org")).unwrap_err();
        assert_eq!(error, ConfigError::BrokerId(spiffe::ParseError::Path));
    }
}
