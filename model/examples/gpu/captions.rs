//! Captions and the choice of tokens on a GPU, against the processor's.

use medley_model::blip::Blip;
use medley_model::cuda::Work;
use medley_model::device::{Device, Growth, Texts};
use medley_model::flat::Flat;
use medley_model::generate::beam::{Beam, Length, Open, Wanted};
use medley_model::generate::nucleus::{self, GREEDY, Sampling};
use medley_model::generate::{Caption, CaptionRequest, Reader, Search};
use medley_model::init;
use medley_model::params::Vocabulary;
use medley_model::random::{Purpose, Stream};
use medley_protocol::spec::Spec;

/// How far the log-probabilities of whole captions may be apart in single precision.
const BAR: f32 = 1e-3;
/// How far apart probabilities may be: sums of thirty thousand numbers.
const SUMS: f64 = 2e-5;
/// Images of a batch.
const IMAGES: usize = 12;
/// Captions of each.
const COUNT: usize = 2;

pub(crate) const NUCLEUS: Sampling = Sampling {
    top_p: 0.9,
    top_k: 0,
    repetition_penalty: 1.1,
};
const BEAM: Beam = Beam {
    beams: 3,
    length_penalty: 1.0,
    repetition_penalty: 1.1,
    length: Length::Whole,
};

/// Compares the choice of tokens, and captions of `preset`; whether all is well.
pub(crate) fn compare(preset: &str, device: &Device) -> bool {
    let mut well = true;
    for cols in [1, 2, 40, 1000, 30_524, 40_000] {
        well &= choices(cols, device);
        well &= continuations(cols, device);
    }
    well & captions(preset, device)
}

fn number(salt: u64) -> impl Fn(usize) -> f32 {
    let stream = Stream::new(7, Purpose::Init).at(salt);
    move |i| stream.normals([i as u32, 0, 0, 0])[0]
}

/// Logits of rows that are spread, nearly flat, full of equal ones, or led by one.
fn logits(rows: usize, cols: usize) -> Vec<f32> {
    let noise = number(1);
    let logit = |i: usize| match (i / cols % 4, noise(i)) {
        (0, v) => 3.0 * v,
        (1, v) => 0.01 * v,
        (2, v) => (2.0 * v).round(),
        (_, v) => v + if i % cols == 7 { 9.0 } else { 0.0 },
    };
    (0..rows * cols).map(logit).collect()
}

/// The kernel alone, against [`nucleus::choose`].
fn choices(cols: usize, device: &Device) -> bool {
    const ROWS: usize = 64;
    let samplings = [
        GREEDY,
        NUCLEUS,
        Sampling { top_k: 5, ..NUCLEUS },
        Sampling {
            top_p: 1.0,
            top_k: 50,
            ..NUCLEUS
        },
        Sampling {
            top_p: 0.2,
            repetition_penalty: 1.0,
            ..NUCLEUS
        },
        Sampling {
            top_p: 0.5,
            top_k: 1,
            ..NUCLEUS
        },
    ];
    let start = [7, 3, 7, 0].map(|token| token % cols as u32);
    let mut well = true;
    for sampling in samplings {
        let growth = Growth {
            sampling,
            // The last token is banned where there are others.
            end: cols as u32 - 1,
            min_tokens: if cols > 1 { 9 } else { 0 },
            room: start.len() + 1,
            start: start.len(),
        };
        let u = |row: usize| match row {
            0 => 0.0,
            1 => 1.0 - 0.5f32.powi(24),
            _ => Stream::new(3, Purpose::Sampling).uniform([row as u32, cols as u32, 0, 0]),
        };
        let draws: Vec<f32> = (0..ROWS * growth.room).map(|i| u(i / growth.room)).collect();
        let all = logits(ROWS, cols);
        let run = || {
            let mut texts = Texts::new(device, &start, draws.clone(), growth);
            let mut there = device.upload(&all);
            texts.grow(|texts| texts.choose(there.span_mut()));
            texts.grown()
        };
        let found = run();
        let mut apart = 0;
        for (row, (tokens, log_probability)) in found.iter().enumerate() {
            let Some(&token) = tokens.first() else {
                well &= report(cols == 1, &format!("{cols} logits, {sampling:?}: a banned token came"));
                continue;
            };
            let own = &all[row * cols..][..cols];
            let banned = (cols > 1).then_some(growth.end);
            let (expected, of_expected) = nucleus::next(&mut own.to_vec(), &start, banned, &sampling, u(row));
            if token == expected {
                let near = (of_expected - log_probability).abs() < 1e-4;
                well &= near
                    || report(
                        false,
                        &format!("{cols} logits, row {row}: {log_probability} for {of_expected}"),
                    );
                continue;
            }
            apart += 1;
            let kept = nucleus::nucleus(&mut own.to_vec(), &start, banned, &sampling);
            let close = is_close(&kept, token, u(row), sampling.top_p);
            well &= close
                || report(
                    false,
                    &format!("{cols} logits, {sampling:?}, row {row}: {token} for {expected}"),
                );
        }
        let again = run() == found;
        let what =
            format!("{cols} logits, {sampling:?}: {apart} of {ROWS} draws at a border, same bits twice: {again}");
        well &= report(again && apart <= 3, &what);
    }
    well
}

