//! Every bound, and where its number came from.

// The wire: `protocol.md`, release protocol version 1.

/// A gRPC message, bytes, both directions (`protocol.md` "A message is at most 512 KiB").
pub const MESSAGE_BYTES: usize = 512 * 1024;
/// Secrets in one `Open` (`protocol.md`).
pub const SECRETS_PER_REQUEST: usize = 16;
/// A secret's path, bytes (`protocol.md`).
pub const PATH_BYTES: usize = 256;
/// Parameters of one secret (`protocol.md`).
pub const PARAMETERS_PER_SECRET: usize = 16;
/// A parameter's key, bytes (`protocol.md`).
pub const PARAMETER_KEY_BYTES: usize = 64;
/// A parameter's value, bytes (`protocol.md`).
pub const PARAMETER_VALUE_BYTES: usize = 8 * 1024;
/// Channel bindings a client may name (`protocol.md`).
pub const CHANNEL_BINDINGS: usize = 8;
/// A channel binding's name, bytes (`protocol.md`).
pub const CHANNEL_BINDING_NAME_BYTES: usize = 32;
/// X25519 public key, bytes (RFC 7748).
pub const RECIPIENT_KEY_BYTES: usize = 32;
/// Nonce of a challenge, bytes (`protocol.md`; RFC 9334 §10.2).
pub const NONCE_BYTES: usize = 32;
/// The evidence binding, bytes: SHA-512 (`protocol.md`).
pub const BINDING_BYTES: usize = 64;
/// TLS exporter value, bytes (RFC 9266 §2).
pub const EXPORTER_BYTES: usize = 32;
/// The longest time to answer a challenge, milliseconds (`protocol.md`).
pub const ANSWER_WITHIN_MS_MAX: u32 = 30_000;
/// `Open` arrives within this time, milliseconds (`protocol.md`).
pub const OPEN_WITHIN_MS: u64 = 10_000;
/// Documents in one `Evidence` (`protocol.md`).
pub const DOCUMENTS: usize = 8;
/// A document's body, or one endorsement, bytes (`protocol.md`).
pub const DOCUMENT_BYTES: usize = 128 * 1024;
/// Endorsements of one document (`protocol.md`).
pub const ENDORSEMENTS: usize = 16;
/// A lease's id, bytes (`protocol.md` "`[A-Za-z0-9_-]{16,64}`").
pub const LEASE_ID_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// A SPIFFE ID, bytes (SPIFFE-ID §2.3).
pub const SPIFFE_ID_BYTES: usize = 2048;
/// A trust domain's name, bytes (SPIFFE-ID §2.3).
pub const TRUST_DOMAIN_BYTES: usize = 255;
/// A stored secret, bytes as an encoded `SecretValue` (`protocol.md` "a stored secret at most 24 KiB").
pub const SECRET_BYTES: usize = 24 * 1024;

// The connection.

