//! A cluster without Kubernetes: pods and volumes as values, a simulated store, and hands that do what a plan says.

use std::collections::{BTreeMap, BTreeSet};

use annulus_client::admin::Members;
use annulus_client::node::{Bootstrap, Status};
use annulus_client::{ClusterId, MemberId};
use annulus_core::id::GroupId;
use annulus_crds::storage_cluster::WhenScaled;
use annulus_crds::{StorageClusterSpec, StorageClusterStatus};
use annulus_operator::model::{self, Cluster, Observed};
use annulus_operator::plan::{Action, Plan, Step, Stop, plan, without};
use annulus_operator::status::status;
use annulus_operator::stores::Error;
use annulus_operator::validate;
use serde_json::json;

use crate::store::Store;

pub const UID: &str = "8b6f0a3e-5c1d-4e2f-9a7b-0c1d2e3f4a5b";
const ZONES: [&str; 3] = ["a", "b", "c"];
const GIB: u64 = 1 << 30;

/// What is on a volume.
#[derive(Debug, Clone, Copy)]
struct Data {
    id: MemberId,
    /// Whether it belongs to the store.
    is_member: bool,
}

#[derive(Debug, Clone)]
struct Claim {
    uid: String,
    data: Option<Data>,
    bytes: u64,
    is_retired: bool,
    mark: Option<MemberId>,
    /// Kubernetes keeps it until its pod is gone.
    is_deleting: bool,
}

#[derive(Debug, Clone)]
struct Pod {
    uid: String,
    template: String,
    age: u32,
    zone: usize,
    /// Its node is down, or it is cut off.
    is_down: bool,
    is_deleting: bool,
    /// How many rounds it still runs, being deleted; it says that it is ready until then.
    lives_on: u32,
}

#[derive(Debug, Clone, Default)]
struct Place {
    ordinal: u64,
    claim: Option<Claim>,
    pod: Option<Pod>,
}

/// A cluster.
pub struct World {
    pub spec: StorageClusterSpec,
    pub template: String,
    pub drain: BTreeSet<String>,
    pub remove: Vec<String>,
    pub deleting: bool,
    pub store: Option<Store>,
    pub is_gone: bool,
    places: BTreeMap<String, Place>,
    /// What the operator wrote down last.
    pub status: StorageClusterStatus,
    now_s: i64,
    made: u64,
    names: BTreeSet<String>,
    /// Everybody who ever was in the map, by name.
    joined: BTreeSet<String>,
    fence: u64,
    /// Bytes in all and unused, of those that tell: by name, and of everybody else by the empty one.
    pub disks: BTreeMap<String, (u64, u64)>,
    /// What members say that their files take.
    pub data_bytes: Option<u64>,
    /// What was done, for whoever has to find out why.
    pub log: Vec<String>,
}

