//! Negatives from all lanes, in two passes. In the first the student looks at every lane's samples without a gradient and all
//! ranks gather what it sees; in the second each lane draws its negatives from that, reads those of other lanes itself, and
//! differentiates through them on its own tape. No gradient crosses lanes.

use super::shares::View;
use crate::rank::failure::Failure;
use medley_data::loader::{Batch, Loader};
use medley_model::blip::{Blip, Candidates, Guest, LaneStep};
use medley_model::flat::Pool;
use medley_model::loss::itm::Negatives;
use medley_model::state::State;
use std::collections::VecDeque;

/// The first pass of a step: what this rank's lanes read, and what all lanes hold.
pub(super) struct Looked {
    /// Batches of the rank's lanes, in order.
    pub(super) batches: VecDeque<Batch>,
    /// The samples of all lanes.
    pub(super) all: View,
    /// Identities of their images.
    pub(super) identities: Vec<u64>,
}

/// A lane's negatives and the places of its guests.
pub(super) struct Drawn {
    /// The negatives, as the lane numbers them.
    pub(super) negatives: Negatives,
    /// Images that were added to the lane's batch.
    pub(super) guests: Vec<Guest>,
}

/// What the student sees of a lane.
pub(super) fn look(blip: &Blip, state: &State, batch: &Batch, step: LaneStep, pool: &mut Pool) -> View {
    let (image_features, text_features) = blip.student_features(state, super::trainer::own(batch), step, pool);
    View {
        image_features,
        text_features,
        samples: batch.samples.clone(),
    }
}

/// Draws a lane's negatives; those of other lanes are read and added to its batch.
///
/// # Errors
/// [`Failure`] when a sample cannot be read.
pub(super) fn draw(
    blip: &Blip,
    state: &State,
    looked: &Looked,
    step: LaneStep,
    (batch, reader): (&mut Batch, &mut Loader),
) -> Result<Drawn, Failure> {
    let b = batch.identities.len();
    let candidates = Candidates {
        image_features: &looked.all.image_features,
        text_features: &looked.all.text_features,
        identities: &looked.identities,
    };
    let (lane, b) = (step.lane, b as u32);
    let seated = blip.draw(state, candidates, step, b as usize).seat(lane * b, b);
    let sample = |candidate: &u32| looked.all.samples[*candidate as usize];
    for image in &seated.images {
        reader.pixels(step.step, sample(image), &mut batch.pixels)?;
    }
    let texts = seated.texts.iter().map(|text| reader.text(sample(text)));
    batch.texts.extend(texts);
    Ok(Drawn {
        guests: seated.images.iter().map(|image| Guest::of(*image, b)).collect(),
        negatives: seated.negatives,
    })
}
