//! Host arrays that operations need on the device: indices, places, sequences.
//!
//! The layers of a network ask for the same ones again and again, so the last ones stay on the device: bringing one again costs a
//! comparison instead of memory, a copy, and the wait of the kernels behind it.

use std::borrow::Borrow;
use std::collections::VecDeque;

/// Bytes on the device that operations only read, good for the operation that asks for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    address: u64,
}

impl Table {
    pub(super) const fn at(address: u64) -> Self {
        Self { address }
    }

    pub(super) const fn address(self) -> u64 {
        self.address
    }
}

/// Tables by their bytes: more than a network uses in turn.
pub(super) type Tables = Kept<Vec<u8>, Table, 64>;

/// What was asked for last, at most so much of it, oldest first.
#[derive(Debug)]
pub(super) struct Kept<Key, Value, const MOST: usize> {
    kept: VecDeque<(Key, Value)>,
}

impl<Key, Value, const MOST: usize> Default for Kept<Key, Value, MOST> {
    fn default() -> Self {
        Self { kept: VecDeque::new() }
    }
}

impl<Key, Value: Copy, const MOST: usize> Kept<Key, Value, MOST> {
    /// What belongs to this key, if it is kept; it is the youngest then.
    pub(super) fn find<K: PartialEq + ?Sized>(&mut self, key: &K) -> Option<Value>
    where
        Key: Borrow<K>,
    {
        let at = self.kept.iter().rposition(|(kept, _)| kept.borrow() == key)?;
        let found = self.kept.remove(at)?;
        let value = found.1;
        self.kept.push_back(found);
        Some(value)
    }

    /// Keeps a value; returns one to be freed in its place.
    pub(super) fn keep(&mut self, key: Key, value: Value) -> Option<Value> {
        let oldest = if self.kept.len() < MOST {
            None
        } else {
            self.kept.pop_front()
        };
        self.kept.push_back((key, value));
        oldest.map(|(_, value)| value)
    }

    /// All values, to be freed.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Value> + '_ {
        self.kept.drain(..).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(count: u64) -> Tables {
        let mut tables = Tables::default();
        for i in 0..count {
            assert!(tables.keep(i.to_le_bytes().to_vec(), Table::at(i + 1)).is_none());
        }
        tables
    }

    fn found(tables: &mut Tables, bytes: &[u8]) -> Option<u64> {
        tables.find(bytes).map(Table::address)
    }

    #[test]
    fn a_table_is_found_until_others_take_its_place() {
        let mut tables = tables(64);
        assert_eq!(found(&mut tables, &0u32.to_le_bytes()), None);
        assert_eq!(
            tables.keep(b"last".to_vec(), Table::at(99)).map(Table::address),
            Some(1)
        );
        assert_eq!(found(&mut tables, &0u64.to_le_bytes()), None);
        assert_eq!(found(&mut tables, &1u64.to_le_bytes()), Some(2));
        assert_eq!(found(&mut tables, b"last"), Some(99));
    }

    #[test]
    fn a_table_that_is_asked_for_again_outlives_younger_ones() {
        let mut tables = tables(64);
        assert_eq!(found(&mut tables, &0u64.to_le_bytes()), Some(1));
        assert_eq!(
            tables.keep(b"last".to_vec(), Table::at(99)).map(Table::address),
            Some(2)
        );
        assert_eq!(found(&mut tables, &0u64.to_le_bytes()), Some(1));
    }
}
