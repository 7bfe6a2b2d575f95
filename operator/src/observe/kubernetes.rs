//! What Kubernetes has of a cluster's members, as plain values.

use std::collections::BTreeMap;
use std::sync::Arc;

use annulus_crds::{annotations, labels, quantity};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod as KubePod};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;

use super::{Taken, trouble};
use crate::caches::Caches;
use crate::model::{Cluster, Member, Pod, Trouble, TroubleKind, Volume};
use crate::resources;

/// The annotation of a class that is used where none is named.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// How many numbers, down from the highest known one, an object's name is looked for among if it does not tell its own.
const LOOKED_THROUGH: u64 = 10_000;

/// The cluster that an object says it belongs to.
pub(super) fn instance(meta: &ObjectMeta) -> Option<&str> {
    let labels = meta.labels.as_ref()?;
    let is_ours = labels.get(labels::NAME).is_some_and(|name| name == labels::APP);
    labels.get(labels::INSTANCE).filter(|_| is_ours).map(String::as_str)
}

/// The members by name, and the names that somebody else's objects have.
pub(super) fn members(
    cluster: &Cluster,
    caches: &Caches,
    pods: &[Arc<KubePod>],
    volumes: &[Arc<PersistentVolumeClaim>],
) -> (BTreeMap<String, Member>, Taken) {
    let (mut members, mut taken) = (BTreeMap::<String, Member>::new(), Taken::new());
    let metas = || volumes.iter().map(|volume| &volume.metadata).chain(pods.iter().map(|pod| &pod.metadata));
    let last = metas().filter_map(|meta| ordinal(cluster, meta)).max().unwrap_or_default().max(cluster.last_ordinal);
    for volume in volumes {
        match identified(cluster, &volume.metadata, last) {
            Some((ordinal, is_marked)) => {
                let member = members.entry(volume.name_any()).or_default();
                let volume = Volume { lacks_marks: !is_marked, ..self::volume(caches, volume) };
                (member.ordinal, member.volume) = (ordinal, Some(volume));
            }
            None => drop(taken.insert(volume.name_any())),
        }
    }
    for pod in pods {
        let owners = pod.owner_references();
        let is_owned = owners.iter().any(|owner| owner.uid == cluster.uid);
        // One that has lost its owner is still ours; one that has another is not.
        let is_ours = is_owned || !owners.iter().any(|owner| owner.controller == Some(true));
        match identified(cluster, &pod.metadata, last).filter(|_| is_ours) {
            Some((ordinal, is_marked)) => {
                let member = members.entry(pod.name_any()).or_default();
                let pod = Pod { lacks_marks: !is_marked || !is_owned, ..self::pod(cluster, caches, pod) };
                (member.ordinal, member.pod) = (ordinal, Some(pod));
            }
            None => drop(taken.insert(pod.name_any())),
        }
    }
    // A member is whole or somebody else's: a stranger's pod on our volume would be the worst of both.
    taken.retain(|name| !members.contains_key(name));
    (members, taken)
}

/// The number of a member, if the object is one of this very cluster: its name is made of the cluster's UID.
fn ordinal(cluster: &Cluster, meta: &ObjectMeta) -> Option<u64> {
    let ordinal = meta.annotations.as_ref()?.get(annotations::ORDINAL)?.parse().ok()?;
    let name = resources::member_name(&cluster.name, &cluster.uid, ordinal);
    (meta.name.as_deref() == Some(&*name)).then_some(ordinal)
}

/// The number of a member, and whether its object has all that tells so. Labels and annotations can be taken off, and the name
/// can't: it is made of the cluster's UID and the number, so whoever has it is this very cluster's.
fn identified(cluster: &Cluster, meta: &ObjectMeta, last: u64) -> Option<(u64, bool)> {
    let name = meta.name.as_deref()?;
    let Some(ordinal) = ordinal(cluster, meta) else {
        let mut numbers = (last.saturating_sub(LOOKED_THROUGH)..=last).rev();
        let found = numbers.find(|number| resources::member_name(&cluster.name, &cluster.uid, *number) == name);
        return found.map(|ordinal| (ordinal, false));
    };
    let there = meta.labels.as_ref();
    let mut wanted = resources::member_labels(&cluster.name, name).into_iter();
    Some((ordinal, wanted.all(|(key, value)| there.is_some_and(|there| there.get(&key) == Some(&value)))))
}

