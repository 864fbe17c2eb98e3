//! Where the key that encrypts keys (KEK) comes from.
//!
//! *Takes* a place outside the data directory. *Gives* 32 secret bytes. *Denies* a key that others could read or have
//! put there. *Source*: `durability.md` "Records at rest", key sources. The key file is here; a systemd credential
//! ([`credential`]), a passphrase ([`passphrase`]) and shares ([`shares`]) are beside it. What a keyring says of its own
//! source is a [`Lock`].

use super::files;
use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretBox};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use zeroize::Zeroizing;

pub mod credential;
mod lock;
pub mod passphrase;
pub mod shares;

pub use lock::{Lock, ShareSet};

/// 32 secret bytes on the heap, zeroized when dropped.
pub type Key = SecretBox<[u8; 32]>;

/// Gives the KEK, each time it is asked.
pub trait KeySource: Send + Sync {
    /// What kind of source it is, for the operator; as [`Lock::name`].
    fn name(&self) -> &'static str;
    /// A key for a keyring that is sealed now, and what opens it again.
    fn lock(&self) -> Result<(Lock, Key), KeySourceError>;
    /// The key for a keyring that is locked like this. **Denies** `OtherKind`.
    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError>;
}

/// Why a key source gives no key. Paths are the operator's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySourceError {
    /// The file cannot be read or made.
    #[error("the key file cannot be used: {0}")]
    Unreadable(String),
    /// The file is there already; it is not replaced.
    #[error("the key file exists already")]
    Exists,
    /// The path leads to a symbolic link.
    #[error("the key file is a symbolic link")]
    SymbolicLink,
    /// Not a regular file, or one with several names.
    #[error("the key file is not a regular file with one name")]
    NotRegular,
    /// Another user owns it.
    #[error("the key file is not owned by the user that runs this")]
    ForeignOwner,
    /// Others than its owner may use it.
    #[error("the key file's permissions are not 0600 or 0400")]
    Permissions,
    /// It stands where the data are: who copies these has both.
    #[error("the key file is inside the data directory")]
    InsideData,
    /// Not 64 lower-case hex digits and at most one line end.
    #[error("the key file does not hold 64 lower-case hex digits")]
    Malformed,
    /// No random bytes for a new key.
    #[error("no random bytes")]
    NoRandomness,
    /// The passphrase cannot be read.
    #[error("the passphrase cannot be read: {0}")]
    Passphrase(String),
    /// systemd gave this process no credentials.
    #[error("there is no $CREDENTIALS_DIRECTORY: systemd gives one where the unit loads a credential")]
    NoCredentials,
    /// It gave one key and then another.
    #[error("the key source gave one key and then another")]
    Changing,
    /// The keyring is locked for another kind of source.
    #[error("the keyring is locked with {wants}, and the configuration names a source of kind {has}")]
    OtherKind {
        /// What opens it.
        wants: &'static str,
        /// What was tried.
        has: &'static str,
    },
    /// What stands before the keyring says of no source that is known.
    #[error("the keyring does not say what opens it")]
    LockMalformed,
    /// The parameters of argon2id are out of their bounds.
    #[error("the passphrase's parameters (argon2id) are out of their bounds")]
    PassphraseParameters,
    /// Too short to be worth guessing at, or too long.
    #[error("a passphrase has 16 to 1024 bytes")]
    PassphraseLength,
    /// A name that leads out of the directory.
    #[error("a credential's name is one file name")]
    CredentialName,
    /// Others than the service may read it, or others than its owner write it.
    #[error("the credential can be read by others or written by more than its owner")]
    CredentialPermissions,
    /// One share alone, or more to open than there are, or too many.
    #[error("of 2 to 16 shares, at least 2 and at most all open the store")]
    ShareNumbers,
    /// A text that is no share: mistyped, cut, or something else.
    #[error("this is not a share: {0}")]
    ShareMalformed(&'static str),
    /// Shares that go together and are not those that were dealt: one was altered together with its checksum.
    #[error("these shares are not the ones that were dealt; all of them are forgotten")]
    ShareAltered,
    /// No shares wait to be read back.
    #[error(
        "no shares wait to be read back: they were never dealt, or too long ago, or the broker was restarted"
    )]
    NotDealt,
    /// Not a holder's public key.
    #[error("this is not a holder's key: {0}")]
    HolderMalformed(&'static str),
    /// A sealed share that this key does not open.
    #[error("this key does not open the share: it is another holder's, or was altered")]
    ShareUnopened,
    /// A share cannot be read.
    #[error("no share was given: {0}")]
    Share(String),
    /// A share of another dealing: of another store, or replaced since.
    #[error("this share is of another set ({found}); this store's shares are of set {wanted}")]
    ShareOfOtherSet {
        /// The set that the share says.
        found: String,
        /// The set that opens the keyring.
        wanted: String,
    },
    /// The same share twice.
    #[error("share {0} was given already")]
    ShareRepeated(u8),
}

