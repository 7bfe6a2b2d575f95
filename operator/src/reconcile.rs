//! One round for one cluster: observe, plan, and where there is something to do observe anew and do it; then tell.

use std::sync::Arc;
use std::time::Duration;

use annulus_crds::{FINALIZER, StorageCluster, StorageClusterStatus};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::apply::{self, Hands};
use crate::caches::Caches;
use crate::metrics::Metrics;
use crate::model::Observed;
use crate::observe::{self, Defaults, Freshness, facts, observe};
use crate::plan::{Passes, Plan, plan, without};
use crate::resources::field_managers;
use crate::status::{said, status};
use crate::stores::Stores;
use crate::validate::Problem;

/// After something was done, what comes of it is looked at soon.
const SOON: Duration = Duration::from_millis(500);
/// While something is waited for.
const WAITING: Duration = Duration::from_secs(2);
/// While nothing is to be done. Changes of objects are heard of at once; this is for what only the store knows.
const QUIET: Duration = Duration::from_secs(10);

/// What every round needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What the watches have seen last.
    pub caches: Caches,
    /// The stores.
    pub stores: Arc<dyn Stores>,
    /// What clusters may fall back on.
    pub defaults: Defaults,
    /// Where events are published.
    pub recorder: Recorder,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The generation of the operator's lease.
    pub fence: u64,
}

/// Why a round could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster could not be observed.
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// Something was not done.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The status could not be written.
    #[error("the status of {name} can't be written")]
    Status {
        /// The cluster.
        name: String,
        /// Why not.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// Whether another operator has spoken in between, so that this one has to be quiet.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Apply(error) if error.is_fenced())
    }
}

/// What came of a round.
#[derive(Debug)]
pub struct Round {
    /// When the next one is due if nothing is heard before.
    pub again: Duration,
    /// What the status says now; `None`: the resource is gone.
    pub status: Option<StorageClusterStatus>,
    /// Whether anything was done.
    pub acted: bool,
}

/// One round for a cluster, as the watch has seen it last.
pub async fn reconcile(context: &Context, resource: &StorageCluster) -> Result<Round, Error> {
    let nothing = Round { again: QUIET, status: None, acted: false };
    if was_let_go(resource) {
        return Ok(nothing);
    }
    let (observed, problems) = look(context, resource, Freshness::Cached).await?;
    let planned = plan(&observed);
    let has_all = apply::has_all(&context.caches, &facts(&observed.cluster, resource), &observed, &planned);
    if planned.is_empty() && has_all && is_held(resource, &observed) {
        return tell(context, resource, &observed, &planned, &problems, None, false).await;
    }
    // Nothing is done by what may be old: the resource, its objects and the store are read now.
    let api = Api::<StorageCluster>::namespaced(context.client.clone(), &observed.cluster.namespace);
    let read = api.get_opt(&observed.cluster.name).await;
    let unreadable = |source| observe::Error::List {
        what: "the StorageCluster",
        namespace: observed.cluster.namespace.clone(),
        source: Box::new(source),
    };
    let Some(resource) = read.map_err(unreadable)?.filter(|now| now.uid() == resource.uid()) else {
        return Ok(nothing);
    };
    if was_let_go(&resource) {
        return Ok(nothing);
    }
    let (mut observed, problems) = look(context, &resource, Freshness::Live).await?;
    let mut planned = plan(&observed);
    let hands =
        Hands { client: &context.client, caches: &context.caches, stores: &*context.stores, fence: context.fence };
    let facts = facts(&observed.cluster, &resource);
    let mut done = apply::apply(&hands, &resource, &facts, &observed, &planned).await;
    while let Some(rest) = without_refused(&mut observed, &planned, &done) {
        done = apply::apply(&hands, &resource, &facts, &observed, &rest).await;
        planned = rest;
    }
    if done.is_ok()
        && let Some(step) = &planned.step
    {
        tracing::info!(
            namespace = observed.cluster.namespace,
            cluster = observed.cluster.name,
            step = step.name(),
            "{}",
            said(step)
        );
        publish(context, &resource, EventType::Normal, step.name(), said(step)).await;
        if matches!(step, crate::plan::Step::Finish) {
            return Ok(Round { again: QUIET, status: None, acted: true });
        }
    }
    let failure = done.as_ref().err().map(told);
    let is_new =
        |text: &&String| resource.status.as_ref().and_then(|it| it.plan.as_ref()).is_none_or(|it| it.message != **text);
    if done.as_ref().is_err_and(apply::Error::is_refusal)
        && let Some(text) = failure.as_ref().filter(is_new)
    {
        publish(context, &resource, EventType::Warning, "Refused", text.clone()).await;
    }
    let round = tell(context, &resource, &observed, &planned, &problems, failure.as_deref(), true).await;
    done?;
    round
}

