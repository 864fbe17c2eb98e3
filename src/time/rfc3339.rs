//! A time as text: RFC 3339 in UTC, which is all that anybody here reads or writes.
//!
//! *Takes* text, or a [`WallTime`]. *Gives* the other. *Denies* nothing itself: what is not exactly such a time is none.
//! *Source*: RFC 3339 §5.6; its §5.7 for the lengths of months.

use super::WallTime;

impl WallTime {
    /// Parses a time in UTC, such as `2027-03-01T00:00:00Z`, from 1970 to 9999: a capital `T` and `Z`, no other offset, no
    /// leap second. Fractions down to milliseconds count, finer ones are cut. None for anything else.
    pub fn parse(text: &str) -> Option<WallTime> {
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
}

impl std::fmt::Display for WallTime {
    /// RFC 3339, UTC, milliseconds.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, of_day) = (self.seconds() / 86_400, self.seconds() % 86_400);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let milliseconds = self.0 % 1000;
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
        )
    }
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

/// Gregorian date of a day counted from 1970-01-01 (the usual era arithmetic, 400 years to an era of 146,097 days).
#[expect(
    clippy::arithmetic_side_effects,
    reason = "u64 days since 1970 stay far below overflow: at most 2^64 / 86,400,000"
)]
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_3339() {
        assert_eq!(WallTime(951_782_400_123).to_string(), "2000-02-29T00:00:00.123Z");
        assert_eq!(WallTime(1_795_532_466_000).to_string(), "2026-11-24T15:01:06.000Z");
        assert_eq!(WallTime(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2027-03-01T00:00:00Z", 1_803_859_200),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(WallTime::parse(text), Some(WallTime(seconds * 1000)), "{text}");
        }
        for day in (0..100_000_u64).step_by(13) {
            let time = WallTime(day * 86_400_000 + 45_296_789);
            assert_eq!(WallTime::parse(&time.to_string()), Some(time));
        }
        for (fraction, milliseconds) in [(".5", 500), (".05", 50), (".123", 123), (".1239999999", 123)] {
            let text = format!("2027-03-01T00:00:00{fraction}Z");
            assert_eq!(WallTime::parse(&text), Some(WallTime(1_803_859_200_000 + milliseconds)), "{text}");
        }
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
            "2027-03-01 00:00:00Z",
            "2027-03-01t00:00:00Z",
            "2027-03-01T00:00:00z",
            "2027-03-01T00:00:00+00:00",
            "2027-03-01T00:00Z",
            " 2027-03-01T00:00:00Z",
            "2027-03-01T00:00:00Z\n",
            "2027-03-01T00:00:00,5Z",
            "12027-03-01T00:00:00Z",
            "00:00:00Z",
            "tomorrow",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(WallTime::parse(text), None, "{text}");
        }
    }
}
