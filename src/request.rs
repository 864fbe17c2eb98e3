//! What a workload asks for, parsed: nothing here is trusted, all of it has its shape.
//!
//! *Takes* the fields of `Open` and `Evidence`. *Gives* [`ReleaseRequest`], [`Document`]. *Denies* `RequestMalformed`,
//! `RequestChannelBindingUnavailable`. *Source*: `protocol.md`, the table of messages.

use crate::denial::Denial;
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A secret's path: 1 to 256 bytes, `[a-z0-9._-]+` segments joined by `/`, none of them empty, `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretPath(String);

impl SecretPath {
    /// Parses a path. **Denies** `RequestMalformed`.
    pub fn parse(text: &str) -> Result<Self, Denial> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let segment =
            |text: &str| !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed);
        let whole = text.len() <= limits::PATH_BYTES && text.split('/').all(segment);
        whole.then(|| SecretPath(text.to_owned())).ok_or(Denial::RequestMalformed)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first segment, which names the engine.
    pub fn engine(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl fmt::Debug for SecretPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl serde::Serialize for SecretPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for SecretPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        SecretPath::parse(&text).map_err(|_| serde::de::Error::custom(format!("`{text}` is no secret path")))
    }
}

/// An X25519 public key that secrets are sealed to; not of low order.
#[derive(Clone, PartialEq, Eq)]
pub struct RecipientKey([u8; limits::RECIPIENT_KEY_BYTES]);

impl RecipientKey {
    /// Parses 32 bytes. **Denies** `RequestMalformed` for another length or a point of low order, to which anyone could
    /// compute the shared secret (RFC 7748 §6.1).
    pub fn parse(bytes: &[u8]) -> Result<Self, Denial> {
        let key: [u8; 32] = bytes.try_into().map_err(|_| Denial::RequestMalformed)?;
        let mut canonical = key;
        if let Some(last) = canonical.last_mut() {
            *last &= 0x7f;
        }
        if LOW_ORDER_POINTS.contains(&canonical) {
            return Err(Denial::RequestMalformed);
        }
        Ok(RecipientKey(key))
    }

    /// The 32 bytes as sent.
    pub fn as_bytes(&self) -> &[u8; limits::RECIPIENT_KEY_BYTES] {
        &self.0
    }
}

/// How evidence is tied to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChannelBinding {
    /// Not at all; only where the configuration allows it.
    None,
    /// RFC 9266.
    TlsExporter,
}

impl ChannelBinding {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            ChannelBinding::None => "none",
            ChannelBinding::TlsExporter => "tls-exporter",
        }
    }
}

/// One secret asked for.
#[derive(Clone)]
pub struct SecretRequest {
    /// Which.
    pub path: SecretPath,
    /// Input for engines that take it; ascending by key.
    pub parameters: BTreeMap<String, Vec<u8>>,
}

/// A whole `Open`, as sent, with its shape checked.
#[derive(Clone)]
pub struct ReleaseRequest {
    secrets: Vec<SecretRequest>,
    recipient_key: RecipientKey,
    ttl_seconds: u32,
    hold: bool,
    channel_bindings: Vec<String>,
}

impl ReleaseRequest {
    /// Checks the shape of everything in `Open`. **Denies** `RequestMalformed`.
    pub fn parse(open: crate::proto::v1::Open) -> Result<Self, Denial> {
        let secrets = open.secrets.into_iter().map(parse_secret).collect::<Result<Vec<_>, _>>()?;
        let distinct: BTreeSet<&SecretPath> = secrets.iter().map(|secret| &secret.path).collect();
        let count = 1..=limits::SECRETS_PER_REQUEST;
        if !count.contains(&secrets.len()) || distinct.len() != secrets.len() {
            return Err(Denial::RequestMalformed);
        }
        check_channel_bindings(&open.channel_bindings)?;
        Ok(ReleaseRequest {
            recipient_key: RecipientKey::parse(&open.recipient_key)?,
            ttl_seconds: open.ttl_seconds,
            hold: open.hold,
            channel_bindings: open.channel_bindings,
            secrets,
        })
    }

    /// The secrets, in the order asked; 1 to 16, distinct.
    pub fn secrets(&self) -> &[SecretRequest] {
        &self.secrets
    }

    /// What they are sealed to.
    pub fn recipient_key(&self) -> &RecipientKey {
        &self.recipient_key
    }

    /// Seconds asked; 0 = the default.
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds
    }

    /// Whether the lease is to be held.
    pub fn hold(&self) -> bool {
        self.hold
    }

    /// The channel bindings as sent; may be empty.
    pub fn channel_bindings(&self) -> &[String] {
        &self.channel_bindings
    }

    /// The binding to use: the exporter whenever the client can, else the first of its own that the broker allows.
    /// **Denies** `RequestChannelBindingUnavailable`.
    pub fn choose_channel_binding(&self, none_allowed: bool) -> Result<ChannelBinding, Denial> {
        let sent = |name: &str| self.channel_bindings.iter().any(|sent| sent == name);
        if self.channel_bindings.is_empty() || sent(ChannelBinding::TlsExporter.name()) {
            return Ok(ChannelBinding::TlsExporter);
        }
        if none_allowed && sent(ChannelBinding::None.name()) {
            return Ok(ChannelBinding::None);
        }
        Err(Denial::RequestChannelBindingUnavailable)
    }
}

