//! Every rule of bundles, lists and paths, and what each denies.

use super::*;
use crate::time::BootTime;
use crate::transport::testkit::*;
use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint};

fn denial(trust: &Trust, identity: &Identity, now: Now) -> Option<Denial> {
    trust.prove(&identity.connection(), now).err()
}

#[test]
fn a_good_peer_is_proven_until_the_first_of_its_inputs_ends() {
    let world = World::new();
    let trust = world.trust();
    let peer = trust.prove(&world.root.leaf(ID).connection(), at(1)).unwrap();
    assert_eq!(peer.usable_until(), at(1800).wall, "the bundle's age");
    assert_eq!(Some(peer.epoch()), trust.epoch_of(&world.config().name));
    let short = world.root.leaf_with(ID, |p| validity(p, 0, 600));
    assert_eq!(trust.prove(&short.connection(), at(1)).unwrap().usable_until(), at(600).wall, "the leaf");
    write(&world.crl_path(), world.root.crl_with(11, &[], |p| p.next_update = date!(300)), 2);
    trust.reload(at(2));
    let peer = trust.prove(&world.root.leaf(ID).connection(), at(2)).unwrap();
    assert_eq!(peer.usable_until(), at(300).wall, "the list");
}

#[test]
fn an_unknown_trust_domain_is_denied() {
    let world = World::new();
    let other = world.root.leaf("spiffe://other.org/ns/payments/api");
    assert_eq!(denial(&world.trust(), &other, at(1)), Some(Denial::PeerTrustDomainUnknown));
}

#[test]
fn the_bundle_of_the_domain_in_the_san_alone_counts() {
    let (world, other) = (World::new(), World::new());
    let mut config = other.config();
    config.name = TrustDomain::parse("other.org").unwrap();
    let trust = Trust::open(vec![world.config(), config], world.marks.clone(), at(0));
    let theirs = |id| other.root.leaf(id);
    assert_eq!(denial(&trust, &theirs("spiffe://other.org/a"), at(1)), None);
    assert_eq!(denial(&trust, &theirs("spiffe://example.org/a"), at(1)), Some(Denial::PeerUntrusted));
}

#[test]
fn windows_are_checked_on_the_whole_path() {
    let world = World::new();
    let trust = world.short_lived(10_000_000);
    let leaf = |begins, ends| world.root.leaf_with(ID, |p| validity(p, begins, ends));
    assert_eq!(denial(&trust, &leaf(31, 600), at(1)), None, "within the allowance");
    assert_eq!(denial(&trust, &leaf(32, 600), at(1)), Some(Denial::PeerCertificateNotYetValid));
    assert_eq!(denial(&trust, &leaf(-600, 2), at(1)), None);
    assert_eq!(denial(&trust, &leaf(-600, 1), at(1)), Some(Denial::PeerCertificateExpired));
    let through = |begins, ends| {
        let middle = world.root.intermediate("middle", |p| validity(p, begins, ends));
        middle.leaf(ID).through(&middle)
    };
    assert_eq!(denial(&trust, &through(31, 600), at(1)), None);
    assert_eq!(denial(&trust, &through(32, 600), at(1)), Some(Denial::PeerCertificateNotYetValid));
    assert_eq!(denial(&trust, &through(-600, 1), at(1)), Some(Denial::PeerCertificateExpired));
}

#[test]
fn an_expired_root_is_no_root_and_its_renewed_twin_is() {
    let world = World::new();
    let old = Authority::root_with("old", |p| validity(p, -600, 100));
    write(&world.bundle_path(), bundle(&[&old], Some(6)), 0);
    let trust = world.short_lived(10_000_000);
    let leaf = old.leaf(ID);
    assert_eq!(denial(&trust, &leaf, at(99)), None);
    assert_eq!(denial(&trust, &leaf, at(100)), Some(Denial::PeerCertificateExpired));
    let renewed = old.renewed("old", |p| validity(p, -600, 9000));
    write(&world.bundle_path(), bundle(&[&old, &renewed], Some(7)), 0);
    trust.reload(at(100));
    assert_eq!(denial(&trust, &leaf, at(100)), None);
}

#[test]
fn a_signature_of_another_algorithm_is_untrusted() {
    let world = World::new();
    let odd = Authority::root_of("odd", &rcgen::PKCS_ECDSA_P521_SHA512);
    write(&world.bundle_path(), bundle(&[&odd], Some(6)), 0);
    assert_eq!(denial(&world.short_lived(9_000), &odd.leaf(ID), at(1)), Some(Denial::PeerUntrusted));
}

