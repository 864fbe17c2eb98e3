//! A secret sealed anew in the current term: its metadata and all values that they vouch for, in one commit.
//!
//! *Takes* a path. *Gives* a transaction, prepared. *Denies* `Damaged` where a value is not the one that its metadata name: a
//! rewrap must not vouch for what was put back. *Source*: `durability.md` "Records at rest".
//!
//! Neither the secret's epoch nor a version changes, so no grant is superseded and nothing is released that was not before. The
//! SHA-256 of each sealed value does: the log's record of a put names the first one.

use super::{Kv, SecretMetadata, damaged, sha256, value_name};
use crate::store::{Kind, Opened, StoreError, Transaction};

impl Kv {
    /// Prepares a secret's rewrap; none where all of it is sealed in the current term, or it is gone.
    pub async fn rewrap(&self, path: &str) -> Result<Option<Transaction>, StoreError> {
        let Some(opened) = self.vault.read(Kind::SecretMetadata, path).await? else { return Ok(None) };
        let mut metadata = SecretMetadata::decode(&opened)?;
        let mut transaction = Transaction::default();
        for (version, value) in self.standing(&metadata).await? {
            if !metadata.vouches_for(version, value.sealed()) {
                return Err(damaged("a value is not the one that its metadata name"));
            }
            if !self.vault.is_current(value.entry()) {
                let entry =
                    self.vault.seal_again(&mut transaction, Kind::SecretValue, &value, &value.body)?;
                let state = metadata.versions.get_mut(&version);
                state.ok_or_else(|| damaged("a version is gone"))?.digest = sha256(&entry.value);
            }
        }
        if transaction.puts.is_empty() && self.vault.is_current(opened.entry()) {
            return Ok(None);
        }
        let body = metadata.encode()?;
        self.vault.seal_again(&mut transaction, Kind::SecretMetadata, &opened, &body)?;
        Ok(Some(transaction))
    }

    /// The values of the versions that were not destroyed. **Denies** `Damaged` where one is missing.
    async fn standing(&self, metadata: &SecretMetadata) -> Result<Vec<(u64, Opened)>, StoreError> {
        let mut values = Vec::new();
        for (version, _) in metadata.versions.iter().filter(|(_, state)| state.destroyed.is_none()) {
            let value = self.vault.read(Kind::SecretValue, &value_name(&metadata.path, *version)).await?;
            values.push((*version, value.ok_or_else(|| damaged("a version's value is missing"))?));
        }
        Ok(values)
    }
}