/// Concurrent streams of a connection, SETTINGS_MAX_CONCURRENT_STREAMS (`protocol.md`).
pub const STREAMS_PER_CONNECTION: u32 = 64;
/// All header fields of a request, bytes: a gRPC request needs about 300, so this is ample.
pub const HEADER_BYTES: u32 = 8 * 1024;
/// Threads that serve connections: one a processor, and no more than any machine of this kind has.
pub const SHARDS: usize = 256;
/// How often an idle one of them wakes, milliseconds: less than any time that a request waits ([`AUDIT_WAIT_MS`] first).
pub const SHARD_TICK_MS: u64 = 1_000;
/// A TLS handshake, milliseconds: a post-quantum one over a slow link stays under 2 s; slower is a slow loris.
pub const HANDSHAKE_MS: u64 = 5_000;
/// Handshakes under way at once: about two seconds of this machine's capacity; later ones wait in the backlog.
pub const HANDSHAKES: usize = 256;
/// Open connections; beyond it new ones are closed at once.
pub const CONNECTIONS: usize = 8_192;
/// Open connections of one identity: a fleet of replicas under one SPIFFE ID, several connections each.
pub const CONNECTIONS_PER_IDENTITY: usize = 1_024;
/// A connection's greatest age, milliseconds: an hour, so that a client meets new trust at least that often.
pub const CONNECTION_AGE_MS: u64 = 3_600_000;
/// Time for open streams after GOAWAY, milliseconds: the longest challenge and its decision.
pub const DRAIN_MS: u64 = 35_000;
/// HTTP/2 keep-alive PING interval, milliseconds: a dead peer is noticed within two.
pub const KEEP_ALIVE_MS: u64 = 30_000;
/// A certificate chain as presented, bytes: four certificates with 4096-bit RSA keys fit in 8 KiB.
pub const CHAIN_BYTES: usize = 64 * 1024;
/// Certificates in a chain as presented: webpki follows at most six intermediates, and one root may come along.
pub const CHAIN_CERTIFICATES: usize = 8;
/// Connection flow-control window, bytes: twice the largest message.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Stream flow-control window, bytes: half the largest message, so that a stream that is not read holds little.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes queued for one stream's responses: the largest message fits.
pub const SEND_BUFFER_BYTES: usize = 1024 * 1024;
/// Streams that a peer reset before they were accepted, and resets that it made the broker send, before the connection is
/// closed ("rapid reset", CVE-2023-44487): as many as it may have open.
pub const RESET_STREAMS: usize = 64;
/// A peer that does not answer a keep-alive PING within this time is gone, milliseconds.
pub const KEEP_ALIVE_TIMEOUT_MS: u64 = 20_000;
/// Pause after an accept error that is the machine's, such as EMFILE, milliseconds: the loop neither dies nor spins.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// How often a connection looks at its own end against the clock, milliseconds: timers stand still in a suspended machine.
pub const CONNECTION_LOOK_MS: u64 = 30_000;
/// A refused handshake of one leaf key is recorded at most once in this time, milliseconds (`protocol.md`).
pub const HANDSHAKE_RECORD_MS: u64 = 60_000;
/// Leaf keys remembered for that; beyond it refused handshakes are counted only.
pub const HANDSHAKE_RECORD_KEYS: usize = 4_096;

// Freshness.

/// Allowance for what begins in the future, seconds: certificates, `thisUpdate`, `iat` (`durability.md` "Time").
pub const NOT_YET_ALLOWANCE_SECONDS: u64 = 30;
/// Oldest `iat` of a `process` statement, seconds (`protocol.md`).
pub const PROCESS_IAT_AGE_SECONDS: u64 = 60;
/// A leaf's whole lifetime where a trust domain revokes by short lives, seconds: SPIRE's hour, backdated by 10 s, and
/// five minutes of margin (the issue's own figure).
pub const SHORT_LIVED_SECONDS: u64 = 65 * 60;
/// How often watched files are read again, milliseconds.
pub const RELOAD_MS: u64 = 1_000;
/// How long a certificate that does not match its key is read again, milliseconds: two files are not renamed at once.
pub const CERTIFICATE_PAIR_MS: u64 = 5_000;
/// A bundle, certificate or key file, bytes: some 100 roots.
pub const TRUST_FILE_BYTES: u64 = 1024 * 1024;
/// A revocation list file, bytes: about 200,000 entries.
pub const CRL_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// A grant's life, milliseconds: the audit record is durable before it exists, so redeeming it takes milliseconds.
pub const GRANT_MS: u64 = 5_000;

// Clock (`durability.md` "Time").

/// Drift between wall and boot clock that is still trusted, milliseconds.
pub const CLOCK_DRIFT_MS: u64 = 2_000;
/// How often the two clocks are anchored anew, milliseconds: at 500 ppm, NTP's greatest slew, that is 300 ms of drift.
pub const CLOCK_ANCHOR_MS: u64 = 600_000;
/// The largest step forward that heals by itself, milliseconds.
pub const CLOCK_HEAL_STEP_MS: u64 = 3_600_000;
/// How long the kernel must have said "synchronised" before it heals, milliseconds.
pub const CLOCK_HEAL_AFTER_MS: u64 = 30_000;

// Leases and latches.

