//! Texts without padding.

use crate::ops::attention::Sequence;
use crate::ops::dropout::Place;
use std::rc::Rc;

/// Texts without padding.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    /// Token ids of all texts.
    pub ids: Vec<u32>,
    /// Position of each token in its text.
    pub positions: Vec<u32>,
    /// Logical place of each token, for dropout.
    pub places: Vec<Place>,
    /// First row of each text, and the number of rows.
    pub starts: Vec<usize>,
}

impl Packed {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            starts: vec![0],
            ..Self::default()
        }
    }

    /// Appends a text whose first token is replaced by `first`; `sample` tells it apart for dropout.
    pub fn push(&mut self, first: u32, text: &[u32], sample: u32) {
        self.ids.push(first);
        self.ids.extend_from_slice(&text[1..]);
        self.positions.extend(0..text.len() as u32);
        self.places
            .extend((0..text.len() as u32).map(|position| Place { position, sample }));
        self.starts.push(self.ids.len());
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of a text.
    pub fn rows(&self, text: usize) -> std::ops::Range<usize> {
        self.starts[text]..self.starts[text + 1]
    }

    /// First row of each text.
    pub(super) fn firsts(&self) -> Rc<[u32]> {
        self.starts[..self.len()].iter().map(|&s| s as u32).collect()
    }

    /// Place of each text's first token.
    pub(super) fn first_places(&self) -> Rc<[Place]> {
        (0..self.len()).map(|i| self.place(i)).collect()
    }

    pub(super) fn place(&self, text: usize) -> Place {
        self.places[self.starts[text]]
    }

    /// Each text attends to itself; with `first_only`, only its first token asks.
    pub(super) fn self_sequences(&self, causal: bool, first_only: bool) -> Rc<[Sequence]> {
        let sequence = |i: usize| Sequence {
            queries: if first_only { i..i + 1 } else { self.rows(i) },
            keys: self.rows(i),
            causal_from: causal.then_some(0),
            place: self.place(i),
        };
        (0..self.len()).map(sequence).collect()
    }
}
