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
pub(super) mod not_after_text {
    use super::{Deserialize, Deserializer, Serializer, WallTime, parse_time};

    pub(in crate::appraisal) fn serialize<S: Serializer>(time: &WallTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    pub(in crate::appraisal) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<WallTime, D::Error> {
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
        parse_time(&text).ok_or_else(|| serde::de::Error::custom(wrong))
    }
}

/// RFC 3339 in UTC with a capital `T` and `Z`; fractions down to milliseconds count, finer ones are cut.
fn parse_time(text: &str) -> Option<WallTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(whole, ':', [2, 2, 2])?;
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=days_in(year, month)?).contains(&day)
    {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 || fraction.is_empty() || !digits(fraction) {
        return None;
    }
    let milliseconds: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let days = days_before_year(year)?
        .checked_add(days_before_month(year, month)?)?
        .checked_add(day.checked_sub(1)?)?;
    let seconds = days.checked_mul(24)?.checked_add(hour)?.checked_mul(60)?.checked_add(minute)?;
    let seconds = seconds.checked_mul(60)?.checked_add(second)?;
    Some(WallTime(seconds.checked_mul(1000)?.checked_add(milliseconds)?))
}

fn numbers(text: &str, separator: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let parts: [&str; 3] = parts.try_into().ok()?;
    let fits = parts.iter().zip(widths).all(|(part, width)| part.len() == width && digits(part));
    let [first, second, third] = parts.map(|part| part.parse().ok());
    fits.then_some([first?, second?, third?])
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> Option<u64> {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 => Some(if is_leap(year) { 29 } else { 28 }),
        _ => None,
    }
}

fn days_before_year(year: u64) -> Option<u64> {
    (1970..year).try_fold(0_u64, |days, year| days.checked_add(if is_leap(year) { 366 } else { 365 }))
}

fn days_before_month(year: u64, month: u64) -> Option<u64> {
    (1..month).try_fold(0_u64, |days, month| days.checked_add(days_in(year, month)?))
}

/// SHA-256 of no bytes (FIPS 180-4 examples): a file that could not be read must not pass for a program.
const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2027-03-01T00:00:00Z", 1_803_859_200),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(parse_time(text), Some(WallTime(seconds * 1000)), "{text}");
        }
        for day in (0..60_000_u64).step_by(13) {
            let time = WallTime(day * 86_400_000 + 45_296_789);
            assert_eq!(parse_time(&time.to_string()), Some(time));
        }
        assert_eq!(parse_time("2027-03-01T00:00:00.5Z"), Some(WallTime(1_803_859_200_500)));
    }

    #[test]
    fn what_is_no_time_in_utc_is_refused() {
        for text in [
            "",
            "2027-03-01",
            "2027-03-01T00:00:00",
            "2027-03-01T00:00:00+01:00",
            "2027-3-1T00:00:00Z",
            "2027-02-29T00:00:00Z",
            "2027-13-01T00:00:00Z",
            "2027-00-01T00:00:00Z",
            "2027-01-00T00:00:00Z",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:00:60Z",
            "2027-01-01T00:00:00.Z",
            "+027-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

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