/// Whether a draw is so near to a token's share that rounding decides.
fn is_close(kept: &[(u32, f32)], token: u32, u: f32, top_p: f32) -> bool {
    let mass = |n: usize| kept[..n].iter().map(|(_, p)| f64::from(*p)).sum::<f64>();
    let (whole, before_last) = (mass(kept.len()), mass(kept.len() - 1));
    // Which token is the last that is kept may be rounding's choice too.
    let border = f64::min((before_last - f64::from(top_p)).abs(), (whole - f64::from(top_p)).abs()) < SUMS;
    let slack = SUMS
        + if border {
            2.0 * f64::from(kept[kept.len() - 1].1)
        } else {
            0.0
        };
    let place = kept.iter().position(|(kept, _)| *kept == token);
    let (first, end) = place.map_or((whole, whole), |place| (mass(place), mass(place + 1)));
    let drawn = f64::from(u) * whole;
    first - slack <= drawn && drawn <= end + slack
}

/// The ranking of continuations alone.
fn continuations(cols: usize, device: &Device) -> bool {
    const ROWS: usize = 9;
    let all = logits(ROWS, cols);
    let tokens = [7, 3, 7].map(|token| token % cols as u32);
    let open: Vec<Open> = (0..ROWS)
        .map(|row| Open {
            tokens: &tokens,
            sum: -0.7 * row as f32,
        })
        .collect();
    let mut well = true;
    for (most, repetition_penalty, banned) in [(6, 1.0, None), (10, 1.2, Some(cols as u32 - 1))] {
        let wanted = Wanted {
            most,
            repetition_penalty,
            banned,
        };
        let mut there = device.upload(&all);
        let found = device.continuations(there.span_mut(), &open, &wanted);
        let expected = wanted.of_all(&all, &open);
        let near = |a: f32, b: f32| a == b || (a - b).abs() < 1e-4;
        let same = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, expected)| {
                found.len() == expected.len()
                    && found.iter().zip(expected).all(|(a, b)| {
                        // Which of two comes first may be rounding's choice.
                        near(a.sum, b.sum) && (a.token != b.token || near(a.log_probability, b.log_probability))
                    })
            });
        well &= report(same, &format!("{cols} logits: the {most} best continuations"));
    }
    well
}

/// A model of fresh weights, which are nearly indifferent, or one that `knows` its mind.
pub(crate) fn model(preset: &str, knows: bool) -> (Blip, Flat) {
    let document =
        serde_json::json!({"name": "t", "kind": "bootstrap", "preset": preset, "data": {"root": "/nowhere"}});
    let spec = Spec::from_document(&document).unwrap_or_else(|problems| panic!("{problems}"));
    let size = if preset.starts_with("vit") { 30_524 } else { 400 };
    let vocab = Vocabulary {
        size,
        pad: 0,
        cls: 2,
        sep: 3,
        dec: 4,
        enc: 5,
    };
    let blip = Blip::new(&spec.model, spec.pretrain.image_size, vocab);
    let mut params = Flat::zeros(blip.student_layout.len());
    init::weights(&blip.model, &blip.student_layout, spec.seed, &mut params);
    let noise = number(2);
    if knows {
        params.iter_mut().enumerate().for_each(|(i, v)| *v += 0.03 * noise(i));
    }
    (blip, params)
}

