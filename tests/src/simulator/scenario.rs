//! What a run is made of: how large the store is, what clients do, what goes wrong how often. Drawn from the seed.
//!
//! Each run leaves some kinds of faults out: a fault that happens all the time can keep others from mattering.

use std::ops::RangeInclusive;
use std::time::Duration;

use annulus_core::lane::LogBudget;

use super::dice::Dice;
use super::lane::Limits;
use super::locks::Plan;
use super::txns;

/// What a run is to bring out. All are the same simulator and the same checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Everything, as the seed says.
    General,
    /// Members die often, with power, and come back at once.
    Crashes,
    /// Members stand still and are cut off for about as long as a lease lasts.
    Leases,
    /// Members are cut off in pairs while those that both can reach are restarted.
    Bounces,
    /// Checkpoints are frequent and slow, and members die during them.
    Checkpoints,
    /// All members die right after elections.
    Elections,
    /// Disks are slow, and leaders come and go.
    SlowDisks,
    /// Members join and leave all the time, while others die and are cut off.
    Rings,
    /// The same few members take turns, so that replicas come back to where they were before.
    Turns,
    /// Members follow maps long after they have heard of them, and what is asked for is often taken back.
    LateMaps,
    /// Whatever begins to move is hit at once.
    Moves,
    /// Two operators contradict each other, while the map group's leaders die.
    Operators,
    /// Members lose their volumes, are replaced, and come back.
    Replacements,
    /// Members die and are back while others are still at what they had sent on.
    Answers,
    /// Clients wait for locks, hold them, write under them and lose them, whatever members do.
    Locks,
    /// Clients use transactions over several partitions, whatever members do.
    Transactions,
}

/// A kind of fault that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A member dies now.
    Crash,
    /// A member dies after so many disk operations.
    CrashInDiskOperation,
    /// All members die.
    CrashOfAll,
    /// A member stands still.
    Pause,
    /// Some members are cut off from the others.
    Cut,
    /// Two members are cut off from each other.
    CutPair,
    /// One member is not reached by some of the others.
    CutOneWay,
    /// Two members are cut off from each other, and later all others restart.
    Bounce,
    /// Messages are lost, late, doubled or out of order.
    Weather,
    /// A disk takes long.
    SlowDisk,
    /// A disk is full.
    DiskFull,
    /// A clock changes its rate.
    ClockRate,
    /// The member that leads the map group dies.
    CrashMapLeader,
    /// The member that leads a group whose configuration is changing dies or is cut off.
    HitMovingLeader,
    /// A member loses its volume.
    LoseVolume,
}

/// How often clients do what, by weight.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mix {
    /// Linearizable reads.
    pub read: u32,
    /// Quorum reads.
    pub quorum: u32,
    /// Stale reads.
    pub stale: u32,
    /// Scans of one partition.
    pub scan: u32,
    /// Unconditional puts.
    pub put: u32,
    /// Puts that expire.
    pub put_ttl: u32,
    /// Puts if a version is as last seen.
    pub put_version: u32,
    /// Puts if the key is not there.
    pub put_absent: u32,
    /// Puts if the key is there.
    pub put_exists: u32,
    /// Deletes.
    pub delete: u32,
    /// Deletes if a version is as last seen.
    pub delete_version: u32,
}

