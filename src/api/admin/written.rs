//! What administrators write: times, certificates, keys, names.
//!
//! *Takes* text of a request. *Gives* the parsed thing. *Denies* with INVALID_ARGUMENT and the cause.
//! *Source*: RFC 3339; RFC 7468; RFC 5280 §4.1.

use super::answer;
use crate::time::WallTime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use tonic::Status;

/// A time as RFC 3339 text in UTC, such as `2027-03-01T00:00:00Z`.
pub fn parse_time(text: &str) -> Option<WallTime> {
    let moment: toml::value::Datetime = text.parse().ok()?;
    let (date, time) = (moment.date?, moment.time?);
    if moment.offset != Some(toml::value::Offset::Z) || !text.ends_with('Z') || date.year < 1970 {
        return None;
    }
    let days = days_before(u64::from(date.year), u64::from(date.month))?.checked_add(u64::from(date.day))?;
    let seconds = [
        (days.checked_sub(1)?, 86_400),
        (u64::from(time.hour), 3600),
        (u64::from(time.minute), 60),
        (u64::from(time.second), 1),
    ];
    let seconds =
        seconds.iter().try_fold(0_u64, |sum, (count, each)| sum.checked_add(count.checked_mul(*each)?))?;
    let milliseconds = u64::from(time.nanosecond / 1_000_000);
    seconds.checked_mul(1000)?.checked_add(milliseconds).map(WallTime)
}

/// Days from the epoch to the first of that month.
fn days_before(year: u64, month: u64) -> Option<u64> {
    // Counted from March, the leap day is the last of its year (H. Hinnant, "chrono-compatible low-level date algorithms").
    let (year, month) =
        if month > 2 { (year, month.checked_sub(3)?) } else { (year.checked_sub(1)?, month.checked_add(9)?) };
    let leaps = (year / 4).checked_sub(year / 100)?.checked_add(year / 400)?;
    let before = year.checked_mul(365)?.checked_add(leaps)?;
    let of_year = month.checked_mul(153)?.checked_add(2)? / 5;
    before.checked_add(of_year)?.checked_sub(719_468)
}

/// An end that lies after `now`.
pub(super) fn not_after(text: &str, now: WallTime) -> Result<WallTime, Status> {
    let wrong = || answer::invalid("not_after is not a time in UTC, such as 2027-03-01T00:00:00Z");
    let time = parse_time(text).ok_or_else(wrong)?;
    if time <= now {
        return Err(answer::invalid(format!("not_after {time} has passed")));
    }
    Ok(time)
}

/// The one certificate of a PEM text.
pub(super) fn certificate(pem: &str) -> Result<Vec<u8>, Status> {
    let parsed: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match parsed.as_deref() {
        Ok([one]) => Ok(one.to_vec()),
        Ok([]) | Ok([_, _, ..]) => Err(answer::invalid("not exactly one certificate in PEM")),
        Err(_) => Err(answer::invalid("the certificate's PEM does not decode")),
    }
}

/// The one public key of a PEM text, as SPKI DER.
pub(super) fn public_key(pem: &str) -> Result<Vec<u8>, Status> {
    let parsed: Result<Vec<SubjectPublicKeyInfoDer<'_>>, _> =
        SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()).collect();
    match parsed.as_deref() {
        Ok([one]) => Ok(one.to_vec()),
        Ok([]) | Ok([_, _, ..]) => Err(answer::invalid("not exactly one public key in PEM")),
        Err(_) => Err(answer::invalid("the public key's PEM does not decode")),
    }
}

/// 32 bytes as 64 lower-case hex digits.
pub(super) fn digest(text: &str) -> Result<[u8; 32], Status> {
    let bytes = hex::decode(text).ok().filter(|_| !text.bytes().any(|byte| byte.is_ascii_uppercase()));
    let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.ok_or_else(|| answer::invalid("a SHA-256 is 64 lower-case hex digits"))
}

/// 1 to 64 of `[A-Za-z0-9._-]`, or of those and `@`.
pub(super) fn name(text: &str, at_allowed: bool) -> Result<(), Status> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || (at_allowed && byte == b'@');
    match (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
        true => Ok(()),
        false => Err(answer::invalid("a name is 1 to 64 of [A-Za-z0-9._-]")),
    }
}

/// A reason for the log, in a person's words.
pub(super) fn why(text: &str) -> Result<String, Status> {
    let printable = !text.chars().any(char::is_control);
    match !text.trim().is_empty() && printable && text.len() <= WHY_BYTES {
        true => Ok(text.to_owned()),
        false => Err(answer::invalid("`why` is 1 to 300 bytes on one line")),
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(crate::transport::svid::sha256(bytes))
}

const NAME_BYTES: usize = 64;
const WHY_BYTES: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_are_printed() {
        for day in (0..100_000_u64).step_by(7) {
            let time = WallTime(day * 86_400_000 + 45_296_789);
            assert_eq!(parse_time(&time.to_string()), Some(time));
        }
        assert_eq!(parse_time("2027-03-01T00:00:00Z"), Some(WallTime(1_803_859_200_000)));
    }

    #[test]
    fn what_is_no_time_in_utc_is_refused() {
        for text in [
            "",
            "2027-03-01",
            "2027-03-01T00:00:00",
            "2027-03-01T00:00:00+01:00",
            "2027-02-30T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "tomorrow",
            "00:00:00Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
