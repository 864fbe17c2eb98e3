//! Where on this host the store's key comes from, as configuration and `init` say it.
//!
//! *Takes* `file:PATH`, `credential:NAME`, `passphrase:terminal`, `passphrase:fd:N`, `passphrase:credential:NAME` or `shares`.
//! *Gives* a [`KeySource`]. *Denies* anything else. *Source*: `deploy/keys.md`; systemd.exec(5) `$CREDENTIALS_DIRECTORY`.
//!
//! A passphrase is never an argument nor a variable of the environment: other processes can read both.

use crate::audit::checkpoint::LogKey;
use crate::cli::config::StorageSection;
use crate::cli::terminal;
use crate::limits;
use crate::registry::keys::NextSource;
use crate::store::keysource::passphrase::Passphrase;
use crate::store::keysource::shares::Collected;
use crate::store::keysource::{Key, KeyFile, KeySource, KeySourceError, Lock, credential};
use serde::Deserialize;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum KeyPlace {
    /// A key file.
    File(PathBuf),
    /// A systemd credential that holds a key.
    Credential(String),
    /// A passphrase.
    Passphrase(PassphrasePlace),
    /// Shares, given over the operators' API.
    Shares,
}

/// Where a passphrase is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassphrasePlace {
    /// Asked at the terminal that is standard input.
    Terminal,
    /// A descriptor that whoever started the program left open.
    Descriptor(u16),
    /// A systemd credential that holds it.
    Credential(String),
}

impl TryFrom<String> for KeyPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for KeyPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "a key source is file:PATH, credential:NAME, passphrase:terminal, passphrase:fd:N, \
             passphrase:credential:NAME or shares"
                .to_owned()
        };
        let name = |name: &str| {
            let plain = !name.is_empty() && !name.contains('/');
            plain.then(|| name.to_owned()).ok_or_else(wrong)
        };
        match text.split_once(':') {
            None if text == "shares" => Ok(KeyPlace::Shares),
            Some(("file", path)) if !path.is_empty() => Ok(KeyPlace::File(path.into())),
            Some(("credential", text)) => name(text).map(KeyPlace::Credential),
            Some(("passphrase", "terminal")) => Ok(KeyPlace::Passphrase(PassphrasePlace::Terminal)),
            Some(("passphrase", from)) => match from.split_once(':') {
                Some(("fd", number)) => {
                    let number = number.parse().map_err(|_| wrong())?;
                    Ok(KeyPlace::Passphrase(PassphrasePlace::Descriptor(number)))
                }
                Some(("credential", text)) => {
                    Ok(KeyPlace::Passphrase(PassphrasePlace::Credential(name(text)?)))
                }
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyPlace::File(path) => write!(formatter, "file:{}", path.display()),
            KeyPlace::Credential(name) => write!(formatter, "credential:{name}"),
            KeyPlace::Passphrase(PassphrasePlace::Terminal) => formatter.write_str("passphrase:terminal"),
            KeyPlace::Passphrase(PassphrasePlace::Descriptor(number)) => {
                write!(formatter, "passphrase:fd:{number}")
            }
            KeyPlace::Passphrase(PassphrasePlace::Credential(name)) => {
                write!(formatter, "passphrase:credential:{name}")
            }
            KeyPlace::Shares => formatter.write_str("shares"),
        }
    }
}

impl KeyPlace {
    /// The kind of lock that it opens, as [`Lock::name`].
    pub fn kind(&self) -> &'static str {
        match self {
            KeyPlace::File(_) | KeyPlace::Credential(_) => "key",
            KeyPlace::Passphrase(_) => "passphrase",
            KeyPlace::Shares => "shares",
        }
    }

    /// The source, for data in `data`; nothing is read or asked before it is asked for a key. None for shares.
    pub fn source(&self, data: &Path) -> Option<Arc<dyn KeySource>> {
        match self {
            KeyPlace::Shares => None,
            KeyPlace::File(path) => Some(Arc::new(KeyFile::new(path, data))),
            KeyPlace::Credential(_) | KeyPlace::Passphrase(_) => Some(Arc::new(Deferred(self.clone()))),
        }
    }

    /// The same beside no running broker, where shares are asked for: at the terminal, or as lines of standard input.
    pub fn offline_source(&self, data: &Path) -> Arc<dyn KeySource> {
        self.source(data).unwrap_or_else(|| Arc::new(AskedShares))
    }

    /// What `key rekey` moves to.
    pub fn next(&self, data: &Path) -> NextSource {
        self.source(data).map_or(NextSource::Shares, NextSource::Source)
    }
}

