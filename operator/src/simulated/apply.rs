//! Who owns which field: what server-side apply is made of.
//!
//! A field is named by its path, whose parts are written as in `metadata.managedFields`: `f:name` is a field, `k:{…}` the
//! item of a list that has these keys, `v:…` the item of a set. Lists without keys, and selectors, are owned as a whole.
//!
//! Source of the rules: <https://kubernetes.io/docs/reference/using-api/server-side-apply/> and `structured-merge-diff`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::resources::Kind;

/// The path of a field.
pub(super) type Path = Vec<String>;
/// Fields.
pub(super) type Fields = BTreeSet<Path>;

/// How a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// It applied them.
    Apply,
    /// It wrote them otherwise.
    Update,
}

/// A manager and the fields that it owns.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) subresource: Option<String>,
    pub(super) fields: Fields,
    pub(super) time: String,
}

impl Owner {
    pub(super) fn is(&self, manager: &str, operation: Operation, subresource: Option<&str>) -> bool {
        self.manager == manager && self.operation == operation && self.subresource.as_deref() == subresource
    }

    fn entry(&self, kind: Kind) -> Value {
        let mut fields = Value::Object(Map::new());
        for path in &self.fields {
            let mut at = &mut fields;
            for part in path {
                at = at
                    .as_object_mut()
                    .expect("made of objects only")
                    .entry(part.as_str())
                    .or_insert_with(|| Value::Object(Map::new()));
            }
        }
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let mut entry = json!({
            "manager": self.manager, "operation": operation, "apiVersion": kind.api_version(), "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": fields,
        });
        if let Some(subresource) = &self.subresource {
            entry["subresource"] = json!(subresource);
        }
        entry
    }
}

/// What stands in `metadata.managedFields`.
pub(super) fn managed_fields(kind: Kind, owners: &[Owner]) -> Value {
    owners.iter().filter(|owner| !owner.fields.is_empty()).map(|owner| owner.entry(kind)).collect()
}

/// How a list is merged.
enum List {
    Atomic,
    Set,
    Keyed(&'static [&'static str]),
}

/// Metadata is alike everywhere; lists of a custom resource's own have no keys, for its schema names none.
fn list(kind: Kind, field: &str, in_metadata: bool) -> List {
    match field {
        "ownerReferences" if in_metadata => List::Keyed(&["uid"]),
        "finalizers" if in_metadata => List::Set,
        _ if in_metadata || kind.resource().custom => List::Atomic,
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets" => {
            List::Keyed(&["name"])
        }
        "ports" if kind == Kind::pods() => List::Keyed(&["containerPort", "protocol"]),
        "ports" if kind == Kind::services() => List::Keyed(&["port", "protocol"]),
        "volumeMounts" => List::Keyed(&["mountPath"]),
        "volumeDevices" => List::Keyed(&["devicePath"]),
        "topologySpreadConstraints" => List::Keyed(&["topologyKey", "whenUnsatisfiable"]),
        "conditions" | "addresses" => List::Keyed(&["type"]),
        "hostAliases" | "podIPs" | "hostIPs" => List::Keyed(&["ip"]),
        _ => List::Atomic,
    }
}

fn is_atomic_map(field: &str) -> bool {
    const ATOMIC: [&str; 9] = [
        "selector",
        "nodeSelector",
        "labelSelector",
        "podSelector",
        "namespaceSelector",
        "fieldRef",
        "resourceFieldRef",
        "secretKeyRef",
        "configMapKeyRef",
    ];
    ATOMIC.contains(&field)
}

/// An atomic map of a custom resource would need a schema that says so, and ours has none.
fn is_atomic(kind: Kind, field: &str) -> bool {
    !kind.resource().custom && is_atomic_map(field)
}

fn key_part(item: &Value, keys: &[&str]) -> String {
    let mut found = Map::new();
    for key in keys {
        let value = match item.get(key) {
            Some(value) => value.clone(),
            // The one key that has a default.
            None if *key == "protocol" => json!("TCP"),
            None => continue,
        };
        found.insert((*key).to_owned(), value);
    }
    format!("k:{}", Value::Object(found))
}

fn same_item(item: &Value, part: &str, keys: &[&str]) -> bool {
    key_part(item, keys) == part
}

/// Whether an item of a set is the one that a path names.
fn is_member(item: &Value, text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|named| named == *item)
}

