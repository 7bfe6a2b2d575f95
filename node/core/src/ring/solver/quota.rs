//! Quotas: how many replicas each member holds, in whole numbers, by weight.
//!
//! Zones first, then the members in each: a zone's share is its members' weight, at most what the zone rule lets it
//! hold; what it can't take is shared by the others. A share that is not whole is rounded down or up, up for those that
//! hold most now. So the quotas of a settled placement are exactly what everyone holds.

/// What a member brings.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) zone: usize,
    pub(super) weight: u32,
    /// Replicas that it holds now.
    pub(super) held: usize,
}

/// The most replicas of a partition in one zone, and each member's quota: together `partitions × replication_factor`,
/// none above `partitions`, no zone above `partitions` × that most.
pub(super) fn quotas(
    members: &[Share],
    zones: usize,
    partitions: usize,
    replication_factor: usize,
) -> (usize, Vec<usize>) {
    let mut in_zone: Vec<Vec<usize>> = vec![Vec::new(); zones];
    for (member, share) in members.iter().enumerate() {
        assert!(share.weight > 0, "a weight is at least 1");
        in_zone[share.zone].push(member);
    }
    let per_zone = least_per_zone(&in_zone, replication_factor);
    let claims: Vec<Claim> = in_zone
        .iter()
        .map(|inside| Claim {
            weight: inside.iter().map(|member| u64::from(members[*member].weight)).sum(),
            most: partitions * per_zone.min(inside.len()),
            held: inside.iter().map(|member| members[*member].held).sum(),
        })
        .collect();
    let mut quotas = vec![0; members.len()];
    for (inside, total) in in_zone.iter().zip(apportion(partitions * replication_factor, &claims)) {
        let claims: Vec<Claim> = inside
            .iter()
            .map(|member| members[*member])
            .map(|share| Claim { weight: u64::from(share.weight), most: partitions, held: share.held })
            .collect();
        for (member, quota) in inside.iter().zip(apportion(total, &claims)) {
            quotas[*member] = quota;
        }
    }
    (per_zone, quotas)
}

/// The least number of replicas of one partition in one zone with which there is room for all.
fn least_per_zone(in_zone: &[Vec<usize>], replication_factor: usize) -> usize {
    let room = |per_zone: usize| in_zone.iter().map(|inside| inside.len().min(per_zone)).sum::<usize>();
    (1..=replication_factor).find(|per_zone| room(*per_zone) >= replication_factor).expect("RF <= candidates")
}

/// What a zone, or a member in its zone, asks for.
struct Claim {
    weight: u64,
    most: usize,
    held: usize,
}

/// Cuts `total` by weight in whole numbers, none above its most. The mosts together must be at least the total.
fn apportion(total: usize, claims: &[Claim]) -> Vec<usize> {
    let mut shares = vec![0; claims.len()];
    let mut left = total as u64;
    let mut sharing: Vec<usize> = (0..claims.len()).collect();
    loop {
        let weight: u64 = sharing.iter().map(|at| claims[*at].weight).sum();
        let (full, rest): (Vec<usize>, Vec<usize>) =
            sharing.into_iter().partition(|at| left * claims[*at].weight >= claims[*at].most as u64 * weight);
        sharing = rest;
        if full.is_empty() {
            round(left, weight, &sharing, claims, &mut shares);
            return shares;
        }
        for at in full {
            shares[at] = claims[at].most;
            left -= claims[at].most as u64;
        }
    }
}

/// Shares `left` among those who are not at their most (each of their shares is below it, so rounding up keeps to it).
fn round(left: u64, weight: u64, sharing: &[usize], claims: &[Claim], shares: &mut [usize]) {
    let mut spare = left as usize;
    for at in sharing {
        shares[*at] = (left * claims[*at].weight / weight) as usize;
        spare -= shares[*at];
    }
    let remainder = |at: usize| left * claims[at].weight % weight;
    let mut order: Vec<usize> = sharing.iter().copied().filter(|at| remainder(*at) > 0).collect();
    order.sort_by_key(|at| {
        let surplus = claims[*at].held.saturating_sub(shares[*at]);
        (std::cmp::Reverse((surplus, remainder(*at))), *at)
    });
    assert!(spare <= order.len(), "the spare units are the sum of what was rounded off");
    order.into_iter().take(spare).for_each(|at| shares[at] += 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas_of(zones_and_weights: &[(usize, u32)], partitions: usize, factor: usize) -> (usize, Vec<usize>) {
        let shares: Vec<Share> =
            zones_and_weights.iter().map(|(zone, weight)| Share { zone: *zone, weight: *weight, held: 0 }).collect();
        let zones = zones_and_weights.iter().map(|(zone, _)| zone + 1).max().unwrap();
        quotas(&shares, zones, partitions, factor)
    }

    #[test]
    fn equal_members_hold_the_same() {
        assert_eq!(quotas_of(&[(0, 1); 4], 8, 3), (3, vec![6; 4]));
        assert_eq!(quotas_of(&[(0, 7), (1, 7), (2, 7)], 8, 3), (1, vec![8; 3]));
    }

    #[test]
    fn a_zone_too_heavy_for_its_share_holds_one_of_each_and_the_rest_share_what_is_left() {
        let (per_zone, quotas) = quotas_of(&[(0, 900), (0, 300), (1, 100), (2, 100), (3, 200)], 16, 3);
        assert_eq!((per_zone, quotas), (1, vec![12, 4, 8, 8, 16]));
    }

    #[test]
    fn with_fewer_zones_than_copies_a_zone_holds_as_few_of_each_as_the_others_allow() {
        assert_eq!(quotas_of(&[(0, 1), (0, 1), (1, 1), (1, 1)], 8, 3).0, 2);
        // Zone 0 has one member, so zone 1 must take three of four copies.
        assert_eq!(quotas_of(&[(0, 1), (1, 1), (1, 1), (1, 1), (1, 1)], 8, 4), (3, vec![8, 6, 6, 6, 6]));
    }

    #[test]
    fn spare_units_go_to_whoever_holds_most_now() {
        let held = [3, 2, 3, 2, 2];
        let shares: Vec<Share> = held.iter().map(|held| Share { zone: 0, weight: 10, held: *held }).collect();
        assert_eq!(quotas(&shares, 1, 4, 3).1, held);
    }
}