/// Default lease of a secret, seconds: exposed keys are tried within 17 minutes on average (the issue's own figure).
pub const LEASE_DEFAULT_SECONDS: u32 = 300;
/// Longest lease of any secret, seconds.
pub const LEASE_MAXIMUM_SECONDS: u32 = 900;
/// The longest time between two rounds of a held lease, milliseconds, unless configured: a fifth of the default lease, so
/// that a changed workload loses it within a minute.
pub const HOLD_INTERVAL_MS: u32 = 60_000;
/// The shortest that may be configured, or that a short lease makes of it, milliseconds: a round costs what a release does.
pub const HOLD_INTERVAL_MS_MIN: u32 = 1_000;
/// The longest that may be configured, milliseconds: a third of the longest lease.
pub const HOLD_INTERVAL_MS_MAX: u32 = 300_000;
/// How often a held stream looks at the clock, milliseconds: timers stand still in a suspended machine.
pub const HOLD_LOOK_MS: u64 = 1_000;
/// After an uncertain round the next comes after this part of the interval: soon enough to save the lease, and no loop.
pub const HOLD_RETRY_PART: u32 = 4;
/// First hold of a latch, milliseconds (the issue's own figure, as are the three below).
pub const LATCH_FIRST_MS: u64 = 60_000;
/// Longest hold of a latch, milliseconds.
pub const LATCH_LONGEST_MS: u64 = 900_000;
/// A latch is forgotten this long after its end, milliseconds.
pub const LATCH_FORGOTTEN_MS: u64 = 3_600_000;
/// Latches of one identity; beyond it new subjects are held for `LATCH_FIRST_MS`, and nothing is evicted.
pub const LATCHES_PER_IDENTITY: usize = 256;

// What one caller can make the broker do.

/// Streams of one identity at once.
pub const STREAMS_PER_IDENTITY: usize = 1_024;
/// Records that one key may cause, tokens a second and burst: a replica asks a few times a minute.
pub const RECORDS_PER_KEY_PER_SECOND: u64 = 200;
/// Burst of the same.
pub const RECORDS_PER_KEY_BURST: u64 = 2_000;
/// Records that one identity may cause a second: higher, as many replicas share it.
pub const RECORDS_PER_IDENTITY_PER_SECOND: u64 = 2_000;
/// Burst of the same.
pub const RECORDS_PER_IDENTITY_BURST: u64 = 20_000;
/// Unverified or uncertain denials that one key may cause a second.
pub const DENIALS_PER_KEY_PER_SECOND: u64 = 5;
/// Burst of the same.
pub const DENIALS_PER_KEY_BURST: u64 = 100;
/// Unverified or uncertain denials that one identity may cause a second.
pub const DENIALS_PER_IDENTITY_PER_SECOND: u64 = 50;
/// Burst of the same.
pub const DENIALS_PER_IDENTITY_BURST: u64 = 1_000;
/// Callers that the limiter remembers; beyond it the longest idle is forgotten.
pub const LIMITED_CALLERS: usize = 65_536;

// Audit (`durability.md` "Audit").

/// An audit record, bytes: sixteen paths of 256 bytes, an identity of 2048 and the claims fit eight times over.
pub const AUDIT_RECORD_BYTES: usize = 256 * 1024;
/// Zeros written ahead of the audit log's records, bytes: some 2,000 records; writing them takes about a millisecond.
pub const AUDIT_ZEROS_BYTES: u64 = 4 * 1024 * 1024;
/// A segment file of the audit log, bytes.
pub const AUDIT_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Longest wait for the audit log, milliseconds; past it the request is denied.
pub const AUDIT_WAIT_MS: u64 = 3_000;
/// Records written and synced together, bytes: some 700 of the usual 1.5 KB, a millisecond's writing.
pub const AUDIT_GROUP_BYTES: u64 = 1024 * 1024;
/// Records waiting for the disk, bytes; beyond it requests are denied: half a second at the measured 25,000 a second.
pub const AUDIT_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// A signed checkpoint at least every so many records: two seconds of the fastest writing.
pub const AUDIT_CHECKPOINT_RECORDS: u64 = 50_000;
/// A signed checkpoint with the first record after so many milliseconds: it costs two more syncs.
pub const AUDIT_CHECKPOINT_MS: u64 = 10_000;
/// Records between checkpoints that are kept for ever: about 200 bytes each, so a 50th of a byte a record.
pub const AUDIT_HISTORY_RECORDS: u64 = 10_000;
/// A signed note, bytes: a checkpoint and the 16 signatures that a verifier must accept, post-quantum ones too.
pub const NOTE_BYTES: usize = 128 * 1024;

// Store (`durability.md` "sled").

