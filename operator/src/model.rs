//! What is known of a cluster at one moment, as plain values. `observe` makes it; `plan` and `status` read nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annulus_client::admin::Plan;
use annulus_client::node::Status;
use annulus_client::{ClusterId, MemberId, Ring};
use annulus_crds::{StorageClusterSpec, StorageClusterStatus};
use k8s_openapi::jiff::Timestamp;

use crate::inject::sidecars::ByVersion;

/// A cluster with all that belongs to it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What is wanted.
    pub cluster: Cluster,
    /// What there is of each member, by its name: those that have a volume or a pod.
    pub members: BTreeMap<String, Member>,
    /// Names that the cluster's members can't have: somebody else's pod or volume has them.
    pub taken: BTreeSet<String>,
    /// What the store says of itself.
    pub store: Store,
    /// What the store has refused in this round: the rest is planned without it.
    pub refused: Vec<Refused>,
    /// Its sidecars, by their version.
    pub sidecars: ByVersion,
    /// Seconds since 1970.
    pub now_s: i64,
}

/// A step that the store has refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The name of the step.
    pub step: &'static str,
    /// The name of the reason, such as `quorum-at-risk`.
    pub reason: String,
    /// The same in words.
    pub message: String,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Where the resource is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, which is also the identity of the store.
    pub uid: String,
    /// The store's identity.
    pub id: ClusterId,
    /// The generation of the spec.
    pub generation: i64,
    /// The spec as it takes effect: what can't be is replaced by what is (`validate`).
    pub spec: StorageClusterSpec,
    /// The image that members are to run.
    pub image: String,
    /// The digest of what pods are to be made of.
    pub template: String,
    /// Members whose replicas are to move away while they stay members.
    pub drain: BTreeSet<String>,
    /// Members that leave first, in this order.
    pub remove: Vec<String>,
    /// Whether the resource is being deleted.
    pub deleting: bool,
    /// The highest number that a member was made with, as the status has it.
    pub last_ordinal: u64,
    /// Whether the store was made, as the status has it.
    pub was_made: bool,
    /// What the status says of members.
    pub known: BTreeMap<String, Known>,
}

/// What the last status said of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Its identity, if it was a member of the map.
    pub id: Option<MemberId>,
    /// Since when nobody has heard of it; of one that never was a member, since when its node has been down without an answer.
    pub unheard_since_s: Option<i64>,
    /// Whether it has left the map.
    pub has_left: bool,
}

/// What there is of a member in Kubernetes, and what it says of itself.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Its number.
    pub ordinal: u64,
    /// Its volume's claim.
    pub volume: Option<Volume>,
    /// Its pod.
    pub pod: Option<Pod>,
    /// What its node answered; `None`: it did not.
    pub answer: Option<Status>,
}

/// A claim of a volume.
#[derive(Debug, Clone, Default)]
pub struct Volume {
    /// Its UID.
    pub uid: String,
    /// Whether it has a volume.
    pub is_bound: bool,
    /// Whether the volume that it had is gone.
    pub is_lost: bool,
    /// How many bytes it asks for.
    pub requested_bytes: u64,
    /// Whether it is being deleted.
    pub is_deleting: bool,
    /// Whether its member has left, and it is only kept.
    pub is_retired: bool,
    /// The identity of the member of the map that it last belonged to, as the claim itself has it; absent: none that the operator
    /// knew of. It outlives the status.
    pub mark: Option<String>,
    /// Whether its storage class lets it grow; `None`: that is not known.
    pub may_grow: Option<bool>,
    /// What hinders it, in words.
    pub trouble: Option<String>,
    /// Whether it is known by its name alone: somebody has taken off or changed what tells whose it is.
    pub lacks_marks: bool,
}

/// A pod.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// The digest of what it was made of.
    pub template: String,
    /// Its address; `None`: it has none yet.
    pub ip: Option<String>,
    /// The node that it is on.
    pub node: Option<String>,
    /// Whether that node is known to be down.
    pub node_is_down: bool,
    /// The zone of that node.
    pub zone: Option<String>,
    /// Whether it says that it is in the ring and caught up; also while it is being deleted.
    pub is_ready: bool,
    /// Whether it has ended, and will not start again by itself.
    pub has_ended: bool,
    /// Whether it is being deleted.
    pub is_deleting: bool,
    /// Whether nothing is waited for any more before it goes, but who holds it by a finalizer.
    pub is_let_go: bool,
    /// What hinders it.
    pub trouble: Option<Trouble>,
    /// What its start waits for, as far as Kubernetes tells, in words; `None`: its container runs, or has run.
    pub starting: Option<String>,
    /// Whether it is known by its name alone: somebody has taken off or changed what tells whose it is.
    pub lacks_marks: bool,
}

/// What hinders a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In a word, as the conditions have it.
    pub kind: TroubleKind,
    /// In words, with what to do.
    pub text: String,
}

/// What kinds of troubles pods have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// Its node is down.
    NodeDown,
    /// No node takes it.
    Unschedulable,
    /// Its image can't be had.
    ImageUnavailable,
    /// It can't be made as it should be.
    CannotStart,
    /// It ends, and is started again.
    Crashing,
    /// It is being deleted, and somebody keeps it by a finalizer.
    HeldByOthers,
}

