//! What a training step commits: parameters, moments, momentum encoder, queues and the step counter.
//!
//! The state is replicated on every rank and changes in one place, [`State::commit`], as one local act without network or
//! cancellation point. Its canonical bytes ([`State::sections`]) are what checkpoints hold, hashes cover and ranks compare.

mod tensors;

use crate::blip::Blip;
use crate::flat::Flat;
use crate::init;
use crate::loss::itc::UNKNOWN;
use crate::ops::blocks::on_threads;
use crate::ops::meter::{self, Part};
use crate::ops::optim::{AdamW, momentum_average};
use crate::ops::sum::squares_f64;
use crate::params::{self, Objective};
use crate::positions;
use medley_protocol::spec::TrainSpec;
use std::ops::Range;
pub use tensors::Tensor;

/// State after some committed steps.
#[derive(Debug, Clone)]
pub struct State {
    /// Committed steps of this stage.
    pub step: u64,
    /// Where the next features go in both queues.
    pub queue_next: u64,
    /// Trained parameters.
    pub params: Flat,
    /// First moments.
    pub m: Flat,
    /// Second moments.
    pub v: Flat,
    /// Momentum encoders.
    pub ema: Flat,
    /// Momentum features of earlier images, queue × e.
    pub image_queue: Flat,
    /// Momentum features of earlier texts, queue × e.
    pub text_queue: Flat,
    /// Identities of the queues' images; [`UNKNOWN`] until the entry is written in this stage.
    pub queued_identities: Vec<u64>,
}

/// What is committed with the mean gradient.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// Sum of all lanes' gradients.
    pub gradient: &'a [f32],
    /// Number of lanes.
    pub lanes: u32,
    /// Momentum image features of all lanes, in lane order.
    pub image_features: &'a [f32],
    /// Momentum text features of all lanes, in lane order.
    pub text_features: &'a [f32],
    /// Identities of their images; without any they are [`UNKNOWN`].
    pub identities: &'a [u64],
    /// Learning rate.
    pub lr: f64,
}

/// Bytes of the header: step and queue position.
const HEADER: usize = 16;

/// Saved bytes do not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the saved state has {found} bytes, the model of this spec has {expected}: they are of different models")]
pub struct WrongSize {
    /// Size given.
    pub found: usize,
    /// Size of this model's state.
    pub expected: usize,
}

impl State {
    /// Fresh weights; the momentum encoders are copies, the queues random.
    pub fn fresh(blip: &Blip, seed: u64) -> Self {
        let mut state = Self::zeros(blip);
        init::weights(&blip.model, &blip.student_layout, seed, &mut state.params);
        for (entry, id) in blip
            .momentum_layout
            .entries()
            .iter()
            .zip(params::followed(&blip.student_layout, &blip.momentum_layout))
        {
            let from = blip.student_layout.entry(id).range();
            state.ema[entry.range()].copy_from_slice(&state.params[from]);
        }
        let width = blip.model.embed_dim as usize;
        init::queue("image_queue", seed, width, &mut state.image_queue);
        init::queue("text_queue", seed, width, &mut state.text_queue);
        state
    }

    /// All zeros, to be loaded into.
    pub fn zeros(blip: &Blip) -> Self {
        let queue = (blip.model.queue * blip.model.embed_dim) as usize;
        let (student, momentum) = (blip.student_layout.len(), blip.momentum_layout.len());
        Self {
            step: 0,
            queue_next: 0,
            params: Flat::zeros(student),
            m: Flat::zeros(student),
            v: Flat::zeros(student),
            ema: Flat::zeros(momentum),
            image_queue: Flat::zeros(queue),
            text_queue: Flat::zeros(queue),
            queued_identities: vec![UNKNOWN; blip.model.queue as usize],
        }
    }

    /// The start of a fine-tuning stage from this state: weights, momentum encoders and queues stay, the optimiser and the
    /// counters begin anew, as when the reference loads a pre-trained checkpoint. What the queues' images are is forgotten:
    /// the reference's pre-training does not keep it.
    pub fn begin_stage(&mut self) {
        self.step = 0;
        self.queue_next = 0;
        self.m.fill(0.0);
        self.v.fill(0.0);
        self.queued_identities.fill(UNKNOWN);
    }

    /// This state for the model at another image size: the image towers' position tables are resampled, in parameters and
    /// momentum encoders; everything else is copied. Moments are not carried over: a stage begins after this.
    pub fn at_image_size(self, from: &Blip, to: &Blip) -> Self {
        if from.image_size == to.image_size {
            return self;
        }
        let mut state = Self::zeros(to);
        positions::adapt(
            (&from.student_layout, &self.params),
            (&to.student_layout, &mut state.params),
        );
        positions::adapt(
            (&from.momentum_layout, &self.ema),
            (&to.momentum_layout, &mut state.ema),
        );
        Self {
            step: self.step,
            queue_next: self.queue_next,
            image_queue: self.image_queue,
            text_queue: self.text_queue,
            queued_identities: self.queued_identities,
            ..state
        }
    }

