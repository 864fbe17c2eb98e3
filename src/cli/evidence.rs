//! `[evidence]` of the configuration: which formats are taken, and what hardware evidence is held against.
//!
//! *Takes* the section. *Gives* the formats to offer, and [`Hardware`], read from files. *Denies* nothing: a file that cannot be
//! read leaves its format undecided. *Source*: `deploy/portcullis.toml`, where every key is explained; `evidence.md` §2, §4, §5.

use crate::collateral::remember_lists;
use crate::evidence::hardware::{Hardware, Held};
use crate::evidence::nitro::{self, NitroTrust};
use crate::evidence::process;
use crate::evidence::sev_snp::{self, Product, SevSnpTrust, SigningKey, TrustError};
use crate::evidence::tdx::{self, Collateral, TdxTrust};
use crate::evidence::tpm2;
use crate::evidence::tpm2::enroll::{ManufacturerError, Manufacturers, Revocation};
use crate::limits;
use crate::time::Now;
use crate::transport::{Marks, MarksUnavailable};
use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `[evidence]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct EvidenceSection {
    /// The formats that are offered.
    pub formats: BTreeSet<Format>,
    /// `[evidence.nitro]`
    pub nitro: NitroSection,
    /// `[evidence.sev-snp]`
    pub sev_snp: SevSnpSection,
    /// `[evidence.tdx]`
    pub tdx: TdxSection,
    /// `[evidence.tpm2]`
    pub tpm2: Tpm2Section,
}

/// A format that can be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A node's statement about a process.
    Process,
    /// AWS Nitro Enclaves.
    Nitro,
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// A TPM 2.0 of an enrolled node.
    Tpm2,
}

/// `[evidence.nitro]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NitroSection {
    /// Further roots, PEM or DER, beside AWS's.
    pub roots: Vec<PathBuf>,
    /// Roots that count no more, AWS's too: SHA-256 of the DER, hex.
    pub distrusted_roots: Vec<String>,
}

/// `[evidence.sev-snp]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SevSnpSection {
    /// Further ARKs, PEM or DER, beside AMD's.
    pub roots: Vec<PathBuf>,
    /// ARKs that count no more, AMD's too: SHA-256 of the DER, hex.
    pub distrusted_roots: Vec<String>,
    /// Further ASKs and ASVKs, PEM or DER, for reports that bring none.
    pub intermediates: Vec<PathBuf>,
    /// VCEKs and VLEKs, PEM or DER, for reports that bring none.
    pub certificates: Vec<PathBuf>,
    /// Revocation lists of VCEKs, DER or PEM.
    pub vcek_lists: Vec<PathBuf>,
    /// Revocation lists of VLEKs, DER or PEM.
    pub vlek_lists: Vec<PathBuf>,
    /// The oldest that a list may be by its thisUpdate, seconds.
    pub list_max_age_seconds: Option<u64>,
    /// Products of which nothing is released without a list in its time: `milan`, `genoa`, `turin`.
    pub lists_required: BTreeSet<String>,
}

/// `[evidence.tdx]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TdxSection {
    /// Further roots, PEM or DER, beside Intel's.
    pub roots: Vec<PathBuf>,
    /// Roots that count no more, Intel's too: SHA-256 of the DER, hex.
    pub distrusted_roots: Vec<String>,
    /// Collateral, JSON, for quotes that bring none.
    pub collateral: Vec<PathBuf>,
    /// The lowest tcbEvaluationDataNumber.
    pub minimum_evaluation_data_number: u32,
}

/// `[evidence.tpm2]`: who may say that a node's TPM is one, when its key is enrolled.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tpm2Section {
    /// Roots of manufacturers whose revocation lists are demanded, PEM or DER.
    pub roots: Vec<PathBuf>,
    /// Roots of manufacturers that publish no lists, PEM or DER.
    pub roots_without_lists: Vec<PathBuf>,
    /// Manufacturers that are compiled in, whose lists are demanded: `google-gce`.
    pub manufacturers: BTreeSet<String>,
    /// The same, without lists.
    pub manufacturers_without_lists: BTreeSet<String>,
    /// Certificates between an EK's and its root, PEM or DER.
    pub intermediates: Vec<PathBuf>,
    /// The manufacturers' revocation lists, DER or PEM.
    pub lists: Vec<PathBuf>,
}

impl Default for EvidenceSection {
    /// A node's word about a process, alone.
    fn default() -> Self {
        EvidenceSection {
            formats: BTreeSet::from([Format::Process]),
            nitro: NitroSection::default(),
            sev_snp: SevSnpSection::default(),
            tdx: TdxSection::default(),
            tpm2: Tpm2Section::default(),
        }
    }
}

