//! What an operator hands in: roots, intermediates, certificates and revocation lists, and what is lacking without them.

use super::testkit::*;
use super::tests::{DUE, at, outcome, outcome_at, trust};
use super::*;
use crate::denial::Denial;
use crate::evidence::outcome::Checks;
use crate::time::{BootTime, Now, WallTime};
use std::slice::from_ref;

const DAY: u64 = 86_400;

#[test]
fn without_the_signing_keys_certificate_or_its_intermediate_nothing_is_decided() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let mut trust = trust(&authority);
    let unavailable = Err(Denial::CollateralUnavailable);
    assert_eq!(outcome(&body, &[], &trust), unavailable);
    assert_eq!(outcome(&body, from_ref(&signer.certificate), &trust), unavailable);
    trust.add_intermediate(&authority.ask).unwrap();
    assert!(outcome(&body, from_ref(&signer.certificate), &trust).is_ok());
    let name = trust.hand_in_certificate(&signer.certificate).unwrap();
    assert_eq!((name.product, name.signing_key), (Product::Milan, SigningKey::Vcek));
    assert!(outcome(&body, &[], &trust).is_ok());
    // A host's outdated table does not stand in the way of what was fetched.
    let older =
        authority.signer(&KeyProfile { tcb: [3, 0, 0, 0, 0, 0, 20, 100], ..authority.vcek_profile() });
    assert!(outcome(&body, from_ref(&older.certificate), &trust).is_ok());
    let other_chip = authority.report(3, &DUE);
    let mut other_chip = other_chip.clone();
    other_chip[0x1a0] = 0;
    assert_eq!(outcome(&signer.sign(other_chip), &[], &trust), unavailable);
}

#[test]
fn what_was_handed_in_is_believed_no_more_than_what_is_carried() {
    let (authority, impostor) = (Authority::new("Milan"), Authority::impostor("Milan"));
    let signer = impostor.vcek();
    let body = signer.sign(impostor.report(3, &DUE));
    let mut trust = trust(&authority);
    trust.add_intermediate(&impostor.ask).unwrap();
    trust.hand_in_certificate(&signer.certificate).unwrap();
    assert_eq!(outcome(&body, &[], &trust), Err(Denial::EndorsementUntrusted));
}

#[test]
fn what_is_no_root_intermediate_or_signing_key_is_not_taken_into_the_trust() {
    let authority = Authority::new("Milan");
    let mut trust = SevSnpTrust::empty();
    assert_eq!(trust.add_root(&authority.ask), Err(TrustError::NoRoot));
    assert_eq!(
        trust.add_root(&authority.root_with(|p| p.subject = "ARK-Rome".into())),
        Err(TrustError::NoRoot)
    );
    assert_eq!(
        trust.add_root(&authority.root_with(|p| p.issuer = "ARK-Genoa".into())),
        Err(TrustError::NoRoot)
    );
    assert_eq!(trust.add_root(&authority.root_with(|p| p.extensions.clear())), Err(TrustError::NoRoot));
    assert_eq!(trust.add_root(&[&authority.ark[..], &[0]].concat()), Err(TrustError::CertificateMalformed));
    assert_eq!(trust.add_root(&vec![0x30; 5000]), Err(TrustError::CertificateMalformed));
    assert_eq!(trust.add_intermediate(&authority.ark), Err(TrustError::NoIntermediate));
    assert_eq!(trust.add_intermediate(&authority.vcek().certificate), Err(TrustError::NoIntermediate));
    assert_eq!(trust.hand_in_certificate(&authority.ask), Err(TrustError::NoSigningKey));
    assert!(trust.roots().is_empty());
    trust.add_root(&authority.ark).unwrap();
    trust.add_root(&authority.ark).unwrap();
    assert_eq!(trust.roots().len(), 1);
}

/// A good report against a trust whose lists are altered, at a time.
fn with_lists(alter: impl FnOnce(&Authority, &mut SevSnpTrust), seconds: u64) -> Result<(), Denial> {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let mut trust = trust(&authority);
    alter(&authority, &mut trust);
    let later =
        Now { wall: WallTime(seconds * 1000), boot: BootTime(1_000_000 + seconds.saturating_sub(T0) * 1000) };
    outcome_at(&body, &[signer.certificate, authority.ask.clone()], &trust, later).map(|_| ())
}

fn hand_in(trust: &mut SevSnpTrust, list: &[u8], key: SigningKey) -> Result<ListMark, TrustError> {
    trust.hand_in_list(list, key, YEAR, at(T0))
}