#[test]
fn a_foreign_or_forged_certificate_is_untrusted() {
    let world = World::new();
    let twin = Authority::root("root");
    assert_eq!(denial(&world.trust(), &twin.leaf(ID), at(1)), Some(Denial::PeerUntrusted));
    let mut leaf = world.root.leaf(ID);
    let mut forged = leaf.chain[0].to_vec();
    *forged.last_mut().unwrap() ^= 1;
    leaf.chain[0] = forged.into();
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::PeerUntrusted));
}

#[test]
fn a_name_constrained_ca_fails_closed() {
    let world = World::new();
    let subtree = rcgen::GeneralSubtree::DnsName("example.org".into());
    let narrow = rcgen::NameConstraints { permitted_subtrees: vec![subtree], excluded_subtrees: vec![] };
    let middle = world.root.intermediate("middle", |p| p.name_constraints = Some(narrow));
    let leaf = middle
        .leaf_with(ID, |p| {
            p.subject_alt_names.push(rcgen::SanType::DnsName("evil.org".try_into().unwrap()));
        })
        .through(&middle);
    assert_eq!(denial(&world.short_lived(9_000), &leaf, at(1)), Some(Denial::PeerUntrusted));
}

#[test]
fn a_leaf_that_lives_too_long_is_denied_where_short_lives_revoke() {
    let world = World::new();
    let leaf = |ends| world.root.leaf_with(ID, |p| validity(p, 0, ends));
    let trust = world.short_lived(3900);
    assert_eq!(denial(&trust, &leaf(3900), at(1)), None);
    assert_eq!(denial(&trust, &leaf(3901), at(1)), Some(Denial::PeerCertificateLifetimeTooLong));
    assert_eq!(denial(&world.trust(), &leaf(3901), at(1)), None, "lists revoke there");
}

#[test]
fn a_revoked_certificate_is_denied_leaf_or_intermediate() {
    let world = World::new();
    write(&world.crl_path(), world.root.crl(11, &[7]), 0);
    assert_eq!(denial(&world.trust(), &world.root.leaf(ID), at(1)), Some(Denial::PeerRevoked));
    let middle = world.root.intermediate("middle", |_| {});
    let leaf = middle.leaf(ID).through(&middle);
    let lists = |root: &[u64], own: &[u64], number| {
        let root = pem("X509 CRL", &world.root.crl(number, root));
        let own = pem("X509 CRL", &middle.crl(number, own));
        write(&world.crl_path(), format!("{root}{own}"), 0);
    };
    lists(&[], &[], 12);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), None);
    lists(&[9], &[], 13);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::PeerRevoked));
    lists(&[], &[7], 14);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::PeerRevoked));
}

#[test]
fn an_empty_revocation_list_set_never_turns_revocation_off() {
    let world = World::new();
    let mut config = world.config();
    config.revocation = RevocationMode::Crl { files: vec![], max_age_seconds: 7200 };
    let trust = Trust::open(vec![config], world.marks.clone(), at(0));
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(1)), Some(Denial::RevocationUnknown));
}

#[test]
fn an_issuer_without_a_list_leaves_revocation_unknown() {
    let world = World::new();
    let middle = world.root.intermediate("middle", |_| {});
    let leaf = middle.leaf(ID).through(&middle);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::RevocationUnknown));
    let twin = Authority::root("root");
    write(&world.crl_path(), twin.crl(10, &[]), 0);
    let unknown = Some(Denial::RevocationUnknown);
    assert_eq!(denial(&world.trust(), &world.root.leaf(ID), at(1)), unknown, "another key, same name");
}

#[test]
fn two_cas_of_one_name_each_with_a_list_do_not_hide_each_other() {
    let world = World::new();
    let twin = Authority::root("root");
    write(&world.bundle_path(), bundle(&[&world.root, &twin], Some(6)), 0);
    let lists = [pem("X509 CRL", &world.root.crl(11, &[])), pem("X509 CRL", &twin.crl(11, &[7]))];
    write(&world.crl_path(), lists.concat(), 0);
    let trust = world.trust();
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(1)), None);
    assert_eq!(denial(&trust, &twin.leaf(ID), at(1)), Some(Denial::PeerRevoked));
}

#[test]
fn stale_crl_is_denied() {
    let world = World::new();
    let stale = Some(Denial::RevocationStale);
    let crl = |number, begins, ends| {
        let list = world.root.crl_with(number, &[], |p| {
            p.this_update = date!(begins);
            p.next_update = date!(ends);
        });
        write(&world.crl_path(), list, 0);
    };
    crl(11, -60, 100);
    let leaf = world.root.leaf(ID);
    assert_eq!(denial(&world.trust(), &leaf, at(99)), None);
    assert_eq!(denial(&world.trust(), &leaf, at(100)), stale, "nextUpdate");
    crl(12, -7200, 10_000);
    assert_eq!(denial(&world.trust(), &leaf, at(0)), stale, "its own maximum age");
}

