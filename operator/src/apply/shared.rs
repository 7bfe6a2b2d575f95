//! What a cluster has once: its services, its budget, its network policy. Server-side apply, and only where they differ.
//!
//! None of them holds data: one that can't be made what it should be is deleted and made anew.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Error, Hands, controller, failed, gone, of_uid};
use crate::caches::{Cache, Caches};
use crate::resources::budget::budget;
use crate::resources::network_policy::network_policy;
use crate::resources::{Facts, field_managers, services};

/// Makes them what they should be.
pub(super) async fn apply(hands: &Hands<'_>, facts: &Facts, pods: u32, evictable: u32) -> Result<(), Error> {
    let caches = hands.caches;
    // The budget first: it is what keeps others from evicting too many. None of them waits for another.
    let mut told = ensure(hands, facts, &caches.budgets, "PodDisruptionBudget", &budget(facts, pods, evictable)).await;
    for service in [services::members(facts), services::client(facts)] {
        told = told.and(ensure(hands, facts, &caches.services, "Service", &service).await);
    }
    let policy = match network_policy(facts) {
        Some(policy) => ensure(hands, facts, &caches.policies, "NetworkPolicy", &policy).await,
        None => drop_policy(hands, facts).await,
    };
    told.and(policy)
}

/// Whether they are what they should be, as far as the watches have seen.
pub fn are_there(caches: &Caches, facts: &Facts, pods: u32, evictable: u32) -> bool {
    let services = [services::members(facts), services::client(facts)];
    let policy = match network_policy(facts) {
        Some(policy) => is_there(&caches.policies, &policy),
        None => !has_policy(caches, facts),
    };
    policy
        && services.iter().all(|service| is_there(&caches.services, service))
        && is_there(&caches.budgets, &budget(facts, pods, evictable))
}

fn is_there<K>(cache: &Cache<K>, wanted: &K) -> bool
where
    K: Resource<DynamicType = ()> + Clone + Serialize,
{
    let json = |object: &K| serde_json::to_value(object).unwrap_or_default();
    let known = cache.get(&ObjectRef::new(&wanted.name_any()).within(&wanted.namespace().unwrap_or_default()));
    known.is_some_and(|known| is_within(&json(wanted), &json(&known)))
}

fn has_policy(caches: &Caches, facts: &Facts) -> bool {
    let known = caches.policies.get(&ObjectRef::new(&facts.name).within(&facts.namespace));
    known.is_some_and(|policy| policy.owner_references().iter().any(|owner| owner.uid == facts.uid))
}

async fn ensure<K>(
    hands: &Hands<'_>,
    facts: &Facts,
    cache: &Cache<K>,
    what: &'static str,
    wanted: &K,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    if is_there(cache, wanted) {
        return Ok(());
    }
    let (name, namespace) = (wanted.name_any(), wanted.namespace().unwrap_or_default());
    let api = Api::<K>::namespaced(hands.client.clone(), &namespace);
    // Applied by force, it would be ours from then on, whoever made it.
    let there = api.get_opt(&name).await.map_err(failed("read", what, &name))?;
    if let Some(there) = &there
        && !is_ours(facts, there)
    {
        let whose = match controller(there) {
            Some(owner) => format!("{} {} controls it", owner.kind, owner.name),
            None => format!("it has no owner reference to StorageCluster {} with UID {}", facts.name, facts.uid),
        };
        return Err(Error::NameTaken { what, name, namespace, whose });
    }
    let (parameters, patch) = (PatchParams::apply(field_managers::ACCESS).force(), Patch::Apply(wanted));
    match (api.patch(&name, &parameters, &patch).await, there.and_then(|there| there.uid())) {
        // What others have said of it goes together with nothing of ours, or it has what can't be changed.
        (Err(kube::Error::Api(status)), Some(uid)) if status.is_invalid() => {
            let error = &status.message;
            tracing::warn!(
                namespace,
                name,
                error,
                "this {what} can't be made what it should be; it holds no data, and is deleted and made anew"
            );
            gone(api.delete(&name, &of_uid(&uid)).await.map(drop), what, &name)?;
            api.patch(&name, &parameters, &patch).await
        }
        (applied, _) => applied,
    }
    .map(drop)
    .map_err(failed("applied", what, &name))
}

