//! What the node counts, and how it is read: OpenMetrics text, for Prometheus.
//!
//! The metrics of the edge and of transactions stand here; other parts register theirs through [`Metrics::register`]. On the hot path nothing
//! looks a label up: each combination of labels is resolved once and then found by index.

use std::fmt;
use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// What the HTTP edge counts.
    pub http: HttpMetrics,
    /// What is counted of transactions.
    pub txns: TxnMetrics,
}

impl Metrics {
    /// The metrics of the edge and of transactions, and nothing else yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("annulus");
        let http = HttpMetrics::new(&mut registry);
        let txns = TxnMetrics::new(&mut registry);
        Self { registry: Mutex::new(registry), http, txns }
    }

    /// Lets another part of the node register its metrics; their names get the prefix `annulus_`.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All of them as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = String::with_capacity(16 * 1024);
        text::encode(&mut written, &registry)?;
        Ok(written)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// How many routes are told apart in the metrics.
pub const ROUTES: usize = 23;
/// The methods that are told apart in the metrics.
const METHODS: [&str; 6] = ["GET", "PUT", "DELETE", "HEAD", "POST", "other"];
/// The classes of statuses.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

/// What the HTTP edge counts.
#[derive(Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    resolved_requests: [[[OnceLock<Counter>; CLASSES.len()]; METHODS.len()]; ROUTES],
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    resolved_latency: [OnceLock<Histogram>; ROUTES],
    /// Bytes of request and answer bodies held now.
    pub bytes_in_flight: Gauge<i64, AtomicI64>,
    /// Connections open on the client port.
    pub client_connections: Gauge<i64, AtomicI64>,
    /// Connections open on the admin port.
    pub admin_connections: Gauge<i64, AtomicI64>,
    /// Requests that wait for a lock now.
    pub lock_waits: Gauge<i64, AtomicI64>,
    /// Connections turned away because too many were open.
    pub connections_refused: Counter,
}

impl HttpMetrics {
    fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            resolved_requests: Default::default(),
            latency: Family::new_with_constructor(latency_histogram),
            resolved_latency: Default::default(),
            bytes_in_flight: Gauge::default(),
            client_connections: Gauge::default(),
            admin_connections: Gauge::default(),
            lock_waits: Gauge::default(),
            connections_refused: Counter::default(),
        };
        let http = registry.sub_registry_with_prefix("http");
        http.register("requests", "Requests answered", metrics.requests.clone());
        http.register_with_unit(
            "request_duration",
            "From the head of a request to its answer",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        http.register("bytes_in_flight", "Bytes of bodies held now", metrics.bytes_in_flight.clone());
        http.register("client_connections", "Open connections to the client port", metrics.client_connections.clone());
        http.register("admin_connections", "Open connections to the admin port", metrics.admin_connections.clone());
        http.register("lock_waits", "Requests that wait for a lock now", metrics.lock_waits.clone());
        http.register("connections_refused", "Connections turned away", metrics.connections_refused.clone());
        metrics
    }

    /// Counts one answered request. `route` is its index and its name.
    pub fn observe(&self, route: (usize, &'static str), method: &http::Method, status: u16, took: Duration) {
        let (index, route) = route;
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status / 100).saturating_sub(2).min(CLASSES.len() - 1);
        self.resolved_requests[index][method][class]
            .get_or_init(|| {
                let labels = RequestLabels { route, method: METHODS[method], status: CLASSES[class] };
                self.requests.get_or_create(&labels).clone()
            })
            .inc();
        self.resolved_latency[index]
            .get_or_init(|| self.latency.get_or_create(&RouteLabels { route }).clone())
            .observe(took.as_secs_f64());
    }
}

/// How a transaction is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxnKind {
    /// All of it is in one partition.
    One,
    /// It is in several partitions.
    Several,
    /// It only reads, and holds nothing.
    Snapshot,
}

/// What comes of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxnOutcome {
    /// It is committed, and its conditions held.
    Committed,
    /// A condition did not hold.
    ConditionFailed,
    /// Others were in its way.
    Conflict,
    /// It was refused, or could not be carried out.
    Failed,
    /// That is not known.
    Unknown,
}