/// What is left of a plan whose step the store has refused.
fn without_refused(observed: &mut Observed, planned: &Plan, done: &Result<(), apply::Error>) -> Option<Plan> {
    let (reason, message) = done.as_ref().err()?.refused_by_store()?;
    let step = planned.step.as_ref()?;
    tracing::info!(
        namespace = observed.cluster.namespace,
        cluster = observed.cluster.name,
        step = step.name(),
        reason,
        "the store refuses it: {message}"
    );
    without(observed, step, reason, message)
}

async fn look(
    context: &Context,
    resource: &StorageCluster,
    freshness: Freshness,
) -> Result<(Observed, Vec<Problem>), observe::Error> {
    observe(&context.client, &context.caches, &*context.stores, &context.defaults, resource, freshness).await
}

/// Whether the operator has done its part of a deletion. The resource may stay for somebody else's finalizer.
fn was_let_go(resource: &StorageCluster) -> bool {
    resource.metadata.deletion_timestamp.is_some() && !resource.finalizers().iter().any(|it| it == FINALIZER)
}

/// Whether the resource waits for the operator when it is deleted, or need not.
fn is_held(resource: &StorageCluster, observed: &Observed) -> bool {
    observed.cluster.deleting || observed.cluster.spec.paused || resource.finalizers().iter().any(|it| it == FINALIZER)
}

/// Writes the status if it says something new, and publishes what a person should see.
async fn tell(
    context: &Context,
    resource: &StorageCluster,
    observed: &Observed,
    planned: &Plan,
    problems: &[Problem],
    failure: Option<&str>,
    acted: bool,
) -> Result<Round, Error> {
    let before = resource.status.clone().unwrap_or_default();
    let now = status(observed, planned, problems, failure, &before);
    // Also where the status can't be written: whoever is woken by a metric is not to wait for that.
    let key = (observed.cluster.namespace.clone(), observed.cluster.name.clone());
    context.metrics.tell(&key, &now);
    context.metrics.tell_sidecars(&key, &observed.sidecars);
    if now != before {
        // Of what is to go nobody needs to hear that it is not there any more.
        if !observed.is_ending() {
            news(context, resource, &before, &now, planned, problems).await;
        }
        let name = resource.name_any();
        let api = Api::<StorageCluster>::namespaced(context.client.clone(), &observed.cluster.namespace);
        let applied = json!({
            "apiVersion": StorageCluster::api_version(&()), "kind": StorageCluster::kind(&()),
            "metadata": {"name": name}, "status": now,
        });
        let parameters = PatchParams::apply(field_managers::STATUS).force();
        let patched = api.patch_status(&name, &parameters, &Patch::Apply(applied)).await;
        patched.map_err(|source| Error::Status { name, source: Box::new(source) })?;
    }
    let again = match (acted && !planned.is_empty(), &planned.wait) {
        (true, _) => SOON,
        // Asked again at once it would say the same; what changes that is mostly heard of.
        (false, Some(_)) if !observed.refused.is_empty() => QUIET,
        (false, Some(_)) => WAITING,
        (false, None) => QUIET,
    };
    Ok(Round { again, status: Some(now), acted: acted && !planned.is_empty() })
}

