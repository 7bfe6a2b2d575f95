//! Transactions against bare partition machines: everything between them is at the mercy of chance. Questions and answers
//! come late, twice, out of order or not at all, coordinators vanish, and partitions come back from their records.
//!
//! Every transaction moves money between accounts and leaves its mark in each of them, so that what it was said to have
//! done can be held against what it did. `ANNULUS_TXN_SEEDS` is how many seeds are tried (default 300).

use std::collections::{BTreeMap, BTreeSet};

use annulus_core::id::{GroupId, PartitionId};
use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::txn::{Action, Check, Condition, Decision, Known, Name};
use annulus_core::partition::{self, Applied, Entry, Key, Partition};
use annulus_core::state::{MemoryState, TableId};
use annulus_core::txn::{Answer, Ask, Coordinator, Machine, Recovery, Seen, Snapshot, Transaction, Turn};
use bytes::Bytes;

const PARTITIONS: u32 = 3;
const ACCOUNTS: u64 = 6;
const OPENING: u64 = 100;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn account(number: u64) -> Key {
    Key::new(Bytes::from(format!("account-{number}"))).expect("a short key")
}

fn partition_of(key: &[u8]) -> PartitionId {
    PartitionId(u32::from(key[key.len() - 1]) % PARTITIONS)
}

/// `balance mark mark …`.
#[derive(Clone, Debug)]
struct Account {
    balance: u64,
    marks: Vec<u64>,
}

impl Account {
    fn read(value: &Bytes) -> Self {
        let text = std::str::from_utf8(value).expect("it is written as text");
        let mut words = text.split(' ').map(|word| word.parse().expect("it is written as numbers"));
        Self { balance: words.next().expect("a balance"), marks: words.collect() }
    }

    fn write(&self) -> Bytes {
        let words = std::iter::once(self.balance).chain(self.marks.iter().copied());
        words.map(|word| word.to_string()).collect::<Vec<_>>().join(" ").into()
    }
}

struct Group {
    state: MemoryState,
    partition: Partition,
    index: u64,
}

impl Group {
    fn new(id: PartitionId) -> Self {
        let (state, table) = (MemoryState::default(), TableId { group: id.group(), generation: 1 });
        let partition = Partition::load(&state, table).expect("an empty state can be read");
        Self { state, partition, index: 1 }
    }

    fn apply(&mut self, clock_ms: u64, command: partition::Command) -> Applied {
        self.index += 1;
        let entry = Entry { clock_ms, command }.encode();
        let applied = self.partition.apply(&mut self.state, self.index, entry).expect("it can be applied");
        self.partition.check(&self.state).expect("it can be read");
        applied
    }

    fn reload(&mut self, id: PartitionId) {
        let table = TableId { group: id.group(), generation: 1 };
        self.partition = Partition::load(&self.state, table).expect("it can be read back");
    }

    /// `None`: a leader would let it wait.
    fn answer(&mut self, clock_ms: u64, operation: &Operation) -> Option<Reply> {
        match operation {
            Operation::Txn(command) => match self.apply(clock_ms, partition::Command::Txn(command.clone())) {
                Applied::Txn(applied) => Some(Reply::Txn(applied.outcome)),
                other => panic!("{other:?} came of a transaction"),
            },
            Operation::GetMany { keys, .. } => {
                if keys.iter().any(|key| self.partition.hides(key).is_some()) {
                    return None;
                }
                let found = self.partition.get_many(&self.state, keys).expect("it can be read");
                Some(Reply::Many(found.expect("it is little")))
            }
            other => panic!("nobody asks {other:?} here"),
        }
    }
}

enum Agent {
    Transfer { coordinator: Coordinator, mark: u64 },
    Recovery(Recovery),
    Audit { snapshot: Snapshot, then: Option<u64> },
}

enum Letter {
    Ask(u64, Ask),
    Reply(u64, u32, Reply),
    Wake(u64),
}

/// What a client was told of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Done,
    NotDone,
}