/// A file of 64 lower-case hex digits: 0600, own owner, no symbolic link, not inside the data directory.
pub struct KeyFile {
    path: PathBuf,
    data_directory: PathBuf,
}

impl KeyFile {
    /// The key file at `path`, for data in `data_directory`. Nothing is read yet.
    pub fn new(path: &Path, data_directory: &Path) -> Self {
        KeyFile { path: path.to_owned(), data_directory: data_directory.to_owned() }
    }

    /// Makes the file with a new random key, in one step and durably; never replaces one.
    pub fn create(&self) -> Result<(), KeySourceError> {
        self.check_place()?;
        let mut key = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(key.as_mut()).map_err(|_| KeySourceError::NoRandomness)?;
        let mut text = Zeroizing::new([b'\n'; HEX_DIGITS + 1]);
        let digits = text.get_mut(..HEX_DIGITS).unwrap_or_default();
        hex::encode_to_slice(key.as_ref(), digits).map_err(|_| KeySourceError::Malformed)?;
        let made = files::create(&self.path, text.as_ref(), Mode::RUSR | Mode::WUSR);
        made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeySourceError::Exists,
            _ => unreadable(&error),
        })
    }

    /// Both paths resolved, so that no link in either hides where the key stands.
    fn check_place(&self) -> Result<(), KeySourceError> {
        let data = resolve(&self.data_directory).map_err(|error| unreadable(&error))?;
        let place = resolve(&files::parent(&self.path)).map_err(|error| unreadable(&error))?;
        (!place.starts_with(data)).then_some(()).ok_or(KeySourceError::InsideData)
    }

    fn key(&self) -> Result<Key, KeySourceError> {
        self.check_place()?;
        let mut file = open_plain(&self.path)?;
        check_file(&file)?;
        // One byte more than it may have, so that a longer file is seen to be longer.
        let mut text = Zeroizing::new([0; HEX_DIGITS + 2]);
        let length = read_up_to(&mut file, text.as_mut()).map_err(|error| unreadable(&error))?;
        parse(text.get(..length).unwrap_or_default())
    }
}

impl KeySource for KeyFile {
    fn name(&self) -> &'static str {
        "key"
    }

    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        Ok((Lock::Key, self.key()?))
    }

    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError> {
        match lock {
            Lock::Key => self.key(),
            Lock::Passphrase(_) | Lock::Shares(_) => {
                Err(KeySourceError::OtherKind { wants: lock.name(), has: "key" })
            }
        }
    }
}

/// A key that another source gave before: asked once, early, so that what fails does so before anything is made.
pub struct Given {
    lock: Lock,
    key: Key,
}

impl Given {
    /// What [`KeySource::lock`] gave.
    pub fn new((lock, key): (Lock, Key)) -> Self {
        Given { lock, key }
    }
}

impl KeySource for Given {
    fn name(&self) -> &'static str {
        self.lock.name()
    }

    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        Ok((self.lock.clone(), copy(&self.key)))
    }

    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError> {
        let same = *lock == self.lock;
        same.then(|| copy(&self.key))
            .ok_or(KeySourceError::OtherKind { wants: lock.name(), has: self.name() })
    }
}

fn copy(key: &Key) -> Key {
    Key::init_with_mut(|copy: &mut [u8; 32]| *copy = *key.expose_secret())
}

/// Opens without following a link.
fn open_plain(path: &Path) -> Result<File, KeySourceError> {
    // NONBLOCK: a FIFO in its place must not hang the start.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(rustix::io::Errno::LOOP) => Err(KeySourceError::SymbolicLink),
        Err(error) => Err(unreadable(&error.into())),
    }
}

/// What was opened is what is judged: no second look at the path.
fn check_file(file: &File) -> Result<(), KeySourceError> {
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(KeySourceError::NotRegular);
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeySourceError::ForeignOwner);
    }
    match metadata.mode() & 0o7777 {
        0o600 | 0o400 => Ok(()),
        _ => Err(KeySourceError::Permissions),
    }
}

fn parse(text: &[u8]) -> Result<Key, KeySourceError> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    if digits.iter().any(u8::is_ascii_uppercase) {
        return Err(KeySourceError::Malformed);
    }
    let mut outcome = Ok(());
    let key = Key::init_with_mut(|key: &mut [u8; 32]| outcome = hex::decode_to_slice(digits, key));
    outcome.map_err(|_| KeySourceError::Malformed)?;
    // All zero is what a file that was never written decodes to.
    (key.expose_secret() != &[0; 32]).then_some(key).ok_or(KeySourceError::Malformed)
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            read => filled = filled.saturating_add(read),
        }
    }
    Ok(filled)
}

