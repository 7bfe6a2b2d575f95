//! The resource is being deleted: pods end, volumes go or stay by policy, then it may go.

use annulus_crds::storage_cluster::WhenDeleted;

use super::{Plan, Step, Stop, going};
use crate::model::Observed;

pub(super) fn plan(observed: &Observed) -> Plan {
    let (mut pods, mut stopping) = (Vec::new(), None);
    for (name, member) in &observed.members {
        match &member.pod {
            Some(pod) if pod.is_deleting && (!pod.node_is_down || pod.is_let_go) => stopping = Some((name, pod)),
            Some(pod) => {
                pods.push(Stop { member: name.clone(), uid: pod.uid.clone(), at_once: pod.node_is_down });
            }
            None => {}
        }
    }
    if !pods.is_empty() {
        return Plan { step: Some(Step::StopPods { pods }), ..Plan::default() };
    }
    if let Some((name, pod)) = stopping {
        return Plan::waiting(going(name, pod, format!("pod {name} is stopping")));
    }
    if observed.cluster.spec.volume_retention.when_deleted == WhenDeleted::Delete {
        for (name, member) in &observed.members {
            if let Some(volume) = member.volume.as_ref().filter(|volume| !volume.is_deleting) {
                let step = Step::DiscardVolume { member: name.clone(), uid: volume.uid.clone() };
                return Plan { step: Some(step), ..Plan::default() };
            }
        }
    }
    Plan { step: Some(Step::Finish), ..Plan::default() }
}
