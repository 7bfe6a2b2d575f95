//! What hinders pods, and what their start waits for, in words.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod as KubePod};
use kube::ResourceExt;

use crate::model::{Trouble, TroubleKind};

/// Longest text of others that is passed on.
const LONGEST: usize = 300;

/// Who keeps a pod that is being deleted. The operator puts nothing on pods that would.
pub(super) fn of_finalizers(pod: &KubePod) -> Option<Trouble> {
    if pod.metadata.deletion_timestamp.is_none() || pod.finalizers().is_empty() {
        return None;
    }
    let text = format!(
        "pod {} is being deleted, and kept by somebody's finalizer {}: whoever put it there has to take it off",
        pod.name_any(),
        pod.finalizers().join(", ")
    );
    Some(Trouble { kind: TroubleKind::HeldByOthers, text })
}

/// What a container that does not run waits for, if that is more than its start.
pub(super) fn of_container(pod: &KubePod, container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let name = pod.name_any();
    let message: String = waiting.message.as_deref().unwrap_or_default().chars().take(LONGEST).collect();
    let (kind, text) = match waiting.reason.as_deref()? {
        "ErrImageNeverPull" => (
            TroubleKind::ImageUnavailable,
            format!(
                "pod {name} can't get its image {}, for it may not be pulled and its node does not have it: bring it there, \
                 or correct spec.image, or spec.imagePullPolicy",
                container.image
            ),
        ),
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ImageInspectError" | "RegistryUnavailable" => (
            TroubleKind::ImageUnavailable,
            format!(
                "pod {name} can't get its image: {message}; correct spec.image (or the operator's nodeImage where spec.image \
                 is not set), or spec.podTemplate.imagePullSecrets"
            ),
        ),
        "CrashLoopBackOff" => (TroubleKind::Crashing, crashing(pod, container)),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            (TroubleKind::CannotStart, format!("pod {name} can't start: {message}"))
        }
        _ => return None,
    };
    Some(Trouble { kind, text })
}

/// How it ended last. How often it did changes each time, and would be told anew each time.
fn crashing(pod: &KubePod, container: &ContainerStatus) -> String {
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let how = last.map(ended).unwrap_or_default();
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    format!("pod {name} ends again and again{how}; see `kubectl logs {name} --namespace {namespace} --previous`")
}

fn ended(last: &ContainerStateTerminated) -> String {
    if last.reason.as_deref() == Some("OOMKilled") {
        return ", killed for want of memory: raise spec.resources.limits.memory".to_owned();
    }
    let message: String = last.message.as_deref().unwrap_or_default().trim().chars().take(LONGEST).collect();
    let message = if message.is_empty() { message } else { format!(": {message}") };
    format!(", last with exit code {}{message}", last.exit_code)
}

/// What the start of a pod waits for, as far as its status tells: a node, its kubelet, volumes and network, or the image.
pub(super) fn starting(pod: &KubePod) -> Option<String> {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let holds = |kind: &str| conditions.iter().find(|it| it.type_ == kind).map(|it| it.status == "True");
    let containers = status.container_statuses.unwrap_or_default();
    let waits = containers.iter().find_map(|it| it.state.as_ref()?.waiting.as_ref());
    let reason = waits.and_then(|waits| waits.reason.clone()).unwrap_or_default();
    let is_begun = !containers.is_empty() && !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
    if is_begun || status.phase.is_some_and(|phase| phase != "Pending") {
        return None;
    }
    let name = pod.name_any();
    let what = match pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
        None => "no node has been chosen for it yet".to_owned(),
        Some(node) if containers.is_empty() => format!("node {node} has not begun with it yet"),
        Some(node) => match holds("PodReadyToStartContainers") {
            Some(false) => format!("node {node} attaches its volume and makes its network"),
            Some(true) if reason == "PodInitializing" => format!("its init containers run on node {node}"),
            Some(true) => format!("node {node} pulls its image and makes its container"),
            None => format!("node {node} attaches its volume, makes its network, or pulls its image"),
        },
    };
    let since = pod.metadata.creation_timestamp.as_ref().map(|at| format!(" since {}", at.0)).unwrap_or_default();
    Some(format!("pod {name} is starting{since}: {what}; `kubectl describe pod {name}` tells more"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn trouble(container: serde_json::Value) -> Trouble {
        let pod = json!({"metadata": {"name": "demo-a", "namespace": "stores"}, "spec": {"containers": []}});
        let mut status =
            json!({"name": "annulus", "ready": false, "restartCount": 7, "image": "annulus/node:x", "imageID": ""});
        status.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let (pod, status) = (serde_json::from_value(pod).unwrap(), serde_json::from_value(status).unwrap());
        of_container(&pod, &status).unwrap()
    }

    #[test]
    fn a_crash_tells_how_it_ended_and_says_the_same_however_often_it_does() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}});
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let told = trouble(json!({"state": waiting, "lastState": killed}));
        assert_eq!(told.kind, TroubleKind::Crashing);
        assert!(told.text.contains("raise spec.resources.limits.memory"), "{}", told.text);
        let failed = json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "no such volume\n"}});
        let told = trouble(json!({"state": waiting, "lastState": failed}));
        let remedy = "see `kubectl logs demo-a --namespace stores --previous`";
        assert_eq!(
            told.text,
            format!("pod demo-a ends again and again, last with exit code 2: no such volume; {remedy}")
        );
    }

    #[test]
    fn an_image_that_may_not_be_pulled_is_told_from_one_that_can_not() {
        let never = trouble(json!({"state": {"waiting": {"reason": "ErrImageNeverPull"}}}));
        assert!(never.text.contains("annulus/node:x") && !never.text.contains("imagePullSecrets"), "{}", never.text);
        let other = trouble(json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}));
        assert!(other.text.contains("denied") && other.text.contains("imagePullSecrets"), "{}", other.text);
        assert_eq!((never.kind, other.kind), (TroubleKind::ImageUnavailable, TroubleKind::ImageUnavailable));
    }

    fn why(status: serde_json::Value, node: Option<&str>) -> Option<String> {
        let pod = json!({
            "metadata": {"name": "demo-a", "creationTimestamp": "2026-11-28T07:00:00Z"},
            "spec": {"containers": [], "nodeName": node}, "status": status,
        });
        starting(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_that_starts_says_since_when_and_what_it_waits_for() {
        let creating = |ready: &str| {
            json!({
                "phase": "Pending", "conditions": [{"type": "PodReadyToStartContainers", "status": ready}],
                "containerStatuses": [{
                    "name": "annulus", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": {"waiting": {"reason": "ContainerCreating"}},
                }],
            })
        };
        let says = |status, node, what: &str| {
            let message = why(status, node).unwrap_or_default();
            let head = "pod demo-a is starting since 2026-11-28T07:00:00Z: ";
            assert!(message.starts_with(head) && message.contains(what), "{message}");
        };
        says(json!({"phase": "Pending"}), None, "no node has been chosen");
        says(json!({"phase": "Pending"}), Some("node-1"), "node node-1 has not begun");
        says(creating("False"), Some("node-1"), "node node-1 attaches its volume and makes its network");
        says(creating("True"), Some("node-1"), "node node-1 pulls its image");
        assert_eq!(why(json!({"phase": "Running"}), Some("node-1")), None);
    }
}
