//! What keeps the lease of a running program: rounds, new streams where one is lost, a new certificate.
//!
//! *Takes* a [`Held`] lease. *Gives* [`Over`], once the program must not go on with its secrets. *Denies* nothing itself; a
//! denial is binding, whichever stream it came on. *Source*: `protocol.md`, "With `hold`"; issue "The keepers".
#![allow(clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::cli::exit;
use crate::cli::workload::{Output, refuse};
use crate::client::{Attester, Config, Held, Lease, ReleaseError, Request, hold};
use crate::request::SecretPath;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// Keeps one lease for one program.
pub struct Keeper<A> {
    config: Config,
    attester: A,
    request: Request,
    held: Held,
    /// Whether the stream of `held` still stands.
    standing: bool,
    /// What the running program was given; it gets nothing else.
    given: Vec<(SecretPath, u64)>,
    /// The certificate file that `held` was earned with.
    certificate: Option<Stamp>,
    /// What kept the lease from being renewed last.
    trouble: Option<ReleaseError>,
}

/// Why a program must stop.
#[derive(Debug)]
pub enum Over {
    /// The broker's confident no: at once.
    Denied(ReleaseError),
    /// The lease reached its end, and this is what kept it from being renewed.
    Ended(Option<ReleaseError>),
    /// The same, where new streams gave another version of a secret than the program has.
    SecretChanged(SecretPath),
}

/// What one look at the stream gave.
enum Turn {
    Renewed,
    Uncertain,
    CertificateChanged,
    Lost(ReleaseError),
}

/// A file as it was: when it is replaced, one of these changes.
type Stamp = (u64, i64, i64, u64);

impl<A: Attester> Keeper<A> {
    /// Keeps `held`, which was earned by this request.
    pub fn new(config: Config, attester: A, request: Request, held: Held) -> Keeper<A> {
        let certificate = stamp(&config.certificate);
        let given = versions(held.lease());
        Keeper { config, attester, request, held, standing: true, given, certificate, trouble: None }
    }

    /// The lease.
    pub fn lease(&self) -> &Lease {
        self.held.lease()
    }

    /// Wipes the secrets here.
    pub fn forget_secrets(&mut self) {
        self.held.forget_secrets();
    }

    /// Keeps the lease until it is over. May be dropped when the program has ended.
    pub async fn keep(&mut self) -> Over {
        loop {
            if self.held.left().is_zero() {
                return Over::Ended(self.trouble.take());
            }
            let taken_over = if self.standing {
                match self.turn().await {
                    Turn::Renewed => {
                        self.trouble = None;
                        continue;
                    }
                    Turn::Uncertain => continue,
                    Turn::Lost(error) => {
                        if is_denial(&error) {
                            return Over::Denied(error);
                        }
                        self.lost(error);
                        continue;
                    }
                    Turn::CertificateChanged => self.take_over().await,
                }
            } else {
                self.take_over().await
            };
            if let Err(over) = taken_over {
                return over;
            }
        }
    }

    /// Tells the broker that the program is done.
    pub async fn finish(self) {
        if self.standing {
            self.held.finish().await;
        }
    }

    /// Waits for a question and answers it; a new certificate is noticed in between, never within a round.
    async fn turn(&mut self) -> Turn {
        let Keeper { held, attester, config, certificate, .. } = self;
        let question = tokio::select! {
            question = held.question() => question,
            () = changed(&config.certificate, *certificate) => return Turn::CertificateChanged,
        };
        let answered = match question {
            Ok(question) => held.answer(question, attester).await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(Some(_)) => Turn::Renewed,
            Ok(None) => Turn::Uncertain,
            Err(error) => Turn::Lost(error),
        }
    }

    fn lost(&mut self, error: ReleaseError) {
        eprintln!(
            "portcullis: the held lease is not attested any more ({error}); a new one is sought until {}",
            self.held.lease().not_after
        );
        self.standing = false;
        self.trouble = Some(error);
    }

    /// Tries to hold a new lease, attested in full, in place of this one. Where it is not to be had, the old one stands.
    async fn take_over(&mut self) -> Result<(), Over> {
        let certificate = stamp(&self.config.certificate);
        let left = self.held.left();
        // A stream that stands is not kept waiting for longer than it has to answer.
        let patience = if self.standing { left.min(TAKE_OVER_WITHIN) } else { left };
        let earned =
            tokio::time::timeout(patience, hold(&self.config, &self.attester, self.request.clone())).await;
        match earned {
            Ok(Ok(new)) => self.replace(new, certificate).await,
            Ok(Err(error)) if is_denial(&error) => Err(Over::Denied(error)),
            Ok(Err(error)) => {
                self.trouble = Some(error);
                // Not again before a while, nor for the same file.
                self.certificate = certificate;
                sleep(RETRY.min(left)).await;
                Ok(())
            }
            Err(_) => {
                self.certificate = certificate;
                Ok(())
            }
        }
    }

    async fn replace(&mut self, mut new: Held, certificate: Option<Stamp>) -> Result<(), Over> {
        let versions = versions(new.lease());
        let other = self.given.iter().zip(&versions).find(|(given, new)| given != new);
        if let Some(((path, _), _)) = other {
            let path = path.clone();
            new.finish().await;
            eprintln!(
                "portcullis: `{path}` has a new version; the program has the old one and ends with its lease"
            );
            sleep(self.held.left()).await;
            return Err(Over::SecretChanged(path));
        }
        new.forget_secrets();
        let old = std::mem::replace(&mut self.held, new);
        let stood = std::mem::replace(&mut self.standing, true);
        self.certificate = certificate;
        self.trouble = None;
        if stood {
            old.finish().await;
        }
        Ok(())
    }
}

impl Over {
    /// Tells on stderr; gives the exit code.
    pub fn tell(&self, output: Output) -> u8 {
        let message = match self {
            Over::Denied(error) => return refuse(error, output),
            Over::Ended(Some(error)) => {
                format!("the program was stopped at its lease's end, which was not renewed: {error}")
            }
            Over::Ended(None) => {
                "the program was stopped at its lease's end, which was not renewed".to_owned()
            }
            Over::SecretChanged(path) => {
                format!(
                    "the program was stopped at its lease's end: `{path}` has a new version, start it again"
                )
            }
        };
        match output {
            Output::Text => eprintln!("portcullis: {message}"),
            Output::Json => {
                let code = exit::NOT_POSSIBLE;
                let outcome =
                    serde_json::json!({ "outcome": "stopped", "exit_code": code, "message": message });
                eprintln!("{outcome}");
            }
        }
        exit::NOT_POSSIBLE
    }
}

/// The broker's confident no, from which no other stream leads away.
fn is_denial(error: &ReleaseError) -> bool {
    matches!(error, ReleaseError::Denied { .. } | ReleaseError::CertificateRefused(_))
}

fn versions(lease: &Lease) -> Vec<(SecretPath, u64)> {
    lease.secrets.iter().map(|secret| (secret.path.clone(), secret.version)).collect()
}

/// Waits until the file is another; one that cannot be read is none.
async fn changed(path: &Path, known: Option<Stamp>) {
    loop {
        sleep(LOOK).await;
        let now = stamp(path);
        if now.is_some() && now != known {
            return;
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

/// Between two tries for a new stream.
const RETRY: Duration = Duration::from_secs(2);
/// How long a new stream may take while the old one stands: less than the 10 s that a broker gives by default to answer.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(6);
/// How often the certificate file is looked at.
const LOOK: Duration = Duration::from_secs(1);
