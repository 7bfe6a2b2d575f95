//! The keeper by hand, and under whatever comes in whatever order.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(12);

fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn grant(text: &str, token: u64) -> Grant {
    Grant { name: name(text), token, mode: Mode::Exclusive, owner: "pod".to_owned(), ttl: TTL }
}

fn tokens(due: &[Due]) -> Vec<u64> {
    due.iter().map(|due| due.token).collect()
}

#[test]
fn a_lock_is_renewed_at_a_third_of_its_lease_and_one_that_was_shortened_at_once() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    keeper.granted(now, grant("a", 7), now + TTL);
    keeper.granted(now, grant("b", 8), now + TTL / 2);
    assert_eq!(tokens(&keeper.due(now)), [8]);
    assert_eq!(keeper.due(now), [], "it is on its way");
    keeper.renewed(now, &name("b"), 8, None, now + TTL);
    assert_eq!(keeper.next(now), Some(now + 4 * SECOND));
    assert_eq!(keeper.due(now + 4 * SECOND - Duration::from_millis(1)), []);
    let due = keeper.due(now + 4 * SECOND);
    assert_eq!((tokens(&due), due[0].left), (vec![7, 8], 8 * SECOND));
}

#[test]
fn what_is_due_soon_goes_along_with_what_is_due_now() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    keeper.granted(now, grant("a", 7), now + TTL);
    keeper.granted(now + SECOND, grant("b", 8), now + SECOND + TTL);
    keeper.granted(now + 2 * SECOND, grant("c", 9), now + 2 * SECOND + TTL);
    assert_eq!(tokens(&keeper.due(now + 4 * SECOND)), [7, 8]);
}

#[test]
fn a_lock_is_lost_when_its_time_is_over_or_the_store_says_so_and_it_is_said_why() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    keeper.granted(now, grant("a", 7), now + TTL);
    keeper.granted(now, grant("b", 8), now + TTL);
    keeper.due(now + 4 * SECOND);
    keeper.failed(now + 5 * SECOND, &name("a"), 7, "no leader".to_owned());
    keeper.refused(now + 5 * SECOND, &name("b"), 8, "somebody else holds it");
    assert_eq!(keeper.standing(now + TTL - Duration::from_nanos(1), &name("a")), Standing::Held(7));
    let Standing::Lost(loss) = keeper.standing(now + TTL, &name("a")) else { panic!("its time is over") };
    assert_eq!((loss.token, loss.since), (7, now + TTL));
    assert_eq!(loss.why, "its lease ran out: the last renewal failed: no leader");
    let Standing::Lost(loss) = keeper.standing(now + TTL, &name("b")) else { panic!("it was refused") };
    assert_eq!(loss.since, now + 5 * SECOND);
    assert!(loss.why.contains("somebody else holds it"));
    assert_eq!((keeper.count(), keeper.losses()), (0, 2));
    let newest = |most| keeper.newest_losses(most).iter().map(|(_, loss)| loss.token).collect::<Vec<_>>();
    assert_eq!((newest(0), newest(1), newest(10)), (vec![], vec![7], vec![8, 7]));
    // A renewal that is answered when it is over brings nothing back.
    keeper.renewed(now + TTL, &name("a"), 7, None, now + 2 * TTL);
    assert!(matches!(keeper.standing(now + TTL, &name("a")), Standing::Lost(_)));
    keeper.granted(now + TTL, grant("a", 9), now + 2 * TTL);
    assert_eq!(keeper.standing(now + TTL, &name("a")), Standing::Held(9));
}

#[test]
fn a_renewal_that_failed_is_tried_again_after_a_pause_that_fits_its_lease() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    keeper.granted(now, grant("a", 7), now + TTL);
    keeper.granted(now, Grant { ttl: SECOND, ..grant("b", 8) }, now + SECOND);
    let later = now + Duration::from_millis(400);
    assert_eq!(tokens(&keeper.due(later)), [8]);
    keeper.failed(later, &name("b"), 8, String::new());
    assert_eq!(keeper.next(later), Some(later + Duration::from_millis(50)));
    let later = now + 4 * SECOND;
    assert_eq!(tokens(&keeper.due(later)), [7]);
    keeper.failed(later, &name("a"), 7, String::new());
    assert_eq!(keeper.next(later), Some(later + LONGEST_PAUSE));
}

