//! What a step changes in the state, on whatever device it lies.

use super::{Resident, State};
use crate::blip::Blip;
use crate::device::{Device, DeviceError, Span, SpanMut};
use crate::layout::{Entry, ParamId};
use crate::loss::itc::UNKNOWN;
use crate::ops::blocks::on_threads;
use crate::ops::meter::{self, Part};
use crate::ops::optim::AdamW;
use crate::params::{self, Objective};
use medley_protocol::spec::TrainSpec;
use std::ops::Range;

/// What is committed with the mean gradient.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// Sum of all lanes' gradients, on the state's device.
    pub gradient: Span<'a>,
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

/// What a commit will have made of a state, known before it is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Foreseen {
    /// Euclidean norm of the mean gradient.
    pub gradient_norm: f64,
    /// The learned temperature after the commit.
    pub temperature: f32,
}

/// The parts of a state, to be changed.
pub(super) struct Held<'a> {
    pub(super) device: &'a Device,
    pub(super) step: &'a mut u64,
    pub(super) queue_next: &'a mut u64,
    /// With what is rounded of them.
    pub(super) params: (SpanMut<'a>, Option<SpanMut<'a>>),
    pub(super) m: SpanMut<'a>,
    pub(super) v: SpanMut<'a>,
    pub(super) ema: (SpanMut<'a>, Option<SpanMut<'a>>),
    pub(super) image_queue: SpanMut<'a>,
    pub(super) text_queue: SpanMut<'a>,
    pub(super) queued_identities: &'a mut [u64],
}

impl State {
    fn held(&mut self) -> Held<'_> {
        Held {
            device: &Device::Cpu,
            step: &mut self.step,
            queue_next: &mut self.queue_next,
            params: ((&mut self.params).into(), None),
            m: (&mut self.m).into(),
            v: (&mut self.v).into(),
            ema: ((&mut self.ema).into(), None),
            image_queue: (&mut self.image_queue).into(),
            text_queue: (&mut self.text_queue).into(),
            queued_identities: &mut self.queued_identities,
        }
    }

    /// Commits one step: AdamW on what the objective trains (weight decay on everything, as in the reference), the clamp of
    /// the temperature, the momentum average, the queues in lane order, the counter.
    ///
    /// The average after the optimiser's step equals the reference's before the next forward. Both are made in one pass over
    /// memory, with the bits of [`optimise`](Self::optimise) and [`settle`](Self::settle).
    pub fn commit(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        on_threads(|| self.held().commit(blip, objective, train, commit));
    }

    /// What [`commit`](Self::commit) will make of the state, which stays as it is.
    pub fn foresee(&self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) -> Foreseen {
        let trained = [&self.params, &self.m, &self.v].map(Span::from);
        foresee((&Device::Cpu, self.step), trained, blip, objective, train, commit)
    }

    /// The optimiser's part of a commit.
    pub fn optimise(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        self.held().optimise(blip, objective, train, commit);
    }

    /// What the reference does at the start of the next forward pass, and is therefore pending in its checkpoints: the clamp
    /// of the temperature and the momentum average.
    pub fn settle(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec) {
        self.held().settle(blip, objective, train);
    }

    /// The rest of a commit: the step's features go into the queues, and it is counted.
    pub fn advance(&mut self, blip: &Blip, objective: Objective, commit: Commit) {
        self.held().advance(blip, objective, commit);
    }

    pub(crate) fn clamp_temperature(&mut self, blip: &Blip) {
        self.held().clamp_temperature(blip);
    }

    pub(crate) fn average(&mut self, blip: &Blip, momentum: f64) {
        self.held().average(blip, momentum);
    }
}

impl Resident {
    /// As [`State::commit`].
    pub fn commit(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        on_threads(|| self.held().commit(blip, objective, train, commit));
    }

    /// As [`State::foresee`]. This is where a step waits for the device.
    ///
    /// # Errors
    /// [`DeviceError`] if the device failed since the last check: the gradient is worthless then.
    pub fn foresee(
        &self,
        blip: &Blip,
        objective: Objective,
        train: &TrainSpec,
        commit: Commit,
    ) -> Result<Foreseen, DeviceError> {
        let place = (self.device(), self.step());
        let foreseen = foresee(place, self.trained(), blip, objective, train, commit);
        self.device().check().map(|()| foreseen)
    }
}

