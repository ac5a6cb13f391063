//! Host arrays that operations need on the device: indices, places, sequences.
//!
//! The layers of a network ask for the same ones again and again, so the last ones stay on the device: bringing one again costs a
//! comparison instead of memory, a copy, and the wait of the kernels behind it.

use std::collections::VecDeque;

/// Tables that stay: more than a network uses in turn.
const KEPT: usize = 64;

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

/// The tables that were brought last, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tables {
    kept: VecDeque<(Vec<u8>, Table)>,
}

impl Tables {
    /// Where these bytes are, if they are kept.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<Table> {
        let found = self.kept.iter().rev().find(|(kept, _)| kept == bytes);
        found.map(|(_, table)| *table)
    }

    /// Keeps a table of these bytes; returns one to be freed in its place.
    pub(super) fn keep(&mut self, bytes: &[u8], table: Table) -> Option<Table> {
        let oldest = if self.kept.len() < KEPT {
            None
        } else {
            self.kept.pop_front()
        };
        self.kept.push_back((bytes.to_vec(), table));
        oldest.map(|(_, table)| table)
    }

    /// All tables, to be freed.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Table> + '_ {
        self.kept.drain(..).map(|(_, table)| table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_until_others_take_its_place() {
        let mut tables = Tables::default();
        assert!(tables.keep(b"first", Table::at(1)).is_none());
        for i in 1..KEPT as u64 {
            assert!(tables.keep(&i.to_le_bytes(), Table::at(i + 1)).is_none());
        }
        assert_eq!(tables.find(b"first").map(Table::address), Some(1));
        assert_eq!(tables.find(b"firs").map(Table::address), None);
        assert_eq!(tables.keep(b"last", Table::at(99)).map(Table::address), Some(1));
        assert_eq!(tables.find(b"first").map(Table::address), None);
        assert_eq!(tables.find(b"last").map(Table::address), Some(99));
    }
}
