//! What `exec` and `get` share: the way to the broker, and how a failed release is told.
//!
//! *Takes* flags and the documented environment. *Gives* a [`Config`], and an exit code with its explanation on stderr.
//! *Denies* nothing itself. *Source*: `protocol.md` "Denials on the wire"; sysexits(3).
#![allow(clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::cli::exit;
use crate::client::{
    AttestError, Attester, Config, ConfigError, DEFAULT_ATTESTER, DEFAULT_DEADLINE_SECONDS, Kind,
    ReleaseError,
};
use crate::limits;
use crate::proto::v1::Evidence;
use crate::spiffe::SpiffeId;
use futures_util::future::BoxFuture;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use std::path::PathBuf;
use std::time::Duration;

/// Where the broker is, who it is, and the files that prove who we are.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Broker and identity")]
pub struct BrokerArgs {
    /// The broker's address.
    #[arg(long, env = "PORTCULLIS_BROKER", value_name = "HOST:PORT")]
    pub broker: String,
    /// The broker's SPIFFE ID; any other peer is refused, one of the same trust domain too.
    #[arg(long, env = "PORTCULLIS_BROKER_ID", value_name = "SPIFFE-ID", value_parser = SpiffeId::parse)]
    pub broker_id: SpiffeId,
    /// This workload's X.509-SVID, PEM, leaf first.
    #[arg(long, env = "PORTCULLIS_CERT", value_name = "FILE")]
    pub cert: PathBuf,
    /// Its private key, PEM.
    #[arg(long, env = "PORTCULLIS_KEY", value_name = "FILE")]
    pub key: PathBuf,
    /// The trust bundle of the broker's trust domain: SPIFFE JSON, or PEM.
    #[arg(long, env = "PORTCULLIS_BUNDLE", value_name = "FILE")]
    pub bundle: PathBuf,
    /// The node attester's socket.
    #[arg(long, env = "PORTCULLIS_ATTESTER_SOCKET", value_name = "SOCKET", default_value = DEFAULT_ATTESTER)]
    pub attester: PathBuf,
    /// The longest that the release may take, seconds.
    #[arg(
        long,
        env = "PORTCULLIS_DEADLINE_SECONDS",
        value_name = "SECONDS",
        default_value_t = DEFAULT_DEADLINE_SECONDS
    )]
    pub deadline_seconds: u64,
}

impl BrokerArgs {
    /// The client's configuration.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let config = Config {
            broker: self.broker.clone(),
            broker_id: self.broker_id.clone(),
            certificate: self.cert.clone(),
            key: self.key.clone(),
            bundle: self.bundle.clone(),
            attester: self.attester.clone(),
            deadline: Duration::from_secs(self.deadline_seconds),
        };
        config.check()?;
        Ok(config)
    }
}

/// For a person, or for a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Lines for a person.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Tells on stderr why there is no secret; gives the exit code.
pub fn refuse(error: &ReleaseError, output: Output) -> u8 {
    match output {
        Output::Json => eprintln!("{}", as_json(error)),
        Output::Text => {
            eprintln!("portcullis: {error}");
            if let Some(id) = error.decision_id() {
                eprintln!("portcullis: decision {id}");
            }
            eprintln!("portcullis: {}", advice(error));
        }
    }
    code(error.kind())
}

/// The exit code of each kind; every kind has its own.
pub fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Denied => exit::DENIED,
        Kind::NotPossible => exit::NOT_POSSIBLE,
        Kind::Connect => exit::UNAVAILABLE,
        Kind::Protocol => exit::PROTOCOL,
        Kind::Usage => exit::USAGE,
        Kind::Config => exit::CONFIGURATION,
        Kind::Internal => exit::INTERNAL,
    }
}

fn as_json(error: &ReleaseError) -> serde_json::Value {
    let outcome = match error.kind() {
        Kind::Denied => "denied",
        Kind::NotPossible => "not_possible",
        Kind::Connect => "not_connected",
        Kind::Protocol => "not_the_broker",
        Kind::Usage => "usage",
        Kind::Config => "configuration",
        Kind::Internal => "internal",
    };
    serde_json::json!({
        "outcome": outcome,
        "exit_code": code(error.kind()),
        "reason": error.reason().map(crate::denial::Reason::name),
        "decision_id": error.decision_id(),
        "message": error.to_string(),
        "advice": advice(error),
    })
}

