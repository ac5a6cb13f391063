//! Which parameters BLIP has, under their official names, and which of them an objective trains.
//!
//! The text encoder and the text decoder share everything but self-attention (BLIP, section 3.2 and table 3): embeddings,
//! cross-attention and feed-forward are one entry with two names, and the language-modelling head's matrix is the word
//! embedding. The momentum encoder has a layout of its own: the image tower, the text encoder without cross-attention, and
//! both projections. Its cross-attention, which the reference averages too, is read by nobody.

use crate::layout::{Layout, ParamId};
use medley_protocol::spec::ModelSpec;

/// Special tokens and the size of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vocabulary {
    /// Number of tokens.
    pub size: u32,
    /// `[PAD]`
    pub pad: u32,
    /// `[CLS]`: first token of the unimodal encoder.
    pub cls: u32,
    /// `[SEP]`: last token; ends generation.
    pub sep: u32,
    /// `[DEC]`: first token of the decoder.
    pub dec: u32,
    /// `[ENC]`: first token of the image-grounded encoder.
    pub enc: u32,
}

/// What a stage trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// ITC + ITM + LM.
    #[default]
    Pretrain,
    /// LM alone.
    Captioner,
    /// ITC + ITM.
    Filter,
}

impl Objective {
    /// Whether the contrastive and matching losses are part of it.
    pub const fn understands(self) -> bool {
        !matches!(self, Self::Captioner)
    }

    /// Whether the language-modelling loss is part of it.
    pub const fn generates(self) -> bool {
        !matches!(self, Self::Filter)
    }
}

/// Patches of an image with this side.
pub fn num_patches(model: &ModelSpec, image_size: u32) -> usize {
    let side = (image_size / model.vision.patch) as usize;
    side * side
}

fn linear(layout: &mut Layout, name: &str, out: usize, inner: usize) {
    layout.add(format!("{name}.weight"), &[out, inner]);
    layout.add(format!("{name}.bias"), &[out]);
}

fn layer_norm(layout: &mut Layout, name: &str, width: usize) {
    layout.add(format!("{name}.weight"), &[width]);
    layout.add(format!("{name}.bias"), &[width]);
}

fn vision(layout: &mut Layout, model: &ModelSpec, image_size: u32) {
    let (d, mlp, p) = (
        model.vision.width as usize,
        model.vision.mlp as usize,
        model.vision.patch as usize,
    );
    let root = "visual_encoder";
    layout.add(format!("{root}.cls_token"), &[1, 1, d]);
    layout.add(format!("{root}.pos_embed"), &[1, num_patches(model, image_size) + 1, d]);
    layout.add(format!("{root}.patch_embed.proj.weight"), &[d, 3, p, p]);
    layout.add(format!("{root}.patch_embed.proj.bias"), &[d]);
    for i in 0..model.vision.depth {
        let block = format!("{root}.blocks.{i}");
        layer_norm(layout, &format!("{block}.norm1"), d);
        linear(layout, &format!("{block}.attn.qkv"), 3 * d, d);
        linear(layout, &format!("{block}.attn.proj"), d, d);
        layer_norm(layout, &format!("{block}.norm2"), d);
        linear(layout, &format!("{block}.mlp.fc1"), mlp, d);
        linear(layout, &format!("{block}.mlp.fc2"), d, mlp);
    }
    layer_norm(layout, &format!("{root}.norm"), d);
}

fn attention(layout: &mut Layout, name: &str, width: usize, keys_width: usize) {
    linear(layout, &format!("{name}.self.query"), width, width);
    linear(layout, &format!("{name}.self.key"), width, keys_width);
    linear(layout, &format!("{name}.self.value"), width, keys_width);
    linear(layout, &format!("{name}.output.dense"), width, width);
    layer_norm(layout, &format!("{name}.output.LayerNorm"), width);
}

fn text_encoder(layout: &mut Layout, model: &ModelSpec, vocab: u32, cross_attention: bool) {
    let (d, ffn) = (model.text.width as usize, model.text.ffn as usize);
    let embeddings = "text_encoder.embeddings";
    layout.add(format!("{embeddings}.word_embeddings.weight"), &[vocab as usize, d]);
    layout.add(
        format!("{embeddings}.position_embeddings.weight"),
        &[model.text.positions as usize, d],
    );
    layer_norm(layout, &format!("{embeddings}.LayerNorm"), d);
    for i in 0..model.text.depth {
        let layer = format!("text_encoder.encoder.layer.{i}");
        attention(layout, &format!("{layer}.attention"), d, d);
        if cross_attention {
            attention(
                layout,
                &format!("{layer}.crossattention"),
                d,
                model.vision.width as usize,
            );
        }
        linear(layout, &format!("{layer}.intermediate.dense"), ffn, d);
        linear(layout, &format!("{layer}.output.dense"), d, ffn);
        layer_norm(layout, &format!("{layer}.output.LayerNorm"), d);
    }
}

/// What the decoder has of its own: self-attention and the language-modelling head.
fn text_decoder(layout: &mut Layout, model: &ModelSpec, vocab: u32) {
    let d = model.text.width as usize;
    for i in 0..model.text.depth {
        attention(layout, &format!("text_decoder.bert.encoder.layer.{i}.attention"), d, d);
    }
    layout.add("text_decoder.cls.predictions.bias", &[vocab as usize]);
    linear(layout, "text_decoder.cls.predictions.transform.dense", d, d);
    layer_norm(layout, "text_decoder.cls.predictions.transform.LayerNorm", d);
}

