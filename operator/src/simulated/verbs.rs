//! What creating, changing and deleting an object means.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::apply::{self, Owner};
use super::error::Error;
use super::resources::{Key, Kind};
use super::rules;
use super::store::{Entry, Store};

/// The subresource `status`.
pub(super) const STATUS: &str = "status";

/// Who writes what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer<'a> {
    /// The field manager.
    pub(super) manager: &'a str,
    /// Which part of the object.
    pub(super) part: Part,
}

/// What of an object a write can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All but the status.
    Main,
    /// Only the status.
    Status,
    /// Everything, unchecked: only what plays the rest of the cluster writes so.
    All,
}

impl Part {
    fn subresource(self) -> Option<&'static str> {
        (self == Self::Status).then_some(STATUS)
    }
}

/// How an object is changed.
pub(super) enum Patch<'a> {
    /// By another one.
    Replace(&'a Value),
    /// By what is laid over it, lists as a whole.
    Merge(&'a Value),
    /// By what is laid over it, lists by their keys.
    Strategic(&'a Value),
    /// By steps.
    Json(&'a json_patch::Patch),
}

/// What has to hold for a delete, and how it goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Deletion {
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) grace_seconds: Option<i64>,
}

impl Store {
    pub(super) fn create(&mut self, kind: Kind, mut object: Value, writer: Writer<'_>) -> Result<Arc<Value>, Error> {
        if !text(&object, "resourceVersion").is_empty() {
            return Err(Error::BadRequest("resourceVersion should not be set on objects to be created".to_owned()));
        }
        let generate = text(&object, "generateName").to_owned();
        if text(&object, "name").is_empty() && !generate.is_empty() {
            object["metadata"]["name"] = json!(format!("{generate}{}", self.suffix()));
        }
        let key = Key::new(kind, text(&object, "namespace"), text(&object, "name"));
        rules::check_name(&key)?;
        if self.get(&key).is_some() {
            return Err(Error::already_exists(&key));
        }
        let object = self.newborn(&key, object, writer.part);
        let mut owners = Vec::new();
        let by = (writer.manager, writer.part.subresource());
        apply::updated(kind, &mut owners, by, (&json!({}), &object), &self.now());
        Ok(self.store_new(&key, object, owners))
    }

    fn newborn(&mut self, key: &Key, mut object: Value, part: Part) -> Value {
        strip_nulls(&mut object);
        let resource = key.kind.resource();
        object["apiVersion"] = json!(key.kind.api_version());
        object["kind"] = json!(resource.kind);
        let (uid, now) = (self.new_uid(), self.now());
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = object["metadata"].as_object_mut().expect("it was just made one");
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "generation", "selfLink"] {
            metadata.remove(field);
        }
        metadata.insert("name".to_owned(), json!(key.name));
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), json!(now));
        if resource.namespaced {
            metadata.insert("namespace".to_owned(), json!(key.namespace));
        }
        if resource.has_generation {
            metadata.insert("generation".to_owned(), json!(1));
        }
        if part != Part::All
            && resource.has_status
            && let Some(object) = object.as_object_mut()
        {
            object.remove(STATUS);
        }
        rules::admit(key, &mut object, self.version());
        if key.kind == Kind::claims() && object["spec"]["storageClassName"].is_null() {
            let is_default = |class: &Value| {
                class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
            };
            if let Some((class, _)) = self.list(Kind::classes(), None).iter().find(|(_, class)| is_default(class)) {
                object["spec"]["storageClassName"] = json!(class.name);
            }
        }
        object
    }

    fn store_new(&mut self, key: &Key, mut object: Value, owners: Vec<Owner>) -> Arc<Value> {
        object["metadata"]["managedFields"] = apply::managed_fields(key.kind, &owners);
        self.put(key, object, owners)
    }

    /// Changes an object by `patch`. `Ok` with the object as it was if nothing changed.
    pub(super) fn update(&mut self, key: &Key, patch: Patch<'_>, writer: Writer<'_>) -> Result<Arc<Value>, Error> {
        let Entry { object: old, mut owners } = self.entry(key)?.clone();
        let mut new = match patch {
            Patch::Replace(new) => new.clone(),
            Patch::Merge(patch) => {
                let mut new = Value::clone(&old);
                json_patch::merge(&mut new, patch);
                new
            }
            Patch::Strategic(patch) => {
                let mut new = Value::clone(&old);
                apply::merge(key.kind, &mut new, patch, true);
                new
            }
            Patch::Json(patch) => {
                let mut new = Value::clone(&old);
                patch_by_steps(&mut new, patch)
                    .map_err(|error| Error::invalid(key.kind, &key.name, error.to_string()))?;
                new
            }
        };
        check_identity(key, &old, &new)?;
        settle_parts(key, &old, &mut new, writer.part);
        if writer.part != Part::All {
            self.check(key, &old, &mut new)?;
        }
        let by = (writer.manager, writer.part.subresource());
        apply::updated(key.kind, &mut owners, by, (&old, &new), &self.now());
        self.store_changed(key, &old, new, owners)
    }

    /// Applies an object; makes it if there is none. The flag says whether it was made.
    pub(super) fn apply(
        &mut self,
        key: &Key,
        applied: &Value,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<(Arc<Value>, bool), Error> {
        let mut applied = applied.clone();
        if applied["metadata"].get("managedFields").is_some_and(|fields| fields != &json!([])) {
            return Err(Error::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        rules::check_name(key)?;
        strip_nulls(&mut applied);
        restrict(key, &mut applied, writer.part);
        let by = (writer.manager, writer.part.subresource());
        let Some(Entry { object: old, owners }) = self.entry(key).ok().cloned() else {
            if writer.part == Part::Status {
                return Err(Error::not_found(key));
            }
            if !text(&applied, "uid").is_empty() || !text(&applied, "resourceVersion").is_empty() {
                return Err(Error::conflict(key, "the object applied to is gone"));
            }
            let (merged, owners) = apply::applied(key.kind, &json!({}), &[], by, &applied, force, &self.now())
                .map_err(Error::ApplyConflict)?;
            let object = self.newborn(key, merged, writer.part);
            return Ok((self.store_new(key, object, owners), true));
        };
        check_identity(key, &old, &applied)?;
        let (mut new, owners) =
            apply::applied(key.kind, &old, &owners, by, &applied, force, &self.now()).map_err(Error::ApplyConflict)?;
        settle_parts(key, &old, &mut new, writer.part);
        self.check(key, &old, &mut new)?;
        Ok((self.store_changed(key, &old, new, owners)?, false))
    }

    fn check(&self, key: &Key, old: &Value, new: &mut Value) -> Result<(), Error> {
        rules::default(key, new);
        let class = new["spec"]["storageClassName"].as_str().map(|name| Key::new(Kind::classes(), "", name));
        let can_grow = class
            .and_then(|class| self.get(&class))
            .is_some_and(|class| class["allowVolumeExpansion"].as_bool() == Some(true));
        rules::check_change(key, old, new, can_grow)
    }

    fn store_changed(
        &mut self,
        key: &Key,
        old: &Arc<Value>,
        mut new: Value,
        owners: Vec<Owner>,
    ) -> Result<Arc<Value>, Error> {
        new["metadata"]["managedFields"] = apply::managed_fields(key.kind, &owners);
        if **old == new {
            return Ok(Arc::clone(old));
        }
        if key.kind.resource().has_generation && spec(old) != spec(&new) {
            raise_generation(&mut new);
        }
        if is_done(&new) {
            return self.take(key, Some(new));
        }
        Ok(self.put(key, new, owners))
    }

    /// Begins to delete an object. `Ok(None)`: it is gone; else it waits for its finalizers, or for the pod to end.
    pub(super) fn delete(&mut self, key: &Key, deletion: &Deletion) -> Result<Option<Arc<Value>>, Error> {
        let Entry { object: old, owners } = self.entry(key)?.clone();
        for (wanted, field) in [(&deletion.uid, "uid"), (&deletion.resource_version, "resourceVersion")] {
            if let Some(wanted) = wanted
                && wanted != text(&old, field)
            {
                let what = if field == "uid" { "UID" } else { "ResourceVersion" };
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {}",
                    text(&old, field)
                );
                return Err(Error::conflict(key, why));
            }
        }
        let grace = if key.kind == Kind::pods() { rules::pod_grace(&old, deletion.grace_seconds) } else { 0 };
        let mut new = Value::clone(&old);
        let under_way = !new["metadata"]["deletionTimestamp"].is_null();
        let left = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if under_way && grace >= left {
            return Ok(Some(old));
        }
        new["metadata"]["deletionTimestamp"] = json!(super::store::time_text(self.now_seconds() + grace));
        new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        if !under_way && key.kind.resource().has_generation {
            raise_generation(&mut new);
        }
        if is_done(&new) {
            self.take(key, Some(new))?;
            return Ok(None);
        }
        Ok(Some(self.put(key, new, owners)))
    }
}

/// The real server takes a test for `null` of what is not there as passed, and kube's finalizers rely on that.
fn patch_by_steps(object: &mut Value, patch: &json_patch::Patch) -> Result<(), json_patch::PatchError> {
    for step in &patch.0 {
        if let json_patch::PatchOperation::Test(test) = step
            && test.value.is_null()
            && object.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        json_patch::patch(object, std::slice::from_ref(step))?;
    }
    Ok(())
}

/// A deleted object goes when its last finalizer has, and a pod not before its node has ended it.
fn is_done(object: &Value) -> bool {
    let metadata = &object["metadata"];
    !metadata["deletionTimestamp"].is_null()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
}

fn raise_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    object["metadata"]["generation"] = json!(generation + 1);
}