/// A value in the store, bytes: sled writes larger leaves to an unsynced file.
pub const STORE_CHUNK_BYTES: usize = 4 * 1024;
/// A key in the store, bytes: a kind and an HMAC need 33; the bound keeps a full leaf of sled under its quarter segment.
pub const STORE_KEY_BYTES: usize = 256;
/// One transaction, bytes of keys and values: all policy text (`POLICY_BYTES`), twice.
pub const STORE_TRANSACTION_BYTES: usize = 2 * 1024 * 1024;
/// Checks, puts and deletes of one transaction, together: destroying all versions of a secret is some 70.
pub const STORE_TRANSACTION_OPERATIONS: usize = 1024;
/// Entries of one page of a scan.
pub const STORE_PAGE: usize = 1024;
/// Commits that wait for the committer; beyond it the store is unavailable: some 50 ms of its measured rate.
pub const STORE_QUEUE: usize = 1024;
/// Commits that share one sync: well over the measured 64 callers.
pub const STORE_GROUP: usize = 256;
/// sled's page cache, bytes: 100,000 secrets' metadata.
pub const STORE_CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// sled's segment, bytes, its default: a leaf splits past 16 entries and merges to 21 at most, so 4 KiB values make
/// at most 91 KiB, under the 128 KiB past which a leaf would go to an unsynced file.
pub const STORE_SEGMENT_BYTES: usize = 512 * 1024;
/// Longest wait for the store, milliseconds.
pub const STORE_WAIT_MS: u64 = 3_000;

// Key sources (`durability.md` "Key sources").

/// A passphrase, bytes: six words of a word list have some 30, twelve random characters 72 bits; nobody types a kilobyte.
pub const PASSPHRASE_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;
/// Memory of argon2id, KiB: four times RFC 9106's second recommendation (§4), as it is spent once a start: about a second.
pub const ARGON2_MEMORY_KIB: u32 = 256 * 1024;
/// Passes of argon2id (RFC 9106 §4, second recommendation).
pub const ARGON2_PASSES: u32 = 3;
/// Lanes of argon2id (RFC 9106 §4).
pub const ARGON2_LANES: u32 = 4;
/// What stored memory may be, KiB: RFC 9106's least recommendation, and four times ours that a machine still has.
pub const ARGON2_MEMORY_KIB_BOUNDS: std::ops::RangeInclusive<u32> = 64 * 1024..=1024 * 1024;
/// What stored passes may be.
pub const ARGON2_PASSES_BOUNDS: std::ops::RangeInclusive<u32> = 3..=16;
/// What stored lanes may be.
pub const ARGON2_LANES_BOUNDS: std::ops::RangeInclusive<u32> = 1..=16;
/// Shares of a key: a ceremony with more people than this does not happen.
pub const SHARES: u8 = 16;
/// Shares that one certificate's key may try in `UNSEAL_ATTEMPTS_MS`: a person who mistypes needs three.
pub const UNSEAL_ATTEMPTS: u32 = 10;
/// That time, milliseconds.
pub const UNSEAL_ATTEMPTS_MS: u64 = 60_000;
/// Shares that are in are forgotten so long after the last one, milliseconds: holders on a call together need minutes.
pub const UNSEAL_WITHIN_MS: u64 = 15 * 60_000;
/// Shares that were dealt while serving are forgotten, and the key with them, so long after, milliseconds: holders need not be in one
/// place, but a ceremony has a day.
pub const DEALT_MS: u64 = 24 * 3_600_000;
/// Records sealed anew in one commit of a rewrap: some milliseconds, so that other changes wait no longer.
pub const REWRAP_BATCH: usize = 16;
/// The pause after each, milliseconds: releases and changes go before.
pub const REWRAP_PAUSE_MS: u64 = 5;

// The engine `kv`.

/// A field's or a label's name, bytes, `[a-z0-9_.-]`.
pub const FIELD_NAME_BYTES: usize = 64;
/// Labels of one secret.
pub const LABELS: usize = 32;
/// A label's value, bytes.
pub const LABEL_VALUE_BYTES: usize = 256;
/// Versions that a secret keeps; the put of one more destroys the oldest: two months of daily rotation.
pub const SECRET_VERSIONS: usize = 64;
/// Secrets that one listing looks at before it gives its page, however few of them match.
pub const SECRETS_LISTED: usize = 4096;

// The node's attester (`protocol.md` "The node's attester").

