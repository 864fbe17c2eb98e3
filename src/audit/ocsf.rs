//! Each record as an event of OCSF's class API Activity, for whoever collects logs of many products.
//!
//! *Takes* a [`Record`] and its number. *Gives* one JSON object. *Denies* nothing itself.
//! *Source*: OCSF 1.3.0, class `api_activity` (6003), profile `security_control`, objects `actor`, `api`,
//! `resource_details`, `metadata`.
//!
//! What OCSF has no attribute for stands in `unmapped`, which is the whole event as the log holds it.

use super::log::Sequence;
use super::record::{AdminAct, Event, Record};
use super::show::{act, kind, refers_to};
use crate::case::Case;
use crate::denial::{Class, Denial};
use crate::spiffe::SpiffeId;
use serde_json::{Map, Value, json};

/// The OCSF event of a record.
pub fn view(sequence: Sequence, record: &Record) -> Value {
    let event = &record.event;
    let activity = activity(event);
    let outcome = outcome(record);
    let mut view = json!({
        "category_uid": CATEGORY,
        "category_name": "Application Activity",
        "class_uid": CLASS,
        "class_name": "API Activity",
        "activity_id": activity.id(),
        "activity_name": activity.name(),
        "type_uid": CLASS.saturating_mul(100).saturating_add(activity.id()),
        "type_name": format!("API Activity: {}", activity.name()),
        "time": record.time.0,
        "severity_id": outcome.severity(),
        "status_id": if outcome.failed() { 2 } else { 1 },
        "status": if outcome.failed() { "Failure" } else { "Success" },
        "metadata": metadata(sequence, record),
        "actor": actor(event, record.case()),
        "api": api(record),
        "src_endpoint": source(record.case(), event),
        "resources": resources(record),
        "unmapped": serde_json::to_value(event).unwrap_or_default(),
    });
    if let Some(object) = view.as_object_mut() {
        decision(object, record, &outcome);
        if let Event::Counted { count, since, .. } = event {
            object.insert("count".to_owned(), json!(count));
            object.insert("start_time".to_owned(), json!(since.0));
        }
    }
    view
}

/// `activity_id` of the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Create,
    Read,
    Update,
    Delete,
    Other,
}

impl Activity {
    fn id(self) -> u64 {
        match self {
            Activity::Create => 1,
            Activity::Read => 2,
            Activity::Update => 3,
            Activity::Delete => 4,
            Activity::Other => 99,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Activity::Create => "Create",
            Activity::Read => "Read",
            Activity::Update => "Update",
            Activity::Delete => "Delete",
            Activity::Other => "Other",
        }
    }
}

/// A workload reads secrets; an administrator's verb ends in what it does.
fn activity(event: &Event) -> Activity {
    match event {
        Event::Released { .. }
        | Event::Renewed { .. }
        | Event::Undelivered { .. }
        | Event::Denied { .. }
        | Event::AdminRead { .. } => Activity::Read,
        Event::AdminIntent { act, .. } => match act.verb.rsplit(' ').next().unwrap_or_default() {
            "add" | "create" | "enrol" | "init" => Activity::Create,
            "put" | "accept" | "rotate" | "rewrap" | "rekey" | "enable" | "disable" => Activity::Update,
            "remove" | "revoke" | "destroy" | "clear" | "delete" => Activity::Delete,
            _ => Activity::Other,
        },
        Event::LeaseEnded { .. } | Event::LatchCleared { .. } => Activity::Delete,
        Event::HandshakeRefused { .. }
        | Event::Counted { .. }
        | Event::Applied { .. }
        | Event::NotApplied { .. }
        | Event::Clock { .. }
        | Event::Input { .. }
        | Event::Mark { .. }
        | Event::Started { .. }
        | Event::Stopped {} => Activity::Other,
    }
}

/// How it ended; only some events are decisions.
enum Outcome {
    Allowed,
    Denied(Denial),
    DeniedAdministrator,
    Failed,
    Neither,
}

impl Outcome {
    fn failed(&self) -> bool {
        matches!(self, Outcome::Denied(_) | Outcome::DeniedAdministrator | Outcome::Failed)
    }

    /// Informational, low for what could not be decided, medium for a refusal.
    fn severity(&self) -> u64 {
        match self {
            Outcome::Allowed | Outcome::Neither => 1,
            Outcome::Denied(denial) if denial.class() == Class::Uncertain => 2,
            Outcome::Failed => 2,
            Outcome::Denied(_) | Outcome::DeniedAdministrator => 3,
        }
    }
}