    /// Commits one step: AdamW on what the objective trains (weight decay on everything, as in the reference), the clamp of
    /// the temperature, the momentum average, the queues in lane order, the counter.
    ///
    /// The average after the optimiser's step equals the reference's before the next forward.
    pub fn commit(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        on_threads(|| {
            let _part = meter::part(Part::Optimiser);
            self.optimise(blip, objective, train, commit);
            self.settle(blip, objective, train);
            self.advance(blip, objective, commit);
        });
    }

    /// The optimiser's part of a commit.
    pub fn optimise(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        let declared = params::declared_writes(&blip.student_layout, objective);
        let scale = 1.0 / commit.lanes as f32;
        for (id, entry) in blip.student_layout.iter().filter(|(id, _)| declared[id.index()] > 0) {
            let lr = if id == blip.temperature {
                commit.lr * train.temperature_lr
            } else {
                commit.lr
            };
            let adamw = AdamW::step(
                self.step + 1,
                lr,
                (train.beta1, train.beta2),
                train.eps,
                train.weight_decay,
            );
            let at = entry.range();
            let (m, v) = (&mut self.m[at.clone()], &mut self.v[at.clone()]);
            adamw.apply(&mut self.params[at.clone()], &commit.gradient[at], scale, m, v);
        }
    }

    /// What the reference does at the start of the next forward pass, and is therefore pending in its checkpoints: the clamp
    /// of the temperature and the momentum average.
    pub fn settle(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec) {
        self.clamp_temperature(blip);
        if objective.understands() {
            self.average(blip, train.momentum);
        }
    }

    /// The rest of a commit: the step's features go into the queues, and it is counted.
    pub fn advance(&mut self, blip: &Blip, objective: Objective, commit: Commit) {
        if objective.understands() {
            self.enqueue(blip, commit);
        }
        self.step += 1;
    }

    pub(crate) fn clamp_temperature(&mut self, blip: &Blip) {
        let limits = &blip.model.temperature;
        let temperature = &mut self.params[blip.student_layout.entry(blip.temperature).offset];
        *temperature = temperature.clamp(limits.min as f32, limits.max as f32);
    }

    pub(crate) fn average(&mut self, blip: &Blip, momentum: f64) {
        for entry in blip.momentum_layout.entries() {
            let student = blip.student_layout.entry(blip.student_layout.id(&entry.name)).range();
            momentum_average(&mut self.ema[entry.range()], &self.params[student], momentum);
        }
    }

    fn enqueue(&mut self, blip: &Blip, commit: Commit) {
        let width = blip.model.embed_dim as usize;
        let images = commit.image_features.chunks_exact(width);
        let texts = commit.text_features.chunks_exact(width);
        for (i, (image, text)) in images.zip(texts).enumerate() {
            let next = self.queue_next as usize;
            let at = next * width..(next + 1) * width;
            self.image_queue[at.clone()].copy_from_slice(image);
            self.text_queue[at].copy_from_slice(text);
            self.queued_identities[next] = commit.identities.get(i).copied().unwrap_or(UNKNOWN);
            self.queue_next = (self.queue_next + 1) % u64::from(blip.model.queue);
        }
    }

    /// The learned temperature.
    pub fn temperature(&self, blip: &Blip) -> f32 {
        self.params[blip.student_layout.entry(blip.temperature).offset]
    }

    /// The real tensors of the state with their names, in canonical order.
    pub fn sections(&self) -> [(&'static str, &Flat); 6] {
        [
            ("params", &self.params),
            ("m", &self.m),
            ("v", &self.v),
            ("ema", &self.ema),
            ("image_queue", &self.image_queue),
            ("text_queue", &self.text_queue),
        ]
    }

    /// Size of the canonical bytes: step and queue position as little-endian words, the sections, the queued identities.
    pub fn num_bytes(&self) -> usize {
        let sections: usize = self.sections().iter().map(|(_, flat)| flat.len() * 4).sum();
        HEADER + sections + self.queued_identities.len() * 8
    }

    /// Size of the canonical bytes of any state of this model.
    pub fn num_bytes_of(blip: &Blip) -> usize {
        let (queue, width) = (blip.model.queue as usize, blip.model.embed_dim as usize);
        let floats = 3 * blip.student_layout.len() + blip.momentum_layout.len() + 2 * queue * width;
        HEADER + 4 * floats + 8 * queue
    }

    /// How many of the canonical bytes hold step and parameters, which come first.
    pub fn num_beginning_bytes(blip: &Blip) -> usize {
        HEADER + 4 * blip.student_layout.len()
    }

    /// Step and parameters from the beginning of canonical bytes.
    ///
    /// # Panics
    /// When there are fewer bytes than [`State::num_beginning_bytes`].
    pub fn beginning(blip: &Blip, bytes: &[u8]) -> (u64, Flat) {
        let mut params = Flat::zeros(blip.student_layout.len());
        read_floats(&bytes[HEADER..Self::num_beginning_bytes(blip)], &mut params);
        (word(bytes, 0), params)
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&self.step.to_le_bytes());
        header[8..].copy_from_slice(&self.queue_next.to_le_bytes());
        header
    }

