//! Names by which pods ask for a sidecar, and by which those that have one are found.

/// On a pod: the StorageCluster of its namespace whose sidecar it gets; [`NEVER`]: none. As a label of a namespace: the same for all
/// of its pods that don't say.
pub const INJECT: &str = "annulus.dev/inject";
/// The value of [`INJECT`] by which a pod gets no sidecar.
pub const NEVER: &str = "false";
/// Label on a pod that has a sidecar: its StorageCluster.
pub const SIDECAR: &str = "annulus.dev/sidecar";
/// Annotation on a pod that has a sidecar: the version of the operator that put it there.
pub const VERSION: &str = "annulus.dev/sidecar-version";
/// Annotation on a pod: the port of 127.0.0.1 at which its containers find the store [default: [`DEFAULT_PORT`]].
pub const PORT: &str = "annulus.dev/sidecar-port";
/// Annotation on a pod: the port at which the sidecar answers probes and tells metrics [default: [`DEFAULT_STATUS_PORT`]].
pub const STATUS_PORT: &str = "annulus.dev/sidecar-status-port";
/// Annotation on a pod: the processor time that the sidecar is sure to get [default: [`DEFAULT_CPU`]].
pub const CPU: &str = "annulus.dev/sidecar-cpu";
/// Annotation on a pod: the processor time that the sidecar may use, as quotas of namespaces may want it [default: no limit].
pub const CPU_LIMIT: &str = "annulus.dev/sidecar-cpu-limit";
/// Annotation on a pod: the memory that the sidecar is sure to get and may use [default: [`DEFAULT_MEMORY`] and [`DEFAULT_MEMORY_LIMIT`]].
pub const MEMORY: &str = "annulus.dev/sidecar-memory";
/// Annotation on a pod: the image of its sidecar, where the operator allows that.
pub const IMAGE: &str = "annulus.dev/sidecar-image";
/// Everything that a pod may say of its sidecar.
pub const OPTIONS: [&str; 6] = [PORT, STATUS_PORT, CPU, CPU_LIMIT, MEMORY, IMAGE];
/// What all of [`OPTIONS`] begin with.
pub const PREFIX: &str = "annulus.dev/sidecar-";
/// The name of the sidecar's container, and of the volume that it keeps its locks in.
pub const CONTAINER: &str = "annulus-sidecar";
/// The port of 127.0.0.1 at which a sidecar serves if nothing else is said.
pub const DEFAULT_PORT: u16 = 7070;
/// The port at which a sidecar answers probes if nothing else is said.
pub const DEFAULT_STATUS_PORT: u16 = 7071;
/// The processor time that a sidecar is sure to get if nothing else is said.
pub const DEFAULT_CPU: &str = "10m";
/// The memory that it is sure to get if nothing else is said.
pub const DEFAULT_MEMORY: &str = "16Mi";
/// The memory that it may use if nothing else is said.
pub const DEFAULT_MEMORY_LIMIT: &str = "64Mi";
