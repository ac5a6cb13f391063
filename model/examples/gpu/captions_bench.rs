//! Time of captions, by batch, and of a token.

use crate::bench::by_kind;
use crate::captions::{NUCLEUS, model};
use crate::profile;
use medley_model::cuda::Cuda;
use medley_model::device::Device;
use medley_model::generate::nucleus::{GREEDY, Sampling};
use medley_model::generate::{CaptionRequest, Reader, Search};
use std::time::Instant;

/// Images of the batches.
const BATCHES: [usize; 3] = [32, 128, 512];
/// Tokens of a caption.
const TOKENS: usize = 20;
/// Tokens of captions that are made to see what all the others take: of the second on, steps are alike.
const FEW: usize = 2;
/// Batches that are timed.
const TIMES: usize = 5;

/// Prints the time of batches of captions of `TOKENS` tokens each, and of a token: with steps that are recorded, and without.
pub(crate) fn measure(preset: &str, device: &Device) {
    let Device::Cuda(cuda, _) = device else {
        panic!("only GPUs are timed here")
    };
    let (blip, params) = model(preset, false);
    let per_image = 3 * (blip.image_size as usize).pow(2);
    let mut reader = Reader::new(blip, params, device);
    for batch in BATCHES {
        let pixels: Vec<f32> = (0..batch * per_image).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
        for (name, sampling) in [("greedy", GREEDY), ("nucleus", NUCLEUS)] {
            for records in [true, false] {
                cuda.record_nothing(!records);
                let way = if records { "recorded" } else { "as asked" };
                let what = format!("{preset} × {batch}, {name}, {way}");
                let make = |tokens| timed(&mut reader, (&pixels, batch), sampling, tokens);
                tell(&what, (cuda, batch), make);
            }
        }
        cuda.start_profile();
        timed(&mut reader, (&pixels, batch), NUCLEUS, TOKENS);
        let noted = cuda.end_profile().unwrap_or_else(|error| panic!("{error}"));
        profile::tell(&format!("{preset} × {batch}, nucleus"), noted);
    }
    cuda.record_nothing(false);
}

/// Times batches by `make`, which makes captions of so many tokens and returns their seconds.
fn tell(what: &str, (cuda, batch): (&Cuda, usize), mut make: impl FnMut(usize) -> f64) {
    (0..2).for_each(|_| _ = make(TOKENS));
    let mut median = |tokens| {
        let mut seconds: Vec<f64> = (0..TIMES).map(|_| make(tokens)).collect();
        seconds.sort_by(f64::total_cmp);
        (seconds[TIMES / 2], seconds[0], seconds[TIMES - 1])
    };
    let (few, _, _) = median(FEW);
    let before = cuda.spent();
    let (all, least, most) = median(TOKENS);
    let host = by_kind(&before, &cuda.spent(), TIMES);
    println!(
        "{what}: {:.2} ms ({:.2}–{:.2}), {:.0} captions/s; images and {FEW} tokens {:.2} ms, a token more {:.3} ms; the host, a batch:{host}",
        all * 1e3,
        least * 1e3,
        most * 1e3,
        batch as f64 / all,
        few * 1e3,
        (all - few) * 1e3 / (TOKENS - FEW) as f64,
    );
}

/// Seconds that a batch of captions of `tokens` tokens takes.
fn timed(reader: &mut Reader, (pixels, batch): (&[f32], usize), sampling: Sampling, tokens: usize) -> f64 {
    let keys: Vec<u64> = (0..batch as u64).collect();
    let request = CaptionRequest {
        search: Search::Sample(sampling),
        count: 1,
        prompt: &[],
        // None ends.
        min_tokens: tokens + 2,
        max_tokens: tokens + 1,
        seed: 11,
    };
    let began = Instant::now();
    let captions = reader.captions(pixels, &keys, &request);
    let seconds = began.elapsed().as_secs_f64();
    let captions = captions.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        captions.iter().all(|caption| caption.tokens.len() == tokens),
        "no caption ends"
    );
    seconds
}