fn volume(caches: &Caches, claim: &PersistentVolumeClaim) -> Volume {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let spec = claim.spec.clone().unwrap_or_default();
    let requested = spec.resources.and_then(|resources| resources.requests?.get("storage").cloned());
    let requested_bytes = requested.and_then(|size| quantity::bytes(&size.0)).unwrap_or_default();
    let class = spec.storage_class_name.filter(|name| !name.is_empty());
    let found = match &class {
        Some(name) => caches.classes.get(&ObjectRef::new(name)),
        None => {
            caches.classes.find(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true"))
        }
    };
    let name = claim.name_any();
    let is_lost = phase == "Lost";
    let knows_classes = !caches.classes.is_empty();
    let trouble = match (&class, &found) {
        _ if is_lost => Some(format!("the volume behind claim {name} is gone; the member is replaced")),
        (Some(class), None) if phase == "Pending" && knows_classes => Some(format!(
            "claim {name} wants storage class {class}, which does not exist: make it, or, where there is no store yet, delete the \
             StorageCluster and name another one"
        )),
        (None, None) if phase == "Pending" && knows_classes => Some(format!(
            "claim {name} names no storage class, and none is the default: name one in spec.storage.storageClassName of a new cluster, or make one the default"
        )),
        _ => None,
    };
    Volume {
        uid: claim.uid().unwrap_or_default(),
        is_bound: phase == "Bound",
        is_lost,
        requested_bytes,
        is_deleting: claim.metadata.deletion_timestamp.is_some(),
        is_retired: claim.annotations().contains_key(annotations::RETIRED),
        mark: claim.annotations().get(annotations::MEMBER_ID).cloned(),
        may_grow: found.map(|class| class.allow_volume_expansion == Some(true)),
        trouble,
        lacks_marks: false,
    }
}

fn pod(cluster: &Cluster, caches: &Caches, pod: &KubePod) -> Pod {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let is = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let node = node_name.as_ref().and_then(|name| caches.nodes.get(&ObjectRef::<Node>::new(name)));
    let zone = node.as_ref().and_then(|node| node.labels().get(&cluster.spec.topology.zone_key).cloned());
    let phase = status.phase.unwrap_or_default();
    let name = pod.name_any();
    let unscheduled = conditions.iter().find(|it| it.type_ == "PodScheduled" && it.status == "False");
    let waiting = status.container_statuses.unwrap_or_default().iter().find_map(|it| trouble::of_container(pod, it));
    let unscheduled = unscheduled.and_then(|condition| {
        let text = format!("pod {name} can't be placed: {}", condition.message.as_ref()?);
        Some(Trouble { kind: TroubleKind::Unschedulable, text })
    });
    // A node that the watch of nodes does not have is gone, if there is such a watch.
    let node_is_down = node_name.is_some() && !caches.nodes.is_empty() && node.as_ref().is_none_or(|node| !is_up(node));
    let down = node_is_down.then(|| Trouble {
        kind: TroubleKind::NodeDown,
        text: format!("pod {name} is on node {}, which is down", node_name.clone().unwrap_or_default()),
    });
    Pod {
        uid: pod.uid().unwrap_or_default(),
        template: pod.annotations().get(annotations::TEMPLATE).cloned().unwrap_or_default(),
        ip: status.pod_ip.filter(|ip| !ip.is_empty()),
        node: node_name,
        node_is_down,
        zone,
        is_ready: is("Ready"),
        has_ended: phase == "Failed" || phase == "Succeeded",
        is_deleting: pod.metadata.deletion_timestamp.is_some(),
        is_let_go: pod.metadata.deletion_grace_period_seconds == Some(0),
        trouble: trouble::of_finalizers(pod).or(down).or(unscheduled).or(waiting),
        starting: trouble::starting(pod),
        lacks_marks: false,
    }
}

fn is_up(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_none_or(|conditions| conditions.iter().all(|it| it.type_ != "Ready" || it.status == "True"))
}
