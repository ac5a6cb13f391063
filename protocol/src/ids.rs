//! Typed identifiers: newtypes over UUIDv7, so that neither SQL nor HTTP sees a naked id.

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use uuid::Uuid;

/// A text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no id: an id looks like 0199d3a2-7c41-7a3e-9b1c-2f6e8d5a4b10")]
pub struct NotAnId;

/// Reads an id from a text.
struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err = NotAnId>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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
            type Err = NotAnId;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map(Self).map_err(|_| NotAnId)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(PhantomData))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_json_and_what_is_none_is_told_in_own_words() {
        let id = JobId::generate();
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<JobId>(&text).unwrap(), id);
        assert_eq!(serde_json::from_value::<JobId>(serde_json::json!(id)).unwrap(), id);
        let error = serde_json::from_str::<JobId>("\"nope\"").unwrap_err().to_string();
        assert!(error.starts_with("is no id: an id looks like"), "{error}");
        assert!("0199d3a2-7c41-7a3e-9b1c-2f6e8d5a4b10".parse::<JobId>().is_ok());
    }
}