impl EvidenceSection {
    /// The formats to offer, by their names on the wire.
    pub fn formats(&self) -> Vec<String> {
        let name = |format: &Format| match format {
            Format::Process => process::FORMAT,
            Format::Nitro => nitro::FORMAT,
            Format::SevSnp => sev_snp::FORMAT,
            Format::Tdx => tdx::FORMAT,
            Format::Tpm2 => tpm2::FORMAT,
        };
        self.formats.iter().map(|format| name(format).to_owned()).collect()
    }

    /// Every path, for the configuration to resolve.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let snp = &mut self.sev_snp;
        let lists = snp.vcek_lists.iter_mut().chain(&mut snp.vlek_lists);
        let snp =
            snp.roots.iter_mut().chain(&mut snp.intermediates).chain(&mut snp.certificates).chain(lists);
        let tdx = self.tdx.roots.iter_mut().chain(&mut self.tdx.collateral);
        let tpm2 = &mut self.tpm2;
        let roots = tpm2.roots.iter_mut().chain(&mut tpm2.roots_without_lists);
        let tpm2 = roots.chain(&mut tpm2.intermediates).chain(&mut tpm2.lists);
        self.nitro.roots.iter_mut().chain(snp).chain(tdx).chain(tpm2)
    }

    /// What is impossible, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.formats.is_empty() {
            return Err("`formats` is empty: no evidence could be taken".to_owned());
        }
        let snp = &self.sev_snp;
        if !(snp.vcek_lists.is_empty() && snp.vlek_lists.is_empty())
            && snp.list_max_age_seconds.unwrap_or(0) == 0
        {
            return Err("`sev-snp.list_max_age_seconds` is needed with lists, at least 1".to_owned());
        }
        let known = |name: &&String| product(name).is_none();
        if let Some(name) = snp.lists_required.iter().find(known) {
            return Err(format!("`sev-snp.lists_required`: no product is named `{name}`"));
        }
        let hashes = [&self.nitro.distrusted_roots, &snp.distrusted_roots, &self.tdx.distrusted_roots];
        match hashes.into_iter().flatten().find(|hash| sha256(hash).is_none()) {
            Some(hash) => Err(format!("`{hash}` in `distrusted_roots` is no SHA-256 in hex")),
            None => Ok(()),
        }
    }

    /// SHA-256 over the content of every file, or that it cannot be read: what changes when any of them does. Blocks.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut section = self.clone();
        for path in section.paths() {
            let content = bytes(path).map(|bytes| digest::digest(&digest::SHA256, &bytes));
            context.update(content.as_ref().map_or(&[][..], |content| content.as_ref()));
            context.update(path.as_os_str().as_encoded_bytes());
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
    }

    /// Reads everything, as if no list had ever been seen before. Blocks.
    pub fn read(&self, now: Now) -> Hardware {
        self.read_against(&NoMarks, now)
    }

    /// Reads everything; no list counts that is older than its mark. Blocks.
    pub fn read_against(&self, marks: &dyn Marks, now: Now) -> Hardware {
        let mut hardware = Hardware::default();
        if self.formats.contains(&Format::Nitro) {
            hardware.nitro = held(self.nitro.read());
        }
        if self.formats.contains(&Format::SevSnp) {
            hardware.sev_snp = held(self.sev_snp.read(marks, now));
        }
        if self.formats.contains(&Format::Tdx) {
            hardware.tdx = held(self.tdx.read());
        }
        // The keys themselves are enrolled, and come from the store.
        if self.formats.contains(&Format::Tpm2) {
            hardware.manufacturers = held(self.tpm2.read().map(Arc::new));
        }
        hardware
    }
}

