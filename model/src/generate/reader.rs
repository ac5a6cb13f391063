//! A trained model that is read and not trained.

use crate::blip::Blip;
use crate::device::{Ahead, Device, DeviceError, Pool};
use crate::flat::Flat;
use crate::ops::blocks::on_threads;
use crate::tape::{Tape, Turned};
use std::sync::Arc;

/// A model with its parameters for captions, features and match logits, over as many calls as there are. On the processor its
/// weights lie turned, which products with few rows are fast with, in no more memory than they are stored in; the first
/// caption takes a turned copy of the word matrix beside it.
pub struct Reader {
    pub(super) blip: Arc<Blip>,
    params: Turned,
    pool: Pool,
    /// What sends pixels to a GPU, once there have been any.
    ahead: Option<Ahead>,
}

impl Reader {
    /// A model with these parameters on this device.
    pub fn new(blip: impl Into<Arc<Blip>>, params: Flat, device: &Device) -> Self {
        let blip = blip.into();
        Self {
            params: Turned::new(&blip.student_layout, params, &blip.factors(), device),
            pool: Pool::on(device.clone()),
            ahead: None,
            blip,
        }
    }

    /// The model.
    pub fn blip(&self) -> &Blip {
        &self.blip
    }

    /// Gets ready for language-modelling logits.
    pub(super) fn turn_words(&mut self) {
        let word = self.blip.student.text.word;
        self.params
            .turn_copy(&self.blip.student_layout, word, self.pool.device());
    }

    /// Runs `f` on a tape that reads the model, with what sends pixels ahead if that is of use.
    pub(super) fn run<R: Send>(
        &mut self,
        f: impl FnOnce(&Blip, Tape, &mut Option<Ahead>) -> R + Send,
    ) -> Result<R, DeviceError> {
        let Self {
            blip,
            params,
            pool,
            ahead,
        } = self;
        if pool.device().is_gpu() && ahead.is_none() {
            *ahead = Some(Ahead::to(pool.device())?);
        }
        let result = on_threads(|| f(blip, Tape::inference(params.weights(&blip.student_layout), pool), ahead));
        self.pool.check().map(|()| result)
    }
}
