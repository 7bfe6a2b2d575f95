//! What runs where: a running pod is a process of the simulator, a volume is one of its disks, a dead machine is one without power.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use annulus_operator::simulated::Cluster;
use annulus_tests::simulator::admin::AdminAsks;
use annulus_tests::simulator::operated::Operated;
use annulus_tests::simulator::world::Broken;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::NAMESPACE;

/// Processes that there can ever be: each volume is one's, and each loss of one makes another.
pub const SLOTS: usize = 48;

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    uid: String,
    slot: usize,
    node: String,
}

/// All machines.
pub struct Machines {
    cluster: Cluster,
    /// Who is on a volume.
    slots: BTreeMap<String, usize>,
    running: BTreeMap<String, Running>,
    by_ip: BTreeMap<String, usize>,
    /// Pods that were told to end.
    ending: BTreeSet<String>,
    ready: Arc<Mutex<BTreeSet<String>>>,
    /// Machines without power.
    pub dead: BTreeSet<String>,
    /// Machines that the operator does not reach either.
    pub cut: BTreeSet<String>,
}

impl Machines {
    /// Those of a cluster.
    pub fn new(cluster: &Cluster) -> Self {
        let ready = Arc::new(Mutex::new(BTreeSet::new()));
        let asked = Arc::clone(&ready);
        cluster.set_ready(move |pod| asked.lock().unwrap_or_else(PoisonError::into_inner).contains(pod));
        Self {
            cluster: cluster.clone(),
            slots: BTreeMap::new(),
            running: BTreeMap::new(),
            by_ip: BTreeMap::new(),
            ending: BTreeSet::new(),
            ready,
            dead: BTreeSet::new(),
            cut: BTreeSet::new(),
        }
    }

    /// Which process answers at this address, if one does.
    pub fn reached_at(&self, address: &str) -> Option<usize> {
        let host = address.rsplit_once(':')?.0;
        let slot = self.by_ip.get(host).copied();
        let named = || self.running.get(host.split('.').next()?).map(|running| running.slot);
        let slot = slot.or_else(named)?;
        let is_cut = self.running.values().any(|running| running.slot == slot && self.cut.contains(&running.node));
        (!is_cut).then_some(slot)
    }

    /// The processes of the pods on a node.
    pub fn on(&self, node: &str) -> Vec<usize> {
        self.running.values().filter(|running| running.node == node).map(|running| running.slot).collect()
    }

    /// A second passes for the cluster, and what runs follows.
    pub fn second(&mut self, store: &mut Operated) -> Result<(), Broken> {
        let ready =
            self.running.iter().filter(|(_, running)| store.is_ready(running.slot)).map(|(name, _)| name.clone());
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = ready.collect();
        self.cluster.advance(1);
        self.cluster.step();
        self.follow(store)
    }

    /// Processes run as pods do.
    pub fn follow(&mut self, store: &mut Operated) -> Result<(), Broken> {
        let mut wanted = BTreeMap::new();
        self.by_ip.clear();
        for pod in self.cluster.list::<Pod>(Some(NAMESPACE)) {
            let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
            let Some(volume) = self.cluster.volume(NAMESPACE, &name) else { continue };
            if !self.cluster.is_running(NAMESPACE, &name) {
                continue;
            }
            let next = self.slots.len();
            assert!(next < SLOTS, "more volumes than the simulator has processes for");
            let slot = *self.slots.entry(volume).or_insert(next);
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            if let Some(ip) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) {
                self.by_ip.insert(ip, slot);
            }
            // Whoever is told to end hands its leaders over first.
            if pod.metadata.deletion_timestamp.is_some() && self.ending.insert(uid.clone()) {
                store.ask(slot, AdminAsks::Evict);
            }
            wanted.insert(name, Running { uid, slot, node });
        }
        for (name, running) in std::mem::take(&mut self.running) {
            if wanted.get(&name) == Some(&running) {
                self.running.insert(name, running);
            } else {
                let with_power = !self.dead.contains(&running.node);
                store.record(format_args!("{name} runs no more in {}", running.slot));
                store.stop(running.slot, with_power);
            }
        }
        for (name, running) in wanted {
            if let Entry::Vacant(entry) = self.running.entry(name) {
                store.record(format_args!("{} runs in {} on {}", entry.key(), running.slot, running.node));
                store.start(running.slot, entry.key())?;
                entry.insert(running);
            }
        }
        Ok(())
    }
}