/// The decoder's names for what it shares with the encoder.
fn tie(layout: &mut Layout) {
    let shared: Vec<String> = layout
        .names()
        .filter_map(|(name, _)| name.strip_prefix("text_encoder."))
        .filter(|name| !name.contains(".attention."))
        .map(str::to_owned)
        .collect();
    for name in shared {
        layout.alias(format!("text_decoder.bert.{name}"), &format!("text_encoder.{name}"));
    }
    let words = "text_encoder.embeddings.word_embeddings.weight";
    layout.alias("text_decoder.cls.predictions.decoder.weight", words);
    layout.alias(
        "text_decoder.cls.predictions.decoder.bias",
        "text_decoder.cls.predictions.bias",
    );
}

fn projections(layout: &mut Layout, model: &ModelSpec) {
    linear(
        layout,
        "vision_proj",
        model.embed_dim as usize,
        model.vision.width as usize,
    );
    linear(layout, "text_proj", model.embed_dim as usize, model.text.width as usize);
}

/// The trained model. The order is that of the reference's optimiser: `temp` first, the decoder's remainder last.
pub fn student(model: &ModelSpec, image_size: u32, vocab: u32) -> Layout {
    let mut layout = Layout::default();
    layout.add("temp", &[]);
    vision(&mut layout, model, image_size);
    text_encoder(&mut layout, model, vocab, true);
    projections(&mut layout, model);
    linear(&mut layout, "itm_head", 2, model.text.width as usize);
    text_decoder(&mut layout, model, vocab);
    tie(&mut layout);
    layout
}

/// The momentum encoders, under the student's names.
pub fn momentum(model: &ModelSpec, image_size: u32, vocab: u32) -> Layout {
    let mut layout = Layout::default();
    vision(&mut layout, model, image_size);
    text_encoder(&mut layout, model, vocab, false);
    projections(&mut layout, model);
    layout
}

/// How often one lane of `objective` writes each parameter's gradient; 0 for what it does not train.
///
/// The unimodal text pass writes the encoder's self-attention, the feed-forward and the embeddings once; the packed
/// multimodal pass writes everything it runs through once, whether it holds ITM sequences, LM sequences or both.
pub fn declared_writes(layout: &Layout, objective: Objective) -> Vec<u32> {
    layout
        .entries()
        .iter()
        .map(|entry| writes_of(&entry.name, objective))
        .collect()
}

fn writes_of(name: &str, objective: Objective) -> u32 {
    let (understands, generates) = (u32::from(objective.understands()), u32::from(objective.generates()));
    let multimodal = 1;
    if name == "temp" {
        // Both directions of the contrastive loss.
        2 * understands
    } else if name.starts_with("visual_encoder.") {
        1
    } else if name.ends_with("word_embeddings.weight") {
        understands + multimodal + generates
    } else if name.starts_with("text_encoder.embeddings.") {
        understands + multimodal
    } else if name.contains(".crossattention.") {
        multimodal
    } else if name.starts_with("text_encoder.") && name.contains(".attention.") {
        2 * understands
    } else if name.starts_with("text_encoder.") {
        understands + multimodal
    } else if name.starts_with("text_decoder.") {
        generates
    } else {
        // Projections and the matching head.
        understands
    }
}

/// Which entries an objective trains.
pub fn trainable(declared: &[u32]) -> Vec<bool> {
    declared.iter().map(|&writes| writes > 0).collect()
}

/// The entry of the student that each entry of the momentum encoder follows.
pub fn followed(student: &Layout, momentum: &Layout) -> Vec<ParamId> {
    momentum.entries().iter().map(|entry| student.id(&entry.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::spec::Spec;

    fn model(preset: &str) -> ModelSpec {
        let document = serde_json::json!({"name": "t", "kind": "bootstrap", "preset": preset, "data": {"root": "/d"}});
        Spec::from_document(&document).unwrap().model
    }

    #[test]
    fn parameter_counts_are_those_of_the_released_models() {
        for (preset, expected) in [("vit-b", 252_441_919), ("vit-l", 474_729_023)] {
            assert_eq!(student(&model(preset), 224, 30_524).num_params(), expected, "{preset}");
        }
    }

    #[test]
    fn the_momentum_encoder_lacks_only_the_cross_attention_nobody_reads() {
        let counted = momentum(&model("vit-b"), 224, 30_524).num_params();
        assert_eq!(counted, 223_450_880 - 28_366_848);
    }

    #[test]
    fn ninety_nine_modules_are_tied() {
        let layout = student(&model("vit-b"), 224, 30_524);
        let aliases = layout.names().filter(|(name, id)| layout.entry(*id).name != *name);
        let modules: std::collections::BTreeSet<String> = aliases
            .filter_map(|(name, _)| name.strip_prefix("text_decoder.bert."))
            .map(|name| name.rsplit_once('.').unwrap().0.to_owned())
            .collect();
        assert_eq!(modules.len(), 3 + 5 * 12 + 3 * 12);
    }
}
