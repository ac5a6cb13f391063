//! Time of operations on the device.

use crate::fixture::Fixture;
use medley_model::device::Device;
use std::collections::BTreeMap;
use std::time::Duration;

/// Operations that are printed.
const SHOWN: usize = 40;

/// Prints where a step's time goes, the most expensive operations first.
pub(crate) fn measure(preset: &str, batch: usize, device: Device) {
    let Device::Cuda(cuda, _) = &device else {
        panic!("only GPUs are timed here")
    };
    let cuda = cuda.clone();
    let mut fixture = Fixture::on(device, preset, Some(batch), 0, None);
    for _ in 0..3 {
        fixture.step();
    }
    cuda.start_profile();
    fixture.step();
    let noted = cuda.end_profile().unwrap_or_else(|error| panic!("{error}"));
    tell(&format!("{preset} × {batch}"), noted);
}

/// Prints where the time of these operations goes.
pub(crate) fn tell(what: &str, noted: Vec<(String, Duration)>) {
    let launches = noted.len();
    let all: Duration = noted.iter().map(|(_, time)| *time).sum();
    let (mut kinds, mut operations) = (BTreeMap::new(), BTreeMap::new());
    for (name, time) in noted {
        add(&mut kinds, kind(&name), time);
        add(&mut operations, name, time);
    }
    println!(
        "{what}: {launches} operations take {:.2} ms on the device",
        all.as_secs_f64() * 1e3
    );
    print(kinds, all);
    println!();
    print(operations, all);
}

/// How often, and how long together.
type Sum = (u32, Duration);

fn add(sums: &mut BTreeMap<String, Sum>, name: String, time: Duration) {
    let (count, sum) = sums.entry(name).or_default();
    *count += 1;
    *sum += time;
}

/// The first word: all products are one kind.
fn kind(name: &str) -> String {
    name.split(' ').next().unwrap_or_default().to_owned()
}

fn print(sums: BTreeMap<String, Sum>, all: Duration) {
    let mut sums: Vec<(String, Sum)> = sums.into_iter().collect();
    sums.sort_by_key(|(_, (_, sum))| std::cmp::Reverse(*sum));
    for (name, (count, sum)) in sums.iter().take(SHOWN) {
        let rate = operations(name).map_or(String::new(), |each| {
            let rate = each * f64::from(*count) / sum.as_secs_f64();
            format!(", {:.0} TFLOP/s", rate / 1e12)
        });
        let share = sum.as_secs_f64() / all.as_secs_f64() * 100.0;
        println!(
            "{:>8.3} ms {share:>5.1} % {count:>5} × {name}{rate}",
            sum.as_secs_f64() * 1e3
        );
    }
}

/// Floating-point operations of a product, from its name.
fn operations(name: &str) -> Option<f64> {
    let sizes: Vec<f64> = name
        .strip_prefix("product ")?
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    // Rows, inner and columns, and how many times.
    (sizes.len() >= 3).then(|| 2.0 * sizes.iter().product::<f64>())
}
