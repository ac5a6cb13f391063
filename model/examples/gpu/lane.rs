//! A lane of a step and its commit on a GPU, against the processor's.

use crate::fixture::{Fixture, commit_of, lane_step};
use crate::overlap;
use medley_model::blip::{Blip, LaneOutput, Seen};
use medley_model::device::{Buffer, Device, DeviceError, Pool, SpanMut};
use medley_model::flat::Flat;
use medley_model::layout::Layout;
use medley_model::loss::itm::Negatives;
use medley_model::params::{self, Objective};
use medley_model::state::{Resident, State};
use std::fmt::Write as _;
use std::ops::Range;

/// How far results may be apart.
struct Bars {
    /// Losses, relative.
    loss: f64,
    /// Features, relative in the Euclidean norm.
    features: f64,
    /// Gradients of parameters, relative in the Euclidean norm.
    gradient: f64,
    /// Gradients that are zero in exact arithmetic are compared with this share of the whole gradient's norm instead.
    noise: f64,
}

/// In single precision, those of the processor's parity with the reference.
const EXACT: Bars = Bars {
    loss: 1e-5,
    features: 1e-5,
    gradient: 1e-3,
    noise: 1e-6,
};
const ROUNDED: Bars = Bars {
    loss: 1e-2,
    // A tower rounds a dozen times, each time by 2e-3.
    features: 2e-2,
    gradient: 0.1,
    noise: 1e-2,
};
/// States that the same gradient was committed to.
const STATE: f64 = 1e-5;

/// Compares so many steps of `preset` at `batch` samples; whether all is well.
pub(crate) fn compare(preset: &str, batch: usize, steps: usize, device: &Device) -> bool {
    let fixture = Fixture::new(preset, Some(batch), 0, None);
    let bars = if device.rounds() { ROUNDED } else { EXACT };
    let blip = &fixture.blip;
    let thrifty = Blip {
        recomputes: true,
        ..Blip::new(&blip.model, blip.image_size, blip.vocab)
    };
    let b = batch as u32;
    let negatives = Negatives {
        image_of_text: (0..b).map(|i| (i + 1) % b).collect(),
        text_of_image: (0..b).map(|i| (i + b - 1) % b).collect(),
    };
    let layout = &blip.student_layout;
    let mut host = State::fresh(blip, fixture.spec.seed);
    let mut resident = Resident::of(&host, device);
    let (mut host_pool, mut pool) = (Pool::default(), Pool::on(device.clone()));
    let mut expected = Flat::zeros(layout.len());
    let mut gradient = device.buffer(layout.len());
    let mut well = true;
    for step in 0..steps {
        let given = (step > 0).then_some(&negatives);
        let (fixture, expected_of) = (&fixture, (&mut expected).into());
        let plain = run(fixture, blip, (&host).into(), given, &mut host_pool, expected_of);
        let ours = run(fixture, blip, resident.seen(), given, &mut pool, (&mut gradient).into());
        let found = device.to_vec(gradient.span());
        for (blip, what) in [(blip, "twice"), (&thrifty, "with activations computed again")] {
            let again = run(fixture, blip, resident.seen(), given, &mut pool, (&mut gradient).into());
            let same = again == ours && device.to_vec(gradient.span()) == found;
            well &= report(&format!("{preset} × {batch}, step {step}: same bits {what}"), same, "");
        }
        well &= losses(&bars, preset, step, &plain, &ours);
        well &= gradients(&bars, preset, step, layout, &expected, &found);
        let commit = |gradient| commit_of(&plain, gradient);
        host.commit(
            blip,
            Objective::Pretrain,
            &fixture.spec.pretrain,
            commit((&expected).into()),
        );
        // Committed from the processor's gradient, so that one step's rounding does not meet the next one's.
        let given: Buffer = device.upload(&expected);
        let foreseen = resident.foresee(blip, Objective::Pretrain, &fixture.spec.pretrain, commit(given.span()));
        resident.commit(blip, Objective::Pretrain, &fixture.spec.pretrain, commit(given.span()));
        let mut stored = State::zeros(blip);
        well &= resident.store(&mut stored).is_ok();
        well &= states(preset, step, &host, &stored);
        let norm = norm(&expected);
        let is_foreseen = foreseen.is_ok_and(|foreseen| {
            foreseen.temperature == stored.temperature(blip) && (foreseen.gradient_norm / norm - 1.0).abs() < 1e-12
        });
        let what = format!("{preset}, step {step}: norm and temperature are foreseen");
        well &= report(&what, is_foreseen, "");
        well &= bytes(preset, step, &resident, &stored);
    }
    let same = overlap::same(&fixture, resident.seen(), device, &mut pool);
    well &= report(
        &format!("{preset} × {batch}: same bits by lanes that overlap, pixels sent ahead"),
        same,
        "",
    );
    println!(
        "{preset} × {batch}: {:.2} GiB of activations at most",
        pool.peak_bytes() as f64 / f64::from(1 << 30)
    );
    well
}

