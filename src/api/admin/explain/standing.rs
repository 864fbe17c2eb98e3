//! How each stage stands now for one identity and one secret, in the order of the flow.
//!
//! *Takes* what is stored and what is in force. *Gives* findings, and the least claims that each current reference set
//! would let through. *Denies* where the store gives no answer. *Source*: `broker.rs`, whose order this is.

use super::{About, Put};
use crate::api::admin::access::Caller;
use crate::api::admin::{AdminService, listing, operations, revocations};
use crate::appraisal::claims::{AttestedClaims, AttestedProcess};
use crate::appraisal::reference_set::ReferenceSet;
use crate::appraisal::reference_values::ReferenceValues;
use crate::evidence::process::EnrolledNode;
use crate::limits;
use crate::proto::admin::Finding;
use crate::registry::StoredRevocation;
use crate::release::kv::SecretMetadata;
use crate::request::ChannelBinding;
use crate::store::Kind;
use crate::time::Now;
use std::collections::BTreeSet;
use tonic::Status;

/// What was found.
pub(super) struct Found {
    pub(super) findings: Vec<Finding>,
    pub(super) least_claims: Vec<Put>,
}

/// Looks at every stage.
pub(super) async fn look(
    service: &AdminService,
    caller: &Caller,
    about: &About,
    metadata: Option<&SecretMetadata>,
) -> Result<Found, Status> {
    let (vault, now) = (service.registry.vault(), caller.now);
    let revoked = revocations::all(service).await?;
    let nodes: Vec<EnrolledNode> = listing::all(vault, Kind::Node, limits::NODES).await?;
    let sets: Vec<ReferenceSet> = listing::all(vault, Kind::ReferenceSet, limits::REFERENCE_SETS).await?;
    let values = ReferenceValues::new(sets, service.registry.launchers().clone());
    let mut findings = vec![clock(caller), audit(service), trust(service, about, now)];
    findings.push(revocation(&revoked, about));
    let vouching: Vec<&EnrolledNode> = nodes.iter().filter(|node| vouches(node, about, now)).collect();
    findings.push(vouched(&nodes, &vouching, about));
    findings.push(latches(service, about, now));
    let mut least_claims = Vec::new();
    match values {
        Err(error) => {
            findings.push(obstacle("reference", format!("the reference sets cannot be used: {error}")))
        }
        Ok(values) => {
            let sets = values.sets_for(&about.identity);
            findings.push(reference(&sets, now));
            let current = sets.into_iter().filter(|set| now.wall < set.not_after).take(SETS);
            let node = vouching.first().map(|node| node.name.as_str());
            least_claims.extend(current.map(|set| least(set, node)));
        }
    }
    findings.push(secret(about, metadata));
    Ok(Found { findings, least_claims })
}

fn clock(caller: &Caller) -> Finding {
    match &caller.suspect {
        None => fine("clock", "the clock is trusted"),
        Some(suspect) => {
            obstacle("clock", format!("the clock is suspect: {suspect}; `portcullis admin clock accept`"))
        }
    }
}

fn audit(service: &AdminService) -> Finding {
    match service.registry.broker().recorder.log().healthy() {
        true => fine("audit", "the audit log is written"),
        false => obstacle("audit", "the audit log cannot be written: everything is denied".to_owned()),
    }
}

fn trust(service: &AdminService, about: &About, now: Now) -> Finding {
    let name = about.identity.trust_domain();
    let domains = service.registry.broker().trust.status(now);
    let Some(domain) = domains.into_iter().find(|domain| domain.name == *name) else {
        return obstacle("trust", format!("no trust domain `{name}` is configured"));
    };
    let unusable = [("bundle", &domain.bundle), ("revocation", &domain.revocation)]
        .into_iter()
        .find(|(_, input)| input.usable_for_ms == 0);
    match unusable {
        Some((input, status)) => obstacle("trust", format!("the {input} of `{name}` is {}", status.state)),
        None => {
            fine("trust", format!("bundle {}; revocation {}", domain.bundle.state, domain.revocation.state))
        }
    }
}

fn revocation(revoked: &[StoredRevocation], about: &About) -> Finding {
    let hit = revoked.iter().find(|one| match one {
        StoredRevocation::Identity { identity, .. } => identity.matches(&about.identity),
        StoredRevocation::Key { .. } => false,
    });
    match hit {
        Some(one) => {
            let words = format!(
                "an administrator revoked it: {}; `portcullis admin unrevoke`",
                revocations::words(one)
            );
            obstacle("revocation", words)
        }
        None => fine("revocation", "no administrator revoked this identity (a key may be)"),
    }
}

fn vouches(node: &EnrolledNode, about: &About, now: Now) -> bool {
    now.wall < node.not_after && node.may_vouch_for.iter().any(|pattern| pattern.matches(&about.identity))
}

fn vouched(all: &[EnrolledNode], vouching: &[&EnrolledNode], about: &About) -> Finding {
    if !vouching.is_empty() {
        return fine(
            "nodes",
            format!("may vouch: {}", named(vouching.iter().map(|node| node.name.as_str()))),
        );
    }
    let ended =
        |node: &&EnrolledNode| node.may_vouch_for.iter().any(|pattern| pattern.matches(&about.identity));
    let ended: Vec<&str> = all.iter().filter(ended).map(|node| node.name.as_str()).collect();
    let words = match ended.is_empty() {
        true => "no enrolled node may vouch for this identity: `portcullis admin node enrol`".to_owned(),
        false => format!("every enrolment that may vouch has ended: {}", named(ended.into_iter())),
    };
    obstacle("nodes", words)
}