impl TroubleKind {
    /// A stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeDown => "NodeDown",
            Self::Unschedulable => "Unschedulable",
            Self::ImageUnavailable => "ImageUnavailable",
            Self::CannotStart => "CannotStart",
            Self::Crashing => "Crashing",
            Self::HeldByOthers => "HeldByOthers",
        }
    }
}

/// What the store says of itself.
#[derive(Debug, Clone)]
pub enum Store {
    /// No member that answers belongs to a store.
    None,
    /// Members belong to a store, and none could tell its map.
    Unreachable {
        /// Why not.
        reason: String,
    },
    /// As the leader of the map has it.
    Known(Box<Told>),
}

/// What the leader of the map tells.
#[derive(Debug, Clone)]
pub struct Told {
    /// Who is a member, and what is still to be moved.
    pub plan: Plan,
    /// Who holds what; while replicas move it may be of an older map than the plan.
    pub ring: Arc<Ring>,
}

/// More members than any cluster ever had, one after the other.
const MOST_MADE: u64 = 1_000_000_000_000;

impl Pod {
    /// Whether what hinders it would hinder any other pod like it, too: its image can't be had, or what it is made of is wrong.
    pub fn is_made_wrong(&self) -> bool {
        let kind = self.trouble.as_ref().map(|trouble| trouble.kind);
        matches!(kind, Some(TroubleKind::ImageUnavailable | TroubleKind::CannotStart))
    }
}

impl Cluster {
    /// Takes what the last status remembers.
    pub fn remember(&mut self, status: &StorageClusterStatus) {
        // No operator has made so many: somebody has written it there, and there would be no number after it.
        let last_ordinal = u64::try_from(status.last_ordinal).unwrap_or_default();
        self.last_ordinal = if last_ordinal > MOST_MADE { 0 } else { last_ordinal };
        self.was_made = status.cluster_id.is_some()
            || status.map_epoch.is_some()
            || status.members.iter().any(|member| !member.id.is_empty());
        let known = status.members.iter().map(|member| {
            let since = member.unheard_since.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
            let known = Known {
                id: member.id.parse().ok(),
                unheard_since_s: since.map(Timestamp::as_second),
                has_left: member.state == "Left",
            };
            (member.name.clone(), known)
        });
        self.known = known.collect();
    }

    /// Whether all that there is of it is to go. A deletion waits while the cluster is paused or protected, but not for
    /// nothing: where the namespace itself is being deleted, pods and claims go whatever is said here, and with the last of them
    /// the resource may go, so that it never holds the namespace up.
    pub fn is_ending(&self, members: &BTreeMap<String, Member>) -> bool {
        let waits = self.spec.paused || self.spec.deletion_protection;
        self.deleting && (!waits || members.is_empty())
    }
}

impl Observed {
    /// Whether the store was ever made: the status says so, or a claim does, which outlives a status that is lost.
    pub fn was_made(&self) -> bool {
        let mut volumes = self.members.values().filter_map(|member| member.volume.as_ref());
        self.cluster.was_made || volumes.any(|volume| volume.mark.is_some())
    }

    /// Whether all that there is of the cluster is to go.
    pub fn is_ending(&self) -> bool {
        self.cluster.is_ending(&self.members)
    }

    /// The times that the store has refused a step in this round.
    pub fn refused(&self, step: &'static str) -> impl Iterator<Item = &Refused> {
        self.refused.iter().filter(move |refused| refused.step == step)
    }

    /// What the leader of the map tells, if there is one.
    pub fn told(&self) -> Option<&Told> {
        match &self.store {
            Store::Known(told) => Some(told),
            Store::None | Store::Unreachable { .. } => None,
        }
    }
}

impl Member {
    /// The identity that its node says it has.
    pub fn id(&self) -> Option<MemberId> {
        self.answer.as_ref().map(|answer| answer.id)
    }

    /// Whether it is in the ring and caught up, and stays so: a pod that is being deleted is ready until it ends.
    pub fn is_ready(&self) -> bool {
        self.has_pod() && self.pod.as_ref().is_some_and(|pod| pod.is_ready && !pod.node_is_down)
    }

    /// Whether its pod is there, and stays.
    pub fn has_pod(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| !pod.is_deleting && !pod.has_ended)
    }

    /// Whether its node has said that it belongs to a store.
    pub fn is_in_a_store(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.cluster.is_some())
    }

    /// Whether its node is down, and it does not answer.
    pub fn is_stranded(&self) -> bool {
        self.answer.is_none() && self.pod.as_ref().is_some_and(|pod| pod.node_is_down)
    }

    /// Whether it has a volume, and keeps it.
    pub fn has_volume(&self) -> bool {
        self.volume.as_ref().is_some_and(|volume| !volume.is_deleting && !volume.is_lost)
    }

    /// Whether nothing is left of it but a volume that is kept.
    pub fn is_retired(&self) -> bool {
        self.pod.is_none() && self.volume.as_ref().is_some_and(|volume| volume.is_retired)
    }
}
