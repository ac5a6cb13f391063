//! What a lane's step is given, and what it yields.

use crate::device::{Asked, Device, DeviceError, Parameters, Span};
use crate::loss::itc::Distillation;
use crate::loss::itm;
use crate::params::Objective;
use crate::random::{Purpose, Stream};
use crate::state::State;
use crate::tape::WriteCount;
use crate::vision::PathSeat;
use medley_protocol::spec::SameImage;

/// A lane's b samples, and *guests*: samples of other lanes that serve as its negatives.
#[derive(Debug, Clone, Copy)]
pub struct LaneBatch<'a> {
    /// Normalised pixels, (b + guests) × 3 × s × s: in the memory of the process, or [sent](crate::device::Ahead) to the lane's device.
    pub pixels: Span<'a>,
    /// Token ids of each text, `[CLS]` first and `[SEP]` last, without padding: the lane's b, then its guests'.
    pub texts: &'a [Vec<u32>],
    /// Identities of the lane's own b images: equal for the same image, never [`UNKNOWN`](crate::loss::itc::UNKNOWN). Without any,
    /// every text is the lane's own and its image like no other.
    pub identities: &'a [u64],
    /// Where each image after the lane's own stands.
    pub guests: &'a [Guest],
}

impl LaneBatch<'_> {
    /// The lane's own samples, b.
    pub(super) fn len(&self) -> usize {
        if self.identities.is_empty() {
            self.texts.len()
        } else {
            self.identities.len()
        }
    }

    /// The lane's samples alone.
    pub(super) fn own(self) -> Self {
        let b = self.len();
        let per_image = self.pixels.len() / (b + self.guests.len());
        Self {
            pixels: self.pixels.range(0..b * per_image),
            texts: &self.texts[..b],
            guests: &[],
            ..self
        }
    }
}

/// The place of an image in the step: it loses the same branches in every lane that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Its lane.
    pub lane: u32,
    /// Its number there.
    pub image: u32,
}

impl Guest {
    /// The place of a candidate: the samples of all lanes, b each, stand in lane order.
    pub const fn of(candidate: u32, b: u32) -> Self {
        Self {
            lane: candidate / b,
            image: candidate % b,
        }
    }
}

/// Student features of all lanes' samples in lane order: what negatives are drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// Images, n × e.
    pub image_features: &'a [f32],
    /// Texts, n × e.
    pub text_features: &'a [f32],
    /// Identities of the images, n.
    pub identities: &'a [u64],
}

/// What a lane's step depends on besides weights and samples.
#[derive(Debug, Clone, Copy)]
pub struct LaneStep {
    /// What is trained.
    pub objective: Objective,
    /// Seed of the stage.
    pub seed: u64,
    /// Number of the step.
    pub step: u64,
    /// The lane.
    pub lane: u32,
    /// What the momentum encoders teach.
    pub distillation: Distillation,
    /// What another text of the same image is taken for.
    pub same_image: SameImage,
    /// Tokens of the prompt after the first, which are not predicted.
    pub prompt_tokens: usize,
}

/// What a lane's step yields, besides its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneOutput {
    /// Contrastive, matching and language-modelling loss; 0 where the objective has none.
    pub losses: [f32; 3],
    /// The lane's momentum image features, b × e; empty where the objective has no contrastive loss.
    pub image_features: Vec<f32>,
    /// The lane's momentum text features, b × e.
    pub text_features: Vec<f32>,
}

/// A lane that its device was asked for: what it yields is on its way.
#[derive(Debug)]
pub struct LaneUnderway {
    pub(super) device: Device,
    pub(super) losses: [Option<Asked>; 3],
    pub(super) features: Option<[Asked; 2]>,
}

impl LaneUnderway {
    /// What the lane yields, once that is there. Its gradient may still be on its way: what comes of it is known when the device
    /// was [checked](Device::check).
    ///
    /// # Errors
    /// [`LaneError`] if the device is known to have failed.
    pub fn finish(self) -> Result<LaneOutput, LaneError> {
        let losses = self.losses.map(|loss| loss.map_or(0.0, |loss| loss.wait()[0]));
        let features = self.features.map(|features| features.map(Asked::wait));
        self.device.noticed()?;
        let [image_features, text_features] = features.unwrap_or_default();
        Ok(LaneOutput {
            losses,
            image_features,
            text_features,
        })
    }
}

