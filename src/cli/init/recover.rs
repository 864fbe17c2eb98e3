//! `portcullis init --recover-admin`: another administrator, by whoever has this host and the store's key.
//!
//! *Takes* a certificate and a name. *Gives* an administrator of all roles, on the audit log like every other. *Denies* while
//! a broker runs (the store's own lock), and where store and log do not fit together. *Source*: NIST SP 800-53 AC-2, AC-3(10)
//! (audited override).

use crate::audit::record::Event;
use crate::cli::config::{Config, ConfigError};
use crate::cli::serve::{StartError, open_stopped};
use crate::registry::{Administrator, ChangeError, Role, enrol_offline};
use crate::time::{Now, TimeSource};
use crate::transport::svid;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};

/// Whom to make an administrator.
pub struct Recovery {
    /// Where the configuration is.
    pub directory: PathBuf,
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The name, for the audit log.
    pub name: String,
    /// How long its roles last, milliseconds.
    pub life_ms: u64,
}

/// Why no administrator was made.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The certificate.
    #[error("{0}: {1}")]
    Certificate(PathBuf, String),
    /// The name.
    #[error("a name is 1 to 64 of [A-Za-z0-9._@-]")]
    Name,
    /// Store or log do not open, or a broker has them open.
    #[error("{0}")]
    Start(#[from] StartError),
    /// It cannot be recorded.
    #[error("{0}")]
    Change(#[from] ChangeError),
    /// A clock cannot be read, or is behind what the broker saw.
    #[error(
        "the clock cannot be read, or is behind the highest time that the broker saw: set it right first"
    )]
    Clock,
}

/// Makes the administrator; gives it.
pub async fn recover(recovery: &Recovery, source: &dyn TimeSource) -> Result<Administrator, RecoverError> {
    let config = Config::read(&recovery.directory.join("portcullis.toml"))?;
    let (Some(wall), Some(boot)) = (source.wall(), source.boot()) else { return Err(RecoverError::Clock) };
    let now = Now { wall, boot };
    let key_sha256 = hex::encode(key_of(&recovery.certificate)?);
    if !name_fits(&recovery.name) {
        return Err(RecoverError::Name);
    }
    let stopped = open_stopped(&config, source, now).await?;
    if wall < stopped.highest {
        return Err(RecoverError::Clock);
    }
    let administrator = Administrator {
        name: recovery.name.clone(),
        key_sha256,
        roles: Role::ALL.into(),
        not_after: wall.plus(recovery.life_ms),
    };
    let by = format!("init --recover-admin, uid {}", rustix::process::getuid().as_raw());
    enrol_offline(&stopped.vault, &stopped.recorder, &administrator, &by, now).await?;
    let ended = stopped.recorder.note(Event::Stopped {}, now).await;
    ended.map_err(|error| ChangeError::Unsettled(error.to_string()))?;
    stopped.recorder.log().close();
    Ok(administrator)
}

/// A certificate that the operators' listener would refuse is refused here.
fn key_of(path: &Path) -> Result<[u8; 32], RecoverError> {
    let wrong = |why: &str| RecoverError::Certificate(path.to_owned(), why.to_owned());
    let text = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
    let parsed: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let Ok([certificate]) = parsed.as_deref() else {
        return Err(wrong("not exactly one certificate in PEM"));
    };
    let unfit = "no administrator's: an SVID, a CA, or without digitalSignature";
    let leaf = svid::check_administrator(std::slice::from_ref(certificate)).map_err(|_| wrong(unfit))?;
    Ok(leaf.spki_sha256)
}

fn name_fits(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte))
}
