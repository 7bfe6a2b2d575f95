//! The pods of members.

use std::collections::BTreeMap;

use annulus_crds::annotations;
use annulus_crds::storage_cluster::PullPolicy;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, Probe, SeccompProfile, SecurityContext,
    SleepAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::scheduling::{merged_affinity, tolerations, topology_spread};
use super::{ADMIN_PORT, CLIENT_PORT, Facts, MemberName, PEER_PORT, template, unless_empty};

/// The name of the container that the member runs in.
pub const CONTAINER: &str = "node";
/// Where a member's volume is.
pub const DATA: &str = "/var/lib/annulus";
/// The user and the group that a member runs as.
pub const USER: i64 = 65532;

/// How long a member has to hand its leaders over and to let open requests end: both take seconds.
const GRACE_SECONDS: i64 = 60;
/// For how long a member that is to stop serves on as if nothing were, while proxies take it out of the client Service. It hands its
/// leaders over itself, when it is told to stop.
const STOP_DELAY_SECONDS: i64 = 2;
/// For how long a member may read its disk before it answers: a start that is cut short begins anew.
const START_SECONDS: i32 = 3600;
/// Labels and annotations that begin with this are ours.
const RESERVED_DOMAIN: &str = "annulus.dev/";

/// The pod of a member.
pub fn pod(facts: &Facts, member: &MemberName) -> Pod {
    let template = &facts.spec.pod_template;
    let mut metadata = facts.member_metadata(member);
    metadata.owner_references = Some(vec![facts.owner()]);
    metadata.labels = Some(under_ours(&template.labels, facts.member_labels(&member.name)));
    let mut ours = metadata.annotations.unwrap_or_default();
    ours.insert(annotations::TEMPLATE.to_owned(), template::digest(facts));
    metadata.annotations = Some(under_ours(&template.annotations, ours));
    let secrets = template.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    Pod {
        metadata,
        spec: Some(PodSpec {
            hostname: Some(member.name.clone()),
            subdomain: Some(facts.members_service()),
            restart_policy: Some("Always".to_owned()),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(pod_security()),
            containers: vec![container(facts, member)],
            volumes: Some(vec![volume(member)]),
            affinity: Some(merged_affinity(facts)),
            topology_spread_constraints: Some(topology_spread(facts)),
            tolerations: unless_empty(tolerations(facts)),
            node_selector: Some(template.node_selector.clone()).filter(|labels| !labels.is_empty()),
            priority_class_name: template.priority_class_name.clone(),
            image_pull_secrets: unless_empty(secrets.collect()),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// Whether a variable of the environment is the operator's to set.
pub(super) fn is_reserved_variable(name: &str) -> bool {
    name.starts_with("ANNULUS_")
}

/// What the user gives, with ours over it, so that no selector and no step is led astray.
fn under_ours(given: &BTreeMap<String, String>, ours: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let given = given.iter().filter(|(key, _)| !key.starts_with(RESERVED_DOMAIN));
    let mut all: BTreeMap<String, String> = given.map(|(key, value)| (key.clone(), value.clone())).collect();
    all.extend(ours);
    all
}

fn container(facts: &Facts, member: &MemberName) -> Container {
    let port = |name: &str, number: i32| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(facts.image.clone()),
        image_pull_policy: facts.spec.image_pull_policy.map(PullPolicy::name).map(str::to_owned),
        command: Some(vec!["/annulus".to_owned(), "node".to_owned()]),
        env: Some(environment(facts, member)),
        ports: Some(vec![port("client", CLIENT_PORT), port("admin", ADMIN_PORT), port("peer", PEER_PORT)]),
        resources: facts.spec.resources.clone(),
        volume_mounts: Some(vec![VolumeMount {
            name: "data".to_owned(),
            mount_path: DATA.to_owned(),
            ..VolumeMount::default()
        }]),
        // A start that is under way takes connections and answers none, so an attempt lasts as long as its timeout.
        startup_probe: Some(probe("/healthz", 2, 2, START_SECONDS / 2)),
        // Restarting a member that is only slow makes it slower: a minute without an answer.
        liveness_probe: Some(probe("/healthz", 10, 5, 6)),
        readiness_probe: Some(probe("/readyz", 2, 2, 2)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: STOP_DELAY_SECONDS }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        security_context: Some(container_security()),
        // Why a member does not start stands in the pod's status, too.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// What the member is told about itself, its settings, and what else the user gives.
///
/// It listens on all addresses; where the kernel knows no IPv6, those of IPv4. Its zone it is told of later, through the store: which
/// node it runs on is not known yet.
fn environment(facts: &Facts, member: &MemberName) -> Vec<EnvVar> {
    let listen = |port: i32| format!("[::]:{port}");
    let reached = |port: i32| facts.address(&member.name, port);
    let about = [
        ("ANNULUS_NAME", member.name.clone()),
        ("ANNULUS_DATA", DATA.to_owned()),
        ("ANNULUS_CLIENT_LISTEN", listen(CLIENT_PORT)),
        ("ANNULUS_CLIENT_ADVERTISE", reached(CLIENT_PORT)),
        ("ANNULUS_ADMIN_LISTEN", listen(ADMIN_PORT)),
        ("ANNULUS_ADMIN_ADVERTISE", reached(ADMIN_PORT)),
        ("ANNULUS_PEER_LISTEN", listen(PEER_PORT)),
        ("ANNULUS_PEER_ADVERTISE", reached(PEER_PORT)),
        ("ANNULUS_ON_DAMAGE", "quarantine".to_owned()),
        ("ANNULUS_LOG_FORMAT", "json".to_owned()),
    ];
    let given = facts.spec.settings.variables();
    let ours = about.into_iter().chain(given).map(|(name, value)| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    });
    ours.chain(users_variables(&facts.spec.pod_template.env)).collect()
}

/// The user's variables without ours. Of two with one name the last counts, as it does in a pod; applying both would be refused.
fn users_variables(given: &[EnvVar]) -> impl Iterator<Item = EnvVar> {
    let last =
        |(index, variable): &(usize, &EnvVar)| given[index + 1..].iter().all(|later| later.name != variable.name);
    given
        .iter()
        .enumerate()
        .filter(last)
        .map(|(_, variable)| variable)
        .filter(|v| !is_reserved_variable(&v.name))
        .cloned()
}

fn volume(member: &MemberName) -> Volume {
    Volume {
        name: "data".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: member.name.clone(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// Asks at the port for the operator, which clients can't fill with connections.
fn probe(path: &str, period_seconds: i32, timeout_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(timeout_seconds),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // Going through all files of a large volume at every start would take minutes.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}
