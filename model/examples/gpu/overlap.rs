//! Lanes that are begun before earlier ones have ended, their pixels sent ahead, against lanes one by one.

use crate::fixture::{Fixture, lane_step};
use medley_model::blip::{LaneBatch, LaneOutput, LaneUnderway, Seen};
use medley_model::device::{Ahead, Buffer, Device, Pool, Sent, Span};
use std::sync::mpsc;
use std::thread;

/// Lanes: more than there are places for pixels.
const LANES: usize = 4;

/// Whether both ways give the same bits.
pub(crate) fn same(fixture: &Fixture, state: Seen, device: &Device, pool: &mut Pool) -> bool {
    let scaled = |lane: usize| {
        fixture
            .samples
            .pixels
            .iter()
            .map(move |v| v * (1.0 - 0.2 * lane as f32))
    };
    let sets: Vec<Vec<f32>> = (0..LANES).map(|lane| scaled(lane).collect()).collect();
    let mut gradients = [(); LANES].map(|()| device.buffer(fixture.blip.student_layout.len()));
    let mut begin = |pixels: Span, lane: usize, gradient: &mut Buffer| {
        let batch = LaneBatch {
            pixels,
            ..fixture.samples.batch()
        };
        let step = lane_step(&fixture.spec, 7 + lane as u64);
        let begun = fixture.blip.begin_lane(state, batch, step, None, pool, gradient);
        begun.unwrap_or_else(|error| panic!("{error}"))
    };
    let found = |lanes: Vec<LaneUnderway>, gradients: &[Buffer]| -> Vec<(LaneOutput, Vec<f32>)> {
        let outputs = lanes
            .into_iter()
            .map(|lane| lane.finish().unwrap_or_else(|error| panic!("{error}")));
        outputs
            .zip(gradients.iter().map(|gradient| device.to_vec(gradient.span())))
            .collect()
    };
    let mut one_by_one = Vec::new();
    for (lane, (set, gradient)) in sets.iter().zip(&mut gradients).enumerate() {
        one_by_one.push(begin(set.into(), lane, gradient));
        device.check().unwrap_or_else(|error| panic!("{error}"));
    }
    let one_by_one = found(one_by_one, &gradients);
    let mut together = Vec::new();
    thread::scope(|scope| {
        let (to, sent) = mpsc::sync_channel::<Sent>(0);
        let sets = &sets;
        scope.spawn(move || {
            let mut ahead = Ahead::to(device).unwrap_or_else(|error| panic!("{error}"));
            sets.iter().all(|set| to.send(ahead.send(set)).is_ok())
        });
        for ((lane, gradient), sent) in gradients.iter_mut().enumerate().zip(sent) {
            together.push(begin(sent.span(), lane, gradient));
        }
    });
    let together = found(together, &gradients);
    device.check().is_ok() && together == one_by_one && one_by_one[0] != one_by_one[1]
}
