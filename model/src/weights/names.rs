//! What the tensors of other programs' files are called here: a pure map, one family of files at a time.
//!
//! The official names are the released code's, and the model's own. Other families are Hugging Face's BLIP (the image tower is
//! renamed), image towers alone (timm and DeiT; `transformers`; the JAX originals) and BERT. A tensor of a file may serve
//! several entries (BERT's self-attention starts encoder and decoder) or a third of one (separate queries, keys and values).

/// Whose names a file uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// The released code's, and Medley's own exports.
    Official,
    /// `BlipForConditionalGeneration`, `BlipForImageTextRetrieval`, `BlipForQuestionAnswering` of `transformers`.
    HfBlip,
    /// An image tower of timm or DeiT.
    Vit,
    /// An image tower of `transformers`.
    HfVit,
    /// An image tower of the JAX originals, as timm loads them.
    JaxVit,
    /// BERT.
    Bert,
}

impl Family {
    /// Recognises the family of a file by the names in it.
    pub fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let any = |part: &str| names.clone().any(|name| name.contains(part));
        let marks = [
            ("visual_encoder.", Self::Official),
            ("vision_model.", Self::HfBlip),
            ("Transformer/encoderblock_", Self::JaxVit),
            ("patch_embeddings.projection.", Self::HfVit),
            ("patch_embed.proj.", Self::Vit),
            ("text_encoder.", Self::Official),
            ("text_decoder.", Self::Official),
            ("attention.self.query.", Self::Bert),
        ];
        marks.into_iter().find(|(mark, _)| any(mark)).map(|(_, family)| family)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Official => "BLIP, official names",
            Self::HfBlip => "BLIP of transformers",
            Self::Vit => "ViT of timm or DeiT",
            Self::HfVit => "ViT of transformers",
            Self::JaxVit => "ViT of the JAX originals",
            Self::Bert => "BERT",
        })
    }
}

/// How a tensor's axes stand to the entry's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// The same.
    Same,
    /// in × out → out × in.
    Linear,
    /// in × heads × head → (heads · head) × in.
    ToHeads,
    /// heads × head → (heads · head).
    Heads,
    /// heads × head × out → out × (heads · head).
    FromHeads,
    /// height × width × in × out → out × in × height × width.
    Convolution,
}

/// One place that a tensor's values go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is part of.
    pub part: Part,
    /// Official name there (the student's, also for the momentum encoder).
    pub name: String,
    /// Only this third of the entry's first axis: 0 queries, 1 keys, 2 values.
    pub third: Option<usize>,
}

/// The parts of a state that a file can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The trained model.
    Student,
    /// The momentum encoder.
    Momentum,
    /// The queue of image features, e × length.
    ImageQueue,
    /// The queue of text features, e × length.
    TextQueue,
    /// Where the next features go in both queues.
    QueueNext,
}

/// What a tensor of a file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Values of these targets.
    Values(Axes, Vec<Target>),
    /// Nothing here, and why that is right.
    Unused(&'static str),
}

impl Meaning {
    fn student(name: impl Into<String>) -> Self {
        Self::Values(Axes::Same, vec![Target::student(name)])
    }

    fn unknown() -> Self {
        Self::Unused("no part of the model")
    }
}

impl Target {
    fn student(name: impl Into<String>) -> Self {
        Self {
            part: Part::Student,
            name: name.into(),
            third: None,
        }
    }
}

/// What the tensor `name` of a file of `family` means. Whether the model has the entry is for the caller to find out.
pub fn meaning(family: Family, name: &str) -> Meaning {
    let name = name.strip_prefix("module.").unwrap_or(name);
    if name.ends_with("position_ids") {
        return Meaning::Unused("a table of consecutive numbers");
    }
    match family {
        Family::Official => official(name),
        Family::HfBlip => hf_blip(name),
        Family::Vit => Meaning::student(format!("visual_encoder.{name}")),
        Family::HfVit => hf_vit(name),
        Family::JaxVit => jax_vit(name),
        Family::Bert => bert(name),
    }
}

