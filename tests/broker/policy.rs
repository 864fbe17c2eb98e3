//! What policy and the secrets' own terms refuse.

use crate::support::*;
use portcullis::audit::record::Event;
use portcullis::denial::Denial;
use portcullis::proto::v1;
use portcullis::store::Kind;

/// A guest whose request for its own secret succeeded asks for this one instead.
fn refused_for(path: &'static str, denial: Denial, rule: Option<&'static str>) {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let outcome = guest.ask(&[path]).await;
        let record = guest.refused(outcome, denial);
        let case = record.case().unwrap();
        assert_eq!(case.refused_secret.as_deref(), Some(path));
        if let Some(rule) = rule {
            assert!(case.rules.iter().any(|found| found == rule), "{case:?}");
        }
        if denial.latches() {
            let outcome = guest.ask(&[path]).await;
            guest.refused(outcome, Denial::LatchHolds);
        }
        assert!(guest.ask(&[SECRET]).await.is_ok(), "another secret is not concerned");
    });
}

#[test]
fn a_forbidden_secret_is_denied() {
    refused_for(FORBIDDEN, Denial::PolicyForbids, Some("never"));
}

#[test]
fn silence_of_policy_is_denied() {
    refused_for(SILENT, Denial::PolicySilent, None);
}

#[test]
fn a_policy_that_errors_is_denied() {
    refused_for(UNEVALUABLE, Denial::PolicyUnevaluable, Some("overflow"));
}

#[test]
fn an_unknown_secret_is_denied() {
    refused_for(UNKNOWN, Denial::SecretUnknown, Some("payments"));
}

#[test]
fn a_destroyed_secret_is_denied() {
    refused_for(DESTROYED, Denial::SecretUnknown, Some("payments"));
}

#[test]
fn a_disabled_secret_is_denied() {
    refused_for(DISABLED, Denial::SecretDisabled, Some("payments"));
}

#[test]
fn a_damaged_secret_is_denied() {
    refused_for(DAMAGED, Denial::SecretDamaged, None);
}

#[test]
fn an_unknown_engine_is_denied_like_an_unknown_path() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let outcome = guest.ask(&["pki/issue/web"]).await;
        guest.refused(outcome, Denial::PolicySilent);
    });
}

/// The decision is on record as a release before the value is read; so a second record takes it back.
#[test]
fn a_value_that_is_not_the_one_named_is_denied_and_taken_back() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let outcome = guest.ask(&[SWAPPED]).await;
        let record = guest.refused(outcome, Denial::SecretDamaged);
        assert_eq!(record.case().unwrap().refused_secret.as_deref(), Some(SWAPPED));
        let records = world.records();
        let of_guest = records.iter().filter_map(|record| match &record.event {
            Event::Released { case, lease_id, .. }
                if case.key_sha256 == hex::encode(guest.connection.identity().spki_sha256) =>
            {
                Some(lease_id.clone())
            }
            _ => None,
        });
        let lease = of_guest.last().unwrap();
        assert!(records.iter().any(|record| {
            matches!(&record.event, Event::Undelivered { lease_id, detail, .. } if *lease_id == lease && detail == "SecretDamaged")
        }));
        assert!(!world.leases().iter().any(|standing| standing.id == lease));
    });
}

#[test]
fn all_secrets_or_none() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let released = guest.ask(&[SECOND, SECRET, SHORT]).await.unwrap();
        let paths: Vec<&str> = released.secrets.iter().map(|secret| secret.path.as_str()).collect();
        assert_eq!(paths, [SECOND, SECRET, SHORT], "in the order asked");
        let outcome = guest.ask(&[SECOND, UNKNOWN, SECRET]).await;
        let record = guest.refused(outcome, Denial::SecretUnknown);
        assert_eq!(record.case().unwrap().refused_secret.as_deref(), Some(UNKNOWN));
        let Event::Denied { latches, .. } = &record.event else { panic!() };
        assert_eq!(latches.len(), 1, "for the secret that caused it alone");
        assert!(guest.ask(&[SECOND, SECRET]).await.is_ok());
        let outcome = guest.ask(&[SECRET, UNKNOWN]).await;
        guest.refused(outcome, Denial::LatchHolds);
    });
}