/// How often operators ask for what, by weight.
#[derive(Debug, Clone, Copy)]
pub struct Commands {
    /// Let another member in.
    pub join: u32,
    /// Let a member go.
    pub leave: u32,
    /// One in, another out.
    pub exchange: u32,
    /// Move everything away from a member.
    pub drain: u32,
    /// Take that back.
    pub undrain: u32,
    /// Remove a member that holds nothing, or is thought to.
    pub remove: u32,
    /// Another weight, zone or address.
    pub alter: u32,
    /// The members that were desired before: takes back what is under way.
    pub back: u32,
}

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Members of the store.
    pub members: usize,
    /// Whether there is no store yet: then members begin without a map, and only when somebody has them run.
    pub is_unmade: bool,
    /// Others that can join.
    pub spares: usize,
    /// Most members that can take the place of others that have lost their volumes.
    pub replacements: usize,
    /// Zones that they are in; 0: none are told apart.
    pub zones: usize,
    /// Time between two commands of an operator, in microseconds; `None`: the ring stays as it is.
    pub command_gap_us: Option<RangeInclusive<u64>>,
    /// What operators ask for.
    pub commands: Commands,
    /// Copies of each partition.
    pub replication: usize,
    /// Partitions.
    pub partitions: u32,
    /// Lanes of each member.
    pub lanes: u32,
    /// Keys that clients use.
    pub keys: usize,
    /// Clients.
    pub clients: usize,
    /// How long clients wait between two operations, in microseconds.
    pub think_us: RangeInclusive<u64>,
    /// How often they do what.
    pub mix: Mix,
    /// Requests that a member may send on to another, in 1000.
    pub forward: u32,
    /// Writes that carry an idempotency key, in 1000.
    pub idempotent: u32,
    /// Bytes of a value.
    pub value_bytes: RangeInclusive<u64>,
    /// How long there are faults, in microseconds.
    pub faulty_us: u64,
    /// Kinds of faults by weight.
    pub faults: Vec<(u32, Kind)>,
    /// Elections after which all members die, in 1000.
    pub crash_after_election: u32,
    /// Moves at whose beginning something happens to the group's leader, in 1000.
    pub hit_after_move: u32,
    /// Joint configurations whose leader is heard by few when they end, in 1000.
    pub silence_in_joint: u32,
    /// Time between two faults, in microseconds.
    pub fault_gap_us: RangeInclusive<u64>,
    /// How long a member that died stays down, in microseconds.
    pub down_us: RangeInclusive<u64>,
    /// How long a member stands still, in microseconds.
    pub pause_us: RangeInclusive<u64>,
    /// How much later at most, after a pause, what has come from one source is looked at than what has come from another,
    /// in microseconds.
    pub lag_us: u64,
    /// How long a cut lasts, in microseconds.
    pub cut_us: RangeInclusive<u64>,
    /// See [`annulus_core::replica::Settings`].
    pub election_timeout: Duration,
    /// How much of the logs stays for followers that lag.
    pub log_budget: LogBudget,
    /// How long a message takes, in microseconds.
    pub latency_us: (u64, u64),
    /// How long a sync of the WAL takes, in microseconds.
    pub sync_us: RangeInclusive<u64>,
    /// How long a checkpoint takes, in microseconds.
    pub checkpoint_us: RangeInclusive<u64>,
    /// How long it takes to write a map down, in microseconds.
    pub map_write_us: RangeInclusive<u64>,
    /// Every so many rounds of a lane all its records are checked against each other; 0: nothing is checked.
    pub check_every: u64,
    /// When lanes write their overlays down.
    pub limits: Limits,
    /// What is done with locks.
    pub locks: Plan,
    /// What is done with transactions.
    pub txns: txns::Plan,
}

const MILLI: u64 = 1000;
const SECOND: u64 = 1_000_000;

impl Scenario {
    /// What this seed gives.
    pub fn draw(dice: &mut Dice, profile: Profile) -> Self {
        let members = dice.weighted(&[(8, 3), (1, 1), (2, 5)]).expect("weights");
        let replication = if members == 5 && dice.chance(500) { 5 } else { members.min(3) };
        let partitions = *dice.pick(&[1, 2, 4]);
        let overlay = *dice.pick(&[4 << 10, 16 << 10, 64 << 10]);
        let mut scenario = Self {
            members,
            is_unmade: false,
            spares: 0,
            replacements: 0,
            zones: 0,
            command_gap_us: None,
            commands: Commands::EVEN,
            replication,
            partitions,
            lanes: *dice.pick(&[1, 1, 2]),
            keys: *dice.pick(&[4, 8, 12]),
            clients: *dice.pick(&[3, 5, 8]),
            think_us: MILLI..=*dice.pick(&[10, 40, 150]) * MILLI,
            mix: Mix::draw(dice),
            forward: *dice.pick(&[0, 700, 1000]),
            idempotent: *dice.pick(&[0, 100, 300]),
            value_bytes: 0..=*dice.pick(&[32, 256, 2048]),
            faulty_us: dice.within(10 * SECOND..=40 * SECOND),
            faults: Kind::draw(dice),
            crash_after_election: *dice.pick(&[0, 0, 0, 50]),
            hit_after_move: *dice.pick(&[0, 0, 100, 500]),
            silence_in_joint: 0,
            fault_gap_us: 50 * MILLI..=*dice.pick(&[500, 1500, 5000]) * MILLI,
            down_us: 20 * MILLI..=*dice.pick(&[200, 2000, 5000]) * MILLI,
            pause_us: 50 * MILLI..=*dice.pick(&[500, 2000]) * MILLI,
            lag_us: 5 * MILLI,
            cut_us: 100 * MILLI..=*dice.pick(&[1000, 4000]) * MILLI,
            election_timeout: Duration::from_millis(500),
            log_budget: LogBudget::default(),
            latency_us: *dice.pick(&[(50, 300), (200, 2000), (1000, 20_000)]),
            sync_us: *dice.pick(&[200, 1000])..=*dice.pick(&[1000, 10_000]),
            checkpoint_us: 2 * MILLI..=*dice.pick(&[20, 200, 1000]) * MILLI,
            map_write_us: 500..=*dice.pick(&[20, 20, 500]) * MILLI,
            check_every: 1,
            limits: Limits {
                overlay_bytes: overlay,
                overlay_age: Duration::from_millis(*dice.pick(&[300, 1000, 5000])),
            },
            locks: Plan::NONE,
            txns: txns::Plan::NONE,
        };
        scenario.draw_ring(dice);
        scenario.draw_log(dice);
        scenario.suit(profile, dice);
        scenario.locks = Plan::draw(dice, profile);
        scenario.txns = txns::Plan::draw(dice, profile);
        scenario
    }

