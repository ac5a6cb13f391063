//! BLIP's step as plain formulas on candle tensors in double precision: one text at a time, nothing packed, shared or fused.

use candle_core::{D, Device, Result, Tensor, Var};
use medley_model::ops::dropout::{Dropout, Place};
use medley_model::random::Stream;
use medley_protocol::spec::ModelSpec;
use std::collections::HashMap;

/// Weights by name, aliases included.
pub(crate) struct Plain<'a> {
    pub(crate) model: &'a ModelSpec,
    pub(crate) vars: HashMap<String, Var>,
}

/// How a text attends, and which random stream drops.
#[derive(Clone, Copy)]
pub(crate) struct TextPass<'a> {
    pub(crate) decoder: bool,
    pub(crate) image: Option<&'a Tensor>,
    pub(crate) stream: Option<Stream>,
    pub(crate) sample: u32,
}

impl Plain<'_> {
    fn get(&self, name: &str) -> &Tensor {
        self.vars.get(name).unwrap_or_else(|| panic!("no {name}")).as_tensor()
    }

    pub(crate) fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let w = self.get(&format!("{name}.weight"));
        let w = w.flatten_from(1)?;
        x.matmul(&w.t()?)?.broadcast_add(self.get(&format!("{name}.bias")))
    }

    fn norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
        normed
            .broadcast_mul(self.get(&format!("{name}.weight")))?
            .broadcast_add(self.get(&format!("{name}.bias")))
    }

    /// Vision transformer of one image (3 × s × s) → n × d.
    pub(crate) fn vision(&self, image: &Tensor) -> Result<Tensor> {
        let v = &self.model.vision;
        let (p, d, heads) = (v.patch as usize, v.width as usize, v.heads as usize);
        let g = image.dim(1)? / p;
        let patches = image
            .reshape((3, g, p, g, p))?
            .permute((1, 3, 0, 2, 4))?
            .contiguous()?
            .reshape((g * g, 3 * p * p))?;
        let x = self.linear("visual_encoder.patch_embed.proj", &patches)?;
        let x = Tensor::cat(&[self.get("visual_encoder.cls_token").reshape((1, d))?, x], 0)?;
        let mut x = (x + self.get("visual_encoder.pos_embed").squeeze(0)?)?;
        for i in 0..v.depth {
            let b = format!("visual_encoder.blocks.{i}");
            let qkv = self.linear(&format!("{b}.attn.qkv"), &self.norm(&format!("{b}.norm1"), &x, 1e-6)?)?;
            let part = |i: usize| qkv.narrow(1, i * d, d);
            let y = attention(&part(0)?, &part(1)?, &part(2)?, heads, false, |_, p| Ok(p))?;
            x = (x + self.linear(&format!("{b}.attn.proj"), &y)?)?;
            let y = self
                .linear(&format!("{b}.mlp.fc1"), &self.norm(&format!("{b}.norm2"), &x, 1e-6)?)?
                .gelu_erf()?;
            x = (x + self.linear(&format!("{b}.mlp.fc2"), &y)?)?;
        }
        self.norm("visual_encoder.norm", &x, 1e-6)
    }

    fn drop(&self, x: Tensor, pass: &TextPass, site: u64) -> Result<Tensor> {
        let (rows, cols) = x.dims2()?;
        x * self.mask(pass, site, rows, cols, 0)?
    }

    fn mask(&self, pass: &TextPass, site: u64, rows: usize, cols: usize, minor: u32) -> Result<Tensor> {
        let mut ones = vec![1.0f32; rows * cols];
        let rate = self.model.text.dropout as f32;
        if let Some(stream) = pass.stream.filter(|_| rate > 0.0) {
            let dropout = Dropout {
                stream: stream.at(site),
                rate,
            };
            for (i, row) in ones.chunks_mut(cols).enumerate() {
                dropout.mask(
                    Place {
                        sample: pass.sample,
                        position: i as u32,
                    },
                    minor,
                    row,
                );
            }
        }
        let ones: Vec<f64> = ones.into_iter().map(f64::from).collect();
        Tensor::from_vec(ones, (rows, cols), &Device::Cpu)
    }

    /// Text transformer of one text → rows × d.
    pub(crate) fn text(&self, ids: &[u32], pass: TextPass) -> Result<Tensor> {
        let root = if pass.decoder {
            "text_decoder.bert"
        } else {
            "text_encoder"
        };
        let e = format!("{root}.embeddings");
        let index = Tensor::new(ids, &Device::Cpu)?;
        let words = self
            .get(&format!("{e}.word_embeddings.weight"))
            .index_select(&index, 0)?;
        let places = self
            .get(&format!("{e}.position_embeddings.weight"))
            .narrow(0, 0, ids.len())?;
        let x = self.norm(&format!("{e}.LayerNorm"), &(words + places)?, 1e-12)?;
        let mut x = self.drop(x, &pass, 0)?;
        for i in 0..self.model.text.depth {
            let layer = format!("{root}.encoder.layer.{i}");
            let site = 8 * (u64::from(i) + 1);
            x = self.attend(&format!("{layer}.attention"), &x, &x, pass.decoder, &pass, site + 1)?;
            if let Some(image) = pass.image {
                x = self.attend(&format!("{layer}.crossattention"), &x, image, false, &pass, site + 3)?;
            }
            let y = self.linear(&format!("{layer}.intermediate.dense"), &x)?.gelu_erf()?;
            let y = self.drop(self.linear(&format!("{layer}.output.dense"), &y)?, &pass, site + 5)?;
            x = self.norm(&format!("{layer}.output.LayerNorm"), &(y + x)?, 1e-12)?;
        }
        Ok(x)
    }

    fn attend(&self, name: &str, x: &Tensor, kv: &Tensor, causal: bool, pass: &TextPass, site: u64) -> Result<Tensor> {
        let q = self.linear(&format!("{name}.self.query"), x)?;
        let k = self.linear(&format!("{name}.self.key"), kv)?;
        let v = self.linear(&format!("{name}.self.value"), kv)?;
        let y = attention(&q, &k, &v, self.model.text.heads as usize, causal, |head, p| {
            let (rows, cols) = p.dims2()?;
            &p * self.mask(pass, site, rows, cols, head as u32 + 1)?
        })?;
        let y = self.drop(self.linear(&format!("{name}.output.dense"), &y)?, pass, site + 1)?;
        self.norm(&format!("{name}.output.LayerNorm"), &(y + x)?, 1e-12)
    }

    /// Language-modelling logits of hidden states.
    pub(crate) fn predict(&self, x: &Tensor) -> Result<Tensor> {
        let head = "text_decoder.cls.predictions";
        let x = self.linear(&format!("{head}.transform.dense"), x)?.gelu_erf()?;
        let x = self.norm(&format!("{head}.transform.LayerNorm"), &x, 1e-12)?;
        self.linear(&format!("{head}.decoder"), &x)
    }

    /// Unit features of one row.
    pub(crate) fn feature(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let y = self.linear(name, &x.narrow(0, 0, 1)?)?;
        y.broadcast_div(&y.sqr()?.sum_keepdim(1)?.sqrt()?)
    }

    pub(crate) fn temperature(&self) -> Result<Tensor> {
        self.get("temp").reshape((1, 1))
    }
}

/// Multi-head attention of one sequence; `drop(head, probabilities)` masks them.
fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
    drop: impl Fn(usize, Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let dim = q.dim(1)? / heads;
    let head = |h: usize| {
        let part = |x: &Tensor| x.narrow(1, h * dim, dim)?.contiguous();
        let mut scores = (part(q)?.matmul(&part(k)?.t()?.contiguous()?)? / (dim as f64).sqrt())?;
        if causal {
            let n = q.dim(0)?;
            let hidden = (0..n * n).map(|i| if i % n > i / n { -1e4 } else { 0.0 });
            scores = (scores + Tensor::from_vec(hidden.collect::<Vec<f64>>(), (n, n), &Device::Cpu)?)?;
        }
        drop(h, softmax(&scores)?)?.matmul(&part(v)?)
    };
    Tensor::cat(&(0..heads).map(head).collect::<Result<Vec<_>>>()?, 1)
}

/// Softmax over the last axis.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// Log-softmax over the last axis.
pub(crate) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}
