//! An administrator's word that lists or statements of a vendor's went back: for an authority that was rebuilt.
//!
//! *Takes* a file. *Gives* what was set. *Denies* nothing: what is not genuine is refused with the reason, and sets nothing.
//! *Source*: RFC 5280 §5.2.3; `durability.md` "Time". All else lets marks rise alone.

use super::failure::Failure;
use super::holdings::{Changes, Holdings, Inner, locked};
use super::import::Import;
use super::item::Item;
use super::status::Origin;
use crate::time::Now;

impl Holdings {
    /// Takes a list of AMD's, or what there is of Intel's in a file, as it is, even older than what was seen: its age is the
    /// mark from now on, and what is held goes for it. Two people's act.
    pub async fn accept(&self, what: Import, bytes: &[u8], now: Now) -> Result<Vec<String>, Failure> {
        let (inner, bytes) = (self.0.clone(), bytes.to_vec());
        let accepting = tokio::task::spawn_blocking(move || inner.accept(what, &bytes, now));
        let changes = accepting.await.map_err(|_| Failure::Defect)??;
        let items = changes.written.iter().map(|(item, _)| item.to_string()).collect();
        self.0.write(changes).await;
        Ok(items)
    }
}

impl Inner {
    /// The mark first: where it cannot be set, nothing was done.
    fn accept(&self, what: Import, bytes: &[u8], now: Now) -> Result<Changes, Failure> {
        let mut changes = Changes::default();
        match what {
            Import::SevSnpList(signing_key) => {
                let mark = locked(&self.sev_snp).mark_of_list(bytes, signing_key, now)?;
                self.marks.set_list(&mark)?;
                changes.add(locked(&self.sev_snp).accept_list(bytes, &mark, now)?);
            }
            Import::Dcap => {
                let parts = locked(&self.dcap).base().genuine_parts(bytes, now)?;
                for part in parts {
                    self.marks.set_part(&part.question(), part.age())?;
                    changes.written.push((Item::Dcap(part.question()), part.json().as_bytes().to_vec()));
                    locked(&self.dcap).put(part, now);
                }
            }
            Import::SevSnpCertificate | Import::SevSnpIntermediate => {
                return Err(Failure::WrongContent("only lists and statements have marks".to_owned()));
            }
        }
        self.settle_taken(&changes, Origin::Imported);
        Ok(changes)
    }
}