    /// A store of so many partitions that an operator makes and changes, of not more processes than this, while everything may
    /// go wrong: seldom enough that the operator gets somewhere.
    pub fn operated(dice: &mut Dice, partitions: u32, slots: usize) -> Self {
        let mut scenario = Self::draw(dice, Profile::General);
        scenario.faults.extend([(2, Kind::CrashMapLeader), (3, Kind::HitMovingLeader)]);
        Self {
            is_unmade: true,
            members: 3,
            spares: 0,
            replacements: slots - 3,
            zones: 0,
            command_gap_us: None,
            replication: 3,
            partitions,
            faulty_us: u64::MAX,
            fault_gap_us: 500 * MILLI..=*dice.pick(&[3, 10]) * SECOND,
            map_write_us: 500..=20 * MILLI,
            latency_us: (50, *dice.pick(&[500, 5000])),
            think_us: 10 * MILLI..=*dice.pick(&[50, 300]) * MILLI,
            crash_after_election: 0,
            check_every: 8,
            locks: Plan::NONE,
            txns: txns::Plan::NONE,
            ..scenario
        }
    }

    /// A store of this size as people run it, to which nothing happens.
    pub fn quiet(members: usize) -> Self {
        Self {
            members,
            is_unmade: false,
            spares: 0,
            replacements: 0,
            zones: 0,
            command_gap_us: None,
            commands: Commands::NONE,
            replication: members.min(3),
            partitions: 128,
            lanes: 1,
            keys: 0,
            clients: 0,
            think_us: 0..=0,
            mix: Mix::default(),
            forward: 0,
            idempotent: 0,
            value_bytes: 0..=0,
            faulty_us: 0,
            faults: Vec::new(),
            crash_after_election: 0,
            hit_after_move: 0,
            silence_in_joint: 0,
            fault_gap_us: 0..=0,
            down_us: 0..=0,
            pause_us: 0..=0,
            lag_us: 0,
            cut_us: 0..=0,
            election_timeout: Duration::from_millis(1000),
            log_budget: LogBudget::default(),
            latency_us: (30, 60),
            sync_us: 150..=250,
            checkpoint_us: 50 * MILLI..=100 * MILLI,
            map_write_us: 500..=MILLI,
            check_every: 0,
            limits: Limits { overlay_bytes: 64 << 20, overlay_age: Duration::from_secs(60) },
            locks: Plan::NONE,
            txns: txns::Plan::NONE,
        }
    }

    /// In many runs logs keep little or nothing, so that followers that lag need snapshots.
    fn draw_log(&mut self, dice: &mut Dice) {
        let default = LogBudget::default();
        let everyone_bytes = *dice.pick(&[default.everyone_bytes, 16 << 10, 0]);
        let needed_bytes = *dice.pick(&[default.needed_bytes, 4 << 10, 0]);
        self.log_budget = LogBudget { everyone_bytes, needed_bytes };
    }