/// What the server itself keeps, and nobody owns.
fn is_servers(path: &[String]) -> bool {
    const METADATA: [&str; 10] = [
        "f:name",
        "f:namespace",
        "f:uid",
        "f:resourceVersion",
        "f:generation",
        "f:creationTimestamp",
        "f:deletionTimestamp",
        "f:deletionGracePeriodSeconds",
        "f:managedFields",
        "f:generateName",
    ];
    match path {
        [top] => top == "f:apiVersion" || top == "f:kind",
        [top, field] => top == "f:metadata" && METADATA.contains(&field.as_str()),
        _ => false,
    }
}

/// All fields of an object that can be owned.
pub(super) fn fields(kind: Kind, object: &Value) -> Fields {
    let mut fields = Fields::new();
    collect(kind, object, &mut Path::new(), &mut fields);
    fields
}

fn collect(kind: Kind, value: &Value, path: &mut Path, fields: &mut Fields) {
    if is_servers(path) {
        return;
    }
    let field = path.last().and_then(|part| part.strip_prefix("f:")).unwrap_or_default();
    match value {
        Value::Null => {}
        Value::Object(map) if !map.is_empty() && !is_atomic(kind, field) => {
            for (name, child) in map {
                path.push(format!("f:{name}"));
                collect(kind, child, path, fields);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let how = list(kind, field, path.first().is_some_and(|top| top == "f:metadata"));
            for item in items {
                let part = match how {
                    List::Atomic => break,
                    List::Set => format!("v:{item}"),
                    List::Keyed(keys) => key_part(item, keys),
                };
                path.push(part);
                fields.insert(path.clone());
                if matches!(how, List::Keyed(_)) {
                    collect(kind, item, path, fields);
                }
                path.pop();
            }
            if matches!(how, List::Atomic) {
                fields.insert(path.clone());
            }
        }
        // The object itself is nobody's.
        _ if path.is_empty() => {}
        _ => {
            fields.insert(path.clone());
        }
    }
}

/// The value of a field.
pub(super) fn value<'a>(kind: Kind, object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = object;
    for (depth, part) in path.iter().enumerate() {
        at = match part.split_at(2) {
            ("f:", name) => at.get(name)?,
            ("v:", text) => at.as_array()?.iter().find(|item| is_member(item, text))?,
            _ => {
                let List::Keyed(keys) = list_at(kind, path, depth) else { return None };
                at.as_array()?.iter().find(|item| same_item(item, part, keys))?
            }
        };
    }
    Some(at)
}

fn list_at(kind: Kind, path: &[String], depth: usize) -> List {
    let field = depth.checked_sub(1).and_then(|above| path[above].strip_prefix("f:")).unwrap_or_default();
    list(kind, field, path[0] == "f:metadata")
}

/// Takes fields away, and what holds nothing after that.
pub(super) fn remove(kind: Kind, object: &mut Value, path: &[String], depth: usize) {
    let Some(part) = path.get(depth) else { return };
    let last = depth + 1 == path.len();
    let is_empty =
        |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    if let Some(name) = part.strip_prefix("f:") {
        let Some(map) = object.as_object_mut() else { return };
        if !last && let Some(child) = map.get_mut(name) {
            remove(kind, child, path, depth + 1);
        }
        if last || map.get(name).is_some_and(is_empty) {
            map.remove(name);
        }
        return;
    }
    let how = list_at(kind, path, depth);
    let Some(items) = object.as_array_mut() else { return };
    let found = items.iter().position(|item| match how {
        List::Set => part.strip_prefix("v:").is_some_and(|text| is_member(item, text)),
        List::Keyed(keys) => same_item(item, part, keys),
        List::Atomic => false,
    });
    let Some(found) = found else { return };
    if last {
        items.remove(found);
    } else {
        remove(kind, &mut items[found], path, depth + 1);
    }
}

/// Lays `applied` over `live`. With `null_removes` it is a strategic merge patch, without `$` directives.
pub(super) fn merge(kind: Kind, live: &mut Value, applied: &Value, null_removes: bool) {
    merge_at(kind, live, applied, "", false, null_removes);
}

