//! Collateral on disk: a file each, whole or absent, and believed no more than what a service says.
//!
//! *Takes* items and their bytes. *Gives* them back at the next start, or which file is damaged. *Denies* nothing.
//! *Source*: rename(2), fsync(2); `house.md` §2. The names say only how a file is to be read; what it is about, it says itself.

use super::item::Item;
use crate::evidence::sev_snp::SigningKey;
use crate::evidence::tdx::{PckCa, Question};
use crate::limits;
use crate::time::Now;
use crate::transport::file;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Directory(PathBuf);

/// How a file is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// DER; before certificates and lists, which may need it.
    Intermediate,
    /// DER or PEM.
    List(SigningKey),
    /// DER.
    Certificate,
    /// JSON.
    Dcap,
}

/// A file as found.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) bytes: Result<Vec<u8>, String>,
}

impl Directory {
    /// Makes it where it is not there, for its owner alone.
    pub(super) fn open(path: &Path) -> io::Result<Directory> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Directory(path.to_owned()))
    }

    /// Puts an item's file in the place of an older one, durably and in one step.
    pub(super) fn write(&self, item: &Item, bytes: &[u8]) -> io::Result<()> {
        let mut suffix = [0; 8];
        aws_lc_rs::rand::fill(&mut suffix).map_err(|_| io::Error::other("no random bytes"))?;
        let temporary = self.0.join(format!("{TEMPORARY}{}", hex::encode(suffix)));
        let written = write_new(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, self.0.join(file_name(item))));
        if written.is_err() {
            // What is left is removed at the next start; the first error is the one to tell.
            let _ = std::fs::remove_file(&temporary);
        }
        written.and_then(|()| File::open(&self.0)?.sync_all())
    }

    /// Removes an item's file, if there is one.
    pub(super) fn remove(&self, item: &Item) -> io::Result<()> {
        self.remove_name(&file_name(item))
    }

    /// Removes a file by its name.
    pub(super) fn remove_name(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Every file of ours, in the order in which they can be taken in; what an interrupted write left is removed.
    pub(super) fn files(&self, now: Now) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if name.starts_with(TEMPORARY) {
                self.remove_name(&name)?;
            }
            let Some(kind) = Kind::of(&name) else { continue };
            if found.len() >= limits::COLLATERAL_FILES {
                break;
            }
            let read = file::read(&self.0.join(&name), kind.bytes(), now);
            let bytes =
                read.map(|content| content.bytes.to_vec()).map_err(|error: io::Error| error.to_string());
            found.push(Found { name, kind, bytes });
        }
        found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        Ok(found)
    }
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
        let (rest, end) = name.rsplit_once('.')?;
        match (rest, end) {
            (rest, "der") if rest.starts_with(CERTIFICATE) => Some(Kind::Certificate),
            (rest, "der") if rest.starts_with(INTERMEDIATE) => Some(Kind::Intermediate),
            (rest, "crl") if rest.starts_with(LIST) => {
                let named = |key: &SigningKey| rest.rsplit_once('-').is_some_and(|(_, k)| k == key.name());
                SigningKey::ALL.into_iter().find(named).map(Kind::List)
            }
            (rest, "json") if rest.starts_with(DCAP) => Some(Kind::Dcap),
            _ => None,
        }
    }

    fn bytes(self) -> u64 {
        let bytes = match self {
            Kind::Certificate | Kind::Intermediate => limits::SEV_SNP_CERTIFICATE_BYTES,
            Kind::List(_) => limits::SEV_SNP_LIST_BYTES,
            Kind::Dcap => limits::DCAP_COLLATERAL_BYTES,
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

pub(super) fn file_name(item: &Item) -> String {
    match item {
        Item::SevSnpCertificate { paths } => {
            let path = paths.first().map_or("", String::as_str);
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path.as_bytes());
            format!("{CERTIFICATE}{}.der", hex::encode(digest))
        }
        Item::SevSnpIntermediate { product, signing_key } => {
            format!("{INTERMEDIATE}{}-{}.der", product.name().to_ascii_lowercase(), signing_key.name())
        }
        Item::SevSnpList { product, signing_key } => {
            format!("{LIST}{}-{}.crl", product.name().to_ascii_lowercase(), signing_key.name())
        }
        Item::Dcap(question) => {
            let what = match question {
                Question::TcbInfo { tee, fmspc } => {
                    format!("tcb-info-{}-{}", tee.name().to_ascii_lowercase(), hex::encode(fmspc))
                }
                Question::QeIdentity { tee } => {
                    format!("qe-identity-{}", tee.name().to_ascii_lowercase())
                }
                Question::PckCrl { ca: PckCa::Platform } => "pck-crl-platform".to_owned(),
                Question::PckCrl { ca: PckCa::Processor } => "pck-crl-processor".to_owned(),
                Question::RootCrl => "root-crl".to_owned(),
            };
            format!("{DCAP}{what}.json")
        }
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

const CERTIFICATE: &str = "sev-snp-certificate-";
const INTERMEDIATE: &str = "sev-snp-intermediate-";
const LIST: &str = "sev-snp-list-";
const DCAP: &str = "dcap-";
/// What a file is called before it is whole.
const TEMPORARY: &str = ".collateral-";
