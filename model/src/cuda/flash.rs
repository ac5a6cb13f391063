//! Attention on tensor cores: bf16, heads of 64 columns.
//!
//! A strip is up to 16 queries of one sequence, or 16 keys. Forward, a block has strips of all sequences that read the same keys, as
//! many as fit, two to a warp. Backward, a block has the keys, two strips to a warp, and goes through all strips of queries that read
//! them. The strips of sequences with the same keys lie side by side, in the order of the sequences, in which the gradients of keys
//! and values are summed.

use super::Cuda;
use super::account::Work;
use super::attention::{Addresses, Forward, Read, Words, by_keys, words};
use super::device::locked;
use super::format::Format;
use super::launch::{Arg, Block, Kernel, args};
use super::memory::Slice;
use super::tables::{Kept, Table};
use crate::ops::attention::{Inputs, Sequence};
use crate::ops::dropout::Dropout;

/// Columns of a head.
const DIM: usize = 64;
/// Rows of a strip.
const STRIP: usize = 16;
/// Strips of queries in a block forward: two for each of its warps.
const MAX_QUERIES: usize = 8;
/// Strips of keys in shared memory at once forward: 224 keys, so that an image of 197 tokens is one lot.
const MAX_KEYS: usize = 14;
/// Strips of queries at work at once backward: one for each warp of a block.
const MAX_QUERIES_BACKWARD: usize = 4;
/// Strips of keys in shared memory at once backward: two for each warp of a block.
const MAX_KEYS_BACKWARD: usize = 2 * MAX_QUERIES_BACKWARD;

/// Bytes of a strip in shared memory.
const STRIP_BYTES: usize = STRIP * DIM * Format::Bf16.size();
/// Bytes of what backward knows of a strip's rows.
const KNOWN_BYTES: usize = STRIP * 2 * size_of::<f32>();
/// Bytes of the gradients of 16 × 16 scores.
const SLOPES_BYTES: usize = STRIP * STRIP * Format::Bf16.size();

/// Shared memory of the largest block, forward.
pub(super) const MAX_SHARED_BYTES: u32 = forward_bytes(MAX_QUERIES, MAX_KEYS) as u32;
/// Shared memory of the largest block, backward.
pub(super) const MAX_BACKWARD_SHARED_BYTES: u32 = backward_bytes(MAX_QUERIES_BACKWARD, MAX_KEYS_BACKWARD, true) as u32;

/// Strips of queries, of keys and of values.
const fn forward_bytes(queries: usize, keys: usize) -> usize {
    (queries + 2 * keys) * STRIP_BYTES
}

/// Strips of keys and of values, the gradients of their scores, and the queries at work, perhaps the next ones too.
const fn backward_bytes(queries: usize, keys: usize, next: bool) -> usize {
    let at_work = queries * (2 * STRIP_BYTES + KNOWN_BYTES);
    keys * (2 * STRIP_BYTES + queries * SLOPES_BYTES) + if next { 2 * at_work } else { at_work }
}

/// Whether this is for tensor cores, `others` being what is read and written beside the inputs.
pub(super) fn takes(x: &Inputs<Slice<'_>>, others: &[Slice<'_>]) -> bool {
    x.format() == Format::Bf16 && x.dim == DIM && x.is_aligned() && others.iter().all(Slice::is_aligned)
}

/// Strips, and how they are shared among blocks.
pub(super) struct Plan {
    strips: Vec<Words>,
    /// Strips that share their keys: (first strip, end, first key, keys that any of them sees).
    queries: Vec<Words>,
    /// Keys, and the strips that read them: (first key, keys, first strip, end, whether any query does not see them all).
    keys: Vec<Words>,
}

