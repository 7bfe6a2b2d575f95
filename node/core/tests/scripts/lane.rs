//! Some members, each with one lane, a disk that is told when to sync, and a network that is told what to deliver. No
//! time passes but what a script says, and each member has a clock of its own.
//!
//! ```text
//! members 3 partitions=1 [map=yes] [timeout=1s] [needed=BYTES]    a store that was never started; member 1 should lead p0, 2 p1, …
//! members 4 … factor=3 zones=0 map=yes     the same as the solver places it; without `factor` everybody holds everything
//!     `needed=BYTES`: so much of its logs a leader keeps for followers that lag, if that is more than what everybody keeps
//! start N                            one more process, which has nothing and is in no map
//! bootstrap [N…]                     makes the replicas of the first map
//! put N KEY VALUE [if=…] [ttl=D] [name=N] [within=D]     delete N KEY …       a request to member N
//! get N KEY [linearizable|quorum|stale] [within=D]       scan N [PREFIX] …    read-map N [linearizable|…]
//! lock N acquire LOCK OWNER [mode=shared] [ttl=D] [wait=D] [request=N] [within=D]     lock N renew|release LOCK TOKEN
//! read-lock N LOCK [linearizable|…]      cancel N LOCK R      nobody waits for the answer to request R any more
//! txn N P prepare|decide|… ID …       to the leader of pP: see `partition`      get-many N P KEY…      txns N P
//! put-map N                          a write to the map group
//! change N WHAT [fence=F] [epoch=E] [within=D]     a command to the map group, through member N. WHAT is one of:
//!     members 1,2,4 [zones=0] [weight=3:50]     drain M     undrain M     remove M
//! plan N     history N     map-at N EPOCH     what the map group's leader knows, asked of member N
//! map N                              the map that member N has
//! gossip N                           sends the map of N to all others
//! forget-map N                       a member that is down has only the first map left
//! groups                             who votes and who learns, by each leader
//! wipe N                             a member that is down loses its disk, and its map
//! evict N yes|no                     it takes no leadership, or does again
//! fill N COUNT BYTES                 puts keys fill-0, fill-1, … of so many bytes, each its own round, and stabilizes
//! deliver 1->2 [COUNT]               up to COUNT messages of a link, in one round
//! drop 1->2 [COUNT]    copy 1->2     loses messages; sends the first one once more, last
//! network                            what is on its way
//! persist N [COUNT]                  up to COUNT writes become durable
//! stabilize                          delivers and persists until nothing is left
//! cut N | cut 1->2     heal          links that lose everything
//! lose p0              heal          all that is said from now on in a group is lost
//! tick N|all D                       the clock moves on by D, tick by tick
//! pause N D                          the clock moves on by D, and nothing hears of it
//! wake N                             one tick that makes up for a pause
//! run D                              ticks of all members, each followed by a stabilize
//! campaign N                         ticks until the member stands for election
//! crash N              restart N     loses what is not durable; starts from the rest
//! checkpoint N [begin|finish|drop]   all of it, or one step
//! pressure N none|writes|entries     disk-full N yes|no       unreachable N M
//! prefer N                           the map now says that N should lead all partitions
//! status                             each replica
//! quiet                loud          only replies and leaders are told; or messages and writes, too
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use annulus_core::id::{ClusterId, GroupId, MemberId, PartitionId, RequestId};
use annulus_core::lane::{Input, LogBudget, Operation, Pressure};
use annulus_core::map::{Assignment, Command, Intent, Map};
use annulus_core::partition::{Consistency, lock};

use crate::arguments::{Arguments, Result, duration};
use crate::world::{Letter, World};
use crate::{map, script, trace};

#[derive(Default)]
pub struct Player {
    world: Option<World>,
}

