//! Which paths there are, and which methods they take. `openapi.json` describes each; a test holds the two together.

use http::Method;

/// The port that a request came in on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// For clients.
    Client,
    /// For the operator.
    Admin,
}

/// What a path stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// One key.
    Key,
    /// The keys under a prefix.
    List,
    /// One lock.
    Lock,
    /// The lease of one lock.
    LockRenew,
    /// The locks under a prefix.
    Locks,
    /// The leases of many locks.
    Renewals,
    /// A transaction that is to happen.
    NewTxn,
    /// What became of one transaction.
    Txn,
    /// The transactions that are open.
    Txns,
    /// Members and assignments.
    Ring,
    /// Whether the process lives.
    Health,
    /// Whether the member can take requests.
    Ready,
    /// What it counts.
    Metrics,
    /// The description of all this.
    OpenApi,
    /// How the member is.
    AdminStatus,
    /// The beginning of a store.
    AdminBootstrap,
    /// Who the members are to be.
    AdminMembers,
    /// One member.
    AdminMember,
    /// Whether everything is to move away from a member.
    AdminDrain,
    /// What is about to happen to the ring.
    AdminPlan,
    /// What has happened to the map.
    AdminHistory,
    /// Whether this member leads anything.
    AdminEvict,
    /// Nothing.
    Unknown,
}

/// A route, its path as the description writes it, its methods, and the ports that have it. `HEAD` goes with `GET`.
pub(super) struct Entry {
    pub(super) route: Route,
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) methods: &'static str,
    ports: &'static [Port],
}

const CLIENT: &[Port] = &[Port::Client];
const ADMIN: &[Port] = &[Port::Admin];
const BOTH: &[Port] = &[Port::Client, Port::Admin];

/// All routes, in the order of [`Route`].
#[rustfmt::skip]
pub(super) const ROUTES: [Entry; 23] = [
    Entry { route: Route::Key, name: "key", path: "/v1/kv/{key}", methods: "GET, HEAD, PUT, DELETE", ports: CLIENT },
    Entry { route: Route::List, name: "list", path: "/v1/kv", methods: "GET, HEAD", ports: CLIENT },
    Entry { route: Route::Lock, name: "lock", path: "/v1/locks/{name}", methods: "GET, HEAD, POST, DELETE", ports: CLIENT },
    Entry { route: Route::LockRenew, name: "lock_renew", path: "/v1/locks/{name}/renew", methods: "POST", ports: CLIENT },
    Entry { route: Route::Locks, name: "locks", path: "/v1/locks", methods: "GET, HEAD", ports: CLIENT },
    Entry { route: Route::Renewals, name: "renewals", path: "/v1/renewals", methods: "POST", ports: CLIENT },
    Entry { route: Route::NewTxn, name: "new_txn", path: "/v1/txn", methods: "POST", ports: CLIENT },
    Entry { route: Route::Txn, name: "txn", path: "/v1/txn/{id}", methods: "GET, HEAD", ports: CLIENT },
    Entry { route: Route::Txns, name: "txns", path: "/v1/txns", methods: "GET, HEAD", ports: CLIENT },
    Entry { route: Route::Ring, name: "ring", path: "/v1/ring", methods: "GET, HEAD", ports: CLIENT },
    Entry { route: Route::Health, name: "health", path: "/healthz", methods: "GET, HEAD", ports: BOTH },
    Entry { route: Route::Ready, name: "ready", path: "/readyz", methods: "GET, HEAD", ports: BOTH },
    Entry { route: Route::Metrics, name: "metrics", path: "/metrics", methods: "GET, HEAD", ports: BOTH },
    Entry { route: Route::OpenApi, name: "openapi", path: "/openapi.json", methods: "GET, HEAD", ports: BOTH },
    Entry { route: Route::AdminStatus, name: "admin_status", path: "/admin/v1/status", methods: "GET, HEAD", ports: ADMIN },
    Entry { route: Route::AdminBootstrap, name: "admin_bootstrap", path: "/admin/v1/bootstrap", methods: "POST", ports: ADMIN },
    Entry { route: Route::AdminMembers, name: "admin_members", path: "/admin/v1/members", methods: "PUT", ports: ADMIN },
    Entry { route: Route::AdminMember, name: "admin_member", path: "/admin/v1/members/{id}", methods: "DELETE", ports: ADMIN },
    Entry { route: Route::AdminDrain, name: "admin_drain", path: "/admin/v1/members/{id}/drain", methods: "POST, DELETE", ports: ADMIN },
    Entry { route: Route::AdminPlan, name: "admin_plan", path: "/admin/v1/plan", methods: "GET, HEAD", ports: ADMIN },
    Entry { route: Route::AdminHistory, name: "admin_history", path: "/admin/v1/history", methods: "GET, HEAD", ports: ADMIN },
    Entry { route: Route::AdminEvict, name: "admin_evict", path: "/admin/v1/leaders/evict", methods: "POST, DELETE", ports: ADMIN },
    Entry { route: Route::Unknown, name: "unknown", path: "", methods: "", ports: &[] },
];

