//! Tokens chosen where their logits lie: [`generate::nucleus`](crate::generate::nucleus) and the ranking of
//! [`generate::beam`](crate::generate::beam).
//!
//! What a choice depends on is the same as on the processor, the order among equal logits included; sums are others, so that a draw
//! that falls within rounding of the border of two tokens may give the other one. A row is not sorted: see `kernels/sample.cu`, and
//! `generate/descent.rs` for the same in Rust, which a test compares with the plain definition.

use super::Cuda;
use super::format::single;
use super::launch::{Block, Kernel, THREADS, args, rows_grid};
use super::memory::{Memory, Slice, SliceMut};
use crate::device::Growth;
use crate::generate::beam::{Continuation, Open, Wanted};
use std::sync::Arc;

/// Threads of a block that chooses.
const WIDE: u32 = 1024;

/// A block that chooses among the tokens that follow at most `len` others.
fn wide(len: usize) -> Block {
    Block {
        threads: WIDE,
        shared_bytes: Some((len * size_of::<f32>()) as u32),
    }
}

/// Texts that grow on the device. How long they are is known there too: the kernels of a step have the same arguments whenever it
/// is done.
pub(crate) struct Texts {
    cuda: Arc<Cuda>,
    growth: Growth,
    count: usize,
    /// The highest token that they begin or end with.
    highest: u32,
    /// The bits of all texts' tokens, as many as each has room for.
    tokens: Memory,
    /// The bits of the number of tokens that each text has.
    lengths: Memory,
    /// A uniform number for each.
    draws: Memory,
    log_probabilities: Memory,
}

impl Texts {
    /// Texts that begin with these tokens.
    pub(crate) fn new(cuda: &Arc<Cuda>, start: &[u32], draws: &[f32], growth: Growth) -> Self {
        let count = draws.len() / growth.room;
        assert!(
            !start.is_empty() && start.len() < growth.room && count * growth.room == draws.len(),
            "texts have a first token and room for another"
        );
        let mut text = vec![growth.end; growth.room];
        text[..start.len()].copy_from_slice(start);
        let up = |values: &[f32]| {
            let mut memory = cuda.memory(values.len());
            cuda.upload(values, memory.slice_mut());
            memory
        };
        let up_bits = |bits: &[u32]| up(bytemuck::cast_slice(bits));
        Self {
            cuda: cuda.clone(),
            tokens: up_bits(&text.repeat(count)),
            lengths: up_bits(&vec![start.len() as u32; count]),
            draws: up(draws),
            log_probabilities: up(&vec![0.0; count]),
            highest: start.iter().fold(growth.end, |highest, token| highest.max(*token)),
            growth,
            count,
        }
    }

    /// Number of texts.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The bits of the number of tokens of each text.
    pub(crate) const fn lengths(&self) -> Slice<'_> {
        self.lengths.slice()
    }

    /// `y[i] = words[last token of text i] + table[its position]` for rows of `cols`.
    pub(crate) fn embed_last(&self, words: Slice<'_>, table: Slice<'_>, cols: usize, y: SliceMut<'_>) {
        // The last place of a text is for a token that is chosen and not read.
        assert!(
            (self.growth.room - 1) * cols <= table.len() && self.highest as usize * cols < words.len(),
            "a token has its word and its position"
        );
        assert!(self.count * cols <= y.len(), "the rows leave their slice");
        single("embed", &[&words, &table]);
        let aligned = words.is_aligned() && table.is_aligned() && y.has_aligned_rows(cols);
        let (rows, format) = (self.count, y.format());
        let (tokens, room, lengths) = (self.tokens.slice(), self.growth.room, self.lengths());
        let args = args![words, table, tokens, room, lengths, &y, rows, cols, aligned];
        let grid = rows_grid(rows, cols, format);
        self.cuda.launch(Kernel::EmbedLast.of(format), grid, THREADS, args);
    }

    /// Chooses a token more for every text, which has room for it, from its logits, which are spent.
    pub(crate) fn choose(&mut self, logits: SliceMut<'_>) {
        let cols = logits.len().checked_div(self.count).unwrap_or(0);
        let growth = &self.growth;
        assert!((self.highest as usize) < cols, "a token has its logit");
        single("choose", &[&logits]);
        let sampling = &growth.sampling;
        let args = args![
            &logits,
            cols,
            &self.tokens.slice_mut(),
            growth.room,
            &self.lengths.slice_mut(),
            growth.start,
            growth.end,
            growth.min_tokens,
            sampling.repetition_penalty,
            sampling.top_k,
            sampling.top_p,
            self.draws.slice(),
            &self.log_probabilities.slice_mut(),
        ];
        let grid = (self.count as u32, 1);
        self.cuda.launch(Kernel::Choose, grid, wide(growth.room), args);
    }

    /// Whether the last of the first `len` tokens of every text is its end; waits for the device.
    pub(crate) fn have_ended(&self, len: usize) -> bool {
        let tokens = self.download(&self.tokens);
        let mut texts = tokens.chunks_exact(self.growth.room);
        texts.all(|text| text[len - 1].to_bits() == self.growth.end)
    }

    /// The first `len` tokens of each text and the sums of their log-probabilities. After an error they are not numbers.
    pub(crate) fn fetch(&self, len: usize) -> (Vec<Vec<u32>>, Vec<f32>) {
        let tokens = self.download(&self.tokens);
        let texts = tokens.chunks_exact(self.growth.room);
        let bits = |text: &[f32]| text[..len].iter().map(|token| token.to_bits()).collect();
        (texts.map(bits).collect(), self.download(&self.log_probabilities))
    }

    fn download(&self, memory: &Memory) -> Vec<f32> {
        let mut copy = vec![0.0; memory.len()];
        self.cuda.download(memory.slice(), &mut copy);
        copy
    }
}

impl Cuda {
    /// The best continuations of each text, by the logits of their next tokens, which are spent. Waits for the device.
    pub(crate) fn continuations(
        &self,
        logits: SliceMut<'_>,
        open: &[Open<'_>],
        wanted: &Wanted,
    ) -> Vec<Vec<Continuation>> {
        let cols = logits.len().checked_div(open.len()).unwrap_or(0);
        let (len, most) = (open.first().map_or(0, |text| text.tokens.len()), wanted.most.min(cols));
        let fits = |text: &Open| text.tokens.len() == len && text.tokens.iter().all(|token| (*token as usize) < cols);
        assert!(
            open.iter().all(fits),
            "texts are equally long, and their tokens have logits"
        );
        single("continuations", &[&logits]);
        let mut words: Vec<u32> = open.iter().flat_map(|text| text.tokens).copied().collect();
        words.extend(open.iter().map(|text| text.sum.to_bits()));
        let words = self.bring(&words);
        let mut found = vec![[0u32; 3]; open.len() * most];
        let there = self.scratch(size_of_val(&found[..]));
        let (banned, penalty) = (wanted.banned.unwrap_or(u32::MAX), wanted.repetition_penalty);
        let args = args![&logits, cols, &words, len, banned, penalty, most, &there];
        self.launch(Kernel::Best, (open.len() as u32, 1), wide(len), args);
        if found.is_empty() || !self.fetch(there.address(), &mut found) {
            // Nothing that follows is used: the device's error is.
            return vec![Vec::new(); open.len()];
        }
        let continuation = |[token, sum, log_probability]: &[u32; 3]| Continuation {
            token: *token,
            sum: f32::from_bits(*sum),
            log_probability: f32::from_bits(*log_probability),
        };
        let of_text = |found: &[[u32; 3]]| found.iter().map(continuation).collect();
        found.chunks_exact(most).map(of_text).collect()
    }
}