/// Whether an object is this cluster's: it says so, or we have made it, somebody took that off, and nobody else has claimed it.
fn is_ours<K: Resource>(facts: &Facts, there: &K) -> bool {
    if there.owner_references().iter().any(|owner| owner.uid == facts.uid) {
        return true;
    }
    let is_labelled = facts.labels().iter().all(|(key, value)| there.labels().get(key) == Some(value));
    let is_made = there.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(field_managers::ACCESS));
    is_labelled && is_made && controller(there).is_none()
}

async fn drop_policy(hands: &Hands<'_>, facts: &Facts) -> Result<(), Error> {
    if !has_policy(hands.caches, facts) {
        return Ok(());
    }
    let api = Api::<NetworkPolicy>::namespaced(hands.client.clone(), &facts.namespace);
    gone(api.delete(&facts.name, &DeleteParams::default()).await.map(drop), "NetworkPolicy", &facts.name)
}

/// Lists that several may have items in: an apply leaves those of others, so they are no difference. What a release of ours adds
/// to them no later one can take back by leaving it out.
const SHARED_LISTS: [&[&str]; 2] = [&["spec", "ports"], &["metadata", "ownerReferences"]];

/// Whether everything in `wanted` is so in `there`, which may say more: what the API server fills in, and what others add.
pub fn is_within(wanted: &Value, there: &Value) -> bool {
    is_within_at(&mut Vec::new(), wanted, there)
}

fn is_within_at<'a>(path: &mut Vec<&'a str>, wanted: &'a Value, there: &Value) -> bool {
    match (wanted, there) {
        (Value::Object(wanted), Value::Object(there)) => wanted.iter().all(|(key, value)| match there.get(key) {
            Some(other) => {
                path.push(key);
                let is_within = is_within_at(path, value, other);
                path.pop();
                is_within
            }
            None => value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty),
        }),
        (Value::Array(wanted), Value::Array(there)) if SHARED_LISTS.contains(&path.as_slice()) => {
            wanted.iter().all(|item| there.iter().any(|other| is_within_at(path, item, other)))
        }
        (Value::Array(wanted), Value::Array(there)) => {
            wanted.len() == there.len() && wanted.iter().zip(there).all(|(a, b)| is_within_at(path, a, b))
        }
        (wanted, there) => wanted == there,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::is_within;

    #[test]
    fn what_the_server_fills_in_is_no_difference_and_what_it_lacks_is_one() {
        let there = json!({"spec": {"ports": [{"port": 1, "protocol": "TCP"}], "type": "ClusterIP"}, "status": {}});
        assert!(is_within(&json!({"spec": {"ports": [{"port": 1}]}, "status": {"x": {}}}), &there));
        assert!(is_within(&json!({"spec": {"selector": null}}), &there));
        for wanted in [
            json!({"spec": {"ports": [{"port": 2}]}}),
            json!({"spec": {"ports": [{"port": 1}, {"port": 2}]}}),
            json!({"spec": {"ports": [{"port": 1, "protocol": "UDP"}]}}),
            json!({"spec": {"selector": {"a": "b"}}}),
        ] {
            assert!(!is_within(&wanted, &there), "{wanted}");
        }
    }

    #[test]
    fn what_others_add_is_no_difference_in_a_list_that_is_shared_and_is_one_in_any_other() {
        let there = json!([{"port": 2, "name": "theirs"}, {"port": 1, "name": "ours"}]);
        let wanted = json!([{"port": 1, "name": "ours"}]);
        assert!(is_within(&json!({"spec": {"ports": wanted}}), &json!({"spec": {"ports": there}})));
        let of_policy = |ports| json!({"spec": {"ingress": [{"ports": ports}]}});
        assert!(!is_within(&of_policy(wanted), &of_policy(there)));
    }
}