/// Events for what is new in the status and wants a person's eye.
async fn news(
    context: &Context,
    resource: &StorageCluster,
    before: &StorageClusterStatus,
    now: &StorageClusterStatus,
    planned: &Plan,
    problems: &[Problem],
) {
    let text = |status: &StorageClusterStatus, kind: &str| {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind);
        found.map(|condition| (condition.status.clone(), condition.reason.clone(), condition.message.clone()))
    };
    if let Some(problem) = problems.first() {
        let message = format!("{}: {}", problem.field, problem.message);
        let is_known = before.conditions.iter().any(|condition| condition.message == message);
        if !is_known {
            publish(context, resource, EventType::Warning, "InvalidSpec", message).await;
        }
    }
    for (kind, bad) in [("Available", "False"), ("QuorumAtRisk", "True")] {
        let (was, is) = (text(before, kind), text(now, kind));
        let Some((status, reason, message)) = is else { continue };
        // What is only being made is not unavailable.
        if was.is_some_and(|(was, ..)| was != status) {
            let kind_of_event = if status == bad { EventType::Warning } else { EventType::Normal };
            publish(context, resource, kind_of_event, &reason, message).await;
        }
    }
    for member in now.members.iter().filter(|member| !member.message.is_empty()) {
        let is_known = before.members.iter().any(|known| known.message == member.message);
        if !is_known {
            publish(context, resource, EventType::Warning, "MemberInTrouble", member.message.clone()).await;
        }
    }
    let is_new = now.plan.as_ref().map(|plan| &plan.gate) != before.plan.as_ref().map(|plan| &plan.gate);
    if let Some(wait) = planned.wait.as_ref().filter(|wait| is_new && wait.gate.passes() == Passes::WithHelp) {
        publish(context, resource, EventType::Warning, wait.gate.name(), wait.message.clone()).await;
    }
}

async fn publish(context: &Context, resource: &StorageCluster, kind: EventType, reason: &str, note: String) {
    let note: String = note.chars().take(1000).collect();
    let event =
        Event { type_: kind, reason: reason.to_owned(), note: Some(note), action: reason.to_owned(), secondary: None };
    // An event is for people, and none is worth a failed round.
    if let Err(error) = context.recorder.publish(&event, &resource.object_ref(&())).await {
        tracing::debug!(%error, "an event could not be published");
    }
}

/// An error with what lies behind it, and what to do where that is known.
pub fn told(error: &apply::Error) -> String {
    let text = chain(error);
    let status = match error {
        apply::Error::Kubernetes { source, .. } => match &**source {
            kube::Error::Api(status) => Some(status),
            _ => None,
        },
        _ => None,
    };
    // Quotas and pod security refuse with 403, too, and say themselves what they want.
    let lacks_permission = status.is_some_and(|status| status.code == 403 && status.message.contains(" cannot "));
    if !lacks_permission {
        return text;
    }
    format!("{text}; the operator's role lacks that: install the chart annulus-operator of the operator's version")
}

/// An error with what lies behind it. Of what the API server says only its sentence: the rest of its answer is for programs.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let said = |error: &(dyn std::error::Error + 'static)| {
        let unboxed = error.downcast_ref::<Box<kube::Error>>().map(|error| &**error);
        match error.downcast_ref::<kube::Error>().or(unboxed) {
            Some(kube::Error::Api(status)) => (status.message.clone(), true),
            _ => (error.to_string(), false),
        }
    };
    let (mut text, mut is_last) = said(error);
    let mut source = error.source().filter(|_| !is_last);
    while let Some(cause) = source {
        let (cause_text, ends) = said(cause);
        is_last = ends;
        // Some errors say their cause themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source().filter(|_| !is_last);
    }
    text
}
