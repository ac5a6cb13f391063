//! Fresh weights: a function of the seed and the parameter's name, whatever the order of the layout.

use crate::layout::{Entry, Layout};
use crate::random::{Purpose, Stream};
use medley_protocol::spec::ModelSpec;

/// How an entry starts.
enum Start {
    Constant(f32),
    /// Normal with this deviation.
    Normal(f64),
    /// Uniform between ± this: torch's default for layers whose initialisation nobody chose.
    Uniform(f64),
}

/// Fills `params` (laid out by `layout`) with the initial weights of `seed`.
pub fn weights(model: &ModelSpec, layout: &Layout, seed: u64, params: &mut [f32]) {
    for entry in layout.entries() {
        fill(
            &start(model, entry),
            Stream::new(seed, Purpose::Init).named(&entry.name),
            &mut params[entry.range()],
        );
    }
}

/// Random unit vectors, rows × `width`: what a queue holds before it has been filled.
pub fn queue(name: &str, seed: u64, width: usize, queue: &mut [f32]) {
    fill(&Start::Normal(1.0), Stream::new(seed, Purpose::Init).named(name), queue);
    for row in queue.chunks_exact_mut(width) {
        let norm = crate::ops::sum::dot(row, row).sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
}

fn start(model: &ModelSpec, entry: &Entry) -> Start {
    let name = entry.name.as_str();
    let fan_in = entry.shape.iter().skip(1).product::<usize>();
    let is_head = ["vision_proj.", "text_proj.", "itm_head.", "visual_encoder.patch_embed."];
    if name == "temp" {
        Start::Constant(model.temperature.initial as f32)
    } else if name.ends_with("pos_embed") {
        Start::Normal(model.init.image_positions)
    } else if name.ends_with("cls_token") || name.contains("_embeddings.") {
        Start::Normal(model.init.embedding)
    } else if let Some(head) = is_head.iter().find(|head| name.starts_with(**head)) {
        // A bias shares its bound with the weight beside it.
        let fan_in = if entry.shape.len() > 1 {
            fan_in
        } else {
            head_fan_in(model, head)
        };
        Start::Uniform(1.0 / (fan_in as f64).sqrt())
    } else if name.ends_with(".bias") {
        Start::Constant(0.0)
    } else if entry.shape.len() == 1 {
        Start::Constant(1.0)
    } else {
        Start::Normal(model.init.linear)
    }
}

fn head_fan_in(model: &ModelSpec, head: &str) -> usize {
    let fan_in = match head {
        "vision_proj." => model.vision.width,
        "visual_encoder.patch_embed." => 3 * model.vision.patch * model.vision.patch,
        _ => model.text.width,
    };
    fan_in as usize
}

fn fill(start: &Start, stream: Stream, values: &mut [f32]) {
    match *start {
        Start::Constant(c) => values.fill(c),
        Start::Normal(deviation) => {
            for (i, chunk) in values.chunks_mut(4).enumerate() {
                for (v, n) in chunk.iter_mut().zip(stream.normals([i as u32, 0, 0, 0])) {
                    *v = n * deviation as f32;
                }
            }
        }
        Start::Uniform(bound) => {
            for (i, v) in values.iter_mut().enumerate() {
                *v = (2.0 * stream.uniform([i as u32, 0, 0, 0]) - 1.0) * bound as f32;
            }
        }
    }
}
