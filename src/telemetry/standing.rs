//! Whether anything could be released now: all that every request needs, and for at least one trust domain what its own do.
//!
//! *Takes* the running parts. *Gives* the first [`Obstacle`]. *Denies* nothing: the stages do, each request anew.
//! *Source*: the section "Operations"; gRPC Health Checking Protocol (service `portcullis.v1.Broker`).

use super::Parts;
use super::pulse::Pulse;
use crate::broker::Broker;
use crate::collateral::{Holdings, Service};
use crate::denial::Denial;
use crate::evidence::hardware::{Hardware, Held};
use crate::evidence::{nitro, process, sev_snp, tdx, tpm2};
use crate::time::{Now, WallTime};

/// Why no request at all could end in a release. It names no identity and no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The broker starts or drains.
    #[error("the broker is not serving")]
    NotServing,
    /// Every request would be denied so.
    #[error("every request is denied as {0}")]
    NotCurrent(Denial),
    /// The store is sealed, or its committer is silent.
    #[error("the store does not answer")]
    Store,
    /// No handshake succeeds.
    #[error("the broker's own certificate cannot be used")]
    OwnCertificate,
    /// No trust domain has a current bundle and current revocation.
    #[error("no trust domain has a current bundle and current revocation")]
    TrustDomains,
    /// No offered format can be verified: no enrolled node, no usable collateral.
    #[error(
        "no offered format of evidence can be verified: no enrolled node, or nothing to hold hardware against"
    )]
    Evidence,
    /// Every reference set has ended, or there is none.
    #[error("there is no reference set that has not ended")]
    ReferenceValues,
}

/// The first thing in the way of every release. What only some requests need is not looked at: their own denials tell of it.
pub(super) fn obstacle(parts: &Parts, pulse: &Pulse) -> Option<Obstacle> {
    let broker = &parts.broker;
    let now = match broker.current() {
        Ok(now) => now,
        Err(denial) => return Some(Obstacle::NotCurrent(denial)),
    };
    let ends = broker.appraiser.ends().unwrap_or_default();
    let checks = [
        (!pulse.sealed() && pulse.silent().is_none(), Obstacle::Store),
        (parts.identity.look(now).is_ok(), Obstacle::OwnCertificate),
        (domain_stands(broker, now), Obstacle::TrustDomains),
        (
            broker.offer.formats.iter().any(|format| decidable(broker, format, now) == Some(true)),
            Obstacle::Evidence,
        ),
        (ends.iter().any(|end| now.wall < *end), Obstacle::ReferenceValues),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, obstacle)| obstacle)
}

fn domain_stands(broker: &Broker, now: Now) -> bool {
    let status = broker.trust.status(now);
    status.iter().any(|domain| domain.bundle.usable_for_ms > 0 && domain.revocation.usable_for_ms > 0)
}

/// Whether evidence of a format can be verified now; none where the format is not known.
pub(super) fn decidable(broker: &Broker, format: &str, now: Now) -> Option<bool> {
    let held = broker.verifiers.hardware();
    let hardware = &held.1;
    let known = |held: bool| Some(held);
    match format {
        process::FORMAT => {
            known(node_ends(broker).is_some_and(|ends| ends.iter().any(|end| now.wall < *end)))
        }
        tpm2::FORMAT => known(matches!(hardware.tpm2, Held::Known(_))),
        nitro::FORMAT => known(matches!(hardware.nitro, Held::Known(_))),
        sev_snp::FORMAT => known(matches!(hardware.sev_snp, Held::Known(_))),
        tdx::FORMAT => known(matches!(hardware.tdx, Held::Known(_))),
        _ => None,
    }
}

/// The ends of all enrolments of nodes; none where they could not be read.
pub(super) fn node_ends(broker: &Broker) -> Option<Vec<WallTime>> {
    let nodes = broker.verifiers.nodes();
    nodes.as_ref().as_ref().map(|nodes| nodes.iter().map(|node| node.not_after).collect())
}

/// The ends of all collateral that is configured, imported, fetched or kept, by format.
pub(super) fn collateral_ends(
    hardware: &Hardware,
    holdings: &Holdings,
    now: Now,
) -> Vec<(&'static str, WallTime)> {
    let format = |service| match service {
        Service::SevSnp => sev_snp::FORMAT,
        Service::Tdx => tdx::FORMAT,
    };
    let held = holdings.status(now).held.into_iter();
    let mut ends: Vec<_> = held.map(|item| (format(item.service), item.ends)).collect();
    if let Held::Known(trust) = &hardware.sev_snp {
        let lists = trust.roots().into_iter().flat_map(|root| root.lists);
        ends.extend(lists.map(|(_, end)| (sev_snp::FORMAT, end)));
    }
    if let Held::Known(trust) = &hardware.tdx {
        ends.extend(trust.collateral().parts().into_iter().map(|part| (tdx::FORMAT, part.ends)));
    }
    ends
}
