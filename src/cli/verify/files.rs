//! The files that a verification is given: documents, certificates, lists, keys.
//!
//! *Takes* paths. *Gives* bytes, bounded; certificates and lists in DER, whichever way they are written. *Denies* nothing: an
//! operator's own file that does not read is a usage error. *Source*: RFC 7468 (PEM).

use super::{Usage, usage};
use crate::limits;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A document's body, cut one byte past what any format takes: whatever is longer is refused by its length.
pub(super) fn body(path: &Path) -> Result<Vec<u8>, Usage> {
    let limit = u64::try_from(limits::DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    read_to(path, limit)
}

/// A file of the operator's own, whole.
pub(super) fn own(path: &Path) -> Result<Vec<u8>, Usage> {
    let bytes = read_to(path, limits::TRUST_FILE_BYTES.saturating_add(1))?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > limits::TRUST_FILE_BYTES {
        return Err(wrong(path, "larger than 1 MiB"));
    }
    Ok(bytes)
}

/// The same as text.
pub(super) fn own_text(path: &Path) -> Result<String, Usage> {
    String::from_utf8(own(path)?).map_err(|_| wrong(path, "not text in UTF-8"))
}

/// The certificates that an attester passes along, DER: one a file, or several in PEM. What is no PEM is passed on as it is,
/// for the format to refuse.
pub(super) fn endorsed_certificates(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, Usage> {
    let all: Vec<Vec<Vec<u8>>> = paths
        .iter()
        .map(|path| {
            let bytes = body(path)?;
            Ok(split_certificates(&bytes).unwrap_or_else(|| vec![bytes]))
        })
        .collect::<Result<_, _>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Certificates of the operator's own, DER: one a file, or several in PEM.
pub(super) fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Usage> {
    let bytes = own(path)?;
    split_certificates(&bytes).ok_or_else(|| wrong(path, "holds no certificate"))
}

/// The certificates of a directory with their files, by name: those that end in `.pem`, `.der`, `.crt` or `.cer`.
pub(super) fn roots(directory: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Usage> {
    let failed = |error: std::io::Error| wrong(directory, &error.to_string());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if CERTIFICATE_FILES.contains(&extension) {
            paths.push(path);
        }
        if paths.len() > ROOT_FILES {
            return Err(wrong(directory, "holds more files than there are roots of any vendor"));
        }
    }
    if paths.is_empty() {
        return Err(wrong(directory, "holds no .pem, .der, .crt or .cer file"));
    }
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        all.extend(certificates(&path)?.into_iter().map(|der| (path.clone(), der)));
    }
    Ok(all)
}

/// Revocation lists, DER: one a file, or several in PEM.
pub(super) fn lists(path: &Path) -> Result<Vec<Vec<u8>>, Usage> {
    let bytes = own(path)?;
    if !is_pem(&bytes) {
        return Ok(vec![bytes]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let lists = lists.ok().filter(|lists| !lists.is_empty());
    let lists = lists.ok_or_else(|| wrong(path, "holds no revocation list"))?;
    Ok(lists.iter().map(|list| list.to_vec()).collect())
}

/// A SubjectPublicKeyInfo, DER.
pub(super) fn spki(path: &Path) -> Result<Vec<u8>, Usage> {
    let bytes = own(path)?;
    if !is_pem(&bytes) {
        return Ok(bytes);
    }
    let key = SubjectPublicKeyInfoDer::from_pem_slice(&bytes);
    key.map(|key| key.to_vec()).map_err(|_| wrong(path, "holds no public key"))
}

/// Bytes in hex, either case.
pub(super) fn hex(option: &str, text: &str) -> Result<Vec<u8>, Usage> {
    let bytes = hex::decode(text.trim()).map_err(|_| usage(format!("{option} is not hex")))?;
    if bytes.is_empty() { Err(usage(format!("{option} is empty"))) } else { Ok(bytes) }
}

/// What is wrong with a file.
pub(super) fn wrong(path: &Path, problem: &str) -> Usage {
    usage(format!("`{}`: {problem}", path.display()))
}

fn read_to(path: &Path, limit: u64) -> Result<Vec<u8>, Usage> {
    let failed = |error: std::io::Error| wrong(path, &error.to_string());
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// None where it is PEM that does not read, or holds no certificate.
fn split_certificates(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    if !is_pem(bytes) {
        return Some(vec![bytes.to_vec()]);
    }
    let all = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().ok()?;
    (!all.is_empty()).then(|| all.iter().map(|der| der.to_vec()).collect())
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN")
}

const CERTIFICATE_FILES: [&str; 4] = ["pem", "der", "crt", "cer"];
/// AMD, the vendor with the most, has nine certificates.
const ROOT_FILES: usize = 64;
