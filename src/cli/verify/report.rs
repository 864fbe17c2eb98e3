//! What a verification found: as JSON for a program, as lines for a person, and as an exit code.
//!
//! *Takes* every check, the claims, the ends. *Gives* [`Report`]. *Denies* nothing itself: any check that did not pass makes the
//! verdict. *Source*: `deploy/attestation/README.md` (the keys of the JSON).

use super::appraise::{Appraisal, Noted, appraise};
use super::process::NOT_KNOWN;
use super::reference::Set;
use super::{Args, Examined, Format};
use crate::cli::exit;
use crate::denial::Class;
use crate::evidence::outcome::{Checks, Outcome, Refusal};
use crate::time::{Now, WallTime};
use serde_json::{Map, Value, json};

/// One document, verified or not.
pub(super) struct Part {
    pub(super) format: Format,
    pub(super) checks: Checks,
    pub(super) outcome: Result<Examined, Refusal>,
    /// Why nothing could make it acceptable, where it is undecided.
    pub(super) never: Option<Refusal>,
}

/// All that is to be said.
pub(super) struct Report {
    at: WallTime,
    format: Format,
    parts: Vec<Part>,
    checks: Vec<Noted>,
    fits: Option<(String, WallTime)>,
    fresh: bool,
    compared: bool,
    notes: Vec<&'static str>,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Verified and acceptable.
    Acceptable,
    /// Refused.
    Refused,
    /// Something is missing or stale.
    Undecided,
}

impl Verdict {
    /// The exit code.
    pub(super) fn exit(self) -> u8 {
        match self {
            Verdict::Acceptable => exit::OK,
            Verdict::Refused => exit::REFUSED,
            Verdict::Undecided => exit::UNDECIDED,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Acceptable => "acceptable",
            Verdict::Refused => "refused",
            Verdict::Undecided => "undecided",
        }
    }
}

impl Part {
    /// The document's name in a check.
    pub(super) fn name(&self) -> Option<&'static str> {
        Some(self.format.name())
    }

    fn noted(&self) -> Vec<Noted> {
        let noted = |check| Noted { document: self.name(), set: None, check };
        self.checks.all().iter().cloned().map(noted).collect()
    }
}

impl Report {
    /// Appraises what verified, and gathers everything.
    pub(super) fn new(args: &Args, now: Now, parts: Vec<Part>, sets: Option<&[Set]>) -> Self {
        let Appraisal { checks: appraised, fits } = appraise(&parts, sets, now);
        let mut checks: Vec<Noted> = parts.iter().flat_map(Part::noted).collect();
        checks.extend(appraised);
        let has = |format: Format| parts.iter().any(|part| part.format == format);
        let pinned = args.composite_with.is_some() && args.format != Format::Tpm2;
        let notes = [
            (args.due_is_unknown(), NOT_FRESH),
            (sets.is_none(), NOT_COMPARED),
            (has(Format::Process), NODE_NOT_KNOWN),
            (has(Format::Tpm2), AK_NOT_KNOWN),
            (pinned, PIN_NOT_KNOWN),
            (has(Format::Sgx), NO_RELEASE),
        ];
        let notes = notes.into_iter().filter(|(said, _)| *said).map(|(_, note)| note).collect();
        let fresh = !args.due_is_unknown() && parts.iter().all(|part| part.outcome.is_ok());
        let compared = checks.iter().any(|noted| noted.check.name == "measurements");
        Report { at: now.wall, format: args.format, parts, checks, fits, fresh, compared, notes }
    }

    /// Refused before undecided: a confident no needs nothing that is missing.
    pub(super) fn verdict(&self) -> Verdict {
        let any = |is: fn(&Outcome) -> bool| self.checks.iter().any(|noted| is(&noted.check.outcome));
        let of = |class: Class| {
            let refusals = self.parts.iter().filter_map(|part| part.outcome.as_ref().err());
            refusals.into_iter().any(|refusal| refusal.denial.class() == class)
        };
        if any(|outcome| matches!(outcome, Outcome::Refused { .. })) || of(Class::Refused) {
            Verdict::Refused
        } else if any(|outcome| matches!(outcome, Outcome::Undecided { .. })) || of(Class::Uncertain) {
            Verdict::Undecided
        } else {
            Verdict::Acceptable
        }
    }

    /// Everything that the verdict rests on, the first end first.
    fn ends(&self) -> Vec<(String, WallTime)> {
        let several = self.parts.len() > 1;
        let named = |part: &Part, what: &str| match several {
            true => format!("{}: {what}", part.format.name()),
            false => what.to_owned(),
        };
        let mut ends: Vec<(String, WallTime)> = Vec::new();
        for part in &self.parts {
            let Ok(examined) = &part.outcome else { continue };
            ends.extend(examined.ends.all().map(|(what, end)| (named(part, what), end)));
        }
        ends.extend(self.fits.iter().map(|(name, end)| (format!("reference set `{name}`"), *end)));
        ends.retain(|(_, end)| *end != NOT_KNOWN);
        ends.sort_by_key(|(_, end)| *end);
        ends
    }

