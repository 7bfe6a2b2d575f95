//! What is to be done about a cluster: a pure function of what is known of it.
//!
//! ```text
//!              ending   ─▶ teardown     pods, then volumes, then the finalizer
//!  Observed ─▶ paused   ─▶ nothing
//!              no store ─▶ create       volumes and pods, then one bootstrap
//!              a store  ─▶ running      mend pods ─▶ who should be a member ─▶ drains ─▶ who has left ─▶ roll
//! ```
//!
//! A plan has any number of [`Action`]s, by which nothing can be lost, and at most one [`Step`] that takes something away or
//! changes the store, of one member unless the whole cluster is to go. Where the next step has to wait there is a [`Gate`] instead, with a sentence that says for what, and what
//! to do. It is level-triggered: whatever was left half done, it goes on from what there is, and of a settled cluster it makes an
//! empty plan.
//!
//! It never reads the cluster, a clock or the store: it is given all of that.

mod create;
mod gate;
mod membership;
mod quorum;
mod replace;
mod roll;
mod room;
mod running;
mod stranded;
mod teardown;

use std::collections::BTreeSet;

use annulus_client::MemberId;
use annulus_client::node::MemberSpec;

use crate::model::{Member, Observed, Pod, Refused, TroubleKind, Volume};
use crate::resources::{MemberName, last_of_names, new_members};

pub use gate::{Gate, Passes};
pub use quorum::{HEARD_MS, at_risk, is_heard};

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By these nothing can be lost; all of them are done.
    pub actions: Vec<Action>,
    /// The one step that takes something away or changes the store.
    pub step: Option<Step>,
    /// What the next step waits for.
    pub wait: Option<Wait>,
    /// Why somebody who is to leave, or to be emptied, has to stay as it is; also where something else is done meanwhile.
    pub leave_held: Option<Wait>,
    /// Whether members are being put in the place of others.
    pub replacing: Vec<String>,
    /// How many pods may be evicted by others at once.
    pub evictable: u32,
}

/// A change by which nothing can be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the claim of a volume of a new member.
    CreateVolume {
        /// The member.
        member: String,
        /// Its number.
        ordinal: u64,
    },
    /// Make a pod for a volume.
    CreatePod {
        /// The member.
        member: String,
        /// Its number.
        ordinal: u64,
    },
    /// Delete a pod that serves nothing: it has ended, or never was in the ring and is made of what is not wanted any more.
    ClearPod {
        /// The member.
        member: String,
        /// The pod.
        uid: String,
    },
    /// Let a claim ask for more.
    GrowVolume {
        /// The member.
        member: String,
    },
    /// Write on a claim which member of the store it belongs to, so that it is never again taken for one that holds nothing.
    MarkVolume {
        /// The member.
        member: String,
        /// Its identity in the store.
        id: MemberId,
    },
    /// Mark the volume of a member that has left as one that is only kept.
    RetireVolume {
        /// The member.
        member: String,
    },
    /// Put back on a claim what tells whose it is.
    ReclaimVolume {
        /// The member.
        member: String,
        /// Its number.
        ordinal: u64,
    },
    /// Put back on a pod what tells whose it is.
    ReclaimPod {
        /// The member.
        member: String,
        /// Its number.
        ordinal: u64,
    },
}

impl Action {
    /// The member that it is about.
    pub fn member(&self) -> &str {
        match self {
            Self::CreateVolume { member, .. }
            | Self::CreatePod { member, .. }
            | Self::ClearPod { member, .. }
            | Self::GrowVolume { member }
            | Self::RetireVolume { member }
            | Self::MarkVolume { member, .. }
            | Self::ReclaimVolume { member, .. }
            | Self::ReclaimPod { member, .. } => member,
        }
    }
}

/// A change that takes something away, or that the store has to agree to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the store.
    Bootstrap {
        /// Its members.
        members: Vec<MemberSpec>,
    },
    /// State who the members are.
    SetMembers {
        /// Only if the map still has this epoch.
        epoch: u64,
        /// All of them.
        members: Vec<MemberSpec>,
        /// What that changes, in words.
        change: String,
    },
    /// Let everything move away from a member.
    Drain {
        /// The member.
        member: String,
    },
    /// Let a drained member hold something again.
    Undrain {
        /// The member.
        member: String,
    },
    /// Have a member hand over its leaders, and delete its pod; it comes back as it should be.
    Roll {
        /// The member.
        member: String,
        /// The pod.
        uid: String,
    },
    /// Delete the pod of somebody who is no member.
    DiscardPod {
        /// Whose.
        member: String,
        /// The pod.
        uid: String,
        /// Whether its node can't be waited for.
        at_once: bool,
    },
    /// Delete the volume of somebody who is no member, and has no pod.
    DiscardVolume {
        /// Whose.
        member: String,
        /// The claim.
        uid: String,
    },
    /// Delete all pods since the cluster is being deleted: nobody is to be served any more, so nobody waits for another.
    StopPods {
        /// Those that are not told to end yet.
        pods: Vec<Stop>,
    },
    /// Let the resource go.
    Finish,
}