#[test]
fn a_list_from_the_future_leaves_revocation_unknown() {
    let world = World::new();
    let leaf = world.root.leaf(ID);
    write(&world.crl_path(), world.root.crl_with(11, &[], |p| p.this_update = date!(31)), 0);
    assert_eq!(denial(&world.trust(), &leaf, at(0)), Some(Denial::RevocationUnknown));
    assert_eq!(denial(&world.trust(), &leaf, at(1)), None, "within the allowance");
}

#[test]
fn an_older_list_is_unusable_until_accepted_even_after_a_restart() {
    let world = World::new();
    let leaf = world.root.leaf(ID);
    write(&world.crl_path(), world.root.crl(300, &[7]), 0);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::PeerRevoked));
    write(&world.crl_path(), world.root.crl(299, &[]), 0);
    let trust = world.trust();
    assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::RevocationUnknown));
    let state = |trust: &Trust| trust.status(at(1)).remove(0).revocation;
    assert_eq!(state(&trust).usable_for_ms, 0);
    assert!(state(&trust).state.contains("older than one already seen"), "{}", state(&trust).state);
    let name = &world.config().name;
    let accepted = trust.accept_crl(name, &world.root.certificate, at(1)).unwrap();
    assert_eq!(accepted.len(), 1);
    assert_eq!(denial(&trust, &leaf, at(1)), None);
    assert!(state(&trust).usable_for_ms > 0 && state(&trust).state.starts_with("usable"));
    let twin = Authority::root("root");
    assert_eq!(trust.accept_crl(name, &twin.certificate, at(1)), Err(AcceptError::NoList));
}

#[test]
fn an_equal_number_with_an_older_date_is_older() {
    let world = World::new();
    let leaf = world.root.leaf(ID);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), None);
    write(&world.crl_path(), world.root.crl_with(10, &[], |p| p.this_update = date!(-61)), 0);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::RevocationUnknown));
}

#[test]
fn two_lists_for_one_scope_leave_revocation_unknown() {
    let world = World::new();
    let both = [pem("X509 CRL", &world.root.crl(11, &[])), pem("X509 CRL", &world.root.crl(12, &[7]))];
    write(&world.crl_path(), both.concat(), 0);
    let trust = world.trust();
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(1)), Some(Denial::RevocationUnknown));
    assert_eq!(trust.status(at(1)).remove(0).revocation.usable_for_ms, 0);
}

#[test]
fn partitioned_lists_revoke_by_any_of_them_and_never_beside_a_whole_one() {
    let world = World::new();
    let uri = |n: u8| CrlDistributionPoint { uris: vec![format!("http://crl.example.org/{n}")] };
    let part = |n: u8, revoked: &[u64]| {
        let crl = world.root.crl_with(11, revoked, |p| {
            let distribution_point = uri(n);
            p.issuing_distribution_point =
                Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
        });
        pem("X509 CRL", &crl)
    };
    let leaf = world.root.leaf_with(ID, |p| p.crl_distribution_points = vec![uri(1)]);
    write(&world.crl_path(), part(1, &[]) + &part(2, &[]), 0);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), None);
    write(&world.crl_path(), part(1, &[]) + &part(2, &[7]), 0);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::PeerRevoked));
    write(&world.crl_path(), part(2, &[]), 0);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::RevocationUnknown), "not of its scope");
    let whole = pem("X509 CRL", &world.root.crl(11, &[]));
    write(&world.crl_path(), part(1, &[]) + &whole, 0);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::RevocationUnknown));
}

#[test]
fn an_unparsable_list_or_an_absent_file_leaves_revocation_unknown() {
    let world = World::new();
    let trust = world.trust();
    let leaf = world.root.leaf(ID);
    assert_eq!(denial(&trust, &leaf, at(1)), None);
    for content in [&b""[..], b"-----BEGIN X509 CRL-----\nAA", &[0x30, 0]] {
        write(&world.crl_path(), content, 1);
        trust.reload(at(1));
        assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::RevocationUnknown));
    }
    std::fs::remove_file(world.crl_path()).unwrap();
    trust.reload(at(1));
    assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::RevocationUnknown));
}