/// One piece of evidence, as sent: untrusted bytes under a format's name.
pub struct Document {
    /// The format's name.
    pub format: String,
    /// The document.
    pub body: Vec<u8>,
    /// Certificates or collateral that came along; untrusted until verified.
    pub endorsements: Vec<Vec<u8>>,
}

/// Checks the shape of `Evidence`: 1 to 8 documents, one per format, each of an offered format, none empty or oversized.
/// **Denies** `RequestMalformed`, `EvidenceFormatNotOffered`.
pub fn parse_evidence(
    evidence: crate::proto::v1::Evidence,
    offered: &[String],
) -> Result<Vec<Document>, Denial> {
    if evidence.documents.is_empty() || evidence.documents.len() > limits::DOCUMENTS {
        return Err(Denial::RequestMalformed);
    }
    let mut seen = BTreeSet::new();
    for document in &evidence.documents {
        let oversized = |bytes: &Vec<u8>| bytes.len() > limits::DOCUMENT_BYTES;
        if document.body.is_empty() || oversized(&document.body) {
            return Err(Denial::RequestMalformed);
        }
        if document.endorsements.len() > limits::ENDORSEMENTS || document.endorsements.iter().any(oversized) {
            return Err(Denial::RequestMalformed);
        }
        if !offered.contains(&document.format) || !seen.insert(document.format.as_str()) {
            return Err(Denial::EvidenceFormatNotOffered);
        }
    }
    let documents = evidence.documents.into_iter();
    Ok(documents.map(|d| Document { format: d.format, body: d.body, endorsements: d.endorsements }).collect())
}

fn parse_secret(secret: crate::proto::v1::SecretRequest) -> Result<SecretRequest, Denial> {
    if secret.parameters.len() > limits::PARAMETERS_PER_SECRET {
        return Err(Denial::RequestMalformed);
    }
    let key_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    for (key, value) in &secret.parameters {
        let key_fits =
            !key.is_empty() && key.len() <= limits::PARAMETER_KEY_BYTES && key.bytes().all(key_byte);
        if !key_fits || value.len() > limits::PARAMETER_VALUE_BYTES {
            return Err(Denial::RequestMalformed);
        }
    }
    Ok(SecretRequest {
        path: SecretPath::parse(&secret.path)?,
        parameters: secret.parameters.into_iter().collect(),
    })
}

fn check_channel_bindings(names: &[String]) -> Result<(), Denial> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = |name: &String| {
        !name.is_empty() && name.len() <= limits::CHANNEL_BINDING_NAME_BYTES && name.bytes().all(allowed)
    };
    let distinct: BTreeSet<&String> = names.iter().collect();
    let whole =
        names.len() <= limits::CHANNEL_BINDINGS && names.iter().all(fits) && distinct.len() == names.len();
    whole.then_some(()).ok_or(Denial::RequestMalformed)
}

/// The points whose order divides 8, top bit cleared, as X25519 ignores it: 0, 1, the two of order 8, and p−1, p, p+1
/// (RFC 7748 §7; the list of Bernstein's "May the Fourth" page).
const LOW_ORDER_POINTS: [[u8; 32]; 7] = {
    const fn prime_and(offset: u8) -> [u8; 32] {
        let mut point = [0xff; 32];
        point[0] = offset;
        point[31] = 0x7f;
        point
    }
    let mut one = [0; 32];
    one[0] = 1;
    [
        [0; 32],
        one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
            0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
        prime_and(0xec),
        prime_and(0xed),
        prime_and(0xee),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_grammar() {
        for good in ["a", "kv/payments/stripe", "a.b/c_d/e-f", &"a".repeat(256)] {
            assert!(SecretPath::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["", "/", "a/", "/a", "a//b", "a/./b", "a/../b", "..", "A", "a b", "a%2fb", "é", &"a".repeat(257)]
        {
            assert_eq!(SecretPath::parse(bad), Err(Denial::RequestMalformed), "{bad}");
        }
    }

    #[test]
    fn low_order_points_are_those_that_x25519_refuses() {
        use aws_lc_rs::{agreement, rand::SystemRandom};
        let agrees = |point: &[u8]| {
            let mine =
                agreement::EphemeralPrivateKey::generate(&agreement::X25519, &SystemRandom::new()).unwrap();
            let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, point);
            agreement::agree_ephemeral(mine, peer, (), |_| Ok(())).is_ok()
        };
        for point in LOW_ORDER_POINTS {
            let mut twin = point;
            twin[31] |= 0x80;
            for bytes in [point, twin] {
                assert!(!agrees(&bytes), "{}", hex::encode(bytes));
                assert!(RecipientKey::parse(&bytes).is_err());
            }
        }
        let mut base = [0; 32];
        base[0] = 9;
        assert!(agrees(&base) && RecipientKey::parse(&base).is_ok());
    }
}
