//! Administrators: a certificate's key, a name, roles, an end.
//!
//! Removal is at once, so no revocation list is needed: each request looks the key up.

use crate::time::{Now, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What an administrator may do; each verb needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Values, versions, disable, destroy; never a value back.
    Secrets,
    /// Policy, labels, lease ceilings.
    Policy,
    /// Reference sets.
    Reference,
    /// Nodes.
    Nodes,
    /// Latches, leases, revocation, clock, lists of a rebuilt CA.
    Operations,
    /// Rotation of keys; never backup.
    Keys,
    /// Reading: explain, listings of everything.
    Audit,
    /// Administrators.
    Administrators,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 8] = [
        Role::Secrets,
        Role::Policy,
        Role::Reference,
        Role::Nodes,
        Role::Operations,
        Role::Keys,
        Role::Audit,
        Role::Administrators,
    ];

    /// The word in commands and records.
    pub fn name(self) -> &'static str {
        match self {
            Role::Secrets => "secrets",
            Role::Policy => "policy",
            Role::Reference => "reference",
            Role::Nodes => "nodes",
            Role::Operations => "operations",
            Role::Keys => "keys",
            Role::Audit => "audit",
            Role::Administrators => "administrators",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// One administrator, as stored under the key's digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Administrator {
    /// A person's or a pipeline's name, for the audit log.
    pub name: String,
    /// SHA-256 of the certificate's SPKI, hex.
    pub key_sha256: String,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// When it ends.
    pub not_after: WallTime,
}

/// Which changes wait for a second person: stored once two persons have a role, and kept when one of them goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoPersons {
    /// Two persons agreed to do without.
    pub off: bool,
    /// The roles whose changes wait.
    pub roles: BTreeSet<Role>,
}

/// The state record of [`TwoPersons`].
pub const TWO_PERSONS: &str = "two-persons";

impl TwoPersons {
    /// The state that is left once these are the administrators: what two persons can do together waits from then on.
    #[must_use]
    pub fn with(&self, administrators: &Administrators, now: Now) -> TwoPersons {
        let mut next = self.clone();
        if !next.off {
            let shared = |role: &Role| *role != Role::Audit && administrators.persons(*role, now) > 1;
            next.roles.extend(Role::ALL.into_iter().filter(shared));
        }
        next
    }
}

/// All administrators, by key.
#[derive(Clone, Debug, Default)]
pub struct Administrators(BTreeMap<String, Administrator>);

impl Administrators {
    /// Of a list.
    pub fn new(list: impl IntoIterator<Item = Administrator>) -> Self {
        Administrators(list.into_iter().map(|one| (one.key_sha256.clone(), one)).collect())
    }

    /// The administrator with this key, where it has not ended.
    pub fn current(&self, key_sha256: &[u8; 32], now: Now) -> Option<&Administrator> {
        self.0.get(&hex::encode(key_sha256)).filter(|one| now.wall < one.not_after)
    }

    /// All of them, ended ones too.
    pub fn all(&self) -> impl Iterator<Item = &Administrator> {
        self.0.values()
    }

    /// How many persons have this role, or `administrators`, with which it can be had. One name is one person.
    pub fn persons(&self, role: Role, now: Now) -> usize {
        let may = |one: &&Administrator| {
            now.wall < one.not_after
                && (one.roles.contains(&role) || one.roles.contains(&Role::Administrators))
        };
        self.0.values().filter(may).map(|one| one.name.as_str()).collect::<BTreeSet<_>>().len()
    }

    /// How many may still change administrators at `now`: the last one is not to be removed.
    pub fn keepers(&self, now: Now) -> usize {
        let keeps =
            |one: &&Administrator| one.roles.contains(&Role::Administrators) && now.wall < one.not_after;
        self.0.values().filter(keeps).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::BootTime;

    #[test]
    fn an_administrator_ends_and_is_known_by_key_alone() {
        let one = Administrator {
            name: "ada".into(),
            key_sha256: hex::encode([1; 32]),
            roles: [Role::Administrators].into(),
            not_after: WallTime(10),
        };
        let all = Administrators::new([one]);
        let at = |wall| Now { wall: WallTime(wall), boot: BootTime(0) };
        assert!(all.current(&[1; 32], at(9)).is_some());
        assert!(all.current(&[1; 32], at(10)).is_none());
        assert!(all.current(&[2; 32], at(9)).is_none());
        assert_eq!((all.keepers(at(9)), all.keepers(at(10))), (1, 0));
    }

    #[test]
    fn role_names_parse_back() {
        assert!(Role::ALL.iter().all(|role| Role::parse(role.name()) == Some(*role)));
    }
}