#[test]
fn marks_that_cannot_be_read_leave_lists_and_bundle_unknown() {
    let world = World::new();
    world.marks.broken.store(true, Ordering::SeqCst);
    let trust = world.trust();
    let leaf = world.root.leaf(ID);
    assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::BundleUnknown));
    world.marks.broken.store(false, Ordering::SeqCst);
    trust.reload(at(1));
    assert_eq!(denial(&trust, &leaf, at(1)), None);
    world.marks.broken.store(true, Ordering::SeqCst);
    write(&world.crl_path(), world.root.crl(11, &[]), 1);
    trust.reload(at(1));
    assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::RevocationUnknown));
}

#[test]
fn a_bundle_as_old_as_its_file_goes_stale_and_a_fresh_write_renews_it() {
    let world = World::new();
    let trust = world.trust();
    let leaf = world.root.leaf(ID);
    let epoch = trust.epoch_of(&world.config().name);
    assert_eq!(denial(&trust, &leaf, at(1799)), None);
    assert_eq!(denial(&trust, &leaf, at(1800)), Some(Denial::BundleStale));
    write(&world.bundle_path(), bundle(&[&world.root], Some(5)), 1700);
    trust.reload(at(1800));
    assert_eq!(denial(&trust, &leaf, at(1800)), None);
    assert_eq!(trust.epoch_of(&world.config().name), epoch, "the same trust, written again");
    let expired = world.root.leaf_with(ID, |p| validity(p, 0, 10));
    assert_eq!(denial(&trust, &expired, at(9000)), Some(Denial::PeerCertificateExpired), "provable anyway");
}

#[test]
fn a_bundle_written_in_the_future_is_unknown() {
    let world = World::new();
    write(&world.bundle_path(), bundle(&[&world.root], Some(5)), 31);
    let trust = world.trust();
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(0)), Some(Denial::BundleUnknown));
    trust.reload(at(1));
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(1)), None);
}

#[test]
fn a_sequence_that_goes_back_or_is_lost_leaves_the_bundle_unknown() {
    let world = World::new();
    let leaf = world.root.leaf(ID);
    assert_eq!(denial(&world.trust(), &leaf, at(1)), None);
    for content in [bundle(&[&world.root], Some(4)), bundle(&[&world.root], None), world.root.pem()] {
        write(&world.bundle_path(), content, 0);
        assert_eq!(denial(&world.trust(), &leaf, at(1)), Some(Denial::BundleUnknown));
    }
    let trust = world.trust();
    trust.accept_bundle(&world.config().name, at(1)).unwrap();
    assert_eq!(denial(&trust, &leaf, at(1)), None);
}

#[test]
fn an_empty_key_set_is_all_revoked_and_not_nothing_changed() {
    let world = World::new();
    let trust = world.trust();
    let peer = trust.prove(&world.root.leaf(ID).connection(), at(1)).unwrap();
    write(&world.bundle_path(), br#"{"keys": [], "spiffe_sequence": 6}"#, 1);
    trust.reload(at(1));
    assert_eq!(peer.reproven(&trust, at(1)).err(), Some(Denial::PeerUntrusted));
    write(&world.bundle_path(), br#"{"spiffe_sequence": 7}"#, 1);
    trust.reload(at(1));
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(1)), Some(Denial::PeerUntrusted));
}

#[test]
fn one_domains_unreadable_file_keeps_no_removed_trust_and_touches_no_other() {
    let (world, other) = (World::new(), World::new());
    let mut config = other.config();
    config.name = TrustDomain::parse("other.org").unwrap();
    let trust = Trust::open(vec![world.config(), config.clone()], world.marks.clone(), at(0));
    let (mine, theirs) = (world.root.leaf(ID), other.root.leaf("spiffe://other.org/a"));
    let peer = trust.prove(&mine.connection(), at(1)).unwrap();
    let before = trust.epoch_of(&config.name);
    std::fs::remove_file(world.bundle_path()).unwrap();
    trust.reload(at(1));
    assert_eq!(peer.reproven(&trust, at(1)).err(), Some(Denial::BundleUnknown));
    assert_eq!(denial(&trust, &theirs, at(1)), None);
    assert_eq!(trust.epoch_of(&config.name), before);
}

#[test]
fn an_unreadable_file_at_the_start_is_one_domains_matter() {
    let world = World::new();
    std::fs::write(world.bundle_path(), "garbage").unwrap();
    let trust = world.trust();
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(1)), Some(Denial::BundleUnknown));
    assert!(trust.status(at(1))[0].bundle.state.starts_with("unknown: "));
}