impl Plan {
    /// The plan for sequences by keys.
    pub(super) fn new(groups: &[Vec<&Sequence>]) -> Self {
        let mut plan = Self {
            strips: Vec::new(),
            queries: Vec::new(),
            keys: Vec::new(),
        };
        for group in groups {
            let begin = plan.strips.len();
            for seq in group {
                let firsts = (0..seq.queries.len()).step_by(STRIP);
                plan.strips.extend(firsts.map(|first| words(seq, first, STRIP)));
            }
            let (keys, end) = (&group[0].keys, plan.strips.len());
            let step = even(end - begin);
            for at in (begin..end).step_by(step) {
                let until = end.min(at + step);
                let seen = plan.strips[at..until].iter().map(seen).max().unwrap_or(0);
                plan.queries
                    .push([at as u32, until as u32, keys.start as u32, seen, 0, 0, 0, 0]);
            }
            let causal = usize::from(group.iter().any(|seq| seq.causal_from.is_some()));
            let block = [keys.start, keys.len(), begin, end, causal, 0, 0, 0];
            plan.keys.push(block.map(|word| word as u32));
        }
        plan
    }

    /// A block forward.
    fn forward(&self) -> Tiles {
        let queries = most(&self.queries, |block| block[1] - block[0]);
        let keys = most(&self.queries, |block| block[3]).div_ceil(STRIP).min(MAX_KEYS);
        let warps = queries.div_ceil(2);
        let block = block(warps, forward_bytes(2 * warps, keys));
        Tiles { block, queries, keys }
    }

    /// A block backward.
    fn backward(&self) -> Tiles {
        let strips = most(&self.keys, |block| block[3] - block[2]);
        let queries = strips.clamp(1, MAX_QUERIES_BACKWARD);
        let keys = most(&self.keys, |block| block[1]).div_ceil(STRIP);
        let keys = keys.next_multiple_of(2).clamp(2, MAX_KEYS_BACKWARD);
        let block = block(queries.max(keys / 2), backward_bytes(queries, keys, strips > queries));
        Tiles { block, queries, keys }
    }

    /// Strips of queries whose gradients are sums of parts, because some keys are too many to lie in a block's shared memory
    /// backward: all, if any.
    fn parts(&self) -> usize {
        let few = most(&self.keys, |block| block[1]) <= MAX_KEYS_BACKWARD * STRIP;
        if few { 0 } else { self.strips.len() }
    }
}

/// The largest of a number that blocks have.
fn most(blocks: &[Words], number: impl Fn(&Words) -> u32) -> usize {
    blocks.iter().map(number).max().unwrap_or(0) as usize
}

/// A block of threads, and how many strips it has in shared memory.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    block: Block,
    queries: usize,
    keys: usize,
}

/// How many of `n` strips each block has forward, as evenly as may be.
fn even(n: usize) -> usize {
    n.div_ceil(n.div_ceil(MAX_QUERIES).max(1)).max(1)
}

/// Keys that the last query of a strip sees.
fn seen([_, first, count, _, keys, causal, ..]: &Words) -> u32 {
    if *causal == 0 {
        *keys
    } else {
        *keys.min(&(causal + first + count - 1))
    }
}

fn block(warps: usize, shared_bytes: usize) -> Block {
    Block {
        threads: 32 * warps as u32,
        shared_bytes: Some(shared_bytes as u32),
    }
}

/// A plan whose words lie on the device: those of the queries' blocks, those of the keys', and the strips.
#[derive(Debug, Clone, Copy)]
pub(super) struct Laid {
    pub(super) words: Table,
    /// Which rows of keys any sequence reads.
    pub(super) read: Read,
    queries: u32,
    keys: u32,
    forward: Tiles,
    backward: Tiles,
    /// Strips of queries whose gradients are sums of parts.
    parts: usize,
}

/// Plans of the sequences that were asked for last: more than a network uses in turn.
pub(super) type LaidPlans = Kept<Vec<Sequence>, Laid, 32>;

impl Laid {
    const fn keys_at(&self) -> u64 {
        self.words.address() + (self.queries as usize * size_of::<Words>()) as u64
    }