fn reference(sets: &[&ReferenceSet], now: Now) -> Finding {
    if sets.is_empty() {
        return obstacle(
            "reference",
            "no reference set speaks of this workload: `portcullis admin reference put`".to_owned(),
        );
    }
    let until = |set: &&ReferenceSet| format!("{} until {}", set.name, set.not_after);
    let (current, ended): (Vec<&ReferenceSet>, Vec<&ReferenceSet>) =
        sets.iter().copied().partition(|set| now.wall < set.not_after);
    match current.is_empty() {
        true => {
            let ended: Vec<String> = ended.iter().map(until).collect();
            obstacle(
                "reference",
                format!("every reference set of this workload has ended: {}", named(ended.iter())),
            )
        }
        false => {
            let current: Vec<String> = current.iter().map(until).collect();
            fine("reference", format!("current: {}", named(current.iter())))
        }
    }
}

fn latches(service: &AdminService, about: &About, now: Now) -> Finding {
    let on = |hold: &crate::latch::Hold| {
        let secret = hold.key.secret.is_empty() || hold.key.secret == about.secret.as_str();
        hold.key.identity == about.identity && secret && operations::stands(hold.until, now)
    };
    let holds: Vec<crate::latch::Hold> =
        service.registry.broker().latches.all().into_iter().filter(on).collect();
    if holds.is_empty() {
        return fine("latch", "no refusal of it still stands");
    }
    let words = holds.iter().map(|hold| {
        let subject = hold.key.subject.get(..12).unwrap_or("any");
        format!("subject {subject} until {} for decision {}", hold.until, hold.record)
    });
    obstacle("latch", format!("held: {}; other subjects are not", named(words)))
}

fn secret(about: &About, metadata: Option<&SecretMetadata>) -> Finding {
    let path = &about.secret;
    let Some(metadata) = metadata else {
        return obstacle("secret", format!("there is no secret `{path}`: `portcullis admin secret put`"));
    };
    if metadata.disabled {
        return obstacle("secret", format!("`{path}` is disabled: `portcullis admin secret enable`"));
    }
    match metadata.releasable() {
        None => obstacle("secret", format!("the newest version of `{path}` was destroyed: put another")),
        Some(version) => {
            let exporter = if metadata.exporter_demanded { ", over the TLS exporter only" } else { "" };
            let lease = metadata.lease_maximum_seconds;
            fine("secret", format!("`{path}` version {version}, lease up to {lease} s{exporter}"))
        }
    }
}

/// The least that a process must claim to match a set; what the set leaves open is empty or zero.
fn least(set: &ReferenceSet, node: Option<&str>) -> Put {
    let Some(process) = &set.process else {
        return Put {
            claims_of: format!("reference set {}, of which hardware evidence alone is asked", set.name),
            claims: AttestedClaims::default(),
            channel_binding: ChannelBinding::TlsExporter,
            ttl_seconds: 0,
            hold: false,
        };
    };
    let executable = process.executables.first();
    let of_list =
        |list: &Option<BTreeSet<u64>>| list.as_ref().and_then(|list| list.first().copied()).unwrap_or(0);
    let node_of_set = process.nodes.as_ref().and_then(|nodes| nodes.first().map(String::as_str));
    let programs = process.programs.first().cloned().unwrap_or_default();
    let claims = AttestedProcess {
        node: node_of_set.or(node).unwrap_or_default().to_owned(),
        executable_path: executable.and_then(|file| file.path.clone()).unwrap_or_default(),
        executable_sha256: executable.map(|file| file.sha256.to_string()).unwrap_or_default(),
        fs_verity: process.fs_verity.as_ref().and_then(|list| list.first().map(ToString::to_string)),
        uid: of_list(&process.uids),
        gid: of_list(&process.gids),
        groups: BTreeSet::new(),
        cgroup: String::new(),
        systemd_unit: process.systemd_units.as_ref().and_then(|list| list.first().cloned()),
        container_id: process.container.filter(|wanted| *wanted).map(|_| "0".repeat(64)),
        program_sha256: programs.iter().map(|file| file.sha256.to_string()).collect(),
        program_paths: programs.iter().filter_map(|file| file.path.clone()).collect(),
        reference_set: set.name.clone(),
    };
    Put {
        claims_of: format!("reference set {}, least claims", set.name),
        claims: AttestedClaims { process: Some(claims), ..AttestedClaims::default() },
        channel_binding: ChannelBinding::TlsExporter,
        ttl_seconds: 0,
        hold: false,
    }
}

fn fine(subject: &str, words: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), obstacle: false, words: words.into() }
}

fn obstacle(subject: &str, words: String) -> Finding {
    Finding { subject: subject.to_owned(), obstacle: true, words }
}

/// A few of them, and how many more.
fn named(all: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<String> = all.map(|one| one.to_string()).collect();
    let more = all.len().saturating_sub(NAMED);
    let shown = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// As many as a line holds.
const NAMED: usize = 8;
/// Sets whose least claims are put to policy: an overlap of releases is two or three.
const SETS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        assert_eq!(named(["a", "b"].iter()), "a, b");
        assert_eq!(named((0..10).map(|n| n.to_string())), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
