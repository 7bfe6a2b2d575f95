//! What people want of the cluster, and what goes wrong outside of the store: drawn from the seed, one thing after the other.

use std::time::Duration;

use annulus_crds::{StorageCluster, annotations};
use annulus_operator::simulated::{Fault, Rule};
use annulus_tests::simulator::dice::Dice;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::run::Run;
use super::{NAME, NAMESPACE};

/// Nodes of the cluster.
pub const NODES: usize = 7;
/// How long caches may be behind, in seconds.
const MOST_LAG: u64 = 6;

/// Something that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// So many members are wanted.
    Scale(i64),
    /// Another number of members is wanted, and soon the old one again.
    TurnBack,
    /// Another image is wanted.
    Roll,
    /// Everything is to move away from a member.
    Drain,
    /// Nothing is to move away any more.
    Undrain,
    /// A pod is gone.
    LosePod,
    /// A pod and its claim are gone, with all that was on it.
    LoseVolume,
    /// What was on a volume is gone.
    EmptyVolume,
    /// A machine has no power.
    KillNode,
    /// A machine is reached by nobody but clients.
    CutNode,
    /// It is well again.
    RestoreNode(String),
    /// The operator dies after so many more writes.
    CrashAfter(u64),
    /// The operator dies.
    Crash,
    /// The operator stands still for so many seconds; another takes over before it goes on.
    Pause(u64),
    /// The API server does something wrong.
    ApiFault,
    /// It does everything right again.
    ApiCalm,
    /// What the operator's watches have seen is so many seconds old.
    Lag(usize),
}

/// The names of all kinds, for counting.
pub const KINDS: [&str; 17] = [
    "Scale",
    "TurnBack",
    "Roll",
    "Drain",
    "Undrain",
    "LosePod",
    "LoseVolume",
    "EmptyVolume",
    "KillNode",
    "CutNode",
    "RestoreNode",
    "CrashAfter",
    "Crash",
    "Pause",
    "ApiFault",
    "ApiCalm",
    "Lag",
];

impl Act {
    /// What happens next.
    pub fn draw(dice: &mut Dice) -> Self {
        let all = [
            (4, Self::Scale(*dice.pick(&[3, 4, 5, 5]))),
            (3, Self::TurnBack),
            (3, Self::Roll),
            (1, Self::Drain),
            (2, Self::Undrain),
            (2, Self::LosePod),
            (3, Self::LoseVolume),
            (2, Self::EmptyVolume),
            (4, Self::KillNode),
            (2, Self::CutNode),
            (4, Self::CrashAfter(dice.within(1..=6))),
            (1, Self::Crash),
            (3, Self::Pause(dice.within(4..=20))),
            (4, Self::ApiFault),
            (3, Self::Lag(usize::try_from(dice.within(0..=MOST_LAG)).expect("small"))),
        ];
        let places: Vec<(u32, usize)> = all.iter().enumerate().map(|(place, (weight, _))| (*weight, place)).collect();
        let place = dice.weighted(&places).expect("some weight is not 0");
        all[place].1.clone()
    }

    /// Its kind, as it is counted.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        text.split(|letter: char| !letter.is_alphabetic()).next().unwrap_or_default().to_owned()
    }
}

impl Run {
    /// Does it, if it can be done now.
    pub fn act(&mut self, act: &Act) {
        let done = self.try_act(act);
        self.store.record(format_args!("{act:?}{}", if done { "" } else { ": not now" }));
        if done {
            *self.counts.entry(act.kind()).or_default() += 1;
        }
    }