fn merge_at(kind: Kind, live: &mut Value, applied: &Value, field: &str, in_metadata: bool, null_removes: bool) {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) if null_removes || !is_atomic(kind, field) => {
            for (name, value) in applied {
                if value.is_null() {
                    if null_removes {
                        live.remove(name);
                    }
                    continue;
                }
                let in_metadata = in_metadata || (field.is_empty() && name == "metadata");
                match live.get_mut(name) {
                    Some(old) => merge_at(kind, old, value, name, in_metadata, null_removes),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(live), Value::Array(applied)) => match list(kind, field, in_metadata) {
            List::Atomic => live.clone_from(applied),
            List::Set => {
                for item in applied {
                    if !live.contains(item) {
                        live.push(item.clone());
                    }
                }
            }
            List::Keyed(keys) => {
                for item in applied {
                    let part = key_part(item, keys);
                    match live.iter_mut().find(|old| same_item(old, &part, keys)) {
                        Some(old) => merge_at(kind, old, item, "item", in_metadata, null_removes),
                        None => live.push(item.clone()),
                    }
                }
            }
        },
        (live, applied) => *live = applied.clone(),
    }
}

/// Gives `manager` the fields that a write changed, and takes those that are gone from everybody.
pub(super) fn updated(
    kind: Kind,
    owners: &mut Vec<Owner>,
    (manager, subresource): (&str, Option<&str>),
    (old, new): (&Value, &Value),
    now: &str,
) {
    let (before, after) = (fields(kind, old), fields(kind, new));
    let is_item = |path: &Path| path.last().is_some_and(|part| !part.starts_with("f:"));
    let changed: Fields = after
        .iter()
        .filter(|path| !before.contains(*path) || (!is_item(path) && value(kind, old, path) != value(kind, new, path)))
        .cloned()
        .collect();
    let mut found = false;
    for owner in owners.iter_mut() {
        owner.fields.retain(|path| after.contains(path));
        if owner.is(manager, Operation::Update, subresource) {
            found = true;
            if !changed.is_subset(&owner.fields) {
                now.clone_into(&mut owner.time);
            }
            owner.fields.extend(changed.iter().cloned());
        } else {
            owner.fields.retain(|path| !changed.contains(path));
        }
    }
    if !found && !changed.is_empty() {
        owners.push(Owner {
            manager: manager.to_owned(),
            operation: Operation::Update,
            subresource: subresource.map(str::to_owned),
            fields: changed,
            time: now.to_owned(),
        });
    }
    owners.retain(|owner| !owner.fields.is_empty());
}

/// What an apply makes of the live object: the object and its owners after it, or the conflicts in words.
pub(super) fn applied(
    kind: Kind,
    live: &Value,
    owners: &[Owner],
    (manager, subresource): (&str, Option<&str>),
    applied: &Value,
    force: bool,
    now: &str,
) -> Result<(Value, Vec<Owner>), Vec<String>> {
    let wanted = fields(kind, applied);
    let mut owners = owners.to_vec();
    let mut conflicts = Vec::new();
    for owner in owners.iter_mut().filter(|owner| !owner.is(manager, Operation::Apply, subresource)) {
        let contested: Fields = owner
            .fields
            .iter()
            .filter(|path| wanted.contains(*path) && path.last().is_some_and(|part| part.starts_with("f:")))
            .filter(|path| value(kind, live, path) != value(kind, applied, path))
            .cloned()
            .collect();
        for path in &contested {
            conflicts.push(format!(
                "conflict with \"{}\" using {}: {}",
                owner.manager,
                kind.api_version(),
                shown(path)
            ));
        }
        owner.fields.retain(|path| !contested.contains(path));
    }
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut merged = live.clone();
    merge(kind, &mut merged, applied, false);
    let mine = owners.iter_mut().find(|owner| owner.is(manager, Operation::Apply, subresource));
    let before = match mine {
        Some(mine) => {
            if mine.fields != wanted {
                now.clone_into(&mut mine.time);
            }
            std::mem::replace(&mut mine.fields, wanted.clone())
        }
        None => {
            owners.push(Owner {
                manager: manager.to_owned(),
                operation: Operation::Apply,
                subresource: subresource.map(str::to_owned),
                fields: wanted.clone(),
                time: now.to_owned(),
            });
            Fields::new()
        }
    };
    let still_owned = |path: &Path| owners.iter().any(|owner| owner.fields.iter().any(|owned| owned.starts_with(path)));
    for path in before.iter().filter(|path| !still_owned(path)) {
        remove(kind, &mut merged, path, 0);
    }
    owners.retain(|owner| !owner.fields.is_empty());
    Ok((merged, owners))
}

fn shown(path: &Path) -> String {
    path.iter()
        .map(|part| part.strip_prefix("f:").map_or_else(|| format!("[{}]", &part[2..]), |name| format!(".{name}")))
        .collect()
}