#[test]
fn no_list_is_needed_unless_the_operator_says_so_or_hands_one_in() {
    assert_eq!(with_lists(|_, _| (), T0), Ok(()));
    assert_eq!(with_lists(|_, trust| trust.require_lists(Product::Genoa), T0), Ok(()));
    let required = with_lists(|_, trust| trust.require_lists(Product::Milan), T0);
    assert_eq!(required, Err(Denial::CollateralUnavailable));
    let vleks_list = |authority: &Authority, trust: &mut SevSnpTrust| {
        trust.require_lists(Product::Milan);
        hand_in(trust, &authority.list(&[], 1, T0, Some(T0 + DAY)), SigningKey::Vlek).unwrap();
    };
    assert_eq!(with_lists(vleks_list, T0), Err(Denial::CollateralUnavailable), "the other address's list");
    let own = |authority: &Authority, trust: &mut SevSnpTrust| {
        trust.require_lists(Product::Milan);
        hand_in(trust, &authority.list(&[], 1, T0, Some(T0 + DAY)), SigningKey::Vcek).unwrap();
    };
    assert_eq!(with_lists(own, T0), Ok(()));
}

#[test]
fn a_stale_list_is_denied_until_a_newer_one_comes() {
    let listed = |authority: &Authority, trust: &mut SevSnpTrust| {
        hand_in(trust, &authority.list(&[], 1, T0, Some(T0 + DAY)), SigningKey::Vcek).unwrap();
    };
    assert_eq!(with_lists(listed, T0 + DAY - 1), Ok(()));
    assert_eq!(with_lists(listed, T0 + DAY), Err(Denial::CollateralStale));
    let renewed = |authority: &Authority, trust: &mut SevSnpTrust| {
        listed(authority, trust);
        hand_in(trust, &authority.list(&[], 2, T0, Some(T0 + 2 * DAY)), SigningKey::Vcek).unwrap();
    };
    assert_eq!(with_lists(renewed, T0 + DAY), Ok(()));
    let own_age = |authority: &Authority, trust: &mut SevSnpTrust| {
        let list = authority.list(&[], 1, T0, Some(T0 + DAY));
        trust.hand_in_list(&list, SigningKey::Vcek, 600, at(T0)).unwrap();
    };
    assert_eq!(with_lists(own_age, T0 + 599), Ok(()));
    assert_eq!(with_lists(own_age, T0 + 600), Err(Denial::CollateralStale));
    let other = |authority: &Authority, trust: &mut SevSnpTrust| {
        hand_in(trust, &authority.list(&[], 1, T0, Some(T0 + DAY)), SigningKey::Vlek).unwrap();
    };
    assert_eq!(
        with_lists(other, T0 + DAY),
        Err(Denial::CollateralStale),
        "a held list does not lapse into silence"
    );
}

#[test]
fn a_revoked_intermediate_or_root_is_denied() {
    for key in SigningKey::ALL {
        for (serial, expected) in [
            (&ASK_SERIAL[..], Err(Denial::EndorsementRevoked)),
            (&ARK_SERIAL, Err(Denial::EndorsementRevoked)),
            (&ASVK_SERIAL, Ok(())),
            (&[9], Ok(())),
        ] {
            let listed = |authority: &Authority, trust: &mut SevSnpTrust| {
                hand_in(trust, &authority.list(&[&[8], serial], 1, T0, Some(T0 + DAY)), key).unwrap();
            };
            assert_eq!(with_lists(listed, T0), expected, "{key:?} {serial:?}");
        }
    }
    let stale_and_revoked = |authority: &Authority, trust: &mut SevSnpTrust| {
        hand_in(trust, &authority.list(&[], 1, T0, Some(T0 + 10)), SigningKey::Vcek).unwrap();
        hand_in(trust, &authority.list(&[&ASK_SERIAL], 1, T0, Some(T0 + DAY)), SigningKey::Vlek).unwrap();
    };
    assert_eq!(with_lists(stale_and_revoked, T0 + 10), Err(Denial::EndorsementRevoked));
}

