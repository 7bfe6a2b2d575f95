//! What a step can wait for. A new gate is a variant and a row of the table; the resource's documentation lists it, too
//! (`crds/src/storage_cluster.rs`), and a test holds the two together.

/// What a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// The cluster is paused.
    Paused,
    /// The cluster must not be deleted.
    DeletionProtected,
    /// Pods have to end first.
    PodsStopping,
    /// A pod is not there yet, or can't start.
    PodNotReady,
    /// A volume is not there yet.
    VolumeNotBound,
    /// A member does not answer yet.
    MemberSilent,
    /// A member is on a node of Kubernetes that is down.
    NodeDown,
    /// Somebody else keeps what is to go.
    HeldByOthers,
    /// A volume belongs to another store.
    ForeignVolume,
    /// Nobody can tell the map.
    StoreUnreachable,
    /// The store was made, and all volumes are empty.
    StoreLost,
    /// The store still moves replicas.
    MovesUnderWay,
    /// Another member is not ready.
    MemberNotReady,
    /// Another member is not heard by its peers, or goes by an older map.
    MemberBehind,
    /// A partition would lose its quorum.
    QuorumAtRisk,
    /// Too many members are gone at once for it to be their own fault.
    MassFailure,
    /// As many members are being replaced as may be.
    ReplacementBudget,
    /// The members that stay have no room for what would move to them.
    DiskSpace,
    /// Too few members would be left to hold anything.
    DrainRefused,
    /// The store does not do what it was asked.
    StoreRefuses,
}

/// How a gate is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Something is being done, and comes to its end.
    Soon,
    /// In the course of things, unless something hinders that.
    ByItself,
    /// Not before somebody does something, or something comes back.
    WithHelp,
}

impl Gate {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Paused,
        Self::DeletionProtected,
        Self::PodsStopping,
        Self::PodNotReady,
        Self::VolumeNotBound,
        Self::MemberSilent,
        Self::NodeDown,
        Self::HeldByOthers,
        Self::ForeignVolume,
        Self::StoreUnreachable,
        Self::StoreLost,
        Self::MovesUnderWay,
        Self::MemberNotReady,
        Self::MemberBehind,
        Self::QuorumAtRisk,
        Self::MassFailure,
        Self::ReplacementBudget,
        Self::DiskSpace,
        Self::DrainRefused,
        Self::StoreRefuses,
    ];

    /// The table: its name in the status, which stays as it is, and how it is passed.
    fn row(self) -> (&'static str, Passes) {
        match self {
            Self::Paused => ("Paused", Passes::WithHelp),
            Self::DeletionProtected => ("DeletionProtected", Passes::WithHelp),
            Self::PodsStopping => ("PodsStopping", Passes::Soon),
            Self::PodNotReady => ("PodNotReady", Passes::ByItself),
            Self::VolumeNotBound => ("VolumeNotBound", Passes::WithHelp),
            Self::MemberSilent => ("MemberSilent", Passes::ByItself),
            Self::NodeDown => ("NodeDown", Passes::WithHelp),
            Self::HeldByOthers => ("HeldByOthers", Passes::WithHelp),
            Self::ForeignVolume => ("ForeignVolume", Passes::WithHelp),
            Self::StoreUnreachable => ("StoreUnreachable", Passes::WithHelp),
            Self::StoreLost => ("StoreLost", Passes::WithHelp),
            Self::MovesUnderWay => ("MovesUnderWay", Passes::Soon),
            Self::MemberNotReady => ("MemberNotReady", Passes::ByItself),
            Self::MemberBehind => ("MemberBehind", Passes::ByItself),
            Self::QuorumAtRisk => ("QuorumAtRisk", Passes::WithHelp),
            Self::MassFailure => ("MassFailure", Passes::WithHelp),
            Self::ReplacementBudget => ("ReplacementBudget", Passes::WithHelp),
            Self::DiskSpace => ("DiskSpace", Passes::WithHelp),
            Self::DrainRefused => ("DrainRefused", Passes::WithHelp),
            Self::StoreRefuses => ("StoreRefuses", Passes::WithHelp),
        }
    }

    /// A stable name, as the status has it.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// How it is passed.
    pub fn passes(self) -> Passes {
        self.row().1
    }
}

#[cfg(test)]
mod tests {
    use annulus_crds::StorageCluster;
    use kube::CustomResourceExt;

    use super::*;

    #[test]
    fn the_resource_documents_every_gate() {
        let crd = serde_json::to_value(StorageCluster::crd()).unwrap();
        let gate =
            "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/plan/properties/gate/description";
        let described = crd.pointer(gate).and_then(serde_json::Value::as_str).unwrap();
        for gate in Gate::ALL {
            assert!(described.contains(&format!("`{}`", gate.name())), "{} is not in: {described}", gate.name());
        }
    }

    #[test]
    fn every_gate_is_listed_once() {
        let names: std::collections::BTreeSet<&str> = Gate::ALL.iter().map(|gate| gate.name()).collect();
        assert_eq!(names.len(), Gate::ALL.len());
    }
}