    /// Half of the runs leave the ring as it is: what goes wrong there has nothing to do with its changes.
    fn draw_ring(&mut self, dice: &mut Dice) {
        if dice.chance(500) {
            return;
        }
        self.spares = *dice.pick(&[1, 2, 3]);
        self.replacements = if self.replication >= 3 { 3 } else { 0 };
        self.zones = *dice.pick(&[0, 0, 2, 3]);
        self.command_gap_us = Some(50 * MILLI..=*dice.pick(&[500, 2000, 5000]) * MILLI);
        self.faults.extend([(2, Kind::CrashMapLeader), (3, Kind::HitMovingLeader), (1, Kind::LoseVolume)]);
    }

    /// All members that there can ever be.
    pub fn slots(&self) -> usize {
        self.members + self.spares + self.replacements
    }

    fn suit(&mut self, profile: Profile, dice: &mut Dice) {
        if profile != Profile::General {
            self.members = 3;
            self.replication = 3;
            self.latency_us = (50, 500);
            self.map_write_us = 500..=20 * MILLI;
            self.forward = 0;
            self.check_every = 8;
            self.crash_after_election = 0;
            self.faulty_us = 20 * SECOND;
            (self.spares, self.replacements, self.zones, self.command_gap_us) = (0, 0, 0, None);
        }
        match profile {
            Profile::General => {}
            Profile::Crashes => {
                self.faults = vec![(3, Kind::Crash), (1, Kind::CrashOfAll), (2, Kind::CutPair), (1, Kind::Cut)];
                self.fault_gap_us = 20 * MILLI..=400 * MILLI;
                self.down_us = MILLI..=300 * MILLI;
                self.sync_us = 2 * MILLI..=20 * MILLI;
                self.think_us = MILLI..=20 * MILLI;
            }
            Profile::Leases => {
                self.faults = vec![(6, Kind::Pause), (2, Kind::CutOneWay), (1, Kind::Weather), (1, Kind::Cut)];
                self.fault_gap_us = 200 * MILLI..=1500 * MILLI;
                self.faulty_us = 60 * SECOND;
                // Long enough for another to be elected and to answer a write.
                self.pause_us = 900 * MILLI..=1800 * MILLI;
                self.lag_us = 50 * MILLI;
                // Heartbeats are under way for long enough that many pauses begin before their answers come.
                self.latency_us = (MILLI, 20 * MILLI);
                self.think_us = MILLI..=20 * MILLI;
                self.clients = 8;
                self.keys = 4;
            }
            Profile::Bounces => {
                self.faults = vec![(1, Kind::Bounce)];
                self.faulty_us = 60 * SECOND;
                self.fault_gap_us = 1600 * MILLI..=2200 * MILLI;
                self.down_us = MILLI..=20 * MILLI;
                self.think_us = MILLI..=10 * MILLI;
                self.partitions = 4;
                self.clients = 8;
                self.keys = 12;
                // Few writes: whoever is cut off must not fall behind, or it can't be elected.
                self.mix = Mix { read: 300, put: 2, ..Mix::default() };
            }
            Profile::Answers => {
                // Those without a replica send everything on, from their first moment.
                self.members = 5;
                self.forward = 1000;
                self.faults = vec![(6, Kind::Crash), (2, Kind::SlowDisk), (1, Kind::CutPair)];
                self.fault_gap_us = 100 * MILLI..=400 * MILLI;
                self.down_us = MILLI..=20 * MILLI;
                self.sync_us = 50 * MILLI..=150 * MILLI;
                self.think_us = 0..=MILLI;
                self.clients = 8;
                self.idempotent = 0;
            }
            Profile::Elections | Profile::SlowDisks | Profile::Checkpoints => self.suit_disks(profile),
            Profile::Locks => self.suit_locks(dice),
            Profile::Transactions => self.suit_transactions(dice),
            _ => self.suit_rings(profile),
        }
    }

