//! BLIP's step as plain formulas on candle tensors in double precision: one text at a time, nothing packed, shared or fused.

pub(crate) mod formulas;

use candle_core::{Device, Result, Tensor, Var};
use formulas::{attention, gelu, layer_norm, linear, mask, unit};
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
        linear(x, &w.flatten_from(1)?, self.get(&format!("{name}.bias")))
    }

    fn norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        let (gamma, beta) = (format!("{name}.weight"), format!("{name}.bias"));
        layer_norm(x, self.get(&gamma), self.get(&beta), eps)
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
            let y = attention((&part(0)?, &part(1)?, &part(2)?), heads, None, |_, p| Ok(p))?;
            x = (x + self.linear(&format!("{b}.attn.proj"), &y)?)?;
            let y = gelu(&self.linear(&format!("{b}.mlp.fc1"), &self.norm(&format!("{b}.norm2"), &x, 1e-6)?)?)?;
            x = (x + self.linear(&format!("{b}.mlp.fc2"), &y)?)?;
        }
        self.norm("visual_encoder.norm", &x, 1e-6)
    }

    /// Dropout at a site: of hidden states if `minor` is 0, else of the probabilities of head `minor − 1`.
    fn drop(&self, x: Tensor, pass: &TextPass, site: u64, minor: u32) -> Result<Tensor> {
        let rate = self.model.text.dropout as f32;
        let Some(stream) = pass.stream.filter(|_| rate > 0.0) else {
            return Ok(x);
        };
        let dropout = Dropout {
            stream: stream.at(site),
            rate,
        };
        let first = Place {
            sample: pass.sample,
            position: 0,
        };
        let mask = mask(&dropout, first, minor, x.dims2()?)?;
        x * mask
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
        let mut x = self.drop(x, &pass, 0, 0)?;
        for i in 0..self.model.text.depth {
            let layer = format!("{root}.encoder.layer.{i}");
            let site = 8 * (u64::from(i) + 1);
            x = self.attend(&format!("{layer}.attention"), &x, &x, pass.decoder, &pass, site + 1)?;
            if let Some(image) = pass.image {
                x = self.attend(&format!("{layer}.crossattention"), &x, image, false, &pass, site + 3)?;
            }
            let y = gelu(&self.linear(&format!("{layer}.intermediate.dense"), &x)?)?;
            let y = self.drop(self.linear(&format!("{layer}.output.dense"), &y)?, &pass, site + 5, 0)?;
            x = self.norm(&format!("{layer}.output.LayerNorm"), &(y + x)?, 1e-12)?;
        }
        Ok(x)
    }

    fn attend(&self, name: &str, x: &Tensor, kv: &Tensor, causal: bool, pass: &TextPass, site: u64) -> Result<Tensor> {
        let q = self.linear(&format!("{name}.self.query"), x)?;
        let k = self.linear(&format!("{name}.self.key"), kv)?;
        let v = self.linear(&format!("{name}.self.value"), kv)?;
        let y = attention(
            (&q, &k, &v),
            self.model.text.heads as usize,
            causal.then_some(0),
            |head, p| self.drop(p, pass, site, head as u32 + 1),
        )?;
        let y = self.drop(self.linear(&format!("{name}.output.dense"), &y)?, pass, site + 1, 0)?;
        self.norm(&format!("{name}.output.LayerNorm"), &(y + x)?, 1e-12)
    }

    /// Language-modelling logits of hidden states.
    pub(crate) fn predict(&self, x: &Tensor) -> Result<Tensor> {
        let head = "text_decoder.cls.predictions";
        let x = gelu(&self.linear(&format!("{head}.transform.dense"), x)?)?;
        let x = self.norm(&format!("{head}.transform.LayerNorm"), &x, 1e-12)?;
        self.linear(&format!("{head}.decoder"), &x)
    }

    /// Unit features of one row.
    pub(crate) fn feature(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        unit(&self.linear(name, &x.narrow(0, 0, 1)?)?)
    }

    pub(crate) fn temperature(&self) -> Result<Tensor> {
        self.get("temp").reshape((1, 1))
    }
}
