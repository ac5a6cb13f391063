//! Typed identifiers: newtypes over UUIDv7, so that neither SQL nor HTTP sees a naked id.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh, time-ordered id.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps a UUID read from storage.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID to be stored.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map(Self)
            }
        }
    };
}

id!(
    /// A job: what a user submits.
    JobId
);
id!(
    /// A stage: one node of a job's graph.
    StageId
);
id!(
    /// A node of the cluster, known by its name across restarts of its agent.
    NodeId
);
id!(
    /// One life of an agent: new at each start of its process.
    IncarnationId
);
id!(
    /// A committed checkpoint.
    CheckpointId
);
id!(
    /// A request for a checkpoint, carried to the ranks as "after step ≥ s".
    CheckpointRequestId
);
id!(
    /// An immutable dataset version.
    DatasetId
);
id!(
    /// One unit of leased work of a stage: a shard, or the merge that follows all shards.
    TaskId
);
id!(
    /// The token that proves a lease.
    LeaseToken
);