impl script::Player for Player {
    fn play(&mut self, line: &str) -> Result<Vec<String>> {
        let (command, mut arguments) = Arguments::new(line);
        if command == "members" {
            self.world = Some(members(&mut arguments)?);
            arguments.end()?;
            return Ok(Vec::new());
        }
        let world = self.world.as_mut().ok_or("there are no members yet")?;
        let output = match command {
            "status" => status(world),
            "network" => network(world),
            "groups" => groups(world),
            "map" => {
                let number: u64 = arguments.number("a member")?;
                let member = world.members.get(&number).ok_or("there is no such member")?;
                member.map.as_ref().map_or(vec!["it has no map".to_owned()], |map| trace::lines_of(map))
            }
            _ => {
                play(world, command, &mut arguments)?;
                Vec::new()
            }
        };
        arguments.end()?;
        let mut trace = world.take_trace();
        trace.extend(output);
        Ok(trace)
    }
}

/// Three members with one partition.
pub fn three_members() -> World {
    members(&mut Arguments::new("members 3").1).expect("that can be")
}

/// Every member holds every partition; they lead in turn.
fn members(arguments: &mut Arguments) -> Result<World> {
    let count: u64 = arguments.number("a number of members")?;
    let partitions: u64 = arguments.option("partitions").unwrap_or("1").parse().map_err(|_| "not a number")?;
    let timeout = arguments.option("timeout").map_or(Ok(Duration::from_secs(1)), duration)?;
    let with_map = arguments.option("map") == Some("yes");
    let needed_bytes = arguments.option_number("needed")?.unwrap_or(0);
    let log_budget = LogBudget { needed_bytes, ..LogBudget::default() };
    let zones = arguments.option_number("zones")?.unwrap_or(0);
    let members: Vec<_> = (1..=count).map(|number| map::member(number, zones)).collect();
    let cluster = ClusterId(*b"a script's store");
    if let Some(factor) = arguments.option_number("factor")? {
        let partitions = u32::try_from(partitions).map_err(|error| error.to_string())?;
        let map = Map::bootstrap(cluster, partitions, factor, members).map_err(|error| error.to_string())?;
        return Ok(World::new(map, with_map, timeout, log_budget));
    }
    let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
    let assignments = (0..partitions).map(|partition| {
        let leader = MemberId::new(partition % count + 1).expect("not 0");
        Assignment { replicas: ids.clone(), leader }
    });
    let map = Map {
        cluster,
        epoch: 1,
        replication_factor: ids.len(),
        fence: 0,
        members,
        assignments: assignments.collect(),
        map_voters: ids.clone(),
        targets: BTreeMap::new(),
        map_target: ids,
        moves: BTreeMap::new(),
    };
    map.check();
    Ok(World::new(map, with_map, timeout, log_budget))
}

fn play(world: &mut World, command: &str, arguments: &mut Arguments) -> Result<()> {
    match command {
        "put" | "delete" | "get" | "scan" | "lock" | "read-lock" | "txn" | "txns" | "get-many" | "read-map"
        | "put-map" | "change" | "plan" | "history" | "map-at" => {
            return request(world, command, arguments);
        }
        "cancel" => {
            let number: u64 = arguments.number("a member")?;
            let group = world.map.partition_of(arguments.lock_name()?.bytes()).group();
            let request = RequestId(arguments.number("a request")?);
            world.step(number, Input::Cancel { group, request }).ok_or("it is down")?;
            world.end_round(number);
        }
        "deliver" | "drop" | "copy" | "cut" | "lose" | "heal" => return links(world, command, arguments),
        "tick" | "pause" | "wake" | "run" | "campaign" => return time(world, command, arguments),
        "stabilize" => world.stabilize(),
        "quiet" | "loud" => world.quiet = command == "quiet",
        "bootstrap" => {
            let mut numbers = Vec::new();
            while let Some(word) = arguments.word() {
                numbers.push(word.parse().map_err(|_| format!("`{word}` is no member"))?);
            }
            for number in if numbers.is_empty() { world.numbers() } else { numbers } {
                world.bootstrap(number);
            }
        }
        _ => {
            let number: u64 = arguments.number("a member")?;
            return member(world, number, command, arguments);
        }
    }
    Ok(())
}

