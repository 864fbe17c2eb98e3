//! One file of a directory that is applied: its tables, each with the line where it stands.
//!
//! *Takes* TOML. *Gives* [`SecretEntry`], [`NodeEntry`], reference sets. *Denies* an unknown key, a thing that could not be put,
//! and above all a value: no error of a secrets file repeats what the file says. *Source*: `deploy/apply.md`; TOML 1.0.

use crate::appraisal::reference_set::ReferenceSet;
use crate::appraisal::reference_text;
use crate::appraisal::reference_values::ReferenceValues;
use crate::cli::admin::Failure;
use crate::evidence::process::NodeKey;
use crate::evidence::{nitro, sev_snp, tdx, tpm2};
use crate::limits;
use crate::request::SecretPath;
use crate::spiffe::IdPattern;
use crate::time::WallTime;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeTable;

/// Where something stands: a file, and a line from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: PathBuf,
    line: usize,
}

impl Place {
    /// That what stands here cannot be.
    pub(super) fn wrong(&self, why: &dyn fmt::Display) -> Failure {
        Failure::usage(format!("{self}: {why}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file.display(), self.line)
    }
}

/// `[[secret]]`: what is known of a secret, never its value. What is absent is left as it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretEntry {
    pub(super) path: SecretPath,
    /// All of them; `{}`: none.
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) lease_default_seconds: Option<u32>,
    pub(super) lease_maximum_seconds: Option<u32>,
    pub(super) exporter_demanded: Option<bool>,
    pub(super) disabled: Option<bool>,
}

/// `[[node]]`: an enrolment, whole.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeEntry {
    pub(super) name: String,
    /// PEM.
    pub(super) public_key: Option<String>,
    /// A file in `nodes/`.
    pub(super) public_key_file: Option<String>,
    #[serde(deserialize_with = "reference_text::not_after_text::deserialize")]
    pub(super) not_after: WallTime,
    pub(super) may_vouch_for: Vec<IdPattern>,
    #[serde(default)]
    pub(super) measurements: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretsFile {
    #[serde(default)]
    secret: Vec<Spanned<SecretEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodesFile {
    #[serde(default)]
    node: Vec<Spanned<NodeEntry>>,
}

/// The secrets of a file.
pub(super) fn secrets(file: &Path, text: &str) -> Result<Vec<(Place, SecretEntry)>, Failure> {
    refuse_values(file, text)?;
    let parsed: SecretsFile = parse(file, text)?;
    let placed = placed(file, text, parsed.secret);
    placed.iter().try_for_each(|(place, entry)| entry.check(place))?;
    Ok(placed)
}

/// The nodes of a file; each is checked once its key is read: see [`NodeEntry::check`].
pub(super) fn nodes(file: &Path, text: &str) -> Result<Vec<(Place, NodeEntry)>, Failure> {
    let parsed: NodesFile = parse(file, text)?;
    Ok(placed(file, text, parsed.node))
}

/// The reference sets of a file, as `admin reference put` reads it.
pub(super) fn sets(file: &Path, text: &str) -> Result<Vec<(Place, ReferenceSet)>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ReferenceFile {
        #[serde(default)]
        set: Vec<Spanned<ReferenceSet>>,
    }
    let parsed: ReferenceFile = parse(file, text)?;
    let placed = placed(file, text, parsed.set);
    for (place, set) in &placed {
        // Of itself, without what the broker alone knows: other sets, and which programs are launchers.
        ReferenceValues::new(vec![set.clone()], BTreeSet::new())
            .map_err(|error| place.wrong(&format!("set `{}`: {error}", set.name)))?;
    }
    Ok(placed)
}