/// Formats in one `Start`.
pub const ATTEST_FORMATS: usize = 16;
/// Descriptors in one `Start`.
pub const ATTEST_PROGRAM_FDS: usize = 8;
/// `Proof` arrives within this time, milliseconds.
pub const ATTEST_PROOF_WITHIN_MS: u64 = 5_000;
/// Connections that the attester serves at once.
pub const ATTEST_CONNECTIONS: usize = 256;
/// `Start` arrives within this time of its stream, milliseconds: as `Open` does.
pub const ATTEST_START_WITHIN_MS: u64 = 10_000;
/// Connections of one user: a node's workloads often share one, and none may take them all.
pub const ATTEST_CONNECTIONS_PER_USER: usize = 64;
/// Measurements under way for one user: a file on a hanging file system holds one of its own for ever, and no other's.
pub const ATTEST_MEASUREMENTS_PER_USER: usize = 4;
/// A measurement, milliseconds, waiting for its turn included: 1 GiB is read and hashed in some 3 s.
pub const ATTEST_MEASURE_WITHIN_MS: u64 = 20_000;
/// Concurrent streams of a connection to the attester: a workload needs one or two.
pub const ATTEST_STREAMS: u32 = 8;
/// A request message to the attester, bytes: binding, 16 names and 8 numbers fit in a quarter of it.
pub const ATTEST_MESSAGE_BYTES: usize = 4 * 1024;
/// A connection's greatest age, milliseconds: one attestation takes seconds at most.
pub const ATTEST_CONNECTION_MS: u64 = 600_000;
/// A file of `/proc`, bytes: arguments and environment share at most 6 MiB (`execve(2)`), all others are small.
pub const ATTEST_PROC_BYTES: u64 = 8 * 1024 * 1024;
/// Threads of a measured process: each one's tracer is looked at.
pub const ATTEST_THREADS: usize = 8 * 1024;
/// A node key file, bytes: PKCS#8 in PEM takes some 240.
pub const NODE_KEY_FILE_BYTES: u64 = 16 * 1024;
/// The largest file that the attester measures, bytes: large static binaries are some 200 MiB.
pub const ATTEST_FILE_BYTES: u64 = 1024 * 1024 * 1024;
/// A `process` document, bytes: 1024 groups, long paths and eight programs fit in a quarter of it.
pub const PROCESS_DOCUMENT_BYTES: usize = 64 * 1024;
/// A command to the node's TPM, milliseconds: a quote by a discrete TPM takes up to 1 s, by RSA 2 s.
pub const TPM_COMMAND_WITHIN_MS: u64 = 10_000;
/// A command that makes a key, milliseconds: discrete TPMs take up to a minute for RSA.
pub const TPM_CREATE_WITHIN_MS: u64 = 120_000;
/// A TPM's response, bytes: what TPMs have for a buffer (TPM_PT_MAX_RESPONSE_SIZE).
pub const TPM_RESPONSE_BYTES: usize = 4 * 1024;
/// How often a TPM that says "not now" is asked, and the pause between, milliseconds.
pub const TPM_RETRIES: u32 = 10;
/// That pause.
pub const TPM_RETRY_MS: u64 = 50;
/// How often a quote is repeated because a PCR changed meanwhile: boots are over when workloads ask.
pub const TPM_QUOTES: u32 = 5;
/// A quote for one attestation, milliseconds, waiting for its turn included: half of the usual time to answer a challenge
/// (`answer_within_ms`), so that a TPM that hangs does not cost the documents that need none.
pub const ATTEST_QUOTE_WITHIN_MS: u64 = 5_000;
/// A file of a TPM's enrolment, bytes: keys, an EK certificate in its padding and its issuers, in hex.
pub const TPM_ENROLMENT_FILE_BYTES: u64 = 128 * 1024;
/// Nesting of CBOR (`evidence.md` §1).
pub const CBOR_DEPTH: usize = 16;
/// Entries of a CBOR map whose keys need not ascend, each compared with all before: a Nitro document has at most 32 in one,
/// a CoRIM some twenty.
pub const CBOR_UNORDERED_ENTRIES: usize = 128;

// AWS Nitro Enclaves (`nitro`): `evidence.md` §1 and §2, AWS's own "attestation process".

