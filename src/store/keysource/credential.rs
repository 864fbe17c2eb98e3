//! A systemd credential: a file that the service manager decrypted into a directory of its own for this service alone.
//!
//! *Takes* the directory (`$CREDENTIALS_DIRECTORY`, which `cli` reads) and a name. *Gives* its bytes, or as [`Credential`] a
//! key. *Denies* what others could write or read, links, and names that lead out of the directory. *Source*: systemd.exec(5)
//! `LoadCredentialEncrypted=`; systemd-creds(1).
//!
//! systemd makes the file as root with mode 0400 and lets the service's user read it by an access-control list, which shows as
//! the group's read bit; so the rules are not those of a key file.

use super::lock::Lock;
use super::{Key, KeySource, KeySourceError, open_plain, parse, read_up_to, unreadable};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A key from a credential: 64 lower-case hex digits, as in a key file.
pub struct Credential {
    directory: PathBuf,
    name: String,
}

impl Credential {
    /// The credential of that name. Nothing is read yet.
    pub fn new(directory: &Path, name: &str) -> Self {
        Credential { directory: directory.to_owned(), name: name.to_owned() }
    }
}

impl KeySource for Credential {
    fn name(&self) -> &'static str {
        "key"
    }

    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        Ok((Lock::Key, self.unlock(&Lock::Key)?))
    }

    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError> {
        match lock {
            Lock::Key => parse(&read(&self.directory, &self.name, super::HEX_DIGITS.saturating_add(2))?),
            Lock::Passphrase(_) | Lock::Shares(_) => {
                Err(KeySourceError::OtherKind { wants: lock.name(), has: "key" })
            }
        }
    }
}

/// A credential's bytes, at most `most`. **Denies** as the module says.
pub fn read(directory: &Path, name: &str, most: usize) -> Result<Zeroizing<Vec<u8>>, KeySourceError> {
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if !plain {
        return Err(KeySourceError::CredentialName);
    }
    let mut file = open_plain(&directory.join(name))?;
    check(&file)?;
    // As large as it may be, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(vec![0; most]);
    let length = read_up_to(&mut file, &mut bytes).map_err(|error| unreadable(&error))?;
    bytes.truncate(length);
    Ok(bytes)
}

fn check(file: &File) -> Result<(), KeySourceError> {
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(KeySourceError::NotRegular);
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(KeySourceError::ForeignOwner);
    }
    // Nobody but the owner may write it, and others than the service not read it.
    let open = metadata.mode() & 0o7137 != 0;
    if open { Err(KeySourceError::CredentialPermissions) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn written(mode: u32, text: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        directory
    }

    fn refused(directory: &Path, name: &str) -> KeySourceError {
        Credential::new(directory, name).unlock(&Lock::Key).map(drop).unwrap_err()
    }

    #[test]
    fn a_credential_as_systemd_makes_it_gives_its_key() {
        for mode in [0o400, 0o440, 0o600] {
            let directory = written(mode, &format!("{}\n", "ab".repeat(32)));
            let key = Credential::new(directory.path(), "store.key").unlock(&Lock::Key).unwrap();
            assert_eq!(key.expose_secret(), &[0xab; 32]);
        }
    }

    #[test]
    fn a_credential_that_others_may_use_or_that_is_a_link_is_denied() {
        let key = "ab".repeat(32);
        for mode in [0o444, 0o460, 0o420, 0o500, 0o4400] {
            let directory = written(mode, &key);
            assert_eq!(
                refused(directory.path(), "store.key"),
                KeySourceError::CredentialPermissions,
                "{mode:o}"
            );
        }
        let directory = written(0o400, &key);
        symlink(directory.path().join("store.key"), directory.path().join("link")).unwrap();
        assert_eq!(refused(directory.path(), "link"), KeySourceError::SymbolicLink);
        for name in ["", ".", "..", "../store.key", "/etc/passwd"] {
            assert_eq!(refused(directory.path(), name), KeySourceError::CredentialName, "{name}");
        }
        assert!(matches!(refused(directory.path(), "other"), KeySourceError::Unreadable(_)));
        let long = written(0o400, &"ab".repeat(33));
        assert_eq!(refused(long.path(), "store.key"), KeySourceError::Malformed);
    }
}