    /// Everything may go wrong, but not all the time: what is to be seen takes some seconds.
    fn suit_locks(&mut self, dice: &mut Dice) {
        self.faulty_us = 40 * SECOND;
        self.clients = 2;
        self.keys = 4;
        self.partitions = 2;
        self.forward = *dice.pick(&[0, 1000]);
        self.idempotent = 0;
        self.faults = Kind::draw(dice);
        self.faults.extend([(4, Kind::Crash), (1, Kind::CrashOfAll), (2, Kind::Pause)]);
        self.fault_gap_us = 200 * MILLI..=2500 * MILLI;
        self.down_us = MILLI..=800 * MILLI;
        self.pause_us = 50 * MILLI..=1800 * MILLI;
        if dice.chance(500) {
            self.spares = 1;
            self.command_gap_us = Some(500 * MILLI..=3000 * MILLI);
            self.faults.extend([(1, Kind::CrashMapLeader), (2, Kind::HitMovingLeader)]);
        }
    }

    /// Everything may go wrong, and often enough that coordinators die and are cut off in between.
    fn suit_transactions(&mut self, dice: &mut Dice) {
        self.faulty_us = 25 * SECOND;
        self.members = *dice.pick(&[3, 5]);
        self.clients = 2;
        self.keys = 4;
        self.partitions = 4;
        self.limits.overlay_bytes = self.limits.overlay_bytes.max(16 << 10);
        self.forward = *dice.pick(&[0, 1000]);
        self.idempotent = 100;
        self.latency_us = *dice.pick(&[(50, 500), (1000, 10_000)]);
        self.faults = Kind::draw(dice);
        self.faults.extend([(6, Kind::Crash), (1, Kind::CrashOfAll), (2, Kind::Pause), (2, Kind::CutPair)]);
        self.fault_gap_us = 100 * MILLI..=1500 * MILLI;
        self.down_us = MILLI..=800 * MILLI;
        self.pause_us = 50 * MILLI..=1800 * MILLI;
        if dice.chance(500) {
            self.spares = 1;
            self.command_gap_us = Some(500 * MILLI..=3000 * MILLI);
            self.faults.extend([(1, Kind::CrashMapLeader), (2, Kind::HitMovingLeader)]);
        }
    }

    fn suit_rings(&mut self, profile: Profile) {
        self.faulty_us = 30 * SECOND;
        self.fault_gap_us = 50 * MILLI..=1000 * MILLI;
        self.down_us = MILLI..=1000 * MILLI;
        self.think_us = MILLI..=20 * MILLI;
        self.sync_us = 200..=2 * MILLI;
        self.limits = Limits { overlay_bytes: 16 << 10, overlay_age: Duration::from_millis(300) };
        self.command_gap_us = Some(50 * MILLI..=800 * MILLI);
        let usual =
            [(3, Kind::Crash), (2, Kind::Cut), (2, Kind::CutOneWay), (2, Kind::Pause), (3, Kind::HitMovingLeader)];
        self.faults = usual.to_vec();
        match profile {
            Profile::Rings => {
                self.spares = 3;
                self.faults.extend([(2, Kind::Weather), (1, Kind::CrashMapLeader), (1, Kind::CrashOfAll)]);
            }
            Profile::Turns => {
                self.spares = 1;
                self.partitions = 1;
                self.keys = 4;
                self.commands = Commands { exchange: 10, drain: 3, undrain: 5, back: 4, ..Commands::NONE };
                self.command_gap_us = Some(300 * MILLI..=1500 * MILLI);
                self.faults.extend([(6, Kind::CutPair), (2, Kind::Weather), (4, Kind::SlowDisk)]);
            }
            Profile::LateMaps => {
                self.spares = 1;
                self.partitions = 1;
                self.keys = 4;
                self.map_write_us = MILLI..=3000 * MILLI;
                self.faulty_us = 60 * SECOND;
                // What begins is often taken back before all have followed.
                self.commands = Commands { join: 4, exchange: 6, drain: 6, undrain: 8, back: 6, ..Commands::NONE };
                self.command_gap_us = Some(200 * MILLI..=1500 * MILLI);
                self.fault_gap_us = 50 * MILLI..=600 * MILLI;
                self.faults.push((6, Kind::HitMovingLeader));
            }
            Profile::Moves => {
                self.spares = 2;
                self.partitions = 1;
                self.keys = 4;
                self.clients = 8;
                self.think_us = MILLI..=5 * MILLI;
                self.latency_us = (MILLI, 15 * MILLI);
                self.faults = vec![(1, Kind::Crash)];
                self.fault_gap_us = 2000 * MILLI..=6000 * MILLI;
                self.cut_us = 600 * MILLI..=2000 * MILLI;
                self.command_gap_us = Some(500 * MILLI..=2000 * MILLI);
                self.hit_after_move = 600;
                self.mix.read = 60;
            }
            Profile::Operators => {
                self.spares = 2;
                self.faults.extend([(8, Kind::CrashMapLeader), (2, Kind::CrashOfAll)]);
                self.command_gap_us = Some(50 * MILLI..=400 * MILLI);
            }
            _ => {
                self.spares = 1;
                self.replacements = 5;
                self.silence_in_joint = 300;
                self.command_gap_us = Some(100 * MILLI..=1000 * MILLI);
                self.faults.extend([(6, Kind::LoseVolume), (1, Kind::CrashOfAll)]);
            }
        }
    }