impl NitroSection {
    fn read(&self) -> Result<NitroTrust, String> {
        let mut trust = NitroTrust::aws().map_err(|error| error.to_string())?;
        for path in &self.roots {
            let name = path.display().to_string();
            for der in certificates(path)? {
                trust = trust.and_root(&name, &der, None).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        Ok(self
            .distrusted_roots
            .iter()
            .filter_map(|hash| sha256(hash))
            .fold(trust, |trust, hash| trust.without_root(&hash)))
    }
}

impl SevSnpSection {
    fn read(&self, marks: &dyn Marks, now: Now) -> Result<SevSnpTrust, String> {
        let mut trust = SevSnpTrust::amd();
        each(&self.roots, |der| trust.add_root(der).map_err(|error| error.to_string()))?;
        each(&self.intermediates, |der| trust.add_intermediate(der).map_err(|error| error.to_string()))?;
        each(&self.certificates, |der| {
            trust.hand_in_certificate(der).map(drop).map_err(|error| error.to_string())
        })?;
        for hash in self.distrusted_roots.iter().filter_map(|hash| sha256(hash)) {
            trust.switch_off(&hash);
        }
        let products = self.lists_required.iter().filter_map(|name| product(name));
        products.for_each(|product| trust.require_lists(product));
        remember_lists(&mut trust, marks).map_err(|error| error.to_string())?;
        let oldest = self.list_max_age_seconds.unwrap_or(0);
        for (paths, key) in [(&self.vcek_lists, SigningKey::Vcek), (&self.vlek_lists, SigningKey::Vlek)] {
            for path in paths {
                match trust.hand_in_list(&bytes(path)?, key, oldest, now) {
                    // A newer one was seen: that one is needed, and may be held elsewhere.
                    Err(TrustError::ListOlder) => {
                        tracing::warn!(path = %path.display(), "an older list than was seen before: not used");
                    }
                    Err(error) => return Err(format!("{}: {error}", path.display())),
                    Ok(_) => {}
                }
            }
        }
        Ok(trust)
    }
}

impl TdxSection {
    fn read(&self) -> Result<TdxTrust, String> {
        let mut trust = TdxTrust::intel();
        for path in &self.roots {
            for der in certificates(path)? {
                trust = trust.with_root(&der).map_err(|_| format!("{}: no root", path.display()))?;
            }
        }
        for hash in self.distrusted_roots.iter().filter_map(|hash| sha256(hash)) {
            trust = trust.without_root(&hash);
        }
        for path in &self.collateral {
            let collateral = Collateral::parse(&bytes(path)?);
            trust =
                trust.with_collateral(collateral.map_err(|error| format!("{}: {error}", path.display()))?);
        }
        Ok(trust.with_minimum_evaluation_data_number(self.minimum_evaluation_data_number))
    }
}

impl Tpm2Section {
    fn read(&self) -> Result<Manufacturers, String> {
        let mut all = Manufacturers::none();
        let compiled_in = [
            (&self.manufacturers, Revocation::Demanded),
            (&self.manufacturers_without_lists, Revocation::NotPublished),
        ];
        for (names, revocation) in compiled_in {
            for name in names {
                all = all.and_pinned(name, revocation).map_err(|error| format!("`{name}`: {error}"))?;
            }
        }
        let of_files =
            [(&self.roots, Revocation::Demanded), (&self.roots_without_lists, Revocation::NotPublished)];
        for (paths, revocation) in of_files {
            for path in paths {
                all = all.and_roots(&bytes(path)?, revocation).map_err(|error| at(path, &error))?;
            }
        }
        for path in &self.intermediates {
            all = all.and_intermediates(&bytes(path)?).map_err(|error| at(path, &error))?;
        }
        for path in &self.lists {
            all = all.and_lists(&bytes(path)?).map_err(|error| at(path, &error))?;
        }
        Ok(all)
    }
}

fn at(path: &Path, error: &ManufacturerError) -> String {
    format!("{}: {error}", path.display())
}

/// Knows of no mark and raises none: for whoever looks at files alone.
pub struct NoMarks;

impl Marks for NoMarks {
    fn read(&self, _name: &str) -> Result<Option<Vec<u8>>, MarksUnavailable> {
        Ok(None)
    }

    fn raise(&self, _name: &str, _value: &[u8]) -> Result<(), MarksUnavailable> {
        Ok(())
    }

    fn replace(&self, _name: &str, _value: &[u8]) -> Result<(), MarksUnavailable> {
        Ok(())
    }
}

fn held<T>(read: Result<T, String>) -> Held<T> {
    read.map_or_else(Held::Unknown, Held::Known)
}

fn each(paths: &[PathBuf], mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    for path in paths {
        for der in certificates(path)? {
            take(&der).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// The certificates of a file: PEM, else one in DER.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let bytes = bytes(path)?;
    if !bytes.starts_with(b"-----") && !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Ok(vec![bytes]);
    }
    let parsed = CertificateDer::pem_slice_iter(&bytes).map(|one| one.map(|der| der.to_vec()));
    let parsed: Result<Vec<_>, _> = parsed.collect();
    match parsed {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => Err(format!("{}: no certificate in it, or one that is not PEM", path.display())),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let most = limits::TRUST_FILE_BYTES;
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(format!("{}: {error}", path.display())),
        Ok(read) if u64::try_from(read).is_ok_and(|read| read > most) => {
            Err(format!("{}: it is too large", path.display()))
        }
        Ok(_) => Ok(bytes),
    }
}

/// By its name in lower case, as in reference sets.
fn product(name: &str) -> Option<Product> {
    Product::ALL.into_iter().find(|product| product.name().to_ascii_lowercase() == name)
}

fn sha256(hash: &str) -> Option<[u8; 32]> {
    hex::decode(hash).ok()?.try_into().ok()
}