    fn try_act(&mut self, act: &Act) -> bool {
        match act {
            Act::Scale(replicas) => self.change(&json!({"spec": {"replicas": replicas}})),
            Act::TurnBack => {
                let now = self.resource().map_or(3, |resource| i64::from(resource.spec.replicas));
                let soon = self.after_seconds(1, 8);
                self.later(soon, Act::Scale(now));
                self.change(&json!({"spec": {"replicas": if now == 5 { 3 } else { 5 }}}))
            }
            Act::Roll => {
                self.images += 1;
                self.change(&json!({"spec": {"image": format!("annulus/node:{}", self.images)}}))
            }
            Act::Drain => {
                let Some(pod) = self.some_pod() else { return false };
                self.change(&json!({"metadata": {"annotations": {annotations::DRAIN: pod.name_any()}}}))
            }
            Act::Undrain => self.change(&json!({"metadata": {"annotations": {annotations::DRAIN: Value::Null}}})),
            Act::LosePod => {
                let Some(pod) = self.some_pod() else { return false };
                self.cluster.remove::<Pod>(NAMESPACE, &pod.name_any()).is_ok()
            }
            Act::LoseVolume => self.lose_volume(false),
            Act::EmptyVolume => self.lose_volume(true),
            Act::KillNode | Act::CutNode => self.break_node(*act == Act::CutNode),
            Act::RestoreNode(node) => {
                self.cluster.restore_node(node);
                self.machines.dead.remove(node) || self.machines.cut.remove(node)
            }
            Act::CrashAfter(writes) => self.operator_mut().is_some_and(|operator| {
                operator.session.cut_after(*writes);
                true
            }),
            Act::Crash => self.operator_mut().is_some_and(|operator| {
                operator.kill();
                true
            }),
            Act::Pause(seconds) => self.pause_operator(Duration::from_secs(*seconds)),
            Act::ApiFault => {
                self.cluster.lift_all();
                let rule = match self.dice.below(4) {
                    0 => Rule::new(Fault::internal_error()).one_in(3),
                    1 => Rule::new(Fault::conflict()).writes().one_in(2),
                    2 => Rule::new(Fault::LoseRequest).one_in(3),
                    _ => Rule::new(Fault::LoseAnswer).writes().one_in(2),
                };
                self.cluster.inject(rule);
                let calm = self.after_seconds(3, 20);
                self.later(calm, Act::ApiCalm);
                true
            }
            Act::ApiCalm => {
                self.cluster.lift_all();
                true
            }
            Act::Lag(seconds) => {
                self.lag = *seconds;
                true
            }
        }
    }

    fn change(&self, patch: &Value) -> bool {
        self.cluster.patch::<StorageCluster>(NAMESPACE, NAME, patch).is_ok()
    }

    fn some_pod(&mut self) -> Option<Pod> {
        let pods = self.cluster.list::<Pod>(Some(NAMESPACE));
        (!pods.is_empty()).then(|| self.dice.pick(&pods).clone())
    }

    /// Only when everything is there three times and runs: a store is not made for more.
    fn lose_volume(&mut self, keeps_claim: bool) -> bool {
        if !self.store.may_lose_volume() || !self.machines.dead.is_empty() {
            return false;
        }
        let Some(name) = self.some_pod().map(|pod| pod.name_any()) else { return false };
        if keeps_claim {
            self.cluster.empty_volume(NAMESPACE, &name);
            return true;
        }
        let pod = self.cluster.remove::<Pod>(NAMESPACE, &name);
        self.cluster.remove::<PersistentVolumeClaim>(NAMESPACE, &name).is_ok() && pod.is_ok()
    }

    /// One at a time.
    fn break_node(&mut self, is_cut: bool) -> bool {
        if !self.machines.dead.is_empty() || !self.machines.cut.is_empty() {
            return false;
        }
        let node = format!("node-{}", 1 + self.dice.index(NODES));
        let seconds = *self.dice.pick(&[3, 8, 40]);
        if is_cut {
            self.cluster.cut_node(&node);
            for slot in self.machines.on(&node) {
                self.store.isolate(slot, seconds * 1_000_000);
            }
            self.machines.cut.insert(node.clone());
        } else {
            self.cluster.kill_node(&node);
            self.machines.dead.insert(node.clone());
        }
        let then = self.after_seconds(seconds, seconds);
        self.later(then, Act::RestoreNode(node));
        true
    }
}
