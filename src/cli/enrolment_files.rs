//! The three files by which a node without any credential and an administrator enrol a TPM's key together.
//!
//! *Takes* paths. *Gives* [`RequestFile`] (node to administrator), [`ChallengeFile`] (back), [`ProofFile`] (to the administrator
//! again), as JSON; binary fields in hex. *Denies* nothing: a file is refused with the cause, and none is overwritten.
//! *Source*: `evidence.md` §3 ("AK enrolment"). None of them is secret: the proof counts once, and for this enrolment alone.

use crate::agent::tpm::EkKind;
use crate::limits;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What a node says of its TPM; nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFile {
    /// [`RequestFile::KIND`].
    pub kind: String,
    /// Which endorsement key it is, for the node itself to find it again.
    pub ek: EkKind,
    /// TPMT_PUBLIC of the endorsement key, hex.
    pub ek_public: String,
    /// Its certificate, as it stands in the TPM, hex; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<String>,
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo, for people to compare; the broker computes it itself.
    pub ek_sha256: String,
    /// TPMT_PUBLIC of the attestation key, hex.
    pub ak_public: String,
    /// The Name of the attestation key, for people to compare.
    pub ak_name: String,
}

/// What the broker made for the TPM to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeFile {
    /// [`ChallengeFile::KIND`].
    pub kind: String,
    /// Which enrolment.
    pub id: String,
    /// Which endorsement key opens it.
    pub ek: EkKind,
    /// The Name of the attestation key that must be there, hex.
    pub ak_name: String,
    /// TPM2B_ID_OBJECT, hex.
    pub id_object: String,
    /// TPM2B_ENCRYPTED_SECRET, hex.
    pub encrypted_secret: String,
    /// Until when an answer is taken.
    pub answer_before: String,
}

/// That the TPM opened it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofFile {
    /// [`ProofFile::KIND`].
    pub kind: String,
    /// Which enrolment.
    pub id: String,
    /// What was in the credential, hex.
    pub answer: String,
}

/// One of the three.
pub trait EnrolmentFile: Serialize + DeserializeOwned {
    /// What stands in `kind`.
    const KIND: &'static str;

    /// What stands there.
    fn kind(&self) -> &str;
}

impl EnrolmentFile for RequestFile {
    const KIND: &'static str = "portcullis tpm request 1";

    fn kind(&self) -> &str {
        &self.kind
    }
}

impl EnrolmentFile for ChallengeFile {
    const KIND: &'static str = "portcullis tpm challenge 1";

    fn kind(&self) -> &str {
        &self.kind
    }
}

impl EnrolmentFile for ProofFile {
    const KIND: &'static str = "portcullis tpm proof 1";

    fn kind(&self) -> &str {
        &self.kind
    }
}

/// Reads a file of this kind; in words what is wrong with it.
pub fn read<T: EnrolmentFile>(path: &Path) -> Result<T, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut text = Vec::new();
    let most = limits::TPM_ENROLMENT_FILE_BYTES;
    let read = File::open(path).and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut text));
    if u64::try_from(read.map_err(|error| failed(&error))?).map_or(true, |read| read > most) {
        return Err(failed(&"it is too large"));
    }
    let kind = serde_json::from_slice::<serde_json::Value>(&text).ok();
    let kind = kind.as_ref().and_then(|value| value.get("kind")).and_then(serde_json::Value::as_str);
    if kind != Some(T::KIND) {
        return Err(failed(&format!("not a file of kind `{}`", T::KIND)));
    }
    serde_json::from_slice(&text).map_err(|error| failed(&error))
}

/// A field in hex.
pub fn bytes(name: &str, hex_text: &str) -> Result<Vec<u8>, String> {
    hex::decode(hex_text).map_err(|error| format!("`{name}`: {error}"))
}

/// A file that is about to be made: it is there, and empty, so that nothing is begun whose outcome could not be written. It is
/// gone again unless it is written.
pub struct NewFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl NewFile {
    /// Makes it. One that is there already is left as it is, and refused.
    pub fn create(path: &Path) -> Result<NewFile, String> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(NewFile { path: path.to_owned(), file, written: false })
    }

    /// Writes it.
    pub fn write<T: EnrolmentFile>(mut self, content: &T) -> Result<(), String> {
        let written = self.file.write_all(text(content)?.as_bytes()).and_then(|()| self.file.sync_all());
        self.written = written.is_ok();
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// As it is written.
pub fn text<T: EnrolmentFile>(content: &T) -> Result<String, String> {
    serde_json::to_string_pretty(content).map(|text| text + "\n").map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof() -> ProofFile {
        ProofFile { kind: ProofFile::KIND.to_owned(), id: "a".to_owned(), answer: "00ff".to_owned() }
    }

    #[test]
    fn a_file_reads_back_and_none_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proof");
        NewFile::create(&path).unwrap().write(&proof()).unwrap();
        assert_eq!(read::<ProofFile>(&path), Ok(proof()));
        assert!(NewFile::create(&path).is_err());
        assert_eq!(read::<ProofFile>(&path), Ok(proof()));
        let unwritten = directory.path().join("unwritten");
        drop(NewFile::create(&unwritten).unwrap());
        assert!(!unwritten.exists());
    }

    #[test]
    fn a_file_of_another_kind_a_long_one_and_no_json_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let refused = |content: &str| {
            std::fs::write(&path, content).unwrap();
            read::<ChallengeFile>(&path).unwrap_err()
        };
        assert!(refused(&text(&proof()).unwrap()).contains("portcullis tpm challenge 1"));
        assert!(refused("{").contains("portcullis tpm challenge 1"));
        assert!(refused(&format!("{{ \"kind\": \"{}\" }}", ChallengeFile::KIND)).contains("id"));
        assert!(refused(&" ".repeat(200 * 1024)).contains("too large"));
        assert!(read::<ProofFile>(Path::new("/nonexistent")).unwrap_err().contains("/nonexistent"));
    }
}
