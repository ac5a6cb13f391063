//! The lane tree: the one order in which lanes are added, fixed by their number alone.
//!
//! A node over `n` lanes splits at the largest power of two below `n`. fp32 addition is not associative, so this tree
//! is what makes a step's bits independent of how many ranks run the lanes and of how partial sums travel.

use std::fmt;

/// A node of the lane tree, named by the lanes below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    /// First lane.
    pub first: u32,
    /// Number of lanes; at least 1.
    pub lanes: u32,
}

impl Subtree {
    /// The whole tree over `lanes` lanes (at least one).
    pub const fn root(lanes: u32) -> Self {
        Self { first: 0, lanes }
    }

    /// Left and right child; none for a single lane.
    pub const fn children(self) -> Option<(Self, Self)> {
        if self.lanes < 2 {
            return None;
        }
        let left = 1 << (self.lanes - 1).ilog2();
        let right = Self {
            first: self.first + left,
            lanes: self.lanes - left,
        };
        Some((
            Self {
                first: self.first,
                lanes: left,
            },
            right,
        ))
    }

    /// Whether all lanes of `other` are among this node's.
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.end() <= self.end()
    }

    /// Its lanes, in order.
    pub const fn range(self) -> std::ops::Range<u32> {
        self.first..self.end()
    }

    /// The fewest nodes at or below this one that hold just the lanes of `range`, in order.
    pub fn within(self, range: &std::ops::Range<u32>) -> Vec<Self> {
        if range.end <= self.first || self.end() <= range.start {
            return Vec::new();
        }
        match self.children() {
            Some((left, right)) if self.first < range.start || range.end < self.end() => {
                [left.within(range), right.within(range)].concat()
            }
            _ => vec![self],
        }
    }

    const fn end(self) -> u32 {
        self.first + self.lanes
    }
}

impl fmt::Display for Subtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lanes {}..{}", self.first, self.end())
    }
}

/// Evaluates a subtree: leaves from `leaf`, in lane order, inner nodes by `add(left, right)`.
///
/// At most one finished left sibling per level waits at any time, so `leaf` may hand out buffers from a small pool.
///
/// # Errors
/// The first error of `leaf`.
pub fn fold<T, E>(
    node: Subtree,
    leaf: &mut impl FnMut(u32) -> Result<T, E>,
    add: &mut impl FnMut(T, T) -> T,
) -> Result<T, E> {
    let Some((left, right)) = node.children() else {
        return leaf(node.first);
    };
    let left = fold(left, leaf, add)?;
    let right = fold(right, leaf, add)?;
    Ok(add(left, right))
}

/// Joins siblings as far as possible: the fewest nodes of the tree below `root` with the same lanes as `parts`.
///
/// `found` is told of each part when the walk meets it, `joined` of each parent whose two children are complete;
/// children come before parents. The result is in lane order.
pub fn join(
    root: Subtree,
    parts: &[Subtree],
    found: &mut impl FnMut(Subtree),
    joined: &mut impl FnMut(Subtree),
) -> Vec<Subtree> {
    if parts.contains(&root) {
        found(root);
        return vec![root];
    }
    let Some((left, right)) = root.children() else {
        return Vec::new();
    };
    if !parts.iter().any(|part| root.covers(*part)) {
        return Vec::new();
    }
    let mut complete = join(left, parts, found, joined);
    complete.extend(join(right, parts, found, joined));
    if complete == [left, right] {
        joined(root);
        complete = vec![root];
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn expression(lanes: u32) -> String {
        let mut leaf = |lane: u32| Ok::<_, Infallible>(lane.to_string());
        fold(Subtree::root(lanes), &mut leaf, &mut |a, b| format!("({a}+{b})")).unwrap()
    }

    #[test]
    fn a_node_splits_at_the_largest_power_of_two_below_it() {
        assert_eq!(expression(1), "0");
        assert_eq!(expression(4), "((0+1)+(2+3))");
        assert_eq!(expression(7), "(((0+1)+(2+3))+((4+5)+6))");
    }

    #[test]
    fn few_buffers_wait_while_a_subtree_is_folded() {
        let (mut waiting, mut most) = (0_u32, 0);
        let counts = std::cell::RefCell::new((&mut waiting, &mut most));
        let mut leaf = |_| {
            let (waiting, most) = &mut *counts.borrow_mut();
            **waiting += 1;
            **most = (**most).max(**waiting);
            Ok::<_, Infallible>(())
        };
        fold(Subtree::root(32), &mut leaf, &mut |(), ()| *counts.borrow_mut().0 -= 1).unwrap();
        assert_eq!(most, 6, "log2(32) + 1");
    }

    #[test]
    fn a_range_of_lanes_is_held_by_few_subtrees() {
        let part = |first, lanes| Subtree { first, lanes };
        let within = |range| Subtree::root(14).within(&range);
        assert_eq!(within(0..14), [part(0, 14)]);
        assert_eq!(within(3..10), [part(3, 1), part(4, 4), part(8, 2)]);
        assert_eq!(within(8..14), [part(8, 6)]);
        assert_eq!(within(5..5), []);
    }

    #[test]
    fn siblings_join_and_strangers_do_not() {
        let part = |first, lanes| Subtree { first, lanes };
        let parts = [part(0, 1), part(1, 1), part(2, 1), part(4, 2), part(6, 2)];
        let joined = join(Subtree::root(8), &parts, &mut |_| (), &mut |_| ());
        assert_eq!(joined, [part(0, 2), part(2, 1), part(4, 4)]);
    }
}
