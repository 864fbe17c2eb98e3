//! Both ways of connecting: what is released over them, what is denied, and whom the client leaves.

use crate::python::{self, PYTHON, release, script};
use crate::world::{BROKER, FORBIDDEN, OPEN, Place, Shared, TWO_FIELDS, VALUE, World, run, wall, write};
use base64::Engine;
use serde_json::{Value, json};
use std::sync::OnceLock;

const WAYS: [(&str, &str); 2] = [("pinned", "none"), ("lent", "tls-exporter")];

/// A broker that allows `none`; nothing where Python is missing.
fn world() -> Option<&'static World> {
    static WORLD: OnceLock<Shared> = OnceLock::new();
    let python = python::interpreter()?;
    let made = || {
        let place = Place::new();
        place.reconfigure("[storage]", "allow_channel_binding_none = true\n\n[storage]");
        python::prepared(python, World::whole_over(place))
    };
    Some(&WORLD.get_or_init(made).world)
}

/// One that does not, which is the default.
fn strict() -> Option<&'static World> {
    static WORLD: OnceLock<Shared> = OnceLock::new();
    let python = python::interpreter()?;
    Some(&WORLD.get_or_init(|| python::prepared(python, World::whole())).world)
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[track_caller]
fn record(world: &World, decision: &Value) -> Value {
    let mut found = world.records(&["--decision", decision.as_str().unwrap()]);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn the_published_vectors_come_out_of_the_python_client() {
    let Some(world) = world() else { return };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/binding");
    let ended = run(&mut script(world, "python", &["vectors.py", folder])).must(0);
    let count: u32 = ended.text().split(' ').next().unwrap().parse().unwrap();
    assert!(count >= 20, "{ended:?}");
}

#[test]
fn secrets_are_released_over_both_ways_and_open() {
    let Some(world) = world() else { return };
    for (way, binding) in WAYS {
        let released = release(world, way, &[TWO_FIELDS, OPEN]).must(0).json()["released"].take();
        let value = base64(VALUE);
        let expected =
            json!({TWO_FIELDS: {"user": base64(b"app-user"), "value": value}, OPEN: {"value": value}});
        assert_eq!(released["secrets"], expected, "{way}");
        let records = world.records(&["--kind", "released", "--identity", PYTHON]);
        let of_lease = |record: &&Value| record.to_string().contains(released["lease_id"].as_str().unwrap());
        let record = records.iter().find(of_lease).unwrap().to_string();
        assert!(record.contains(&format!("\"channel_binding\":\"{binding}\"")), "{record}");
        let ends = released["not_after"].as_str().unwrap();
        let now = wall().to_string();
        assert!(ends[..19] > now[..19], "{ends} is not after {now}");
    }
}

#[test]
fn a_refusal_is_heard_with_its_reason_decision_and_pushback() {
    let Some(world) = world() else { return };
    for (way, _) in WAYS {
        let denied = release(world, way, &[FORBIDDEN]).must(77).json()["denied"].take();
        assert_eq!(
            (&denied["code"], &denied["reason"]),
            (&"PERMISSION_DENIED".into(), &"NOT_RELEASED".into())
        );
        assert_eq!(denied["pushback"], "-1");
        let record = record(world, &denied["decision_id"]);
        // The first refusal latches, so the second way is answered by it.
        assert!(
            ["PolicyForbids", "LatchHolds"].iter().any(|name| record.to_string().contains(name)),
            "{record}"
        );
    }
}

#[test]
fn what_cannot_be_verified_is_heard_as_that() {
    let Some(world) = world() else { return };
    for (way, _) in WAYS {
        let ended = run(&mut script(world, "unknown", &["release.py", way, OPEN])).must(75);
        let denied = &ended.json()["denied"];
        let heard = (&denied["code"], &denied["reason"], &denied["pushback"]);
        assert_eq!(heard, (&"FAILED_PRECONDITION".into(), &"VERIFICATION_NOT_POSSIBLE".into(), &"-1".into()));
        let record = record(world, &denied["decision_id"]).to_string();
        assert!(record.contains("ReferenceValuesMissing"), "{record}");
    }
}

#[test]
fn a_malformed_request_is_heard_before_any_challenge() {
    let Some(world) = world() else { return };
    for (way, _) in WAYS {
        let denied = release(world, way, &["kv/Not/A/Path"]).must(77).json()["denied"].take();
        assert_eq!(
            (&denied["code"], &denied["reason"]),
            (&"INVALID_ARGUMENT".into(), &"REQUEST_INVALID".into())
        );
        assert_eq!(denied["pushback"], "-1");
    }
}

#[test]
fn a_secret_that_demands_the_exporter_is_released_over_it_alone() {
    let Some(world) = world() else { return };
    let path = "kv/app/demanding";
    let value = format!("value=@{}", world.path("value"));
    world.admin(&["secret", "put", path, "--field", &value]).must(0);
    world.admin(&["secret", "configure", path, "--exporter-demanded", "true"]).must(0);
    release(world, "lent", &[path]).must(0);
    let denied = release(world, "pinned", &[path]).must(77).json()["denied"].take();
    assert_eq!(denied["reason"], "NOT_RELEASED");
    let record = record(world, &denied["decision_id"]).to_string();
    assert!(record.contains("ChannelBindingDemanded"), "{record}");
}

#[test]
fn none_is_refused_where_the_configuration_does_not_allow_it() {
    let Some(world) = strict() else { return };
    let denied = release(world, "pinned", &[OPEN]).must(77).json()["denied"].take();
    assert_eq!((&denied["code"], &denied["reason"]), (&"INVALID_ARGUMENT".into(), &"REQUEST_INVALID".into()));
    assert_eq!(denied["pushback"], "-1");
    assert_eq!(world.records(&["--denial", "RequestChannelBindingUnavailable"]).len(), 1);
    release(world, "lent", &[OPEN]).must(0);
    assert_eq!(world.records(&["--kind", "released"]).len(), 1);
}

/// Each attempt ends before anything was asked of whoever answered.
#[test]
fn whoever_is_not_the_broker_is_asked_for_nothing() {
    let Some(world) = strict() else { return };
    const LEAVER: &str = "spiffe://cli.example/ns/app/leaver";
    world.workload(LEAVER, "leaver");
    let other = Place::new();
    write(&world.at("foreign.pem"), std::fs::read(other.at("etc/bundle.pem")).unwrap(), 0o644);
    for (way, _) in WAYS {
        for (variable, value, why) in [
            (
                "PORTCULLIS_BROKER_ID",
                "spiffe://cli.example/ns/app/api".to_owned(),
                format!("it is `{BROKER}`"),
            ),
            ("PORTCULLIS_BROKER_ID", format!("{BROKER}/"), format!("it is `{BROKER}`")),
            ("PORTCULLIS_BUNDLE", world.path("foreign.pem"), String::new()),
        ] {
            let mut command = script(world, "leaver", &["release.py", way, OPEN]);
            let ended = run(command.env(variable, &value)).must(76);
            assert!(ended.json()["refused"].as_str().unwrap().contains(&why), "{way} {value}: {ended:?}");
        }
    }
    assert!(world.records(&["--identity", LEAVER]).is_empty());
    // The same that asks is recorded.
    run(&mut script(world, "leaver", &["release.py", "lent", OPEN])).must(75);
    assert_eq!(world.records(&["--identity", LEAVER]).len(), 1);
}

/// Of the same authority and with the broker's own identity: only the verified leaf is as good.
#[test]
fn another_leaf_than_the_verified_one_is_not_connected_to() {
    let Some(world) = world() else { return };
    let twin = world.leaf(Some(BROKER), &["localhost"], 3_600_000);
    write(&world.at("twin.pem"), twin.certificate, 0o644);
    let ended =
        run(&mut script(world, "python", &["attempts.py", "another-leaf", &world.path("twin.pem"), OPEN]));
    let lost = ended.must(0).json()["lost"].as_str().unwrap().to_owned();
    assert!(lost.starts_with("UNAVAILABLE"), "{lost}");
}

/// What another connection's exporter went into is good there alone.
#[test]
fn evidence_of_another_connection_is_denied() {
    let Some(world) = world() else { return };
    let denied =
        run(&mut script(world, "python", &["attempts.py", "another-connection", OPEN])).must(0).json();
    assert_eq!(denied["denied"]["reason"], "NOT_RELEASED");
    let record = record(world, &denied["denied"]["decision_id"]).to_string();
    assert!(record.contains("EvidenceBindingMismatch"), "{record}");
}