/// An attestation document, bytes (`evidence.md` §1): real ones take some 4.6 KiB, the largest allowed fields 2 KiB more.
pub const NITRO_DOCUMENT_BYTES: usize = 16 * 1024;
/// PCRs of a document, and one past the greatest index.
pub const NITRO_PCRS: u8 = 32;
/// A certificate of a document, bytes.
pub const NITRO_CERTIFICATE_BYTES: usize = 1024;
/// Certificates in `cabundle`: AWS sends four, and webpki follows six intermediates under a root.
pub const NITRO_CABUNDLE: usize = 7;
/// `module_id`, bytes: AWS's are 39.
pub const NITRO_MODULE_ID_BYTES: usize = 256;
/// `public_key`, bytes.
pub const NITRO_PUBLIC_KEY_BYTES: usize = 1024;
/// `user_data`, bytes: AWS's text; its CDDL says twice that, and what a verifier refuses no enclave should send.
pub const NITRO_USER_DATA_BYTES: usize = 512;
/// `nonce`, bytes.
pub const NITRO_NONCE_BYTES: usize = 512;
/// Oldest `timestamp` of a document, seconds (`evidence.md` §2): its certificate lives for three hours, and a captured
/// document would, too.
pub const NITRO_AGE_SECONDS: u64 = 5 * 60;

// Import of reference values.

/// A signed CoRIM, bytes: published ones take some KiB; this is thousands of measurements, and some 30 MiB when read.
pub const CORIM_BYTES: usize = 1024 * 1024;
/// Keys of which one must have signed an imported manifest: a publisher's present and next one, of a few publishers.
pub const CORIM_SIGNERS: usize = 8;

// AMD SEV-SNP (`evidence.md` §4).

/// An attestation report, bytes: never more, never less (AMD 56860, ATTESTATION_REPORT).
pub const SEV_SNP_REPORT_BYTES: usize = 1184;
/// One of AMD's certificates, bytes: an ASVK, the longest, takes 1,683; with names and keys of twice the length it fits.
pub const SEV_SNP_CERTIFICATE_BYTES: usize = 4 * 1024;
/// Carried certificates that are tried as the issuer of the signing key's: one is needed, and two while AMD renews its own.
/// Each costs two RSA verifications at most.
pub const SEV_SNP_ISSUERS: usize = 4;
/// A revocation list of AMD's, bytes: it lists intermediates, of which there are two a product.
pub const SEV_SNP_LIST_BYTES: usize = 256 * 1024;
/// Certificates of signing keys that were handed in and are kept: one a chip and TCB, about 1.5 KiB each, so 25 MiB.
pub const SEV_SNP_KEPT_CERTIFICATES: usize = 16_384;

// TPM 2.0 (`evidence.md` §1, §3).

/// A TPMS_ATTEST, bytes: a quote of three banks takes some 200 (`evidence.md` §1).
pub const TPM2_ATTEST_BYTES: usize = 2 * 1024;
/// Values of PCRs in one document: 24 of a PC Client TPM, in each of three banks.
pub const TPM2_PCR_VALUES: usize = 72;
/// Events of a boot that extend a PCR: usual firmware and boot loaders log 50 to 200. Their digests are claims, so they are in
/// an audit record, where 512 of SHA-256 take 34 KiB.
pub const TPM2_EVENTS: usize = 512;
/// An endorsement key's certificate with the padding that its NV index leaves behind, bytes: the largest index seen has 4 KiB.
pub const TPM2_EK_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Certificates that an attester passes along with its EK's: chains have one or two between it and the root.
pub const TPM2_EK_ISSUERS: usize = 4;
/// The answer to an enrolment's challenge arrives within this time, milliseconds. A TPM takes 2 s; an administrator carries one
/// file to the node and one back by hand, and may have to log in there first.
pub const TPM2_ENROL_WITHIN_MS: u64 = 10 * 60_000;
/// Enrolments that wait for their answer at once: more than administrators carry files for in that time.
pub const TPM2_ENROLMENTS: usize = 64;
/// Attestation keys of one node: one in use and its successors.
pub const TPM2_KEYS_PER_NODE: usize = 8;
/// Attestation keys of all nodes: one each, and one more while it is replaced.
pub const TPM2_KEYS: usize = 200_000;
/// Endorsement keys that one enrolment approves: those of the kinds that one TPM has.
pub const TPM2_APPROVED_EKS: usize = 8;
/// Counters of TPMs that are written to the store at once: they change at boots, and a rack may boot together.
pub const TPM2_COUNTERS_AT_ONCE: usize = 32;

// Policy and reference values.

