//! A recorded decision, looked for in the log: the newest segment first, bounded, and never held in memory whole.
//!
//! *Takes* the log's directory and a decision id. *Gives* its record. *Denies* with NOT_FOUND past the bound, saying so.
//! *Source*: NIST SP 800-53 AU-7; `audit::segment`. Reading proves nothing: that is `audit verify`'s to say.

use super::answer;
use crate::audit::record::Record;
use crate::audit::segment::{Next, Reader};
use crate::limits;
use std::io;
use std::path::{Path, PathBuf};
use tonic::Status;

/// The decision with this id.
pub(super) async fn find(directory: PathBuf, id: String) -> Result<Record, Status> {
    let malformed = id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if malformed {
        return Err(answer::invalid("a decision id is 32 hex digits"));
    }
    let searched =
        tokio::task::spawn_blocking(move || search(&directory, &id, limits::EXPLAIN_RECORDS)).await;
    let unreadable =
        |error| answer::refuse(answer::Refusal::Unavailable, format!("the log cannot be read: {error}"));
    match searched.map_err(|_| answer::defect())?.map_err(unreadable)? {
        Found::Record(record) => Ok(*record),
        Found::No => {
            Err(answer::not_found("no record has this id; past its rate a denial is counted, not recorded"))
        }
        Found::TooFarBack => {
            let why = format!(
                "not among the newest {} records: use `portcullis audit show --decision`",
                limits::EXPLAIN_RECORDS
            );
            Err(answer::not_found(why))
        }
    }
}

enum Found {
    Record(Box<Record>),
    No,
    TooFarBack,
}

fn search(directory: &Path, id: &str, bound: u64) -> io::Result<Found> {
    let mut looked_at = 0_u64;
    for path in newest_first(directory)? {
        let mut reader = Reader::open(&path)?;
        // What is being written at the end is no record yet.
        while let Next::Frame(frame) = reader.read_frame()? {
            looked_at = looked_at.saturating_add(1);
            // Most records are told apart without being parsed.
            if contains(&frame.body, id.as_bytes())
                && let Ok(record) = serde_json::from_slice::<Record>(&frame.body)
                && record.id == id
            {
                return Ok(Found::Record(Box::new(record)));
            }
        }
        if looked_at >= bound {
            return Ok(Found::TooFarBack);
        }
    }
    Ok(Found::No)
}

/// The log's segments by their numbers (`segment-<number>.log`).
fn newest_first(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("segment-")?.strip_suffix(".log"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            segments.push((number, entry.path()));
        }
    }
    segments.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    Ok(segments.into_iter().map(|(_, path)| path).collect())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
