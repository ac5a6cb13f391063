//! What a file of weights does not say itself: the dimensions of its model.
//!
//! An export carries them in `model.json`, a directory of `transformers` in `config.json`. A file that lies alone is taken
//! for one of the released models, which the size of its position table tells.

use super::error::Error;
use super::source::Source;
use crate::blip::Blip;
use medley_protocol::file;
use medley_protocol::spec::{ModelSpec, Preset, Spec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::path::Path;

/// The file of an export.
const FILE: &str = "model.json";
/// Longest description that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The dimensions of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Side of its images in pixels.
    pub image_size: u32,
    /// Everything else.
    pub model: ModelSpec,
}

impl Description {
    /// The description of a model.
    pub fn of(blip: &Blip) -> Self {
        Self {
            image_size: blip.image_size,
            model: blip.model.clone(),
        }
    }

    /// The description beside a file of weights, or what the file itself gives away. Numbers are not checked.
    ///
    /// # Errors
    /// [`Error`]: a description is broken or of another kind of model; or there is none, and the file is of no released model.
    pub fn beside(source: &Source) -> Result<Self, Error> {
        let folder = source.path().parent().unwrap_or(Path::new("."));
        if let Some(own) = read(&folder.join(FILE))? {
            return Ok(own);
        }
        let path = folder.join("config.json");
        match read::<Config>(&path)? {
            Some(config) => config.description(&path),
            None => released(source),
        }
    }

    /// Writes the file of an export.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(&path, e))?;
        fs::write(&path, text + "\n").map_err(Error::io(&path))
    }
}

/// Reads a JSON file; none if it does not exist.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let file = match file::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(Error::io(path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::file(path, format!("describes no model: {e}")))
}

/// The parts of a `config.json` of `transformers` that decide about the model; absent ones are as its classes have them.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    #[serde(default, rename = "vision_config")]
    vision: VisionConfig,
    #[serde(default, rename = "text_config")]
    text: TextConfig,
    #[serde(default = "image_text_hidden_size")]
    image_text_hidden_size: u32,
}

#[derive(Deserialize)]
#[serde(default)]
struct VisionConfig {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    image_size: u32,
    patch_size: u32,
}

#[derive(Deserialize)]
#[serde(default)]
struct TextConfig {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    max_position_embeddings: u32,
}

fn image_text_hidden_size() -> u32 {
    256
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 384,
            patch_size: 16,
        }
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 512,
        }
    }
}

impl Config {
    fn description(self, path: &Path) -> Result<Description, Error> {
        if self.model_type != "blip" {
            let cause = format!("is of a model of the type {:?}: give a BLIP", self.model_type);
            return Err(Error::file(path, cause));
        }
        let (vision, text) = (self.vision, self.text);
        let mut model = preset(Preset::VitB);
        model.vision.image_size = vision.image_size;
        model.vision.patch = vision.patch_size;
        model.vision.width = vision.hidden_size;
        model.vision.depth = vision.num_hidden_layers;
        model.vision.heads = vision.num_attention_heads;
        model.vision.mlp = vision.intermediate_size;
        model.text.width = text.hidden_size;
        model.text.depth = text.num_hidden_layers;
        model.text.heads = text.num_attention_heads;
        model.text.ffn = text.intermediate_size;
        model.text.positions = text.max_position_embeddings;
        model.embed_dim = self.image_text_hidden_size;
        Ok(Description {
            image_size: vision.image_size,
            model,
        })
    }
}

/// The released model whose image tower has a position table of this shape.
fn released(source: &Source) -> Result<Description, Error> {
    let is_table = |name: &str| name.ends_with("pos_embed") || name.ends_with("position_embedding");
    let table = source.tensors().iter().find(|tensor| is_table(&tensor.name));
    let shape = table.map(|table| table.shape.as_slice());
    if let Some([1, tokens, width]) = shape {
        // All but the class token are a square of patches.
        let side = tokens.saturating_sub(1).isqrt();
        for model in [Preset::VitB, Preset::VitL].map(preset) {
            let fits = *width == model.vision.width as usize && side > 0 && side * side + 1 == *tokens;
            if let (true, Ok(side)) = (fits, u32::try_from(side)) {
                let image_size = side.saturating_mul(model.vision.patch);
                return Ok(Description { image_size, model });
            }
        }
    }
    Err(Error::file(
        source.path(),
        format!(
            "is of none of the released models, and neither {FILE} nor config.json beside it tells its dimensions: put the \
             {FILE} there that `medley-worker weights export` wrote, or the config.json of transformers"
        ),
    ))
}

fn preset(preset: Preset) -> ModelSpec {
    let document = json!({"name": "-", "kind": "pretrain", "preset": preset.name(), "data": {"root": "/"}});
    Spec::from_document(&document)
        .expect("a preset is complete and right")
        .model
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::safetensors::{self, tensor::TensorView};

    #[test]
    fn what_a_config_does_not_say_is_as_in_transformers_classes() {
        let config: Config = serde_json::from_value(json!({
            "model_type": "blip", "vision_config": {"image_size": 64}, "text_config": {"max_position_embeddings": 24},
        }))
        .unwrap();
        let Description { image_size, model } = config.description(Path::new("config.json")).unwrap();
        assert_eq!((image_size, model.vision.image_size, model.vision.heads), (64, 64, 12));
        assert_eq!((model.text.heads, model.text.positions), (8, 24));
    }

    #[test]
    fn a_released_model_is_known_by_its_position_table() {
        let dir = tempfile::tempdir().unwrap();
        let of = |tokens: usize, width: usize| {
            let path = dir.path().join("model.safetensors");
            let values = vec![0; tokens * width * 4];
            let table = TensorView::new(safetensors::Dtype::F32, vec![1, tokens, width], &values).unwrap();
            let bytes = safetensors::serialize([("visual_encoder.pos_embed", table)], None).unwrap();
            fs::write(&path, bytes).unwrap();
            Description::beside(&Source::open(&path).unwrap())
        };
        for (tokens, preset, image_size) in [(577, Preset::VitB, 384), (197, Preset::VitL, 224)] {
            let model = super::preset(preset);
            let expected = Description { image_size, model };
            assert_eq!(of(tokens, expected.model.vision.width as usize).unwrap(), expected);
        }
        for (tokens, width) in [(578, 768), (1, 768), (197, 512)] {
            let error = of(tokens, width).unwrap_err().to_string();
            assert!(
                error.contains("model.safetensors") && error.contains("config.json"),
                "{error}"
            );
        }
    }

    #[test]
    fn another_models_config_is_refused_by_its_name() {
        let config: Config = serde_json::from_value(json!({"model_type": "bert"})).unwrap();
        let error = config.description(Path::new("/w/config.json")).unwrap_err().to_string();
        assert!(
            error.contains("/w/config.json") && error.contains("\"bert\""),
            "{error}"
        );
    }
}