impl World {
    pub fn new(spec: serde_json::Value) -> Self {
        let spec = serde_json::from_value(spec).expect("a spec");
        Self {
            spec,
            template: "t1".to_owned(),
            drain: BTreeSet::new(),
            remove: Vec::new(),
            deleting: false,
            store: None,
            is_gone: false,
            places: BTreeMap::new(),
            status: StorageClusterStatus::default(),
            now_s: 1_000_000,
            made: 0,
            names: BTreeSet::new(),
            joined: BTreeSet::new(),
            fence: 7,
            disks: BTreeMap::new(),
            data_bytes: None,
            log: Vec::new(),
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    pub fn has_volume(&self, name: &str) -> bool {
        self.places.get(name).is_some_and(|place| place.claim.is_some())
    }

    fn unique(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Whose processes run and can be reached.
    pub fn up(&self) -> BTreeSet<MemberId> {
        let running =
            self.places.values().filter(|place| place.pod.as_ref().is_some_and(|pod| !pod.is_down && pod.age >= 1));
        running.filter_map(|place| place.claim.as_ref()?.data.map(|data| data.id)).collect()
    }

    /// Members of the store that run.
    fn members_up(&self) -> BTreeSet<MemberId> {
        let Some(store) = &self.store else { return BTreeSet::new() };
        self.up().into_iter().filter(|id| store.map.member(*id).is_some()).collect()
    }

    pub fn observe(&self) -> Observed {
        let up = self.up();
        let answers = self.places.iter().map(|(name, place)| (name.clone(), self.member(place, name)));
        let members: BTreeMap<String, model::Member> = answers.collect();
        let belongs =
            members.values().any(|member| member.answer.as_ref().is_some_and(|answer| answer.cluster.is_some()));
        let store = match &self.store {
            Some(store) if belongs => match store.told(&up) {
                Ok(told) => model::Store::Known(Box::new(told)),
                Err(error) => model::Store::Unreachable { reason: error.to_string() },
            },
            _ => model::Store::None,
        };
        let mut spec = self.spec.clone();
        validate::settle(&mut spec, &members, &store);
        let mut observed = Observed {
            sidecars: BTreeMap::new(),
            cluster: Cluster {
                namespace: "default".to_owned(),
                name: "demo".to_owned(),
                uid: UID.to_owned(),
                id: cluster_id(),
                generation: 1,
                spec,
                image: "annulus/node:1".to_owned(),
                template: self.template.clone(),
                drain: self.drain.clone(),
                remove: self.remove.clone(),
                deleting: self.deleting,
                last_ordinal: 0,
                was_made: false,
                known: BTreeMap::new(),
            },
            members,
            taken: BTreeSet::new(),
            store,
            refused: Vec::new(),
            now_s: self.now_s,
        };
        observed.cluster.remember(&self.status);
        observed
    }

    fn member(&self, place: &Place, name: &str) -> model::Member {
        let claim = place.claim.as_ref();
        let volume = claim.map(|claim| model::Volume {
            uid: claim.uid.clone(),
            is_bound: true,
            requested_bytes: claim.bytes,
            is_retired: claim.is_retired,
            mark: claim.mark.map(|id| id.to_string()),
            is_deleting: claim.is_deleting,
            may_grow: Some(true),
            ..model::Volume::default()
        });
        let pod = place.pod.as_ref().map(|pod| model::Pod {
            uid: pod.uid.clone(),
            template: pod.template.clone(),
            ip: Some("10.0.0.1".to_owned()).filter(|_| pod.age >= 1),
            node: Some(format!("node-{}", pod.zone)),
            node_is_down: pod.is_down,
            zone: Some(ZONES[pod.zone].to_owned()),
            is_ready: self.is_ready(place),
            is_deleting: pod.is_deleting,
            ..model::Pod::default()
        });
        let runs = place.pod.as_ref().is_some_and(|pod| !pod.is_down && pod.age >= 1);
        let data = claim.and_then(|claim| claim.data).filter(|_| runs);
        let answer = data.map(|data| -> Status {
            let cluster = data.is_member.then(|| cluster_id().to_string());
            let disk = self.disks.get(name).or(self.disks.get("")).copied();
            serde_json::from_value(json!({
                "id": data.id.to_string(), "name": name, "cluster": cluster, "version": "1",
                "disk_bytes_total": disk.map(|(total, _)| total), "disk_bytes_free": disk.map(|(_, free)| free),
                "data_bytes": self.data_bytes,
            }))
            .expect("a status")
        });
        model::Member { ordinal: place.ordinal, volume, pod, answer }
    }

    fn is_ready(&self, place: &Place) -> bool {
        let Some(pod) = &place.pod else { return false };
        let Some(data) = place.claim.as_ref().and_then(|claim| claim.data) else { return false };
        let in_map = self.store.as_ref().is_some_and(|store| store.map.member(data.id).is_some());
        pod.age >= 2 && !pod.is_down && in_map && data.is_member
    }

    /// A second passes for everything but the operator.
    pub fn round(&mut self) {
        self.now_s += 1;
        let mut fresh = Vec::new();
        for (name, place) in &mut self.places {
            if let Some(pod) = place.pod.as_mut().filter(|pod| pod.is_deleting && !pod.is_down) {
                pod.lives_on -= 1;
                if pod.lives_on == 0 {
                    place.pod = None;
                }
            }
            if let Some(pod) = place.pod.as_mut().filter(|pod| !pod.is_down) {
                pod.age += 1;
                if place.claim.as_ref().is_some_and(|claim| claim.data.is_none()) {
                    fresh.push(name.clone());
                }
            }
        }
        for name in fresh {
            let id = MemberId::new(1000 + self.unique()).expect("not 0");
            let claim = self.places.get_mut(&name).and_then(|place| place.claim.as_mut()).expect("just seen");
            claim.data = Some(Data { id, is_member: false });
        }
        for place in self.places.values_mut().filter(|place| place.pod.is_none()) {
            place.claim = place.claim.take().filter(|claim| !claim.is_deleting);
        }
        self.places.retain(|_, place| place.claim.is_some() || place.pod.is_some());
        let up = self.members_up();
        let Some(store) = &mut self.store else { return };
        store.round(&up);
        // Whoever is named in the map hears of it.
        for data in self.places.values_mut().filter_map(|place| place.claim.as_mut()?.data.as_mut()) {
            data.is_member |= up.contains(&data.id) && store.map.member(data.id).is_some();
        }
        self.joined.extend(store.map.members.iter().map(|member| member.name.clone()));
    }

    /// One round of the operator. Returns what it planned.
    pub fn operate(&mut self) -> Plan {
        let mut observed = self.observe();
        let mut planned = plan(&observed);
        for action in &planned.actions {
            self.act(action);
        }
        while let Some(step) = planned.step.clone() {
            self.log.push(format!("{} {step:?}", self.now_s));
            let Err(Error::Refused { reason, message }) = self.step(&step) else { break };
            self.log.push(format!("{} refused: {message}", self.now_s));
            let Some(rest) = without(&mut observed, &step, &reason, &message) else { break };
            planned = rest;
        }
        self.status = status(&observed, &planned, &[], None, &self.status);
        planned
    }

    /// Somebody has replaced the resource, and its status is empty. Names of which nothing is left may be used again: there is
    /// nothing that they could be confused with.
    pub fn lose_status(&mut self) {
        self.status = StorageClusterStatus::default();
        let in_map = self.store.iter().flat_map(|store| &store.map.members).map(|member| member.name.clone());
        self.names = self.places.keys().cloned().chain(in_map).collect();
    }

    pub fn act(&mut self, action: &Action) {
        self.log.push(format!("{} {action:?}", self.now_s));
        match action {
            Action::CreateVolume { member, ordinal } => {
                assert!(self.names.insert(member.clone()), "{member} was used before");
                self.status.last_ordinal = self.status.last_ordinal.max(i64::try_from(*ordinal).expect("small"));
                let uid = format!("v{}", self.unique());
                let bytes = annulus_crds::quantity::bytes(&self.spec.storage.size).unwrap_or(GIB);
                let claim = Claim { uid, data: None, bytes, is_retired: false, mark: None, is_deleting: false };
                self.places.insert(member.clone(), Place { ordinal: *ordinal, claim: Some(claim), pod: None });
            }
            Action::CreatePod { member, ordinal } => {
                let uid = format!("p{}", self.unique());
                let zone = usize::try_from(*ordinal).expect("small") % ZONES.len();
                let pod = Pod {
                    uid,
                    template: self.template.clone(),
                    age: 0,
                    zone,
                    is_down: false,
                    is_deleting: false,
                    lives_on: 3,
                };
                let place = self.places.get_mut(member).expect("a pod is made for a volume");
                assert!(place.pod.is_none() && place.claim.is_some());
                place.pod = Some(pod);
            }
            Action::ClearPod { member, uid } => self.delete_pod(member, uid, false),
            Action::GrowVolume { member } => {
                let bytes = annulus_crds::quantity::bytes(&self.spec.storage.size).expect("it is a size");
                let claim =
                    self.places.get_mut(member).and_then(|place| place.claim.as_mut()).expect("a volume to grow");
                assert!(claim.bytes < bytes, "volumes only grow");
                claim.bytes = bytes;
            }
            Action::MarkVolume { member, id } => {
                let claim =
                    self.places.get_mut(member).and_then(|place| place.claim.as_mut()).expect("a volume to mark");
                claim.mark = Some(*id);
            }
            Action::RetireVolume { member } => {
                let claim =
                    self.places.get_mut(member).and_then(|place| place.claim.as_mut()).expect("a volume to keep");
                claim.is_retired = true;
            }
            Action::ReclaimVolume { .. } | Action::ReclaimPod { .. } => panic!("nobody takes marks off here"),
        }
    }

    fn delete_pod(&mut self, member: &str, uid: &str, at_once: bool) {
        let place = self.places.get_mut(member).expect("a pod to delete");
        let pod = place.pod.as_mut().expect("a pod to delete");
        assert_eq!(pod.uid, uid);
        pod.is_deleting = true;
        if at_once {
            place.pod = None;
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Bootstrap { members } => {
                assert!(self.store.is_none(), "a store is made once");
                let bootstrap = Bootstrap {
                    cluster: UID.to_owned(),
                    partitions: u32::try_from(self.spec.partitions).expect("small"),
                    replication_factor: u32::try_from(self.spec.replication_factor).expect("small"),
                    members: members.clone(),
                };
                self.store = Some(Store::bootstrap(&bootstrap).expect("a store can be made of them"));
            }
            Step::SetMembers { epoch, members, .. } => {
                let asked = Members { epoch: Some(*epoch), members: members.clone() };
                self.store.as_mut().expect("there is a store").set_members(self.fence, &asked)?;
            }
            Step::Drain { member } | Step::Undrain { member } => {
                let drains = matches!(step, Step::Drain { .. });
                self.store.as_mut().expect("there is a store").drain(self.fence, member, drains)?;
            }
            Step::Roll { member, uid } => self.roll(member, uid),
            Step::DiscardPod { member, uid, at_once } => {
                self.nothing_is_lost_with(member);
                self.delete_pod(member, uid, *at_once);
            }
            Step::DiscardVolume { member, .. } => {
                assert!(
                    self.deleting
                        || self.spec.volume_retention.when_scaled == WhenScaled::Delete
                        || !self.joined.contains(member)
                );
                self.nothing_is_lost_with(member);
                let place = self.places.get_mut(member).expect("a volume to delete");
                let is_empty = place.claim.as_ref().and_then(|claim| claim.data).is_none_or(|data| !data.is_member);
                assert!(place.pod.is_none() || is_empty, "a volume goes after its pod");
                place.claim.as_mut().expect("a volume to delete").is_deleting = true;
                if place.pod.is_none() {
                    self.places.remove(member);
                }
            }
            Step::StopPods { pods } => {
                assert!(self.deleting);
                for Stop { member, uid, at_once } in pods {
                    self.delete_pod(member, uid, *at_once);
                }
            }
            Step::Finish => {
                assert!(self.deleting && self.places.values().all(|place| place.pod.is_none()));
                self.is_gone = true;
            }
        }
        Ok(())
    }

    /// Members that run, and are not about to stop.
    fn lasting(&self) -> BTreeSet<MemberId> {
        let up = self.members_up();
        let lasting = self.places.values().filter(|place| place.pod.as_ref().is_some_and(|pod| !pod.is_deleting));
        lasting
            .filter_map(|place| place.claim.as_ref()?.data.map(|data| data.id))
            .filter(|id| up.contains(id))
            .collect()
    }

    /// After a roll every group that had a quorum has one still.
    fn roll(&mut self, member: &str, uid: &str) {
        let before = self.lasting();
        self.delete_pod(member, uid, false);
        let after = self.lasting();
        let store = self.store.as_ref().expect("there is a store");
        if store.map.replication_factor == 1 {
            return;
        }
        for group in store.map.groups().filter(|group| *group != GroupId::MAP) {
            assert!(
                !store.has_quorum(group, &before) || store.has_quorum(group, &after),
                "{group} has lost its quorum"
            );
        }
    }

    /// What goes holds no replica of anything.
    fn nothing_is_lost_with(&self, member: &str) {
        let data = self.places.get(member).and_then(|place| place.claim.as_ref()?.data);
        let (Some(data), Some(store)) = (data, &self.store) else { return };
        assert!(self.deleting || !store.holds(data.id), "{member} still holds replicas");
    }

    /// Its node dies, or comes back.
    pub fn set_down(&mut self, name: &str, is_down: bool) {
        if let Some(pod) = self.places.get_mut(name).and_then(|place| place.pod.as_mut()) {
            pod.is_down = is_down;
            pod.age = 0;
        }
    }

    /// Those that were made and are not in the map.
    pub fn fresh(&self) -> Vec<String> {
        let is_in_map = |id| self.store.as_ref().is_some_and(|store| store.map.member(id).is_some());
        let is_fresh = |place: &Place| {
            let data = place.claim.as_ref().and_then(|claim| claim.data);
            place.pod.is_some() && data.is_none_or(|data| !data.is_member && !is_in_map(data.id))
        };
        self.places.iter().filter(|(_, place)| is_fresh(place)).map(|(name, _)| name.clone()).collect()
    }

    /// The names of the store's members.
    pub fn members(&self) -> Vec<String> {
        let observed = self.observe();
        let told = observed.told().expect("the store can be asked");
        told.plan.members.iter().map(|member| member.name.clone()).collect()
    }

    /// Everybody's pod is on this node from now on.
    pub fn gather(&mut self, node: usize) {
        for pod in self.places.values_mut().filter_map(|place| place.pod.as_mut()) {
            pod.zone = node;
        }
    }

    /// Its node is gone, and Kubernetes has noticed: the pod, too.
    pub fn lose_pod(&mut self, name: &str) {
        if let Some(place) = self.places.get_mut(name) {
            place.pod = None;
        }
    }

    /// Its volume is empty now, and its process has begun anew.
    pub fn wipe(&mut self, name: &str) {
        if let Some(place) = self.places.get_mut(name) {
            if let Some(claim) = &mut place.claim {
                claim.data = None;
            }
            if let Some(pod) = &mut place.pod {
                pod.age = 0;
            }
        }
    }

    /// Somebody has deleted its claim, which stays until its pod is gone.
    pub fn delete_claim(&mut self, name: &str) {
        if let Some(claim) = self.places.get_mut(name).and_then(|place| place.claim.as_mut()) {
            claim.is_deleting = true;
        }
    }

    /// What a condition of the status says: whether it holds, why, and in words.
    pub fn condition(&self, kind: &str) -> (String, String, String) {
        let found =
            self.status.conditions.iter().find(|condition| condition.type_ == kind).expect("every condition is told");
        (found.status.clone(), found.reason.clone(), found.message.clone())
    }

    /// Rounds with the operator.
    pub fn rounds(&mut self, count: usize) -> Plan {
        let mut planned = Plan::default();
        for _ in 0..count {
            self.round();
            planned = self.operate();
        }
        planned
    }

    /// Somebody has taken the mark of a volume that is only kept off it.
    pub fn unretire(&mut self, name: &str) {
        if let Some(claim) = self.places.get_mut(name).and_then(|place| place.claim.as_mut()) {
            claim.is_retired = false;
        }
    }

    /// Somebody has deleted its claim and its pod.
    pub fn lose_volume(&mut self, name: &str) {
        self.places.remove(name);
    }

    /// Whether all is as the spec wants it, and stays so.
    pub fn is_settled(&self) -> bool {
        let observed = self.observe();
        let planned = plan(&observed);
        let Some(told) = observed.told() else { return false };
        let wanted = usize::try_from(observed.cluster.spec.replicas).expect("small");
        planned.is_empty() && planned.wait.is_none() && told.plan.settled && told.plan.members.len() == wanted
    }

    /// Operates until all is settled.
    pub fn settle(&mut self, most_rounds: usize) {
        for _ in 0..most_rounds {
            self.round();
            let planned = self.operate();
            if self.is_settled() {
                return;
            }
            let observed = self.observe();
            let told = observed.told().map(|told| told.plan.settled);
            let says_why = !planned.is_empty() || planned.wait.is_some() || told == Some(true);
            assert!(says_why, "it neither does anything nor says why: {planned:?}\n{}", self.log.join("\n"));
        }
        let observed = self.observe();
        let planned = plan(&observed);
        panic!(
            "it does not settle: {planned:#?}\n{}\n{:?}",
            self.log.join("\n"),
            observed.told().map(|told| &told.plan)
        );
    }
}

pub fn cluster_id() -> ClusterId {
    UID.parse().expect("a UUID")
}
