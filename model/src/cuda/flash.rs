//! Attention on tensor cores: bf16, heads of 64 columns.
//!
//! A strip is up to 16 queries of one sequence, or 16 keys. A block has strips of all sequences that read the same keys, as many as fit,
//! and goes through the keys: forward two strips to a warp, for the gradients of queries one. For those of keys and values a block
//! has strips of keys, one to a warp, and goes through all strips of queries that read them. The strips of sequences with the same keys
//! lie side by side, in the order of the sequences, in which the gradients of keys and values are summed.

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
/// Strips of a block, queries or keys: forward a warp has two, backward one.
const MAX_STRIPS: usize = 8;
/// Strips of keys in shared memory at once forward: 224 keys, so that an image of 197 tokens is one lot.
const MAX_KEYS: usize = 14;
/// Strips of a tile, of which a block may have two pairs backward: one at work, one on its way.
const TILE: usize = 4;

/// Bytes of a strip in shared memory.
const STRIP_BYTES: usize = STRIP * DIM * Format::Bf16.size();
/// Bytes of a pair of tiles in shared memory.
const PAIR_BYTES: usize = 2 * TILE * STRIP_BYTES;
/// Bytes of what backward knows of a strip's rows.
const KNOWN_BYTES: usize = STRIP * 2 * size_of::<f32>();
/// Bytes of what is drawn for 16 queries and 16 keys: one from each lane.
const DRAWN_BYTES: usize = 32;

/// Shared memory of the largest block forward.
pub(super) const MAX_SHARED_BYTES: u32 = forward_bytes(MAX_STRIPS, MAX_KEYS) as u32;
/// Shared memory of the largest block for the gradients of queries.
pub(super) const MAX_QUERIES_SHARED_BYTES: u32 = queries_bytes(MAX_STRIPS, 2) as u32;
/// Shared memory of the largest block for the gradients of keys and values.
pub(super) const MAX_KEYS_SHARED_BYTES: u32 = keys_bytes(MAX_STRIPS, 2) as u32;

/// Strips of queries, of keys and of values.
const fn forward_bytes(queries: usize, keys: usize) -> usize {
    (queries + 2 * keys) * STRIP_BYTES
}

/// Strips of queries and of their gradients, what is known of them, and pairs of tiles of keys and values.
const fn queries_bytes(queries: usize, pairs: usize) -> usize {
    queries * (2 * STRIP_BYTES + KNOWN_BYTES) + pairs * PAIR_BYTES
}

/// Strips of keys and of values, and pairs of tiles of queries and of their gradients, with what is known of them and was drawn for
/// them and the keys of a whole block.
const fn keys_bytes(keys: usize, pairs: usize) -> usize {
    keys * 2 * STRIP_BYTES + pairs * (PAIR_BYTES + TILE * (KNOWN_BYTES + MAX_STRIPS * DRAWN_BYTES))
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
    /// Keys, and the strips that read them: (first key, its number in the sequences, keys, first strip, end, whether
    /// any query does not see them all).
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
            let step = even(keys.len().div_ceil(STRIP)) * STRIP;
            for first in (0..keys.len()).step_by(step) {
                let count = step.min(keys.len() - first);
                let block = [keys.start + first, first, count, begin, end, causal, 0, 0];
                plan.keys.push(block.map(|word| word as u32));
            }
        }
        plan
    }

    /// A block forward, and how many strips of keys it has in shared memory at once.
    fn forward(&self) -> (Block, usize) {
        let keys = most(&self.queries, |block| block[3]).div_ceil(STRIP).min(MAX_KEYS);
        let warps = self.most_queries().div_ceil(2);
        (block(warps, forward_bytes(2 * warps, keys)), keys)
    }

    /// A block for the gradients of queries.
    fn of_queries(&self) -> Block {
        let (warps, keys) = (self.most_queries(), most(&self.queries, |block| block[3]));
        block(warps, queries_bytes(warps, pairs(keys.div_ceil(STRIP))))
    }

    /// A block for the gradients of keys and values.
    fn of_keys(&self) -> Block {
        let warps = most(&self.keys, |block| block[2]).div_ceil(STRIP);
        block(
            warps,
            keys_bytes(warps, pairs(most(&self.keys, |block| block[4] - block[3]))),
        )
    }

    /// Strips of keys that a strip of queries may have.
    fn key_strips(&self) -> usize {
        most(&self.keys, |block| block[1] + block[2]).div_ceil(STRIP)
    }

    /// Most strips of queries of a block.
    fn most_queries(&self) -> usize {
        most(&self.queries, |block| block[1] - block[0])
    }
}

/// How many pairs of tiles a block needs for so many strips.
fn pairs(strips: usize) -> usize {
    if strips > TILE { 2 } else { 1 }
}

/// The largest of a number that blocks have.
fn most(blocks: &[Words], number: impl Fn(&Words) -> u32) -> usize {
    blocks.iter().map(number).max().unwrap_or(0) as usize
}

