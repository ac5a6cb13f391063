//! Time of whole training steps.

use crate::fixture::Fixture;
use medley_model::cuda::Spent;
use medley_model::device::Device;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Prints the median of `steps` steps, each from the end of the one before to its own: as in training the host waits for the draw of
/// negatives and for the lane's end, and the commit is on its way when the next lane begins.
pub(crate) fn measure(preset: &str, batch: usize, steps: usize, device: Device) {
    let Device::Cuda(cuda, _) = &device else {
        panic!("only GPUs are timed here")
    };
    let cuda = cuda.clone();
    let mut fixture = Fixture::on(device, preset, Some(batch), 0, None);
    for _ in 0..3 {
        fixture.step();
    }
    let (before, begun) = (cuda.spent(), Instant::now());
    let mut seconds: Vec<f64> = (0..steps).map(|_| timed(&mut fixture)).collect();
    fixture.pool.check().unwrap_or_else(|error| panic!("{error}"));
    let (after, all) = (cuda.spent(), begun.elapsed().as_secs_f64());
    seconds.sort_by(f64::total_cmp);
    let median = seconds[steps / 2];
    println!(
        "{preset} × {batch}: {:.1} ms a step ({:.1}–{:.1}, {:.1} in the mean with the last commit); {:.1} pairs/s, {:.2} GiB of activations",
        median * 1e3,
        seconds[0] * 1e3,
        seconds[steps - 1] * 1e3,
        all / steps as f64 * 1e3,
        batch as f64 / median,
        fixture.pool.peak_bytes() as f64 / f64::from(1 << 30),
    );
    println!("the host, a step:{}", by_kind(&before, &after, steps));
}

fn timed(fixture: &mut Fixture) -> f64 {
    let began = Instant::now();
    fixture.step();
    began.elapsed().as_secs_f64()
}

/// What the host did in each of `steps` between two accounts, by kind.
pub(crate) fn by_kind(before: &[Spent], after: &[Spent], steps: usize) -> String {
    let mut line = String::new();
    for (before, after) in before.iter().zip(after) {
        let times = (after.times - before.times) as f64 / steps as f64;
        let time = after.time.saturating_sub(before.time);
        let _ = write!(
            line,
            " {:?} {:.2} ms ({times:.0}×)",
            after.work,
            milliseconds(time) / steps as f64
        );
    }
    line
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