fn outcome(record: &Record) -> Outcome {
    if let Some(denial) = record.denial() {
        return Outcome::Denied(denial);
    }
    match &record.event {
        Event::AdminRead { refused: Some(_), .. } => Outcome::DeniedAdministrator,
        Event::Released { .. }
        | Event::Renewed { .. }
        | Event::AdminRead { .. }
        | Event::AdminIntent { .. } => Outcome::Allowed,
        Event::Undelivered { .. } | Event::NotApplied { .. } => Outcome::Failed,
        _ => Outcome::Neither,
    }
}

/// The attributes of profile `security_control`, where the event is a decision, and the status in words.
fn decision(view: &mut Map<String, Value>, record: &Record, outcome: &Outcome) {
    let (id, action, disposition) = match outcome {
        Outcome::Allowed => (1, "Allowed", "Allowed"),
        Outcome::Denied(_) | Outcome::DeniedAdministrator => (2, "Denied", "Blocked"),
        Outcome::Failed | Outcome::Neither => return,
    };
    view.insert("action_id".to_owned(), json!(id));
    view.insert("action".to_owned(), json!(action));
    view.insert("disposition_id".to_owned(), json!(id));
    view.insert("disposition".to_owned(), json!(disposition));
    if let Outcome::Denied(denial) = outcome {
        view.insert("status_code".to_owned(), json!(denial.name()));
        view.insert("status_detail".to_owned(), json!(denial.explanation()));
    }
    let rules = record.case().map(|case| case.rules.as_slice()).unwrap_or_default();
    if !rules.is_empty() {
        let rule = |uid: &String| json!({ "decision": action, "policy": { "uid": uid } });
        view.insert("authorizations".to_owned(), rules.iter().map(rule).collect());
    }
}

fn metadata(sequence: Sequence, record: &Record) -> Value {
    let mut metadata = json!({
        "version": VERSION,
        "profiles": ["security_control"],
        "product": { "name": "Portcullis", "vendor_name": "Portcullis", "version": env!("CARGO_PKG_VERSION") },
        "log_name": "audit",
        "uid": record.id,
        "sequence": sequence.0,
        "event_code": kind(&record.event),
    });
    if let (Some(object), Some(id)) = (metadata.as_object_mut(), refers_to(&record.event)) {
        object.insert("correlation_uid".to_owned(), json!(id));
    }
    metadata
}

fn actor(event: &Event, case: Option<&Case>) -> Value {
    if let Some(act) = act(event) {
        return administrator(act);
    }
    let workload = match (case, event) {
        (Some(Case { identity: Some(identity), key_sha256, .. }), _)
        | (_, Event::Counted { identity: Some(identity), key_sha256, .. }) => Some((identity, key_sha256)),
        _ => None,
    };
    match workload {
        Some((identity, key)) => json!({ "user": {
            "uid": identity, "name": identity, "domain": identity.trust_domain(),
            "credential_uid": key, "type_id": 99, "type": "Workload",
        } }),
        None => json!({ "app_name": "portcullis" }),
    }
}

fn administrator(act: &AdminAct) -> Value {
    json!({ "user": {
        "name": act.administrator, "credential_uid": act.key_sha256, "type_id": 2, "type": "Admin",
    } })
}

fn api(record: &Record) -> Value {
    let (service, operation) = match &record.event {
        Event::Released { .. } | Event::Renewed { .. } | Event::Undelivered { .. } | Event::Denied { .. } => {
            ("portcullis.v1.Broker", "Release".to_owned())
        }
        Event::AdminIntent { act, .. } | Event::AdminRead { act, .. } => {
            ("portcullis.admin.v1", act.verb.clone())
        }
        event => ("portcullis", kind(event).to_owned()),
    };
    let mut api = json!({
        "operation": operation, "service": { "name": service }, "version": "v1", "request": { "uid": record.id },
    });
    if let (Some(object), Some(denial)) = (api.as_object_mut(), record.denial()) {
        object.insert("response".to_owned(), json!({ "error": denial.reason().name() }));
    }
    api
}

/// The class demands a source; addresses are not recorded, so it is the identity and its node.
fn source(case: Option<&Case>, event: &Event) -> Value {
    let identity = case.and_then(|case| case.identity.as_ref()).map(SpiffeId::as_str);
    let administrator = act(event).map(|act| act.administrator.as_str());
    let name = identity.or(administrator).unwrap_or("portcullis");
    match case.and_then(|case| case.node.as_deref()) {
        Some(node) => json!({ "svc_name": name, "name": node }),
        None => json!({ "svc_name": name }),
    }
}