fn member(world: &mut World, number: u64, command: &str, arguments: &mut Arguments) -> Result<()> {
    match command {
        "fill" => fill(world, number, arguments)?,
        "persist" => {
            let most = count(arguments)?;
            world.persist(number, most);
        }
        "crash" => world.crash(number),
        "restart" => world.restart(number),
        "checkpoint" => checkpoint(world, number, arguments.word())?,
        "prefer" => {
            world.prefer(MemberId::new(number).ok_or("members are counted from 1")?);
        }
        "start" => {
            let log_budget = world.members.values().next().ok_or("there are no members")?.settings.log_budget;
            let timeout = world.tick() * 10;
            world.start(MemberId::new(number).ok_or("members are counted from 1")?, timeout, log_budget);
        }
        "wipe" => {
            let member = world.members.get_mut(&number).filter(|member| member.lane.is_none());
            let member = member.ok_or("it is not down")?;
            (member.disk, member.map) = Default::default();
        }
        "gossip" => world.gossip(number),
        "forget-map" => {
            let first = std::sync::Arc::clone(&world.map);
            let member = world.members.get_mut(&number).filter(|member| member.lane.is_none());
            member.ok_or("it is not down")?.map = Some(first);
        }
        "evict" => {
            let evicted = arguments.need("yes or no")? == "yes";
            let lane = world.members.get_mut(&number).and_then(|member| member.lane.as_mut()).ok_or("it is down")?;
            lane.evict(evicted);
            world.end_round(number);
        }
        "unreachable" => {
            let other = arguments.member()?;
            world.step(number, Input::Unreachable(other)).ok_or("it is down")?;
            world.end_round(number);
        }
        "pressure" | "disk-full" => {
            let how = arguments.need("how much")?;
            let lane = world.members.get_mut(&number).and_then(|member| member.lane.as_mut()).ok_or("it is down")?;
            match (command, how) {
                ("disk-full", _) => lane.set_disk_full(how == "yes"),
                (_, "none") => lane.set_pressure(Pressure::None),
                (_, "snapshots") => lane.set_pressure(Pressure::HoldSnapshots),
                (_, "writes") => lane.set_pressure(Pressure::RefuseWrites),
                (_, "entries") => lane.set_pressure(Pressure::RefuseEntries),
                _ => return Err(format!("there is no pressure `{how}`")),
            }
        }
        _ => return Err(format!("there is no command `{command}`")),
    }
    Ok(())
}

fn request(world: &mut World, command: &str, arguments: &mut Arguments) -> Result<()> {
    let number: u64 = arguments.number("a member")?;
    let patience = arguments.option("within").map_or(Ok(Duration::from_secs(5)), duration)?;
    let mut lock_wait = Duration::ZERO;
    let (group, operation) = match command {
        "put" | "delete" | "put-map" => {
            let write = if command == "delete" { arguments.delete()? } else { arguments.put()? };
            let group = world.map.partition_of(write.key.bytes()).group();
            (if command == "put-map" { GroupId::MAP } else { group }, Operation::Write(write))
        }
        "get" => {
            let key = arguments.key()?;
            let group = world.map.partition_of(key.bytes()).group();
            (group, Operation::Get { key, consistency: consistency(arguments.word())? })
        }
        "lock" => {
            let command = arguments.lock()?;
            if let lock::Command::Acquire(wish) = &command {
                lock_wait = Duration::from_millis(wish.wait_ms);
            }
            (world.map.partition_of(command.name().bytes()).group(), Operation::Lock(command))
        }
        "read-lock" => {
            let name = arguments.lock_name()?;
            let group = world.map.partition_of(name.bytes()).group();
            (group, Operation::ReadLock { name, consistency: consistency(arguments.word())? })
        }
        "txn" | "txns" | "get-many" => {
            let group = PartitionId(arguments.number("a partition")?).group();
            let consistency = Consistency::Linearizable;
            let operation = match command {
                "txn" => Operation::Txn(arguments.txn()?),
                "txns" => Operation::ListTxns { consistency },
                _ => Operation::GetMany { keys: arguments.keys()?, consistency },
            };
            (group, operation)
        }
        "change" => (GroupId::MAP, Operation::ChangeMap(intent(arguments)?)),
        "plan" => (GroupId::MAP, Operation::ReadPlan),
        "history" => (GroupId::MAP, Operation::ReadHistory { epoch: None }),
        "map-at" => (GroupId::MAP, Operation::ReadHistory { epoch: Some(arguments.number("an epoch")?) }),
        "scan" => (GroupId(1), Operation::Scan { scan: arguments.scan()?, consistency: Consistency::Linearizable }),
        _ => (GroupId::MAP, Operation::ReadMap { consistency: consistency(arguments.word())? }),
    };
    world.request(number, group, operation, patience + lock_wait).ok_or_else(|| "it is down".to_owned())
}

