//! What `apply` says: the difference, what was done, what waits, what was not done.
//!
//! *Takes* a plan, then what became of each step. *Gives* lines or JSON, and the verdict. *Denies* by exit code 1 where the broker
//! is not what the directory says. *Source*: `deploy/apply.md`, "What it says".

use super::plan::{Action, Change, Plan};
use super::steps::Taken;
use crate::cli::admin::Failure;
use crate::cli::admin::output::{Lines, waits};
use serde::Serialize;
use std::collections::VecDeque;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether nothing was to be changed.
    dry_run: bool,
    changes: Vec<Change>,
    /// What the broker has, and the directory does not name: left as it is.
    kept: Vec<String>,
    /// What was done, or proposed.
    taken: Vec<Taken>,
    /// What was not, in its order.
    not_taken: VecDeque<String>,
}

impl Report {
    pub(super) fn of(plan: &Plan, dry_run: bool) -> Report {
        Report {
            dry_run,
            changes: plan.changes.clone(),
            kept: plan.kept.clone(),
            taken: Vec::new(),
            not_taken: plan.steps.iter().map(|step| step.what.clone()).collect(),
        }
    }

    /// The next step was taken.
    pub(super) fn add(&mut self, taken: Taken) {
        self.not_taken.pop_front();
        self.taken.push(taken);
    }

    /// What is said after the steps.
    pub(super) fn ending(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.not_taken.iter().map(|what| format!("not done: {what}")).collect();
        let waiting = self.waiting();
        let done = self.taken.len().saturating_sub(waiting);
        lines.push(format!(
            "{done} done, {waiting} wait for a second person, {} not done",
            self.not_taken.len()
        ));
        if waiting > 0 && !self.not_taken.is_empty() {
            lines.push(
                "what is not done comes after what waits: apply again once that is approved".to_owned(),
            );
        }
        lines
    }

    /// Whether the broker is now as the directory says.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let missing = self.count(Action::Missing);
        let waiting = self.waiting();
        match (self.changes.is_empty(), missing, waiting, self.not_taken.len()) {
            (true, _, _, _) | (false, 0, 0, 0) => Ok(()),
            _ if self.dry_run => {
                Err(Failure::no("the broker differs from the directory; nothing was changed"))
            }
            (_, _, 0, 0) => Err(Failure::no(format!("{missing} secrets wait for their values"))),
            (_, _, _, left) => Err(Failure::no(format!(
                "{waiting} changes wait for a second person, {left} are not done, {missing} secrets wait for their values"
            ))),
        }
    }

    fn waiting(&self) -> usize {
        self.taken.iter().filter(|one| !one.proposal.is_empty()).count()
    }

    fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }
}

/// The difference.
impl Lines for Report {
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for change in &self.changes {
            let (sign, more) = match change.action {
                Action::Added => ('+', ""),
                Action::Changed => ('~', ""),
                Action::Removed => ('-', ""),
                Action::Missing => ('!', " is not there"),
            };
            // There is one policy text, so that its kind names it.
            let name = if change.name == change.kind { "" } else { &change.name };
            lines.push(format!("{sign} {} {name}{more}", change.kind).trim_end().to_owned());
            lines.extend(change.difference.iter().map(|line| format!("    {line}")));
        }
        lines.extend(self.kept.iter().map(|what| format!("  {what} is not in the directory, and stays")));
        let all = [Action::Added, Action::Changed, Action::Removed].map(|action| self.count(action));
        let [added, changed, removed] = all;
        lines.push(match (self.changes.is_empty(), self.count(Action::Missing)) {
            (true, _) => "the broker has what the directory says".to_owned(),
            (false, 0) => format!("{added} to add, {changed} to change, {removed} to remove"),
            (false, missing) => {
                format!("{added} to add, {changed} to change, {removed} to remove, {missing} without a value")
            }
        });
        lines
    }
}

/// What became of one step.
pub(super) fn line(taken: &Taken) -> String {
    match taken.proposal.as_str() {
        "" => format!("done: {} (record {})", taken.what, taken.record),
        proposal => format!("{}: {}", taken.what, waits(proposal)),
    }
}
