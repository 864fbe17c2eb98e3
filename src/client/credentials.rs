//! Certificate, key and bundle, read at each new connection.
//!
//! *Takes* the files that [`Config`] names. *Gives* [`Credentials`]. *Denies* nothing: what cannot be read, or does not
//! belong together, is a [`ConfigError`]. *Source*: issue "The gate", Transport; SPIFFE Trust Domain and Bundle §4.

use super::config::{Config, ConfigError};
use super::svid;
use crate::limits;
use crate::spiffe::SpiffeId;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// What one connection proves itself with, and what it trusts.
pub(super) struct Credentials {
    /// Our chain and key, which belong together.
    pub(super) certified: Arc<CertifiedKey>,
    /// Our SPIFFE ID, as in our certificate.
    pub(super) id: SpiffeId,
    /// SHA-256 of our SPKI DER.
    pub(super) spki_sha256: [u8; 32],
    /// The authorities of the broker's trust domain; never empty.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// Reads all of it; a certificate that does not match its key is read again until `patience` is over, as two files are
/// not renamed at once.
pub(super) async fn read(
    config: &Config,
    provider: &CryptoProvider,
    patience: Duration,
) -> Result<Credentials, ConfigError> {
    let mut left = patience;
    let certified = loop {
        match pair(config, provider)? {
            Some(certified) => break Arc::new(certified),
            None if left.is_zero() => {
                return Err(ConfigError::PairMismatch {
                    certificate: config.certificate.clone(),
                    key: config.key.clone(),
                });
            }
            None => tokio::time::sleep(PAUSE).await,
        }
        left = left.saturating_sub(PAUSE);
    };
    let (id, spki_sha256) = svid::check(&certified.cert)
        .map_err(|why| ConfigError::NotAnSvid { certificate: config.certificate.clone(), why })?;
    let roots = bundle(&config.bundle)?;
    Ok(Credentials { certified, id, spki_sha256, roots })
}

/// The pair as it is now; none where the certificate is of another key.
fn pair(config: &Config, provider: &CryptoProvider) -> Result<Option<CertifiedKey>, ConfigError> {
    let chain = certificates(&config.certificate, &read_file(&config.certificate)?)?;
    let pem = read_file(&config.key)?;
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| content(&config.key, "no private key in PEM"))?;
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(certified) => Ok(Some(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Ok(None),
        Err(_) => Err(content(&config.key, "a key that cannot be used, or goes with no certificate")),
    }
}

/// The authorities of a bundle file. An empty one is an error: it can only mean that nothing is to be trusted.
fn bundle(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let bytes = read_file(path)?;
    let json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let roots = if json { of_spiffe_bundle(path, &bytes)? } else { certificates(path, &bytes)? };
    match roots.iter().all(svid::is_authority) {
        true => Ok(roots),
        false => Err(content(path, "a certificate that is no authority")),
    }
}

#[derive(serde::Deserialize)]
struct SpiffeBundle {
    keys: Vec<BundleKey>,
}

#[derive(serde::Deserialize)]
struct BundleKey {
    #[serde(default, rename = "use")]
    usage: String,
    #[serde(default)]
    x5c: Vec<String>,
}

/// Keys for other uses (`jwt-svid`, unknown ones) are none of ours; one of ours that does not decode spoils the bundle.
fn of_spiffe_bundle(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let bundle: SpiffeBundle =
        serde_json::from_slice(bytes).map_err(|_| content(path, "JSON that is no SPIFFE bundle"))?;
    let mut roots = Vec::new();
    for key in bundle.keys.iter().filter(|key| key.usage == "x509-svid") {
        let decoded = key.x5c.first().and_then(|text| STANDARD.decode(text).ok());
        roots.push(decoded.ok_or_else(|| content(path, "an authority that does not decode"))?.into());
    }
    if roots.is_empty() { Err(content(path, "no X.509 authority")) } else { Ok(roots) }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(content(path, "no certificate in PEM")),
        Err(_) => Err(content(path, "PEM that does not decode")),
    }
}

/// Reads a small regular file whole; the bytes are zeroized when dropped, as one of the files is a key.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let unreadable =
        |error: std::io::Error| ConfigError::Unreadable { path: path.into(), why: error.to_string() };
    // Without O_NONBLOCK, opening a FIFO waits for a writer.
    let options = &mut std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > limits::TRUST_FILE_BYTES {
        return Err(content(path, "no regular file of at most 1 MiB"));
    }
    // With the capacity there at once, no copy of a key is left behind by a reallocation.
    let capacity =
        usize::try_from(limits::TRUST_FILE_BYTES.min(metadata.len())).unwrap_or(0).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(limits::TRUST_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn content(path: &Path, what: &'static str) -> ConfigError {
    ConfigError::Content { path: path.into(), what }
}

/// Between two looks at a pair that does not match: a rename takes microseconds, its neighbour follows in milliseconds.
const PAUSE: Duration = Duration::from_millis(100);
