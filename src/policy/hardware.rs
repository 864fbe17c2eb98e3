//! The claims of hardware evidence in Cedar's terms, each format a record of the schema.
//!
//! *Takes* [`AttestedClaims`]. *Gives* the context's pairs for the formats that are there. *Denies* nothing itself; a number that
//! has no form in Cedar leaves the question unevaluable. *Source*: `policy/schema.cedarschema`, whose words these are.

use super::question::{long, record, text};
use crate::appraisal::claims::{Attested, AttestedClaims};
use crate::evidence::nitro::NitroClaims;
use crate::evidence::sev_snp::{SevSnpClaims, Tcb};
use crate::evidence::tdx::TdxClaims;
use crate::evidence::tpm2::Tpm2Claims;
use cedar_policy::RestrictedExpression;

type Fields<'a> = Vec<(&'a str, RestrictedExpression)>;

/// The records of the formats that are there, by their names in the schema.
pub(super) fn records(claims: &AttestedClaims) -> Result<Vec<(String, RestrictedExpression)>, String> {
    let mut records = Vec::new();
    if let Some(quote) = &claims.tpm2 {
        records.push(("tpm2".to_owned(), tpm2(quote)?));
    }
    if let Some(document) = &claims.nitro {
        records.push(("nitro".to_owned(), nitro(document)?));
    }
    if let Some(report) = &claims.sev_snp {
        records.push(("sev_snp".to_owned(), sev_snp(report)?));
    }
    if let Some(quote) = &claims.tdx {
        records.push(("tdx".to_owned(), tdx(quote)?));
    }
    Ok(records)
}

fn tpm2(attested: &Attested<Tpm2Claims>) -> Result<RestrictedExpression, String> {
    let claims = &attested.claims;
    let bank = |(hash, pcrs): (&crate::evidence::tpm2::Hash, &std::collections::BTreeMap<_, _>)| {
        let name = hash.name();
        pcrs.iter()
            .map(|(index, value): (&crate::evidence::tpm2::PcrIndex, &crate::evidence::tpm2::PcrValue)| {
                text(&format!("{name}:{}={}", index.get(), hex::encode(value.as_bytes())))
            })
            .collect::<Vec<_>>()
    };
    record(vec![
        ("node", text(&claims.node)),
        ("ak_name", text(&claims.ak_name)),
        ("ek_sha256", text(&claims.ek_sha256)),
        ("firmware_version", text(&claims.firmware_version)),
        ("reset_count", long(claims.reset_count.into())?),
        ("restart_count", long(claims.restart_count.into())?),
        ("pcrs", RestrictedExpression::new_set(claims.pcrs.iter().flat_map(bank))),
        ("reference_set", text(&attested.reference_set)),
    ])
}

fn nitro(attested: &Attested<NitroClaims>) -> Result<RestrictedExpression, String> {
    let claims = &attested.claims;
    let pcrs = claims.pcrs.iter().map(|(index, value)| text(&format!("{index}={value}")));
    let mut fields = vec![
        ("module_id", text(&claims.module_id)),
        ("timestamp", long(claims.timestamp.0)?),
        ("debug", RestrictedExpression::new_bool(claims.debug)),
        ("pcrs", RestrictedExpression::new_set(pcrs)),
        ("root_sha256", text(&claims.root_sha256)),
        ("reference_set", text(&attested.reference_set)),
    ];
    optional(&mut fields, [("public_key", &claims.public_key), ("user_data", &claims.user_data)]);
    record(fields)
}

fn sev_snp(attested: &Attested<SevSnpClaims>) -> Result<RestrictedExpression, String> {
    let claims = &attested.claims;
    let mut fields = vec![
        ("product", text(claims.product.name())),
        ("version", long(claims.version.into())?),
        ("signing_key", text(claims.signing_key.name())),
        ("vmpl", long(claims.vmpl.into())?),
        ("measurement", text(&claims.measurement)),
        ("host_data", text(&claims.host_data)),
        ("guest_svn", long(claims.guest_svn.into())?),
        ("debug", RestrictedExpression::new_bool(claims.policy.debug_allowed)),
        ("migration_agent", RestrictedExpression::new_bool(claims.policy.migration_agent_allowed)),
        ("smt_enabled", RestrictedExpression::new_bool(claims.platform.smt_enabled)),
        ("reported_tcb", tcb(&claims.reported_tcb)?),
        ("reference_set", text(&attested.reference_set)),
    ];
    let there = [
        ("chip_id", &claims.chip_id),
        ("csp_id", &claims.csp_id),
        ("id_key_digest", &claims.id_key_digest),
        ("author_key_digest", &claims.author_key_digest),
        ("family_id", &claims.family_id),
        ("image_id", &claims.image_id),
    ];
    optional(&mut fields, there);
    record(fields)
}

fn tcb(tcb: &Tcb) -> Result<RestrictedExpression, String> {
    let mut fields = vec![
        ("bootloader", long(tcb.bootloader.into())?),
        ("tee", long(tcb.tee.into())?),
        ("snp", long(tcb.snp.into())?),
        ("microcode", long(tcb.microcode.into())?),
    ];
    if let Some(fmc) = tcb.fmc {
        fields.push(("fmc", long(fmc.into())?));
    }
    record(fields)
}

fn tdx(attested: &Attested<TdxClaims>) -> Result<RestrictedExpression, String> {
    let claims = &attested.claims;
    let advisories = claims.tcb.advisory_ids.iter().map(|advisory| text(advisory));
    record(vec![
        ("mrtd", text(&claims.mrtd)),
        ("rtmr0", text(&claims.rtmr0)),
        ("rtmr1", text(&claims.rtmr1)),
        ("rtmr2", text(&claims.rtmr2)),
        ("rtmr3", text(&claims.rtmr3)),
        ("mrconfigid", text(&claims.mrconfigid)),
        ("mrowner", text(&claims.mrowner)),
        ("mrownerconfig", text(&claims.mrownerconfig)),
        ("mrseam", text(&claims.mrseam)),
        ("debug", RestrictedExpression::new_bool(claims.attributes.debug)),
        ("tcb_status", text(&claims.tcb.status.to_string())),
        ("advisory_ids", RestrictedExpression::new_set(advisories)),
        ("evaluation_data_number", long(claims.tcb.evaluation_data_number.into())?),
        ("fmspc", text(&claims.platform.fmspc)),
        ("ppid", text(&claims.platform.ppid)),
        ("reference_set", text(&attested.reference_set)),
    ])
}

fn optional<'a, const N: usize>(fields: &mut Fields<'a>, there: [(&'a str, &Option<String>); N]) {
    fields.extend(there.into_iter().filter_map(|(name, value)| Some((name, text(value.as_ref()?)))));
}