fn advice(error: &ReleaseError) -> String {
    if let Some(id) = error.decision_id() {
        return format!("ask an operator: portcullis admin explain --decision {id}");
    }
    let text = match (error, error.kind()) {
        (ReleaseError::Attestation(AttestError::Unreachable(_)), _) => {
            "is the node's attester running (portcullis agent), and may this user connect to its socket?"
        }
        (ReleaseError::CertificateRefused(_), _) => {
            "do not try again with this certificate: get a new one, or ask an operator, whose log has the refused handshake"
        }
        (ReleaseError::Attestation(_), _) => "the log of the node's attester says why",
        (_, Kind::Denied | Kind::NotPossible) => "ask an operator; the broker's audit log has the decision",
        (_, Kind::Connect) => "check --broker and the network",
        (_, Kind::Protocol) => "check --broker, --broker-id and --bundle: something else may have answered",
        (_, Kind::Usage) => "a path is [a-z0-9._-]+ segments joined by `/`; 1 to 16 of them, distinct",
        (_, Kind::Config) => "see --help for the files and variables",
        (_, Kind::Internal) => "see the system's log",
    };
    text.to_owned()
}

/// An attester after whose answer this process can no longer be read or dumped, which is before any secret arrives. Not
/// earlier: an attester that is not root could not measure it any more.
pub struct Discreet<A>(pub A);

impl<A: Attester> Attester for Discreet<A> {
    fn attest<'a>(
        &'a self,
        binding: &'a [u8; limits::BINDING_BYTES],
        formats: &'a [String],
    ) -> BoxFuture<'a, Result<Evidence, AttestError>> {
        Box::pin(async move {
            let evidence = self.0.attest(binding, formats).await?;
            let hidden = hide();
            hidden.map_err(|_| AttestError::Other("this process cannot be hidden from others".to_owned()))?;
            Ok(evidence)
        })
    }
}

/// No tracer, no reader of `/proc/PID/mem`, no core dump.
fn hide() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let now = rustix::process::getrlimit(Resource::Core);
    // The maximum stays, so that a child may be told to dump.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: now.maximum })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{CertificateRefused, ConnectError, Imposture};
    use crate::denial::{Denial, Reason};

    #[test]
    fn each_kind_of_failure_has_its_own_exit_code() {
        let decision_id = Some("d-1".to_owned());
        let errors = [
            (ReleaseError::Denied { reason: Reason::NotReleased, decision_id }, 77, "denied"),
            (ReleaseError::CertificateRefused(CertificateRefused::Revoked), 77, "denied"),
            (ReleaseError::NotPossible { reason: Reason::Overloaded, decision_id: None }, 75, "not_possible"),
            (ReleaseError::Connect(ConnectError::HandshakeTooSlow), 69, "not_connected"),
            (ReleaseError::NotTheBroker(Imposture::Audience), 76, "not_the_broker"),
            (ReleaseError::Request(Denial::RequestMalformed), 64, "usage"),
            (ReleaseError::Config(ConfigError::BrokerAddress), 78, "configuration"),
            (ReleaseError::NoRandomness, 70, "internal"),
        ];
        for (error, expected, outcome) in errors {
            assert_eq!(code(error.kind()), expected, "{error}");
            let json = as_json(&error);
            assert_eq!((&json["exit_code"], &json["outcome"]), (&expected.into(), &outcome.into()));
        }
    }

    #[test]
    fn a_denial_says_what_to_ask_an_operator() {
        let error =
            ReleaseError::Denied { reason: Reason::NotReleased, decision_id: Some("abc-1".to_owned()) };
        assert_eq!(advice(&error), "ask an operator: portcullis admin explain --decision abc-1");
        let json = as_json(&error);
        assert_eq!((&json["reason"], &json["decision_id"]), (&"NOT_RELEASED".into(), &"abc-1".into()));
    }
}
