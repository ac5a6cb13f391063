//! The text towers: a BERT whose encoder and decoder share all but self-attention (BLIP, section 3.1).
//!
//! Texts are *packed*: their tokens stand one after the other without padding, and [`Packed`] knows where each begins.
//! Axes: r rows (tokens), d width.

mod multimodal;
mod packed;

pub use multimodal::{Grounding, ImageKeys};
pub use packed::Packed;

use crate::device::Texts;
use crate::layout::{Layout, ParamId};
use crate::ops::attention::Sequence;
use crate::ops::dropout::{Dropout, Place};
use crate::random::Stream;
use crate::tape::{Head, Projections, Tape, Var};
use crate::vision::Pair;
use medley_protocol::spec::TextSpec;
use std::rc::Rc;

/// ε of BERT's layer norms.
const EPS: f32 = 1e-12;

/// One attention block: projections, output and its layer norm.
#[derive(Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) query: Pair,
    pub(crate) key: Pair,
    pub(crate) value: Pair,
    dense: Pair,
    norm: Pair,
}

impl Attention {
    fn of(layout: &Layout, name: &str) -> Self {
        let of = |part: &str| Pair::of(layout, &format!("{name}.{part}"));
        Self {
            query: of("self.query"),
            key: of("self.key"),
            value: of("self.value"),
            dense: of("output.dense"),
            norm: of("output.LayerNorm"),
        }
    }

    /// Queries, keys and values.
    pub(crate) fn projections(&self) -> Projections {
        let of = [self.query, self.key, self.value];
        Projections {
            w: of.map(|pair| pair.w),
            b: of.map(|pair| pair.b),
        }
    }
}

pub(crate) struct Layer {
    pub(crate) encoder: Attention,
    /// Absent from the momentum encoder.
    pub(crate) decoder: Option<Attention>,
    /// Absent from the momentum encoder.
    pub(crate) cross: Option<Attention>,
    intermediate: Pair,
    output: Pair,
    norm: Pair,
}

/// The language-modelling head: transform, then the word matrix and a bias.
#[derive(Clone, Copy)]
struct Predictions {
    dense: Pair,
    norm: Pair,
    bias: ParamId,
}

/// The text towers over one layout.
pub struct Text {
    pub(crate) heads: usize,
    pub(crate) dim: usize,
    rate: f32,
    pub(crate) word: ParamId,
    pub(crate) position: ParamId,
    norm: Pair,
    pub(crate) layers: Vec<Layer>,
    predictions: Option<Predictions>,
}

/// Sites of dropout within a layer; the embeddings have site 0.
#[derive(Clone, Copy)]
enum Site {
    Probabilities = 1,
    Attention = 2,
    CrossProbabilities = 3,
    Cross = 4,
    Feed = 5,
}

/// Numbers of sites per layer.
const SITES: u64 = 8;

impl Text {
    /// The towers whose parameters `layout` names: the momentum encoder's has neither decoder nor cross-attention.
    pub fn new(spec: &TextSpec, layout: &Layout) -> Self {
        let full = layout.find("text_decoder.cls.predictions.bias");
        let layer = |i: u32| {
            let name = format!("text_encoder.encoder.layer.{i}");
            let decoder = format!("text_decoder.bert.encoder.layer.{i}.attention");
            Layer {
                encoder: Attention::of(layout, &format!("{name}.attention")),
                decoder: full.map(|_| Attention::of(layout, &decoder)),
                cross: full.map(|_| Attention::of(layout, &format!("{name}.crossattention"))),
                intermediate: Pair::of(layout, &format!("{name}.intermediate.dense")),
                output: Pair::of(layout, &format!("{name}.output.dense")),
                norm: Pair::of(layout, &format!("{name}.output.LayerNorm")),
            }
        };
        let predictions = |bias| Predictions {
            dense: Pair::of(layout, "text_decoder.cls.predictions.transform.dense"),
            norm: Pair::of(layout, "text_decoder.cls.predictions.transform.LayerNorm"),
            bias,
        };
        Self {
            heads: spec.heads as usize,
            dim: (spec.width / spec.heads) as usize,
            rate: spec.dropout as f32,
            word: layout.id("text_encoder.embeddings.word_embeddings.weight"),
            position: layout.id("text_encoder.embeddings.position_embeddings.weight"),
            norm: Pair::of(layout, "text_encoder.embeddings.LayerNorm"),
            layers: (0..spec.depth).map(layer).collect(),
            predictions: full.map(predictions),
        }
    }

    fn dropout(&self, stream: Option<Stream>, layer: usize, site: Site) -> Option<Dropout> {
        self.dropout_at(stream, SITES * (layer as u64 + 1) + site as u64)
    }

    fn dropout_at(&self, stream: Option<Stream>, site: u64) -> Option<Dropout> {
        stream.filter(|_| self.rate > 0.0).map(|stream| Dropout {
            stream: stream.at(site),
            rate: self.rate,
        })
    }

    /// Embeddings of packed texts.
    ///
    /// # Shapes
    /// r tokens → r × d
    pub(crate) fn embed(&self, tape: &mut Tape, texts: &Packed, dropout: Option<Stream>) -> Var {
        let (ids, positions) = (texts.ids.clone().into(), texts.positions.clone().into());
        let x = tape.embed(&ids, &positions, self.word, self.position);
        let x = self.norm.norm(tape, x, EPS);
        tape.dropout(x, self.dropout_at(dropout, 0), &texts.places.clone().into())
    }

