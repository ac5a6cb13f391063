//! The image tower: a vision transformer (BLIP, section 3.1; timm's, as the reference uses it).
//!
//! Axes: b images, n = 1 + patches tokens, d width, h heads.

use crate::device::Span;
use crate::layout::{Layout, ParamId};
use crate::ops::attention::Sequence;
use crate::ops::dropout::Place;
use crate::random::Stream;
use crate::tape::{Head, Tape, Var};
use medley_protocol::spec::VisionSpec;
use std::rc::Rc;

/// ε of the tower's layer norms.
const EPS: f32 = 1e-6;

/// A weight with its bias.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Weight, or gain.
    pub w: ParamId,
    /// Bias, or offset.
    pub b: ParamId,
}

impl Pair {
    /// The entries `{name}.weight` and `{name}.bias`.
    pub fn of(layout: &Layout, name: &str) -> Self {
        Self {
            w: layout.id(&format!("{name}.weight")),
            b: layout.id(&format!("{name}.bias")),
        }
    }

    /// `x·wᵀ + b`.
    pub fn linear(self, tape: &mut Tape, x: Var) -> Var {
        tape.linear(x, self.w, Some(self.b))
    }

    /// Layer norm of `x` with this gain and offset.
    pub fn norm(self, tape: &mut Tape, x: Var, eps: f32) -> Var {
        tape.layer_norm(x, self.w, self.b, eps)
    }

    /// `a + b`, and its layer norm.
    pub fn add_norm(self, tape: &mut Tape, a: Var, b: Var, eps: f32) -> (Var, Var) {
        tape.add_norm(a, b, self.w, self.b, eps)
    }
}

struct Block {
    norm1: Pair,
    qkv: Pair,
    proj: Pair,
    norm2: Pair,
    fc1: Pair,
    fc2: Pair,
}

/// A vision transformer over one layout.
pub struct Vision {
    patch: usize,
    heads: usize,
    width: usize,
    drop_path: f64,
    class: ParamId,
    position: ParamId,
    embed: Pair,
    blocks: Vec<Block>,
    norm: Pair,
}

/// What the drop-path of an image is a function of, whoever computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathSeat {
    /// Stream of the image's lane and pass.
    pub stream: Stream,
    /// The image's number in its lane.
    pub image: u32,
}

/// How much of the result is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// Every token.
    All,
    /// The class token of each image: the last block computes nothing else.
    Class,
}

impl Vision {
    /// The tower whose parameters `layout` names.
    pub fn new(spec: &VisionSpec, layout: &Layout) -> Self {
        let root = "visual_encoder";
        let block = |i: u32| {
            let of = |name: &str| Pair::of(layout, &format!("{root}.blocks.{i}.{name}"));
            Block {
                norm1: of("norm1"),
                qkv: of("attn.qkv"),
                proj: of("attn.proj"),
                norm2: of("norm2"),
                fc1: of("mlp.fc1"),
                fc2: of("mlp.fc2"),
            }
        };
        Self {
            patch: spec.patch as usize,
            heads: spec.heads as usize,
            width: spec.width as usize,
            drop_path: spec.drop_path,
            class: layout.id(&format!("{root}.cls_token")),
            position: layout.id(&format!("{root}.pos_embed")),
            embed: Pair::of(layout, &format!("{root}.patch_embed.proj")),
            blocks: (0..spec.depth).map(block).collect(),
            norm: Pair::of(layout, &format!("{root}.norm")),
        }
    }

    /// Weights that are factors of products and nothing else.
    pub(crate) fn factors(&self) -> impl Iterator<Item = ParamId> {
        let of_block = |block: &Block| [block.qkv, block.proj, block.fc1, block.fc2];
        let pairs = self.blocks.iter().flat_map(of_block).chain([self.embed]);
        pairs.map(|pair| pair.w)
    }

