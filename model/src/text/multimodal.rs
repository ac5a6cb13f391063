//! The multimodal layers: texts that read images, for matching and for generation, in one packed batch.

use super::{Layer, Packed, Site, Text};
use crate::ops::attention::Sequence;
use crate::ops::dropout::Place;
use crate::random::Stream;
use crate::tape::{Head, Tape, Var};
use std::rc::Rc;

/// Keys and values of the images in one layer.
#[derive(Debug, Clone, Copy)]
pub struct ImageKeys {
    /// Keys, (images·n) × d.
    pub keys: Var,
    /// Values, (images·n) × d.
    pub values: Var,
}

/// Images that the sequences of a packed batch attend to.
#[derive(Debug, Clone)]
pub struct Grounding {
    /// The image of each text.
    pub image_of: Vec<u32>,
    /// Tokens of an image.
    pub tokens: usize,
}

impl Text {
    /// Keys and values of every layer's cross-attention, computed once for all texts that read these images.
    ///
    /// # Shapes
    /// images: (images·n) × width of the image tower
    pub fn image_keys(&self, tape: &mut Tape, images: Var) -> Vec<ImageKeys> {
        let cross = self
            .layers
            .iter()
            .map(|layer| layer.cross.expect("the momentum encoder has no cross-attention"));
        cross
            .map(|cross| ImageKeys {
                keys: cross.key.linear(tape, images),
                values: cross.value.linear(tape, images),
            })
            .collect()
    }

    /// The multimodal layers over matching texts and generated texts as one packed batch: self-attention by each with its
    /// own weights, cross-attention and feed-forward over all rows at once.
    ///
    /// Returns the first token's state of each matching text and every state of the generated ones.
    ///
    /// # Shapes
    /// m matching and g generated texts → m × d, (rows of g) × d
    pub fn multimodal(
        &self,
        tape: &mut Tape,
        matching: (&Packed, &Grounding),
        generated: (&Packed, &Grounding),
        images: &[ImageKeys],
        dropout: Option<Stream>,
    ) -> (Option<Var>, Option<Var>) {
        let embedded = self.embed_both(tape, matching.0, generated.0, dropout);
        let (mut m, mut g) = split(tape, embedded, matching.0.ids.len(), generated.0.ids.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let texts = [matching, generated];
            (m, g) = tape.scope(|tape| self.multimodal_layer(tape, (i, layer), (m, g), texts, images[i], dropout));
        }
        (m, g)
    }

    /// One of these layers; the last computes of matching texts their first tokens alone.
    fn multimodal_layer(
        &self,
        tape: &mut Tape,
        (i, layer): (usize, &Layer),
        (m, g): (Option<Var>, Option<Var>),
        [matching, generated]: [(&Packed, &Grounding); 2],
        images: ImageKeys,
        dropout: Option<Stream>,
    ) -> (Option<Var>, Option<Var>) {
        let first_only = i + 1 == self.layers.len();
        let decoder = layer.decoder.as_ref().expect("the momentum encoder has no decoder");
        let m = m.map(|m| self.self_attention(tape, (i, &layer.encoder), m, matching.0, (false, first_only), dropout));
        let g = g.map(|g| self.self_attention(tape, (i, decoder), g, generated.0, (true, false), dropout));
        let m_rows = m.map_or(0, |m| tape.dims(m).0);
        let g_rows = g.map_or(0, |g| tape.dims(g).0);
        let x = join(tape, m, g);
        let places: Rc<[Place]> = if first_only {
            matching
                .0
                .first_places()
                .iter()
                .chain(&generated.0.places)
                .copied()
                .collect()
        } else {
            matching.0.places.iter().chain(&generated.0.places).copied().collect()
        };
        let mut seqs = cross_sequences(matching.0, matching.1, 0, first_only);
        seqs.extend(cross_sequences(generated.0, generated.1, m_rows, false));
        let x = self.cross_attention(tape, (i, layer), x, images, &seqs.into(), &places, dropout);
        let x = self.feed(tape, (i, layer), x, &places, dropout);
        split(tape, x, m_rows, g_rows)
    }

    fn embed_both(&self, tape: &mut Tape, m: &Packed, g: &Packed, dropout: Option<Stream>) -> Var {
        let both = Packed {
            ids: [&m.ids[..], &g.ids].concat(),
            positions: [&m.positions[..], &g.positions].concat(),
            places: [&m.places[..], &g.places].concat(),
            starts: Vec::new(),
        };
        self.embed(tape, &both, dropout)
    }

    fn cross_attention(
        &self,
        tape: &mut Tape,
        (index, layer): (usize, &Layer),
        x: Var,
        images: ImageKeys,
        seqs: &Rc<[Sequence]>,
        places: &Rc<[Place]>,
        dropout: Option<Stream>,
    ) -> Var {
        let cross = layer
            .cross
            .as_ref()
            .expect("the momentum encoder has no cross-attention");
        let q = cross.query.linear(tape, x);
        let probabilities = self.dropout(dropout, index, Site::CrossProbabilities);
        let qkv = [q, images.keys, images.values].map(Head::from);
        let attended = self.attend(tape, qkv, seqs, probabilities);
        Self::output(
            tape,
            cross,
            attended,
            x,
            places,
            self.dropout(dropout, index, Site::Cross),
        )
    }
}

/// Each text reads its image; rows of the texts begin at `offset`.
fn cross_sequences(texts: &Packed, grounding: &Grounding, offset: usize, first_only: bool) -> Vec<Sequence> {
    let n = grounding.tokens;
    let sequence = |i: usize| {
        let rows = if first_only { i..i + 1 } else { texts.rows(i) };
        let image = grounding.image_of[i] as usize;
        Sequence {
            queries: rows.start + offset..rows.end + offset,
            keys: image * n..(image + 1) * n,
            causal_from: None,
            place: texts.place(i),
        }
    };
    (0..texts.len()).map(sequence).collect()
}

fn join(tape: &mut Tape, a: Option<Var>, b: Option<Var>) -> Var {
    match (a, b) {
        (Some(a), Some(b)) => tape.stack(a, b),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => unreachable!("a multimodal pass has texts"),
    }
}

/// The first `a` rows and the other `b` rows; nothing where there are none.
fn split(tape: &mut Tape, x: Var, a: usize, b: usize) -> (Option<Var>, Option<Var>) {
    match (a, b) {
        (_, 0) => (Some(x), None),
        (0, _) => (None, Some(x)),
        _ => {
            let head: Rc<[u32]> = (0..a as u32).collect();
            let tail: Rc<[u32]> = (a as u32..(a + b) as u32).collect();
            (Some(tape.rows(x, &head)), Some(tape.rows(x, &tail)))
        }
    }
}
