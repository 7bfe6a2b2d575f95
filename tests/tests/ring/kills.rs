//! Members are killed at random moments of the moves and started again at once. `ANNULUS_SEED` decides who and when,
//! `ANNULUS_KILLS` how often; a run that fails is told with its seed.

use std::collections::BTreeSet;

use annulus_tests::processes::{Load, Store, tell};
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Kills in each change of the members.
const KILLS: usize = 3;

#[tokio::test]
async fn a_store_grows_and_shrinks_while_its_members_are_killed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("it is a number"));
    let seed = number("ANNULUS_SEED").unwrap_or_else(rand::random);
    let rounds = number("ANNULUS_KILLS").unwrap_or(2 * 2 * KILLS as u64).div_ceil(2 * KILLS as u64).min(6);
    tell(format!("members killed at random: ANNULUS_SEED={seed}"));
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut store = Store::slow(3).await;
    let load = Load::on(store.addresses(&[0, 1, 2]));
    load.more(100).await;
    let mut members: BTreeSet<usize> = (0..3).collect();
    for round in 0..rounds {
        let joining = [
            store.add_node(&format!("joiner-{round}-a"), "").await,
            store.add_node(&format!("joiner-{round}-b"), "").await,
        ];
        members.extend(joining);
        change(&mut store, &load, &members, &joining, &mut dice).await;
        let all: Vec<usize> = members.iter().copied().collect();
        let leaving: Vec<usize> = all.sample(&mut dice, 2).copied().collect();
        members.retain(|place| !leaving.contains(place));
        change(&mut store, &load, &members, &leaving, &mut dice).await;
        for place in leaving {
            store.end(place).await;
        }
    }
    let left: Vec<usize> = members.into_iter().collect();
    store.check_filling(left[0]).await;
    let history = load.end_at(&store.addresses(&left)).await;
    let (acknowledged, unknown) = history.counts();
    tell(format!("{rounds} rounds of kills: {acknowledged} puts acknowledged, {unknown} of unknown fate"));
    assert_eq!(history.violations(), [], "ANNULUS_SEED={seed}");
}

/// States who the members are, and kills somebody again and again while the ring follows: one of those whom the change is
/// about, whoever leads the map group, anybody.
async fn change(store: &mut Store, load: &Load, members: &BTreeSet<usize>, moving: &[usize], dice: &mut impl Rng) {
    let wanted: Vec<usize> = members.iter().copied().collect();
    let epoch = store.put(&wanted).await;
    let everybody: Vec<usize> = members.iter().chain(moving).copied().collect::<BTreeSet<_>>().into_iter().collect();
    let all_moves = store.plan(epoch).await.moves_left;
    let mut moments: Vec<u64> = (0..KILLS).map(|_| dice.random_range(0..=all_moves)).collect();
    moments.sort_unstable_by(|one, other| other.cmp(one));
    for (number, left) in moments.into_iter().enumerate() {
        store.until_moves_left(epoch, left).await;
        let any = *everybody.choose(dice).expect("there are members");
        let victim = match number % 3 {
            0 => *moving.choose(dice).expect("somebody moves"),
            1 => store.map_leader().await.unwrap_or(any),
            _ => any,
        };
        store.kill(victim);
        store.start(victim);
        load.more(10).await;
    }
    store.until_settled(epoch).await;
    for place in &wanted {
        store.until_ready(*place).await;
    }
    store.until_balanced(&wanted).await;
    load.more(50).await;
}
