//! The text towers: a BERT whose encoder and decoder share all but self-attention (BLIP, section 3.1).
//!
//! Texts are *packed*: their tokens stand one after the other without padding, and [`Packed`] knows where each begins.
//! Axes: r rows (tokens), d width.

use crate::layout::{Layout, ParamId};
use crate::ops::attention::Sequence;
use crate::ops::dropout::{Dropout, Place};
use crate::random::Stream;
use crate::tape::{Head, Tape, Var};
use crate::vision::Pair;
use medley_protocol::spec::TextSpec;
use std::rc::Rc;

/// ε of BERT's layer norms.
const EPS: f32 = 1e-12;

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
            .extend((0..text.len() as u32).map(|position| Place { sample, position }));
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
    fn firsts(&self) -> Rc<[u32]> {
        self.starts[..self.len()].iter().map(|&s| s as u32).collect()
    }

    fn place(&self, text: usize) -> Place {
        self.places[self.starts[text]]
    }

    /// Each text attends to itself; with `first_only`, only its first token asks.
    fn self_sequences(&self, causal: bool, first_only: bool) -> Rc<[Sequence]> {
        let sequence = |i: usize| Sequence {
            queries: if first_only { i..i + 1 } else { self.rows(i) },
            keys: self.rows(i),
            causal_from: causal.then_some(0),
            place: self.place(i),
        };
        (0..self.len()).map(sequence).collect()
    }
}

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
                places = firsts_of(texts);
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
        let (asking, places) = if first_only {
            (tape.rows(x, &texts.firsts()), firsts_of(texts))
        } else {
            (x, texts.places.clone().into())
        };
        let q = block.query.linear(tape, asking);
        let k = block.key.linear(tape, x);
        let v = block.value.linear(tape, x);
        let probabilities = self.dropout(dropout, index, Site::Probabilities);
        let attended = self.attend(tape, q, k, v, &seqs, probabilities);
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
        q: Var,
        k: Var,
        v: Var,
        seqs: &Rc<[Sequence]>,
        dropout: Option<Dropout>,
    ) -> Var {
        let head = |var| Head { var, offset: 0 };
        tape.attention((head(q), head(k), head(v)), (self.heads, self.dim), seqs, dropout)
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
        let y = tape.add(y, residual);
        block.norm.norm(tape, y, EPS)
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
        let y = tape.add(y, x);
        layer.norm.norm(tape, y, EPS)
    }

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
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            let first_only = i == last;
            let decoder = layer.decoder.as_ref().expect("the momentum encoder has no decoder");
            m = m.map(|m| self.self_attention(tape, (i, &layer.encoder), m, matching.0, (false, first_only), dropout));
            g = g.map(|g| self.self_attention(tape, (i, decoder), g, generated.0, (true, false), dropout));
            let m_rows = m.map_or(0, |m| tape.dims(m).0);
            let g_rows = g.map_or(0, |g| tape.dims(g).0);
            let x = join(tape, m, g);
            let places: Rc<[Place]> = if first_only {
                firsts_of(matching.0)
                    .iter()
                    .chain(&generated.0.places)
                    .copied()
                    .collect()
            } else {
                matching.0.places.iter().chain(&generated.0.places).copied().collect()
            };
            let mut seqs = cross_sequences(matching.0, matching.1, 0, first_only);
            seqs.extend(cross_sequences(generated.0, generated.1, m_rows, false));
            let x = self.cross_attention(tape, (i, layer), x, images[i], &seqs.into(), &places, dropout);
            let x = self.feed(tape, (i, layer), x, &places, dropout);
            (m, g) = split(tape, x, m_rows, g_rows);
        }
        (m, g)
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
        let attended = self.attend(tape, q, images.keys, images.values, seqs, probabilities);
        Self::output(
            tape,
            cross,
            attended,
            x,
            places,
            self.dropout(dropout, index, Site::Cross),
        )
    }

    /// Weights that the decoder reads for every token.
    pub(crate) fn decoding(&self) -> Vec<ParamId> {
        let of_layer = |layer: &Layer| {
            let own = layer.decoder.expect("the momentum encoder has no decoder");
            let cross = layer.cross.expect("the momentum encoder has no cross-attention");
            let attentions = [own.query, own.key, own.value, own.dense, cross.query, cross.dense];
            attentions
                .into_iter()
                .chain([layer.intermediate, layer.output])
                .map(|pair| pair.w)
        };
        let head = self.predictions.expect("the momentum encoder predicts nothing");
        self.layers
            .iter()
            .flat_map(of_layer)
            .chain([head.dense.w, self.word])
            .collect()
    }

    /// Logits over the vocabulary.
    ///
    /// # Shapes
    /// r × d → r × vocabulary
    pub fn predict(&self, tape: &mut Tape, x: Var) -> Var {
        let head = self.predictions.expect("the momentum encoder predicts nothing");
        let x = head.dense.linear(tape, x);
        let x = tape.gelu(x);
        let x = head.norm.norm(tape, x, EPS);
        tape.linear(x, self.word, Some(head.bias))
    }
}

fn firsts_of(texts: &Packed) -> Rc<[Place]> {
    (0..texts.len()).map(|i| texts.place(i)).collect()
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
