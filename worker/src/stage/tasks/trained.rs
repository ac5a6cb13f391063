//! A trained model for inference.

use super::Given;
use crate::rank::failure::Failure;
use crate::stage::inputs;
use medley_data::text::Tokenizer;
use medley_model::blip::Blip;
use medley_model::device::{Device, DeviceError, OwnParameters, Pool};
use medley_model::flat::Flat;
use medley_model::generate::{Caption, CaptionRequest};
use medley_protocol::checkpoint::Manifest;

/// A checkpoint's weights in BLIP at one image size, without moments, momentum encoders and queues.
pub(crate) struct Trained {
    blip: Blip,
    params: OwnParameters,
    pool: Pool,
}

impl Trained {
    /// A model with these weights on this device.
    pub(crate) fn new(blip: Blip, params: Flat, device: &Device) -> Self {
        let params = OwnParameters::hold(params, device);
        let pool = Pool::on(device.clone());
        Self { blip, params, pool }
    }

    /// Loads the weights of a checkpoint, or those of `files` if there is no checkpoint; `role` names what is missing.
    pub(super) fn load(
        given: Given,
        image_size: u32,
        tokenizer: &Tokenizer,
        (manifest, files): (Option<&Manifest>, &[String]),
        role: &str,
    ) -> Result<Self, Failure> {
        let blip = inputs::blip(given.spec, image_size, tokenizer.vocabulary());
        let params = if manifest.is_none() && !files.is_empty() {
            // The momentum encoders are not kept.
            inputs::begun(given.spec, &blip, files, 1.0)?.params
        } else {
            inputs::params(given.objects, &blip, manifest, role)?
        };
        Ok(Self::new(blip, params, given.device))
    }

    /// Side of its images in pixels.
    pub(crate) fn image_size(&self) -> u32 {
        self.blip.image_size
    }

    /// Width of its features.
    pub(super) fn width(&self) -> usize {
        self.blip.model.embed_dim as usize
    }

    /// See [`Blip::captions`].
    ///
    /// # Errors
    /// [`DeviceError`].
    pub(crate) fn captions(
        &mut self,
        pixels: &[f32],
        samples: &[u64],
        request: &CaptionRequest,
    ) -> Result<Vec<Caption>, DeviceError> {
        let captions = self
            .blip
            .captions(&self.params, pixels, samples, request, &mut self.pool);
        self.pool.check().map(|()| captions)
    }

    /// See [`Blip::image_features`].
    ///
    /// # Errors
    /// [`DeviceError`].
    pub(crate) fn image_features(&mut self, pixels: &[f32], b: usize) -> Result<Vec<f32>, DeviceError> {
        let features = self.blip.image_features(&self.params, pixels, b, &mut self.pool);
        self.pool.check().map(|()| features)
    }

    /// See [`Blip::text_features`].
    ///
    /// # Errors
    /// [`DeviceError`].
    pub(crate) fn text_features(&mut self, texts: &[Vec<u32>]) -> Result<Vec<f32>, DeviceError> {
        let features = self.blip.text_features(&self.params, texts, &mut self.pool);
        self.pool.check().map(|()| features)
    }

    /// See [`Blip::match_logits`].
    ///
    /// # Errors
    /// [`DeviceError`].
    pub(crate) fn match_logits(
        &mut self,
        pixels: &[f32],
        b: usize,
        texts: &[Vec<u32>],
        pairs: &[(u32, u32)],
    ) -> Result<Vec<[f32; 2]>, DeviceError> {
        let logits = self
            .blip
            .match_logits(&self.params, pixels, b, texts, pairs, &mut self.pool);
        self.pool.check().map(|()| logits)
    }
}