fn captions(preset: &str, device: &Device) -> bool {
    let (blip, params) = model(preset, true);
    let per_image = 3 * (blip.image_size as usize).pow(2);
    let pixels: Vec<f32> = (0..IMAGES * per_image).map(number(3)).collect();
    let blip = std::sync::Arc::new(blip);
    let mut host = Reader::new(blip.clone(), params.clone(), &Device::Cpu);
    let mut ours = Reader::new(blip, params, device);
    let keys: Vec<u64> = (0..IMAGES as u64).collect();
    // The same images in another order: other company, the same shapes.
    let turned: Vec<usize> = (0..IMAGES).map(|i| (i * 5 + 3) % IMAGES).collect();
    let turned_keys: Vec<u64> = turned.iter().map(|i| *i as u64).collect();
    let turned_pixels: Vec<f32> = turned
        .iter()
        .flat_map(|i| &pixels[i * per_image..][..per_image])
        .copied()
        .collect();
    let mut well = true;
    let searches = [
        ("greedy", Search::Sample(GREEDY)),
        ("nucleus", Search::Sample(NUCLEUS)),
        (
            "top-k",
            Search::Sample(Sampling {
                top_p: 1.0,
                top_k: 8,
                ..NUCLEUS
            }),
        ),
        ("beam", Search::Beam(BEAM)),
    ];
    for (name, search) in searches {
        for prompt in [&[][..], &[9, 8, 11]] {
            let request = CaptionRequest {
                search,
                count: COUNT,
                prompt,
                min_tokens: 6,
                max_tokens: 18,
                seed: 11,
            };
            let of = |reader: &mut Reader, pixels: &[f32], keys: &[u64]| {
                let captions = reader.captions(pixels, keys, &request);
                captions.unwrap_or_else(|error| panic!("{error}"))
            };
            let expected = of(&mut host, &pixels, &keys);
            let found = of(&mut ours, &pixels, &keys);
            let what = format!("{preset}, {name} behind {} tokens", prompt.len());
            well &= agree(&what, &expected, &found, device.rounds());
            let again = bits(&of(&mut ours, &pixels, &keys)) == bits(&found);
            well &= report(again, &format!("{what}: same bits twice"));
            well &= recorded_or_not(&what, device, &found, || of(&mut ours, &pixels, &keys));
            let others = of(&mut ours, &turned_pixels, &turned_keys);
            let at = |i: usize| bits(&found[i * COUNT..][..COUNT]);
            let same = turned
                .iter()
                .zip(others.chunks_exact(COUNT))
                .all(|(i, own)| bits(own) == at(*i));
            well &= report(same, &format!("{what}: same bits in other company"));
        }
    }
    well
}

/// Whether captions are the same bits if no step is recorded; and those of samples were recorded.
fn recorded_or_not(what: &str, device: &Device, found: &[Caption], mut make: impl FnMut() -> Vec<Caption>) -> bool {
    let Device::Cuda(cuda, _) = device else {
        panic!("only GPUs are compared here")
    };
    let records = || {
        let spent = cuda.spent();
        let records = spent.iter().find(|spent| spent.work == Work::Records);
        records.map_or(0, |spent| spent.times)
    };
    let before = records();
    make();
    let recorded = records() - before;
    cuda.record_nothing(true);
    let same = bits(&make()) == bits(found) && records() == before + recorded;
    cuda.record_nothing(false);
    report(
        same && (recorded > 0 || what.contains("beam")),
        &format!("{what}: same bits if nothing is recorded; {recorded} steps were"),
    )
}

fn bits(captions: &[Caption]) -> Vec<(Vec<u32>, u32)> {
    let bits = |caption: &Caption| (caption.tokens.clone(), caption.log_probability.to_bits());
    captions.iter().map(bits).collect()
}

/// In single precision the same captions, but for one of a dozen that rounding may turn; in bf16 that is only told.
fn agree(what: &str, expected: &[Caption], found: &[Caption], rounds: bool) -> bool {
    let pairs = || expected.iter().zip(found).filter(|(a, b)| a.tokens == b.tokens);
    let same = pairs().count();
    let apart = pairs().map(|(a, b)| (a.log_probability - b.log_probability).abs());
    let apart = apart.fold(0.0, f32::max);
    let finite = found.iter().all(|caption| caption.log_probability.is_finite());
    let well = found.len() == expected.len() && finite && (rounds || (12 * same >= 11 * expected.len() && apart < BAR));
    let all = expected.len();
    report(
        well,
        &format!("{what}: {same} of {all} captions are the same, log-probabilities {apart:.1e} apart"),
    )
}

fn report(well: bool, what: &str) -> bool {
    println!("{:<6} {what}", if well { "OK" } else { "WRONG" });
    well
}