fn resources(record: &Record) -> Value {
    if let Some(act) = act(&record.event) {
        let noun = act.verb.split(' ').next().unwrap_or_default();
        return json!([{ "name": act.target, "type": noun }]);
    }
    let secrets = record.case().map(|case| case.secrets.as_slice()).unwrap_or_default();
    let resource = |secret: &crate::case::PathVersion| match secret.version {
        Some(version) => json!({ "name": secret.path, "type": "secret", "version": version.to_string() }),
        None => json!({ "name": secret.path, "type": "secret" }),
    };
    secrets.iter().map(resource).collect()
}

/// The class's number.
const CLASS: u64 = 6003;
/// Application Activity.
const CATEGORY: u64 = 6;
/// The schema's version.
const VERSION: &str = "1.3.0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::log::tests::{intent, record, with};
    use crate::audit::show::tests::{PAY, WEB, case, denied, every_kind, released};

    #[test]
    fn every_kind_has_what_the_class_requires() {
        for (number, record) in (0..).zip(every_kind()) {
            let view = view(Sequence(number), &record);
            let activity = view["activity_id"].as_u64().unwrap();
            assert_eq!((view["class_uid"].as_u64(), view["category_uid"].as_u64()), (Some(6003), Some(6)));
            assert_eq!(view["type_uid"], 600_300 + activity);
            assert_eq!(view["time"], record.time.0);
            assert_eq!(view["metadata"]["version"], "1.3.0");
            assert_eq!(view["metadata"]["product"]["name"], "Portcullis");
            assert_eq!(view["metadata"]["sequence"], number);
            assert!(view["severity_id"].is_u64());
            assert!(view["api"]["operation"].is_string());
            assert!(view["src_endpoint"]["svc_name"].is_string());
            assert!(view["actor"]["user"].is_object() || view["actor"]["app_name"].is_string());
            assert_eq!(view["unmapped"]["kind"], kind(&record.event));
        }
    }

    #[test]
    fn a_release_is_an_allowed_read_by_the_workload() {
        let view = view(Sequence(4), &released(4, case(WEB, "kv/web")));
        assert_eq!(
            (&view["activity_id"], &view["action_id"], &view["status_id"]),
            (&json!(2), &json!(1), &json!(1))
        );
        assert_eq!((&view["action"], &view["disposition"]), (&json!("Allowed"), &json!("Allowed")));
        assert_eq!(view["actor"]["user"]["uid"], WEB);
        assert_eq!(view["api"]["request"]["uid"], format!("{:032x}", 4));
        assert_eq!(view["resources"], json!([{ "name": "kv/web", "type": "secret", "version": "3" }]));
        assert_eq!(view["src_endpoint"]["name"], "node-1");
    }

    #[test]
    fn a_denial_is_denied_with_its_name_what_the_caller_heard_and_its_rules() {
        let mut case = case(PAY, "kv/pay");
        case.rules = vec!["policy:no-pay".into()];
        let view = view(Sequence(0), &denied(0, Denial::PolicyForbids, case));
        assert_eq!(
            (&view["action_id"], &view["disposition_id"], &view["status_id"]),
            (&json!(2), &json!(2), &json!(2))
        );
        assert_eq!(view["status_code"], "PolicyForbids");
        assert_eq!(view["severity_id"], 3);
        assert_eq!(view["api"]["response"]["error"], "NOT_RELEASED");
        assert_eq!(
            view["authorizations"],
            json!([{ "decision": "Denied", "policy": { "uid": "policy:no-pay" } }])
        );
    }

    #[test]
    fn an_administrators_act_says_who_did_what() {
        let put = view(Sequence(0), &intent(0, 1));
        assert_eq!((&put["activity_name"], &put["action"]), (&json!("Update"), &json!("Allowed")));
        assert_eq!(put["actor"]["user"]["name"], "ada");
        assert_eq!(put["resources"], json!([{ "name": "policy-0", "type": "policy" }]));
        let Event::AdminRead { act, .. } = record(0).event else { unreachable!() };
        let refused = with(0, Event::AdminRead { act, refused: Some("role".into()) });
        let refused = view(Sequence(0), &refused);
        assert_eq!((&refused["action"], &refused["status"]), (&json!("Denied"), &json!("Failure")));
    }
}