const TXN_KINDS: [&str; 3] = ["one", "several", "snapshot"];
const TXN_OUTCOMES: [&str; 5] = ["committed", "condition_failed", "conflict", "failed", "unknown"];

impl TxnOutcome {
    /// Its label.
    pub fn name(self) -> &'static str {
        TXN_OUTCOMES[self as usize]
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TxnLabels {
    outcome: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
}

/// What is counted of transactions.
#[derive(Debug)]
pub struct TxnMetrics {
    /// By kind and outcome.
    outcomes: [[Counter; TXN_OUTCOMES.len()]; TXN_KINDS.len()],
    /// By kind.
    durations: [Histogram; TXN_KINDS.len()],
    attempts: Histogram,
    recoveries: Family<DecisionLabels, Counter>,
}

impl TxnMetrics {
    fn new(registry: &mut Registry) -> Self {
        let outcomes = Family::<TxnLabels, Counter>::default();
        let durations = Family::<KindLabels, Histogram, fn() -> Histogram>::new_with_constructor(latency_histogram);
        let metrics = Self {
            outcomes: TXN_KINDS
                .map(|kind| TXN_OUTCOMES.map(|outcome| outcomes.get_or_create(&TxnLabels { outcome, kind }).clone())),
            durations: TXN_KINDS.map(|kind| durations.get_or_create(&KindLabels { kind }).clone()),
            attempts: Histogram::new([1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
            recoveries: Family::default(),
        };
        registry.register("txns", "Transactions answered", outcomes);
        let help = "From the beginning of a transaction to its answer";
        registry.register_with_unit("txn_duration", help, Unit::Seconds, durations);
        registry.register("txn_attempts", "Attempts that a transaction took", metrics.attempts.clone());
        let help = "Abandoned transactions that were brought to their end, or could not be (unknown)";
        registry.register("txn_recoveries", help, metrics.recoveries.clone());
        metrics
    }

    /// Counts one transaction. A snapshot makes no attempts.
    pub fn observe(&self, kind: TxnKind, outcome: TxnOutcome, attempts: u32, took: Duration) {
        self.outcomes[kind as usize][outcome as usize].inc();
        self.durations[kind as usize].observe(took.as_secs_f64());
        if attempts > 0 {
            self.attempts.observe(f64::from(attempts));
        }
    }

    /// Counts one abandoned transaction by what was decided.
    pub fn observe_recovery(&self, decision: &'static str) {
        self.recoveries.get_or_create(&DecisionLabels { decision }).inc();
    }
}

/// From 50 µs, which a read in memory takes, to the longest time that a request may wait.
fn latency_histogram() -> Histogram {
    Histogram::new([
        0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
        60.0,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_method_and_class_of_status() {
        let metrics = Metrics::new();
        let took = Duration::from_micros(70);
        metrics.http.observe((0, "kv"), &http::Method::GET, 204, took);
        metrics.http.observe((0, "kv"), &http::Method::GET, 200, took);
        metrics.http.observe((1, "list"), &http::Method::PATCH, 507, took);
        metrics.register(|registry| registry.register("lanes", "Lanes", Gauge::<i64>::default()));
        metrics.txns.observe(TxnKind::Several, TxnOutcome::Committed, 2, took);
        metrics.txns.observe(TxnKind::Snapshot, TxnOutcome::Conflict, 0, took);
        metrics.txns.observe_recovery("abort");
        let text = metrics.encode().unwrap();
        for line in [
            r#"annulus_txns_total{outcome="committed",kind="several"} 1"#,
            r#"annulus_txns_total{outcome="unknown",kind="one"} 0"#,
            r#"annulus_txn_duration_seconds_count{kind="snapshot"} 1"#,
            r#"annulus_txn_attempts_bucket{le="2.0"} 1"#,
            "annulus_txn_attempts_count 1",
            r#"annulus_txn_recoveries_total{decision="abort"} 1"#,
            r#"annulus_http_requests_total{route="kv",method="GET",status="2xx"} 2"#,
            r#"annulus_http_requests_total{route="list",method="other",status="5xx"} 1"#,
            r#"annulus_http_request_duration_seconds_bucket{le="0.0001",route="kv"} 2"#,
            "annulus_lanes 0",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line}\nin\n{text}");
        }
    }
}
