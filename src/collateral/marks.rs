//! How new the newest list and statement ever seen was, kept where a restart finds it: what was narrowed stays narrowed.
//!
//! *Takes* what was taken in, the store's marks. *Gives* the mark below which nothing counts. *Denies* nothing itself: what is
//! older is [`Failure::Older`]. *Source*: `durability.md` "what only narrows"; `fail-open-catalogue.md` rows 21 to 23.
//!
//! The directory is no substitute: it can be lost, or put back, and nothing in it says so.

use super::directory::file_name;
use super::failure::Failure;
use super::holdings::locked;
use super::item::Item;
use crate::evidence::sev_snp::{ListMark, SevSnpTrust, SigningKey};
use crate::evidence::tdx::{Age, Question};
use crate::limits;
use crate::time::WallTime;
use crate::transport::{Marks, MarksUnavailable};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The store's marks, and which of them are known to be kept.
pub(super) struct DurableMarks {
    marks: Arc<dyn Marks>,
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What the marks of Intel's parts say, as far as they were read; of genuine platforms and parts alone.
    known: Mutex<BTreeMap<Question, Age>>,
}

/// Makes a trust refuse lists that are older than any that was ever seen; to be called once its roots are in it, and before
/// its lists are. Blocks. An unreadable mark is an error: what it would refuse is not known.
pub fn remember_lists(trust: &mut SevSnpTrust, marks: &dyn Marks) -> Result<(), MarksUnavailable> {
    let roots: Vec<[u8; 32]> = trust.roots().iter().map(|root| root.sha256).collect();
    for root in roots {
        for signing_key in SigningKey::ALL {
            let kept = marks.read(&list_name(&root, signing_key))?;
            if let Some(kept) = kept {
                trust.remember(list_mark(root, signing_key, &kept).ok_or(MarksUnavailable)?);
            }
        }
    }
    Ok(())
}

impl DurableMarks {
    pub(super) fn new(marks: Arc<dyn Marks>) -> Self {
        DurableMarks { marks, kept: Mutex::default(), known: Mutex::default() }
    }

    /// How new a statement or list of Intel's must be, where that was read already.
    pub(super) fn known(&self, question: &Question) -> Option<Age> {
        locked(&self.known).get(question).copied()
    }

    /// Reads how new a statement or list of Intel's must be, for [`DurableMarks::known`]. Blocks.
    pub(super) fn learn(&self, question: &Question) -> Result<(), Failure> {
        let read = self.oldest(question)?;
        let mut known = locked(&self.known);
        // What is let go is read again.
        if known.len() >= limits::DCAP_KEPT_PARTS {
            known.clear();
        }
        let age = known.entry(*question).or_default();
        *age = read.max(*age);
        Ok(())
    }

    /// How new a statement or list of Intel's must be. Blocks.
    pub(super) fn oldest(&self, question: &Question) -> Result<Age, Failure> {
        let name = part_name(question);
        if let Some(kept) = locked(&self.kept).get(&name) {
            return age(kept).ok_or(Failure::MarksUnavailable);
        }
        match self.marks.read(&name) {
            Ok(None) => Ok(Age::default()),
            Ok(Some(kept)) => age(&kept).ok_or(Failure::MarksUnavailable),
            Err(MarksUnavailable) => Err(Failure::MarksUnavailable),
        }
    }

    /// Keeps all of these that are not kept yet. Blocks. What could not be kept is to be tried again.
    pub(super) fn keep(&self, lists: &[ListMark], parts: &[(Question, Age)]) -> Result<(), MarksUnavailable> {
        for mark in lists {
            self.raise(list_name(&mark.root, mark.signing_key), list_value(mark))?;
        }
        for (question, age) in parts {
            // What was seen counts at once, and where it cannot be kept, too.
            if let Some(known) = locked(&self.known).get_mut(question) {
                *known = (*age).max(*known);
            }
            self.raise(part_name(question), value(*age))?;
        }
        Ok(())
    }

    /// Sets the mark of a list, lower too: an administrator's act alone. Blocks.
    pub(super) fn set_list(&self, mark: &ListMark) -> Result<(), Failure> {
        self.set(list_name(&mark.root, mark.signing_key), list_value(mark))
    }

    /// The same of a statement or list of Intel's. Blocks.
    pub(super) fn set_part(&self, question: &Question, age: Age) -> Result<(), Failure> {
        self.set(part_name(question), value(age))?;
        locked(&self.known).insert(*question, age);
        Ok(())
    }

    fn set(&self, name: String, value: Vec<u8>) -> Result<(), Failure> {
        self.marks.replace(&name, &value).map_err(|MarksUnavailable| Failure::MarksUnavailable)?;
        locked(&self.kept).insert(name, value);
        Ok(())
    }

    fn raise(&self, name: String, value: Vec<u8>) -> Result<(), MarksUnavailable> {
        if locked(&self.kept).get(&name).is_some_and(|kept| *kept >= value) {
            return Ok(());
        }
        self.marks.raise(&name, &value)?;
        locked(&self.kept).insert(name, value);
        Ok(())
    }
}

fn list_name(root: &[u8; 32], signing_key: SigningKey) -> String {
    format!("collateral list {} {}", hex::encode(root), signing_key.name())
}

/// The number, 20 bytes, then thisUpdate, 8: as one integer they compare as lists do.
fn list_value(mark: &ListMark) -> Vec<u8> {
    [&mark.number[..], &mark.this_update.0.to_be_bytes()].concat()
}

fn list_mark(root: [u8; 32], signing_key: SigningKey, value: &[u8]) -> Option<ListMark> {
    let (number, this_update) = value.split_at_checked(20)?;
    let this_update = WallTime(u64::from_be_bytes(this_update.try_into().ok()?));
    Some(ListMark { root, signing_key, number: number.try_into().ok()?, this_update })
}

fn part_name(question: &Question) -> String {
    format!("collateral {}", file_name(&Item::Dcap(*question)))
}

/// The evaluation data number, 4 bytes, then the issue, 8.
fn value(age: Age) -> Vec<u8> {
    [&age.evaluation_data_number.to_be_bytes()[..], &age.issued.0.to_be_bytes()].concat()
}

fn age(value: &[u8]) -> Option<Age> {
    let (number, issued) = value.split_at_checked(4)?;
    Some(Age {
        evaluation_data_number: u32::from_be_bytes(number.try_into().ok()?),
        issued: WallTime(u64::from_be_bytes(issued.try_into().ok()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_compares_as_what_it_is_of() {
        let mark = |number: u8, this_update: u64| ListMark {
            root: [7; 32],
            signing_key: SigningKey::Vcek,
            number: std::array::from_fn(|at| if at == 19 { number } else { 0 }),
            this_update: WallTime(this_update),
        };
        for (older, newer) in [(mark(1, 9), mark(2, 3)), (mark(2, 3), mark(2, 4))] {
            assert!(older < newer && list_value(&older) < list_value(&newer));
            assert_eq!(list_mark([7; 32], SigningKey::Vcek, &list_value(&older)), Some(older));
        }
        let of = |evaluation_data_number, issued| Age { evaluation_data_number, issued: WallTime(issued) };
        for (older, newer) in [(of(1, 9), of(2, 3)), (of(2, 3), of(2, 4))] {
            assert!(older < newer && value(older) < value(newer));
            assert_eq!(age(&value(older)), Some(older));
        }
        assert_eq!((age(&[]), age(&[0; 13])), (None, None));
        assert_eq!(list_mark([7; 32], SigningKey::Vcek, &[0; 27]), None);
    }
}