#[test]
fn a_removed_root_does_not_stay_alive() {
    let world = World::new();
    let trust = world.trust();
    let peer = trust.prove(&world.root.leaf(ID).connection(), at(1)).unwrap();
    let new = Authority::root("new");
    write(&world.bundle_path(), bundle(&[&new], Some(6)), 1);
    trust.reload(at(1));
    assert_eq!(peer.reproven(&trust, at(1)).err(), Some(Denial::PeerUntrusted));
}

#[test]
fn a_domain_configured_twice_is_unknown() {
    let world = World::new();
    let trust = Trust::open(vec![world.config(), world.config()], world.marks.clone(), at(0));
    assert_eq!(denial(&trust, &world.root.leaf(ID), at(1)), Some(Denial::BundleUnknown));
}

#[test]
fn the_brokers_own_revocations_hold_by_identity_and_by_key() {
    let world = World::new();
    let trust = world.trust();
    let leaf = world.root.leaf(ID);
    let connection = leaf.connection();
    let peer = trust.prove(&connection, at(1)).unwrap();
    let pattern = |text| vec![IdPattern::parse(text).unwrap()];
    let identities = pattern("spiffe://example.org/ns/payments/*");
    trust.set_revocations(Revocations { identities, keys: BTreeSet::new() });
    assert_eq!(peer.reproven(&trust, at(1)).err(), Some(Denial::PeerRevokedByBroker));
    let keys = BTreeSet::from([*connection.leaf_spki_sha256()]);
    trust.set_revocations(Revocations { identities: vec![], keys });
    assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::PeerRevokedByBroker));
    std::fs::remove_file(world.crl_path()).unwrap();
    trust.reload(at(1));
    assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::PeerRevokedByBroker), "a confident no first");
    trust.set_revocations(Revocations::default());
    assert_eq!(denial(&trust, &leaf, at(1)), Some(Denial::RevocationUnknown));
}

#[test]
fn a_proof_without_change_still_ends_with_its_inputs() {
    let world = World::new();
    let trust = world.trust();
    let prove = |leaf: &Identity| trust.prove(&leaf.connection(), at(1)).unwrap();
    let leaf = world.root.leaf_with(ID, |p| validity(p, 0, 600));
    assert!(prove(&leaf).reproven(&trust, at(599)).is_ok());
    assert_eq!(prove(&leaf).reproven(&trust, at(600)).err(), Some(Denial::PeerCertificateExpired));
    let long = world.root.leaf_with(ID, |p| validity(p, 0, 50_000));
    assert_eq!(prove(&long).reproven(&trust, at(1800)).err(), Some(Denial::BundleStale));
    write(&world.bundle_path(), bundle(&[&world.root], Some(5)), 3000);
    trust.reload(at(3000));
    let renewed = prove(&long).reproven(&trust, at(3000)).unwrap();
    assert_eq!(renewed.usable_until(), at(HOUR).wall, "the renewed bundle's age, then the list");
    assert_eq!(renewed.reproven(&trust, at(HOUR)).err(), Some(Denial::RevocationStale));
}

#[test]
fn a_proof_is_worth_nothing_to_another_trust() {
    let (world, other) = (World::new(), World::new());
    let connection = world.root.leaf(ID).connection();
    let peer = world.trust().prove(&connection, at(1)).unwrap();
    assert_eq!(peer.reproven(&other.trust(), at(1)).err(), Some(Denial::PeerUntrusted));
}

#[test]
fn changes_are_told_once_with_their_epoch() {
    let world = World::new();
    let trust = world.trust();
    let names = |changes: Vec<InputChange>| {
        changes.into_iter().map(|change| (change.name, change.epoch)).collect::<Vec<_>>()
    };
    let (bundle_name, lists_name) = ("example.org/bundle".to_owned(), "example.org/revocation".to_owned());
    assert_eq!(names(trust.reload(at(1))), [(bundle_name.clone(), 1), (lists_name.clone(), 1)]);
    assert_eq!(trust.reload(at(1)), []);
    write(&world.crl_path(), world.root.crl(11, &[]), 1);
    assert_eq!(names(trust.reload(at(1))), [(lists_name.clone(), 2)]);
    assert_eq!(names(trust.reload(at(1800))), [(bundle_name, 2)], "it went stale");
    assert_eq!(names(trust.reload(at(HOUR))), [(lists_name, 2)]);
}

#[test]
fn what_the_boot_clock_alone_ended_is_read_again() {
    let world = World::new();
    let trust = world.trust();
    let leaf = world.root.leaf(ID);
    let ahead = Now { boot: BootTime(at(9000).boot.0), ..at(1) };
    assert_eq!(denial(&trust, &leaf, ahead), Some(Denial::BundleStale));
    trust.reload(ahead);
    assert_eq!(denial(&trust, &leaf, ahead), None);
}