fn with_ttl(paths: &[&str], ttl_seconds: u32) -> v1::Open {
    v1::Open { ttl_seconds, ..open_message(paths).0 }
}

#[test]
fn a_ttl_over_the_maximum_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let life = |released: &v1::Released| {
            let end = released.not_after.unwrap().seconds as u64;
            end.saturating_sub(world.hands.now().seconds())
        };
        let of = async |open| life(&guest.send(open).await.unwrap());
        let near =
            |found: u64, wanted: u64| assert!((wanted - 3..=wanted + 1).contains(&found), "{found} {wanted}");
        near(of(with_ttl(&[SECRET], 0)).await, 300);
        near(of(with_ttl(&[SECRET], 900)).await, 900);
        near(of(with_ttl(&[SHORT], 0)).await, 30);
        near(of(with_ttl(&[SHORT], 60)).await, 60);
        near(of(with_ttl(&[SECRET, SHORT], 0)).await, 30);
        for open in [with_ttl(&[SECOND], 901), with_ttl(&[SECOND], u32::MAX), with_ttl(&[SHORT, SECOND], 61)]
        {
            let guest = Guest::new(world).await;
            let outcome = guest.send(open).await;
            guest.refused(outcome, Denial::TtlTooLong);
        }
    });
}

#[test]
fn a_lease_too_short_for_a_round_is_not_held_and_never_released_unheld() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let outcome = guest.send(v1::Open { hold: true, ttl_seconds: 15, ..open_message(&[SECRET]).0 }).await;
        let record = guest.refused(outcome, Denial::HoldUnavailable);
        assert!(record.case().unwrap().hold);
    });
}

#[test]
fn parameters_that_the_engine_does_not_take_are_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut open = open_message(&[SECRET]).0;
        open.secrets[0].parameters.insert("csr".into(), vec![1; 8192]);
        let outcome = guest.send(open).await;
        guest.refused(outcome, Denial::ParametersNotTaken);
    });
}

#[test]
fn a_secret_that_demands_the_exporter_is_denied_without_it() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        assert!(guest.ask(&[EXPORTER]).await.is_ok());
        let unbound = |path| v1::Open { channel_bindings: vec!["none".into()], ..open_message(&[path]).0 };
        let released = guest.send(unbound(SECRET)).await;
        assert!(released.is_ok(), "this broker offers `none`");
        let outcome = guest.send(unbound(EXPORTER)).await;
        let record = guest.refused(outcome, Denial::ChannelBindingDemanded);
        assert_eq!(record.case().unwrap().channel_binding, "none");
    });
}

#[tokio::test]
async fn a_policy_can_demand_the_exporter() {
    let build = Build { broker_extra: "allow_channel_binding_none = true", ..Build::default() };
    let world = World::build(build).await;
    let guest = Guest::new(&world).await;
    let demand = r#"@id("bound") forbid (principal, action, resource) unless { context.channel_binding == "tls-exporter" };"#;
    world.put_policy(&format!("{POLICY}{demand}")).await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
    let open = v1::Open { channel_bindings: vec!["none".into()], ..open_message(&[SECRET]).0 };
    let outcome = guest.send(open).await;
    guest.refused(outcome, Denial::PolicyForbids);
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.put_policy("permit (principal, action, resource) when { undefined };").await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::PolicyUnavailable);
    world.put_policy(POLICY).await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
    world.remove(Kind::Policy, "policy").await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::PolicySilent);
}

#[tokio::test]
async fn policy_reads_the_claims_that_were_verified() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let uid = guest.serial;
    let only = |uid: u64| {
        POLICY.replace(");", &format!(") when {{ context has process && context.process.uid == {uid} }};"))
    };
    world.put_policy(&only(uid)).await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
    world.put_policy(&only(uid + 1)).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::PolicySilent);
}