/// A pod that is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The member.
    pub member: String,
    /// The pod.
    pub uid: String,
    /// Whether its node can't be waited for.
    pub at_once: bool,
}

impl Step {
    pub(crate) const SET_MEMBERS: &str = "SetMembers";
    pub(crate) const DRAIN: &str = "DrainMember";
    pub(crate) const UNDRAIN: &str = "UndrainMember";

    /// A stable name, as the status has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bootstrap { .. } => "Bootstrap",
            Self::SetMembers { .. } => Self::SET_MEMBERS,
            Self::Drain { .. } => Self::DRAIN,
            Self::Undrain { .. } => Self::UNDRAIN,
            Self::Roll { .. } => "RollMember",
            Self::DiscardPod { .. } | Self::DiscardVolume { .. } => "DiscardMember",
            Self::StopPods { .. } => "StopMembers",
            Self::Finish => "Finish",
        }
    }

    /// The member that it is about.
    pub fn member(&self) -> Option<&str> {
        match self {
            Self::Drain { member }
            | Self::Undrain { member }
            | Self::Roll { member, .. }
            | Self::DiscardPod { member, .. }
            | Self::DiscardVolume { member, .. } => Some(member),
            Self::Bootstrap { .. } | Self::SetMembers { .. } | Self::StopPods { .. } | Self::Finish => None,
        }
    }
}

/// Why a step has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What it waits for.
    pub gate: Gate,
    /// The member that it is about.
    pub member: Option<String>,
    /// The same in words, with what to do.
    pub message: String,
}

impl Wait {
    fn new(gate: Gate, member: Option<&str>, message: impl Into<String>) -> Self {
        Self { gate, member: member.map(str::to_owned), message: message.into() }
    }

    /// What the store has refused: `what` was to happen to these members.
    fn refused(refused: &Refused, members: &[&str], what: &str) -> Self {
        let gate = if refused.reason == "quorum-at-risk" { Gate::QuorumAtRisk } else { Gate::StoreRefuses };
        let message = format!("{} {what}, and the store refuses it: {}", members.join(", "), refused.message);
        Self::new(gate, members.first().copied(), message)
    }
}