    /// The canonical bytes behind the header, as they lie in memory.
    fn stored(&self) -> [&[u8]; 7] {
        let [params, m, v, ema, images, texts] = self.sections().map(|(_, flat)| flat.as_bytes());
        [
            params,
            m,
            v,
            ema,
            images,
            texts,
            bytemuck::cast_slice(&self.queued_identities),
        ]
    }

    /// The same, to be written.
    fn stored_mut(&mut self) -> [&mut [u8]; 7] {
        [
            self.params.as_bytes_mut(),
            self.m.as_bytes_mut(),
            self.v.as_bytes_mut(),
            self.ema.as_bytes_mut(),
            self.image_queue.as_bytes_mut(),
            self.text_queue.as_bytes_mut(),
            bytemuck::cast_slice_mut(&mut self.queued_identities),
        ]
    }

    /// Calls `f` with the canonical bytes of `range`, in order and in as few slices as they lie in.
    pub fn for_bytes(&self, range: Range<usize>, mut f: impl FnMut(&[u8])) {
        let header = self.header();
        let mut at = 0;
        for slice in std::iter::once(&header[..]).chain(self.stored()) {
            let (from, to) = (range.start.max(at), range.end.min(at + slice.len()));
            if from < to {
                f(&slice[from - at..to - at]);
            }
            at += slice.len();
        }
    }

    /// Cuts the canonical bytes into pieces of at most `most` bytes, none of which lies in two places in memory.
    pub fn pieces(&self, most: usize) -> Vec<Range<usize>> {
        let mut at = 0;
        let mut pieces = Vec::new();
        for len in std::iter::once(HEADER).chain(self.stored().map(<[u8]>::len)) {
            let end = at + len;
            pieces.extend((at..end).step_by(most).map(|begin| begin..end.min(begin + most)));
            at = end;
        }
        pieces
    }

    /// The canonical bytes of `range`, if they lie in one place in memory; those of the header do not lie there.
    pub fn together(&self, range: Range<usize>) -> Option<&[u8]> {
        let mut at = HEADER;
        for slice in self.stored() {
            if at <= range.start && range.end <= at + slice.len() {
                return Some(&slice[range.start - at..range.end - at]);
            }
            at += slice.len();
        }
        None
    }

    /// Has the system give memory for all of it now. Zeros that nobody wrote yet take none, and getting it takes time.
    pub fn claim_memory(&mut self) {
        const PAGE: usize = 4096;
        for slice in self.stored_mut() {
            slice
                .iter_mut()
                .step_by(PAGE)
                .for_each(|byte| *byte = std::hint::black_box(*byte));
        }
    }

    /// A copy of some of the canonical bytes.
    pub fn copy_bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        self.for_bytes(range, |slice| bytes.extend_from_slice(slice));
        bytes
    }

    /// BLAKE3 of the canonical bytes.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        self.for_bytes(0..self.num_bytes(), |slice| {
            hasher.update(slice);
        });
        hasher.finalize()
    }

    /// Takes over canonical bytes, the first of which is the `offset`-th of the state. They must lie within it.
    pub fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        let mut header = self.header();
        let end = offset + bytes.len();
        let mut at = 0;
        for slice in std::iter::once(&mut header[..]).chain(self.stored_mut()) {
            let (from, to) = (offset.max(at), end.min(at + slice.len()));
            if from < to {
                slice[from - at..to - at].copy_from_slice(&bytes[from - offset..to - offset]);
            }
            at += slice.len();
        }
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        (self.step, self.queue_next) = (word(0), word(8));
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`WrongSize`] if they are not of this model.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), WrongSize> {
        if bytes.len() != self.num_bytes() {
            return Err(WrongSize {
                found: bytes.len(),
                expected: self.num_bytes(),
            });
        }
        self.write_bytes(0, bytes);
        Ok(())
    }
}

