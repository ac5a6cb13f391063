//! What `transformers` wants beside the weights: the configuration, and the processor's and tokenizer's files.

use crate::blip::Blip;
use crate::weights::error::Error;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Mean and deviation of pixels that CLIP, and so BLIP, normalises with.
const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Writes the files.
pub(super) fn write(directory: &Path, blip: &Blip, class: &str, vocabulary: &str) -> Result<(), Error> {
    let has_mask = vocabulary.lines().any(|token| token == "[MASK]");
    let files = [
        ("config.json", config(blip, class)),
        ("preprocessor_config.json", preprocessor(blip.image_size)),
        ("tokenizer_config.json", tokenizer(blip, has_mask)),
        ("special_tokens_map.json", special_tokens(has_mask)),
    ];
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, format!("{content:#}\n")).map_err(Error::io(&path))?;
    }
    let path = directory.join("vocab.txt");
    fs::write(&path, vocabulary).map_err(Error::io(&path))
}

/// Heads and the image tower's ε are written out: the classes' defaults are not BLIP's.
fn config(blip: &Blip, class: &str) -> Value {
    let (vision, text, vocab) = (&blip.model.vision, &blip.model.text, &blip.vocab);
    json!({
        "architectures": [class],
        "model_type": "blip",
        "image_text_hidden_size": blip.model.embed_dim,
        "projection_dim": blip.model.embed_dim,
        "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "label_smoothing": blip.model.label_smoothing,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "blip_text_model",
            "vocab_size": vocab.size,
            "hidden_size": text.width,
            "encoder_hidden_size": vision.width,
            "intermediate_size": text.ffn,
            "projection_dim": blip.model.embed_dim,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.positions,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "bos_token_id": vocab.dec,
            "eos_token_id": vocab.sep,
            "sep_token_id": vocab.sep,
            "pad_token_id": vocab.pad,
            "is_decoder": true,
            "use_cache": true,
            "label_smoothing": blip.model.label_smoothing,
        },
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp,
            "projection_dim": blip.model.embed_dim,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "image_size": blip.image_size,
            "patch_size": vision.patch,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
        },
    })
}

fn preprocessor(size: u32) -> Value {
    json!({
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": { "height": size, "width": size },
        // Bicubic.
        "resample": 3,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": MEAN,
        "image_std": DEVIATION,
    })
}

fn tokenizer(blip: &Blip, has_mask: bool) -> Value {
    let mut config = special_tokens(has_mask);
    config["tokenizer_class"] = json!("BertTokenizer");
    config["processor_class"] = json!("BlipProcessor");
    config["do_lower_case"] = json!(true);
    config["model_max_length"] = json!(blip.model.text.positions);
    config["model_input_names"] = json!(["input_ids", "attention_mask"]);
    config
}

/// `[DEC]` and `[ENC]` are lines of the vocabulary, and special, so that decoding leaves them out.
fn special_tokens(has_mask: bool) -> Value {
    json!({
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": has_mask.then_some("[MASK]"),
        "additional_special_tokens": ["[DEC]", "[ENC]"],
    })
}
