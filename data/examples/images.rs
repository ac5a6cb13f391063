//! Images of a set of shards, for measurements.
//!
//! - `images enlarge SET SIDE` writes the shards of a set again with images of SIDE × SIDE pixels, with noise, so that their files are
//!   about as large as a photograph's.
//! - `images decode SET SIDE` reads and decodes every image of a set and makes it a square, as inference does, with 1, 2, 4 … threads
//!   up to all there are.

use fast_image_resize::FilterType;
use medley_data::decode::{self, Rgb};
use medley_data::shards;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Largest change of a channel by noise.
const NOISE: i32 = 12;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let side = |word: &str| {
        word.parse()
            .unwrap_or_else(|_| panic!("{word} is not a number of pixels"))
    };
    match words[..] {
        ["enlarge", set, pixels] => enlarge(Path::new(set), side(pixels)),
        ["decode", set, pixels] => measure(Path::new(set), side(pixels)),
        _ => {
            eprintln!("images: say enlarge SET SIDE or decode SET SIDE");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn paths(set: &Path) -> Vec<PathBuf> {
    let names = shards::list(set).unwrap_or_else(|error| panic!("{error}"));
    names.iter().map(|name| set.join(name)).collect()
}

/// Members of a shard: names and bytes.
fn read(path: &Path) -> Vec<(String, Vec<u8>)> {
    let found = shards::members(path).unwrap_or_else(|error| panic!("{error}"));
    let file = File::open(path).expect("a shard that was just read");
    let bytes = |member: shards::Member| {
        let bytes = shards::read(&file, member.extent).expect("the bytes of a member");
        (format!("{}.{}", member.key, member.extension), bytes)
    };
    found.members.into_iter().map(bytes).collect()
}

fn is_image(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "jpg")
}

fn enlarge(set: &Path, side: u32) {
    let bytes: usize = paths(set).par_iter().map(|path| enlarge_shard(path, side)).sum();
    println!("{}: {bytes} bytes of images", set.display());
}

/// Writes a shard again; bytes of its images.
fn enlarge_shard(path: &Path, side: u32) -> usize {
    let mut members = read(path);
    let images = members.iter_mut().filter(|(name, _)| is_image(name));
    let mut total = 0;
    for (number, (_, bytes)) in images.enumerate() {
        *bytes = decode::encode(&enlarged(bytes, side, number));
        total += bytes.len();
    }
    let files = members.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice()));
    shards::write(path, files).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    total
}

fn enlarged(bytes: &[u8], side: u32, number: usize) -> Rgb {
    let image = decode::jpeg(bytes).unwrap_or_else(|error| panic!("{error}"));
    let region = (0.0, 0.0, f64::from(image.width), f64::from(image.height));
    let mut large = decode::resize(&image, region, side, FilterType::CatmullRom);
    // A linear congruential generator: noise need not be good, only hard to compress.
    let mut state = number as u32;
    for value in &mut large.data {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 24) as i32 % (2 * NOISE + 1) - NOISE;
        *value = (i32::from(*value) + noise).clamp(0, 255) as u8;
    }
    large
}

fn measure(set: &Path, side: u32) {
    let images: Vec<Vec<u8>> = paths(set)
        .iter()
        .flat_map(|path| read(path))
        .filter_map(|(name, bytes)| is_image(&name).then_some(bytes))
        .collect();
    let bytes: usize = images.iter().map(Vec::len).sum();
    println!(
        "{} images of {} bytes, made {side} × {side}",
        images.len(),
        bytes / images.len().max(1)
    );
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = 1;
    loop {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool of threads");
        let began = Instant::now();
        pool.install(|| images.par_iter().for_each(|bytes| looked_at(bytes, side)));
        println!(
            "{threads} threads: {:.0} images/s",
            images.len() as f64 / began.elapsed().as_secs_f64()
        );
        if threads == all {
            break;
        }
        threads = all.min(2 * threads);
    }
}

fn looked_at(bytes: &[u8], side: u32) {
    let image = decode::jpeg(bytes).unwrap_or_else(|error| panic!("{error}"));
    let mut pixels = vec![0.0; 3 * (side * side) as usize];
    decode::normalise(&decode::square(&image, side), &mut pixels);
    std::hint::black_box(pixels);
}
