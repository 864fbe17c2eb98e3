//! Collateral from files: an administrator's, and the directory's own at a start.
//!
//! *Takes* bytes and what they are. *Gives* what was taken in. *Denies* nothing: what is not genuine, or older, is refused with
//! the reason. *Source*: issue 5, `admin collateral import`. The same checks as for what a service says.

use super::directory::{Found, Kind};
use super::failure::Failure;
use super::holdings::{Changes, Holdings, Inner, locked};
use super::item::Item;
use super::status::{HeldItem, Origin};
use crate::evidence::sev_snp::SigningKey;
use crate::evidence::tdx::GenuinePart;
use crate::time::Now;
use std::sync::Arc;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// The certificate of an AMD chip's key, DER.
    SevSnpCertificate,
    /// AMD's intermediate: DER, or a chain in PEM of which the root is not looked at.
    SevSnpIntermediate,
    /// A revocation list of AMD's, DER or PEM, from the address of this kind of key.
    SevSnpList(SigningKey),
    /// Collateral of Intel's in JSON, whole or in parts, as `dcap-qvl` writes it.
    Dcap,
}

impl Holdings {
    /// Takes a file in: all of it, or nothing where some of it does not read. What has ended is taken, too, and shown so.
    pub async fn import(&self, what: Import, bytes: &[u8], now: Now) -> Result<Vec<HeldItem>, Failure> {
        let (inner, bytes) = (self.0.clone(), bytes.to_vec());
        let importing =
            tokio::task::spawn_blocking(move || inner.import(what, &bytes, Origin::Imported, now));
        let changes = importing.await.map_err(|_| Failure::Defect)??;
        let items: Vec<String> = changes.written.iter().map(|(item, _)| item.to_string()).collect();
        self.0.write(changes).await;
        Ok(self.status(now).held.into_iter().filter(|held| items.contains(&held.what)).collect())
    }
}

impl Inner {
    /// Takes in what the directory has. What is damaged, foreign or older does not count, and is said; what has ended and
    /// cannot be used again goes.
    pub(super) fn load(self: &Arc<Self>, now: Now) {
        let Some(directory) = self.directory() else { return };
        let files = match directory.files(now) {
            Ok(files) => files,
            Err(error) => return self.settle(".".to_owned(), Err(error.to_string())),
        };
        for Found { name, kind, bytes } in files {
            let what = match kind {
                Kind::Intermediate => Import::SevSnpIntermediate,
                Kind::List(signing_key) => Import::SevSnpList(signing_key),
                Kind::Certificate => Import::SevSnpCertificate,
                Kind::Dcap => Import::Dcap,
            };
            let taken = match bytes.map(|bytes| self.import(what, &bytes, Origin::Directory, now)) {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(Failure::Ended)) => directory.remove_name(&name).map_err(|error| error.to_string()),
                Ok(Err(failure)) => Err(failure.to_string()),
                Err(unreadable) => Err(unreadable),
            };
            self.settle(name, taken);
        }
    }

    pub(super) fn import(
        &self,
        what: Import,
        bytes: &[u8],
        origin: Origin,
        now: Now,
    ) -> Result<Changes, Failure> {
        let mut changes = Changes::default();
        match what {
            Import::SevSnpCertificate => {
                changes.add(locked(&self.sev_snp).take_certificate(bytes, None, now)?);
            }
            Import::SevSnpIntermediate => {
                let taken = locked(&self.sev_snp).take_chain(bytes, now)?;
                taken.into_iter().for_each(|taken| changes.add(taken));
            }
            Import::SevSnpList(signing_key) => {
                changes.add(locked(&self.sev_snp).take_list(bytes, signing_key, None, now)?);
            }
            Import::Dcap => {
                let parts = locked(&self.dcap).base().genuine_parts(bytes, now)?;
                let oldest = |part: GenuinePart| Ok((self.oldest(&part.question())?, part));
                let parts: Result<Vec<_>, Failure> = parts.into_iter().map(oldest).collect();
                for (oldest, part) in parts? {
                    let item = Item::Dcap(part.question());
                    let json = part.json().as_bytes().to_vec();
                    // What is older than what is held is left out; the rest of the file may be newer.
                    if locked(&self.dcap).take(part, oldest, now).is_ok() {
                        changes.written.push((item, json));
                    }
                }
                if changes.written.is_empty() {
                    return Err(Failure::Older);
                }
            }
        }
        self.settle_taken(&changes, origin);
        Ok(changes)
    }
}