    const fn strips_at(&self) -> u64 {
        self.keys_at() + (self.keys as usize * size_of::<Words>()) as u64
    }
}

impl Cuda {
    /// The plan for these sequences. The layers of a network ask for the same ones again and again, so they are compared with what
    /// was asked for before, which is less than to plan and compare all strips.
    pub(super) fn laid(&self, seqs: &[Sequence]) -> Laid {
        self.account.of(Work::Tables, || {
            let mut kept = locked(&self.laid);
            if let Some(laid) = kept.find(seqs) {
                return laid;
            }
            let laid = self.lay_plan(seqs);
            let not_kept = if self.has_failed() {
                Some(laid)
            } else {
                kept.keep(seqs.to_vec(), laid)
            };
            self.free(not_kept.map_or(0, |laid| laid.words.address()));
            laid
        })
    }

    fn lay_plan(&self, seqs: &[Sequence]) -> Laid {
        let groups = by_keys(seqs);
        let plan = Plan::new(&groups);
        let words = [&plan.queries[..], &plan.keys, &plan.strips].concat();
        Laid {
            words: self.lay(bytemuck::cast_slice(&words)),
            read: Read::of(&groups),
            queries: plan.queries.len() as u32,
            keys: plan.keys.len() as u32,
            forward: plan.forward(),
            backward: plan.backward(),
            parts: plan.parts(),
        }
    }

    /// The result; `to` are the kernel's arguments for it.
    pub(super) fn flash(&self, x: &Inputs<Slice<'_>>, plan: &Laid, dropout: Option<&Dropout>, to: &[Arg]) {
        let Tiles { block, keys, .. } = plan.forward;
        let inputs = x.args(dropout);
        let args = [
            args![&plan.words, plan.strips_at()],
            &inputs[..],
            to,
            args![x.heads, keys],
        ]
        .concat();
        self.launch(Kernel::Flash, (plan.queries * x.heads as u32, 1), block, &args);
    }