#[test]
fn a_list_that_does_not_say_what_it_should_is_not_taken() {
    let (authority, impostor) = (Authority::new("Milan"), Authority::impostor("Milan"));
    let mut trust = trust(&authority);
    let mut take = |list: &[u8]| hand_in(&mut trust, list, SigningKey::Vcek).map(|mark| mark.number[19]);
    let good = authority.list(&[&ASK_SERIAL], 5, T0, Some(T0 + DAY));
    assert_eq!(take(&impostor.list(&[], 5, T0, Some(T0 + DAY))), Err(TrustError::ListUntrusted));
    assert_eq!(take(&authority.list(&[], 5, T0, None)), Err(TrustError::ListWithoutEnd));
    assert_eq!(take(&authority.list(&[], 5, T0 + 31, Some(T0 + DAY))), Err(TrustError::ListFromFuture));
    assert_eq!(take(&[]), Err(TrustError::ListMalformed));
    assert_eq!(take(&authority.ark), Err(TrustError::ListMalformed));
    assert_eq!(take(&[&good[..], &[0]].concat()), Err(TrustError::ListMalformed));
    assert_eq!(take(&vec![0x30; 300 * 1024]), Err(TrustError::ListMalformed));
    for place in 0..good.len() {
        let mut flipped = good.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(take(&flipped).is_err(), "{place}");
    }
    assert_eq!(take(&good), Ok(5));
    assert_eq!(take(&good), Ok(5), "the same again");
    assert_eq!(take(&authority.list(&[], 4, T0, Some(T0 + DAY))), Err(TrustError::ListOlder));
    assert_eq!(take(&authority.list(&[], 5, T0 - 1, Some(T0 + DAY))), Err(TrustError::ListOlder));
    assert_eq!(take(&authority.list(&[], 6, T0, Some(T0 + DAY))), Ok(6));
}

#[test]
fn an_older_list_is_refused_after_a_restart_too() {
    let authority = Authority::new("Milan");
    let list = |number| authority.list(&[], number, T0, Some(T0 + DAY));
    let mark = hand_in(&mut trust(&authority), &list(5), SigningKey::Vcek).unwrap();
    let kept = serde_json::to_string(&mark).unwrap();
    let mut restarted = trust(&authority);
    restarted.remember(serde_json::from_str(&kept).unwrap());
    assert_eq!(hand_in(&mut restarted, &list(4), SigningKey::Vcek), Err(TrustError::ListOlder));
    assert_eq!(hand_in(&mut restarted, &list(5), SigningKey::Vcek), Ok(mark.clone()));
    assert!(hand_in(&mut restarted, &list(6), SigningKey::Vcek).is_ok());
    restarted.remember(mark);
    assert_eq!(hand_in(&mut restarted, &list(5), SigningKey::Vcek), Err(TrustError::ListOlder));
    assert!(
        hand_in(&mut restarted, &list(4), SigningKey::Vlek).is_ok(),
        "the other address counts by itself"
    );
}

#[test]
fn the_ends_are_of_all_that_the_verdict_rests_on() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let mut trust = trust(&authority);
    let endorsements = [signer.certificate, authority.ask.clone()];
    let first = |trust: &SevSnpTrust| {
        let verified = verify(&body, &endorsements, &DUE, trust, at(T0), &mut Checks::new()).unwrap();
        let (what, end) = verified.ends().first();
        (what.to_owned(), end.seconds())
    };
    assert_eq!(first(&trust), ("signing key's certificate".to_owned(), T0 + 7 * YEAR));
    hand_in(&mut trust, &authority.list(&[], 1, T0, Some(T0 + DAY)), SigningKey::Vcek).unwrap();
    assert_eq!(first(&trust), ("revocation list for vcek".to_owned(), T0 + DAY));
    assert_eq!(trust.roots()[0].lists, [(SigningKey::Vcek, WallTime((T0 + DAY) * 1000))]);
}

