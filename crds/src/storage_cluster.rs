//! `StorageCluster`: a store of members, each a pod with a volume of its own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Most members that a cluster may have.
pub const MAX_REPLICAS: i32 = 1000;

/// A store: members that hold its keys between them, each a pod with a volume of its own.
#[derive(CustomResource, KubeSchema, Deserialize, Serialize, Clone, Debug, PartialEq)]
#[kube(
    group = "annulus.dev",
    version = "v1alpha1",
    kind = "StorageCluster",
    plural = "storageclusters",
    shortname = "stc",
    category = "all",
    namespaced,
    status = "StorageClusterStatus",
    derive = "PartialEq",
    doc = "A distributed key-value store: members that hold its keys between them, each a pod with a volume of its own.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Members", type_ = "integer", json_path = ".spec.replicas", description = "How many members it should have"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "How many of them are in the ring and caught up"),
    printcolumn(name = "Ring", type_ = "string", json_path = ".status.ring", description = "Whether every key is where it should be"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.mapEpoch", description = "The version of the map of members"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase", description = "What the operator is doing"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Waits for", type_ = "string", json_path = ".status.plan.gate", description = "Why the next step has to wait", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.plan.message", description = "The same in words", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name has more than 40 characters: the names of members are made of it"),
    validation = Rule::new("!self.metadata.name.endsWith('-members')").message("metadata.name ends in -members: the Service of another cluster's members may have that name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name has to begin with a letter and may hold letters, digits and dashes: it becomes the name of a Service")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.replicationFactor <= self.replicas")
        .message("replicas is below replicationFactor: every key needs as many members as it has replicas; lower it no further than that"),
    validation = Rule::new("!has(oldSelf.storage) || self.storage.storageClassName == oldSelf.storage.storageClassName")
        .message("storage.storageClassName can't be changed: volumes stay in the class that they were made in"),
)]
pub struct StorageClusterSpec {
    /// How many members the store has. Raising and lowering it moves keys while the store serves.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
    /// On how many members each key is. A majority of them acknowledges every write: with 3, any one member may be lost.
    /// It can't be changed.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 7))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("replicationFactor can't be changed"))]
    #[x_kube(validation = Rule::new("self % 2 == 1").message("replicationFactor has to be odd: an even one costs a member and tolerates no more"))]
    pub replication_factor: i32,
    /// Into how many parts the keys are cut: a power of two, several times as many as there will ever be members.
    /// It can't be changed.
    #[serde(default = "partitions")]
    #[schemars(range(min = 1, max = 4096))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("partitions can't be changed"))]
    #[x_kube(validation = Rule::new("self in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]").message("partitions has to be a power of two from 1 to 4096"))]
    pub partitions: i32,
    /// The image that members run. If it is left out, they run the one that the operator names when the store is made, and neither a
    /// newer operator nor taking the field out again changes that. Another image rolls the members, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// The volumes of members.
    #[serde(default)]
    pub storage: Storage,
    /// What each member may use, and is sure to get. Without limits a member takes what its node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where members run relative to each other.
    #[serde(default)]
    pub topology: Topology,
    /// What else is to be in the members' pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
    /// Settings of members, as `annulus node` knows them.
    #[serde(default)]
    pub settings: Settings,
    /// What becomes of volumes that are not used any more.
    #[serde(default)]
    pub volume_retention: VolumeRetention,
    /// When a member that is gone is replaced by a new one.
    #[serde(default)]
    pub replacement: Replacement,
    /// Whether a NetworkPolicy is made. Then only pods of this namespace reach the members as clients, and only members and the operator
    /// reach their other ports: pods of other namespaces are kept out, Prometheus' among them.
    #[serde(default)]
    pub network_policy: NetworkPolicy,
    /// Whether this resource can't be deleted. With the admission policy of the operator's chart a deletion is refused at once; without
    /// it the cluster runs on, and is looked after, until this is false, and is deleted then.
    #[serde(default)]
    pub deletion_protection: bool,
    /// Whether the operator changes nothing, until it is false again. What is under way in the store goes on, and the status stays current.
    /// A deletion waits, too: nothing is stopped or deleted meanwhile, unless the whole namespace goes.
    #[serde(default)]
    pub paused: bool,
}

/// When an image is pulled.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Whenever a pod starts.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The volumes of members.
#[derive(KubeSchema, Deserialize, Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0")
        .message("storage.size can't shrink: volumes can only grow"),
    validation = Rule::new("quantity(self.size).compareTo(quantity('64Mi')) >= 0")
        .message("storage.size has to be 64Mi at least"),
    validation = Rule::new("quantity(self.size).compareTo(quantity('1Pi')) <= 0")
        .message("storage.size is more than 1Pi, and no volume is that large; it could not be set back"),
)]
pub struct Storage {
    /// How large each member's volume is, from 64Mi to 1Pi. It may grow, where the storage class allows that, and never shrinks: what was
    /// asked for once can't be taken back.
    #[serde(default = "ten_gibibytes")]
    #[schemars(schema_with = "schema::quantity")]
    pub size: String,
    /// The storage class of the volumes; empty: the cluster's default one. It can't be changed.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub storage_class_name: String,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: ten_gibibytes(), storage_class_name: String::new() }
    }
}

