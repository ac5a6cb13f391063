//! Negatives from all lanes, in two passes. In the first the student looks at every lane's samples without a gradient and all
//! ranks gather what it sees; in the second each lane draws its negatives from that, reads those of other lanes itself, and
//! differentiates through them on its own tape. No gradient crosses lanes.

use super::lanes::Lanes;
use super::samples::Loaded;
use super::shares::View;
use crate::rank::activity::Activity;
use crate::rank::failure::Failure;
use crate::stage::patience::{fault_may_pass, patiently};
use medley_data::loader::Loader;
use medley_model::blip::{Blip, Candidates, Guest, LaneStep, Seen, Sight};
use medley_model::loss::itm::{Negatives, Seated};
use std::collections::VecDeque;

/// The first pass of a step: what this rank's lanes read, and what all lanes hold.
pub(super) struct Looked {
    /// Batches of the rank's lanes, in order.
    pub(super) batches: VecDeque<Loaded>,
    /// The samples of all lanes.
    pub(super) all: View,
    /// Identities of their images.
    pub(super) identities: Vec<u64>,
    /// The learned temperature.
    pub(super) temperature: f32,
}

/// A lane's negatives and the places of its guests.
pub(super) struct Drawn {
    /// The negatives, as the lane numbers them.
    pub(super) negatives: Negatives,
    /// Images that were added to the lane's batch.
    pub(super) guests: Vec<Guest>,
}

/// What the student sees of a lane, on its way, and the lane's samples.
pub(super) struct Looking {
    sight: Sight,
    samples: Vec<u64>,
}

/// Lets the student look at a lane.
pub(super) fn look(lanes: &mut Lanes, model: (&Blip, Seen), batch: &Loaded, step: LaneStep) -> Looking {
    Looking {
        sight: lanes.student_features(model, batch.own(), step),
        samples: batch.samples.clone(),
    }
}

impl Looking {
    /// What the student has seen, once that is there.
    pub(super) fn wait(self) -> View {
        let (image_features, text_features) = self.sight.wait();
        View {
            image_features,
            text_features,
            samples: self.samples,
        }
    }
}

/// Draws a lane's negatives; those of other lanes are read and added to its batch.
///
/// # Errors
/// [`Failure`] when a sample cannot be read.
pub(super) fn draw(
    blip: &Blip,
    looked: &Looked,
    step: LaneStep,
    (batch, reader): (&mut Loaded, &mut Loader),
    activity: &Activity,
) -> Result<Drawn, Failure> {
    let batch = batch.change();
    let b = batch.identities.len();
    let candidates = Candidates {
        image_features: &looked.all.image_features,
        text_features: &looked.all.text_features,
        identities: &looked.identities,
    };
    let (lane, b) = (step.lane, b as u32);
    let seated = blip
        .draw(looked.temperature, candidates, step, b as usize)
        .seat(lane * b, b);
    let (images, texts) = visited(&seated, &looked.all.samples, b);
    for (sample, _) in &images {
        let read = || reader.pixels(step.step, *sample, &mut batch.pixels);
        patiently(read, fault_may_pass, || {
            activity.waits_for_samples(true);
            true
        })?;
    }
    activity.waits_for_samples(false);
    batch.texts.extend(texts.into_iter().map(|sample| reader.text(sample)));
    Ok(Drawn {
        guests: images.into_iter().map(|(_, guest)| guest).collect(),
        negatives: seated.negatives,
    })
}

/// Samples of other lanes whose images, and those whose texts a lane reads; `samples` are those of all lanes, b each.
fn visited(seated: &Seated, samples: &[u64], b: u32) -> (Vec<(u64, Guest)>, Vec<u64>) {
    let sample = |candidate: &u32| samples[*candidate as usize];
    let image = |candidate: &u32| (sample(candidate), Guest::of(*candidate, b));
    (
        seated.images.iter().map(image).collect(),
        seated.texts.iter().map(sample).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_reads_the_samples_that_it_drew_and_knows_their_places() {
        // Three lanes of two; the middle one draws.
        let samples = [50, 51, 60, 61, 70, 71];
        let drawn = Negatives {
            image_of_text: vec![5, 0],
            text_of_image: vec![3, 1],
        };
        let seated = drawn.seat(2, 2);
        let (images, texts) = visited(&seated, &samples, 2);
        let places = [(71, Guest { lane: 2, image: 1 }), (50, Guest { lane: 0, image: 0 })];
        assert_eq!((images, texts), (places.to_vec(), vec![51]));
        assert_eq!(seated.negatives.image_of_text, [2, 3]);
        assert_eq!(seated.negatives.text_of_image, [1, 2]);
    }
}