/// All policy text, bytes: 1000 policies of about 400 bytes, twice.
pub const POLICY_BYTES: usize = 1024 * 1024;
/// Reference sets of all workloads.
pub const REFERENCE_SETS: usize = 100_000;
/// A policy's name, bytes: long enough to say what it is for, short enough for every record of a decision.
pub const POLICY_NAME_BYTES: usize = 64;
/// Enrolled nodes: a large fleet; all are held in memory, about 1 KiB each.
pub const NODES: usize = 100_000;
/// Administrators.
pub const ADMINISTRATORS: usize = 1_000;
/// The broker's own revocations.
pub const REVOCATIONS: usize = 100_000;
/// Brackets within brackets of a policy: people write five or six.
pub const POLICY_DEPTH: usize = 12;
/// Operators, members, brackets and conditionals of one policy: each may be a level of its syntax tree, which Cedar
/// walks by recursion. People write some five for a comparison, so this is about fifty comparisons.
pub const POLICY_PARTS: usize = 256;
/// The stack that policies are compiled on, bytes: the validator's 256 levels of 10 KiB (measured, debug build), over ten
/// times, as Cedar's validator passes whatever it has no stack to look at.
pub const POLICY_STACK_BYTES: usize = 32 * 1024 * 1024;
/// The stack of a thread that decides, bytes: the evaluator's 256 levels of 34 KiB (measured, debug build). On less, the
/// deepest policies are not evaluable, which denies. Only touched pages cost memory.
pub const DECIDING_STACK_BYTES: usize = 16 * 1024 * 1024;

// The operators' API.

/// A message of the operators' API, bytes, both directions: all policy text (`POLICY_BYTES`), twice.
pub const ADMIN_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// Reference sets in one put: with their checks, well under `STORE_TRANSACTION_OPERATIONS` whatever their chunks.
pub const REFERENCE_SETS_PER_PUT: usize = 128;
/// Measurements that one node may be enrolled with: a few images, each in an old and a new version.
pub const NODE_MEASUREMENTS: usize = 64;
/// PCR0 of Nitro, MEASUREMENT of SEV-SNP, MRTD of TDX, bytes: SHA-384 each.
pub const MEASUREMENT_BYTES: usize = 48;
/// Patterns of one node: its enrolment stays a few pages, and a look at it short.
pub const NODE_PATTERNS: usize = 256;
/// Facts in one listing, bytes: half of a message, as what is sent of a fact is at most twice what is stored.
pub const ADMIN_LISTED_BYTES: usize = 1024 * 1024;
/// Records that `explain` looks at for a decision, the newest first: some seconds of reading, a day of a busy broker.
pub const EXPLAIN_RECORDS: u64 = 5_000_000;
/// Changes that wait for a second person, at once: more than two people look at in a week, and some 90 MiB at the very most.
pub const PROPOSALS: usize = 64;
/// How long one waits, milliseconds: a week, so that a weekend or a short illness does not end it.
pub const PROPOSAL_MS: u64 = 7 * 86_400_000;

// Intel DCAP quotes (formats `tdx` and `sgx`; `evidence.md` §1, §5).

/// A quote with its padding, bytes (`evidence.md` §1): real ones take some 5 KB in buffers of 8000.
pub const DCAP_QUOTE_BYTES: usize = 16 * 1024;
/// Collateral, bytes, as one endorsement, one file or one answer of the PCS: eight real sets take 14 to 21 KB, a third
/// of it the revocation list of the platform CA, which grows.
pub const DCAP_COLLATERAL_BYTES: usize = 64 * 1024;
/// Endorsements that are read: collateral comes as one, and at most one for each of its four parts.
pub const DCAP_ENDORSEMENTS: usize = 4;
/// An issuer chain in a header of the PCS, bytes, percent-encoded: two certificates take some 2.5 KB.
pub const DCAP_ISSUER_CHAIN_BYTES: usize = 8 * 1024;
/// Parts of Intel's collateral that are kept: four a platform, one of them its own; Intel has some tens of FMSPCs, and
/// each takes some 20 KB.
pub const DCAP_KEPT_PARTS: usize = 512;

// Collateral that is fetched.