impl Held<'_> {
    fn commit(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        let _part = meter::part(Part::Optimiser);
        if objective.understands() {
            let (steps, segments) = (steps(*self.step, blip, objective, train, commit), segments(blip));
            let (params, ema) = (both(&mut self.params), both(&mut self.ema));
            let moments = [self.m.reborrow(), self.v.reborrow()];
            self.device
                .adamw_and_average(&steps, params, mean(commit), moments, &segments, ema, train.momentum);
        } else {
            self.optimise(blip, objective, train, commit);
        }
        self.clamp_temperature(blip);
        self.advance(blip, objective, commit);
    }

    fn optimise(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec, commit: Commit) {
        let steps = steps(*self.step, blip, objective, train, commit);
        let moments = [self.m.reborrow(), self.v.reborrow()];
        self.device.adamw(&steps, both(&mut self.params), mean(commit), moments);
    }

    fn settle(&mut self, blip: &Blip, objective: Objective, train: &TrainSpec) {
        self.clamp_temperature(blip);
        if objective.understands() {
            self.average(blip, train.momentum);
        }
    }

    fn advance(&mut self, blip: &Blip, objective: Objective, commit: Commit) {
        if objective.understands() {
            self.enqueue(blip, commit);
        }
        *self.step += 1;
    }

    fn clamp_temperature(&mut self, blip: &Blip) {
        let at = blip.student_layout.entry(blip.temperature).range();
        clamp(self.device, self.params.0.reborrow().range(at), blip);
    }

    fn average(&mut self, blip: &Blip, momentum: f64) {
        let params = self.params.0.as_span();
        self.device
            .momentum_average(&segments(blip), both(&mut self.ema), params, momentum);
    }

    /// Puts features and identities into the queues, in as many pieces as their ends ask for.
    fn enqueue(&mut self, blip: &Blip, commit: Commit) {
        let (width, queue) = (blip.model.embed_dim as usize, u64::from(blip.model.queue));
        let samples = (commit.image_features.len() / width) as u64;
        let mut done = 0;
        while done < samples {
            let first = *self.queue_next;
            let n = (samples - done).min(queue - first);
            let (from, to) = (done as usize..(done + n) as usize, first as usize..(first + n) as usize);
            let elements = |rows: &Range<usize>| rows.start * width..rows.end * width;
            for (features, queue) in [
                (commit.image_features, &mut self.image_queue),
                (commit.text_features, &mut self.text_queue),
            ] {
                self.device
                    .write(&features[elements(&from)], queue.reborrow().range(elements(&to)));
            }
            for (queued, i) in self.queued_identities[to].iter_mut().zip(from) {
                *queued = commit.identities.get(i).copied().unwrap_or(UNKNOWN);
            }
            done += n;
            *self.queue_next = (first + n) % queue;
        }
    }
}

/// What the objective trains, with the optimiser's step after so many.
fn steps(
    done: u64,
    blip: &Blip,
    objective: Objective,
    train: &TrainSpec,
    commit: Commit,
) -> Vec<(Range<usize>, AdamW)> {
    let declared = params::declared_writes(&blip.student_layout, objective);
    let trained = blip.student_layout.iter().filter(|(id, _)| declared[id.index()] > 0);
    let step = |(id, entry): (ParamId, &Entry)| {
        let lr = if id == blip.temperature {
            commit.lr * train.temperature_lr
        } else {
            commit.lr
        };
        let betas = (train.beta1, train.beta2);
        let adamw = AdamW::step(done + 1, lr, betas, train.eps, train.weight_decay);
        (entry.range(), adamw)
    };
    trained.map(step).collect()
}

/// Commits the temperature alone, to a copy. The device has all to do before anything is awaited.
fn foresee(
    (device, done): (&Device, u64),
    trained: [Span; 3],
    blip: &Blip,
    objective: Objective,
    train: &TrainSpec,
    commit: Commit,
) -> Foreseen {
    let at = blip.student_layout.entry(blip.temperature).range();
    let [mut p, mut m, mut v] = trained.map(|values| {
        let mut copy = device.buffer(at.len());
        device.copy(values.range(at.clone()), copy.span_mut());
        copy
    });
    let (gradient, scale) = mean(commit);
    let steps = steps(done, blip, objective, train, commit);
    if let Some((_, step)) = steps.into_iter().find(|(trained, _)| *trained == at) {
        let moments = [m.span_mut(), v.span_mut()];
        let gradient = (gradient.range(at.clone()), scale);
        device.adamw(&[(0..at.len(), step)], (p.span_mut(), None), gradient, moments);
    }
    clamp(device, p.span_mut(), blip);
    Foreseen {
        gradient_norm: gradient_norm(device, commit.gradient, commit.lanes),
        temperature: device.to_vec(p.span())[0],
    }
}

/// Holds the temperature within its limits.
fn clamp(device: &Device, temperature: SpanMut, blip: &Blip) {
    let limits = &blip.model.temperature;
    device.clamp(temperature, limits.min as f32, limits.max as f32);
}

/// The momentum encoders, tensor by tensor: where it begins among them, where what it follows does, and its length.
fn segments(blip: &Blip) -> Vec<(usize, usize, usize)> {
    let followed = params::followed(&blip.student_layout, &blip.momentum_layout);
    let entries = blip.momentum_layout.entries().iter().zip(followed);
    let segment = |(entry, student): (&Entry, ParamId)| {
        let from = blip.student_layout.entry(student).offset;
        (entry.offset, from, entry.len)
    };
    entries.map(segment).collect()
}

/// The sum of the gradients, and what makes it their mean.
fn mean(commit: Commit<'_>) -> (Span<'_>, f32) {
    (commit.gradient, 1.0 / commit.lanes as f32)
}

fn both<'a>((exact, rounded): &'a mut (SpanMut<'_>, Option<SpanMut<'_>>)) -> (SpanMut<'a>, Option<SpanMut<'a>>) {
    (exact.reborrow(), rounded.as_mut().map(SpanMut::reborrow))
}

/// Euclidean norm of the mean gradient, which lies on the device.
pub fn gradient_norm(device: &Device, gradient: Span, lanes: u32) -> f64 {
    libm::sqrt(device.squares(gradient)) / f64::from(lanes)
}