impl Plan {
    fn waiting(wait: Wait) -> Self {
        Self { wait: Some(wait), ..Self::default() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.step.is_none()
    }
}

/// What is to be done now.
pub fn plan(observed: &Observed) -> Plan {
    if observed.is_ending() {
        return teardown::plan(observed);
    }
    let cluster = &observed.cluster;
    if cluster.spec.paused {
        let message = if cluster.deleting {
            "the cluster is being deleted, and spec.paused is true: the operator stops and deletes nothing until it is false"
        } else {
            "spec.paused is true; the operator changes nothing until it is false"
        };
        return Plan::waiting(Wait::new(Gate::Paused, None, message));
    }
    let mut plan = match observed.told() {
        Some(told) => running::plan(observed, told),
        None => create::plan(observed),
    };
    plan.actions.splice(0..0, marks(observed));
    if cluster.deleting && plan.step.is_none() && plan.wait.is_none() {
        plan.wait = Some(protected());
    }
    plan
}

/// What is left to do after the store has refused the step of a plan: other steps do not wait for what can't be. `None`: it was not
/// a step that there is anything besides.
pub fn without(observed: &mut Observed, refused: &Step, reason: &str, message: &str) -> Option<Plan> {
    // The list of members is tried twice, with and without those that leave.
    const MOST: usize = 4;
    let step = refused.name();
    if ![Step::SET_MEMBERS, Step::DRAIN, Step::UNDRAIN].contains(&step) || observed.refused.len() >= MOST {
        return None;
    }
    observed.refused.push(Refused { step, reason: reason.to_owned(), message: message.to_owned() });
    Some(plan(observed))
}

/// A protected cluster that was deleted all the same runs on. Its objects are made again as ever: the garbage collector lets
/// those of an owner be that waits for a finalizer. Only a deletion in the foreground has it delete them again and again; volumes
/// have no owner, so that costs pods, and no data.
fn protected() -> Wait {
    let message = "the cluster was deleted, and spec.deletionProtection is true: it runs on; set it to false to let the cluster go";
    Wait::new(Gate::DeletionProtected, None, message)
}

/// What is known by its name alone gets back what tells whose it is: by that, Services and watches find it.
fn marks(observed: &Observed) -> Vec<Action> {
    let mut marks = Vec::new();
    for (name, there) in &observed.members {
        let (member, ordinal) = (name.clone(), there.ordinal);
        if there.volume.as_ref().is_some_and(|volume| volume.lacks_marks && !volume.is_deleting) {
            marks.push(Action::ReclaimVolume { member: member.clone(), ordinal });
        }
        if there.pod.as_ref().is_some_and(|pod| pod.lacks_marks && !pod.is_deleting) {
            marks.push(Action::ReclaimPod { member, ordinal });
        }
    }
    marks
}

/// What every member that is to have a pod needs: its volume, its pod, and the size that was asked for.
fn upkeep(observed: &Observed, member: &str, is_fresh: bool, actions: &mut Vec<Action>) {
    let Some(there) = observed.members.get(member) else { return };
    let ordinal = there.ordinal;
    if there.volume.is_none() && is_fresh {
        actions.push(Action::CreateVolume { member: member.to_owned(), ordinal });
    }
    match &there.pod {
        None if is_fresh || there.has_volume() => {
            actions.push(Action::CreatePod { member: member.to_owned(), ordinal })
        }
        Some(pod) if !pod.is_deleting && (pod.has_ended || (is_fresh && is_outdated(observed, there))) => {
            actions.push(Action::ClearPod { member: member.to_owned(), uid: pod.uid.clone() });
        }
        _ => {}
    }
    let wanted = annulus_crds::quantity::bytes(&observed.cluster.spec.storage.size).unwrap_or_default();
    let grows =
        |volume: &Volume| volume.requested_bytes < wanted && volume.may_grow != Some(false) && !volume.is_deleting;
    if there.volume.as_ref().is_some_and(grows) {
        actions.push(Action::GrowVolume { member: member.to_owned() });
    }
}

/// Whether a pod is made of something else than what is wanted.
fn is_outdated(observed: &Observed, member: &Member) -> bool {
    member.pod.as_ref().is_some_and(|pod| pod.template != observed.cluster.template)
}

/// The highest number that a member was made with, as far as anything tells: the status, claims, pods, and the names of members of
/// the map of which nothing else is left.
///
/// A member of which there is no trace in any of these had a number that is not known once the status is lost, and a new member
/// may have its name. Nothing is left that it could be confused with then: the store tells members apart by their identities,
/// and the volume would be a new one.
pub fn last_ordinal(observed: &Observed) -> u64 {
    let cluster = &observed.cluster;
    let made = observed.members.values().map(|member| member.ordinal).max().unwrap_or_default();
    let last = made.max(cluster.last_ordinal);
    let in_map = observed.told().into_iter().flat_map(|told| &told.plan.members).map(|member| member.name.as_str());
    let is_lost = |name: &&str| !observed.members.contains_key(*name) && !cluster.known.contains_key(*name);
    let lost: BTreeSet<&str> = in_map.filter(is_lost).collect();
    last_of_names(&cluster.name, &cluster.uid, last, &lost)
}

/// Makes members that never were, under names that are free.
fn make_new(observed: &Observed, count: usize, actions: &mut Vec<Action>) {
    let in_map =
        |name: &str| observed.told().is_some_and(|told| told.plan.members.iter().any(|member| member.name == name));
    let is_known = |name: &str| observed.members.contains_key(name) || observed.cluster.known.contains_key(name);
    let is_taken = |name: &str| observed.taken.contains(name) || is_known(name) || in_map(name);
    let last = last_ordinal(observed);
    for new in new_members(&observed.cluster.name, &observed.cluster.uid, last, is_taken).take(count) {
        let MemberName { name: member, ordinal } = new;
        actions.push(Action::CreateVolume { member: member.clone(), ordinal });
        actions.push(Action::CreatePod { member, ordinal });
    }
}

/// Why a member that should be there does not answer.
fn why_silent(name: &str, member: Option<&Member>) -> Wait {
    let wait = |gate, message: String| Wait::new(gate, Some(name), message);
    let Some(member) = member else { return wait(Gate::PodNotReady, format!("{name} is being made")) };
    if let Some(trouble) = member.volume.as_ref().and_then(|volume| volume.trouble.as_ref()) {
        return wait(Gate::VolumeNotBound, trouble.clone());
    }
    let Some(pod) = &member.pod else { return wait(Gate::PodNotReady, format!("{name} has no pod yet")) };
    match hindrance(pod) {
        Some(hindrance) => wait(Gate::PodNotReady, hindrance.to_owned()),
        None if pod.ip.is_none() => {
            let look = format!("`kubectl describe pod {name}` tells what for");
            wait(Gate::PodNotReady, format!("pod {name} waits for its address; {look}"))
        }
        None => wait(
            Gate::MemberSilent,
            format!("the node in pod {name} does not answer on its admin port; see `kubectl logs {name}`"),
        ),
    }
}

/// A pod that is on its way out: it goes soon, or somebody keeps it.
fn going(name: &str, pod: &Pod, otherwise: String) -> Wait {
    match &pod.trouble {
        Some(trouble) if trouble.kind == TroubleKind::HeldByOthers => {
            Wait::new(Gate::HeldByOthers, Some(name), trouble.text.clone())
        }
        _ => Wait::new(Gate::PodsStopping, Some(name), otherwise),
    }
}

/// What is wrong with a pod, or else what its start waits for.
fn hindrance(pod: &Pod) -> Option<&str> {
    pod.trouble.as_ref().map(|trouble| trouble.text.as_str()).or(pod.starting.as_deref())
}

/// The same of one that never was in the store.
fn why_new_is_silent(observed: &Observed, name: &str) -> Wait {
    stranded::why(observed, name).unwrap_or_else(|| why_silent(name, observed.members.get(name)))
}
