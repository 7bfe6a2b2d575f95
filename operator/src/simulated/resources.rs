//! The resources that the simulated server has, and what is particular about each.

/// A resource of the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty: the core one.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The name in paths.
    pub plural: &'static str,
    /// The name in objects.
    pub kind: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether it has the subresource `status`: then writes of the object leave its status as it is.
    pub has_status: bool,
    /// Whether changes of the spec are counted in `metadata.generation`.
    pub has_generation: bool,
    /// Whether it is defined by a CustomResourceDefinition.
    pub custom: bool,
}

const fn plain(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Resource {
    Resource { group, version, plural, kind, namespaced, has_status: false, has_generation: false, custom: false }
}

const fn with_status(mut resource: Resource) -> Resource {
    resource.has_status = true;
    resource
}

const fn with_generation(mut resource: Resource) -> Resource {
    resource.has_generation = true;
    resource
}

const fn custom(resource: Resource) -> Resource {
    let mut resource = with_generation(with_status(resource));
    resource.custom = true;
    resource
}

static RESOURCES: [Resource; 16] = [
    with_status(plain("", "v1", "nodes", "Node", false)),
    with_status(plain("", "v1", "namespaces", "Namespace", false)),
    with_status(plain("", "v1", "pods", "Pod", true)),
    with_status(plain("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true)),
    with_status(plain("", "v1", "services", "Service", true)),
    plain("", "v1", "configmaps", "ConfigMap", true),
    plain("", "v1", "secrets", "Secret", true),
    plain("", "v1", "serviceaccounts", "ServiceAccount", true),
    plain("", "v1", "events", "Event", true),
    plain("events.k8s.io", "v1", "events", "Event", true),
    plain("coordination.k8s.io", "v1", "leases", "Lease", true),
    with_generation(plain("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", true)),
    with_generation(with_status(plain("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true))),
    plain("storage.k8s.io", "v1", "storageclasses", "StorageClass", false),
    with_generation(plain(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        false,
    )),
    custom(plain("annulus.dev", "v1alpha1", "storageclusters", "StorageCluster", true)),
];

/// One of the server's resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(usize);

impl Kind {
    /// The resource at a path.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<Self> {
        let found =
            |resource: &Resource| resource.group == group && resource.version == version && resource.plural == plural;
        RESOURCES.iter().position(found).map(Self)
    }

    /// The resource of a type.
    ///
    /// # Panics
    ///
    /// If the server does not have it, which is a mistake of the test.
    pub fn of<K: kube::Resource<DynamicType = ()>>() -> Self {
        let (group, version, plural) = (K::group(&()), K::version(&()), K::plural(&()));
        Self::find(&group, &version, &plural)
            .unwrap_or_else(|| panic!("the simulated server has no {plural}.{version}.{group}"))
    }

    /// What it is.
    pub fn resource(self) -> &'static Resource {
        &RESOURCES[self.0]
    }

    /// As it stands in objects.
    pub fn api_version(self) -> String {
        let Resource { group, version, .. } = self.resource();
        if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") }
    }

    /// As it stands in messages: `pods`, `storageclusters.annulus.dev`.
    pub fn full_name(self) -> String {
        let Resource { group, plural, .. } = self.resource();
        if group.is_empty() { (*plural).to_owned() } else { format!("{plural}.{group}") }
    }

    pub(super) fn pods() -> Self {
        Self::of::<k8s_openapi::api::core::v1::Pod>()
    }

    pub(super) fn claims() -> Self {
        Self::of::<k8s_openapi::api::core::v1::PersistentVolumeClaim>()
    }

    pub(super) fn nodes() -> Self {
        Self::of::<k8s_openapi::api::core::v1::Node>()
    }

    pub(super) fn classes() -> Self {
        Self::of::<k8s_openapi::api::storage::v1::StorageClass>()
    }

    pub(super) fn budgets() -> Self {
        Self::of::<k8s_openapi::api::policy::v1::PodDisruptionBudget>()
    }

    pub(super) fn services() -> Self {
        Self::of::<k8s_openapi::api::core::v1::Service>()
    }
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The resource.
    pub kind: Kind,
    /// The namespace; empty: it is in none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}
