//! The decoder run token by token, with keys and values kept.
//!
//! An image's cross-attention keys and values are computed once per layer, however many texts read them and however long
//! those grow; keys and values of a text's own tokens are kept as it grows. Both stay on the device, each text's in a block that has
//! room for the longest.

use super::beam::{Continuation, Open, Wanted};
use crate::blip::Blip;
use crate::device::{Growth, Repeated, Texts};
use crate::ops::decode::Blocks;
use crate::ops::meter::{self, Part};
use crate::tape::{Tape, Var};
use crate::text::{ImageKeys, Packed, Text};

/// Texts that grow together, a token at a time.
pub(super) struct Decoder<'a, 'b> {
    blip: &'a Blip,
    tape: Tape<'b>,
    mark: usize,
    images: Vec<ImageKeys>,
    /// The image that each text is about.
    image_of: Vec<u32>,
    /// Keys and values of the texts' own tokens in each layer: (texts·room) × width.
    kept: Vec<[Var; 2]>,
    /// Tokens that each text has kept.
    position: usize,
    /// Tokens that a text has room for.
    room: usize,
    /// The step that chooses a token more for each text.
    step: Repeated,
}

/// Tokens that are appended to the texts.
enum Tokens<'a> {
    /// As many to each text: its own, one after the other.
    Given(&'a [u32]),
    /// To each text that goes on its last.
    Last(&'a Texts),
}

impl<'a, 'b> Decoder<'a, 'b> {
    /// An empty text about each of `b` images, with room for so many tokens.
    pub(super) fn new(blip: &'a Blip, mut tape: Tape<'b>, images: Vec<ImageKeys>, b: usize, room: usize) -> Self {
        let width = blip.student.text.heads * blip.student.text.dim;
        let layers = blip.student.text.layers.iter();
        let kept = layers.map(|_| [(); 2].map(|()| tape.room(b * room, width))).collect();
        Self {
            mark: tape.mark(),
            kept,
            image_of: (0..b as u32).collect(),
            position: 0,
            blip,
            tape,
            images,
            room,
            step: Repeated::default(),
        }
    }

    /// Tokens that a text has room for.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Goes on with copies of the texts that `parents` names.
    pub(super) fn select(&mut self, parents: &[usize]) {
        if parents.iter().copied().eq(0..self.image_of.len()) {
            return;
        }
        let parents: Vec<u32> = parents.iter().map(|parent| *parent as u32).collect();
        for kept in self.kept.iter().flatten() {
            self.tape.pick(*kept, &parents, (self.room, self.position));
        }
        self.image_of = parents.iter().map(|parent| self.image_of[*parent as usize]).collect();
        // Of other texts, whose keys and values lie elsewhere, a step is another one.
        self.step = Repeated::default();
    }

    /// Appends the same tokens to every text.
    pub(super) fn prompt(&mut self, tokens: &[u32]) {
        if tokens.is_empty() || self.image_of.is_empty() {
            return;
        }
        let all = tokens.repeat(self.image_of.len());
        self.append(&Tokens::Given(&all), tokens.len());
        self.position += tokens.len();
    }

    /// Texts that begin with these tokens, one for each of the decoder's; see [`Texts::new`].
    pub(super) fn texts(&mut self, start: &[u32], draws: Vec<f32>, growth: Growth) -> Texts {
        self.step = Repeated::default();
        Texts::new(self.tape.device(), start, draws, growth)
    }

    /// Chooses a token more for each text.
    pub(super) fn grow(&mut self, texts: &mut Texts) {
        let (mut step, device) = (std::mem::take(&mut self.step), self.tape.device().clone());
        texts.grow(|texts| step.again(&device, || self.choose(texts)));
        self.step = step;
        self.position += 1;
    }

    /// The operations that choose a token more for each text. On a GPU they are the same for each token.
    fn choose(&mut self, texts: &mut Texts) {
        let x = self.append(&Tokens::Last(texts), 1);
        let _part = meter::part(Part::Heads);
        let logits = self.blip.student.text.predict_exactly(&mut self.tape, x);
        self.tape.choose(logits, texts);
    }

    /// The best continuations of each text: on a GPU this is the one thing that is waited for at every token.
    pub(super) fn continuations(&mut self, open: &[Open], wanted: &Wanted) -> Vec<Vec<Continuation>> {
        let last: Vec<u32> = open.iter().map(|text| text.tokens[text.tokens.len() - 1]).collect();
        let x = self.append(&Tokens::Given(&last), 1);
        let _part = meter::part(Part::Heads);
        let logits = self.blip.student.text.predict_exactly(&mut self.tape, x);
        self.position += 1;
        self.tape.continuations(logits, open, wanted)
    }

    /// Appends `per` tokens to each text, in the place of what was computed for those before; their last hidden states.
    ///
    /// # Shapes
    /// t texts → (t·per) × width
    fn append(&mut self, tokens: &Tokens, per: usize) -> Var {
        let _part = meter::part(Part::Multimodal);
        self.tape.rewind(self.mark);
        let (text, position) = (&self.blip.student.text, self.position);
        let heads = (text.heads, text.dim);
        let texts: Vec<u32> = (0..self.image_of.len() as u32).collect();
        let own = Blocks {
            of: &texts,
            every: self.room,
            per,
            seen: position + 1,
            grows: true,
        };
        let seen = Blocks {
            of: &self.image_of,
            every: self.blip.image_tokens,
            per,
            seen: self.blip.image_tokens,
            grows: false,
        };
        let nowhere = [].into();
        let tape = &mut self.tape;
        let (mut x, growing) = match tokens {
            Tokens::Given(ids) => (text.embed(tape, &following(ids, position, per), None), None),
            Tokens::Last(texts) => (text.embed_last(tape, texts), Some(*texts)),
        };
        for (i, (layer, kept)) in text.layers.iter().zip(&self.kept).enumerate() {
            let block = layer.decoder.as_ref().expect("the student has a decoder");
            let attended = tape.attend_kept((x, block.projections()), *kept, (&own, growing), heads);
            x = Text::output(tape, block, attended, x, &nowhere, None);
            let cross = layer.cross.as_ref().expect("the student has cross-attention");
            let q = cross.query.linear(tape, x);
            let attended = tape.attend_blocks(q, self.images[i], &seen, heads);
            x = Text::output(tape, cross, attended, x, &nowhere, None);
            x = text.feed(tape, (i, layer), x, &nowhere, None);
        }
        x
    }
}

/// Tokens that follow the first `position` of texts, `per` for each.
fn following(ids: &[u32], position: usize, per: usize) -> Packed {
    Packed {
        ids: ids.to_vec(),
        positions: (0..ids.len()).map(|i| (position + i % per) as u32).collect(),
        places: Vec::new(),
        starts: Vec::new(),
    }
}
