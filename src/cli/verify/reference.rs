//! Reference values from a file, as an administrator puts them, but with every section optional.
//!
//! *Takes* TOML, or JSON where the name ends in `.json`. *Gives* [`Set`]s. *Denies* nothing: a file that does not read, or a
//! set that the broker would not take, is a usage error. *Source*: `deploy/reference-values.md`; RFC 9334 §8.3.

use super::{Format, Usage, files, usage};
use crate::appraisal::nitro_reference::NitroReference;
use crate::appraisal::offline::SgxReference;
use crate::appraisal::reference_set::ProcessReference;
use crate::appraisal::reference_text::not_after_text;
use crate::appraisal::sev_snp_reference::SevSnpReference;
use crate::appraisal::tdx_reference::TdxReference;
use crate::appraisal::tpm2_reference::Tpm2Reference;
use crate::spiffe::IdPattern;
use crate::time::WallTime;
use serde::Deserialize;
use std::fmt::Display;
use std::path::Path;

/// A reference set: what evidence must claim, until when.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    pub(super) name: String,
    /// Whom it speaks of. Not looked at: offline no identity is known.
    #[serde(rename = "workload", default)]
    _workload: Option<IdPattern>,
    /// Its end, exclusive.
    #[serde(deserialize_with = "not_after_text::deserialize")]
    pub(super) not_after: WallTime,
    #[serde(default)]
    pub(super) process: Option<ProcessReference>,
    #[serde(default)]
    pub(super) nitro: Option<NitroReference>,
    #[serde(default, rename = "sev-snp")]
    pub(super) sev_snp: Option<SevSnpReference>,
    #[serde(default)]
    pub(super) tdx: Option<TdxReference>,
    #[serde(default)]
    pub(super) sgx: Option<SgxReference>,
    #[serde(default)]
    pub(super) tpm2: Option<Tpm2Reference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetFile {
    #[serde(rename = "set")]
    sets: Vec<Set>,
}

/// The sets of a file, or the one of that name.
pub(super) fn read(path: &Path, only: Option<&str>) -> Result<Vec<Set>, Usage> {
    let text = files::own_text(path)?;
    let mut sets = match path.extension().is_some_and(|extension| extension == "json") {
        true => {
            serde_json::from_str(&text).map(|file: SetFile| file.sets).map_err(|error| said(path, &error))?
        }
        false => toml::from_str(&text).map(|file: SetFile| file.sets).map_err(|error| said(path, &error))?,
    };
    if let Some(only) = only {
        sets.retain(|set| set.name == only);
    }
    if sets.is_empty() {
        return Err(usage(format!("`{}` holds no such reference set", path.display())));
    }
    let shape =
        |set: &Set| set.check_shape().map_err(|error| said(path, &format!("set `{}`: {error}", set.name)));
    sets.iter().try_for_each(shape)?;
    Ok(sets)
}

impl Set {
    /// Whether it says anything of a format.
    pub(super) fn speaks_of(&self, format: Format) -> bool {
        match format {
            Format::Process => self.process.is_some(),
            Format::Nitro => self.nitro.is_some(),
            Format::SevSnp => self.sev_snp.is_some(),
            Format::Tdx => self.tdx.is_some(),
            Format::Sgx => self.sgx.is_some(),
            Format::Tpm2 => self.tpm2.is_some(),
        }
    }

    /// Whether it lets a quote's debug pass.
    pub(super) fn allows_debug(&self, format: Format) -> bool {
        match format {
            Format::Tdx => self.tdx.as_ref().is_some_and(|tdx| tdx.platform.allow_debug),
            Format::Sgx => self.sgx.as_ref().is_some_and(|sgx| sgx.platform.allow_debug),
            Format::Process | Format::Nitro | Format::SevSnp | Format::Tpm2 => false,
        }
    }

    fn check_shape(&self) -> Result<(), String> {
        let said = |error: &dyn Display| error.to_string();
        self.process.as_ref().map_or(Ok(()), check_process)?;
        self.nitro.as_ref().map_or(Ok(()), NitroReference::check_shape).map_err(|error| said(&error))?;
        self.sev_snp.as_ref().map_or(Ok(()), SevSnpReference::check_shape).map_err(|error| said(&error))?;
        self.tdx.as_ref().map_or(Ok(()), TdxReference::check_shape).map_err(|error| said(&error))?;
        self.sgx.as_ref().map_or(Ok(()), SgxReference::check_shape).map_err(|error| said(&error))?;
        self.tpm2.as_ref().map_or(Ok(()), Tpm2Reference::check_shape).map_err(|error| said(&error))
    }
}

/// The one shape by which a set would vouch for more than it says: an empty list elsewhere matches nothing.
fn check_process(process: &ProcessReference) -> Result<(), String> {
    match process.launcher == process.programs.is_empty() {
        true => Err("`launcher = true` goes with `programs`, and neither without the other".to_owned()),
        false => Ok(()),
    }
}

fn said(path: &Path, error: &dyn Display) -> Usage {
    files::wrong(path, &error.to_string())
}
