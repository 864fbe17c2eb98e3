//! Properties that hold for whatever input: the binding, the grammar of paths, what policy sees, what the vault keeps.
//!
//! *Takes* random input. *Gives* the smallest one that breaks a property. *Denies* nothing.
//! *Source*: `protocol.md` "The evidence binding", "Messages"; `policy/schema.cedarschema`; `durability.md` "Records at rest".
//! The store itself is held against its model in `src/store/sled/tests.rs`.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    dead_code,
    missing_docs,
    reason = "tests run on known input, and use a part of the kit"
)]

#[path = "fuzz/kit.rs"]
mod kit;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use kit::{BOUND, NOW, kit};
use portcullis::appraisal::claims::{Attested, AttestedClaims, AttestedProcess};
use portcullis::challenge::binding::{Binding, Inputs, encode_request, preimage};
use portcullis::evidence::outcome::Checks;
use portcullis::evidence::{nitro, sev_snp, tdx, tpm2};
use portcullis::policy::cedar::{Decision, PolicySet};
use portcullis::policy::question::{Question, SecretFacts};
use portcullis::proto::v1;
use portcullis::request::{ChannelBinding, ReleaseRequest, SecretPath};
use portcullis::spiffe::SpiffeId;
use portcullis::store::sled::SledStore;
use portcullis::store::{Kind, Transaction, Vault};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// Paths, each with its parameters.
type Secrets = Vec<(String, BTreeMap<String, Vec<u8>>)>;

/// Everything that goes into a binding.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    nonce: [u8; 32],
    round: u64,
    channel: Vec<u8>,
    spki: [u8; 32],
    id: String,
    audience: String,
    recipient_key: [u8; 32],
    ttl: u32,
    hold: bool,
    channel_bindings: Vec<String>,
    secrets: Secrets,
}

impl Said {
    fn request(&self) -> ReleaseRequest {
        let secret = |(path, parameters): &(String, BTreeMap<String, Vec<u8>>)| v1::SecretRequest {
            path: path.clone(),
            parameters: parameters.clone().into_iter().collect(),
        };
        let open = v1::Open {
            secrets: self.secrets.iter().map(secret).collect(),
            recipient_key: self.recipient_key.to_vec(),
            ttl_seconds: self.ttl,
            hold: self.hold,
            channel_bindings: self.channel_bindings.clone(),
        };
        ReleaseRequest::parse(open).unwrap()
    }

    fn with<T>(&self, see: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let (request, id) = (self.request(), SpiffeId::parse(&self.id).unwrap());
        see(&Inputs {
            nonce: &self.nonce,
            round: self.round,
            channel: &self.channel,
            client_spki_sha256: &self.spki,
            client_id: &id,
            audience: &self.audience,
            request: &request,
        })
    }

    /// `protocol.md`, word for word, by other means than the broker's.
    fn restated(&self) -> Vec<u8> {
        let request = [
            self.ttl.to_be_bytes().to_vec(),
            vec![u8::from(self.hold)],
            list(self.channel_bindings.iter().map(|name| lp(name.as_bytes()))),
            list(self.secrets.iter().map(|(path, parameters)| {
                let parameters =
                    parameters.iter().map(|(key, value)| [lp(key.as_bytes()), lp(value)].concat());
                [lp(path.as_bytes()), list(parameters)].concat()
            })),
        ];
        [
            lp(b"portcullis.v1 evidence binding"),
            lp(&self.nonce),
            self.round.to_be_bytes().to_vec(),
            lp(&self.channel),
            lp(&self.spki),
            lp(self.id.as_bytes()),
            lp(self.audience.as_bytes()),
            lp(&self.recipient_key),
            lp(digest(&SHA256, &request.concat()).as_ref()),
        ]
        .concat()
    }

    /// The same with the part of this number changed, or none where it is the same by chance.
    fn changed(&self, part: usize, other: &Said) -> Option<Said> {
        let mut changed = self.clone();
        match part {
            0 => changed.nonce = other.nonce,
            1 => changed.round = other.round,
            2 => changed.channel = other.channel.clone(),
            3 => changed.spki = other.spki,
            4 => changed.id = other.id.clone(),
            5 => changed.audience = other.audience.clone(),
            6 => changed.recipient_key = other.recipient_key,
            7 => changed.ttl = other.ttl,
            8 => changed.hold = other.hold,
            9 => changed.channel_bindings = other.channel_bindings.clone(),
            _ => changed.secrets = other.secrets.clone(),
        }
        (changed != *self).then_some(changed)
    }
}

