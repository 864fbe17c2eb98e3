//! What rustls asks in an administrator's handshake: another trust root, and nobody's SVID.
//!
//! *Takes* a presented chain and the administrators' roots. *Gives* a handshake that goes on; who the key belongs to, and
//! until when, the administrators' list says at each call. *Denies* all else, the uncertain too, as TLS alerts.
//! *Source*: RFC 5280 §6; RFC 8446 §6.2.

use super::bundle;
use super::file::Watched;
use super::observer::{HandshakeObserver, Refusals};
use super::path::{self, Anchor, NoPath, Presented};
use super::svid;
use super::tls;
use super::verifier::{client_cert_verifier, moment};
use crate::denial::Denial;
use crate::limits;
use crate::time::{Clock, Now};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Verifies administrators' certificates against a file of roots, which is looked at for each connection.
pub struct AdministratorVerifier {
    roots: Mutex<Watched>,
    clock: Arc<Clock>,
    refusals: Refusals,
}

impl AdministratorVerifier {
    /// A verifier for the admin listener; `roots` is PEM.
    pub fn new(roots: PathBuf, clock: Arc<Clock>, observer: Arc<dyn HandshakeObserver>) -> Self {
        let roots = Mutex::new(Watched::new(roots, limits::TRUST_FILE_BYTES));
        AdministratorVerifier { roots, clock, refusals: Refusals::new(observer) }
    }

    /// Whether the roots can be used now, for `serve --check`. **Denies** `BundleUnknown`.
    pub fn check(&self) -> Result<(), Denial> {
        self.anchors(self.clock.untrusted()).map(|_| ())
    }

    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), Denial> {
        let (now, trusted) = moment(&self.clock);
        let count = |denial: &Denial| self.refusals.count(*denial);
        let leaf = svid::check_administrator(chain).inspect_err(count)?;
        let anchors = self.anchors(now).inspect_err(count)?;
        let NoPath { denial, leads_to_root } =
            match self.find(Presented { chain, facts: &leaf.facts }, &anchors, now, trusted) {
                Ok(()) => return Ok(()),
                Err(no_path) => no_path,
            };
        match leads_to_root {
            true => self.refusals.refuse(denial, None, &leaf, now.boot),
            false => self.refusals.count(denial),
        }
        Err(denial)
    }

    /// An administrator must be let in to accept a clock, so a certificate that is newer than the highest time seen may hold
    /// by the untrusted clock instead. What had ended by the highest time has ended.
    fn find(
        &self,
        presented: Presented<'_>,
        anchors: &[Anchor],
        now: Now,
        trusted: bool,
    ) -> Result<(), NoPath> {
        match path::find(presented, anchors, now).map(|_| ()) {
            Err(no_path) if !trusted && no_path.denial == Denial::PeerCertificateNotYetValid => {
                path::find(presented, anchors, self.clock.untrusted()).map(|_| ())
            }
            outcome => outcome,
        }
    }

    fn anchors(&self, now: Now) -> Result<Vec<Anchor>, Denial> {
        // A panic while the lock was held leaves the file's last reading.
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let content = roots.look(now).as_ref().map_err(|_| Denial::BundleUnknown)?;
        bundle::parse_pem_roots(&content.bytes).map_err(|_| Denial::BundleUnknown)
    }
}

client_cert_verifier!(AdministratorVerifier);