impl Route {
    /// What a path stands for on this port.
    pub(super) fn of(port: Port, path: &str) -> Self {
        if path.starts_with(KEY_PREFIX) {
            return if port == Port::Client { Self::Key } else { Self::Unknown };
        }
        // A lock or a transaction whose name is missing, which says more than that there is nothing here.
        if path == LOCK_PREFIX && port == Port::Client {
            return Self::Lock;
        }
        if path == TXN_PREFIX && port == Port::Client {
            return Self::Txn;
        }
        let entry = ROUTES.iter().find(|entry| entry.ports.contains(&port) && segment(entry.path, path).is_some());
        entry.map_or(Self::Unknown, |entry| entry.route)
    }

    /// What stands in a path of this route for the one segment that is a parameter, as it was sent; empty for a route
    /// without one.
    pub(super) fn parameter(self, path: &str) -> &str {
        segment(self.entry().path, path).unwrap_or("")
    }

    /// Its row in the table.
    pub(super) fn entry(self) -> &'static Entry {
        &ROUTES[self as usize]
    }

    /// Whether it takes this method.
    pub(super) fn takes(self, method: &Method) -> bool {
        self.entry().methods.split(", ").any(|name| name == method.as_str())
    }

    /// Whether its answers carry the epoch of the map.
    pub(super) fn is_v1(self) -> bool {
        let is_of_locks = matches!(self, Self::Lock | Self::LockRenew | Self::Locks | Self::Renewals);
        let is_of_txns = matches!(self, Self::NewTxn | Self::Txn | Self::Txns);
        is_of_locks || is_of_txns || matches!(self, Self::Key | Self::List | Self::Ring)
    }
}

/// The segment of `path` that stands where `pattern` says `{…}`, or an empty one if it says that nowhere. `None` if the
/// path is not of this pattern.
fn segment<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else { return (pattern == path).then_some("") };
    let (_, after) = rest.split_once('}')?;
    let segment = path.strip_prefix(before)?.strip_suffix(after)?;
    (!segment.is_empty() && !segment.contains('/')).then_some(segment)
}

