//! `serve --check`: what would keep a broker from serving, told before it is started.
//!
//! *Takes* the configuration. *Gives* [`Checked`]. *Denies* nothing, opens no store and changes nothing. *Source*:
//! `deploy/README.md`, "Install".

use super::assemble::reading;
use super::doors::server_identity;
use super::keys;
use crate::cli::config::Config;
use crate::cli::evidence::NoMarks;
use crate::time::TimeSource;
use crate::transport::{Trust, tls};
use std::sync::Arc;

/// What `serve --check` found.
#[derive(Debug, Default)]
pub struct Checked {
    /// It starts, but an operator should know.
    pub warnings: Vec<String>,
    /// It would not serve.
    pub errors: Vec<String>,
}

/// Looks at the certificate, the operators' roots and every trust domain's files, without opening the store.
pub fn check(config: &Config, source: &dyn TimeSource) -> Checked {
    let mut checked = Checked::default();
    let Ok(now) = reading(source) else {
        checked.errors.push("a clock cannot be read".to_owned());
        return checked;
    };
    let identity = server_identity(config, Arc::new(tls::crypto_provider()));
    match identity.check(now) {
        Ok(warnings) => checked.warnings.extend(warnings),
        Err(error) => checked.errors.push(error.to_string()),
    }
    let trust = Trust::open(config.domains(), Arc::new(NoMarks), now);
    for change in trust.reload(now) {
        checked.warnings.push(format!("{}: {}", change.name, change.state));
    }
    for (format, why) in config.evidence.read(now).unknown() {
        checked.errors.push(format!("evidence of format `{format}`: {why}"));
    }
    keys::check(&config.storage, &mut checked);
    for path in [&config.admin.roots] {
        if let Err(error) = std::fs::File::open(path) {
            checked.errors.push(format!("{}: {error}", path.display()));
        }
    }
    checked
}