/// How many of `n` strips each block has, as evenly as may be.
fn even(n: usize) -> usize {
    n.div_ceil(n.div_ceil(MAX_STRIPS).max(1)).max(1)
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
    forward: Block,
    /// Strips of keys that a block has in shared memory at once forward.
    panel: usize,
    of_queries: Block,
    of_keys: Block,
    strips: usize,
    /// Strips of keys that a strip of queries may have.
    key_strips: usize,
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
        let (forward, panel) = plan.forward();
        let words = [&plan.queries[..], &plan.keys, &plan.strips].concat();
        Laid {
            words: self.lay(bytemuck::cast_slice(&words)),
            read: Read::of(&groups),
            queries: plan.queries.len() as u32,
            keys: plan.keys.len() as u32,
            forward,
            panel,
            of_queries: plan.of_queries(),
            of_keys: plan.of_keys(),
            strips: plan.strips.len(),
            key_strips: plan.key_strips(),
        }
    }

    /// The result; `to` are the kernel's arguments for it.
    pub(super) fn flash(&self, x: &Inputs<Slice<'_>>, plan: &Laid, dropout: Option<&Dropout>, to: &[Arg]) {
        let inputs = x.args(dropout);
        let tail = args![x.heads, plan.panel];
        let args = [args![&plan.words, plan.strips_at()], &inputs[..], to, tail].concat();
        self.launch(Kernel::Flash, (plan.queries * x.heads as u32, 1), plan.forward, &args);
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
        let (inputs, width) = (x.args(dropout), x.width());
        let known = self.scratch(x.heads * of.rows * 2 * size_of::<f32>());
        let drawn = dropout.map_or(0, |_| plan.strips * x.heads * plan.key_strips * DRAWN_BYTES);
        let (drawn, key_strips) = (self.scratch(drawn), plan.key_strips);
        let own = args![
            of.dy, of.y, of.kept, &known, of.rows, width, to.dq, to.stride, &drawn, key_strips
        ];
        let args = [args![&plan.words, plan.strips_at()], &inputs[..], own].concat();
        let grid = (plan.queries, x.heads as u32);
        self.launch(Kernel::FlashQueries, grid, plan.of_queries, &args);
        let own = args![
            of.dy, &known, of.rows, width, to.dk, to.dv, to.stride, &drawn, key_strips
        ];
        let args = [args![plan.keys_at(), plan.strips_at()], &inputs[..], own].concat();
        self.launch(Kernel::FlashKeys, (plan.keys, x.heads as u32), plan.of_keys, &args);
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

    fn warps(block: Block) -> usize {
        block.threads as usize / 32
    }

    #[test]
    fn an_image_is_two_blocks_of_nearly_the_same_size() {
        let plan = plan(&[sequence(0..197, 10..207, None)]);
        assert_eq!(plan.strips.len(), 13);
        assert_eq!(plan.strips[12], [192, 192, 5, 10, 197, 0, 3, 0]);
        assert_eq!(
            plan.queries,
            [[0, 7, 10, 197, 0, 0, 0, 0], [7, 13, 10, 197, 0, 0, 0, 0]]
        );
        assert_eq!(
            plan.keys,
            [[10, 0, 112, 0, 13, 0, 0, 0], [122, 112, 85, 0, 13, 0, 0, 0]]
        );
        let (forward, panel) = plan.forward();
        assert_eq!((warps(forward), panel), (4, 13));
        assert_eq!((warps(plan.of_queries()), warps(plan.of_keys())), (7, 7));
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
        assert!(
            plan.keys
                .iter()
                .all(|block| (block[3], block[4]) == if block[0] < 197 { (0, 3) } else { (3, 4) })
        );
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
        assert_eq!(plan.keys.len(), 1);
        assert!(plan.queries.iter().any(|block| block[3] == 0));
    }

    #[test]
    fn a_block_has_warps_for_all_its_strips_and_no_more_memory_than_is_allowed() {
        for (queries, keys) in [
            (1, 1),
            (1, 197),
            (40, 3),
            (128, 128),
            (129, 225),
            (197, 197),
            (577, 577),
        ] {
            let plan = plan(&[sequence(0..queries, 0..keys, None)]);
            let (forward, panel) = plan.forward();
            let blocks = [forward, plan.of_queries(), plan.of_keys()];
            for (block, most) in blocks
                .iter()
                .zip([MAX_SHARED_BYTES, MAX_QUERIES_SHARED_BYTES, MAX_KEYS_SHARED_BYTES])
            {
                assert!(block.shared_bytes.is_some_and(|bytes| bytes <= most));
            }
            let [of_forward, of_queries, of_keys] = blocks.map(warps);
            assert!(of_forward <= MAX_STRIPS / 2 && of_queries.max(of_keys) <= MAX_STRIPS);
            for block in &plan.queries {
                let strips = (block[1] - block[0]) as usize;
                assert!(strips <= of_queries && strips <= 2 * of_forward);
            }
            for block in &plan.keys {
                let [_, first, count, ..] = block.map(|word| word as usize);
                assert!(first.is_multiple_of(STRIP) && count <= of_keys * STRIP);
                assert!(first + count <= plan.key_strips() * STRIP);
            }
            assert!(panel > 0 && panel <= keys.div_ceil(STRIP));
        }
    }

    #[test]
    fn a_multiprocessor_has_room_for_three_blocks_forward_and_two_backward() {
        // Each block takes 1 KiB besides its own; an A100 has 164 KiB, a Hopper 228.
        const { assert!(3 * (MAX_SHARED_BYTES + 1024) <= 228 << 10) };
        const { assert!(2 * (MAX_SHARED_BYTES + 1024) <= 164 << 10) };
        const { assert!(2 * (MAX_QUERIES_SHARED_BYTES + 1024) <= 164 << 10) };
        const { assert!(2 * (MAX_KEYS_SHARED_BYTES + 1024) <= 164 << 10) };
    }
}