/// All headers of a service's answer, bytes: an issuer chain takes up to 8 KiB (`DCAP_ISSUER_CHAIN_BYTES`).
pub const COLLATERAL_HEADER_BYTES: usize = 16 * 1024;
/// What of an answer is read ahead, bytes: twice the headers, so that it is they that are too large and not the buffer.
pub const COLLATERAL_BUFFER_BYTES: usize = 32 * 1024;
/// A chain of AMD's, bytes: intermediate and root take some 4.8 KB in PEM.
pub const COLLATERAL_CHAIN_BYTES: usize = 16 * 1024;
/// Items that are being fetched or wait for their turn: past it callers hear so at once.
pub const COLLATERAL_UNDER_WAY: usize = 64;
/// Items that failed and are remembered, so that they are not asked for at once again.
pub const COLLATERAL_FAILED_ITEMS: usize = 4_096;
/// Files that are read from the collateral directory: those of AMD's chips and a few hundred of Intel's.
pub const COLLATERAL_FILES: usize = SEV_SNP_KEPT_CERTIFICATES + 1_024;
/// Files that could not be read or written and are told of.
pub const COLLATERAL_FILE_FAULTS: usize = 256;
/// Identities for whose requests something was fetched within a minute; past it no new one's is.
pub const COLLATERAL_IDENTITIES: usize = 4_096;
/// How long `admin collateral refresh` is waited for, milliseconds: other acts wait meanwhile, a revocation among them.
pub const COLLATERAL_REFRESH_WAITS_MS: u64 = 3_000;
/// How often what is held is looked at for what is due, milliseconds.
pub const COLLATERAL_TICK_MS: u64 = 60_000;

// The operations listener (`telemetry`): for a few probes and one scraper on this machine.

/// Its connections at once: ten times what such a machine's probes and scrapers need.
pub const OPERATIONS_CONNECTIONS: usize = 64;
/// A connection that has asked nothing for so long is closed, and a request's head arrives within it, milliseconds.
pub const OPERATIONS_IDLE_MS: u64 = 5_000;
/// A gRPC request's message arrives and is answered within this time, milliseconds: probes give up after 1 to 10 s.
pub const OPERATIONS_ANSWER_MS: u64 = 5_000;
/// A connection's greatest age, milliseconds: a watcher connects again six times an hour.
pub const OPERATIONS_CONNECTION_MS: u64 = 600_000;
/// Concurrent streams of one connection.
pub const OPERATIONS_STREAMS: u32 = 16;
/// Health watches at once, over all connections: so many connections are always left for probes.
pub const OPERATIONS_WATCHES: usize = 16;
/// A health request, bytes: a service's name.
pub const OPERATIONS_MESSAGE_BYTES: usize = 4 * 1024;
/// A request's head over HTTP/1, bytes (hyper takes no less than 8 KiB).
pub const OPERATIONS_BUFFER_BYTES: usize = 16 * 1024;
/// How often the threads that write are asked whether they answer, milliseconds.
pub const PULSE_MS: u64 = 1_000;
/// A thread that has not answered for so long hangs, milliseconds: three times the longest wait for it, and a second.
pub const LIVE_MS: u64 = 10_000;
/// How often room on the disks is looked at, milliseconds: a busy log writes some 20 MiB a second at most, and the ballast is
/// let go with 16 MiB left.
pub const DISK_LOOK_MS: u64 = 1_000;
/// A look at the disks that is older than this says nothing any more, milliseconds: a file system that hangs gives no figures.
pub const DISK_KNOWN_MS: u64 = 25_000;
/// Files in one directory that `admin apply` reads: more are not what a person looks through before they are applied.
pub const APPLY_FILES: usize = 4096;

// Backup and restore.

/// Entries that a backup reads at once, while commits wait: with values of 28 KiB a few milliseconds.
pub const BACKUP_PAGE: usize = 64;
/// Keys that were changed since a backup read them, and wait to be read again: some 5 MiB.
pub const BACKUP_CHANGED: usize = 65_536;
/// Pages of such keys after which a backup gives up: a million changes while one store is read.
pub const BACKUP_CATCH_UP: usize = 16_384;
/// A backup's piece on the wire, bytes: far under a message, and few enough of them.
pub const BACKUP_PIECE_BYTES: usize = 256 * 1024;
/// One frame's body in a backup, bytes: the largest value, its key, and their lengths.
pub const BACKUP_FRAME_BYTES: usize = STORE_TRANSACTION_BYTES + STORE_KEY_BYTES + 16;
/// How far commit numbers jump at a restore: more commits than a store makes between two records that name its number, so that
/// no number of the store that was replaced is given again.
pub const RESTORE_NUMBERS: u64 = 1_000_000_000;
/// Lines of a restore's report that are kept, and bytes of one.
pub const RESTORE_REPORT_LINES: usize = 1_000;
/// Bytes of one of them.
pub const RESTORE_REPORT_LINE_BYTES: usize = 600;
/// What the last day wrote is not archived, milliseconds: a start rebuilds leases and latches from the last hours.
pub const AUDIT_ARCHIVE_KEEP_MS: u64 = 86_400_000;