struct World {
    dice: Dice,
    groups: BTreeMap<PartitionId, Group>,
    agents: BTreeMap<u64, Agent>,
    letters: Vec<Letter>,
    names: u64,
    clock_ms: u64,
    told: BTreeMap<u64, (Told, [u64; 2])>,
    /// How many still try each.
    trying: BTreeMap<u64, u32>,
    audits: u64,
    /// Whether messages are lost and coordinators vanish.
    is_bad: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let groups = (0..PARTITIONS).map(|id| (PartitionId(id), Group::new(PartitionId(id)))).collect();
        let mut world = Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            groups,
            agents: BTreeMap::new(),
            letters: Vec::new(),
            names: 0,
            clock_ms: 1,
            told: BTreeMap::new(),
            trying: BTreeMap::new(),
            audits: 0,
            is_bad: true,
        };
        for number in 0..ACCOUNTS {
            let value = Account { balance: OPENING, marks: Vec::new() }.write();
            let change = partition::Change::Put { value, ttl_ms: None };
            let condition = partition::Condition::Always;
            let write =
                partition::Write { key: account(number), condition, change, idempotency_key: None, fence: None };
            let group = world.groups.get_mut(&partition_of(account(number).bytes())).expect("all are there");
            group.apply(0, partition::Command::Write(write));
        }
        world
    }

    fn add<A>(&mut self, mut agent: A, make: impl FnOnce(A) -> Agent)
    where
        A: Machine,
    {
        self.names += 1;
        let name = self.names;
        let turn = agent.begin();
        self.agents.insert(name, make(agent));
        self.send(name, turn.asks, turn.wake_in.is_some());
    }

    fn send(&mut self, name: u64, asks: Vec<Ask>, wakes: bool) {
        for ask in asks {
            if self.is_bad && self.dice.one_in(30) {
                self.letters.push(Letter::Ask(name, ask.clone()));
            }
            self.letters.push(Letter::Ask(name, ask));
        }
        if wakes {
            self.letters.push(Letter::Wake(name));
        }
    }

    fn audit(&mut self, then: Option<u64>) {
        let snapshot = Snapshot::new((0..ACCOUNTS).map(account).collect(), partition_of);
        self.add(snapshot, |snapshot| Agent::Audit { snapshot, then });
    }

    /// Moves some money, as whoever has just seen these accounts would.
    fn transfer(&mut self, accounts: &[(u64, Account)], mark: u64) {
        let from = self.dice.below(ACCOUNTS);
        let to = (from + 1 + self.dice.below(ACCOUNTS - 1)) % ACCOUNTS;
        let amount = self.dice.below(20);
        let (mut conditions, mut then) = (Vec::new(), Vec::new());
        for (number, sign) in [(from, false), (to, true)] {
            let (version, mut account_now) = accounts[number as usize].clone();
            account_now.balance =
                if sign { account_now.balance + amount } else { account_now.balance.wrapping_sub(amount) };
            account_now.marks.push(mark);
            conditions.push(Condition { key: account(number), check: Check::Version(version) });
            then.push(Action::Put { key: account(number), value: account_now.write(), ttl_ms: None });
        }
        let otherwise = if self.dice.one_in(3) { vec![Action::Get { key: account(from) }] } else { Vec::new() };
        let name = if self.dice.one_in(2) { format!("t-{mark}") } else { format!("~{mark:032x}") };
        let name = Name::new(name.into()).expect("a short name");
        let transaction = Transaction { name, conditions, locks: Vec::new(), then, otherwise, fence: None };
        self.told.insert(mark, (Told::Nothing, [from, to]));
        // A client may have the same transaction tried by two at once.
        let twice = !transaction.name.is_made_up() && self.dice.one_in(4);
        let tries = 1 + u32::from(twice);
        self.trying.insert(mark, tries);
        for _ in 0..tries {
            let (number, priority) = (self.dice.draw(), self.clock_ms);
            let coordinator = Coordinator::new(transaction.clone(), partition_of, number, priority);
            let coordinator = if number % 3 == 0 { coordinator.look_first() } else { coordinator };
            self.add(coordinator, |coordinator| Agent::Transfer { coordinator, mark });
        }
    }

    fn deliver(&mut self, letter: Letter) {
        match letter {
            Letter::Ask(name, ask) => {
                let partition = GroupId::partition(ask.group).expect("a partition");
                let clock_ms = self.clock_ms;
                let group = self.groups.get_mut(&partition).expect("all are there");
                match group.answer(clock_ms, &ask.operation) {
                    Some(reply) if self.is_bad && self.dice.one_in(25) => {
                        drop(reply);
                        self.letters.push(Letter::Reply(name, ask.number, Reply::OutcomeUnknown));
                    }
                    Some(reply) => self.letters.push(Letter::Reply(name, ask.number, reply)),
                    None => self.letters.push(Letter::Ask(name, ask)),
                }
            }
            Letter::Reply(name, number, reply) => self.step(name, Some((number, reply))),
            Letter::Wake(name) => self.step(name, None),
        }
    }

    fn step(&mut self, name: u64, heard: Option<(u32, Reply)>) {
        let Some(agent) = self.agents.remove(&name) else { return };
        fn turn<M: Machine>(machine: &mut M, heard: Option<(u32, Reply)>) -> Turn<M::Answer> {
            match heard {
                Some((number, reply)) => machine.hear(number, reply),
                None => machine.wake(),
            }
        }
        let (asks, wakes, is_over, agent) = match agent {
            Agent::Transfer { mut coordinator, mark } => {
                let turn = turn(&mut coordinator, heard);
                if let Some(answer) = turn.answer {
                    self.answered(mark, &answer);
                }
                (turn.asks, turn.wake_in.is_some(), turn.is_over, Agent::Transfer { coordinator, mark })
            }
            Agent::Recovery(mut recovery) => {
                let turn = turn(&mut recovery, heard);
                (turn.asks, turn.wake_in.is_some(), turn.is_over, Agent::Recovery(recovery))
            }
            Agent::Audit { mut snapshot, then } => {
                let turn = turn(&mut snapshot, heard);
                if let Some(seen) = turn.answer {
                    self.audited(seen, then);
                }
                (turn.asks, turn.wake_in.is_some(), turn.is_over, Agent::Audit { snapshot, then })
            }
        };
        if !is_over {
            self.agents.insert(name, agent);
        }
        self.send(name, asks, wakes);
    }

    /// The time of a transfer is over.
    fn give_up(&mut self, name: u64) {
        let Some(Agent::Transfer { coordinator, mark }) = self.agents.get_mut(&name) else { return };
        let (turn, mark) = (coordinator.give_up(), *mark);
        if let Some(answer) = turn.answer {
            self.answered(mark, &answer);
        }
        if turn.is_over {
            self.agents.remove(&name);
        }
        self.send(name, turn.asks, turn.wake_in.is_some());
    }

    fn answered(&mut self, mark: u64, answer: &Answer) {
        let told = match answer {
            Answer::Committed { then: true, .. } => Told::Done,
            Answer::Committed { then: false, .. } | Answer::Failed(_) => Told::NotDone,
            Answer::Unknown => Told::Nothing,
        };
        let known = self.told.get_mut(&mark).expect("it was begun");
        let trying = self.trying.get_mut(&mark).expect("it was begun");
        *trying -= u32::from(told == Told::NotDone);
        // That one has not done it does not mean that another, who tries it still, will not.
        if told == Told::Done || *trying == 0 {
            known.0 = if known.0 == Told::Done { Told::Done } else { told };
        }
    }

    fn audited(&mut self, seen: Seen, then: Option<u64>) {
        let Seen::Items(items) = seen else { return };
        let accounts: Vec<_> = items
            .into_iter()
            .map(|item| item.map(|item| (item.version, Account::read(&item.value))).expect("no account goes away"))
            .collect();
        let total = accounts.iter().fold(0u64, |total, (_, account)| total.wrapping_add(account.balance));
        assert_eq!(total, ACCOUNTS * OPENING, "no money is made or lost: {accounts:?}");
        self.audits += 1;
        if let Some(mark) = then {
            self.transfer(&accounts, mark);
        }
    }

    fn sweep(&mut self) {
        let mut found = Vec::new();
        for (id, group) in &self.groups {
            found.extend(group.partition.abandoned_txns(self.clock_ms, 1000).map(|pointer| (*id, pointer)));
        }
        for (id, pointer) in found {
            self.add(Recovery::new(pointer, id), Agent::Recovery);
        }
    }

    fn run(&mut self, transfers: u64) {
        let mut begun = 0;
        while begun < transfers {
            self.clock_ms += self.dice.below(20);
            if self.agents.len() < 6 || self.dice.one_in(20) {
                begun += 1;
                self.audit(Some(begun));
            }
            for _ in 0..self.dice.below(8) {
                if !self.letters.is_empty() {
                    let at = self.dice.below(self.letters.len() as u64) as usize;
                    let letter = self.letters.swap_remove(at);
                    self.deliver(letter);
                }
            }
            if self.dice.one_in(40) && !self.agents.is_empty() {
                let at = self.dice.below(self.agents.len() as u64) as usize;
                let name = *self.agents.keys().nth(at).expect("it is one of them");
                self.agents.remove(&name);
            }
            if self.dice.one_in(15) && !self.agents.is_empty() {
                let at = self.dice.below(self.agents.len() as u64) as usize;
                self.give_up(*self.agents.keys().nth(at).expect("it is one of them"));
            }
            if self.dice.one_in(30) {
                let id = PartitionId(self.dice.below(u64::from(PARTITIONS)) as u32);
                self.groups.get_mut(&id).expect("all are there").reload(id);
            }
            if self.dice.one_in(10) {
                self.sweep();
            }
        }
    }

    /// Nothing bad happens any more: everything that was begun comes to an end.
    fn settle(&mut self) {
        self.is_bad = false;
        for _ in 0..20 {
            let mut steps = 0;
            while !self.letters.is_empty() {
                let at = self.dice.below(self.letters.len() as u64) as usize;
                let letter = self.letters.swap_remove(at);
                self.deliver(letter);
                steps += 1;
                if steps > 20_000 {
                    break;
                }
            }
            self.clock_ms += 1500;
            self.sweep();
            if self.letters.is_empty() {
                break;
            }
        }
        for (id, group) in &self.groups {
            assert_eq!(group.partition.open_count(), 0, "{id}: nothing is held for ever");
        }
    }

    fn judge(&mut self) {
        let before = self.audits;
        self.audit(None);
        self.settle();
        assert!(self.audits > before, "with nobody in the way the accounts can be read");
        let mut marks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for number in 0..ACCOUNTS {
            let key = account(number);
            let group = &self.groups[&partition_of(key.bytes())];
            let item = group.partition.get(&group.state, &key).expect("it can be read").expect("it is there");
            let account = Account::read(&item.value);
            let unique: BTreeSet<_> = account.marks.iter().collect();
            assert_eq!(unique.len(), account.marks.len(), "nothing is done twice: {account:?}");
            account.marks.iter().for_each(|mark| marks.entry(*mark).or_default().push(number));
        }
        for (mark, (told, accounts)) in &self.told {
            let mut expected = accounts.to_vec();
            expected.sort_unstable();
            let found = marks.get(mark).cloned().unwrap_or_default();
            assert!(found.is_empty() || found == expected, "{mark} is half done: {found:?} of {expected:?}");
            match told {
                Told::Done => assert_eq!(found, expected, "{mark} was said to be done"),
                Told::NotDone => assert!(found.is_empty(), "{mark} was said not to be done"),
                Told::Nothing => {}
            }
        }
        self.judge_decisions();
    }

    /// No two partitions were told different things of the same attempt, and no transaction was committed twice.
    fn judge_decisions(&self) {
        for mark in self.told.keys() {
            let mut decisions = BTreeMap::<(u64, u32), BTreeSet<String>>::new();
            for name in [format!("t-{mark}"), format!("~{mark:032x}")] {
                let name = Name::new(name.into()).expect("a short name");
                for group in self.groups.values() {
                    for known in group.partition.known_of(&group.state, &name, self.clock_ms).expect("readable") {
                        let Known::Finished(finished) = known else { panic!("{known:?} is open") };
                        let decision = format!("{:?}", finished.decision);
                        decisions.entry((finished.id.coordinator, finished.id.attempt)).or_default().insert(decision);
                    }
                }
            }
            assert!(decisions.values().all(|said| said.len() == 1), "{mark} was decided differently: {decisions:?}");
            let committed = decisions.values().filter(|said| !said.contains(&format!("{:?}", Decision::Abort)));
            assert!(committed.count() <= 1, "{mark} was committed twice: {decisions:?}");
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test asks how long it is to run; the core does not")]
fn seeds() -> u64 {
    std::env::var("ANNULUS_TXN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300)
}

#[test]
fn money_is_neither_made_nor_lost_and_every_answer_is_kept() {
    let (mut done, mut audits) = (0, 0);
    let seeds = seeds();
    for seed in 1..=seeds {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run(40);
            world.settle();
            world.judge();
            (world.told.values().filter(|(told, _)| *told == Told::Done).count(), world.audits)
        });
        match result {
            Ok((some_done, some_audits)) => {
                done += some_done;
                audits += some_audits;
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let expected = seeds as usize * 2;
    assert!(done > expected && audits > seeds * 5, "too little has happened: {done} done, {audits} audits");
}
