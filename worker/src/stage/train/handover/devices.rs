//! Feeding from device to device, over the generation's group.
//!
//! It takes two rounds. In the first, every joiner of a node takes other pieces than the next one, from the sources in turn; in
//! the second, the joiners of a node give each other what they took. So a state crosses to a node once, all of a node's connections
//! carry it, and what is received goes where it stays. A broadcast would write to the sources too.
//!
//! Sources say over the mesh, before they send, which digest their pieces have, and joiners make it of what has arrived.

use super::tables::Table;
use super::{Error, Frame, tag};
use crate::collective::group::{Group, Guarded};
use crate::collective::tcp::{Lost, Mesh};
use bytes::Bytes;
use medley_model::device::DeviceError;
use medley_model::state::Resident;
use std::ops::Range;

/// Most bytes of a piece: few enough that all ranks have some of a large state, and enough to go as fast as all of it at once.
pub(super) const PIECE: usize = 64 << 20;

/// What goes between devices, the same on all ranks.
pub(super) struct Plan<'a> {
    tables: &'a [Table],
    /// What lies on each device, in order.
    pieces: Vec<Range<usize>>,
    rounds: [Vec<Move>; 2],
}

/// A piece goes from a rank to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Move {
    piece: usize,
    from: u32,
    to: u32,
}

impl Table {
    /// The source that a piece comes from.
    fn source(&self, piece: usize) -> u32 {
        self.sources[piece % self.sources.len()]
    }

    /// The joiner that takes it from there, and gives it to the others.
    fn taker(&self, piece: usize) -> u32 {
        self.joiners[piece % self.joiners.len()]
    }
}

impl<'a> Plan<'a> {
    /// For states like this one, in pieces of at most `most` bytes.
    pub(super) fn new(state: &Resident, tables: &'a [Table], most: usize) -> Self {
        let there = state.bytes_there();
        let mut pieces = state.pieces(most);
        pieces.retain(|piece| there.start <= piece.start && piece.end <= there.end);
        Self {
            tables,
            rounds: rounds(tables, pieces.len()),
            pieces,
        }
    }

    /// Whether these bytes of a state are among what goes between devices; either all of them are or none.
    pub(super) fn moves(&self, bytes: &Range<usize>) -> bool {
        let ends = self.pieces.first().zip(self.pieces.last());
        ends.is_some_and(|(first, last)| first.start <= bytes.start && bytes.end <= last.end)
    }

    /// Feeds those who join.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn give(&self, state: &Resident, mesh: &Mesh, group: &mut dyn Group) -> Result<(), Error> {
        let own = mesh.rank();
        // What a device makes that has failed is not sent: this says so first.
        for table in self.tables.iter().filter(|table| table.sources.contains(&own)) {
            let digest = self.digest(state, table, own)?.to_le_bytes();
            for to in &table.joiners {
                mesh.send(*to, tag(Frame::Digest, 0), Bytes::copy_from_slice(&digest));
            }
        }
        self.carry(group, |group, round| {
            let given = round.iter().filter(|way| way.from == own);
            let sends: Vec<_> = given.map(|way| (way.to, state.span(&self.pieces[way.piece]))).collect();
            group.exchange(&sends, Vec::new())
        })
    }

    /// Is fed.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn take(&self, state: &mut Resident, mesh: &Mesh, group: &mut dyn Group) -> Result<(), Error> {
        let own = mesh.rank();
        self.carry(group, |group, round| {
            let mut spans: Vec<_> = state.spans_mut(&self.pieces).into_iter().map(Some).collect();
            let taken = round.iter().filter(|way| way.to == own);
            let taken = taken.map(|way| (way.from, spans[way.piece].take().expect("a piece is taken once")));
            let receives = taken.collect();
            let given = round.iter().filter(|way| way.from == own);
            let span = |piece: usize| spans[piece].as_ref().expect("what is given was taken before");
            let sends: Vec<_> = given.map(|way| (way.to, span(way.piece).as_span())).collect();
            group.exchange(&sends, receives)
        })?;
        let table = self.tables.iter().find(|table| table.joiners.contains(&own));
        for (from, table) in table
            .iter()
            .flat_map(|table| table.sources.iter().map(move |from| (*from, table)))
        {
            let digest = mesh.receive(from, tag(Frame::Digest, 0))?;
            if digest != self.digest(state, table, from)?.to_le_bytes() {
                let why = "its part of the state arrived damaged".into();
                return Err(Lost { rank: from, why }.into());
            }
        }
        Ok(())
    }

    /// Goes through the rounds; `ask` asks for this rank's part of one.
    fn carry(
        &self,
        group: &mut dyn Group,
        mut ask: impl FnMut(&mut Guarded, &[Move]) -> Result<(), Lost>,
    ) -> Result<(), Error> {
        let mut group = Guarded::new(group);
        for round in &self.rounds {
            group.begin(true)?;
            ask(&mut group, round)?;
        }
        group.begin(true)?;
        Ok(group.finish()?)
    }

    /// The digest of all pieces that come to a table from this source.
    fn digest(&self, state: &Resident, table: &Table, source: u32) -> Result<u64, DeviceError> {
        let pieces = self.pieces.iter().enumerate();
        let from_there = pieces.filter(|(piece, _)| table.source(*piece) == source);
        let ranges: Vec<Range<usize>> = from_there.map(|(_, range)| range.clone()).collect();
        state.digest(&ranges)
    }
}

/// All that moves in the two rounds, between two ranks in the order of pieces.
fn rounds(tables: &[Table], pieces: usize) -> [Vec<Move>; 2] {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for table in tables {
        for piece in 0..pieces {
            let (from, taker) = (table.source(piece), table.taker(piece));
            first.push(Move { piece, from, to: taker });
            let others = table.joiners.iter().filter(|to| **to != taker);
            second.extend(others.map(|to| Move {
                piece,
                from: taker,
                to: *to,
            }));
        }
    }
    [first, second]
}

#[cfg(test)]
mod tests;