/// What comes before a key in a path.
pub(super) const KEY_PREFIX: &str = "/v1/kv/";
/// What comes before the name of a lock in a path.
pub(super) const LOCK_PREFIX: &str = "/v1/locks/";
/// What comes before the id of a transaction in a path.
const TXN_PREFIX: &str = "/v1/txn/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_found_on_its_port_only() {
        assert_eq!(Route::of(Port::Client, "/v1/kv"), Route::List);
        assert_eq!(Route::of(Port::Client, "/v1/kv/"), Route::Key);
        assert_eq!(Route::of(Port::Client, "/v1/kv/a/../b"), Route::Key);
        assert_eq!(Route::of(Port::Admin, "/v1/kv/a"), Route::Unknown);
        assert_eq!(Route::of(Port::Client, "/admin/v1/status"), Route::Unknown);
        assert_eq!(Route::of(Port::Admin, "/healthz"), Route::Health);
        for path in ["", "*", "/", "//v1/kv/a", "/v1/kv2", "/v1/ring/", "/V1/ring", "/v1/kv/{key}x"] {
            let expected = if path.starts_with(KEY_PREFIX) { Route::Key } else { Route::Unknown };
            assert_eq!(Route::of(Port::Client, path), expected, "{path}");
        }
    }

    #[test]
    fn a_parameter_is_one_segment_that_is_not_empty() {
        for (path, route, parameter) in [
            ("/admin/v1/members", Route::AdminMembers, ""),
            ("/admin/v1/members/node-1", Route::AdminMember, "node-1"),
            ("/admin/v1/members/drain", Route::AdminMember, "drain"),
            ("/admin/v1/members/a%2Fdrain", Route::AdminMember, "a%2Fdrain"),
            ("/admin/v1/members/{id}/drain", Route::AdminDrain, "{id}"),
            ("/admin/v1/members/drain/drain", Route::AdminDrain, "drain"),
            ("/admin/v1/members/", Route::Unknown, ""),
            ("/admin/v1/members//drain", Route::Unknown, ""),
            ("/admin/v1/members/a/b/drain", Route::Unknown, ""),
            ("/admin/v1/members/a/", Route::Unknown, ""),
            ("/admin/v1/members/a/drain/", Route::Unknown, ""),
        ] {
            let found = Route::of(Port::Admin, path);
            assert_eq!((found, found.parameter(path)), (route, parameter), "{path}");
            assert_eq!(Route::of(Port::Client, path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn the_name_of_a_lock_is_one_segment_and_an_empty_one_is_still_a_locks() {
        for (path, route, parameter) in [
            ("/v1/locks", Route::Locks, ""),
            ("/v1/locks/", Route::Lock, ""),
            ("/v1/locks/a%2Frenew", Route::Lock, "a%2Frenew"),
            ("/v1/locks/renew", Route::Lock, "renew"),
            ("/v1/locks/renew/renew", Route::LockRenew, "renew"),
            ("/v1/locks//renew", Route::Unknown, ""),
            ("/v1/locks/a/b", Route::Unknown, ""),
            ("/v1/renewals", Route::Renewals, ""),
            ("/v1/renewals/", Route::Unknown, ""),
        ] {
            let found = Route::of(Port::Client, path);
            assert_eq!((found, found.parameter(path)), (route, parameter), "{path}");
            assert_eq!(Route::of(Port::Admin, path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn the_id_of_a_transaction_is_one_segment() {
        for (path, route, parameter) in [
            ("/v1/txn", Route::NewTxn, ""),
            ("/v1/txn/", Route::Txn, ""),
            ("/v1/txn/~1", Route::Txn, "~1"),
            ("/v1/txns", Route::Txns, ""),
            ("/v1/txns/", Route::Unknown, ""),
            ("/v1/txn/a/b", Route::Unknown, ""),
        ] {
            let found = Route::of(Port::Client, path);
            assert_eq!((found, found.parameter(path)), (route, parameter), "{path}");
            assert_eq!(Route::of(Port::Admin, path), Route::Unknown, "{path}");
            assert!(route == Route::Unknown || route.is_v1());
        }
    }

    #[test]
    fn the_table_stands_in_the_order_of_the_routes() {
        for (at, entry) in ROUTES.iter().enumerate() {
            assert_eq!(entry.route as usize, at);
        }
        assert_eq!(ROUTES.len(), crate::metrics::ROUTES);
    }

    #[test]
    fn a_route_takes_the_methods_of_its_row() {
        assert!(Route::Key.takes(&Method::DELETE) && !Route::Key.takes(&Method::POST));
        assert!(Route::AdminBootstrap.takes(&Method::POST) && !Route::AdminBootstrap.takes(&Method::GET));
        assert!(!Route::Unknown.takes(&Method::GET));
    }
}