/// Euclidean norm of the mean gradient.
pub fn gradient_norm(gradient: &[f32], lanes: u32) -> f64 {
    libm::sqrt(squares_f64(gradient)) / f64::from(lanes)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Fills `to` with the first of the bytes.
fn read_floats(bytes: &[u8], to: &mut [f32]) {
    for (value, bytes) in to.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Vocabulary;
    use medley_protocol::spec::Spec;

    pub(super) fn blip() -> (Blip, TrainSpec) {
        let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"},
            "model": {"queue": 16}, "lanes": {"count": 2, "batch": 5}, "cluster": {"max_ranks": 2}});
        let spec = Spec::from_document(&document).unwrap();
        let vocab = Vocabulary {
            size: 40,
            pad: 0,
            cls: 2,
            sep: 3,
            dec: 4,
            enc: 5,
        };
        (Blip::new(&spec.model, 32, vocab), spec.pretrain)
    }

    /// Commits a step of ten samples whose identities begin at `first`.
    pub(super) fn commit(state: &mut State, blip: &Blip, train: &TrainSpec, first: u64) {
        let gradient = Flat::from_slice(&vec![0.5; blip.student_layout.len()]);
        let features = vec![first as f32; 10 * blip.model.embed_dim as usize];
        let identities: Vec<u64> = (first..first + 10).collect();
        let commit = Commit {
            gradient: &gradient,
            lanes: 2,
            image_features: &features,
            text_features: &features,
            identities: &identities,
            lr: 1e-2,
        };
        state.commit(blip, Objective::Filter, train, commit);
    }

    #[test]
    fn identities_are_queued_beside_the_features_they_belong_to() {
        let (blip, train) = blip();
        let mut state = State::fresh(&blip, 1);
        assert_eq!(state.queued_identities, [UNKNOWN; 16]);
        commit(&mut state, &blip, &train, 100);
        commit(&mut state, &blip, &train, 200);
        let expected: Vec<u64> = (206..210).chain(104..110).chain(200..206).collect();
        assert_eq!(state.queued_identities, expected);
        let first_of = |at: usize| state.image_queue[at * blip.model.embed_dim as usize];
        assert!((0..16).all(|at| first_of(at) == (state.queued_identities[at] / 100 * 100) as f32));
    }

    #[test]
    fn canonical_bytes_hold_the_identities() {
        let (blip, train) = blip();
        let mut state = State::fresh(&blip, 1);
        commit(&mut state, &blip, &train, u64::MAX - 50);
        let bytes = state.copy_bytes(0..state.num_bytes());
        let mut loaded = State::zeros(&blip);
        loaded.load(&bytes).unwrap();
        assert_eq!(loaded.queued_identities, state.queued_identities);
        assert_eq!(loaded.digest(), state.digest());
        assert_eq!(bytes.len(), State::num_bytes_of(&blip));
        let (step, params) = State::beginning(&blip, &bytes[..State::num_beginning_bytes(&blip)]);
        assert_eq!((step, &params[..]), (1, &state.params[..]));
        loaded.queued_identities[15] ^= 1;
        assert_ne!(loaded.digest(), state.digest());
    }

    #[test]
    fn a_state_can_be_written_piece_by_piece() {
        let (blip, train) = blip();
        let mut state = State::fresh(&blip, 1);
        commit(&mut state, &blip, &train, 100);
        let bytes = state.copy_bytes(0..state.num_bytes());
        for size in [5, 4096, bytes.len()] {
            let mut written = State::zeros(&blip);
            for (piece, at) in bytes.chunks(size).zip((0..).step_by(size)) {
                written.write_bytes(at, piece);
            }
            assert_eq!(
                (written.step, written.digest()),
                (1, state.digest()),
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn a_fine_tuning_stage_forgets_what_its_queues_show() {
        let (blip, train) = blip();
        let mut state = State::fresh(&blip, 1);
        commit(&mut state, &blip, &train, 100);
        let features = state.image_queue.to_vec();
        state.begin_stage();
        assert_eq!((state.step, state.queue_next), (0, 0));
        assert_eq!(state.queued_identities, [UNKNOWN; 16]);
        assert_eq!(state.image_queue[..], features);
    }

    #[test]
    fn momentum_encoders_follow_as_far_as_the_momentum_says() {
        for momentum in [0.0, 0.7, 0.995, 1.0] {
            let (blip, mut train) = blip();
            train.momentum = momentum;
            let mut state = State::fresh(&blip, 1);
            let before = state.ema.to_vec();
            commit(&mut state, &blip, &train, 100);
            for entry in blip.momentum_layout.entries() {
                let student = blip.student_layout.entry(blip.student_layout.id(&entry.name)).range();
                for (at, student) in entry.range().zip(&state.params[student]) {
                    let expected = momentum * f64::from(before[at]) + (1.0 - momentum) * f64::from(*student);
                    assert!(
                        (f64::from(state.ema[at]) - expected).abs() < 1e-6,
                        "{} at {momentum}",
                        entry.name
                    );
                }
            }
        }
    }
}