    fn suit_disks(&mut self, profile: Profile) {
        match profile {
            Profile::Elections => {
                self.faulty_us = 60 * SECOND;
                self.faults = vec![(1, Kind::CrashOfAll), (1, Kind::CutPair), (1, Kind::SlowDisk)];
                self.fault_gap_us = 1000 * MILLI..=3000 * MILLI;
                self.crash_after_election = 800;
                self.down_us = MILLI..=30 * MILLI;
                self.sync_us = MILLI..=20 * MILLI;
                self.think_us = MILLI..=5 * MILLI;
                self.clients = 8;
                self.keys = 4;
                self.mix.put = 100;
            }
            Profile::SlowDisks => {
                self.faulty_us = 60 * SECOND;
                self.faults = vec![(3, Kind::SlowDisk), (2, Kind::Crash), (2, Kind::Cut), (1, Kind::Pause)];
                self.fault_gap_us = 50 * MILLI..=800 * MILLI;
                self.down_us = 1000 * MILLI..=2000 * MILLI;
                self.sync_us = MILLI..=5 * MILLI;
                self.think_us = MILLI..=10 * MILLI;
                self.clients = 8;
                self.keys = 4;
            }
            Profile::Checkpoints => {
                self.faults = vec![(3, Kind::Crash), (1, Kind::CrashInDiskOperation), (2, Kind::CrashOfAll)];
                self.fault_gap_us = 50 * MILLI..=800 * MILLI;
                self.down_us = MILLI..=200 * MILLI;
                self.checkpoint_us = 100 * MILLI..=600 * MILLI;
                self.limits = Limits { overlay_bytes: 64 << 10, overlay_age: Duration::from_millis(100) };
                self.think_us = MILLI..=20 * MILLI;
            }
            _ => {}
        }
    }
}

impl Commands {
    const NONE: Self = Self { join: 0, leave: 0, exchange: 0, drain: 0, undrain: 0, remove: 0, alter: 0, back: 0 };
    const EVEN: Self = Self { join: 4, leave: 4, exchange: 4, drain: 3, undrain: 4, remove: 1, alter: 2, back: 4 };
}

impl Mix {
    fn draw(dice: &mut Dice) -> Self {
        let mut weight = |most: u64| u32::try_from(dice.within(0..=most)).expect("small");
        Self {
            read: 20 + weight(20),
            quorum: weight(10),
            stale: weight(8),
            scan: weight(4),
            put: 10 + weight(20),
            put_ttl: weight(6),
            put_version: weight(15),
            put_absent: weight(6),
            put_exists: weight(4),
            delete: weight(8),
            delete_version: weight(4),
        }
    }
}

impl Kind {
    fn draw(dice: &mut Dice) -> Vec<(u32, Self)> {
        let all = [
            (4, Self::Crash),
            (3, Self::CrashInDiskOperation),
            (1, Self::CrashOfAll),
            (3, Self::Pause),
            (3, Self::Cut),
            (2, Self::CutPair),
            (3, Self::CutOneWay),
            (1, Self::Bounce),
            (4, Self::Weather),
            (2, Self::SlowDisk),
            (1, Self::DiskFull),
            (2, Self::ClockRate),
        ];
        all.into_iter().filter(|_| dice.chance(650)).collect()
    }
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::General,
        Self::Crashes,
        Self::Leases,
        Self::Bounces,
        Self::Checkpoints,
        Self::Elections,
        Self::SlowDisks,
        Self::Rings,
        Self::Turns,
        Self::LateMaps,
        Self::Moves,
        Self::Operators,
        Self::Replacements,
        Self::Answers,
        Self::Locks,
        Self::Transactions,
    ];
}
