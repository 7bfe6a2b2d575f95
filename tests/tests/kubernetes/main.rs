//! The whole of it on a real Kubernetes cluster: the charts, the operator, members in pods, and a load beside them that judges
//! what it is told.
//!
//! ```text
//!  test ─▶ helm ─────────────▶ operator ─▶ StorageClusters ─▶ pods, volumes ◀─┐
//!    ├──▶ kubectl ──▶ API server ◀─────────────┘                          puts and gets
//!    ├──▶ docker, or a command of yours ──▶ nodes: killed, frozen, cut off      │
//!    └──▶ through the API server: /progress, /reset, /stop ─▶ pod load ───────┘
//! ```
//!
//! - [`life`]: made, filled, grown, shrunk, turned back half-way, rolled, a volume lost; all of it under load.
//! - [`faults`]: nodes are killed, frozen, cut off, and gone for good.
//! - [`refusals`]: what the API server refuses, and what it says.
//! - [`broken`]: images, nodes and storage classes that are not there; neighbours, and what only looks like ours.
//! - [`deletion`]: what stays and what goes.
//! - [`sidecars`]: applications with the store on their localhost, whose locks end with their pods; [`injection`]: what becomes of pods
//!   that ask for a sidecar.
//! - [`crowd`]: many clusters, and what one operator takes for them.
//! - [`operators`]: the operator is upgraded, killed, doubled and uninstalled, and no member minds.
//!
//! `.ci/kubernetes` makes a kind cluster, brings everything there, and runs it; on a cluster of your own it is `just kubernetes`.
//! At least three nodes that take pods are needed for [`faults`]. The images are made by `charts/images`, `TAG=dev2 charts/images`
//! and `charts/images load`, and brought to the nodes by `kind load image-archive target/images/NAME.tar`.
//!
//! It runs when `ANNULUS_E2E=1`, on the cluster that `KUBECONFIG` names; where something is missing it is skipped aloud, and with
//! `CI=true` that is a failure. A cluster that is not on this machine is only used when `ANNULUS_E2E_SERVER` has its URL. Its nodes
//! need the images `annulus/node:dev`, `annulus/node:dev2` (the same under another tag), `annulus/operator:dev` and
//! `annulus/load:dev`. Where the nodes are not kind's, `ANNULUS_E2E_NODES` names a program that is called with `kill`, `start`,
//! `freeze`, `thaw`, `cut` or `heal` and the name of a node, with `empty`, a node and a folder, and with `crash`, a node, a pod's UID and words of a command line; without it [`faults`] is skipped.
//!
//! The tests run one at a time, each in a namespace of its own, which is deleted at its end.

mod application;
mod broken;
mod cluster;
mod command;
mod crowd;
mod deletion;
mod faults;
mod injection;
mod kubernetes;
mod life;
mod load;
mod nodes;
mod operators;
mod refusals;
mod scenario;
mod sidecars;
mod wait;
