//! Time of whole training steps.

use crate::fixture::Fixture;
use medley_model::device::Device;
use std::time::Instant;

/// Prints the median of `steps` steps.
pub(crate) fn measure(preset: &str, batch: usize, steps: usize, device: Device) {
    let Device::Cuda(cuda, _) = &device else {
        panic!("only GPUs are timed here")
    };
    let cuda = cuda.clone();
    let mut fixture = Fixture::on(device, preset, Some(batch), 0, None);
    for _ in 0..3 {
        fixture.step();
    }
    let waited = cuda.waited();
    let mut seconds: Vec<f64> = (0..steps).map(|_| timed(&mut fixture)).collect();
    let waited = cuda.waited().saturating_sub(waited).as_secs_f64() / steps as f64;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[steps / 2];
    println!(
        "{preset} × {batch}: {:.1} ms a step ({:.1}–{:.1}), of which {:.1} ms waiting for the device; {:.1} pairs/s, {:.2} GiB of activations",
        median * 1e3,
        seconds[0] * 1e3,
        seconds[steps - 1] * 1e3,
        waited * 1e3,
        batch as f64 / median,
        fixture.pool.peak_bytes() as f64 / f64::from(1 << 30),
    );
}

fn timed(fixture: &mut Fixture) -> f64 {
    let began = Instant::now();
    fixture.step();
    fixture.pool.check().unwrap_or_else(|error| panic!("{error}"));
    began.elapsed().as_secs_f64()
}
