//! Texts that grow by sampling, where their logits are computed.
//!
//! On the processor a text that has ended is put aside at once. On a GPU the texts' tokens lie on the device: a token is chosen,
//! embedded and attended to without the host, which therefore queues the next token's work while the present one's is done. The
//! device knows how many tokens there are, so that each is the same work, which can be recorded. Ended texts keep their rows
//! there, so that shapes stay as they are; whether all have ended is asked every few tokens, since each question lets the device
//! run dry.

use super::{Device, Span, SpanMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::generate::nucleus::{self, Sampling};
use crate::ops::embedding;

/// Tokens between two questions whether all texts of a GPU have ended: a question costs some 30 µs of a step's thousand, and as many
/// steps may be made in vain.
#[cfg(feature = "cuda")]
const ASKED_EVERY: usize = 4;

/// How texts grow.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The token that ends a text.
    pub end: u32,
    /// It may not come before a text has this many tokens.
    pub min_tokens: usize,
    /// Most tokens of a text.
    pub room: usize,
    /// Tokens that every text begins with.
    pub start: usize,
}

impl Growth {
    /// The token that may not come as the one with this number.
    pub(crate) fn banned(&self, number: usize) -> Option<u32> {
        (number < self.min_tokens).then_some(self.end)
    }
}

/// Texts of which all that go on have the same number of tokens.
pub struct Texts {
    growth: Growth,
    len: usize,
    store: Store,
}

enum Store {
    Host(Host),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Texts),
}

/// Texts in the memory of the process.
struct Host {
    tokens: Vec<Vec<u32>>,
    log_probabilities: Vec<f32>,
    /// A uniform number for every text and place.
    draws: Vec<f32>,
    /// The texts that go on.
    open: Vec<usize>,
}

impl Host {
    fn choose(&mut self, logits: &mut [f32], len: usize, growth: &Growth) {
        let cols = logits.len() / self.open.len();
        for (&text, logits) in self.open.iter().zip(logits.chunks_exact_mut(cols)) {
            let (tokens, u) = (&mut self.tokens[text], self.draws[text * growth.room + len]);
            let (token, log_probability) = nucleus::next(logits, tokens, growth.banned(len), &growth.sampling, u);
            tokens.push(token);
            self.log_probabilities[text] += log_probability;
        }
    }

    /// Puts ended texts aside; places, among the open ones, of those that go on.
    fn going_on(&mut self, end: u32) -> Vec<usize> {
        let goes_on = |place: &usize| !self.tokens[self.open[*place]].ends_with(&[end]);
        let places: Vec<usize> = (0..self.open.len()).filter(goes_on).collect();
        self.open = places.iter().map(|place| self.open[*place]).collect();
        places
    }
}