    /// Embeddings of the last token of each text that goes on.
    ///
    /// # Shapes
    /// t texts → t × d
    pub(crate) fn embed_last(&self, tape: &mut Tape, texts: &Texts) -> Var {
        let x = tape.embed_last(texts, self.word, self.position);
        self.norm.norm(tape, x, EPS)
    }

    /// The unimodal encoder: the first token's state of each text.
    ///
    /// # Shapes
    /// t texts → t × d
    pub fn encode(&self, tape: &mut Tape, texts: &Packed, dropout: Option<Stream>) -> Var {
        let mut x = self.embed(tape, texts, dropout);
        let mut places: Rc<[Place]> = texts.places.clone().into();
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            let first_only = i == last;
            if first_only {
                places = texts.first_places();
            }
            x = tape.scope(|tape| {
                let x = self.self_attention(tape, (i, &layer.encoder), x, texts, (false, first_only), dropout);
                self.feed(tape, (i, layer), x, &places, dropout)
            });
        }
        x
    }

    /// Self-attention block of one layer; with `first_only`, of each text's first token alone.
    fn self_attention(
        &self,
        tape: &mut Tape,
        (index, block): (usize, &Attention),
        x: Var,
        texts: &Packed,
        (causal, first_only): (bool, bool),
        dropout: Option<Stream>,
    ) -> Var {
        let seqs = texts.self_sequences(causal, first_only);
        let (asking, places, qkv) = if first_only {
            let asking = tape.rows(x, &texts.firsts());
            let of = [(block.query, asking), (block.key, x), (block.value, x)];
            let qkv = of.map(|(pair, x)| pair.linear(tape, x).into());
            (asking, texts.first_places(), qkv)
        } else {
            (x, texts.places.clone().into(), tape.project(x, block.projections()))
        };
        let probabilities = self.dropout(dropout, index, Site::Probabilities);
        let attended = self.attend(tape, qkv, &seqs, probabilities);
        Self::output(
            tape,
            block,
            attended,
            asking,
            &places,
            self.dropout(dropout, index, Site::Attention),
        )
    }

    pub(crate) fn attend(
        &self,
        tape: &mut Tape,
        [q, k, v]: [Head; 3],
        seqs: &Rc<[Sequence]>,
        dropout: Option<Dropout>,
    ) -> Var {
        tape.attention((q, k, v), (self.heads, self.dim), seqs, dropout)
    }

    /// LayerNorm(dropout(dense(attended)) + residual).
    pub(crate) fn output(
        tape: &mut Tape,
        block: &Attention,
        attended: Var,
        residual: Var,
        places: &Rc<[Place]>,
        dropout: Option<Dropout>,
    ) -> Var {
        let y = block.dense.linear(tape, attended);
        let y = tape.dropout(y, dropout, places);
        block.norm.add_norm(tape, y, residual, EPS).1
    }

    /// Feed-forward block of one layer.
    pub(crate) fn feed(
        &self,
        tape: &mut Tape,
        (index, layer): (usize, &Layer),
        x: Var,
        places: &Rc<[Place]>,
        dropout: Option<Stream>,
    ) -> Var {
        let hidden = layer.intermediate.linear(tape, x);
        let hidden = tape.gelu(hidden);
        let y = layer.output.linear(tape, hidden);
        let y = tape.dropout(y, self.dropout(dropout, index, Site::Feed), places);
        layer.norm.add_norm(tape, y, x, EPS).1
    }

    /// Weights that are factors of products and nothing else.
    pub(crate) fn factors(&self) -> impl Iterator<Item = ParamId> {
        let of_layer = |layer: &Layer| {
            let attentions = [Some(layer.encoder), layer.decoder, layer.cross].into_iter().flatten();
            let projections = attentions.flat_map(|block| [block.query, block.key, block.value, block.dense]);
            projections.chain([layer.intermediate, layer.output])
        };
        let head = self.predictions.map(|head| head.dense);
        self.layers.iter().flat_map(of_layer).chain(head).map(|pair| pair.w)
    }

    /// Logits over the vocabulary.
    ///
    /// # Shapes
    /// r × d → r × vocabulary
    pub fn predict(&self, tape: &mut Tape, x: Var) -> Var {
        let (x, bias) = self.transform(tape, x);
        tape.linear(x, self.word, Some(bias))
    }

    /// As [`predict`](Self::predict), in single precision on every device, so that what is close stays apart.
    pub(crate) fn predict_exactly(&self, tape: &mut Tape, x: Var) -> Var {
        let (x, bias) = self.transform(tape, x);
        tape.linear_exactly(x, self.word, bias)
    }

    /// What the word matrix is multiplied with, and the bias of the logits.
    fn transform(&self, tape: &mut Tape, x: Var) -> (Var, ParamId) {
        let head = self.predictions.expect("the momentum encoder predicts nothing");
        let x = head.dense.linear(tape, x);
        let x = tape.gelu(x);
        (head.norm.norm(tape, x, EPS), head.bias)
    }
}
