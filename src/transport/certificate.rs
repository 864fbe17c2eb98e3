//! The broker's own certificate and key, as the files say at each new connection.
//!
//! *Takes* a chain file and a key file, PEM. *Gives* a key that signs handshakes. *Denies* handshakes while the two do not
//! belong together. *Source*: SPIFFE X.509-SVID; `protocol.md` "Connection".

use super::file::Watched;
use super::svid::{self, Window};
use super::verifier::moment;
use crate::denial::Denial;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::{BootTime, Clock, Now, WallTime};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroize;

/// Why the broker's own certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("`{0}`: {1}")]
    Unreadable(String, String),
    /// The chain file holds no PEM certificates.
    #[error("the certificate file holds no PEM certificates")]
    Certificate,
    /// The key file holds no usable private key.
    #[error("the key file holds no usable private key")]
    Key,
    /// They do not belong together.
    #[error("the certificate does not match the key")]
    Mismatch,
    /// The leaf is not an X.509-SVID.
    #[error("the certificate is not an X.509-SVID: {0}")]
    Shape(Denial),
    /// The leaf is another's.
    #[error("the certificate is of `{0}`, and the configured audience is `{1}`")]
    Audience(SpiffeId, SpiffeId),
    /// It has ended or not begun.
    #[error("the certificate cannot be used now: {0}")]
    Window(Denial),
}

/// Certificate and key of a listener.
pub struct ServerIdentity {
    /// The SPIFFE ID that the leaf must have; none for a listener that has no identity to keep (the admin API).
    audience: Option<SpiffeId>,
    provider: Arc<CryptoProvider>,
    state: Mutex<State>,
}

struct State {
    chain: Watched,
    key: Watched,
    /// What the files held last, with the digests of both; or why that could not be used, and since when.
    current: Option<([[u8; 32]; 2], Pair)>,
    unusable_since: Option<BootTime>,
}

#[derive(Clone)]
struct Pair {
    key: Arc<CertifiedKey>,
    window: Window,
    has_name: bool,
}

impl ServerIdentity {
    /// Of two files, not read yet.
    pub fn new(
        chain: PathBuf,
        key: PathBuf,
        audience: Option<SpiffeId>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let chain = Watched::new(chain, limits::TRUST_FILE_BYTES);
        let key = Watched::new(key, limits::TRUST_FILE_BYTES);
        let state = Mutex::new(State { chain, key, current: None, unusable_since: None });
        ServerIdentity { audience, provider, state }
    }

    /// The pair as it is now. Where the files do not belong together, waits for the second to be written, until that has
    /// lasted for [`limits::CERTIFICATE_PAIR_MS`]; nothing old is served meanwhile.
    pub async fn current(&self, clock: &Clock) -> Result<Arc<CertifiedKey>, IdentityError> {
        let mut outcome = self.look(moment(clock).0);
        for _ in 0..LOOKS {
            match &outcome {
                Err(error) if error.may_pass() && self.is_recent(clock.untrusted().boot) => {}
                Ok(_) | Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            outcome = self.look(moment(clock).0);
        }
        outcome
    }

    /// The pair as the files say it at this moment.
    pub fn look(&self, now: Now) -> Result<Arc<CertifiedKey>, IdentityError> {
        let mut state = self.state();
        let outcome = self.pair(&mut state, now);
        state.unusable_since = match &outcome {
            Ok(_) => None,
            Err(_) => state.unusable_since.or(Some(now.boot)),
        };
        let pair = outcome?;
        pair.window.check(now.wall).map_err(IdentityError::Window)?;
        Ok(pair.key)
    }

    /// When the leaf ends, where the pair can be used now.
    pub fn ends(&self, now: Now) -> Result<WallTime, IdentityError> {
        self.look(now)?;
        self.pair(&mut self.state(), now).map(|pair| pair.window.ends)
    }

    /// For `serve --check`: whether it can be used, and what an operator should know.
    pub fn check(&self, now: Now) -> Result<Vec<String>, IdentityError> {
        self.look(now)?;
        let pair = self.pair(&mut self.state(), now)?;
        let warning = "the broker's certificate has no DNS or IP SAN: gRPC clients in Python, Ruby, PHP and C++ \
                       verify names only and will not connect";
        Ok(if pair.has_name { Vec::new() } else { vec![warning.to_owned()] })
    }

    fn pair(&self, state: &mut State, now: Now) -> Result<Pair, IdentityError> {
        let unreadable =
            |file: &Watched, why: String| IdentityError::Unreadable(file.path().display().to_string(), why);
        let chain = state.chain.look(now).clone().map_err(|why| unreadable(&state.chain, why))?;
        let key = state.key.look(now).clone().map_err(|why| unreadable(&state.key, why))?;
        let digests = [chain.digest, key.digest];
        match &state.current {
            Some((read, pair)) if *read == digests => return Ok(pair.clone()),
            Some(_) | None => state.current = None,
        }
        let pair = load(&chain.bytes, &key.bytes, self.audience.as_ref(), &self.provider)?;
        state.current = Some((digests, pair.clone()));
        Ok(pair)
    }

    fn is_recent(&self, now: BootTime) -> bool {
        self.state().unusable_since.is_some_and(|since| now.since(since) < limits::CERTIFICATE_PAIR_MS)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves the last reading, whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdentityError {
    /// Whether another writer may be between its two files.
    fn may_pass(&self) -> bool {
        match self {
            IdentityError::Unreadable(..)
            | IdentityError::Certificate
            | IdentityError::Key
            | IdentityError::Mismatch => true,
            IdentityError::Shape(_) | IdentityError::Audience(..) | IdentityError::Window(_) => false,
        }
    }
}

fn load(
    chain: &[u8],
    key: &[u8],
    audience: Option<&SpiffeId>,
    provider: &CryptoProvider,
) -> Result<Pair, IdentityError> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| IdentityError::Certificate)?;
    let mut private = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::Key)?;
    let signing = provider.key_provider.load_private_key(private.clone_key());
    private.zeroize();
    let (window, has_name) = check_chain(&chain, audience)?;
    let key = CertifiedKey::new(chain, signing.map_err(|_| IdentityError::Key)?);
    key.keys_match().map_err(|_| IdentityError::Mismatch)?;
    Ok(Pair { key: Arc::new(key), window, has_name })
}

fn check_chain(
    chain: &[CertificateDer<'_>],
    audience: Option<&SpiffeId>,
) -> Result<(Window, bool), IdentityError> {
    let leaf = chain.first().ok_or(IdentityError::Certificate)?;
    if let Some(audience) = audience {
        let (id, _) = svid::check_workload(chain).map_err(IdentityError::Shape)?;
        if id != *audience {
            return Err(IdentityError::Audience(id, audience.clone()));
        }
    }
    let parsed = svid::parse(leaf).map_err(IdentityError::Shape)?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let is_name =
        |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    Ok((svid::window(&parsed), names.is_some_and(|names| names.value.general_names.iter().any(is_name))))
}

/// How often a pair that does not match is looked at, milliseconds.
const LOOK_MS: u64 = 100;
/// How many times at most: the clock may stand still.
const LOOKS: u64 = limits::CERTIFICATE_PAIR_MS / LOOK_MS;