/// What the student sees of a lane, on its way.
#[derive(Debug)]
pub struct Sight {
    pub(super) image: Asked,
    pub(super) text: Asked,
}

impl Sight {
    /// Unit features of images and texts, once they are there.
    ///
    /// # Shapes
    /// b × e each
    pub fn wait(self) -> (Vec<f32>, Vec<f32>) {
        (self.image.wait(), self.text.wait())
    }
}

/// What a lane reads of the state, wherever it lies.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Trained parameters.
    pub params: Parameters<'a>,
    /// Momentum encoders.
    pub ema: Parameters<'a>,
    /// Momentum features of earlier images, queue × e.
    pub image_queue: Span<'a>,
    /// Momentum features of earlier texts, queue × e.
    pub text_queue: Span<'a>,
    /// Identities of the queues' images.
    pub queued_identities: &'a [u64],
}

impl<'a> From<&'a State> for Seen<'a> {
    fn from(state: &'a State) -> Self {
        Self {
            params: (&state.params).into(),
            ema: (&state.ema).into(),
            image_queue: (&state.image_queue).into(),
            text_queue: (&state.text_queue).into(),
            queued_identities: &state.queued_identities,
        }
    }
}

impl<'a> From<&'a mut State> for Seen<'a> {
    fn from(state: &'a mut State) -> Self {
        Self::from(&*state)
    }
}

/// A lane could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// A fault of the model's code.
    #[error(transparent)]
    WriteCount(#[from] WriteCount),
    /// A fault of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Passes of a step, which have random streams of their own.
#[derive(Clone, Copy)]
pub(super) enum Pass {
    Student = 0,
    Teacher = 1,
    Multimodal = 2,
}

impl LaneStep {
    /// What makes n images the same: their identity, or each sample's own number.
    pub(super) fn identities(&self, images: &[u64], n: usize) -> Vec<u64> {
        match self.same_image {
            SameImage::Positive if !images.is_empty() => images.to_vec(),
            SameImage::Positive | SameImage::Negative => (1..=n as u64).collect(),
        }
    }

    /// The rule by which the lane draws among candidates of these identities, its own from `first` on.
    pub(super) fn drawing<'a>(&self, identities: &'a [u64], first: usize) -> itm::Draw<'a> {
        itm::Draw {
            identities,
            first,
            floor: if self.objective == Objective::Pretrain {
                itm::FLOOR
            } else {
                0.0
            },
            stream: self.stream(Purpose::Negatives, Pass::Student),
        }
    }

    pub(super) fn seats(&self, batch: LaneBatch, pass: Pass) -> Vec<PathSeat> {
        let own = (0..batch.len() as u32).map(|image| Guest { lane: self.lane, image });
        let seat = |Guest { lane, image }| PathSeat {
            stream: Self { lane, ..*self }.stream(Purpose::DropPath, pass),
            image,
        };
        own.chain(batch.guests.iter().copied()).map(seat).collect()
    }

    pub(super) fn stream(&self, purpose: Purpose, pass: Pass) -> Stream {
        Stream::new(self.seed, purpose)
            .at(self.step)
            .at(u64::from(self.lane))
            .at(pass as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_counted_lane_by_lane() {
        let places = (0..7).map(|candidate| Guest::of(candidate, 3));
        let expected = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)];
        assert!(places.eq(expected.map(|(lane, image)| Guest { lane, image })));
    }

    #[test]
    fn guests_keep_the_seats_of_their_own_lanes() {
        let step = |lane| LaneStep {
            objective: Objective::Filter,
            seed: 1,
            step: 2,
            lane,
            distillation: Distillation {
                alpha: 0.4,
                temperature: None,
            },
            same_image: SameImage::Positive,
            prompt_tokens: 0,
        };
        let alone = LaneBatch {
            pixels: Span::Host(&[]),
            texts: &[],
            identities: &[7, 8, 9],
            guests: &[],
        };
        let visited = LaneBatch {
            guests: &[Guest { lane: 4, image: 2 }, Guest { lane: 0, image: 1 }],
            ..alone
        };
        let seats = |lane, batch| step(lane).seats(batch, Pass::Student);
        let expected = [seats(3, alone), vec![seats(4, alone)[2], seats(0, alone)[1]]].concat();
        assert_eq!(seats(3, visited), expected);
        assert_ne!(seats(3, alone), seats(4, alone));
    }
}