/// A key that looks like a value is refused by name, before anything else is said of the file.
fn refuse_values(file: &Path, text: &str) -> Result<(), Failure> {
    let table = DeTable::parse(text).map_err(|error| failed(file, text, &error))?;
    let entries = table.get_ref().iter().filter_map(|(_, value)| value.get_ref().as_array()).flatten();
    let keys = entries.filter_map(|entry| entry.get_ref().as_table()).flat_map(|entry| entry.keys());
    let keys = table.get_ref().keys().chain(keys);
    match keys.into_iter().find(|key| VALUES.contains(&key.get_ref().as_ref())) {
        Some(key) => {
            let place = Place { file: file.to_owned(), line: line_at(text, key.span().start) };
            Err(place.wrong(&format!(
                "`{}`: a value never stands in such a file, and is now in whatever keeps it: change it, and put it with \
                 `portcullis admin secret put PATH --field NAME=@FILE`",
                key.get_ref()
            )))
        }
        None => Ok(()),
    }
}

impl SecretEntry {
    fn check(&self, place: &Place) -> Result<(), Failure> {
        let seconds =
            |given: Option<u32>| given.is_none_or(|one| (1..=limits::LEASE_MAXIMUM_SECONDS).contains(&one));
        if !seconds(self.lease_default_seconds) || !seconds(self.lease_maximum_seconds) {
            return Err(place.wrong(&format!("a lease is 1 to {} seconds", limits::LEASE_MAXIMUM_SECONDS)));
        }
        let named = |name: &str| {
            let allowed =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
            (1..=limits::FIELD_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
        };
        let labels = self.labels.iter().flatten();
        let fits =
            |(name, value): (&String, &String)| named(name) && value.len() <= limits::LABEL_VALUE_BYTES;
        let few = self.labels.as_ref().is_none_or(|labels| labels.len() <= limits::LABELS);
        match few && labels.into_iter().all(fits) {
            true => Ok(()),
            false => Err(place.wrong(&"at most 32 labels, names [a-z0-9_.-]{1,64}, values up to 256 bytes")),
        }
    }
}

impl NodeEntry {
    /// Whether it can be enrolled. Its order and letters become those that the broker keeps.
    pub(super) fn check(&mut self, place: &Place) -> Result<(), Failure> {
        self.key_sha256(place)?;
        if self.may_vouch_for.is_empty() {
            return Err(
                place.wrong(&"`may_vouch_for` is empty: say for which SPIFFE IDs; never all by default")
            );
        }
        self.may_vouch_for.sort();
        self.may_vouch_for.dedup();
        self.measurements.iter_mut().for_each(|one| *one = one.to_ascii_lowercase());
        self.measurements.sort();
        self.measurements.dedup();
        let known = |one: &&String| match one.split_once('=') {
            Some((format, value)) => {
                let whole = hex::decode(value).is_ok_and(|bytes| bytes.len() == limits::MEASUREMENT_BYTES);
                [nitro::FORMAT, sev_snp::FORMAT, tdx::FORMAT].contains(&format) && whole
            }
            None => one.as_str() == tpm2::FORMAT,
        };
        match self.measurements.iter().find(|one| !known(one)) {
            Some(one) => Err(place.wrong(&format!(
                "measurement `{one}`: FORMAT=HEX, of nitro (PCR0), sev-snp (MEASUREMENT) or tdx (MRTD), 48 bytes; or `tpm2` \
                 alone"
            ))),
            None => Ok(()),
        }
    }

    /// What the broker knows its key by.
    pub(super) fn key_sha256(&self, place: &Place) -> Result<String, Failure> {
        let pem = self.public_key.as_ref();
        let pem = pem.ok_or_else(|| place.wrong(&"say one of `public_key` (PEM) and `public_key_file`"))?;
        let parsed: Result<Vec<SubjectPublicKeyInfoDer<'_>>, _> =
            SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()).collect();
        let Ok([spki]) = parsed.as_deref() else {
            return Err(place.wrong(&"the node's public key is not exactly one public key in PEM"));
        };
        let key = NodeKey::from_spki(spki);
        key.map(|key| hex::encode(key.key_id()))
            .map_err(|error| place.wrong(&format!("the public key is {error}")))
    }
}

fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| failed(file, text, &error))
}

/// File, line and cause; never the line itself, nor what stands in quotation marks: it may be a value.
fn failed(file: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let line = error.span().map_or(1, |span| line_at(text, span.start));
    let message = error.message();
    let quiet = match (message.split_once('"'), message.rsplit_once('"')) {
        (Some((before, _)), Some((_, after))) => format!("{before}…{after}"),
        _ => message.to_owned(),
    };
    Place { file: file.to_owned(), line }.wrong(&quiet)
}

