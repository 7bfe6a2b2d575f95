//! What is done with transactions in a run. Drawn from the seed.

use std::ops::RangeInclusive;

use crate::simulator::dice::Dice;
use crate::simulator::scenario::Profile;

/// What is done with transactions in a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Clients that use transactions.
    pub traders: usize,
    /// Accounts.
    pub accounts: usize,
    /// Keys that the baton can be under; 0: there is none.
    pub places: usize,
    /// How long a client waits between two things, in microseconds.
    pub think_us: RangeInclusive<u64>,
    /// How long a member may take for one transaction, in milliseconds: one of these.
    pub timeouts_ms: [u32; 3],
    /// Transactions that have a name of their client's, in 1000.
    pub named: u32,
    /// Of those, the ones that are given to two members at once, in 1000.
    pub twice: u32,
    /// Of those, the ones that are asked for again when they are done, in 1000.
    pub repeated: u32,
    /// Transactions that read if a condition does not hold, in 1000.
    pub otherwise: u32,
    /// Transactions that write keys that all clients use, in 1000.
    pub mixed: u32,
    /// What is written under a lock by a transaction, in 1000.
    pub locked: u32,
    /// Steps towards an end that a member takes by themselves, and not with others, in 1000.
    pub hasty: u32,
}

impl Plan {
    /// No transactions at all.
    pub const NONE: Self = Self {
        traders: 0,
        accounts: 0,
        places: 0,
        think_us: 0..=0,
        timeouts_ms: [0; 3],
        named: 0,
        twice: 0,
        repeated: 0,
        otherwise: 0,
        mixed: 0,
        locked: 0,
        hasty: 0,
    };

    /// What this seed gives. Where something else is to be brought out, transactions must not keep it from happening.
    pub fn draw(dice: &mut Dice, profile: Profile) -> Self {
        let (traders, think_ms) = match profile {
            Profile::Transactions => (*dice.pick(&[4, 6, 9]), *dice.pick(&[20, 60, 150])),
            Profile::General => (*dice.pick(&[0, 2, 4]), *dice.pick(&[50, 200])),
            // Few entries: whoever is cut off must not fall behind.
            Profile::Bounces => (1, 5000),
            _ => (*dice.pick(&[1, 2]), *dice.pick(&[300, 1000])),
        };
        let timeouts_ms = if profile == Profile::Transactions { [300, 1500, 5000] } else { [300, 1000, 3000] };
        Self {
            traders,
            accounts: *dice.pick(&[2, 4, 6]),
            places: *dice.pick(&[0, 2, 3]),
            think_us: 1000..=think_ms * 1000,
            timeouts_ms,
            named: *dice.pick(&[300, 600, 900]),
            twice: *dice.pick(&[0, 200, 500]),
            repeated: *dice.pick(&[50, 200]),
            otherwise: *dice.pick(&[0, 300]),
            mixed: *dice.pick(&[0, 150, 400]),
            locked: *dice.pick(&[0, 300, 700]),
            hasty: *dice.pick(&[0, 300, 1000]),
        }
    }
}
