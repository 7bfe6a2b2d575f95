//! The network between members: which messages arrive, when, and how often.
//!
//! Frames of a link arrive in order unless the weather says otherwise. Clients reach every member; they only lose
//! messages. What carries clients' requests between members is never doubled, as it is over TCP.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::faults::{Counters, Fault};

/// How the network behaves for a while.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Messages lost, in 1000.
    pub lost: u32,
    /// Messages that come twice, in 1000.
    pub doubled: u32,
    /// Messages that may overtake others, in 1000.
    pub reordered: u32,
    /// Messages that come late, in 1000.
    pub late: u32,
    /// How late at most, in microseconds.
    pub late_us: u64,
}

/// What happens to a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after each of these delays, in microseconds.
    Arrives(Vec<u64>),
    /// It is lost, and nobody is told.
    Lost,
    /// There is no way: a connection would break.
    NoWay,
}

/// The network between members.
#[derive(Debug)]
pub struct Network {
    /// The shortest and the longest time that a message takes, in microseconds.
    latency_us: (u64, u64),
    /// How it behaves now.
    pub weather: Weather,
    /// Cuts by number: pairs (from, to) that nothing passes between.
    cuts: BTreeMap<u64, Vec<(usize, usize)>>,
    cut_numbers: u64,
    /// When the last message of a link arrives.
    last_arrival: BTreeMap<(usize, usize), u64>,
}

impl Network {
    /// A network that does what it should.
    pub fn new(latency_us: (u64, u64)) -> Self {
        Self {
            latency_us,
            weather: Weather::default(),
            cuts: BTreeMap::new(),
            cut_numbers: 0,
            last_arrival: BTreeMap::new(),
        }
    }

    /// Nothing passes between these pairs (from, to) until the cut with the returned number is mended.
    pub fn cut(&mut self, pairs: Vec<(usize, usize)>) -> u64 {
        self.cut_numbers += 1;
        self.cuts.insert(self.cut_numbers, pairs);
        self.cut_numbers
    }

    /// Mends a cut, if it is still there.
    pub fn mend(&mut self, number: u64) {
        self.cuts.remove(&number);
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.weather = Weather::default();
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        !self.cuts.values().flatten().any(|pair| *pair == (from, to))
    }

    /// What happens to a message between members.
    pub fn send(
        &mut self,
        now: u64,
        (from, to): (usize, usize),
        may_double: bool,
        dice: &mut Dice,
        counters: &mut Counters,
    ) -> Fate {
        if !self.passes(from, to) {
            return Fate::NoWay;
        }
        let weather = self.weather;
        if dice.chance(weather.lost) {
            counters.add(Fault::MessageLost, 1);
            return Fate::Lost;
        }
        let mut arrivals = vec![self.arrival(now, (from, to), dice, counters)];
        if may_double && dice.chance(weather.doubled) {
            counters.add(Fault::MessageDuplicated, 1);
            arrivals.push(self.arrival(now, (from, to), dice, counters));
        }
        Fate::Arrives(arrivals.into_iter().map(|arrival| arrival - now).collect())
    }

    fn arrival(&mut self, now: u64, link: (usize, usize), dice: &mut Dice, counters: &mut Counters) -> u64 {
        let mut arrival = now + dice.within(self.latency_us.0..=self.latency_us.1);
        if dice.chance(self.weather.late) {
            counters.add(Fault::MessageDelayed, 1);
            arrival += dice.below(self.weather.late_us.max(1));
        }
        let last = self.last_arrival.entry(link).or_default();
        if arrival < *last {
            if dice.chance(self.weather.reordered) {
                counters.add(Fault::MessageReordered, 1);
            } else {
                arrival = *last;
            }
        }
        *last = arrival.max(*last);
        arrival
    }

    /// What happens to a message between a client and a member.
    pub fn send_client(&mut self, dice: &mut Dice, counters: &mut Counters) -> Fate {
        if dice.chance(self.weather.lost / 4) {
            counters.add(Fault::MessageLost, 1);
            return Fate::Lost;
        }
        Fate::Arrives(vec![dice.within(self.latency_us.0..=self.latency_us.1)])
    }
}
