//! One run: the operator's clock and the simulator's are one. Whenever the operator has nothing to do but wait, a millisecond
//! passes for everything else.
//!
//! ```text
//!  made, changed, broken ──▶ calm: nothing goes wrong any more, all settles ──▶ quiet: nothing is written
//!                                ──▶ clients end, all they were told is judged ──▶ deleted
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use annulus_crds::StorageCluster;
use annulus_operator::caches::Caches;
use annulus_operator::simulated::Cluster;
use annulus_tests::simulator::admin::AdminAnswer;
use annulus_tests::simulator::dice::Dice;
use annulus_tests::simulator::faults::Counters;
use annulus_tests::simulator::operated::Operated;
use annulus_tests::simulator::trace::Trace;
use annulus_tests::simulator::world::Broken;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::machines::{Machines, SLOTS};
use super::operators::{Heard, Process};
use super::person::{Act, NODES};
use super::stores::{Line, What};
use super::{NAME, NAMESPACE};

/// How long everything may take to settle when nothing goes wrong any more.
const SETTLED_WITHIN_S: u64 = 400;
/// A cluster is settled when nothing was changed for so long.
const QUIET_S: u64 = 25;
const JUDGED_WITHIN_S: u64 = 60;
const DELETED_WITHIN_S: u64 = 120;

/// Why a run has failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Something of the store is broken.
    #[error(transparent)]
    Store(#[from] Broken),
    /// The operator's process did what it must not.
    #[error("{0}")]
    Operator(String),
}

/// What a run has given.
pub struct Outcome {
    /// Everything that happened.
    pub trace: Trace,
    /// What went wrong with the store on purpose.
    pub counters: Counters,
    /// What was done to the cluster, and how often.
    pub counts: BTreeMap<String, u64>,
    /// How many of the clients' operations were answered.
    pub answered: usize,
    /// How long it took on the simulator's clock, in seconds.
    pub seconds: u64,
    /// What was broken, if anything was.
    pub broken: Option<String>,
}

/// One run.
pub struct Run {
    pub dice: Dice,
    pub cluster: Cluster,
    pub store: Operated,
    pub machines: Machines,
    pub images: u64,
    /// How many seconds old is what operators hear.
    pub lag: usize,
    pub counts: BTreeMap<String, u64>,
    began: Instant,
    line: Arc<Line>,
    heard: Arc<Heard>,
    waiting: BTreeMap<u64, oneshot::Sender<AdminAnswer>>,
    operator: Option<Process>,
    /// Operators that stand still or were taken over from, and when they go on and end.
    old: Vec<(u64, Process)>,
    /// When there is another operator.
    next_operator: u64,
    fences: u64,
    past: VecDeque<(u64, Caches)>,
    shown: u64,
    seconds: u64,
    next_act: u64,
    planned: Vec<(u64, Act)>,
    changes: u64,
}