/// `members 1,2,4 [zones=Z] [weight=N:W] | drain N | undrain N | remove N [fence=F] [epoch=E]`.
pub fn intent(arguments: &mut Arguments) -> Result<Intent> {
    let (fence, epoch) = (arguments.option_number("fence")?.unwrap_or(0), arguments.option_number("epoch")?);
    let command = match arguments.need("a command")? {
        "members" => {
            let zones = arguments.option_number("zones")?.unwrap_or(0);
            let weight = arguments.option("weight").and_then(|weight| weight.split_once(':'));
            let zone = arguments.option("zone").and_then(|zone| zone.split_once(':'));
            let mut desired = Vec::new();
            for id in crate::arguments::members(arguments.need("members")?)? {
                let is = |name: &str| name.parse() == Ok(id.get());
                let mut one = map::desired(id.get(), zones);
                if let Some((_, weight)) = weight.filter(|(name, _)| is(name)) {
                    one.weight = weight.parse().map_err(|_| format!("`{weight}` is no weight"))?;
                }
                if let Some((_, zone)) = zone.filter(|(name, _)| is(name)) {
                    one.zone = zone.to_owned();
                }
                desired.push(one);
            }
            Command::Members(desired)
        }
        "drain" => Command::Drain(arguments.member()?),
        "undrain" => Command::Undrain(arguments.member()?),
        "remove" => Command::Remove(arguments.member()?),
        other => return Err(format!("there is no command `{other}`")),
    };
    Ok(Intent { fence, epoch, command })
}

fn consistency(word: Option<&str>) -> Result<Consistency> {
    match word {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("quorum") => Ok(Consistency::Quorum),
        Some("stale") => Ok(Consistency::Stale),
        Some(other) => Err(format!("there is no consistency `{other}`")),
    }
}

fn fill(world: &mut World, number: u64, arguments: &mut Arguments) -> Result<()> {
    let count: u32 = arguments.number("a count")?;
    let bytes: u32 = arguments.number("a number of bytes")?;
    for key in 0..count {
        request(world, "put", &mut Arguments::new(&format!("put {number} fill-{key} x*{bytes}")).1)?;
        world.stabilize();
    }
    Ok(())
}

fn checkpoint(world: &mut World, number: u64, step: Option<&str>) -> Result<()> {
    if matches!(step, None | Some("begin")) {
        world.begin_checkpoint(number);
    }
    if step.is_none() {
        world.persist(number, usize::MAX);
    }
    let disk = &mut world.members.get_mut(&number).ok_or("there is no such member")?.disk;
    match step {
        None => disk.finish_checkpoint().and_then(|()| disk.drop_wal()),
        Some("begin") => Ok(()),
        Some("finish") => disk.finish_checkpoint(),
        Some("drop") => disk.drop_wal(),
        Some(other) => Err(format!("a checkpoint has no step `{other}`")),
    }
}

fn count(arguments: &mut Arguments) -> Result<usize> {
    arguments.word().map_or(Ok(usize::MAX), |word| word.parse().map_err(|_| format!("`{word}` is not a number")))
}

fn link(word: &str) -> Result<(u64, u64)> {
    let ends = word.split_once("->").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    ends.ok_or_else(|| format!("`{word}` is not a link such as 1->2"))
}