/// Where members run relative to each other.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// The label of nodes that tells their zone. Replicas of a key are in different zones as far as there are enough.
    #[serde(default = "zone_key")]
    #[schemars(length(min = 1, max = 253))]
    pub zone_key: String,
    /// Whether members have to be spread evenly over zones and nodes (Required: one that would make it uneven, or share a node, waits),
    /// or only as far as it goes (Preferred).
    #[serde(default)]
    pub spread: Spread,
}

impl Default for Topology {
    fn default() -> Self {
        Self { zone_key: zone_key(), spread: Spread::default() }
    }
}

/// How strictly members are spread.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// As far as it goes.
    #[default]
    Preferred,
    /// A member that would make it uneven, or share a node, waits.
    Required,
}

/// What else is to be in the members' pods. A change rolls the members, one after the other.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodTemplate {
    /// Labels of the pods, besides the operator's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, besides the operator's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Variables of the environment. Those that begin with ANNULUS_ are the operator's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env: Vec<EnvVar>,
    /// Labels of the nodes that members may run on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity, as a pod has it; the operator's own keeps members apart from each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub affinity: Option<serde_json::Value>,
    /// Taints of nodes that members tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// The priority class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Names of Secrets to pull the image with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<String>,
}

/// Settings of members. A change rolls the members, one after the other.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The largest value that is taken; 1MiB if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub max_value_bytes: Option<String>,
    /// How many connections of clients each member holds open; 4096 if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<i32>,
    /// How much memory each lane's cache of its file takes; 64MiB if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub cache_bytes: Option<String>,
    /// How many bytes of replicas each lane sends to other members in a second at most, such as 64MiB; 4GiB if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub max_move_rate: Option<String>,
    /// How long a replica waits for its leader before it asks for an election; 500ms if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub election_timeout: Option<String>,
    /// What is logged: error, warn, info, debug or trace, or directives such as info,annulus_node=debug.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub log_level: Option<String>,
}

impl Settings {
    /// Those that are given, as variables of a member's environment.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let Self { max_value_bytes, max_connections, cache_bytes, max_move_rate, election_timeout, log_level } = self;
        let all = [
            ("ANNULUS_LOG_LEVEL", log_level.clone()),
            ("ANNULUS_MAX_VALUE_BYTES", max_value_bytes.clone()),
            ("ANNULUS_MAX_CONNECTIONS", max_connections.map(|number| number.to_string())),
            ("ANNULUS_CACHE_BYTES", cache_bytes.clone()),
            ("ANNULUS_MAX_MOVE_RATE", max_move_rate.clone()),
            ("ANNULUS_ELECTION_TIMEOUT", election_timeout.clone()),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// What becomes of volumes that are not used any more.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeRetention {
    /// What becomes of the volume of a member that has left, and holds nothing any more. Delete: it is deleted. Retain: it stays, and no
    /// new member takes it over.
    pub when_scaled: WhenScaled,
    /// What becomes of the volumes when this resource is deleted. Retain: they stay, for you; a cluster that is made again under the
    /// same name is another store, and does not take them over. Delete: they are deleted, and what they held is gone.
    pub when_deleted: WhenDeleted,
}

/// What becomes of the volume of a member that has left.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenScaled {
    /// It is deleted.
    #[default]
    Delete,
    /// It stays.
    Retain,
}

/// What becomes of volumes when the cluster is deleted.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDeleted {
    /// They stay.
    #[default]
    Retain,
    /// They are deleted.
    Delete,
}

/// When a member that is gone is replaced by a new one.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Replacement {
    /// For how long the other members must not have heard of it. One that has not been in the store yet, and holds nothing, is given
    /// up when its node has been down for as long.
    #[schemars(range(min = 10, max = 604_800))]
    pub after_seconds: i32,
    /// How many may be replaced at once. 0: none is replaced by itself.
    #[schemars(range(min = 0, max = 100))]
    pub max_concurrent: i32,
}

impl Default for Replacement {
    fn default() -> Self {
        Self { after_seconds: 600, max_concurrent: 1 }
    }
}

/// Who may reach the members.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicy {
    /// Whether there is a policy at all.
    pub enabled: bool,
}