/// A place that is looked at each time a key is asked for.
struct Deferred(KeyPlace);

impl Deferred {
    /// `again`: asked twice, as a mistyped new passphrase would lock everybody out.
    fn now(&self, again: bool) -> Result<Box<dyn KeySource>, KeySourceError> {
        match &self.0 {
            KeyPlace::Credential(name) => {
                Ok(Box::new(credential::Credential::new(&credentials_directory()?, name)))
            }
            KeyPlace::Passphrase(place) => Ok(Box::new(place.read(again)?)),
            KeyPlace::File(_) | KeyPlace::Shares => Err(KeySourceError::LockMalformed),
        }
    }
}

impl KeySource for Deferred {
    fn name(&self) -> &'static str {
        self.0.kind()
    }

    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        self.now(true)?.lock()
    }

    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError> {
        self.now(false)?.unlock(lock)
    }
}

/// Shares that their holders give here and now.
struct AskedShares;

impl KeySource for AskedShares {
    fn name(&self) -> &'static str {
        KeyPlace::Shares.kind()
    }

    /// Shares are dealt by whoever shows them.
    fn lock(&self) -> Result<(Lock, Key), KeySourceError> {
        Err(KeySourceError::LockMalformed)
    }

    fn unlock(&self, lock: &Lock) -> Result<Key, KeySourceError> {
        let Lock::Shares(set) = lock else {
            return Err(KeySourceError::OtherKind { wants: lock.name(), has: self.name() });
        };
        let mut collected = Collected::new(*set);
        loop {
            let question = format!("share ({} of {} are in)", collected.count(), set.threshold);
            let text = terminal::ask_or_read(&question, SHARE_BYTES);
            let text = text.map_err(|error| KeySourceError::Share(error.to_string()))?;
            let text =
                std::str::from_utf8(&text).map_err(|_| KeySourceError::ShareMalformed("it is no text"))?;
            if let Some(joined) = collected.add(text)? {
                return joined.unlock(lock);
            }
        }
    }
}

impl PassphrasePlace {
    fn read(&self, again: bool) -> Result<Passphrase, KeySourceError> {
        let most = limits::PASSPHRASE_BYTES.end().saturating_add(2);
        let unreadable = |error: std::io::Error| KeySourceError::Passphrase(error.to_string());
        match self {
            PassphrasePlace::Credential(name) => {
                Passphrase::new(credential::read(&credentials_directory()?, name, most)?)
            }
            PassphrasePlace::Descriptor(number) => {
                // Opened by its name, as a number alone cannot be owned without `unsafe`.
                let file = std::fs::File::open(format!("/proc/self/fd/{number}")).map_err(unreadable)?;
                let mut bytes = Zeroizing::new(Vec::with_capacity(most));
                let bound = u64::try_from(most).unwrap_or(0);
                file.take(bound).read_to_end(&mut bytes).map_err(unreadable)?;
                Passphrase::new(bytes)
            }
            PassphrasePlace::Terminal => {
                let typed = terminal::ask("passphrase of the store", most).map_err(unreadable)?;
                if again && *typed != *terminal::ask("once more", most).map_err(unreadable)? {
                    return Err(KeySourceError::Passphrase("the two are not the same".to_owned()));
                }
                Passphrase::new(typed)
            }
        }
    }
}

impl StorageSection {
    /// Where the store's key comes from.
    pub fn key_place(&self) -> Option<KeyPlace> {
        self.key_source.clone().or_else(|| self.key_file.clone().map(KeyPlace::File))
    }

    /// The configured places that could open a keyring that is locked like this, in the order in which they are tried: a rekey
    /// changes in one commit which of both does. **Denies** `OtherKind` where none could.
    pub fn places(&self, lock: &Lock) -> Result<Vec<KeyPlace>, KeySourceError> {
        let all: Vec<KeyPlace> = self.key_place().into_iter().chain(self.key_source_next.clone()).collect();
        let has = all.first().map_or("none", KeyPlace::kind);
        let fit: Vec<KeyPlace> = all.into_iter().filter(|place| place.kind() == lock.name()).collect();
        if fit.is_empty() { Err(KeySourceError::OtherKind { wants: lock.name(), has }) } else { Ok(fit) }
    }