fn placed<T>(file: &Path, text: &str, entries: Vec<Spanned<T>>) -> Vec<(Place, T)> {
    let place = |entry: Spanned<T>| {
        let line = line_at(text, entry.span().start);
        (Place { file: file.to_owned(), line }, entry.into_inner())
    };
    entries.into_iter().map(place).collect()
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count().saturating_add(1)
}

/// What somebody would call it.
const VALUES: [&str; 8] = ["value", "values", "field", "fields", "data", "password", "api_key", "content"];

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let failure = secrets(Path::new("s.toml"), text).unwrap_err();
        assert_eq!(failure.exit_code(), 64);
        failure.to_string()
    }

    #[test]
    fn secrets_are_read_with_their_lines() {
        let text = "# a\n\n[[secret]]\npath = \"kv/a\"\n\n[[secret]]\npath = \"kv/b\"\nlabels = {}\ndisabled = true\n";
        let read = secrets(Path::new("s.toml"), text).unwrap();
        let places: Vec<String> = read.iter().map(|(place, _)| place.to_string()).collect();
        assert_eq!(places, ["s.toml:3", "s.toml:6"]);
        assert_eq!((read[0].1.labels.as_ref(), read[1].1.disabled), (None, Some(true)));
    }

    #[test]
    fn a_value_is_refused_by_name_and_no_error_repeats_what_a_secrets_file_says() {
        for text in [
            "[[secret]]\npath = \"kv/a\"\nvalue = \"hunter2\"\n",
            "[[secret]]\npath = \"kv/a\"\n[secret.fields]\nx = \"hunter2\"\n",
            "value = \"hunter2\"\n",
            "[[secrets]]\nvalue = \"hunter2\"\n",
        ] {
            let text = refused(text);
            assert!(text.contains("secret put") && !text.contains("hunter2"), "{text}");
        }
        for text in [
            "[[secret]]\npath = \"kv/a\"\nlease_default_seconds = \"hunter2\"\n",
            "[[secret]]\npath = \"kv/a\"\nlabels = \"hunter2\"\n",
            "[[secret]]\npath = \"kv/a\"\nlabels = \"hunter2\n",
            "[[secret]]\npath = kv/hunter2\n",
        ] {
            let text = refused(text);
            assert!(text.starts_with("s.toml:") && !text.contains("hunter2"), "{text}");
        }
        assert!(
            refused("[[secret]]\npath = \"kv/a\"\nttl = 3\n").starts_with("s.toml:3: unknown field `ttl`")
        );
        assert!(
            refused("[[secret]]\npath = \"kv/a\"\n\nlease_default_seconds = 0\n")
                .starts_with("s.toml:1: a lease")
        );
        assert!(refused("[[secret]]\npath = \"kv/a\"\nlabels = { A = \"\" }\n").contains("labels"));
    }

    #[test]
    fn nodes_and_sets_that_could_not_be_put_are_refused_at_their_lines() {
        let set = "[[set]]\nname = \"a\"\nworkload = \"spiffe://example.org/a\"\nnot_after = 2027-03-08T00:00:00Z\n";
        let failure = sets(Path::new("r.toml"), set).unwrap_err().to_string();
        assert!(failure.starts_with("r.toml:1: set `a`: no section"), "{failure}");
        let node = "\n[[node]]\nname = \"n\"\nnot_after = 2027-03-08T00:00:00Z\nmay_vouch_for = [\"spiffe://example.org/*\"]\n";
        let (place, mut entry) = nodes(Path::new("n.toml"), node).unwrap().remove(0);
        assert_eq!(place.to_string(), "n.toml:2");
        assert!(entry.check(&place).unwrap_err().to_string().contains("public_key"));
        let wrong = node.replace("may_vouch_for = [\"spiffe://example.org/*\"]", "may_vouch_for = [\"*\"]");
        assert!(nodes(Path::new("n.toml"), &wrong).unwrap_err().to_string().starts_with("n.toml:5: "));
    }
}