/// The path without links, as far as it exists; what does not exist yet has no `..` in it.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut missing = Vec::new();
    for ancestor in absolute.ancestors() {
        match ancestor.canonicalize() {
            Ok(existing) => return Ok(missing.iter().rev().fold(existing, |whole, name| whole.join(name))),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(error) => match ancestor.components().next_back() {
                Some(Component::Normal(name)) => missing.push(name.to_owned()),
                _ => return Err(error),
            },
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn unreadable(error: &io::Error) -> KeySourceError {
    KeySourceError::Unreadable(error.to_string())
}

const HEX_DIGITS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Place {
        root: tempfile::TempDir,
        source: KeyFile,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        let source = KeyFile::new(&root.path().join("key"), &root.path().join("data"));
        source.create().unwrap();
        Place { root, source }
    }

    fn denied(source: &KeyFile) -> KeySourceError {
        source.key().map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_created_key_reads_back_and_is_not_replaced() {
        let place = place();
        let metadata = fs::metadata(&place.source.path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        let first = place.source.key().unwrap();
        assert_eq!(place.source.create(), Err(KeySourceError::Exists));
        assert_eq!(place.source.key().unwrap().expose_secret(), first.expose_secret());
    }

    #[test]
    fn a_key_that_others_may_use_is_denied() {
        let place = place();
        for mode in [0o640, 0o604, 0o700, 0o620, 0o666, 0o4600] {
            fs::set_permissions(&place.source.path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(denied(&place.source), KeySourceError::Permissions, "{mode:o}");
        }
        fs::set_permissions(&place.source.path, Permissions::from_mode(0o400)).unwrap();
        assert!(place.source.key().is_ok());
    }

    #[test]
    fn a_foreign_key_is_denied() {
        let place = place();
        if !rustix::process::geteuid().is_root() {
            // Only root can give a file away; for others /etc/passwd is a file of root's.
            let foreign = KeyFile::new(Path::new("/etc/passwd"), place.root.path());
            assert_eq!(denied(&foreign), KeySourceError::ForeignOwner);
            return;
        }
        std::os::unix::fs::chown(&place.source.path, Some(1), None).unwrap();
        assert_eq!(denied(&place.source), KeySourceError::ForeignOwner);
    }

    #[test]
    fn a_link_a_directory_or_a_second_name_is_denied() {
        let place = place();
        let root = place.root.path();
        let at = |name: &str| KeyFile::new(&root.join(name), &root.join("data"));
        symlink(root.join("key"), root.join("link")).unwrap();
        assert_eq!(denied(&at("link")), KeySourceError::SymbolicLink);
        fs::create_dir(root.join("folder")).unwrap();
        assert_eq!(denied(&at("folder")), KeySourceError::NotRegular);
        fs::hard_link(root.join("key"), root.join("data/second")).unwrap();
        assert_eq!(denied(&place.source), KeySourceError::NotRegular);
    }

    #[test]
    fn a_key_inside_the_data_directory_is_denied_however_it_is_spelt() {
        let place = place();
        let root = place.root.path();
        symlink(root.join("data"), root.join("elsewhere")).unwrap();
        for path in ["data/key", "elsewhere/key", "data/../data/key", "elsewhere/new/key"] {
            let source = KeyFile::new(&root.join(path), &root.join("data"));
            assert_eq!(source.create(), Err(KeySourceError::InsideData), "{path}");
            assert_eq!(denied(&source), KeySourceError::InsideData, "{path}");
        }
        let early = KeyFile::new(&root.join("later/store/key"), &root.join("later"));
        assert_eq!(early.create(), Err(KeySourceError::InsideData));
    }

    #[test]
    fn a_key_of_another_shape_is_malformed() {
        let place = place();
        let digits = "0123456789abcdef".repeat(4);
        let long = format!("{digits}\n\n");
        for text in ["", "\n", &digits[1..], &digits.to_uppercase(), &long, &"0".repeat(64), &"g".repeat(64)]
        {
            fs::write(&place.source.path, text).unwrap();
            assert_eq!(denied(&place.source), KeySourceError::Malformed, "{text:?}");
        }
        fs::write(&place.source.path, &digits).unwrap();
        assert!(place.source.key().is_ok());
    }

    #[test]
    fn a_missing_key_is_an_error_and_not_a_new_key() {
        let place = place();
        fs::remove_file(&place.source.path).unwrap();
        assert!(matches!(denied(&place.source), KeySourceError::Unreadable(_)));
        assert!(!place.source.path.exists());
    }
}