const PARTS: usize = 11;

fn lp(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn list(items: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let items: Vec<Vec<u8>> = items.collect();
    [(items.len() as u32).to_be_bytes().to_vec(), items.concat()].concat()
}

/// Reads an encoded request back: what can be read in one way only stands for one request only.
fn decoded(mut rest: &[u8]) -> (u32, bool, Vec<String>, Secrets) {
    fn number(rest: &mut &[u8]) -> u32 {
        let (head, tail) = rest.split_first_chunk().unwrap();
        *rest = tail;
        u32::from_be_bytes(*head)
    }
    fn bytes(rest: &mut &[u8]) -> Vec<u8> {
        let length = number(rest) as usize;
        let (head, tail) = rest.split_at(length);
        *rest = tail;
        head.to_vec()
    }
    let text = |rest: &mut &[u8]| String::from_utf8(bytes(rest)).unwrap();
    let ttl = number(&mut rest);
    let (hold, tail) = rest.split_first().unwrap();
    rest = tail;
    let names = (0..number(&mut rest)).map(|_| text(&mut rest)).collect();
    let mut secrets = Vec::new();
    for _ in 0..number(&mut rest) {
        let path = text(&mut rest);
        let parameters = (0..number(&mut rest)).map(|_| (text(&mut rest), bytes(&mut rest))).collect();
        secrets.push((path, parameters));
    }
    assert!(rest.is_empty());
    (ttl, *hold == 1, names, secrets)
}

fn said() -> impl Strategy<Value = Said> {
    let parameters =
        prop::collection::btree_map("[a-z0-9_]{1,3}", prop::collection::vec(any::<u8>(), 0..4), 0..3);
    let secrets = prop::collection::btree_map("[a-z]{1,2}(/[a-z0-9]{1,2}){0,2}", parameters, 1..4);
    let secrets = secrets.prop_map(|map| map.into_iter().collect::<Vec<_>>()).prop_shuffle();
    let names = prop::collection::btree_set("[a-z0-9-]{1,4}", 0..3)
        .prop_map(|set| set.into_iter().collect::<Vec<_>>());
    let id = "spiffe://[a-z]{1,3}(/[A-Za-z0-9]{1,3}){1,2}";
    let channel = prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 32)];
    let key = prop::array::uniform32(2..250_u8);
    let first = (any::<[u8; 32]>(), any::<u64>(), channel, any::<[u8; 32]>(), id, id);
    let second = (key, any::<u32>(), any::<bool>(), names, secrets);
    (first, second).prop_map(|((nonce, round, channel, spki, id, audience), second)| {
        let (recipient_key, ttl, hold, channel_bindings, secrets) = second;
        Said {
            nonce,
            round,
            channel,
            spki,
            id,
            audience,
            recipient_key,
            ttl,
            hold,
            channel_bindings,
            secrets,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_binding_is_what_the_protocol_says_and_another_for_each_part(one in said(), other in said()) {
        let of = |said: &Said| said.with(|inputs| (preimage(inputs), *Binding::compute(inputs).as_bytes()));
        let (text, binding) = of(&one);
        prop_assert_eq!(&text, &one.restated());
        let hash = digest(&SHA512, &text);
        prop_assert_eq!(&binding[..], hash.as_ref());
        for part in 0..PARTS {
            if let Some(changed) = one.changed(part, &other) {
                let (other_text, other_binding) = of(&changed);
                prop_assert!(other_text != text && other_binding != binding, "part {}", part);
            }
        }
        let (ttl, hold, names, secrets) = decoded(&encode_request(&one.request()));
        prop_assert_eq!((ttl, hold, names, secrets), (one.ttl, one.hold, one.channel_bindings, one.secrets));
    }

    #[test]
    fn a_path_is_what_the_grammar_says(text in prop_oneof![
        "[a-z./_-]{0,12}",
        "(kv|\\.|\\.\\.|a|)(/(\\.|\\.\\.|a-b|x_y|0\\.1|)){0,4}",
        "\\PC{0,12}",
        "[a-z]{250,260}",
        "kv/[A-Z ~%\\\\\u{e9}\u{0}-]{0,3}[a-z]{0,3}",
    ]) {
        prop_assert_eq!(SecretPath::parse(&text).map(|path| path.to_string()).ok(), is_path(&text).then_some(text));
    }
}

/// 1 to 255 bytes; segments of `[a-z0-9._-]`, none empty, none `.` or `..`.
fn is_path(text: &str) -> bool {
    let mut segment = String::new();
    let mut sound = true;
    for character in text.chars().chain(['/']) {
        match character {
            '/' => {
                sound &= !segment.is_empty() && segment != "." && segment != "..";
                segment.clear();
            }
            'a'..='z' | '0'..='9' | '.' | '_' | '-' => segment.push(character),
            _ => return false,
        }
    }
    sound && text.len() <= portcullis::limits::PATH_BYTES
}

/// Every name that may be absent from the context, and where it stands.
const OPTIONAL: [(&str, &str); 15] = [
    ("process", "context has process"),
    ("process.fs_verity", "context has process && context.process has fs_verity"),
    ("process.systemd_unit", "context has process && context.process has systemd_unit"),
    ("process.container_id", "context has process && context.process has container_id"),
    ("tpm2", "context has tpm2"),
    ("nitro", "context has nitro"),
    ("nitro.public_key", "context has nitro && context.nitro has public_key"),
    ("nitro.user_data", "context has nitro && context.nitro has user_data"),
    ("sev_snp", "context has sev_snp"),
    ("sev_snp.chip_id", "context has sev_snp && context.sev_snp has chip_id"),
    ("sev_snp.csp_id", "context has sev_snp && context.sev_snp has csp_id"),
    ("sev_snp.id_key_digest", "context has sev_snp && context.sev_snp has id_key_digest"),
    ("sev_snp.family_id", "context has sev_snp && context.sev_snp has family_id"),
    ("sev_snp.fmc", "context has sev_snp && context.sev_snp.reported_tcb has fmc"),
    ("tdx", "context has tdx"),
];

/// A permit for each: which of them speak says what is there.
static PRESENCE: LazyLock<PolicySet> = LazyLock::new(|| {
    let policy = |(name, condition): &(&str, &str)| {
        format!("@id(\"{name}\") permit (principal, action, resource) when {{ {condition} }};\n")
    };
    PolicySet::compile(&OPTIONAL.iter().map(policy).collect::<String>()).unwrap()
});

static ALL_PERMITTED: LazyLock<PolicySet> =
    LazyLock::new(|| PolicySet::compile("@id(\"all\") permit (principal, action, resource);").unwrap());

/// Claims of verified documents, all that can be there.
static WHOLE: LazyLock<AttestedClaims> = LazyLock::new(|| {
    let (kit, mut checks) = (kit(), Checks::new());
    let text = |text: &str| Some(text.to_owned());
    let name = || "set".to_owned();
    let snp = sev_snp::verify(&kit.snp.body, &kit.snp.endorsements, &BOUND, &kit.snp.trust, NOW, &mut checks);
    let tdx = tdx::verify(&kit.tdx.body, &kit.tdx.endorsements, &BOUND, &kit.tdx.trust, NOW, &mut checks);
    let tpm2 = tpm2::verify(&kit.tpm2.body, &[], &BOUND, &kit.tpm2.trust, &|_| None, NOW, &mut checks);
    let nitro = nitro::verify(&kit.nitro.body, &[], &BOUND, &kit.nitro.trust, NOW, &mut checks).unwrap();
    let mut nitro = nitro.claims().clone();
    (nitro.public_key, nitro.user_data) = (text("aa"), text("bb"));
    let mut snp = snp.unwrap().claims().clone();
    (snp.chip_id, snp.csp_id, snp.id_key_digest) = (text("aa"), text("bb"), text("cc"));
    (snp.family_id, snp.reported_tcb.fmc) = (text("dd"), Some(1));
    let process = AttestedProcess {
        node: "node-1".into(),
        executable_path: "/bin/a".into(),
        executable_sha256: "ab".repeat(32),
        fs_verity: text("ab"),
        uid: 1,
        gid: 2,
        groups: BTreeSet::from([3]),
        cgroup: "/a".into(),
        systemd_unit: text("a.service"),
        container_id: text("c"),
        program_sha256: BTreeSet::new(),
        program_paths: BTreeSet::new(),
        reference_set: name(),
    };
    AttestedClaims {
        process: Some(process),
        tpm2: Some(Attested { claims: tpm2.unwrap().claims().clone(), reference_set: name() }),
        nitro: Some(Attested { claims: nitro, reference_set: name() }),
        sev_snp: Some(Attested { claims: snp, reference_set: name() }),
        tdx: Some(Attested { claims: tdx.unwrap().claims().clone(), reference_set: name() }),
    }
});

/// Only those of [`OPTIONAL`] whose place is in `there`, and of what is there, what is below it.
fn only(there: &BTreeSet<usize>) -> (AttestedClaims, Vec<String>) {
    let stands = |name: &str| there.iter().any(|place| OPTIONAL[*place].0 == name);
    let mut claims = WHOLE.clone();
    fn keep<T>(value: &mut Option<T>, stands: bool) {
        if !stands {
            *value = None;
        }
    }
    if let Some(process) = &mut claims.process {
        keep(&mut process.fs_verity, stands("process.fs_verity"));
        keep(&mut process.systemd_unit, stands("process.systemd_unit"));
        keep(&mut process.container_id, stands("process.container_id"));
    }
    if let Some(Attested { claims: nitro, .. }) = &mut claims.nitro {
        keep(&mut nitro.public_key, stands("nitro.public_key"));
        keep(&mut nitro.user_data, stands("nitro.user_data"));
    }
    if let Some(Attested { claims: snp, .. }) = &mut claims.sev_snp {
        keep(&mut snp.chip_id, stands("sev_snp.chip_id"));
        keep(&mut snp.csp_id, stands("sev_snp.csp_id"));
        keep(&mut snp.id_key_digest, stands("sev_snp.id_key_digest"));
        keep(&mut snp.family_id, stands("sev_snp.family_id"));
        keep(&mut snp.reported_tcb.fmc, stands("sev_snp.fmc"));
    }
    keep(&mut claims.process, stands("process"));
    keep(&mut claims.tpm2, stands("tpm2"));
    keep(&mut claims.nitro, stands("nitro"));
    keep(&mut claims.sev_snp, stands("sev_snp"));
    keep(&mut claims.tdx, stands("tdx"));
    let reached = |name: &str| stands(name) && stands(name.split('.').next().unwrap());
    let mut names: Vec<String> =
        OPTIONAL.iter().map(|(name, _)| *name).filter(|name| reached(name)).map(str::to_owned).collect();
    names.sort_unstable();
    (claims, names)
}

fn decided(set: &PolicySet, claims: &AttestedClaims) -> Decision {
    let (path, labels) = (SecretPath::parse("kv/a").unwrap(), BTreeMap::new());
    set.decide(&Question {
        principal: &SpiffeId::parse("spiffe://example.org/a").unwrap(),
        secret: SecretFacts { path: &path, labels: &labels },
        claims,
        channel_binding: ChannelBinding::TlsExporter,
        ttl_seconds: 60,
        hold: false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn policy_sees_what_is_there_and_nothing_of_what_is_absent(
        there in prop::collection::btree_set(0..OPTIONAL.len(), 0..=OPTIONAL.len()),
    ) {
        let (claims, names) = only(&there);
        let expected = match names.is_empty() {
            true => Decision::Silent,
            false => Decision::Permitted { rules: names },
        };
        prop_assert_eq!(decided(&PRESENCE, &claims), expected);
    }

    /// A number that Cedar does not have is no number at all: where it stands, whatever permits counts for nothing.
    #[test]
    fn a_claim_without_a_form_in_policy_permits_nothing(numbers in prop::array::uniform4(prop_oneof![
        any::<u64>(), Just(i64::MAX as u64), Just(i64::MAX as u64 + 1), Just(u64::MAX), 0..1000_u64,
    ])) {
        let mut claims = WHOLE.clone();
        let process = claims.process.as_mut().unwrap();
        (process.uid, process.gid, process.groups) = (numbers[0], numbers[1], BTreeSet::from([numbers[2]]));
        claims.nitro.as_mut().unwrap().claims.timestamp.0 = numbers[3];
        let fits = numbers.iter().all(|number| i64::try_from(*number).is_ok());
        match decided(&ALL_PERMITTED, &claims) {
            Decision::Permitted { rules } => prop_assert!(fits && rules == ["all"]),
            Decision::Unevaluable { errors } => prop_assert!(!fits && !errors.is_empty()),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

/// What an operator and a restart do to a vault.
#[derive(Clone, Debug)]
enum Step {
    Put {
        kind: usize,
        name: u8,
        body: Vec<u8>,
    },
    Remove {
        kind: usize,
        name: u8,
    },
    /// Two facts in one transaction; the second rests on a version that is no more, so neither may stand.
    Conflict {
        kind: usize,
        name: u8,
    },
    Reopen,
}

const KINDS: [Kind; 2] = [Kind::SecretValue, Kind::Node];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (kind, name) = (0..KINDS.len(), 0..4_u8);
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (4000..9000_usize).prop_map(|length| vec![7; length])
    ];
    let step = prop_oneof![
        6 => (kind.clone(), name.clone(), body).prop_map(|(kind, name, body)| Step::Put { kind, name, body }),
        2 => (kind.clone(), name.clone()).prop_map(|(kind, name)| Step::Remove { kind, name }),
        1 => (kind, name).prop_map(|(kind, name)| Step::Conflict { kind, name }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

type Model = BTreeMap<(usize, u8), (u64, Vec<u8>)>;

fn name_of(name: u8) -> String {
    "n".repeat(name.into())
}

async fn put(vault: &Vault, kind: usize, name: u8, body: &[u8], model: &mut Model) {
    let (kind, at) = (KINDS[kind], (kind, name));
    let previous = vault.read(kind, &name_of(name)).await.unwrap();
    let mut transaction = Transaction::default();
    vault.put(&mut transaction, kind, &name_of(name), previous.as_ref(), body).unwrap();
    vault.commit(transaction).await.unwrap();
    let version = model.get(&at).map_or(1, |(version, _)| version + 1);
    model.insert(at, (version, body.to_vec()));
}

async fn hold_against_model(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let store = || SledStore::open(directory.path()).unwrap();
    drop(SledStore::create(directory.path()).unwrap());
    let mut vault = Vault::create(Arc::new(store()), &kit::Known).await.unwrap();
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Put { kind, name, body } => put(&vault, kind, name, &body, &mut model).await,
            Step::Remove { kind, name } => {
                let found = vault.read(KINDS[kind], &name_of(name)).await.unwrap();
                assert_eq!(found.is_some(), model.remove(&(kind, name)).is_some());
                if let Some(found) = found {
                    let mut transaction = Transaction::default();
                    vault.remove(&mut transaction, &found);
                    vault.commit(transaction).await.unwrap();
                }
            }
            Step::Conflict { kind, name } => {
                put(&vault, kind, name, b"old", &mut model).await;
                let old = vault.read(KINDS[kind], &name_of(name)).await.unwrap();
                put(&vault, kind, name, b"new", &mut model).await;
                let mut transaction = Transaction::default();
                vault.put(&mut transaction, Kind::State, "other", None, b"x").unwrap();
                vault.put(&mut transaction, KINDS[kind], &name_of(name), old.as_ref(), b"lost").unwrap();
                vault.commit(transaction).await.unwrap_err();
                assert!(vault.read(Kind::State, "other").await.unwrap().is_none());
            }
            Step::Reopen => {
                drop(vault);
                vault = Vault::open(Arc::new(store()), &kit::Known).await.unwrap();
            }
        }
        is_as_its_model(&vault, &model).await;
    }
}

async fn is_as_its_model(vault: &Vault, model: &Model) {
    for (at, kind) in KINDS.iter().enumerate() {
        let records = vault.all(*kind, 100).await.unwrap();
        let found: BTreeMap<_, _> = records
            .iter()
            .map(|record| (record.name.len() as u8, (record.version, record.body.to_vec())))
            .collect();
        let expected: BTreeMap<_, _> = model
            .iter()
            .filter(|((kind, _), _)| *kind == at)
            .map(|((_, name), fact)| (*name, fact.clone()))
            .collect();
        assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_vault_keeps_what_its_model_keeps_through_restarts(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(hold_against_model(steps));
    }
}
