//! What goes wrong on purpose.

use std::collections::BTreeMap;

use super::request::{Call, Verb};
use super::resources::Kind;

/// What a rule does to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with this HTTP status, and nothing is done.
    Refuse {
        /// The HTTP status.
        code: u16,
        /// The machine-readable reason, such as `InternalError` or `Conflict`.
        reason: &'static str,
    },
    /// The resource does not exist, as if its definition were missing.
    Missing,
    /// The connection closes before the request arrives.
    LoseRequest,
    /// The request is done, and the connection closes before the answer is sent.
    LoseAnswer,
    /// A read is served as things were this many writes ago. The real server does that only for reads that say they take any
    /// version (`resourceVersion=0`); `even_latest` does it to all.
    Stale {
        /// How many writes are missing.
        writes: u64,
        /// Whether reads of the latest version are served so, too.
        even_latest: bool,
    },
}

impl Fault {
    /// An error of the server's.
    pub fn internal_error() -> Self {
        Self::Refuse { code: 500, reason: "InternalError" }
    }

    /// A conflict that is none of this writer's doing.
    pub fn conflict() -> Self {
        Self::Refuse { code: 409, reason: "Conflict" }
    }

    /// A right that is missing.
    pub fn forbidden() -> Self {
        Self::Refuse { code: 403, reason: "Forbidden" }
    }

    /// Its name in counts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refuse { .. } => "refuse",
            Self::Missing => "missing",
            Self::LoseRequest => "lose-request",
            Self::LoseAnswer => "lose-answer",
            Self::Stale { .. } => "stale",
        }
    }
}

/// A fault, and the requests that it happens to.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    verbs: Vec<Verb>,
    kind: Option<Kind>,
    subresource: Option<String>,
    name: Option<String>,
    skipped: u64,
    times: Option<u64>,
    one_in: u64,
}

impl Rule {
    /// A fault of every request, until it is lifted.
    pub fn new(fault: Fault) -> Self {
        Self { fault, verbs: Vec::new(), kind: None, subresource: None, name: None, skipped: 0, times: None, one_in: 1 }
    }

    /// Only of requests with these verbs.
    #[must_use]
    pub fn verbs(mut self, verbs: &[Verb]) -> Self {
        self.verbs = verbs.to_vec();
        self
    }

    /// Only of writes.
    #[must_use]
    pub fn writes(self) -> Self {
        self.verbs(&[Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection])
    }

    /// Only of requests for this resource.
    #[must_use]
    pub fn of<K: kube::Resource<DynamicType = ()>>(mut self) -> Self {
        self.kind = Some(Kind::of::<K>());
        self
    }

    /// Only of requests for this subresource.
    #[must_use]
    pub fn subresource(mut self, name: &str) -> Self {
        self.subresource = Some(name.to_owned());
        self
    }

    /// Only of requests for objects of this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Not of the first so many.
    #[must_use]
    pub fn after(mut self, requests: u64) -> Self {
        self.skipped = requests;
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Of one request in so many, by the seed.
    #[must_use]
    pub fn one_in(mut self, requests: u64) -> Self {
        self.one_in = requests.max(1);
        self
    }

    fn matches(&self, call: &Call) -> bool {
        (self.verbs.is_empty() || self.verbs.contains(&call.verb))
            && self.kind.is_none_or(|kind| kind == call.kind)
            && self.name.as_ref().is_none_or(|name| *name == call.name)
            && self.subresource.as_ref().is_none_or(|name| Some(name) == call.subresource.as_ref())
            && match self.fault {
                Fault::Stale { even_latest, .. } => {
                    matches!(call.verb, Verb::Get | Verb::List)
                        && (even_latest || call.query.get("resourceVersion") == "0")
                }
                _ => true,
            }
    }
}

/// A rule that was given, to lift it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// The rules that hold, and how often each fault happened.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: BTreeMap<RuleId, Rule>,
    given: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(super) fn inject(&mut self, rule: Rule) -> RuleId {
        self.given += 1;
        let id = RuleId(self.given);
        self.rules.insert(id, rule);
        id
    }

    pub(super) fn lift(&mut self, id: RuleId) {
        self.rules.remove(&id);
    }

    pub(super) fn lift_all(&mut self) {
        self.rules.clear();
    }

    pub(super) fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    pub(super) fn counted(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// The fault of the oldest rule that matches. `random` gives the seed's next number.
    pub(super) fn strike(&mut self, call: &Call, mut random: impl FnMut() -> u64) -> Option<Fault> {
        let struck = self.rules.iter_mut().find_map(|(id, rule)| {
            if !rule.matches(call) || rule.times == Some(0) {
                return None;
            }
            if rule.skipped > 0 {
                rule.skipped -= 1;
                return None;
            }
            if rule.one_in > 1 && !random().is_multiple_of(rule.one_in) {
                return None;
            }
            rule.times = rule.times.map(|times| times - 1);
            Some((*id, rule.fault.clone(), rule.times == Some(0)))
        });
        let (id, fault, spent) = struck?;
        if spent {
            self.rules.remove(&id);
        }
        self.count(fault.name());
        Some(fault)
    }
}
