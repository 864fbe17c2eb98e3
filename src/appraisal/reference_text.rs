//! How reference sets are written: digests, cgroup patterns and times, as text.
//!
//! *Takes* text. *Gives* [`FileDigest`], [`VerityDigest`], [`CgroupPattern`], and whole files of sets. *Denies* nothing
//! itself. *Source*: RFC 3339 (times); FIPS 180-4 (SHA-256); Linux `Documentation/filesystems/fsverity`.

use super::reference_set::ReferenceSet;
use crate::time::WallTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A SHA-256 of a file's content; never zero, never that of the empty file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileDigest([u8; 32]);

impl FileDigest {
    /// Parses 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = hex::decode(text).ok()?.try_into().ok()?;
        let of_nothing = bytes == [0; 32] || hex::encode(bytes) == SHA256_OF_NOTHING;
        (!of_nothing).then_some(FileDigest(bytes))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

/// An fs-verity digest, 32 or 64 bytes; never zero.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerityDigest(Vec<u8>);

impl VerityDigest {
    /// Parses 64 or 128 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = hex::decode(text).ok()?;
        let sound = matches!(bytes.len(), 32 | 64) && bytes.iter().any(|byte| *byte != 0);
        sound.then_some(VerityDigest(bytes))
    }

    /// Whether it is this digest, whole.
    pub fn is(&self, digest: &[u8]) -> bool {
        self.0 == digest
    }
}

impl fmt::Display for VerityDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(&self.0))
    }
}

/// A cgroup v2 path, or all below one: `/system.slice/pay.service`, `/kubepods.slice/*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupPattern(String);

impl CgroupPattern {
    /// Parses an absolute path, without empty or `..` segments; a star stands only at the end, after a `/`, and never
    /// for every cgroup.
    pub fn parse(text: &str) -> Option<Self> {
        let path = text.strip_suffix("/*").unwrap_or(text);
        let sound = |segment: &str| !segment.is_empty() && segment != ".." && !segment.contains('*');
        let whole = path.strip_prefix('/')?.split('/').all(sound);
        whole.then(|| CgroupPattern(text.to_owned()))
    }

    /// Whether it stands for this cgroup. One that climbs (`/..`, seen from another namespace) is below nothing.
    pub fn matches(&self, cgroup: &str) -> bool {
        match self.0.strip_suffix('*') {
            None => self.0 == cgroup,
            Some(base) => {
                let below = cgroup.strip_prefix(base).unwrap_or_default();
                !below.is_empty() && cgroup.split('/').all(|segment| segment != "..")
            }
        }
    }
}

impl fmt::Display for CgroupPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Values that are written and shown as text: parsed by their `parse`, shown by their `Display`.
macro_rules! as_text {
    ($($type:ty: $what:literal),+) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{self}")
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                <$type>::parse(&text).ok_or_else(|| serde::de::Error::custom(concat!("not ", $what)))
            }
        }
    )+};
}

pub(super) use as_text;

as_text!(
    FileDigest: "the SHA-256 of some content, 64 hex digits",
    VerityDigest: "an fs-verity digest, 64 or 128 hex digits",
    CgroupPattern: "a cgroup's path, or one and `/*`"
);

/// A file of sets, `[[set]]` in TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceFile {
    #[serde(rename = "set")]
    sets: Vec<ReferenceSet>,
}

/// The sets of a TOML file, each a `[[set]]`. Shape only: see [`ReferenceSet::check`] before one is put.
pub fn parse_toml(text: &str) -> Result<Vec<ReferenceSet>, toml::de::Error> {
    toml::from_str(text).map(|file: ReferenceFile| file.sets)
}

/// The sets of a JSON file, `{"set": [ … ]}`.
pub fn parse_json(text: &str) -> Result<Vec<ReferenceSet>, serde_json::Error> {
    serde_json::from_str(text).map(|file: ReferenceFile| file.sets)
}

/// A time as RFC 3339 text in UTC, or a TOML date-time.
pub(crate) mod not_after_text {
    use super::{Deserialize, Deserializer, Serializer, WallTime};

    pub(in crate::appraisal) fn serialize<S: Serializer>(time: &WallTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<WallTime, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Toml(toml::value::Datetime),
        }
        let text = match Written::deserialize(from)? {
            Written::Text(text) => text,
            Written::Toml(moment) => moment.to_string(),
        };
        let wrong = "not a time in UTC, such as 2027-03-01T00:00:00Z";
        WallTime::parse(&text).ok_or_else(|| serde::de::Error::custom(wrong))
    }
}

/// SHA-256 of no bytes (FIPS 180-4 examples): a file that could not be read must not pass for a program.
const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_nothing_are_refused() {
        assert!(FileDigest::parse(&"aB".repeat(32)).is_some());
        for text in
            [&"0".repeat(64), SHA256_OF_NOTHING, &"a".repeat(63), &"a".repeat(66), &"g".repeat(64), ""]
        {
            assert!(FileDigest::parse(text).is_none(), "{text}");
        }
        assert!(
            VerityDigest::parse(&"ab".repeat(32)).is_some()
                && VerityDigest::parse(&"ab".repeat(64)).is_some()
        );
        for text in [&"ab".repeat(48), &"00".repeat(32), &"ab".repeat(31), ""] {
            assert!(VerityDigest::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn cgroup_patterns_stand_for_what_is_below_and_never_for_all() {
        let below = CgroupPattern::parse("/kube.slice/*").unwrap();
        assert!(below.matches("/kube.slice/pod1/c"));
        for other in ["/kube.slice", "/kube.slice/", "/kube.slicex/a", "/a/kube.slice/b", "/kube.slice/../a"]
        {
            assert!(!below.matches(other), "{other}");
        }
        assert!(CgroupPattern::parse("/a/b").unwrap().matches("/a/b"));
        for bad in ["", "/", "/*", "a", "/a*", "/a/*/b", "/a//b", "/a/", "/a/../*", "*"] {
            assert!(CgroupPattern::parse(bad).is_none(), "{bad}");
        }
    }
}