#[test]
fn a_lock_of_an_earlier_life_is_held_only_when_the_store_has_said_so() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    for (text, token) in [("a", 7), ("b", 8), ("c", 9)] {
        keeper.restore(now, grant(text, token));
        assert_eq!(keeper.standing(now, &name(text)), Standing::Unsure);
    }
    assert_eq!(tokens(&keeper.due(now)), [7, 8, 9]);
    keeper.renewed(now, &name("a"), 7, None, now + SECOND);
    keeper.refused(now, &name("b"), 8, "no");
    keeper.failed(now, &name("c"), 9, "no leader".to_owned());
    assert_eq!(keeper.standing(now, &name("a")), Standing::Held(7));
    assert!(matches!(keeper.standing(now, &name("b")), Standing::Lost(_)));
    assert_eq!(keeper.standing(now, &name("c")), Standing::Unsure);
    assert!(matches!(keeper.standing(now + SECOND, &name("a")), Standing::Lost(_)), "the store's time is the true one");
    assert!(matches!(keeper.standing(now + TTL, &name("c")), Standing::Lost(_)));
}

#[test]
fn a_lock_that_is_given_up_is_not_renewed_meanwhile_and_not_known_afterwards() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    keeper.granted(now, grant("a", 7), now + TTL);
    keeper.leave(&name("a"), 7, true);
    assert_eq!(keeper.due(now + 5 * SECOND), []);
    assert_eq!(keeper.next(now), Some(now + TTL));
    keeper.leave(&name("a"), 7, false);
    assert_eq!(tokens(&keeper.due(now + 5 * SECOND)), [7]);
    keeper.released(&name("a"), 7);
    assert_eq!((keeper.standing(now, &name("a")), keeper.count()), (Standing::NotHeld, 0));
    keeper.granted(now, grant("a", 9), now + TTL);
    keeper.leave(&name("a"), 9, true);
    let Standing::Lost(loss) = keeper.standing(now + TTL, &name("a")) else { panic!("its time is over") };
    assert!(loss.why.contains("given up"), "{}", loss.why);
}

#[test]
fn of_several_tokens_of_a_lock_that_is_shared_the_newest_counts_and_one_may_go_alone() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    for token in [7, 9, 8] {
        keeper.granted(now, Grant { mode: Mode::Shared, ..grant("a", token) }, now + TTL);
    }
    assert_eq!((keeper.standing(now, &name("a")), keeper.count()), (Standing::Held(9), 3));
    keeper.refused(now, &name("a"), 9, "");
    assert_eq!(keeper.standing(now, &name("a")), Standing::Held(8));
    keeper.released(&name("a"), 8);
    assert_eq!((keeper.standing(now, &name("a")), keeper.count()), (Standing::Held(7), 1));
}

#[test]
fn no_more_locks_are_kept_than_there_is_room_for_and_no_more_losses_remembered() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    for token in 0..MAX_KEPT as u64 {
        assert!(keeper.begin_asking());
        keeper.end_asking();
        keeper.granted(now, grant(&format!("l{token}"), token), now + TTL);
    }
    assert!(!keeper.begin_asking());
    keeper.released(&name("l0"), 0);
    assert!(keeper.begin_asking() && !keeper.begin_asking());
    keeper.end_asking();
    for token in 0..3 * MAX_KEPT as u64 {
        keeper.granted(now, grant(&format!("m{token}"), token), now + TTL);
        keeper.refused(now, &name(&format!("m{token}")), token, "");
    }
    keeper.check(now);
    assert_eq!(keeper.standing(now, &name("m0")), Standing::NotHeld);
    assert!(matches!(keeper.standing(now, &name("m3071")), Standing::Lost(_)));
}

