//! Signed tree heads: what the log was at one size, for anyone who keeps a copy elsewhere.
//!
//! *Takes* the log's key, size and root. *Gives* a note signed with Ed25519, and its verifier. *Denies* nothing itself.
//! *Source*: C2SP tlog-checkpoint, C2SP signed-note; RFC 8032.

use super::merkle::{self, Hash};
use crate::limits;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// What a checkpoint says: under `origin`, the first `size` records have this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, such as `portcullis/broker-1`.
    pub origin: String,
    /// Records.
    pub size: u64,
    /// The tree's root.
    pub root: Hash,
}

/// Why a text is no checkpoint of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Larger than [`limits::NOTE_BYTES`], or not laid out as a signed note.
    #[error("it is not a signed note")]
    Malformed,
    /// No signature is by the log's key.
    #[error("it carries no signature by the log's key")]
    Unsigned,
    /// The signature by the log's key does not verify.
    #[error("its signature does not verify")]
    SignatureInvalid,
    /// The signed text is no checkpoint.
    #[error("the signed text is not a checkpoint")]
    NotCheckpoint,
    /// The checkpoint is of another log.
    #[error("it is a checkpoint of another log")]
    OtherOrigin,
}

impl Checkpoint {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// The signed note.
    pub fn sign(&self, key: &LogKey) -> String {
        self.sign_with(key, "")
    }

    /// The signed note with extension lines, each ended.
    pub(super) fn sign_with(&self, key: &LogKey, extension: &str) -> String {
        let text = self.text() + extension;
        let mut signature = key.public.id().to_vec();
        signature.extend_from_slice(key.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n— {} {}\n", key.public.name, STANDARD.encode(signature))
    }

    /// Verifies a note, whoever else signed it too, and reads its checkpoint. Extension lines are signed, not read.
    pub fn verify(note: &str, key: &LogPublicKey) -> Result<Self, NoteError> {
        let control = |byte: u8| byte < 0x20 && byte != b'\n';
        if note.len() > limits::NOTE_BYTES || note.bytes().any(control) {
            return Err(NoteError::Malformed);
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, signatures) = note.split_at_checked(at.saturating_add(1)).ok_or(NoteError::Malformed)?;
        let signatures = signatures.strip_prefix('\n').and_then(|lines| lines.strip_suffix('\n'));
        key.verify(text, signatures.ok_or(NoteError::Malformed)?)?;
        let checkpoint = Checkpoint::parse(text).ok_or(NoteError::NotCheckpoint)?;
        (checkpoint.origin == key.name).then_some(checkpoint).ok_or(NoteError::OtherOrigin)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let number: u64 = size.parse().ok()?;
        let bytes: [u8; 32] = STANDARD.decode(root).ok()?.try_into().ok()?;
        // `parse` takes a sign and leading zeros; the format does not.
        let canonical =
            number.to_string() == size && !origin.is_empty() && lines.all(|line| !line.is_empty());
        canonical.then(|| Checkpoint { origin: origin.to_owned(), size: number, root: Hash(bytes) })
    }
}

/// The log's public key, under the log's origin as its name.
#[derive(Clone, PartialEq, Eq)]
pub struct LogPublicKey {
    name: String,
    key: [u8; 32],
}

impl LogPublicKey {
    /// Parses `<name>+<key id, hex>+<base64 of 0x01 and the key>`, the form in which note verifiers are configured.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_end_matches('\n').splitn(3, '+');
        let (name, id, encoded) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = STANDARD.decode(encoded).ok()?;
        let (algorithm, key) = bytes.split_first()?;
        let key = LogPublicKey { name: name.to_owned(), key: key.try_into().ok()? };
        let whole = is_name(name) && *algorithm == ED25519_NOTE && hex::encode(key.id()) == id;
        whole.then_some(key)
    }

    /// The log's origin.
    pub fn origin(&self) -> &str {
        &self.name
    }

    fn id(&self) -> [u8; 4] {
        let Hash(hash) = merkle::hash(&[self.name.as_bytes(), b"\n", &[ED25519_NOTE], &self.key]);
        hash.first_chunk().copied().unwrap_or_default()
    }

