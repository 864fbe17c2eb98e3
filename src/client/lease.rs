//! What was released, opened: secrets in memory that is wiped, and the time after which they are not to be used.
//!
//! *Takes* `Released` and what was asked. *Gives* [`Lease`], whole. *Denies*: one wrong part, and all of it is dropped.
//! *Source*: `protocol.md` "Sealing" and the table of messages.

use super::error::{ReleaseError, Violation};
use crate::challenge::binding::Binding;
use crate::limits;
use crate::proto::v1;
use crate::release::sealing::{Recipient, Sealed};
use crate::request::{ReleaseRequest, SecretPath};
use crate::time::WallTime;
use prost::Message;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Secrets that this process may use until `not_after`.
#[derive(Debug)]
pub struct Lease {
    /// The lease's id, `[A-Za-z0-9_-]{16,64}`, for an operator.
    pub lease_id: String,
    /// After this the secrets are not to be used.
    pub not_after: WallTime,
    /// All that was asked for, in the order asked.
    pub secrets: Vec<Secret>,
}

/// One secret.
#[derive(Debug)]
pub struct Secret {
    /// Its path, as asked.
    pub path: SecretPath,
    /// Its version, from 1; 0 for engines without versions.
    pub version: u64,
    /// Its fields, such as `username` and `password`, or `value`; never empty.
    pub fields: BTreeMap<String, Value>,
}

/// A field's bytes; wiped when dropped, and shown to nobody by accident.
pub struct Value(Zeroizing<Vec<u8>>);

impl Value {
    /// The bytes. Where they go from here is the caller's responsibility.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Value {
    /// Takes the bytes over; they are wiped with the value.
    fn from(bytes: Vec<u8>) -> Self {
        Value(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Value")
    }
}

/// What `Released` is held against.
pub(super) struct Asked<'a> {
    pub(super) request: &'a ReleaseRequest,
    /// The binding of round 0.
    pub(super) binding: &'a Binding,
    pub(super) recipient: &'a Recipient,
    pub(super) now: WallTime,
}

/// Opens all secrets, or none.
pub(super) fn open(released: v1::Released, asked: &Asked<'_>) -> Result<Lease, ReleaseError> {
    opened(released, asked).map_err(ReleaseError::Protocol)
}

fn opened(released: v1::Released, asked: &Asked<'_>) -> Result<Lease, Violation> {
    if !is_lease_id(&released.lease_id) {
        return Err(Violation::LeaseId);
    }
    if (released.reattest_within_ms != 0) != asked.request.hold() {
        return Err(Violation::Hold);
    }
    let not_after = check_end(released.not_after, asked.request, asked.now)?;
    let wanted = asked.request.secrets();
    let matches = wanted.iter().zip(&released.secrets).all(|(wanted, got)| wanted.path.as_str() == got.path);
    if released.secrets.len() != wanted.len() || !matches {
        return Err(Violation::Secrets);
    }
    let pairs = wanted.iter().zip(released.secrets);
    let open = |(wanted, sealed): (&crate::request::SecretRequest, _)| {
        open_one(wanted.path.clone(), sealed, &released.lease_id, asked)
    };
    let secrets = pairs.map(open).collect::<Result<Vec<_>, _>>()?;
    Ok(Lease { lease_id: released.lease_id, not_after, secrets })
}

fn open_one(
    path: SecretPath,
    sealed: v1::SealedSecret,
    lease_id: &str,
    asked: &Asked<'_>,
) -> Result<Secret, Violation> {
    let info = asked.binding.sealing_info(path.as_str(), sealed.version, lease_id);
    let parts = Sealed { encapsulated_key: sealed.encapsulated_key, ciphertext: sealed.ciphertext };
    let plaintext = asked.recipient.open(&parts, &info).map_err(|_| Violation::Seal)?;
    let value = v1::SecretValue::decode(plaintext.as_slice()).map_err(|_| Violation::Value)?;
    // The decoded vectors move; nothing is copied that is not wiped.
    let fields: BTreeMap<_, _> =
        value.fields.into_iter().map(|(name, bytes)| (name, Value::from(bytes))).collect();
    if fields.is_empty() {
        Err(Violation::Value)
    } else {
        Ok(Secret { path, version: sealed.version, fields })
    }
}

/// The lease's end: after now, and not absurdly later than was asked for.
pub(super) fn check_end(
    end: Option<prost_types::Timestamp>,
    request: &ReleaseRequest,
    now: WallTime,
) -> Result<WallTime, Violation> {
    let end = end.filter(|end| end.seconds > 0).ok_or(Violation::NotAfter)?;
    let nanoseconds = u32::try_from(end.nanos).ok().filter(|nanoseconds| *nanoseconds < 1_000_000_000);
    let milliseconds = nanoseconds.ok_or(Violation::NotAfter)? / 1_000_000;
    let end = WallTime::from_seconds(end.seconds).plus(milliseconds.into());
    let seconds = u64::from(request.ttl_seconds()).saturating_add(LATEST_END_SECONDS);
    let sane = end > now && end <= now.plus(seconds.saturating_mul(1000));
    sane.then_some(end).ok_or(Violation::NotAfter)
}

fn is_lease_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    limits::LEASE_ID_BYTES.contains(&id.len()) && id.bytes().all(allowed)
}

/// How much later than asked a lease may end before its end is taken for a mistake, seconds: a day, for engines with long
/// defaults and for clocks that differ.
const LATEST_END_SECONDS: u64 = 86_400;
