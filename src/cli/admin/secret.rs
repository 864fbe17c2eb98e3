//! `portcullis admin secret …`

use super::output::{Lines, changed, more, or};
use super::{Failure, Operators, value};
use crate::proto::admin::destroy_secret_request::Which;
use crate::proto::admin::*;
use std::collections::BTreeMap;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Put a new version of a secret, and the secret where it is new.
    ///
    /// Example: portcullis admin secret put kv/payments/stripe --field api_key=@stripe.key
    Put(Put),
    /// List secrets, without their values.
    ///
    /// Example: portcullis admin secret list --prefix kv/payments/
    List(List),
    /// Show what is known of a secret, and its history.
    ///
    /// Example: portcullis admin secret describe kv/payments/stripe
    Describe {
        /// The secret's path.
        path: String,
    },
    /// Change labels, leases or channel binding of a secret (role `policy`).
    ///
    /// Example: portcullis admin secret configure kv/payments/stripe --lease-default 300 --lease-maximum 900
    Configure(Configure),
    /// Release a secret no more.
    ///
    /// Example: portcullis admin secret disable kv/payments/stripe
    Disable(Named),
    /// Release a disabled secret again.
    ///
    /// Example: portcullis admin secret enable kv/payments/stripe
    Enable(Named),
    /// Destroy one version, or all of them, for good.
    ///
    /// Example: portcullis admin secret destroy kv/payments/stripe --version 3
    Destroy(Destroy),
}

#[derive(Debug, clap::Args)]
pub(super) struct Put {
    /// The secret's path, as workloads ask for it.
    path: String,
    /// A field: `name=@file`, `name=-` for standard input, or `name` to be asked at the terminal; never `name=value`.
    #[arg(long = "field", required = true)]
    fields: Vec<String>,
    /// A label of a new secret, `name=value`.
    #[arg(long = "label")]
    labels: Vec<String>,
    /// The newest version must be this one; 0: there must be no such secret.
    #[arg(long)]
    expected_version: Option<u64>,
    /// Let holds that rest on this secret go on.
    #[arg(long)]
    keep_latches: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// What paths begin with.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Where an earlier page said that more follow.
    #[arg(long, default_value = "")]
    after: String,
    /// At most so many.
    #[arg(long, default_value_t = 0)]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub(super) struct Configure {
    /// The secret's path.
    path: String,
    /// A label, `name=value`; those given take the place of all there are.
    #[arg(long = "label")]
    labels: Vec<String>,
    /// Remove all labels.
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
    /// The lease where none is asked, seconds.
    #[arg(long, default_value_t = 0)]
    lease_default: u32,
    /// The longest lease, seconds; up to 900.
    #[arg(long, default_value_t = 0)]
    lease_maximum: u32,
    /// Whether it is released over the TLS exporter as channel binding only.
    #[arg(long)]
    exporter_demanded: Option<bool>,
    /// Let holds that rest on this secret go on.
    #[arg(long)]
    keep_latches: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The secret's path.
    path: String,
    /// Let holds that rest on this secret go on.
    #[arg(long)]
    keep_latches: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Destroy {
    /// The secret's path.
    path: String,
    /// Which version.
    #[arg(long, required_unless_present = "all", conflicts_with = "all")]
    version: Option<u64>,
    /// All versions.
    #[arg(long)]
    all: bool,
    /// Let holds that rest on this secret go on.
    #[arg(long)]
    keep_latches: bool,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Put(put) => {
            let request = put.request()?;
            operators.answer(operators.open().await?.put_secret(request)).await
        }
        Command::List(List { prefix, after, limit }) => {
            let request = ListSecretsRequest { prefix, after, limit };
            operators.answer(operators.open().await?.list_secrets(request)).await
        }
        Command::Describe { path } => {
            operators.answer(operators.open().await?.describe_secret(DescribeSecretRequest { path })).await
        }
        Command::Configure(configure) => {
            let request = configure.request()?;
            operators.answer(operators.open().await?.configure_secret(request)).await
        }
        Command::Disable(named) => set_disabled(named, true, operators).await,
        Command::Enable(named) => set_disabled(named, false, operators).await,
        Command::Destroy(Destroy { path, version, keep_latches, .. }) => {
            let which = Some(version.map_or(Which::All(true), Which::Version));
            let request = DestroySecretRequest { path, which, keep_latches };
            operators.answer(operators.open().await?.destroy_secret(request)).await
        }
    }
}

async fn set_disabled(named: Named, disabled: bool, operators: &Operators) -> Result<(), Failure> {
    let request = SetSecretDisabledRequest { path: named.path, disabled, keep_latches: named.keep_latches };
    operators.answer(operators.open().await?.set_secret_disabled(request)).await
}

impl Put {
    fn request(self) -> Result<PutSecretRequest, Failure> {
        // gRPC takes plain bytes; they leave this process at once.
        let fields = value::fields(&self.fields)?.into_iter().map(|(name, value)| (name, value.to_vec()));
        Ok(PutSecretRequest {
            fields: fields.collect(),
            path: self.path,
            expected_version: self.expected_version,
            labels: labels(&self.labels)?,
            keep_latches: self.keep_latches,
        })
    }
}

impl Configure {
    fn request(self) -> Result<ConfigureSecretRequest, Failure> {
        let labels = match self.labels.is_empty() && !self.no_labels {
            true => None,
            false => Some(Labels { labels: labels(&self.labels)? }),
        };
        Ok(ConfigureSecretRequest {
            path: self.path,
            labels,
            lease_default_seconds: self.lease_default,
            lease_maximum_seconds: self.lease_maximum,
            exporter_demanded: self.exporter_demanded,
            keep_latches: self.keep_latches,
        })
    }
}

fn labels(arguments: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for argument in arguments {
        let (name, value) = argument
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("`{argument}` is not name=value")))?;
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("label `{name}` is given twice")));
        }
    }
    Ok(labels)
}

impl Lines for PutSecretResponse {
    fn lines(&self) -> Vec<String> {
        changed(format!("put version {}", self.version), self.change.as_ref())
    }
}

impl Lines for ListSecretsResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.secrets.iter().map(line).collect();
        more(&mut lines, &self.next);
        lines
    }
}

impl Lines for DescribeSecretResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.secret.iter().map(line).collect();
        lines.extend(self.versions.iter().map(|version| {
            let state = match version.destroyed.as_str() {
                "" => "there".to_owned(),
                time => format!("destroyed {time}"),
            };
            format!(
                "  version {} put {} {state} sealed sha256 {}",
                version.version, version.created, version.sealed_sha256
            )
        }));
        lines
    }
}

fn line(secret: &Secret) -> String {
    let labels: Vec<String> = secret.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let state = match (secret.disabled, secret.current_destroyed) {
        (true, _) => "disabled",
        (false, true) => "destroyed",
        (false, false) => "released",
    };
    let exporter = if secret.exporter_demanded { ", exporter demanded" } else { "" };
    format!(
        "{} version {} {state}, lease {} to {} s{exporter}, labels {}",
        secret.path,
        secret.current_version,
        secret.lease_default_seconds,
        secret.lease_maximum_seconds,
        or(&labels.join(","), "none"),
    )
}
