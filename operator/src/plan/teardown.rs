//! The resource is being deleted: pods end, volumes go or stay by policy, then it may go.

use annulus_crds::storage_cluster::WhenDeleted;

use super::{Gate, Plan, Step, Wait};
use crate::model::Observed;

pub(super) fn plan(observed: &Observed) -> Plan {
    let spec = &observed.cluster.spec;
    // Where the namespace itself is being deleted everything goes anyway, and nothing is left to protect.
    if spec.deletion_protection && !observed.members.is_empty() {
        let message = "spec.deletionProtection is true: nothing is stopped, and a pod that ends is not made again; set it to false to let the cluster go";
        return Plan::waiting(Wait::new(Gate::DeletionProtected, None, message));
    }
    let mut stopping = None;
    for (name, member) in &observed.members {
        match &member.pod {
            Some(pod) if pod.is_deleting && !pod.node_is_down => stopping = Some(name),
            Some(pod) => {
                return Plan {
                    step: Some(Step::StopPod { member: name.clone(), uid: pod.uid.clone(), at_once: pod.node_is_down }),
                    ..Plan::default()
                };
            }
            None => {}
        }
    }
    if let Some(name) = stopping {
        return Plan::waiting(Wait::new(Gate::PodsStopping, Some(name), format!("pod {name} is stopping")));
    }
    if spec.volume_retention.when_deleted == WhenDeleted::Delete {
        for (name, member) in &observed.members {
            if let Some(volume) = member.volume.as_ref().filter(|volume| !volume.is_deleting) {
                let step = Step::DiscardVolume { member: name.clone(), uid: volume.uid.clone() };
                return Plan { step: Some(step), ..Plan::default() };
            }
        }
    }
    Plan { step: Some(Step::Finish), ..Plan::default() }
}
