//! Who feeds whom: a function of what all ranks know.

use crate::rank::beginning::Path;

/// The ranks of a node that join, and who feeds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) joiners: Vec<u32>,
    /// The node's own ranks that hold the state; if it has none, all that do.
    pub(super) sources: Vec<u32>,
    /// Whether the sources are on the node.
    is_local: bool,
}

/// One for each node that has ranks which join.
pub(super) fn tables(paths: &[Path], nodes: &[Vec<u32>]) -> Vec<Table> {
    let joins = |rank: &u32| paths[*rank as usize] == Path::Join;
    let all: Vec<u32> = (0..paths.len() as u32).filter(|rank| !joins(rank)).collect();
    let table = |node: &Vec<u32>| {
        let (joiners, local): (Vec<u32>, Vec<u32>) = node.iter().copied().partition(joins);
        let is_local = !local.is_empty();
        let sources = if is_local { local } else { all.clone() };
        Table {
            joiners,
            sources,
            is_local,
        }
    };
    let tables = nodes.iter().map(table);
    tables.filter(|table| !table.joiners.is_empty()).collect()
}

/// Who takes a piece over the mesh from whom.
pub(super) struct Roads {
    /// By rank: whom it takes pieces from in turn; nobody if it holds the state.
    sources: Vec<Vec<u32>>,
}

impl Roads {
    pub(super) fn new(tables: &[Table], ranks: usize) -> Self {
        let mut sources = vec![Vec::new(); ranks];
        for table in tables {
            let mut before = None;
            for rank in &table.joiners {
                sources[*rank as usize] = match before {
                    Some(before) if !table.is_local => vec![before],
                    _ => table.sources.clone(),
                };
                before = Some(*rank);
            }
        }
        Self { sources }
    }

    /// Where a rank that joins takes a piece from.
    pub(super) fn upstream(&self, rank: u32, piece: u64) -> u32 {
        let sources = &self.sources[rank as usize];
        sources[(piece % sources.len() as u64) as usize]
    }

    /// Who takes a piece from a rank.
    pub(super) fn downstream(&self, rank: u32, piece: u64) -> Vec<u32> {
        let takes = |other: &u32| !self.sources[*other as usize].is_empty() && self.upstream(*other, piece) == rank;
        (0..self.sources.len() as u32).filter(takes).collect()
    }
}
