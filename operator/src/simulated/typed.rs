//! What tests do to the cluster directly, in types. None of it is a client's write, and no fault happens to it.

use k8s_openapi::api::core::v1::Node;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Cluster;
use super::error::Error;
use super::resources::{Key, Kind};
use super::verbs::{Deletion, Part, Patch, Writer};

/// The field manager of what tests write.
const TEST: Writer<'static> = Writer { manager: "test", part: Part::Main };

/// What a storage class offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassOptions {
    /// Claims that name no class are of this one.
    pub is_default: bool,
    /// Volumes can grow.
    pub can_grow: bool,
    /// A volume can be used on every node of its zone, and not only on the node where it was made.
    pub by_zone: bool,
}

/// An object of the server's as a type of ours.
///
/// # Panics
///
/// If it is none, which is a mistake of the test.
fn typed<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"))
}

fn untyped<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("an API object is plain data")
}

fn key<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Key {
    let kind = Kind::of::<K>();
    Key::new(kind, if kind.resource().namespaced { namespace } else { "" }, name)
}

impl Cluster {
    /// Makes an object. Its status is left out, where the resource has one as a subresource.
    pub fn create<K>(&self, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let mut value = untyped(object);
        if Kind::of::<K>().resource().namespaced && value["metadata"]["namespace"].is_null() {
            value["metadata"]["namespace"] = json!("default");
        }
        self.lock().store.create(Kind::of::<K>(), value, TEST).map(|object| typed(&object))
    }

    /// An object, if there is one. The namespace of what is in none is ignored.
    pub fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<K> {
        self.lock().store.get(&key::<K>(namespace, name)).map(|object| typed(object))
    }

    /// All objects of a type in a namespace, by name; without one: in all.
    pub fn list<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: Option<&str>) -> Vec<K> {
        let objects = self.lock().store.list(Kind::of::<K>(), namespace);
        objects.iter().map(|(_, object)| typed(object)).collect()
    }

    /// Changes an object by a merge patch.
    pub fn patch<K>(&self, namespace: &str, name: &str, patch: &Value) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let key = key::<K>(namespace, name);
        self.lock().store.update(&key, Patch::Merge(patch), TEST).map(|object| typed(&object))
    }

    /// Changes the status of an object by a merge patch, whose top is `status`.
    pub fn patch_status<K>(&self, namespace: &str, name: &str, patch: &Value) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let key = key::<K>(namespace, name);
        let writer = Writer { part: Part::Status, ..TEST };
        self.lock().store.update(&key, Patch::Merge(patch), writer).map(|object| typed(&object))
    }

    /// Changes an object as `edit` says, and all of it: nothing is checked, and the status is not left out.
    pub fn edit<K>(&self, namespace: &str, name: &str, edit: impl FnOnce(&mut K)) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let key = key::<K>(namespace, name);
        let mut server = self.lock();
        let mut object: K = typed(&server.store.entry(&key)?.object);
        edit(&mut object);
        let writer = Writer { part: Part::All, ..TEST };
        server.store.update(&key, Patch::Replace(&untyped(&object)), writer).map(|object| typed(&object))
    }

    /// Deletes an object, as a person would. It may stay for its finalizers, and a pod until its node has ended it.
    pub fn delete<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) -> Result<(), Error> {
        self.lock().store.delete(&key::<K>(namespace, name), &Deletion::default()).map(|_| ())
    }

    /// Takes an object away at once, whatever holds it: as if it had been gone for long.
    pub fn remove<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) -> Result<(), Error> {
        self.lock().store.take(&key::<K>(namespace, name), None).map(|_| ())
    }

    /// Adds a node that is ready.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn add_node(&self, name: &str, zone: &str) {
        let node = json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone,
            }},
            "spec": {},
            "status": {
                "capacity": {"pods": "110"}, "allocatable": {"pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        });
        let writer = Writer { manager: "kubelet", part: Part::All };
        self.lock().store.create(Kind::of::<Node>(), node, writer).expect("a node has a name of its own");
    }

    /// Adds a storage class. Its volumes are made when a pod first uses them.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn add_storage_class(&self, name: &str, options: &ClassOptions) {
        let class = json!({
            "metadata": {"name": name, "annotations": {
                "storageclass.kubernetes.io/is-default-class": options.is_default.to_string(),
            }},
            "provisioner": "simulated", "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete",
            "allowVolumeExpansion": options.can_grow,
            "parameters": {"scope": if options.by_zone { "zone" } else { "node" }},
        });
        self.lock().store.create(Kind::classes(), class, TEST).expect("a storage class has a name of its own");
    }
}
