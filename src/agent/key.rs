//! The node's key, in a file.
//!
//! *Takes* a path. *Gives* [`FileKey`], which signs statements, and the public half for enrolment. *Denies* a file that
//! others may read or change, by name.
//! *Source*: `protocol.md` "process"; RFC 5958 (PKCS#8), RFC 7468 (PEM).

use crate::evidence::process::{Algorithm, KeyError, NodeKey, NodeSigner, SignError};
use crate::limits;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// A key pair read from a file. A TPM's comes as another [`NodeSigner`].
pub struct FileKey {
    pair: Pair,
    public: NodeKey,
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be opened, read or made.
    #[error("the node key file: {0}")]
    Io(#[from] io::Error),
    /// It is not a regular file, belongs to another user, or others have rights to it.
    #[error("the node key file must be a regular file of this user with mode 0600")]
    Exposed,
    /// It holds no PKCS#8 key, in DER or PEM, of P-256 or Ed25519.
    #[error("the node key file holds no PKCS#8 key of P-256 or Ed25519")]
    NotAKey,
    /// Its public half is not usable.
    #[error("the node key: {0}")]
    Public(#[from] KeyError),
    /// No key could be made.
    #[error("no key could be made")]
    NotMade,
}

impl FileKey {
    /// Reads PKCS#8, PEM or DER, from a regular file of mode 0600 that belongs to the user who runs this.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        check_private(&file)?;
        let mut content = Zeroizing::new(Vec::new());
        file.take(limits::NODE_KEY_FILE_BYTES).read_to_end(&mut content)?;
        match PrivatePkcs8KeyDer::from_pem_slice(&content) {
            Ok(der) => FileKey::from_pkcs8(der.secret_pkcs8_der()),
            Err(_) => FileKey::from_pkcs8(&content),
        }
    }

    /// Makes a key and its file, mode 0600. There must not be one yet.
    pub fn generate(path: &Path, algorithm: Algorithm) -> Result<Self, KeyFileError> {
        let der = generate_pkcs8(algorithm)?;
        let key = FileKey::from_pkcs8(&der)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(pem("PRIVATE KEY", &der).as_bytes())?;
        file.sync_all()?;
        Ok(key)
    }

    /// Parses PKCS#8 DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyFileError> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            let public = NodeKey::from_p256_point(pair.public_key().as_ref())?;
            return Ok(FileKey { pair: Pair::P256(pair), public });
        }
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyFileError::NotAKey)?;
        let public = NodeKey::from_ed25519(pair.public_key().as_ref())?;
        Ok(FileKey { pair: Pair::Ed25519(pair), public })
    }

    /// The public half as PEM, to be given to the administrator who enrols the node.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", self.public.spki()).to_string()
    }
}

impl NodeSigner for FileKey {
    fn public_key(&self) -> &NodeKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature = match &self.pair {
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), message).map_err(|_| SignError)?,
            Pair::Ed25519(pair) => pair.try_sign(message).map_err(|_| SignError)?,
        };
        signature.as_ref().try_into().map_err(|_| SignError)
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FileKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn check_private(file: &File) -> Result<(), KeyFileError> {
    let metadata = file.metadata()?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || !own || metadata.mode() & 0o077 != 0 {
        return Err(KeyFileError::Exposed);
    }
    Ok(())
}

fn generate_pkcs8(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let not_made = |_| KeyFileError::NotMade;
    let document = match algorithm {
        Algorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1())
            .map_err(not_made)?,
        Algorithm::EdDsa => {
            Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()).map_err(not_made)?
        }
    };
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_generated_key_loads_again_and_signs() {
        let directory = tempfile::tempdir().unwrap();
        for (algorithm, name) in [(Algorithm::Es256, "p256"), (Algorithm::EdDsa, "ed25519")] {
            let path = directory.path().join(name);
            let made = FileKey::generate(&path, algorithm).unwrap();
            let loaded = FileKey::load(&path).unwrap();
            assert_eq!(made.public_key(), loaded.public_key());
            assert_eq!(loaded.public_key().algorithm(), algorithm);
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            assert!(loaded.sign(b"x").is_ok());
            assert!(matches!(FileKey::generate(&path, algorithm), Err(KeyFileError::Io(_))));
        }
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        FileKey::generate(&path, Algorithm::EdDsa).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(FileKey::load(&link), Err(KeyFileError::Io(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(FileKey::load(&path), Err(KeyFileError::Exposed)));
        assert!(matches!(FileKey::load(directory.path()), Err(KeyFileError::Exposed)));
    }

    #[test]
    fn what_is_no_key_is_refused_and_debug_shows_none() {
        assert!(matches!(FileKey::from_pkcs8(b"no key"), Err(KeyFileError::NotAKey)));
        let der = generate_pkcs8(Algorithm::Es256).unwrap();
        let shown = format!("{:?}", FileKey::from_pkcs8(&der).unwrap());
        assert!(!shown.contains("pair") && shown.contains("public"), "{shown}");
    }
}