impl Texts {
    /// Texts on a device that begin with these tokens. `draws` holds a uniform number for every text and each token it has room for.
    pub fn new(device: &Device, start: &[u32], draws: Vec<f32>, growth: Growth) -> Self {
        let count = draws.len() / growth.room;
        let store = match device {
            Device::Cpu => Store::Host(Host {
                tokens: vec![start.to_vec(); count],
                log_probabilities: vec![0.0; count],
                draws,
                open: (0..count).collect(),
            }),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda, _) => Store::Cuda(cuda::Texts::new(cuda, start, &draws, growth)),
        };
        Self {
            growth,
            len: start.len(),
            store,
        }
    }

    /// The number of tokens of each text, where a GPU alone needs to know it.
    #[cfg(feature = "cuda")]
    pub(super) fn lengths(&self) -> Option<cuda::Slice<'_>> {
        match &self.store {
            Store::Host(_) => None,
            Store::Cuda(texts) => Some(texts.lengths()),
        }
    }

    /// Number of open texts.
    pub fn open(&self) -> usize {
        match &self.store {
            Store::Host(host) => host.open.len(),
            #[cfg(feature = "cuda")]
            Store::Cuda(texts) => texts.count(),
        }
    }

    /// Word plus position embedding of the last token of every open text.
    ///
    /// # Shapes
    /// words: vocabulary × cols; table: positions × cols → open texts × cols
    pub fn embed_last(&self, words: Span, table: Span, cols: usize, y: SpanMut) {
        match &self.store {
            Store::Host(host) => {
                let position = self.len - 1;
                let ids: Vec<u32> = host.open.iter().map(|text| host.tokens[*text][position]).collect();
                let positions = vec![position as u32; ids.len()];
                embedding::embed(&ids, &positions, words.host(), table.host(), cols, y.host());
            }
            #[cfg(feature = "cuda")]
            Store::Cuda(texts) => texts.embed_last(words.cuda(), table.cuda(), cols, y.cuda()),
        }
    }

    /// Chooses the next token of every open text from its logits, which are spent; the host has yet to be told that texts have
    /// [`grown`](Self::grow).
    pub fn choose(&mut self, logits: SpanMut) {
        match &mut self.store {
            Store::Host(host) => host.choose(logits.host(), self.len, &self.growth),
            #[cfg(feature = "cuda")]
            Store::Cuda(texts) => texts.choose(logits.cuda()),
        }
    }

    /// Counts the token that `choice`, called or recorded, chooses for every open text.
    ///
    /// # Panics
    /// If a text has no room for another token.
    pub fn grow(&mut self, choice: impl FnOnce(&mut Self)) {
        assert!(self.len < self.growth.room, "a text has room for another token");
        choice(self);
        self.len += 1;
    }

    /// Which texts stay open, by their places among those that were; none when all have ended.
    pub fn going_on(&mut self) -> Vec<usize> {
        match &mut self.store {
            Store::Host(host) => host.going_on(self.growth.end),
            #[cfg(feature = "cuda")]
            Store::Cuda(texts) => {
                let after = self.len.saturating_sub(self.growth.min_tokens.max(self.growth.start));
                let asks = after > 0 && after.is_multiple_of(ASKED_EVERY);
                let open = if asks && texts.have_ended(self.len) {
                    0
                } else {
                    texts.count()
                };
                (0..open).collect()
            }
        }
    }

    /// The tokens of all texts behind what they began with, without the end; and the sum of the log-probabilities of all that were
    /// chosen.
    pub fn grown(self) -> Vec<(Vec<u32>, f32)> {
        let Growth { start, end, .. } = self.growth;
        let (tokens, log_probabilities) = match self.store {
            Store::Host(host) => (host.tokens, host.log_probabilities),
            #[cfg(feature = "cuda")]
            Store::Cuda(texts) => texts.fetch(self.len),
        };
        let own = |text: Vec<u32>| {
            text[start..]
                .iter()
                .copied()
                .take_while(|token| *token != end)
                .collect()
        };
        tokens.into_iter().map(own).zip(log_probabilities).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::nucleus::GREEDY;

    const END: u32 = 3;

    /// Two texts that begin with token 1 and have room for three.
    fn two() -> Texts {
        let growth = Growth {
            sampling: GREEDY,
            end: END,
            min_tokens: 0,
            room: 3,
            start: 1,
        };
        Texts::new(&Device::Cpu, &[1], vec![0.5; 6], growth)
    }

    fn grow(texts: &mut Texts, logits: &[f32]) {
        let mut logits = logits.to_vec();
        texts.grow(|texts| texts.choose(logits.as_mut_slice().into()));
    }

    #[test]
    fn a_text_that_has_ended_is_put_aside_and_the_others_go_on() {
        let mut texts = two();
        grow(&mut texts, &[0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 9.0, 0.0]);
        assert_eq!((texts.going_on(), texts.open()), (vec![1], 1));
        grow(&mut texts, &[9.0, 0.0, 0.0, 0.0]);
        let tokens: Vec<Vec<u32>> = texts.grown().into_iter().map(|(tokens, _)| tokens).collect();
        assert_eq!(tokens, [vec![], vec![2, 0]]);
    }

    #[test]
    #[should_panic(expected = "room for another token")]
    fn a_text_does_not_outgrow_its_room() {
        let mut texts = two();
        (0..3).for_each(|_| grow(&mut texts, &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]));
    }
}