    /// The gradients, each overwritten.
    pub(super) fn flash_backward(
        &self,
        x: &Inputs<Slice<'_>>,
        plan: &Laid,
        dropout: Option<&Dropout>,
        of: &Forward<'_>,
        to: &Addresses,
    ) {
        let Tiles { block, queries, keys } = plan.backward;
        let (inputs, width) = (x.args(dropout), x.width());
        let parts = self.scratch(plan.parts * STRIP * width * size_of::<f32>());
        let from = args![of.dy, of.y, of.kept, of.rows, width];
        let to = args![to.dq, to.dk, to.dv, to.stride, &parts];
        let tiles = args![x.heads, keys, queries];
        let args = [args![plan.keys_at(), plan.strips_at()], &inputs[..], from, to, tiles].concat();
        self.launch(Kernel::FlashBackward, (plan.keys * x.heads as u32, 1), block, &args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dropout::Place;
    use std::ops::Range;

    fn sequence(queries: Range<usize>, keys: Range<usize>, causal_from: Option<usize>) -> Sequence {
        let place = Place { sample: 3, position: 0 };
        Sequence {
            queries,
            keys,
            causal_from,
            place,
        }
    }

    fn plan(seqs: &[Sequence]) -> Plan {
        Plan::new(&by_keys(seqs))
    }

    fn warps(tiles: &Tiles) -> u32 {
        tiles.block.threads / 32
    }

    #[test]
    fn an_image_is_two_blocks_of_nearly_the_same_size_forward_and_one_backward() {
        let plan = plan(&[sequence(0..197, 10..207, None)]);
        assert_eq!(plan.strips.len(), 13);
        assert_eq!(plan.strips[12], [192, 192, 5, 10, 197, 0, 3, 0]);
        assert_eq!(
            plan.queries,
            [[0, 7, 10, 197, 0, 0, 0, 0], [7, 13, 10, 197, 0, 0, 0, 0]]
        );
        assert_eq!(plan.keys, [[10, 197, 0, 13, 0, 0, 0, 0]]);
        let (forward, backward) = (plan.forward(), plan.backward());
        assert_eq!((warps(&forward), forward.keys), (4, 13));
        assert_eq!((warps(&backward), backward.queries, backward.keys), (4, 4, 8));
        assert_eq!(plan.parts(), 13);
    }

    #[test]
    fn texts_that_read_one_image_share_a_block() {
        let seqs = [
            sequence(0..20, 0..197, None),
            sequence(20..25, 197..394, None),
            sequence(25..41, 0..197, None),
        ];
        let plan = plan(&seqs);
        let rows: Vec<u32> = plan.strips.iter().map(|strip| strip[0]).collect();
        assert_eq!(rows, [0, 16, 25, 20]);
        let blocks: Vec<_> = plan.queries.iter().map(|block| (block[0], block[1])).collect();
        assert_eq!(blocks, [(0, 3), (3, 4)]);
        let blocks: Vec<_> = plan.keys.iter().map(|block| (block[2], block[3])).collect();
        assert_eq!(blocks, [(0, 3), (3, 4)]);
    }

    #[test]
    fn what_no_query_of_a_causal_block_sees_is_not_read() {
        let plan = plan(&[sequence(0..200, 0..200, Some(0))]);
        let seen: Vec<u32> = plan.queries.iter().map(|block| block[3]).collect();
        assert_eq!(seen, [112, 200]);
    }

    #[test]
    fn queries_without_keys_are_written_too() {
        let plan = plan(&[sequence(0..3, 5..5, None), sequence(3..4, 0..9, None)]);
        assert_eq!(plan.strips.len(), 2);
        assert!(plan.queries.iter().any(|block| block[3] == 0));
        let mut blocks: Vec<_> = plan.keys.iter().map(|block| (block[1], block[3] - block[2])).collect();
        blocks.sort_unstable();
        assert_eq!(blocks, [(0, 1), (9, 1)]);
    }

    #[test]
    fn a_block_has_a_warp_for_every_pair_of_its_strips_of_keys_and_every_strip_of_queries_at_work() {
        for (queries, keys) in [(1, 1), (1, 197), (40, 3), (200, 33), (197, 197), (577, 577)] {
            let plan = plan(&[sequence(0..queries, 0..keys, None)]);
            let (forward, backward) = (plan.forward(), plan.backward());
            assert!(2 * warps(&forward) as usize >= forward.queries);
            assert!(backward.keys.is_multiple_of(2) && 2 * warps(&backward) as usize >= backward.keys);
            assert!(warps(&backward) as usize >= backward.queries);
            assert_eq!(plan.parts() > 0, backward.keys * STRIP < keys);
        }
    }

    #[test]
    fn no_block_is_larger_than_its_kernel_allows() {
        for n in [1, 16, 17, 112, 128, 129, 197, 224, 225, 577] {
            let plan = plan(&[sequence(0..n, 0..n, None)]);
            let allowed = [(4, MAX_SHARED_BYTES), (4, MAX_BACKWARD_SHARED_BYTES)];
            for (Tiles { block, .. }, (warps, most)) in [plan.forward(), plan.backward()].iter().zip(allowed) {
                assert!(block.shared_bytes.is_some_and(|bytes| bytes <= most));
                assert!(block.threads <= 32 * warps);
            }
        }
    }

    #[test]
    fn a_multiprocessor_has_room_for_three_blocks_forward_and_two_backward() {
        // Each block takes 1 KiB besides its own; an A100 has 164 KiB, a Hopper 228.
        const { assert!(3 * (MAX_SHARED_BYTES + 1024) <= 228 << 10) };
        const { assert!(2 * (MAX_SHARED_BYTES + 1024) <= 164 << 10) };
        const { assert!(2 * (MAX_BACKWARD_SHARED_BYTES + 1024) <= 164 << 10) };
    }
}
