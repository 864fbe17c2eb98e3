//! SPIFFE IDs, trust domains and patterns over IDs.
//!
//! *Takes* text. *Gives* [`SpiffeId`], [`TrustDomain`], [`IdPattern`], compared as bytes. *Denies* nothing itself.
//! *Source*: SPIFFE-ID §2; `protocol.md` "Connection".

use crate::limits;
use std::fmt;

/// Why a text is no SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than 2048 bytes.
    #[error("longer than 2048 bytes")]
    TooLong,
    /// Does not begin with `spiffe://`, in lower case.
    #[error("does not begin with `spiffe://`")]
    Scheme,
    /// The trust domain is empty, too long, or holds other characters than `[a-z0-9._-]`.
    #[error("the trust domain is not 1 to 255 characters of [a-z0-9._-]")]
    TrustDomain,
    /// No path, an empty, `.` or `..` segment, or other characters than `[A-Za-z0-9._-]`.
    #[error("the path is not segments of [A-Za-z0-9._-], none of them empty, `.` or `..`")]
    Path,
}

/// A trust domain's name, `[a-z0-9._-]{1,255}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a bare name.
    pub fn parse(name: &str) -> Result<Self, ParseError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let whole = !name.is_empty() && name.len() <= limits::TRUST_DOMAIN_BYTES && name.bytes().all(allowed);
        whole.then(|| TrustDomain(name.to_owned())).ok_or(ParseError::TrustDomain)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A workload's identity: `spiffe://trust-domain/path`, at most 2048 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: String,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses the ID as it stands in a certificate; nothing is normalised.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > limits::SPIFFE_ID_BYTES {
            return Err(ParseError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(ParseError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(ParseError::Path)?;
        let trust_domain = TrustDomain::parse(domain)?;
        if !path.split('/').all(is_segment) {
            return Err(ParseError::Path);
        }
        Ok(SpiffeId { text: text.to_owned(), trust_domain })
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

/// A SPIFFE ID, or all below one: `spiffe://example.org/ns/payments/*` stands for every ID that begins with what is
/// before the star. A star stands only at the end, after a `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPattern {
    text: String,
    below: bool,
}

impl IdPattern {
    /// Parses an ID, or an ID's beginning and `/*`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        match text.strip_suffix("/*") {
            None => SpiffeId::parse(text).map(|id| IdPattern { text: id.text, below: false }),
            Some(base) => {
                let whole = format!("{base}/x");
                SpiffeId::parse(&whole)?;
                Ok(IdPattern { text: text.to_owned(), below: true })
            }
        }
    }

    /// Whether it stands for this ID.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if !self.below {
            return self.text == id.text;
        }
        self.text
            .strip_suffix('*')
            .is_some_and(|base| id.text.len() > base.len() && id.text.starts_with(base))
    }

    /// Whether it stands for every ID that `other`, a different one, stands for.
    pub fn is_wider_than(&self, other: &IdPattern) -> bool {
        let base = if self.below { self.text.strip_suffix('*') } else { None };
        base.is_some_and(|base| self != other && other.text.starts_with(base))
    }

    /// How specific it is: a longer pattern wins, a whole ID over all.
    pub fn specificity(&self) -> usize {
        if self.below { self.text.len() } else { usize::MAX }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
}

macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$type>::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    )+};
}

as_text!(TrustDomain, SpiffeId, IdPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strict() {
        for good in ["spiffe://example.org/a", "spiffe://a-b_c.d/x/Y.z/1_2-3"] {
            assert!(SpiffeId::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "spiffe://example.org",
            "spiffe://example.org/",
            "Spiffe://example.org/a",
            "spiffe://Example.org/a",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/.",
            "spiffe://example.org:80/a",
            "spiffe://u@example.org/a",
            "spiffe://example.org/a%20b",
            "spiffe://example.org/a?q",
            "spiffe://example.org/a#f",
            "https://example.org/a",
            "spiffe:///a",
            "spiffe://example.org/é",
            "",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
        let long = format!("spiffe://example.org/{}", "a".repeat(2048 - 21));
        assert!(SpiffeId::parse(&long).is_ok());
        assert_eq!(SpiffeId::parse(&format!("{long}a")), Err(ParseError::TooLong));
    }

    #[test]
    fn patterns_stand_for_what_is_below_and_never_for_all() {
        let id = |text| SpiffeId::parse(text).unwrap();
        let below = IdPattern::parse("spiffe://example.org/ns/pay/*").unwrap();
        assert!(below.matches(&id("spiffe://example.org/ns/pay/a")));
        assert!(below.matches(&id("spiffe://example.org/ns/pay/a/b")));
        assert!(!below.matches(&id("spiffe://example.org/ns/pay")));
        assert!(!below.matches(&id("spiffe://example.org/ns/payx/a")));
        assert!(IdPattern::parse("spiffe://example.org/a").unwrap().matches(&id("spiffe://example.org/a")));
        assert!(IdPattern::parse("spiffe://example.org/*").is_ok());
        for bad in ["*", "spiffe://*", "spiffe://example.org/a*", "spiffe://example.org/*/b", "spiffe://*/a"]
        {
            assert!(IdPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
