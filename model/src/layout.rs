//! What lies where in a flat buffer: named entries, and aliases for tied weights.
//!
//! Parameters, gradients and both moments share one layout. Each entry starts on a multiple of 64 elements, so that
//! kernels, slices of ranks and digests all see aligned entries. A tied weight is one entry with several names.

use std::collections::BTreeMap;

/// Entries start on multiples of this many elements.
pub const ENTRY_ALIGN: usize = 64;

/// An entry of a [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(u32);

impl ParamId {
    /// Position of the entry in [`Layout::entries`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A named tensor within a flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Official name.
    pub name: String,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// First element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

impl Entry {
    /// The elements of this entry.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// Three entries of one length that lie equally far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Three {
    /// First element of the first.
    pub offset: usize,
    /// Elements of each.
    pub len: usize,
    /// Elements from one to the next.
    pub distance: usize,
}

impl Three {
    /// From the first element of the first to the last of the last.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + 2 * self.distance + self.len
    }
}

/// Names and places of all tensors of one flat buffer.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    entries: Vec<Entry>,
    names: BTreeMap<String, ParamId>,
    len: usize,
}

impl Layout {
    /// Adds an entry after the last one.
    ///
    /// # Panics
    /// If the name exists: layouts are written in code.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> ParamId {
        let name = name.into();
        let id = ParamId(self.entries.len() as u32);
        let len = shape.iter().product();
        assert!(
            self.names.insert(name.clone(), id).is_none(),
            "{name} is declared twice"
        );
        self.entries.push(Entry {
            name,
            shape: shape.to_vec(),
            offset: self.len,
            len,
        });
        self.len += len.next_multiple_of(ENTRY_ALIGN);
        id
    }

    /// Gives an existing entry another name.
    ///
    /// # Panics
    /// If the name exists, or the entry does not: layouts are written in code.
    pub fn alias(&mut self, name: impl Into<String>, of: &str) {
        let (name, id) = (name.into(), self.id(of));
        assert!(
            self.names.insert(name.clone(), id).is_none(),
            "{name} is declared twice"
        );
    }

    /// The entry of this name or alias.
    ///
    /// # Panics
    /// If there is none: the model asks for what its own layout declares.
    pub fn id(&self, name: &str) -> ParamId {
        self.find(name)
            .unwrap_or_else(|| panic!("the layout has no entry {name}"))
    }

    /// The entry of this name or alias, if there is one.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.names.get(name).copied()
    }

    /// An entry.
    pub fn entry(&self, id: ParamId) -> &Entry {
        &self.entries[id.index()]
    }

    /// Where these entries lie, if they are of one length and equally far apart in this order.
    pub fn three(&self, ids: [ParamId; 3]) -> Option<Three> {
        let [a, b, c] = ids.map(|id| self.entry(id));
        let distance = b.offset.checked_sub(a.offset)?;
        let even = c.offset == b.offset + distance && distance >= a.len;
        (even && a.len == b.len && b.len == c.len).then_some(Three {
            offset: a.offset,
            len: a.len,
            distance,
        })
    }

    /// All entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All entries with their ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .map(|(i, entry)| (ParamId(i as u32), entry))
    }

    /// Every name, official or alias, with its entry.
    pub fn names(&self) -> impl Iterator<Item = (&str, ParamId)> {
        self.names.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// Elements of a buffer of this layout, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of parameters, padding excluded.
    pub fn num_params(&self) -> usize {
        self.entries.iter().map(|e| e.len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_aliases_share_them() {
        let mut layout = Layout::default();
        layout.add("a", &[3]);
        let b = layout.add("b", &[10, 10]);
        layout.alias("c", "b");
        assert_eq!(layout.entry(b).offset, 64);
        assert_eq!(layout.len(), 64 + 128);
        assert_eq!(layout.id("c"), b);
        assert_eq!(layout.num_params(), 103);
    }

    #[test]
    fn three_entries_are_even_if_they_are_equally_long_and_far_apart() {
        let mut layout = Layout::default();
        let [a, _, b, _, c, d] = [70, 3, 70, 5, 70, 70].map(|len| layout.add(format!("{}", layout.len()), &[len]));
        let even = Three {
            offset: 0,
            len: 70,
            distance: 192,
        };
        assert_eq!(layout.three([a, b, c]), Some(even));
        assert_eq!(even.range(), 0..layout.entry(c).range().end);
        for uneven in [[a, c, b], [b, c, d], [a, a, a]] {
            assert_eq!(layout.three(uneven), None);
        }
    }

    #[test]
    #[should_panic(expected = "declared twice")]
    fn a_name_is_declared_once() {
        let mut layout = Layout::default();
        layout.add("a", &[3]);
        layout.add("a", &[3]);
    }
}
