//! Does what a plan says, and has no choices left.
//!
//! What is made is made by name, so that making it twice finds it there; what is deleted is deleted by its UID, so that nobody's
//! successor goes in its place. What the API server refuses holds up nothing else, and is told afterwards. Any other failure ends
//! the round: what is left is planned anew from what there is.

mod shared;

use std::collections::BTreeSet;
use std::fmt::Debug;

use annulus_client::admin::Members;
use annulus_client::node::Bootstrap;
use annulus_crds::{FINALIZER, StorageCluster, annotations};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::caches::Caches;
use crate::model::Observed;
use crate::observe::{address, addresses};
use crate::plan::{Action, Plan, Step, Stop};
use crate::resources::{self, ADMIN_PORT, Facts, MemberName, field_managers};
use crate::stores::{self, Stores};

pub use shared::is_within;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do it.
    #[error("{what} {name} can't be {verb}")]
    Kubernetes {
        /// What was to be done.
        verb: &'static str,
        /// A kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Somebody else has something of that name.
    #[error(
        "there is a {what} {name} in namespace {namespace} that is not this cluster's: {whose}; remove it, or name the cluster otherwise"
    )]
    NameTaken {
        /// A kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// Where it is.
        namespace: String,
        /// What tells that it is somebody else's, in words.
        whose: String,
    },
    /// The store did not do it.
    #[error("the store did not take {step}: {source}")]
    Store {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        source: stores::Error,
    },
}

impl Error {
    /// Whether the API server has looked at it and said no, to this alone.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NameTaken { .. } => true,
            Self::Kubernetes { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
            }
            Self::Store { .. } => false,
        }
    }

    /// What the store has refused, if it was the store, and it would refuse it again.
    pub fn refused_by_store(&self) -> Option<(&str, &str)> {
        match self {
            Self::Store { source: source @ stores::Error::Refused { reason, message }, .. } if source.is_refusal() => {
                Some((reason, message))
            }
            _ => None,
        }
    }

    /// Whether another operator has spoken in between, so that this one has to be quiet.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_fenced())
    }
}

fn failed(verb: &'static str, what: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Kubernetes { verb, what, name, source: Box::new(source) }
}

/// What each member has one of.
trait Member:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl Member for Pod {}
impl Member for PersistentVolumeClaim {}

/// What a plan is carried out with.
pub struct Hands<'a> {
    /// The API server.
    pub client: &'a Client,
    /// What the watches have seen last.
    pub caches: &'a Caches,
    /// The stores.
    pub stores: &'a dyn Stores,
    /// The generation of the operator's lease.
    pub fence: u64,
}

/// Does what the plan says. `resource` is the cluster, and `facts` what objects are made of.
pub async fn apply(
    hands: &Hands<'_>,
    resource: &StorageCluster,
    facts: &Facts,
    observed: &Observed,
    plan: &Plan,
) -> Result<(), Error> {
    let cluster = Cluster { hands, resource, facts, observed };
    // What is being deleted takes no new finalizer.
    if !observed.cluster.deleting && !observed.cluster.spec.paused {
        cluster.hold().await?;
    }
    // A service that can't be made as it should be, or a claim that may not grow, is no reason to leave a member without its pod: all
    // that can be done is done, and what was refused is told afterwards.
    let mut told = cluster.share(plan).await;
    let numbered = cluster.remember_ordinals(&plan.actions).await;
    let is_new = |action: &Action| matches!(action, Action::CreateVolume { ordinal, .. } if *ordinal > observed.cluster.last_ordinal);
    let mut held: BTreeSet<&str> = BTreeSet::new();
    if numbered.is_err() {
        held.extend(plan.actions.iter().filter(|action| is_new(action)).map(Action::member));
    }
    told = told.and(numbered);
    let mut marked = true;
    for action in &plan.actions {
        if held.contains(action.member()) {
            continue;
        }
        let Err(error) = cluster.act(action).await else { continue };
        if !error.is_refusal() {
            return Err(error);
        }
        // Without its claim, or under a name that is somebody else's, there is no pod to be made.
        if matches!(action, Action::CreateVolume { .. }) || matches!(error, Error::NameTaken { .. }) {
            held.insert(action.member());
        }
        marked &= !matches!(action, Action::MarkVolume { .. });
        told = told.and(Err(error));
    }
    // What is on a volume is written on it before anything is taken away.
    if let Some(step) = plan.step.as_ref().filter(|_| marked) {
        cluster.step(step).await?;
    }
    told
}

