//! What a sidecar counts: OpenMetrics text, for Prometheus. On the hot path nothing looks a label up.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::route::{ROUTES, Route};

/// The media type of [`Metrics::encode`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The classes of statuses.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

/// The metrics of a sidecar.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    resolved_requests: [[OnceLock<Counter>; CLASSES.len()]; ROUTES],
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    resolved_latency: [OnceLock<Histogram>; ROUTES],
    /// Connections turned away because too many were open.
    pub(super) connections_refused: Counter,
    /// Renewals of single locks that brought nothing.
    pub(super) renewals_failed: Counter,
    seen: Seen,
}

/// What others count, taken over when it is read.
#[derive(Debug, Default)]
struct Seen {
    in_flight: Gauge<i64, AtomicI64>,
    lock_waits: Gauge<i64, AtomicI64>,
    connections: Gauge<i64, AtomicI64>,
    locks: Gauge<i64, AtomicI64>,
    lost: Counter<u64, AtomicU64>,
    retries: Counter<u64, AtomicU64>,
}

/// What others count, at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) in_flight: usize,
    pub(super) lock_waits: usize,
    pub(super) connections: usize,
    pub(super) locks: usize,
    pub(super) lost: u64,
    pub(super) retries: u64,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("annulus_sidecar");
        let (requests, seen) = (Family::default(), Seen::default());
        let latency = Family::new_with_constructor(histogram as fn() -> Histogram);
        let (connections_refused, renewals_failed) = (Counter::default(), Counter::default());
        registry.register("requests", "Requests answered", Clone::clone(&requests));
        let help = "From the head of a request to its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, latency.clone());
        registry.register("in_flight", "Requests on their way to the store now", seen.in_flight.clone());
        registry.register("lock_waits", "Requests that wait for a lock now", seen.lock_waits.clone());
        registry.register("connections", "Connections of the application now", seen.connections.clone());
        registry.register("connections_refused", "Connections turned away", connections_refused.clone());
        registry.register("retries", "Requests sent to the store once more", seen.retries.clone());
        registry.register("locks_held", "Locks that are kept now", seen.locks.clone());
        registry.register("locks_lost", "Locks that were lost", seen.lost.clone());
        registry.register("renewals_failed", "Renewals of locks that brought nothing", renewals_failed.clone());
        registry.register("build", "The sidecar's version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            registry,
            requests,
            resolved_requests: Default::default(),
            latency,
            resolved_latency: Default::default(),
            connections_refused,
            renewals_failed,
            seen,
        }
    }

    /// Counts one answered request.
    pub(super) fn observe(&self, route: Route, status: u16, took: Duration) {
        let (index, route) = (route as usize, route.name());
        let class = usize::from(status / 100).saturating_sub(2).min(CLASSES.len() - 1);
        self.resolved_requests[index][class]
            .get_or_init(|| self.requests.get_or_create(&RequestLabels { route, status: CLASSES[class] }).clone())
            .inc();
        self.resolved_latency[index]
            .get_or_init(|| self.latency.get_or_create(&RouteLabels { route }).clone())
            .observe(took.as_secs_f64());
    }

    /// All of them as OpenMetrics text.
    pub(super) fn encode(&self, counts: Counts) -> Result<String, fmt::Error> {
        let gauge = |gauge: &Gauge<i64, AtomicI64>, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.seen.in_flight, counts.in_flight);
        gauge(&self.seen.lock_waits, counts.lock_waits);
        gauge(&self.seen.connections, counts.connections);
        gauge(&self.seen.locks, counts.locks);
        self.seen.lost.inner().store(counts.lost, Ordering::Relaxed);
        self.seen.retries.inner().store(counts.retries, Ordering::Relaxed);
        let mut written = String::with_capacity(8 * 1024);
        text::encode(&mut written, &self.registry)?;
        Ok(written)
    }
}

/// From 50 µs to the longest time that a request may wait.
fn histogram() -> Histogram {
    Histogram::new([
        0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
        60.0,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_class_of_status_and_what_others_count_is_taken_over() {
        let metrics = Metrics::new();
        metrics.observe(Route::Key, 204, Duration::from_micros(70));
        metrics.observe(Route::Key, 200, Duration::from_micros(70));
        metrics.observe(Route::NewTxn, 507, Duration::from_micros(70));
        let counts = Counts { in_flight: 3, locks: 2, lost: 1, retries: 9, ..Counts::default() };
        let text = metrics.encode(counts).unwrap();
        for line in [
            r#"annulus_sidecar_requests_total{route="key",status="2xx"} 2"#,
            r#"annulus_sidecar_requests_total{route="new_txn",status="5xx"} 1"#,
            r#"annulus_sidecar_request_duration_seconds_bucket{le="0.0001",route="key"} 2"#,
            "annulus_sidecar_in_flight 3",
            "annulus_sidecar_locks_held 2",
            "annulus_sidecar_locks_lost_total 1",
            "annulus_sidecar_retries_total 9",
            concat!("annulus_sidecar_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# EOF",
        ] {
            assert!(text.contains(line), "{line}\nin\n{text}");
        }
    }
}