/// A field of the metadata that is text; empty if it is not there.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// What generations are counted of.
fn spec(object: &Value) -> Map<String, Value> {
    let mut spec = object.as_object().cloned().unwrap_or_default();
    spec.remove("metadata");
    spec.remove(STATUS);
    spec
}

fn check_identity(key: &Key, old: &Value, new: &Value) -> Result<(), Error> {
    let (name, uid, version) = (text(new, "name"), text(new, "uid"), text(new, "resourceVersion"));
    if !name.is_empty() && name != key.name {
        return Err(Error::BadRequest(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        )));
    }
    if !uid.is_empty() && uid != text(old, "uid") {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", text(old, "uid"));
        return Err(Error::conflict(key, why));
    }
    if !version.is_empty() && version != text(old, "resourceVersion") {
        return Err(Error::modified(key));
    }
    Ok(())
}

/// Puts back what a write of `part` can't change.
fn settle_parts(key: &Key, old: &Value, new: &mut Value, part: Part) {
    if part == Part::Status {
        let status = new.get(STATUS).cloned();
        new.clone_from(old);
        put_or_remove(new, STATUS, status);
    } else if part == Part::Main && key.kind.resource().has_status {
        put_or_remove(new, STATUS, old.get(STATUS).cloned());
    }
    strip_nulls(new);
    if !new["metadata"].is_object() {
        new["metadata"] = json!({});
    }
    for field in ["apiVersion", "kind"] {
        put_or_remove(new, field, old.get(field).cloned());
    }
    const FIXED: [&str; 10] = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "managedFields",
    ];
    for field in FIXED {
        let was = old["metadata"].get(field).cloned();
        put_or_remove(&mut new["metadata"], field, was);
    }
}

fn put_or_remove(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value);
        }
        None => {
            map.remove(field);
        }
    }
}

/// Leaves of an applied object only what a write of `part` can change, so that the manager owns no more.
fn restrict(key: &Key, applied: &mut Value, part: Part) {
    let Some(map) = applied.as_object_mut() else { return };
    match part {
        Part::Status => {
            map.retain(|field, _| [STATUS, "metadata"].contains(&field.as_str()));
            if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|field, _| ["name", "namespace", "uid", "resourceVersion"].contains(&field.as_str()));
            }
        }
        Part::Main if key.kind.resource().has_status => {
            map.remove(STATUS);
        }
        Part::Main | Part::All => {}
    }
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, child| !child.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
