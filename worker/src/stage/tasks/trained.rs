//! Loading a trained model for inference.

use super::Given;
use crate::rank::failure::Failure;
use crate::stage::inputs;
use medley_data::text::Tokenizer;
use medley_model::generate::Reader;
use medley_protocol::checkpoint::Manifest;

/// Loads the weights of a checkpoint, or those of `files` if there is no checkpoint, without moments, momentum encoders and
/// queues; `role` names what is missing.
pub(super) fn load(
    given: Given,
    image_size: u32,
    tokenizer: &Tokenizer,
    (manifest, files): (Option<&Manifest>, &[String]),
    role: &str,
) -> Result<Reader, Failure> {
    let blip = inputs::blip(given.spec, image_size, tokenizer.vocabulary());
    let params = if manifest.is_none() && !files.is_empty() {
        // The momentum encoders are not kept.
        inputs::begun(given.spec, &blip, files, 1.0)?.params
    } else {
        inputs::params(given.objects, &blip, manifest, role)?
    };
    let reader = Reader::new(blip, params, given.device);
    // Memory may have run out.
    given.device.check()?;
    Ok(reader)
}