    /// Signatures of unknown keys are passed over; every one that claims to be by this key must verify.
    fn verify(&self, text: &str, signatures: &str) -> Result<(), NoteError> {
        let mut signed = false;
        for line in signatures.split('\n') {
            let (name, encoded) = signature_line(line).ok_or(NoteError::Malformed)?;
            let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::Malformed)?;
            let (id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Malformed)?;
            if name == self.name && *id == self.id() {
                let key = UnparsedPublicKey::new(&ED25519, &self.key);
                key.verify(text.as_bytes(), signature).map_err(|_| NoteError::SignatureInvalid)?;
                signed = true;
            }
        }
        signed.then_some(()).ok_or(NoteError::Unsigned)
    }
}

impl fmt::Display for LogPublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519_NOTE];
        bytes.extend_from_slice(&self.key);
        write!(formatter, "{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(bytes))
    }
}

impl fmt::Debug for LogPublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

fn signature_line(line: &str) -> Option<(&str, &str)> {
    let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
    is_name(name).then_some((name, encoded))
}

/// Whether a text may be the name of a note's key, and so a log's origin.
pub fn is_name(text: &str) -> bool {
    let forbidden = |character: char| character.is_whitespace() || character.is_control() || character == '+';
    !text.is_empty() && text.len() <= NAME_BYTES && !text.contains(forbidden)
}

/// Why a log key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the log key file: {0}")]
    Io(#[from] std::io::Error),
    /// The file is open to others than its owner, or not this process's own.
    #[error("the log key file must be this user's own, with mode 0600")]
    Exposed,
    /// The file holds no log key.
    #[error("the log key file does not hold a log key")]
    Malformed,
    /// The origin has spaces, a plus sign or no characters, or is too long.
    #[error("the origin must be 1 to 255 characters without spaces and plus signs")]
    Origin,
    /// No random bytes could be had.
    #[error("no random bytes could be had")]
    Random,
}

/// The key that signs checkpoints; nothing else does.
pub struct LogKey {
    pair: Ed25519KeyPair,
    public: LogPublicKey,
}

impl LogKey {
    /// Makes a key for a log of that origin and writes it to a new file, mode 0600, durable on return.
    pub fn create(path: &Path, origin: &str) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| KeyError::Random)?;
        let key = LogKey::from_seed(&seed, origin)?;
        let mut bytes = Zeroizing::new(vec![ED25519_NOTE]);
        bytes.extend_from_slice(seed.as_slice());
        let encoded = Zeroizing::new(STANDARD.encode(bytes.as_slice()));
        let id = hex::encode(key.public.id());
        let text = Zeroizing::new(format!("{PRIVATE_KEY}{origin}+{id}+{}\n", encoded.as_str()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::File::open(directory)?.sync_all()?;
        }
        Ok(key)
    }

    /// Reads a key that `create` wrote.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(std::io::Error::other)?;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(no_follow).open(path)?;
        let metadata = file.metadata()?;
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        if !own || metadata.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed);
        }
        let mut text = Zeroizing::new(String::new());
        file.take(KEY_FILE_BYTES).read_to_string(&mut text)?;
        LogKey::parse(&text).ok_or(KeyError::Malformed)
    }

    /// A key as `create` writes it, read by the caller.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        LogKey::parse(text).ok_or(KeyError::Malformed)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(PRIVATE_KEY)?.trim_end_matches('\n').splitn(3, '+');
        let (origin, id, encoded) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        let (algorithm, seed) = bytes.split_first()?;
        let mut seed: [u8; 32] = seed.try_into().ok()?;
        let key = LogKey::from_seed(&seed, origin).ok();
        seed.zeroize();
        key.filter(|key| *algorithm == ED25519_NOTE && hex::encode(key.public.id()) == id)
    }

    fn from_seed(seed: &[u8; 32], origin: &str) -> Result<Self, KeyError> {
        if !is_name(origin) {
            return Err(KeyError::Origin);
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Malformed)?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Malformed)?;
        Ok(LogKey { pair, public: LogPublicKey { name: origin.to_owned(), key } })
    }

    /// What verifies its checkpoints.
    pub fn public(&self) -> &LogPublicKey {
        &self.public
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LogKey({})", self.public.name)
    }
}