    /// The same as sources, for whatever opens a store or a backup beside no running broker: take the first that opens it. Nothing
    /// is read or asked before a source is asked for its key; shares and passphrases are asked for at the terminal.
    pub fn key_sources(&self, lock: &Lock) -> Result<Vec<Arc<dyn KeySource>>, KeySourceError> {
        let places = self.places(lock)?;
        Ok(places.iter().map(|place| place.offline_source(&self.data)).collect())
    }

    /// The key that signs the audit log's checkpoints.
    pub fn log_key(&self) -> Result<LogKey, String> {
        let Some(name) = &self.audit_key_credential else {
            return LogKey::load(&self.audit_key_file).map_err(|error| error.to_string());
        };
        let read =
            credentials_directory().and_then(|directory| credential::read(&directory, name, LOG_KEY_BYTES));
        let bytes = read.map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(&bytes).map_err(|_| "the credential is not text".to_owned())?;
        LogKey::from_text(text).map_err(|error| error.to_string())
    }

    pub(super) fn resolve_keys(&mut self, base: &Path) {
        let places = [&mut self.key_source, &mut self.key_source_next];
        for place in places.into_iter().flatten() {
            if let KeyPlace::File(path) = place {
                *path = base.join(&*path);
            }
        }
        if let Some(path) = &mut self.key_file {
            *path = base.join(&*path);
        }
        if self.audit_key_credential.is_none() {
            self.audit_key_file = base.join(&self.audit_key_file);
        }
    }

    /// What is impossible, and why.
    pub(super) fn check_keys(&self) -> Result<(), (&'static str, &'static str)> {
        match (&self.key_file, &self.key_source) {
            (None, None) => return Err(("storage.key_source", "it, or `key_file`, is needed")),
            (Some(_), Some(_)) => return Err(("storage.key_source", "it and `key_file` are two; say one")),
            _ => {}
        }
        let asked = [PassphrasePlace::Terminal, PassphrasePlace::Descriptor(0)];
        if let Some(KeyPlace::Passphrase(place)) = &self.key_source_next
            && asked.iter().any(|one| std::mem::discriminant(one) == std::mem::discriminant(place))
        {
            return Err((
                "storage.key_source_next",
                "a running broker asks nobody: passphrase:credential:NAME",
            ));
        }
        match (self.audit_key_file.as_os_str().is_empty(), &self.audit_key_credential) {
            (true, None) => Err(("storage.audit_key_file", "it, or `audit_key_credential`, is needed")),
            (false, Some(_)) => {
                Err(("storage.audit_key_file", "it and `audit_key_credential` are two; say one"))
            }
            _ => Ok(()),
        }
    }
}

fn credentials_directory() -> Result<PathBuf, KeySourceError> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    directory.filter(|path| path.is_absolute()).ok_or(KeySourceError::NoCredentials)
}

/// A share has some 125 characters.
pub const SHARE_BYTES: usize = 512;
/// A log key's file has some 120 bytes.
const LOG_KEY_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_told_by_its_words_and_no_other_words_are() {
        let place = |text: &str| text.parse::<KeyPlace>();
        assert_eq!(place("file:/a:b"), Ok(KeyPlace::File("/a:b".into())));
        assert_eq!(place("credential:store.key"), Ok(KeyPlace::Credential("store.key".into())));
        let passphrase = |place| Ok(KeyPlace::Passphrase(place));
        assert_eq!(place("passphrase:terminal"), passphrase(PassphrasePlace::Terminal));
        assert_eq!(place("passphrase:fd:3"), passphrase(PassphrasePlace::Descriptor(3)));
        let credential = PassphrasePlace::Credential("pass".into());
        assert_eq!(place("passphrase:credential:pass"), passphrase(credential));
        assert_eq!(place("shares"), Ok(KeyPlace::Shares));
        for wrong in [
            "",
            "file:",
            "/etc/key",
            "credential:",
            "credential:../x",
            "passphrase",
            "passphrase:hunter2",
            "passphrase:fd:",
            "passphrase:fd:x",
            "passphrase:env:X",
            "shares:3",
        ] {
            let refused = place(wrong).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