/// Runs one seed to its end.
pub fn run(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without threads").block_on(async {
        let mut run = Run::new(seed);
        let failed = run.go().await.err();
        run.end(failed)
    })
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let cluster = Cluster::with_nodes(seed, NODES);
        let partitions = *dice.pick(&[4, 8]);
        let retention = |dice: &mut Dice| if dice.chance(500) { "Retain" } else { "Delete" };
        let resource = json!({
            "apiVersion": "annulus.dev/v1alpha1", "kind": "StorageCluster",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "replicas": dice.pick(&[3, 3, 5]), "partitions": partitions, "storage": {"size": "1Gi"},
                "replacement": {"afterSeconds": 15},
                "volumeRetention": {"whenScaled": retention(&mut dice), "whenDeleted": retention(&mut dice)},
            },
        });
        let resource: StorageCluster = serde_json::from_value(resource).expect("a resource");
        cluster.create(&resource).expect("it is the first of its name");
        let store = Operated::new(seed, dice.fork(), partitions, SLOTS).expect("nothing runs yet");
        let heard = Arc::new(Heard::new(cluster.caches(NAMESPACE)));
        let line = Arc::new(Line::default());
        let operator = Process::start(&cluster, &line, &heard, 1);
        Self {
            machines: Machines::new(&cluster),
            dice,
            store,
            images: 1,
            lag: 0,
            counts: BTreeMap::new(),
            began: Instant::now(),
            line,
            heard,
            waiting: BTreeMap::new(),
            operator: Some(operator),
            old: Vec::new(),
            next_operator: 0,
            fences: 1,
            past: VecDeque::new(),
            shown: 0,
            seconds: 0,
            next_act: 0,
            planned: Vec::new(),
            changes: 0,
            cluster,
        }
    }

    async fn go(&mut self) -> Result<(), Failed> {
        let until = self.dice.within(60..=150);
        self.next_act = self.after_seconds(0, 25);
        while self.seconds < until {
            self.pass().await?;
            self.live();
        }
        self.calm()?;
        self.settle().await?;
        self.store.finish();
        let late = self.seconds + JUDGED_WITHIN_S;
        while !self.store.is_over() {
            if self.seconds > late {
                return Err(Failed::Operator("the clients do not end".to_owned()));
            }
            self.pass().await?;
        }
        self.delete().await
    }

    /// Waits until all is as it is wanted, and then nothing is changed for a while.
    async fn settle(&mut self) -> Result<(), Failed> {
        let late = self.seconds + SETTLED_WITHIN_S;
        let (mut since, mut changes) = (self.seconds, self.changes);
        while self.seconds < since + QUIET_S {
            self.pass().await?;
            let unsettled = self.unsettled();
            if unsettled.is_some() || self.changes != changes {
                (since, changes) = (self.seconds, self.changes);
            }
            if self.seconds > late {
                let why = unsettled.unwrap_or_else(|| "the operator still changes something".to_owned());
                return Err(Failed::Operator(format!("{SETTLED_WITHIN_S} s after all was well: {why}")));
            }
        }
        self.store.record(format_args!("settled"));
        Ok(())
    }

    /// The cluster is deleted, and all goes that is to go.
    async fn delete(&mut self) -> Result<(), Failed> {
        let claims = self.cluster.list::<PersistentVolumeClaim>(Some(NAMESPACE)).len();
        let keeps = self
            .resource()
            .is_some_and(|resource| format!("{:?}", resource.spec.volume_retention.when_deleted) == "Retain");
        self.cluster.delete::<StorageCluster>(NAMESPACE, NAME).map_err(|error| Failed::Operator(error.to_string()))?;
        let late = self.seconds + DELETED_WITHIN_S;
        while self.resource().is_some() {
            if self.seconds > late {
                return Err(Failed::Operator(format!("{DELETED_WITHIN_S} s after its deletion it is still there")));
            }
            self.pass().await?;
        }
        self.cluster.settle();
        let pods = self.cluster.list::<Pod>(Some(NAMESPACE)).len();
        let left = self.cluster.list::<PersistentVolumeClaim>(Some(NAMESPACE)).len();
        if pods > 0 || left != if keeps { claims } else { 0 } {
            return Err(Failed::Operator(format!("{pods} pods and {left} of {claims} claims are left")));
        }
        Ok(())
    }

    fn end(self, failed: Option<Failed>) -> Outcome {
        let (seconds, counts) = (self.seconds, self.counts);
        let mut store = self.store;
        let (broken, of_operator) = match failed {
            Some(Failed::Store(broken)) => (Some(broken), None),
            Some(Failed::Operator(what)) => (None, Some(what)),
            None => (None, None),
        };
        if let Some(what) = &of_operator {
            store.record(format_args!("BROKEN: {what}"));
        }
        let report = store.judge(broken);
        let broken = of_operator.or_else(|| report.broken.as_ref().map(ToString::to_string));
        Outcome { trace: report.trace, counters: report.counters, counts, answered: report.answered, seconds, broken }
    }

    /// The resource, while it is there.
    pub fn resource(&self) -> Option<StorageCluster> {
        self.cluster.get(NAMESPACE, NAME)
    }

    /// The operator that runs, if one does.
    pub fn operator_mut(&mut self) -> Option<&mut Process> {
        self.operator.as_mut()
    }

    fn now(&self) -> u64 {
        self.store.now()
    }

    /// Some time from now.
    pub fn after_seconds(&mut self, least: u64, most: u64) -> u64 {
        self.now() + self.dice.within(least * 1_000_000..=most * 1_000_000)
    }

    /// Something is to be done then.
    pub fn later(&mut self, time: u64, act: Act) {
        self.planned.push((time, act));
    }

    /// The operator stands still; by the time it goes on, another has taken over.
    pub fn pause_operator(&mut self, lasts: Duration) -> bool {
        let Some(operator) = self.operator.take() else { return false };
        operator.pause(true);
        let lasts = u64::try_from(lasts.as_micros()).expect("short");
        self.old.push((self.now() + lasts, operator));
        self.next_operator = self.now() + self.dice.within(lasts / 4..=lasts);
        true
    }

    /// Lets people and faults do what is due.
    fn live(&mut self) {
        let now = self.now();
        while let Some(place) = self.planned.iter().position(|(at, _)| *at <= now) {
            let (_, act) = self.planned.remove(place);
            self.act(&act);
        }
        if now >= self.next_act {
            self.next_act = self.after_seconds(1, 14);
            let act = Act::draw(&mut self.dice);
            self.act(&act);
        }
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) -> Result<(), Failed> {
        self.store.record(format_args!("calm"));
        for (_, act) in std::mem::take(&mut self.planned) {
            if matches!(act, Act::RestoreNode(_) | Act::Scale(_)) {
                self.act(&act);
            }
        }
        for act in [Act::ApiCalm, Act::Undrain, Act::Lag(0)] {
            self.act(&act);
        }
        for (_, old) in self.old.drain(..) {
            old.kill();
        }
        // A crash that is still to come does not come.
        if let Some(operator) = self.operator.take() {
            operator.kill();
        }
        self.next_operator = self.now();
        Ok(self.store.calm()?)
    }

    /// A millisecond passes, and all does what is due that is not the operator.
    async fn pass(&mut self) -> Result<(), Failed> {
        sleep(Duration::from_millis(1)).await;
        let now = u64::try_from(self.began.elapsed().as_micros()).expect("short");
        self.store.run_until(now)?;
        for (number, answer) in self.store.take_answers() {
            if let Some(waiting) = self.waiting.remove(&number) {
                // Whoever has asked may be dead.
                let _ = waiting.send(answer);
            }
        }
        while let Some(asked) = self.line.take() {
            let Some(slot) = self.machines.reached_at(&asked.address) else { continue };
            self.store.record(format_args!("member {slot} is asked {}", asked.what.name()));
            let number = match asked.what {
                What::Member(asks) => self.store.ask(slot, asks),
                What::Map(operation) => self.store.ask_map(slot, operation),
            };
            self.waiting.insert(number, asked.answer);
        }
        self.watch_operators(now).await?;
        if now / 1_000_000 > self.seconds {
            self.seconds = now / 1_000_000;
            self.machines.second(&mut self.store)?;
            self.past.push_back((self.cluster.version(), self.cluster.caches(NAMESPACE)));
            self.waiting.retain(|_, waiting| !waiting.is_closed());
        }
        self.show();
        Ok(())
    }

    /// What watches see, as late as they are now; what was written is written down.
    fn show(&mut self) {
        for said in self.heard.take_said() {
            self.store.record(format_args!("{said}"));
        }
        for write in self.cluster.take_writes() {
            // What events are called is not of the seed, and they are for people.
            if write.resource.starts_with("events") {
                continue;
            }
            self.changes += u64::from(write.changed);
            self.store.record(format_args!("operator {}: {write}", write.session));
        }
        let excess = self.past.len().saturating_sub(self.lag + 1);
        self.past.drain(..excess);
        let newest = (self.lag == 0 && self.cluster.version() != self.shown)
            .then(|| (self.cluster.version(), self.cluster.caches(NAMESPACE)));
        let Some((version, caches)) = newest.or_else(|| self.past.front().cloned()) else { return };
        // Watches never show less than they have.
        if version > self.shown {
            self.shown = version;
            self.heard.show(caches, true);
        }
    }

    async fn watch_operators(&mut self, now: u64) -> Result<(), Failed> {
        for (until, old) in std::mem::take(&mut self.old) {
            if old.has_ended() || now >= until + 1_000_000 {
                old.kill();
                continue;
            }
            old.pause(now < until);
            self.old.push((until, old));
        }
        if let Some(operator) = &self.operator
            && (operator.session.is_cut() || operator.has_ended())
        {
            operator.kill();
            let (ended, fence) = (operator.has_ended(), operator.fence);
            let operator = self.operator.take();
            self.store.record(format_args!("the operator under fence {fence} is dead"));
            if ended
                && let Some(operator) = operator
                && operator.has_panicked().await
            {
                return Err(Failed::Operator("the operator has panicked".to_owned()));
            }
            self.next_operator = now + self.dice.within(500_000..=15_000_000);
        }
        if self.operator.is_none() && now >= self.next_operator {
            self.fences += 1;
            self.store.record(format_args!("an operator under fence {}", self.fences));
            self.operator = Some(Process::start(&self.cluster, &self.line, &self.heard, self.fences));
        }
        Ok(())
    }

    /// What is not yet as the spec wants it, if anything is.
    fn unsettled(&self) -> Option<String> {
        let Some(resource) = self.resource() else { return Some("there is no cluster".to_owned()) };
        let status = resource.status.clone().unwrap_or_default();
        let wanted = usize::try_from(resource.spec.replicas).expect("small");
        let is_told = status.observed_generation == resource.metadata.generation.unwrap_or_default()
            && status.phase == "Running"
            && status.ready_replicas == resource.spec.replicas
            && status.plan.is_none();
        if !is_told {
            return Some(format!("the status says {status:?}"));
        }
        let map = self.store.map();
        if map.members.len() != wanted {
            return Some(format!("the map has {} members", map.members.len()));
        }
        self.store.unsettled()
    }
}