#[test]
fn what_outlives_the_process_has_a_new_version_when_it_changes_and_only_then() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    keeper.granted(now, grant("a", 7), now + TTL);
    let version = keeper.version();
    keeper.renewed(now, &name("a"), 7, None, now + TTL + SECOND);
    keeper.failed(now, &name("a"), 7, String::new());
    assert_eq!(keeper.version(), version);
    keeper.renewed(now, &name("a"), 7, Some(2 * TTL), now + 2 * TTL);
    assert!(keeper.version() > version);
    let version = keeper.version();
    keeper.standing(now + 2 * TTL, &name("a"));
    assert!(keeper.version() > version);
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Grant(u8, u64, u64),
    Restore(u8, u64),
    Due,
    Renew(u8, u64, u64),
    Refuse(u8, u64),
    Fail(u8, u64),
    Leave(u8, u64, bool),
    Release(u8, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lock = || (0..3_u8, 1..4_u64);
    let step = prop_oneof![
        (0..8_000_u64).prop_map(Step::Pass),
        (lock(), 0..12_000_u64).prop_map(|((lock, token), ms)| Step::Grant(lock, token, ms)),
        lock().prop_map(|(lock, token)| Step::Restore(lock, token)),
        Just(Step::Due),
        (lock(), 0..12_000_u64).prop_map(|((lock, token), ms)| Step::Renew(lock, token, ms)),
        lock().prop_map(|(lock, token)| Step::Refuse(lock, token)),
        lock().prop_map(|(lock, token)| Step::Fail(lock, token)),
        (lock(), any::<bool>()).prop_map(|((lock, token), leaves)| Step::Leave(lock, token, leaves)),
        lock().prop_map(|(lock, token)| Step::Release(lock, token)),
    ];
    prop::collection::vec(step, 0..60)
}

/// What the store has said last of each token, in the words of the simplest model: until when it is held.
#[derive(Default)]
struct Model(BTreeMap<(u8, u64), Instant>);

proptest! {
    #[test]
    fn nothing_is_held_that_the_store_has_not_said_to_be_and_everything_held_is_renewed_in_time(steps in steps()) {
        let (mut keeper, mut now, mut model) = (Keeper::default(), Instant::now(), Model::default());
        let named = |lock: u8| name(&lock.to_string());
        for step in steps {
            let until = |ms: u64| now + Duration::from_millis(ms);
            match step {
                Step::Pass(ms) => now += Duration::from_millis(ms),
                Step::Grant(lock, token, ms) => {
                    keeper.granted(now, grant(&lock.to_string(), token), until(ms));
                    let ends = model.0.entry((lock, token)).or_insert(until(ms));
                    *ends = if *ends <= now { until(ms) } else { (*ends).max(until(ms)) };
                }
                Step::Restore(lock, token) if !keeper.has(&named(lock), token) => {
                    keeper.restore(now, grant(&lock.to_string(), token));
                    model.0.remove(&(lock, token));
                }
                Step::Restore(..) => {}
                Step::Due => {
                    for due in keeper.due(now) {
                        prop_assert!(!due.left.is_zero());
                    }
                    prop_assert_eq!(keeper.due(now), vec![]);
                }
                Step::Renew(lock, token, ms) => {
                    let was_kept = keeper.has(&named(lock), token);
                    keeper.renewed(now, &named(lock), token, None, until(ms));
                    if was_kept && keeper.has(&named(lock), token) {
                        let ends = model.0.entry((lock, token)).or_insert(until(ms));
                        *ends = (*ends).max(until(ms));
                    }
                }
                Step::Refuse(lock, token) => {
                    keeper.refused(now, &named(lock), token, "no");
                    model.0.remove(&(lock, token));
                }
                Step::Fail(lock, token) => keeper.failed(now, &named(lock), token, "no".to_owned()),
                Step::Leave(lock, token, leaves) => keeper.leave(&named(lock), token, leaves),
                Step::Release(lock, token) => {
                    keeper.released(&named(lock), token);
                    model.0.remove(&(lock, token));
                }
            }
            for lock in 0..3 {
                if let Standing::Held(token) = keeper.standing(now, &named(lock)) {
                    prop_assert!(model.0.get(&(lock, token)).is_some_and(|ends| now < *ends), "{lock} {token}");
                }
            }
            keeper.check(now);
            if let Some(next) = keeper.next(now) {
                prop_assert!(next >= now);
            }
        }
    }
}
