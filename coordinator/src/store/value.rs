//! Between columns and values: names of enums, JSON, and the counts that SQL has only signed.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A value from its name in a text column.
pub(super) fn named<T: DeserializeOwned>(name: String) -> sqlx::Result<T> {
    read(Value::String(name))
}

/// A value from a jsonb column.
pub(super) fn read<T: DeserializeOwned>(json: Value) -> sqlx::Result<T> {
    serde_json::from_value(json).map_err(|e| sqlx::Error::Decode(e.into()))
}

/// A value for a jsonb column.
pub(super) fn json(value: &impl Serialize) -> sqlx::Result<Value> {
    serde_json::to_value(value).map_err(|e| sqlx::Error::Encode(e.into()))
}

/// A count from a column whose values are never negative.
pub(super) fn count(stored: i64) -> sqlx::Result<u64> {
    u64::try_from(stored).map_err(|e| sqlx::Error::Decode(e.into()))
}

/// A count for a bigint column; what is larger than any real count becomes the largest.
pub(super) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