/// What the operator has seen, and what it is about to do.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageClusterStatus {
    /// The generation of the spec that this status is of.
    pub observed_generation: i64,
    /// What the operator is doing, in a word. Creating: there is no store yet. Running: there is nothing to do. Scaling: members join or
    /// leave. Moving: replicas go where they should be. Rolling: members are made anew, one after the other. Replacing: a member
    /// takes another's place. Mending: something that was missing is made. Waiting: plan.gate says what for. Failing: something
    /// could not be done; plan.message says what. Invalid: something in the spec does not take effect; the condition Progressing says
    /// what. Unreachable: nobody can tell the map. Paused. Deleting.
    pub phase: String,
    /// How many members there are.
    pub replicas: i32,
    /// How many of them are in the ring and caught up.
    pub ready_replicas: i32,
    /// The selector of the members' pods, for the scale subresource.
    pub selector: String,
    /// The identity of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The version of the map of members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_epoch: Option<i64>,
    /// Whether every key is where it should be: Balanced, Moving, or Unknown.
    pub ring: String,
    /// The image that members are to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The highest number that a member was made with.
    pub last_ordinal: i64,
    /// The members, by name.
    pub members: Vec<MemberStatus>,
    /// What is about to be done, and why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// The sidecars of applications that serve this store; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarsStatus>,
    /// Available: every partition has a quorum, and some member is ready. Progressing: something is being done. Degraded: some member
    /// is not ready. RingBalanced: every replica is where it should be. QuorumAtRisk: some partition has no quorum (QuorumLost), or
    /// can lose no further replica (NoneToSpare), as while a member of three is rolled; with one replica of everything that is
    /// always so, and it is False with reason SingleReplica. ScaleDownBlocked: somebody who should leave or be emptied can't, for
    /// want of disk space (DiskSpace) or of members (ReplicationFactor, DrainRefused),
    /// or since the store refuses it (QuorumAtRisk, StoreRefuses).
    pub conditions: Vec<Condition>,
}

/// The sidecars that operators put into pods.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarsStatus {
    /// How many pods have one, those that have ended aside.
    pub total: i32,
    /// How many of them are two minor versions or more behind the operator. A pod that is made anew gets the operator's own version.
    pub outdated: i32,
}

/// A member, as the operator sees it.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberStatus {
    /// Its name: that of its pod and its volume, too.
    pub name: String,
    /// Its identity in the store; empty while it is not known.
    pub id: String,
    /// The zone it runs in; empty while it is not known.
    pub zone: String,
    /// The node it runs on; empty while it has none.
    pub node: String,
    /// Creating, Joining, Active, Draining, Drained, Leaving, Unreachable, or Left.
    pub state: String,
    /// The version that it runs; empty while it is not known.
    pub version: String,
    /// Whether it is in the ring and caught up.
    pub ready: bool,
    /// How many replicas it holds.
    pub replicas: i64,
    /// How many partitions it leads.
    pub leaders: i64,
    /// What is wrong with it, and what to do; empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when its peers have not heard of it, in RFC 3339; absent while they do. Of one that has not been in the store yet: since
    /// when its node has been down without an answer from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unheard_since: Option<String>,
}

/// What is about to be done, and why it waits.
#[derive(JsonSchema, Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanStatus {
    /// The next step: Bootstrap, SetMembers, DrainMember, UndrainMember, RollMember, DiscardMember, StopMembers, Finish; empty: there is
    /// none, or it waits.
    pub step: String,
    /// The member that it is about; empty: none, or several.
    pub member: String,
    /// The gate that it waits for; empty: it does not wait. These pass by themselves: `PodsStopping` (pods have to end), `PodNotReady`
    /// (a pod is not there yet), `MemberSilent` (a member does not answer yet), `MovesUnderWay` (replicas are moved),
    /// `MemberNotReady`, `MemberBehind` (another member is not ready, or not heard by its peers). These wait for something to come
    /// back, or for you: `Paused`, `DeletionProtected`, `VolumeNotBound` (a claim has no volume), `NodeDown`, `HeldByOthers` (somebody's finalizer keeps a pod), `ForeignVolume` (a
    /// volume belongs to another store), `StoreUnreachable` (nobody can tell the map), `StoreLost` (all volumes are empty),
    /// `QuorumAtRisk` (a partition would lose its quorum), `MassFailure` (too many members are gone at once), `ReplacementBudget`
    /// (as many are being replaced as may be), `DiskSpace` (those that stay have no room), `DrainRefused` (too few would be left), `StoreRefuses` (the store does not do it; its words follow).
    pub gate: String,
    /// The same in words, with what to do.
    pub message: String,
    /// How many replicas are not where they should be.
    pub moves_left: i64,
    /// About how many bytes are still to be copied, to two digits.
    pub bytes_left: i64,
}

fn three() -> i32 {
    3
}

fn partitions() -> i32 {
    128
}

fn ten_gibibytes() -> String {
    "10Gi".to_owned()
}

fn zone_key() -> String {
    "topology.kubernetes.io/zone".to_owned()
}
