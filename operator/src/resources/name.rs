//! The names of members.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::MemberName;

/// Without vowels, so that no words come of it, and without digits that look like letters.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many letters tell the members of a cluster apart.
const LETTERS: usize = 5;

/// The name of a cluster's member: always the same for the same number, so that a step that is taken twice makes nothing twice.
///
/// There are 27^5 (14 million) endings, so two numbers may have one name; [`new_members`] passes over a number whose name is taken.
/// The UID is in it: the volume of an earlier cluster of the same name is told by a name that its number does not make.
pub fn member_name(cluster: &str, uid: &str, ordinal: u64) -> String {
    let digest = Sha256::digest(format!("{uid}/{ordinal}"));
    let mut rest = digest[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mut name = format!("{cluster}-");
    for _ in 0..LETTERS {
        let letter = usize::try_from(rest % ALPHABET.len() as u64).expect("it is below the alphabet's length");
        name.push(char::from(ALPHABET[letter]));
        rest /= ALPHABET.len() as u64;
    }
    name
}

/// The members to make after the one numbered `last`, without end: those whose names are not taken.
///
/// Taken is a name that a pod, a volume or a member of the map has, whoever made it. A number that is passed over is used up.
pub fn new_members(
    cluster: &str,
    uid: &str,
    last: u64,
    taken: impl Fn(&str) -> bool,
) -> impl Iterator<Item = MemberName> {
    let named = move |ordinal| MemberName { name: member_name(cluster, uid, ordinal), ordinal };
    (last + 1..).map(named).filter(move |member| !taken(&member.name))
}

/// How many numbers are tried when a name is all that is known of a member: more than a cluster has members.
const TRIED: u64 = 2000;

/// The highest number that any of these names was made of, or `last` if that is higher or none is found. A name does not tell its
/// number, so numbers are tried.
pub fn last_of_names(cluster: &str, uid: &str, last: u64, names: &BTreeSet<&str>) -> u64 {
    if names.is_empty() {
        return last;
    }
    let tried = last.saturating_add(1)..=last.saturating_add(TRIED);
    tried.rev().find(|ordinal| names.contains(member_name(cluster, uid, *ordinal).as_str())).unwrap_or(last)
}

/// Whether a member was ever made under a name, if `last` is the number of the newest one. Of a cluster that has had more members
/// than are tried, any name might be of one of the first.
pub fn was_made(cluster: &str, uid: &str, last: u64, name: &str) -> bool {
    let first = last.saturating_sub(TRIED);
    first > 0 || (1..=last).any(|ordinal| member_name(cluster, uid, ordinal) == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resources::tests::{UID, full};

    #[test]
    fn a_name_is_the_same_in_every_release() {
        let names: Vec<String> = (1..=3).map(|ordinal| member_name("demo", UID, ordinal)).collect();
        assert_eq!(names, ["demo-gwskl", "demo-xtr5c", "demo-r8ngz"]);
    }

    #[test]
    fn names_are_labels_of_dns_for_the_longest_cluster() {
        let cluster = "c".repeat(40);
        for ordinal in 1..=200 {
            let name = member_name(&cluster, UID, ordinal);
            let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            assert!(name.len() <= 63 && plain && !name.ends_with('-'), "{name}");
        }
        assert!(format!("{cluster}-members").len() <= 63);
    }

    #[test]
    fn a_number_whose_name_is_taken_is_passed_over() {
        let facts = full();
        let next = |taken: &dyn Fn(&str) -> bool| new_members(&facts.name, &facts.uid, 0, taken).next().unwrap();
        let first = next(&|_| false);
        assert_eq!(first, MemberName { name: member_name(&facts.name, &facts.uid, 1), ordinal: 1 });
        assert_eq!(next(&|name| name == first.name).ordinal, 2);
    }

    #[test]
    fn the_last_number_is_found_again_by_names_alone() {
        let names: Vec<String> = [3, 9, 4].iter().map(|ordinal| member_name("demo", UID, *ordinal)).collect();
        let names = names.iter().map(String::as_str).chain(["demo-other"]).collect();
        assert_eq!(last_of_names("demo", UID, 2, &names), 9);
        assert!(was_made("demo", UID, 9, &member_name("demo", UID, 9)) && !was_made("demo", UID, 9, "demo-other"));
        assert_eq!(last_of_names("demo", UID, 20, &names), 20);
        assert_eq!(last_of_names("demo", UID, 2, &BTreeSet::new()), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        /// Now and then one of the thousand is passed over; that is what the walk is for.
        #[test]
        fn a_thousand_members_have_a_thousand_names(uid in "[0-9a-f]{8}-[0-9a-f]{12}") {
            let (mut names, mut last) = (BTreeSet::new(), 0);
            for _ in 0..1000 {
                let member = new_members("demo", &uid, last, |name| names.contains(name)).next().unwrap();
                prop_assert!(member.ordinal > last);
                last = member.ordinal;
                prop_assert!(names.insert(member.name));
            }
            prop_assert!(last < 1010, "{last}");
        }
    }
}