/// Whether what a cluster has once is as it should be, as far as the watches have seen.
pub fn has_all(caches: &Caches, facts: &Facts, observed: &Observed, plan: &Plan) -> bool {
    observed.is_ending()
        || observed.cluster.spec.paused
        || shared::are_there(caches, facts, pods(observed), plan.evictable)
}

/// How many pods there are.
fn pods(observed: &Observed) -> u32 {
    let there = observed.members.values().filter(|member| member.pod.is_some()).count();
    u32::try_from(there).unwrap_or(u32::MAX)
}

struct Cluster<'a> {
    hands: &'a Hands<'a>,
    resource: &'a StorageCluster,
    facts: &'a Facts,
    observed: &'a Observed,
}

impl Cluster<'_> {
    fn clusters(&self) -> Api<StorageCluster> {
        Api::namespaced(self.hands.client.clone(), &self.facts.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.hands.client.clone(), &self.facts.namespace)
    }

    fn volumes(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.hands.client.clone(), &self.facts.namespace)
    }

    /// Makes what the cluster has once.
    async fn share(&self, plan: &Plan) -> Result<(), Error> {
        if self.observed.is_ending() || self.observed.cluster.spec.paused {
            return Ok(());
        }
        shared::apply(self.hands, self.facts, pods(self.observed), plan.evictable).await
    }

    /// Lets the resource not go before its members have.
    async fn hold(&self) -> Result<(), Error> {
        if self.resource.finalizers().iter().any(|it| it == FINALIZER) {
            return Ok(());
        }
        let finalizers: Vec<&str> = self.resource.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        self.set_finalizers(&finalizers).await
    }

    async fn let_go(&self) -> Result<(), Error> {
        let kept: Vec<&str> =
            self.resource.finalizers().iter().map(String::as_str).filter(|it| *it != FINALIZER).collect();
        self.set_finalizers(&kept).await
    }

    async fn set_finalizers(&self, finalizers: &[&str]) -> Result<(), Error> {
        // The version makes sure that nobody else's finalizer is lost.
        let patch =
            json!({"metadata": {"finalizers": finalizers, "resourceVersion": self.resource.resource_version()}});
        let patched = self.clusters().patch(&self.facts.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(failed("marked", "StorageCluster", &self.facts.name))
    }

    /// No number is used twice, so it is written down before the first object has it; but not for a claim that would be refused, or
    /// each round would take another.
    async fn remember_ordinals(&self, actions: &[Action]) -> Result<(), Error> {
        let numbered = actions.iter().filter_map(|action| match action {
            Action::CreateVolume { member, ordinal } => Some(MemberName { name: member.clone(), ordinal: *ordinal }),
            _ => None,
        });
        let last = numbered.max_by_key(|member| member.ordinal);
        let Some(last) = last.filter(|last| last.ordinal > self.observed.cluster.last_ordinal) else {
            return Ok(());
        };
        let tried = self.volumes().create(&tried(), &resources::volume::volume(self.facts, &last)).await;
        would_be_taken(tried).map_err(failed("made", "claim", &last.name))?;
        let patch = json!({"status": {"lastOrdinal": last.ordinal}});
        let patched =
            self.clusters().patch_status(&self.facts.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(failed("numbered", "StorageCluster", &self.facts.name))
    }

    async fn act(&self, action: &Action) -> Result<(), Error> {
        match action {
            Action::CreateVolume { member, ordinal } => {
                let member = MemberName { name: member.clone(), ordinal: *ordinal };
                let volume = resources::volume::volume(self.facts, &member);
                self.make(&self.volumes(), "claim", &member, &volume).await
            }
            Action::CreatePod { member, ordinal } => {
                let member = MemberName { name: member.clone(), ordinal: *ordinal };
                let pod = resources::pod::pod(self.facts, &member);
                self.make(&self.pods(), "pod", &member, &pod).await
            }
            Action::ReclaimVolume { member, ordinal } => {
                let member = MemberName { name: member.clone(), ordinal: *ordinal };
                self.mark(&self.volumes(), "claim", &member, false).await
            }
            Action::ReclaimPod { member, ordinal } => {
                let member = MemberName { name: member.clone(), ordinal: *ordinal };
                self.mark(&self.pods(), "pod", &member, true).await
            }
            Action::ClearPod { member, uid } => self.delete_pod(member, uid, false).await,
            Action::GrowVolume { member } => {
                let size = &self.facts.spec.storage.size;
                self.patch_volume(member, json!({"spec": {"resources": {"requests": {"storage": size}}}})).await
            }
            Action::MarkVolume { member, id } => {
                self.patch_volume(
                    member,
                    json!({"metadata": {"annotations": {annotations::MEMBER_ID: id.to_string()}}}),
                )
                .await
            }
            Action::RetireVolume { member } => {
                self.patch_volume(member, json!({"metadata": {"annotations": {annotations::RETIRED: "true"}}})).await
            }
        }
    }

    /// What is there already was made before, or is somebody else's.
    async fn make<K: Member>(
        &self,
        api: &Api<K>,
        what: &'static str,
        member: &MemberName,
        wanted: &K,
    ) -> Result<(), Error> {
        match api.create(&created(), wanted).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.mark(api, what, member, !wanted.owner_references().is_empty()).await
            }
            Err(error) => Err(failed("made", what, &member.name)(error)),
        }
    }

    /// Puts back what tells whose an object is, unless that is there. The name is this member's alone, so whatever has it and
    /// nobody else controls is ours. What it was made of is not guessed: a pod without its digest is made anew in its turn.
    async fn mark<K: Member>(
        &self,
        api: &Api<K>,
        what: &'static str,
        member: &MemberName,
        is_owned: bool,
    ) -> Result<(), Error> {
        let name = &member.name;
        let Some(there) = api.get_opt(name).await.map_err(failed("read", what, name))? else { return Ok(()) };
        let has_owner = there.owner_references().iter().any(|owner| owner.uid == self.facts.uid);
        if !has_owner && let Some(owner) = controller(&there) {
            let whose = format!("{} {} controls it", owner.kind, owner.name);
            let namespace = self.facts.namespace.clone();
            return Err(Error::NameTaken { what, name: name.clone(), namespace, whose });
        }
        let mut metadata = json!({
            "labels": self.facts.member_labels(name),
            "annotations": {annotations::ORDINAL: member.ordinal.to_string()},
        });
        if is_owned && !has_owner {
            let owners = there.owner_references().iter().cloned().chain([self.facts.owner()]);
            metadata["ownerReferences"] = json!(owners.collect::<Vec<_>>());
        }
        if is_within(&metadata, &json!(there.meta())) {
            return Ok(());
        }
        tracing::warn!(
            namespace = self.facts.namespace,
            name,
            "a {what} of this name has lost what tells whose it is; that is put back"
        );
        // By its version and its UID nothing is changed but what was looked at.
        metadata["resourceVersion"] = json!(there.resource_version());
        metadata["uid"] = json!(there.uid());
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let parameters = PatchParams { field_manager: created().field_manager, ..PatchParams::default() };
        api.patch(name, &parameters, &patch).await.map(drop).map_err(failed("marked", what, name))
    }

    async fn patch_volume(&self, member: &str, patch: serde_json::Value) -> Result<(), Error> {
        let patched = self.volumes().patch(member, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(failed("changed", "claim", member))
    }

    async fn delete_pod(&self, member: &str, uid: &str, at_once: bool) -> Result<(), Error> {
        let mut parameters = of_uid(uid);
        parameters.grace_period_seconds = at_once.then_some(0);
        gone(self.pods().delete(member, &parameters).await.map(drop), "pod", member)
    }

    async fn step(&self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Bootstrap { members } => self.bootstrap(members).await,
            Step::SetMembers { epoch, members, .. } => {
                let members = Members { epoch: Some(*epoch), members: members.clone() };
                let asked = self.hands.stores.set_members(self.nodes(), self.hands.fence, members).await;
                asked.map(drop).map_err(|source| Error::Store { step: "the list of its members", source })
            }
            Step::Drain { member } => self.drain(member, true).await,
            Step::Undrain { member } => self.drain(member, false).await,
            Step::Roll { member, uid } => {
                self.try_pod(member).await?;
                self.evict(member).await;
                self.delete_pod(member, uid, false).await
            }
            Step::DiscardPod { member, uid, at_once } => self.delete_pod(member, uid, *at_once).await,
            Step::StopPods { pods } => {
                for Stop { member, uid, at_once } in pods {
                    self.delete_pod(member, uid, *at_once).await?;
                }
                Ok(())
            }
            Step::DiscardVolume { member, uid } => {
                gone(self.volumes().delete(member, &of_uid(uid)).await.map(drop), "claim", member)
            }
            Step::Finish => self.let_go().await,
        }
    }

    fn nodes(&self) -> Vec<stores::NodeAddress> {
        addresses(&self.observed.cluster, &self.observed.members)
    }

    async fn bootstrap(&self, members: &[annulus_client::node::MemberSpec]) -> Result<(), Error> {
        let spec = &self.observed.cluster.spec;
        let bootstrap = Bootstrap {
            cluster: self.observed.cluster.uid.clone(),
            partitions: u32::try_from(spec.partitions).unwrap_or_default(),
            replication_factor: u32::try_from(spec.replication_factor).unwrap_or_default(),
            members: members.to_vec(),
        };
        let mut ips = self.observed.members.values().filter_map(|member| member.pod.as_ref()?.ip.as_ref());
        let first = ips.next().map(|ip| address(ip, ADMIN_PORT)).unwrap_or_default();
        let made = self.hands.stores.bootstrap(first, bootstrap).await;
        made.map_err(|source| Error::Store { step: "its bootstrap", source })
    }

    async fn drain(&self, member: &str, drains: bool) -> Result<(), Error> {
        let asked = self.hands.stores.drain(self.nodes(), self.hands.fence, member.to_owned(), drains).await;
        let step = if drains { "a drain" } else { "the end of a drain" };
        asked.map_err(|source| Error::Store { step, source })
    }

    /// Asks whether the pod that is to come would be taken: one that is refused is no reason to take away one that serves.
    async fn try_pod(&self, member: &str) -> Result<(), Error> {
        let ordinal = self.observed.members.get(member).map(|there| there.ordinal).unwrap_or_default();
        let pod = resources::pod::pod(self.facts, &MemberName { name: member.to_owned(), ordinal });
        match would_be_taken(self.pods().create(&tried(), &pod).await) {
            // The pod that is there counts until it has gone.
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("exceeded quota") => Ok(()),
            tried => tried.map_err(failed("made anew, and is left as it is", "pod", member)),
        }
    }

    /// Leaders that are handed over before the pod is told to end are not missed by anybody. One that can't be asked does it
    /// itself when it is told to end, or is dead.
    async fn evict(&self, member: &str) {
        let pod = self.observed.members.get(member).and_then(|there| there.pod.as_ref());
        let Some(ip) = pod.and_then(|pod| pod.ip.as_ref()) else { return };
        match self.hands.stores.evict(address(ip, ADMIN_PORT)).await {
            Ok(leaders_left) => tracing::info!(member, leaders_left, "leaders were handed over"),
            Err(error) => tracing::info!(member, %error, "leaders were not handed over beforehand"),
        }
    }
}

fn created() -> PostParams {
    PostParams { field_manager: Some(field_managers::MEMBERS.to_owned()), ..PostParams::default() }
}

/// A creation that is only tried.
fn tried() -> PostParams {
    PostParams { dry_run: true, ..created() }
}

/// Whether what was only tried would be done.
fn would_be_taken<T>(tried: kube::Result<T>) -> kube::Result<()> {
    match tried {
        // All else was looked at before that.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        // Some admission webhook can't be asked without its doing something: then nobody knows.
        Err(kube::Error::Api(status)) if status.code == 400 && status.message.contains("dry run") => Ok(()),
        tried => tried.map(drop),
    }
}

fn of_uid(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// Who controls an object, as it says itself.
fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.owner_references().iter().find(|owner| owner.controller == Some(true))
}

/// What is not there any more, or is another one of that name, has gone.
fn gone(answer: kube::Result<()>, what: &'static str, name: &str) -> Result<(), Error> {
    match answer {
        Ok(()) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(failed("deleted", what, name)(error)),
    }
}