fn links(world: &mut World, command: &str, arguments: &mut Arguments) -> Result<()> {
    if command == "heal" {
        world.cut.clear();
        world.lost.clear();
        return Ok(());
    }
    if command == "lose" {
        world.lost.insert(map::group(arguments.need("a group")?));
        return Ok(());
    }
    let word = arguments.need("a link")?;
    if let ("cut", Ok(alone)) = (command, word.parse::<u64>()) {
        world.isolate(alone);
        return Ok(());
    }
    let (from, to) = link(word)?;
    let queue = world.links.entry((from, to)).or_default();
    match command {
        "deliver" => {
            let most = count(arguments)?;
            world.deliver(from, to, most);
        }
        "drop" => {
            let most = count(arguments)?.min(queue.len());
            queue.drain(..most);
        }
        "copy" => {
            let first = queue.front().cloned().ok_or("nothing is on its way there")?;
            queue.push_back(first);
        }
        _ => {
            queue.clear();
            world.cut.insert((from, to));
        }
    }
    Ok(())
}

fn time(world: &mut World, command: &str, arguments: &mut Arguments) -> Result<()> {
    let tick = world.tick();
    let who = if command == "run" { "all" } else { arguments.need("a member")? };
    let numbers = match who {
        "all" => world.numbers(),
        number => vec![number.parse().map_err(|_| format!("`{number}` is no member"))?],
    };
    match command {
        "wake" => numbers.into_iter().for_each(|number| world.pass(number, Duration::ZERO, true)),
        "pause" => {
            let time = arguments.duration()?;
            numbers.into_iter().for_each(|number| world.pass(number, time, false));
        }
        "campaign" => {
            for number in numbers {
                campaign(world, number)?;
            }
        }
        _ => {
            let mut left = arguments.duration()?;
            while !left.is_zero() {
                let step = left.min(tick);
                left -= step;
                for number in &numbers {
                    world.pass(*number, step, true);
                }
                if command == "run" {
                    world.stabilize();
                }
            }
        }
    }
    Ok(())
}

fn campaign(world: &mut World, number: u64) -> Result<()> {
    let tick = world.tick();
    let quiet = std::mem::replace(&mut world.quiet, false);
    let mut told = Vec::new();
    for _ in 0..40 {
        world.pass(number, tick, true);
        let lines = world.take_trace();
        let stands = lines.iter().any(|line| line.contains("pre-vote "));
        told.extend(lines.into_iter().filter(|line| !quiet || line.contains(" is led by ")));
        if stands {
            break;
        }
    }
    world.quiet = quiet;
    if told.is_empty() && !quiet { Err("it does not stand for election".to_owned()) } else { world.retell(told) }
}

fn status(world: &World) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, member) in &world.members {
        let Some(lane) = &member.lane else {
            lines.push(format!("{number}: down"));
            continue;
        };
        for replica in lane.replicas() {
            let role = match replica.leader() {
                _ if replica.leads() => "leads".to_owned(),
                Some(leader) => format!("follows {}", leader.get()),
                None => "follows nobody".to_owned(),
            };
            lines.push(format!(
                "{number}: {} {role} in t{}, generation {}, log to {}, committed {}, applied {}",
                replica.group(),
                replica.term(),
                replica.table().generation,
                replica.last_index(),
                replica.committed(),
                trace::position(replica.applied())
            ));
        }
    }
    lines
}

fn network(world: &World) -> Vec<String> {
    let links = world.links.iter();
    links.flat_map(|((from, to), queue)| queue.iter().map(move |m| format!("{from}->{to} {}", letter(m)))).collect()
}

fn letter(letter: &Letter) -> String {
    match letter {
        Letter::Peer(message) => trace::message(message),
        Letter::Map(map) => Map::decode(map.clone()).map_or_else(|e| e.to_string(), |map| format!("map {}", map.epoch)),
    }
}

fn groups(world: &World) -> Vec<String> {
    let lanes = world.members.iter().filter_map(|(number, member)| Some((number, member.lane.as_ref()?)));
    let leaders = lanes.flat_map(|(number, lane)| lane.replicas().filter(|it| it.leads()).map(move |it| (number, it)));
    let mut leaders: Vec<_> = leaders.collect();
    leaders.sort_by_key(|(number, replica)| (replica.group(), *number));
    let shown = leaders.into_iter().map(|(number, replica)| {
        let configuration = trace::configuration(replica.configuration());
        format!("{}: {configuration}, led by {number} in t{}", replica.group(), replica.term())
    });
    shown.collect()
}
