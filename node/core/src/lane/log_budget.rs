//! How much of their logs a lane's groups keep in memory after it is applied, for followers that lag.
//!
//! A follower that needs what is gone gets a whole snapshot instead. One that is getting a snapshot right now needs the log
//! from there: were that dropped, the snapshot would be of no use when it is whole, and the next one after it neither, for as
//! long as clients write.

/// Memory for the entries that a lane keeps after they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBudget {
    /// For every group alike, whether anybody needs them or not, in bytes over all groups.
    pub everyone_bytes: usize,
    /// For what followers of groups that are led here still need, in bytes over all groups.
    pub needed_bytes: usize,
}

impl Default for LogBudget {
    fn default() -> Self {
        Self { everyone_bytes: 16 << 20, needed_bytes: 64 << 20 }
    }
}

impl LogBudget {
    /// The most that a group may keep, by what it needs in bytes, when the groups of a lane need this much.
    pub(super) fn share(self, mut needs: Vec<usize>) -> impl Fn(usize) -> usize {
        let everyone = self.everyone_bytes / needs.len().max(1);
        needs.sort_unstable();
        // Max-min fairness: whoever needs less than an even share leaves the rest to the others.
        let (mut left, mut level) = (self.needed_bytes, usize::MAX);
        for (at, need) in needs.iter().enumerate() {
            let even = left / (needs.len() - at);
            if *need > even {
                level = even;
                break;
            }
            left -= need;
        }
        move |need| need.min(level).max(everyone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_kept_and_what_does_not_is_shared_fairly() {
        let budget = LogBudget { everyone_bytes: 40, needed_bytes: 100 };
        let kept = |needs: &[usize]| {
            let share = budget.share(needs.to_vec());
            needs.iter().map(|need| share(*need)).collect::<Vec<_>>()
        };
        assert_eq!(kept(&[0, 0, 0, 0]), [10, 10, 10, 10]);
        assert_eq!(kept(&[0, 70, 30, 0]), [10, 70, 30, 10]);
        assert_eq!(kept(&[0, 20, 1000, 0]), [10, 20, 80, 10]);
        assert_eq!(kept(&[500, 20, 1000, 30]), [26, 20, 26, 26]);
        assert_eq!(kept(&[1000]), [100]);
        assert_eq!(kept(&[]), [0; 0]);
    }
}