/// Roots of the released code's momentum encoder.
const MOMENTUM: [&str; 4] = ["visual_encoder", "text_encoder", "vision_proj", "text_proj"];

fn official(name: &str) -> Meaning {
    let of = |part| {
        let name = name.to_owned();
        Meaning::Values(
            Axes::Same,
            vec![Target {
                part,
                name,
                third: None,
            }],
        )
    };
    match name {
        "image_queue" => return of(Part::ImageQueue),
        "text_queue" => return of(Part::TextQueue),
        "queue_ptr" | "ptr_queue" => return of(Part::QueueNext),
        "idx_queue" => return Meaning::Unused("ids of another data set's images"),
        _ => {}
    }
    let (root, rest) = name.split_once('.').unwrap_or((name, ""));
    let Some(student) = root.strip_suffix("_m").filter(|root| MOMENTUM.contains(root)) else {
        return Meaning::student(name);
    };
    if rest.contains("crossattention.") {
        return Meaning::Unused("nobody reads the momentum encoder's cross-attention");
    }
    let target = Target {
        part: Part::Momentum,
        name: format!("{student}.{rest}"),
        third: None,
    };
    Meaning::Values(Axes::Same, vec![target])
}

/// Pairs of names within the image tower: Hugging Face's BLIP, official.
const HF_TOWER: [(&str, &str); 4] = [
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("post_layernorm", "norm"),
];
/// Pairs of names within a block of it.
const HF_BLOCK: [(&str, &str); 6] = [
    ("layer_norm1", "norm1"),
    ("layer_norm2", "norm2"),
    ("self_attn.qkv", "attn.qkv"),
    ("self_attn.projection", "attn.proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
];

fn hf_blip(name: &str) -> Meaning {
    let Some(tower) = name.strip_prefix("vision_model.") else {
        return Meaning::student(name);
    };
    let renamed = match numbered(tower, "encoder.layers.") {
        Some((block, rest)) => exchange(rest, &HF_BLOCK, true).map(|rest| format!("blocks.{block}.{rest}")),
        None => exchange(tower, &HF_TOWER, true),
    };
    renamed.map_or_else(Meaning::unknown, |name| {
        Meaning::student(format!("visual_encoder.{name}"))
    })
}

/// The name that `transformers` gives an official tensor: the image tower's differ, the others stay.
pub fn to_hf(official: &str) -> String {
    let Some(tower) = official.strip_prefix("visual_encoder.") else {
        return official.to_owned();
    };
    let renamed = match numbered(tower, "blocks.") {
        Some((block, rest)) => exchange(rest, &HF_BLOCK, false).map(|rest| format!("encoder.layers.{block}.{rest}")),
        None => exchange(tower, &HF_TOWER, false),
    };
    format!("vision_model.{}", renamed.as_deref().unwrap_or(tower))
}

fn hf_vit(name: &str) -> Meaning {
    let name = ["vit.", "deit."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let tower = |name: String| Meaning::student(format!("visual_encoder.{name}"));
    let Some((block, rest)) = numbered(name, "encoder.layer.") else {
        let pairs = [
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("layernorm", "norm"),
        ];
        return exchange(name, &pairs, true).map_or_else(Meaning::unknown, tower);
    };
    if let Some(kind) = rest.strip_prefix("attention.attention.") {
        return qkv(block, kind, Axes::Same);
    }
    let pairs = [
        ("attention.output.dense", "attn.proj"),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ];
    exchange(rest, &pairs, true).map_or_else(Meaning::unknown, |rest| tower(format!("blocks.{block}.{rest}")))
}

/// `query.weight` and the like as a third of the fused entry.
fn qkv(block: &str, kind: &str, axes: Axes) -> Meaning {
    let Some((which, end)) = kind.split_once('.') else {
        return Meaning::unknown();
    };
    let Some(third) = ["query", "key", "value"].iter().position(|name| *name == which) else {
        return Meaning::unknown();
    };
    let target = Target {
        third: Some(third),
        ..Target::student(format!("visual_encoder.blocks.{block}.attn.qkv.{end}"))
    };
    Meaning::Values(axes, vec![target])
}

fn jax_vit(name: &str) -> Meaning {
    let tower = |axes, name: &str| Meaning::Values(axes, vec![Target::student(format!("visual_encoder.{name}"))]);
    match name {
        "cls" => return tower(Axes::Same, "cls_token"),
        "Transformer/posembed_input/pos_embedding" => return tower(Axes::Same, "pos_embed"),
        "embedding/kernel" => return tower(Axes::Convolution, "patch_embed.proj.weight"),
        "embedding/bias" => return tower(Axes::Same, "patch_embed.proj.bias"),
        "Transformer/encoder_norm/scale" => return tower(Axes::Same, "norm.weight"),
        "Transformer/encoder_norm/bias" => return tower(Axes::Same, "norm.bias"),
        _ => {}
    }
    let within = name
        .strip_prefix("Transformer/encoderblock_")
        .and_then(|rest| rest.split_once('/'));
    let Some((block, rest)) = within else {
        return Meaning::unknown();
    };
    if let Some(attention) = rest.strip_prefix("MultiHeadDotProductAttention_1/") {
        return jax_attention(block, attention);
    }
    let (axes, rest) = match rest {
        "LayerNorm_0/scale" => (Axes::Same, "norm1.weight"),
        "LayerNorm_0/bias" => (Axes::Same, "norm1.bias"),
        "LayerNorm_2/scale" => (Axes::Same, "norm2.weight"),
        "LayerNorm_2/bias" => (Axes::Same, "norm2.bias"),
        "MlpBlock_3/Dense_0/kernel" => (Axes::Linear, "mlp.fc1.weight"),
        "MlpBlock_3/Dense_0/bias" => (Axes::Same, "mlp.fc1.bias"),
        "MlpBlock_3/Dense_1/kernel" => (Axes::Linear, "mlp.fc2.weight"),
        "MlpBlock_3/Dense_1/bias" => (Axes::Same, "mlp.fc2.bias"),
        _ => return Meaning::unknown(),
    };
    tower(axes, &format!("blocks.{block}.{rest}"))
}

fn jax_attention(block: &str, name: &str) -> Meaning {
    let proj = |end| Target::student(format!("visual_encoder.blocks.{block}.attn.proj.{end}"));
    match name.split_once('/') {
        Some(("out", "kernel")) => Meaning::Values(Axes::FromHeads, vec![proj("weight")]),
        Some(("out", "bias")) => Meaning::Values(Axes::Same, vec![proj("bias")]),
        Some((which, "kernel")) => qkv(block, &format!("{which}.weight"), Axes::ToHeads),
        Some((which, "bias")) => qkv(block, &format!("{which}.bias"), Axes::Heads),
        _ => Meaning::unknown(),
    }
}

fn bert(name: &str) -> Meaning {
    // The oldest files have TensorFlow's words for gain and offset.
    let name = name
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias");
    let name = name.strip_prefix("bert.").unwrap_or(&name);
    if name.starts_with("embeddings.token_type_embeddings.") {
        return Meaning::Unused("BLIP's text towers know no token types");
    }
    if name.starts_with("cls.predictions.") {
        return Meaning::student(format!("text_decoder.{name}"));
    }
    if !name.starts_with("embeddings.") && !name.starts_with("encoder.layer.") {
        return Meaning::unknown();
    }
    let mut targets = vec![Target::student(format!("text_encoder.{name}"))];
    if name.contains(".attention.") {
        targets.push(Target::student(format!("text_decoder.bert.{name}")));
    }
    Meaning::Values(Axes::Same, targets)
}

/// Splits `{prefix}{number}.{rest}` into number and rest.
fn numbered<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    name.strip_prefix(prefix)?.split_once('.')
}

/// Replaces a name's beginning by its partner, forward or backward; what follows must be nothing or `.weight` and the like.
fn exchange(name: &str, pairs: &[(&str, &str)], forward: bool) -> Option<String> {
    pairs.iter().find_map(|(a, b)| {
        let (from, to) = if forward { (a, b) } else { (b, a) };
        let rest = name.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}

#[cfg(test)]
mod tests;