#[test]
fn what_is_lacking_has_an_address() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let report = parse(&body).unwrap();
    let mut trust = trust(&authority);
    let chip = "c1".repeat(64);
    let path = format!("/vcek/v1/Milan/{chip}?blSPL=04&teeSPL=01&snpSPL=24&ucodeSPL=219");
    let certificate = Needed::Certificate { paths: vec![path.clone()] };
    let none: [&[u8]; 0] = [];
    let intermediate = Needed::Intermediate {
        product: Product::Milan,
        signing_key: SigningKey::Vcek,
        path: "/vcek/v1/Milan/cert_chain".to_owned(),
    };
    assert_eq!(needed(&report, &none, &trust, at(T0)), [certificate.clone(), intermediate.clone()]);
    assert_eq!(needed(&report, &[&signer.certificate], &trust, at(T0)), [intermediate]);
    assert_eq!(needed(&report, &[&signer.certificate, &authority.ask], &trust, at(T0)), []);
    trust.add_intermediate(&authority.ask).unwrap();
    assert_eq!(needed(&report, &none, &trust, at(T0)), from_ref(&certificate));
    assert_eq!(needed(&report, &[&signer.certificate], &trust, at(T0)), []);
    trust.require_lists(Product::Milan);
    let list = Needed::List {
        product: Product::Milan,
        signing_key: SigningKey::Vcek,
        path: "/vcek/v1/Milan/crl".to_owned(),
    };
    assert_eq!(needed(&report, &none, &trust, at(T0)), [certificate, list.clone()]);
    assert_eq!(needed(&report, &[&signer.certificate], &trust, at(T0)), from_ref(&list));
    trust.hand_in_certificate(&signer.certificate).unwrap();
    hand_in(&mut trust, &authority.list(&[], 1, T0, Some(T0 + DAY)), SigningKey::Vcek).unwrap();
    assert_eq!(needed(&report, &none, &trust, at(T0)), []);
    assert_eq!(needed(&report, &none, &trust, at(T0 + DAY)), [list]);
}

#[test]
fn only_what_a_trusted_root_endorses_is_worth_keeping() {
    let (authority, impostor) = (Authority::new("Milan"), Authority::impostor("Milan"));
    let mut trust = trust(&authority);
    let signer = authority.vcek();
    let denial = |trust: &SevSnpTrust, der: &[u8], seconds| {
        trust.check_certificate(der, at(seconds)).unwrap_err().denial
    };
    assert_eq!(denial(&trust, &signer.certificate, T0), Denial::CollateralUnavailable);
    let (product, key, ends) = trust.check_intermediate(&authority.ask).unwrap();
    let until = WallTime((T0 + 19 * YEAR) * 1000);
    assert_eq!((product, key, ends), (Product::Milan, SigningKey::Vcek, Some(until)));
    let foreign = trust.check_intermediate(&impostor.ask);
    assert_eq!(foreign, Ok((Product::Milan, SigningKey::Vcek, None)));
    assert_eq!(trust.check_intermediate(&authority.ark), Err(TrustError::NoIntermediate));
    trust.add_intermediate(&authority.ask).unwrap();
    let (name, ends) = trust.check_certificate(&signer.certificate, at(T0)).unwrap();
    let report = authority.report(3, &DUE);
    assert_eq!(certificate_path_of(&name), certificate_paths(&parse(&report).unwrap()).pop());
    assert_eq!(ends.seconds(), T0 + 7 * YEAR);
    assert_eq!(denial(&trust, &signer.certificate, T0 + 7 * YEAR), Denial::EndorsementExpired);
    assert_eq!(denial(&trust, &impostor.vcek().certificate, T0), Denial::EndorsementUntrusted);
    assert_eq!(denial(&trust, &authority.ask, T0), Denial::EndorsementUntrusted);
}

#[test]
fn the_paths_are_those_of_the_product() {
    let paths = |body: &[u8]| certificate_paths(&parse(body).unwrap());
    let turin = Authority::new("Turin").report(5, &DUE);
    let eight = "c1".repeat(8);
    let levels = "fmcSPL=01&blSPL=04&teeSPL=01&snpSPL=24&ucodeSPL=219";
    assert_eq!(paths(&turin), [format!("/vcek/v1/Turin/{eight}?{levels}")]);
    let genoa = Authority::new("Genoa").report(3, &DUE);
    assert!(paths(&genoa)[0].starts_with("/vcek/v1/Genoa/c1c1"));
    // Version 2 does not say which of two it is, but a chip of eight bytes is a Turin.
    let old = Authority::new("Milan").report(2, &DUE);
    let products: Vec<String> =
        paths(&old).iter().map(|path| path.split('/').nth(3).unwrap().to_owned()).collect();
    assert_eq!(products, ["Milan", "Genoa"]);
    let mut masked = genoa.clone();
    masked[0x1a0..0x1e0].fill(0);
    assert!(paths(&masked).is_empty());
    assert!(paths(&Authority::new("Milan").vlek_report(3, &DUE)).is_empty());
    assert_eq!(chain_path(Product::Genoa, SigningKey::Vlek), "/vlek/v1/Genoa/cert_chain");
    assert_eq!(list_path(Product::Turin, SigningKey::Vcek), "/vcek/v1/Turin/crl");
}
