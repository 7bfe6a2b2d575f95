//! Metrics of lanes and links, read from their gauges when somebody asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::membership::About;
use crate::runtime::{LaneGauges, Links, Shared};

/// Reads the gauges of lanes and links.
#[derive(Debug)]
pub(super) struct NodeCollector {
    pub(super) shared: Arc<Shared>,
    pub(super) links: Links,
    pub(super) about: About,
}

type Figure = (&'static str, &'static str, fn(&LaneGauges) -> u64);

const GAUGES: [Figure; 11] = [
    ("lane_replicas", "Groups that this lane holds a replica of", |lane| lane.replicas.load(Ordering::Relaxed) as u64),
    ("lane_moves_in", "Groups whose replica in this lane is still to get what the others have", |lane| {
        lane.moves_in.load(Ordering::Relaxed) as u64
    }),
    (
        "lane_move_rate_bytes_per_second",
        "How fast snapshots may be sent now, by how long clients' writes take",
        |lane| lane.move_rate.load(Ordering::Relaxed),
    ),
    ("lane_leaders", "Groups that this lane leads", |lane| lane.leaders.load(Ordering::Relaxed) as u64),
    ("lane_settled", "Groups that have a leader and are not behind its term", |lane| {
        lane.settled.load(Ordering::Relaxed) as u64
    }),
    ("locks", "Locks that are held, of groups that this lane leads", |lane| lane.locks.load(Ordering::Relaxed)),
    ("lock_waiters", "How many wait for locks of groups that this lane leads", |lane| {
        lane.lock_waiters.load(Ordering::Relaxed)
    }),
    ("txns_open", "Transactions that are open in partitions that this lane leads", |lane| {
        lane.open_txns.load(Ordering::Relaxed)
    }),
    ("txns_oldest_open_seconds", "For how long the oldest of the open transactions has been", |lane| {
        lane.oldest_txn_seconds.load(Ordering::Relaxed)
    }),
    ("lane_overlay_bytes", "What the lane has applied since its last checkpoint began", |lane| {
        lane.overlay_bytes.load(Ordering::Relaxed) as u64
    }),
    (
        "lane_log_bytes",
        "Memory of log entries: what is not in the state yet, and what followers may still need",
        |lane| lane.log_bytes.load(Ordering::Relaxed) as u64,
    ),
];

const COUNTERS: [Figure; 4] = [
    ("lane_written_rounds", "Rounds that had something to make durable", |lane| {
        lane.written_rounds.load(Ordering::Relaxed)
    }),
    ("lane_syncs", "Syncs of the write-ahead log", |lane| lane.syncs.load(Ordering::Relaxed)),
    ("lane_snapshots_overtaken", "Snapshots begun anew because the log after them could not be kept", |lane| {
        lane.snapshots_overtaken.load(Ordering::Relaxed)
    }),
    ("lane_checkpoints", "Checkpoints that have become durable", |lane| lane.checkpoints.load(Ordering::Relaxed)),
];

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, read) in GAUGES {
            let kind = ConstGauge::new(0_i64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (lane, gauges) in self.shared.gauges.iter().enumerate() {
                let value = ConstGauge::new(i64::try_from(read(gauges)).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&[("lane", lane.to_string())])?)?;
            }
        }
        for (name, help, read) in COUNTERS {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (lane, gauges) in self.shared.gauges.iter().enumerate() {
                ConstCounter::new(read(gauges)).encode(family.encode_family(&[("lane", lane.to_string())])?)?;
            }
        }
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("link_up", "Whether the link to a member is up", None, kind)?;
        for (member, up) in self.links.states() {
            let labels = [("member", member.to_string())];
            ConstGauge::new(i64::from(up)).encode(family.encode_family(&labels)?)?;
        }
        self.encode_member(&mut encoder)
    }
}

impl NodeCollector {
    /// Who the member is, and the room that it has.
    fn encode_member(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = |value| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let kind = gauge(0_u64).metric_type();
        let labels = self.about.labels(self.shared.map().as_deref(), self.shared.member);
        let mut family = encoder.encode_descriptor("member", "This member, always 1", None, kind)?;
        gauge(1).encode(family.encode_family(&labels)?)?;
        let Some(disk) = self.about.disk() else { return Ok(()) };
        let figures = [
            ("disk_free", "Bytes that may still be written to the disk of the volume", disk.free_bytes),
            ("disk_total", "Bytes that the disk of the volume has in all", disk.total_bytes),
            ("data", "Bytes that the files of the volume take", disk.data_bytes),
        ];
        for (name, help, bytes) in figures {
            let figure = gauge(bytes);
            figure.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), kind)?)?;
        }
        Ok(())
    }
}
