//! `portcullis admin administrator …`

use super::output::Lines;
use super::{End, Failure, Operators, read_text};
use crate::proto::admin::put_administrator_request::Key;
use crate::proto::admin::remove_administrator_request::Whom;
use crate::proto::admin::*;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Put an administrator's key, in place of what that key was.
    ///
    /// Example: portcullis admin administrator put bob --certificate bob.pem --role secrets --role audit --days 90
    Put(Put),
    /// Remove an administrator, at once.
    ///
    /// Example: portcullis admin administrator remove --name bob
    Remove(Remove),
    /// List administrators.
    ///
    /// Example: portcullis admin administrator list
    List,
}

#[derive(Debug, clap::Args)]
pub(super) struct Put {
    /// A person's or a pipeline's name, for the audit log.
    name: String,
    /// Its certificate, PEM.
    #[arg(long, required_unless_present = "key_sha256", conflicts_with = "key_sha256")]
    certificate: Option<PathBuf>,
    /// SHA-256 of its certificate's SPKI, hex.
    #[arg(long)]
    key_sha256: Option<String>,
    /// A role: secrets, policy, reference, nodes, operations, keys, audit, administrators.
    #[arg(long = "role", required = true)]
    roles: Vec<String>,
    #[command(flatten)]
    end: End,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Remove {
    /// Every key of this name.
    #[arg(long)]
    name: Option<String>,
    /// One key, SHA-256 of its SPKI, hex.
    #[arg(long)]
    key_sha256: Option<String>,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Put(put) => {
            let request = put.request()?;
            operators.answer(operators.open().await?.put_administrator(request)).await
        }
        Command::Remove(Remove { name, key_sha256 }) => {
            let whom = name.map(Whom::Name).or(key_sha256.map(Whom::KeySha256));
            let request = RemoveAdministratorRequest { whom };
            operators.answer(operators.open().await?.remove_administrator(request)).await
        }
        Command::List => {
            operators.answer(operators.open().await?.list_administrators(ListAdministratorsRequest {})).await
        }
    }
}

impl Put {
    fn request(self) -> Result<PutAdministratorRequest, Failure> {
        let certificate = self.certificate.map(|path| read_text(&path)).transpose()?.map(Key::CertificatePem);
        Ok(PutAdministratorRequest {
            name: self.name,
            key: certificate.or(self.key_sha256.map(Key::KeySha256)),
            roles: self.roles,
            not_after: self.end.text()?,
        })
    }
}

impl Lines for ListAdministratorsResponse {
    fn lines(&self) -> Vec<String> {
        let line = |one: &Administrator| {
            let ended = if one.ended { " (ended)" } else { "" };
            format!(
                "{} until {}{ended}: {}, key sha256 {}",
                one.name,
                one.not_after,
                one.roles.join(" "),
                one.key_sha256
            )
        };
        self.administrators.iter().map(line).collect()
    }
}