    /// Images cut into patches, wherever their pixels lie.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → b·(s/p)² × 3·p²
    pub fn patches<'p>(&self, tape: &mut Tape, pixels: impl Into<Span<'p>>, b: usize) -> Var {
        tape.patches(pixels, b, self.patch)
    }

    /// Elements of a patch.
    pub fn patch_len(&self) -> usize {
        3 * self.patch * self.patch
    }

    /// Image embeddings. `drop_path` has a seat for each image; none leaves every branch in.
    ///
    /// # Shapes
    /// pixels: b × 3 × s × s → (b·n) × d, or b × d for [`Tokens::Class`]
    pub fn forward<'p>(
        &self,
        tape: &mut Tape,
        pixels: impl Into<Span<'p>>,
        b: usize,
        drop_path: Option<&[PathSeat]>,
        wanted: Tokens,
    ) -> Var {
        let patches = self.patches(tape, pixels, b);
        self.forward_patches(tape, patches, b, drop_path, wanted)
    }

    /// As [`Vision::forward`], of images that are cut already.
    pub fn forward_patches(
        &self,
        tape: &mut Tape,
        patches: Var,
        b: usize,
        drop_path: Option<&[PathSeat]>,
        wanted: Tokens,
    ) -> Var {
        debug_assert!(drop_path.is_none_or(|seats| seats.len() == b));
        let n = 1 + tape.dims(patches).0 / b;
        let x = self.embed.linear(tape, patches);
        let mut x = tape.tokens(x, b, self.class, self.position);
        let last = self.blocks.len() - 1;
        for (i, block) in self.blocks.iter().enumerate() {
            let factors = drop_path.and_then(|seats| self.survival(i, seats));
            let class_only = i == last && wanted == Tokens::Class;
            x = tape.scope(|tape| self.block(tape, block, x, b, n, factors.as_ref(), class_only));
        }
        self.norm.norm(tape, x, EPS)
    }

    fn block(
        &self,
        tape: &mut Tape,
        block: &Block,
        x: Var,
        b: usize,
        n: usize,
        factors: Option<&[Rc<[f32]>; 2]>,
        class_only: bool,
    ) -> Var {
        let normed = block.norm1.norm(tape, x, EPS);
        let qkv = block.qkv.linear(tape, normed);
        let (mut x, mut q) = (x, Head { var: qkv, offset: 0 });
        if class_only {
            let first: Rc<[u32]> = (0..b).map(|i| (i * n) as u32).collect();
            x = tape.rows(x, &first);
            q.var = tape.rows(qkv, &first);
        }
        let seqs = sequences(b, n, if class_only { 1 } else { n });
        let k = Head {
            var: qkv,
            offset: self.width,
        };
        let v = Head {
            var: qkv,
            offset: 2 * self.width,
        };
        let attended = tape.attention((q, k, v), (self.heads, self.width / self.heads), &seqs, None);
        let branch = block.proj.linear(tape, attended);
        let branch = factors.map_or(branch, |f| tape.drop_path(branch, &f[0]));
        let (x, normed) = block.norm2.add_norm(tape, x, branch, EPS);
        let hidden = block.fc1.linear(tape, normed);
        let hidden = tape.gelu(hidden);
        let branch = block.fc2.linear(tape, hidden);
        let branch = factors.map_or(branch, |f| tape.drop_path(branch, &f[1]));
        tape.add(x, branch)
    }

    /// Factors of both residual branches of a block for each image: 0 with a rate that rises linearly over the blocks.
    fn survival(&self, block: usize, seats: &[PathSeat]) -> Option<[Rc<[f32]>; 2]> {
        let depth = self.blocks.len();
        let rate = if depth > 1 {
            self.drop_path * block as f64 / (depth - 1) as f64
        } else {
            0.0
        } as f32;
        (rate > 0.0).then(|| {
            [0u32, 1].map(|branch| {
                let draw = |seat: &PathSeat| seat.stream.uniform([seat.image, block as u32, branch, 0]);
                let factor = |seat| if draw(seat) < rate { 0.0 } else { 1.0 / (1.0 - rate) };
                seats.iter().map(factor).collect()
            })
        })
    }
}

/// One sequence an image: `queries` query rows and `n` key rows each.
fn sequences(b: usize, n: usize, queries: usize) -> Rc<[Sequence]> {
    let sequence = |i: usize| Sequence {
        queries: i * queries..(i + 1) * queries,
        keys: i * n..(i + 1) * n,
        causal_from: None,
        place: Place {
            sample: i as u32,
            position: 0,
        },
    };
    (0..b).map(sequence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Pool;
    use crate::flat::Flat;
    use crate::params;
    use crate::random::Purpose;
    use crate::tape::Weights;
    use medley_protocol::spec::Spec;

    #[test]
    fn an_image_loses_the_same_branches_in_whatever_company() {
        let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"},
            "model": {"vision": {"drop_path": 0.5, "depth": 4, "image_size": 16}}});
        let mut model = Spec::from_document(&document).unwrap().model;
        model.vision.drop_path = 0.5;
        let layout = params::student(&model, 16, 40);
        let mut weights = Flat::zeros(layout.len());
        crate::init::weights(&model, &layout, 1, &mut weights);
        let vision = Vision::new(&model.vision, &layout);
        let noise = Stream::new(3, Purpose::Init);
        let image = |i: u32| (0..768).map(move |at| noise.normals([at, i, 0, 0])[0]);
        let pixels: Vec<f32> = (0..8).flat_map(image).collect();
        let seat = |image: u32| PathSeat {
            stream: Stream::new(1, Purpose::DropPath).at(u64::from(image / 4)),
            image: image % 4,
        };
        let mut pool = Pool::default();
        let mut seen = |images: &[u32]| {
            let pixels: Vec<f32> = images
                .iter()
                .flat_map(|i| pixels[*i as usize * 768..][..768].to_vec())
                .collect();
            let seats: Vec<PathSeat> = images.iter().copied().map(seat).collect();
            let weights = Weights::new(&layout, &weights);
            let mut tape = Tape::inference(weights, &mut pool);
            let class = vision.forward(&mut tape, &pixels, images.len(), Some(&seats), Tokens::Class);
            let width = tape.dims(class).1;
            tape.value(class)
                .host()
                .chunks(width)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
        };
        let all = seen(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let some = seen(&[2, 7, 5]);
        assert_eq!(some, [all[2].clone(), all[7].clone(), all[5].clone()]);
        assert!(all[..4] != all[4..]);
    }
}