    /// The check that decided, where one did.
    fn decisive(&self) -> Option<&Noted> {
        let refused = |noted: &&Noted| matches!(noted.check.outcome, Outcome::Refused { .. });
        let undecided = |noted: &&Noted| matches!(noted.check.outcome, Outcome::Undecided { .. });
        self.checks.iter().find(refused).or_else(|| self.checks.iter().find(undecided))
    }

    /// One object.
    pub(super) fn json(&self) -> Value {
        let verdict = self.verdict();
        let end = |(what, end): &(String, WallTime)| json!({ "what": what, "end": end.to_string() });
        let ends = self.ends();
        let claims = self.parts.iter().filter_map(|part| {
            Some((part.format.name().to_owned(), part.outcome.as_ref().ok()?.claims.json()))
        });
        let acceptable = verdict == Verdict::Acceptable;
        json!({
            "schema": SCHEMA,
            "format": self.format.name(),
            "at": self.at.to_string(),
            "verdict": verdict.name(),
            "exit": verdict.exit(),
            "decided_by": self.decisive().map(Noted::json),
            "freshness": if self.fresh { "shown" } else { "not-shown" },
            "measurements": if self.compared { "compared" } else { "not-compared" },
            "reference_set": self.fits.as_ref().map(|(name, _)| name),
            "checks": self.checks.iter().map(Noted::json).collect::<Vec<_>>(),
            "claims": claims.collect::<Map<_, _>>(),
            "ends": ends.iter().map(end).collect::<Vec<_>>(),
            "holds_until": ends.first().filter(|_| acceptable).map(end),
            "notes": self.notes,
        })
    }

    /// For a person.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} at {}", self.format.name(), self.at), String::new()];
        lines.extend(self.checks.iter().map(Noted::line));
        for part in &self.parts {
            let Ok(examined) = &part.outcome else { continue };
            lines.extend([String::new(), format!("claims of {}", part.format.name())]);
            claim_lines("", &examined.claims.json(), &mut lines);
        }
        let ends = self.ends();
        if !ends.is_empty() {
            lines.extend([String::new(), "ends".to_owned()]);
            lines.extend(ends.iter().map(|(what, end)| format!("  {end}  {what}")));
        }
        if !self.notes.is_empty() {
            lines.push(String::new());
            lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        }
        lines.extend([String::new(), self.conclusion(ends.first())]);
        lines
    }

    fn conclusion(&self, first: Option<&(String, WallTime)>) -> String {
        match (self.verdict(), self.decisive(), first) {
            (Verdict::Acceptable, _, Some((what, end))) => {
                format!("ACCEPTABLE, and no longer than until {end} ({what})")
            }
            (Verdict::Acceptable, _, None) => "ACCEPTABLE".to_owned(),
            (verdict, Some(noted), _) => {
                format!("{}: {}", verdict.name().to_uppercase(), noted.reason())
            }
            (verdict, None, _) => verdict.name().to_uppercase(),
        }
    }
}

impl Noted {
    fn json(&self) -> Value {
        let mut value = json!(self.check);
        if let Some(object) = value.as_object_mut() {
            object.extend(self.document.map(|document| ("document".to_owned(), json!(document))));
            object.extend(self.set.as_ref().map(|set| ("set".to_owned(), json!(set))));
        }
        value
    }

    fn line(&self) -> String {
        let outcome = match &self.check.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Refused { .. } => format!("REFUSED    {}", self.reason()),
            Outcome::Undecided { .. } => format!("UNDECIDED  {}", self.reason()),
        };
        let set = self.set.as_ref().map_or(String::new(), |set| format!(" (set `{set}`)"));
        format!("{:8} {:28} {outcome}{set}", self.document.unwrap_or("all"), self.check.name)
    }

    fn reason(&self) -> String {
        match &self.check.outcome {
            Outcome::Passed => String::new(),
            Outcome::Refused { denial, detail } | Outcome::Undecided { denial, detail } => {
                format!("{denial}: {detail}")
            }
        }
    }
}

/// Nested claims as `name.name value`, lists and values as JSON has them.
fn claim_lines(name: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                claim_lines(&name, value, lines);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            lines.push(format!("  {name} {value}"));
        }
    }
}

/// What others wrote must not command the terminal.
pub(super) fn printable(text: &str) -> String {
    let shown = |one: char| if one.is_control() && !matches!(one, '\t' | '\n') { '\u{fffd}' } else { one };
    text.chars().map(shown).collect()
}

/// Of this shape of the JSON.
const SCHEMA: &str = "portcullis.verify/1";

const NOT_FRESH: &str =
    "freshness was not shown: no --binding was given, so this may be a copy of older evidence";
const NOT_COMPARED: &str =
    "measurements were not compared: no --reference was given, so this says nothing of what runs";
const NODE_NOT_KNOWN: &str =
    "the node's enrolment is not known here: neither its end, nor for which identities it may vouch";
const AK_NOT_KNOWN: &str = "the attestation key's enrolment is not known here: neither its end, nor whether it is a \
                            TPM's, nor the counters last seen";
const PIN_NOT_KNOWN: &str = "the measurement that the node's enrolment pins is not known here";
const NO_RELEASE: &str = "an SGX quote is no evidence for a release: it is verified offline alone";