/// The beginning of a signing key's text, as note signers write it.
const PRIVATE_KEY: &str = "PRIVATE+KEY+";
/// Signature type of Ed25519 (C2SP signed-note "Signature types").
const ED25519_NOTE: u8 = 0x01;
/// A key's name, bytes; it stands in every segment header, beside the largest frontier.
const NAME_BYTES: usize = 255;
/// A key file, bytes: the longest name and 44 characters of key.
const KEY_FILE_BYTES: u64 = 1024;

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn key(origin: &str) -> LogKey {
        LogKey::from_seed(&[7; 32], origin).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "portcullis/a".into(), size: 20, root: Hash([3; 32]) }
    }

    #[test]
    fn a_note_is_laid_out_as_c2sp_says() {
        let key = key("portcullis/a");
        let note = checkpoint().sign(&key);
        let lines: Vec<&str> = note.split('\n').collect();
        assert_eq!(lines[..4], ["portcullis/a", "20", "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=", ""]);
        let signature = STANDARD.decode(lines[4].strip_prefix("— portcullis/a ").unwrap()).unwrap();
        assert_eq!((lines[5], lines.len(), signature.len()), ("", 6, 68));
        let id = merkle::hash(&[b"portcullis/a\n\x01", key.pair.public_key().as_ref()]);
        assert_eq!(signature[..4], id.0[..4]);
        assert_eq!(Checkpoint::verify(&note, key.public()), Ok(checkpoint()));
    }

    /// The example of C2SP signed-note, with the key that the Go module `sumdb/note` publishes in its documentation.
    #[test]
    fn the_go_example_key_and_note_verify() {
        let key = LogPublicKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
            .unwrap();
        let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let note = format!(
            "{text}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
        );
        assert_eq!(Checkpoint::verify(&note, &key), Err(NoteError::NotCheckpoint));
        let changed = note.replace("answer", "Answer");
        assert_eq!(Checkpoint::verify(&changed, &key), Err(NoteError::SignatureInvalid));
    }

    #[test]
    fn every_changed_bit_of_a_note_is_refused() {
        let key = key("portcullis/a");
        let note = checkpoint().sign(&key).into_bytes();
        for bit in 0..note.len() * 8 {
            let mut changed = note.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = String::from_utf8(changed) else { continue };
            assert!(Checkpoint::verify(&changed, key.public()).is_err(), "bit {bit}: {changed}");
        }
    }

    #[test]
    fn cosignatures_are_passed_over_and_another_log_is_refused() {
        let own = key("portcullis/a");
        let cosigned = checkpoint().sign(&own) + "— witness.example/w AAAAAAAA\n";
        assert_eq!(Checkpoint::verify(&cosigned, own.public()), Ok(checkpoint()));
        let other = key("portcullis/b");
        assert_eq!(Checkpoint::verify(&cosigned, other.public()), Err(NoteError::Unsigned));
        let foreign = checkpoint().sign(&other);
        assert_eq!(Checkpoint::verify(&foreign, other.public()), Err(NoteError::OtherOrigin));
    }

    #[test]
    fn a_key_file_comes_back_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.key");
        let made = LogKey::create(&path, "portcullis/a").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let public = LogKey::load(&path).unwrap().public().clone();
        assert_eq!(LogPublicKey::parse(&public.to_string()).as_ref(), Some(made.public()));
        assert!(matches!(LogKey::create(&path, "portcullis/a"), Err(KeyError::Io(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(LogKey::load(&path), Err(KeyError::Exposed)));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(LogKey::load(&link), Err(KeyError::Io(_))));
        assert!(matches!(LogKey::create(&directory.path().join("b"), "a b"), Err(KeyError::Origin)));
    }
}