fn run(
    fixture: &Fixture,
    blip: &Blip,
    state: Seen,
    negatives: Option<&Negatives>,
    pool: &mut Pool,
    gradient: SpanMut,
) -> LaneOutput {
    let (step, batch) = (lane_step(&fixture.spec, 7), fixture.samples.batch());
    let found = blip.lane_with(state, batch, step, negatives, pool, gradient);
    found.unwrap_or_else(|error| panic!("{error}"))
}

fn losses(bars: &Bars, preset: &str, step: usize, plain: &LaneOutput, ours: &LaneOutput) -> bool {
    let worst = plain
        .losses
        .iter()
        .zip(ours.losses)
        .map(|(a, b)| f64::from((a - b).abs() / a.abs()));
    let worst = worst.fold(0.0, f64::max);
    let features =
        apart(&plain.image_features, &ours.image_features).max(apart(&plain.text_features, &ours.text_features));
    let detail = format!(
        "losses {:?} / {:?} apart {worst:.1e}, features {features:.1e}",
        plain.losses, ours.losses
    );
    report(
        &format!("{preset}, step {step}: losses"),
        worst < bars.loss && features < bars.features,
        &detail,
    )
}

fn gradients(bars: &Bars, preset: &str, step: usize, layout: &Layout, plain: &[f32], ours: &[f32]) -> bool {
    let declared = params::declared_writes(layout, Objective::Pretrain);
    let whole = norm(plain);
    let all_apart = apart(plain, ours);
    let mut all: Vec<(f64, &str)> = layout
        .iter()
        .filter(|(id, _)| declared[id.index()] > 0)
        .map(|(_, entry)| {
            let (plain, ours) = (&plain[entry.range()], &ours[entry.range()]);
            (
                distance(plain, ours) / norm(plain).max(bars.noise * whole),
                entry.name.as_str(),
            )
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut detail = format!("all {all_apart:.1e}; worst");
    for (apart, name) in &all[..3] {
        let _ = write!(detail, " {name} {apart:.1e}");
    }
    let well = all.iter().all(|(apart, _)| *apart < bars.gradient);
    report(
        &format!("{preset}, step {step}: {} gradients", all.len()),
        well,
        &detail,
    )
}

fn states(preset: &str, step: usize, host: &State, stored: &State) -> bool {
    let sections = host.sections().into_iter().zip(stored.sections());
    let worst = sections.map(|((_, a), (_, b))| apart(a, b)).fold(0.0, f64::max);
    let counted = (host.step, host.queue_next, &host.queued_identities)
        == (stored.step, stored.queue_next, &stored.queued_identities);
    report(
        &format!("{preset}, step {step}: state"),
        counted && worst < STATE,
        &format!("apart {worst:.1e}"),
    )
}

/// Whether the bytes that are fetched, of all and of a part that cuts numbers, those of a snapshot, and the digest are those of what
/// was stored.
fn bytes(preset: &str, step: usize, resident: &Resident, stored: &State) -> bool {
    let (device, all) = (resident.device(), stored.num_bytes());
    let ranges = [0..all, all / 3 + 1..all - 5, all - 70_001..all];
    let fetched = |range: &Range<usize>| {
        let (mut fetcher, mark) = (device.fetcher()?, device.mark()?);
        let (mut direct, mut copied) = (Vec::new(), Vec::new());
        resident.for_bytes((&mut fetcher, &mark), range.clone(), |piece| {
            direct.extend_from_slice(piece);
        })?;
        let snapshot = resident.snapshot(range.clone(), device.buffer(Resident::room_for(range.len())))?;
        snapshot.for_bytes(&mut fetcher, range.clone(), |piece| copied.extend_from_slice(piece))?;
        let expected = stored.copy_bytes(range.clone());
        Ok::<_, DeviceError>(direct == expected && copied == expected)
    };
    let same = ranges.iter().all(|range| fetched(range) == Ok(true));
    let digest = resident.digest(&ranges);
    let alike = digest.is_ok() && digest == Resident::of(stored, &Device::Cpu).digest(&ranges);
    report(
        &format!("{preset}, step {step}: bytes"),
        same,
        "fetched and of snapshots",
    ) & report(
        &format!("{preset}, step {step}: digest"),
        alike,
        &format!("{digest:x?}"),
    )
}

/// `‖a − b‖ / ‖a‖`; numbers that are none are infinitely far apart.
pub(crate) fn apart(a: &[f32], b: &[f32]) -> f64 {
    distance(a, b) / norm(a).max(f64::MIN_POSITIVE)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    if squares.is_nan() {
        f64::INFINITY
    } else {
        squares.sqrt()
    }
}

fn norm(a: &[f32]) -> f64 {
    a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().sqrt()
}

fn report(what: &str, well: bool, detail: &str) -> bool {
    println!("{:<6} {what}: {detail}", if well { "OK" } else { "WRONG" });
    well
}
