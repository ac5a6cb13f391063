//! The state under the reference's names: parameters, momentum encoders (`visual_encoder_m.` and so on), queues, and the
//! optimiser's moments.
//!
//! The reference keeps a queue as e × queue, one column an entry; here an entry is a row. What it stores and nobody reads
//! (position ids, the momentum encoder's cross-attention) is passed over. Moments are `exp_avg.NAME` and
//! `exp_avg_sq.NAME` with `optimizer_step`; without any of them they are zero and the step is the first.

use super::source::{Error, Source};
use super::view;
use crate::blip::Blip;
use crate::layout::{Entry, Layout};
use crate::state::State;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

const STEP: &str = "optimizer_step";
const POINTER: &str = "queue_ptr";
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];

/// Name of a momentum encoder's tensor: the student's with `_m` after its first part.
pub fn momentum_name(name: &str) -> String {
    let (root, rest) = name.split_once('.').unwrap_or((name, ""));
    format!("{root}_m.{rest}")
}

/// Reads a state; `file` is the file's name in errors.
///
/// # Errors
/// [`Error`] that names every tensor that does not fit.
pub fn read(file: &str, bytes: &[u8], blip: &Blip) -> Result<State, Error> {
    let mut source = Source::open(file, bytes)?;
    let mut state = State::zeros(blip);
    let (student, momentum) = (&blip.student_layout, &blip.momentum_layout);
    entries(&mut source, student, &mut state.params, str::to_owned);
    entries(&mut source, momentum, &mut state.ema, momentum_name);
    queue(&mut source, "image_queue", blip, &mut state.image_queue);
    queue(&mut source, "text_queue", blip, &mut state.text_queue);
    state.queue_next = counter(&mut source, POINTER, u64::from(blip.model.queue));
    let resumed = source.has(STEP) || student.entries().iter().any(|entry| has_moment(&source, entry));
    if resumed {
        for (prefix, flat) in MOMENTS.into_iter().zip([&mut state.m, &mut state.v]) {
            entries(&mut source, student, flat, |name| format!("{prefix}{name}"));
        }
        state.step = counter(&mut source, STEP, 1 << 53);
    }
    source.finish(unread)?;
    Ok(state)
}

/// Writes a state, each tied weight under its first name.
///
/// # Errors
/// [`Error::Write`] with the path.
pub fn write(state: &State, blip: &Blip, path: &Path) -> Result<(), Error> {
    let width = blip.model.embed_dim as usize;
    let queues = [&state.image_queue, &state.text_queue].map(|queue| transposed(queue, width));
    let counters = [state.queue_next, state.step].map(|n| (n as i64).to_le_bytes());
    let (student, momentum) = (blip.student_layout.entries(), blip.momentum_layout.entries());
    let mut tensors: Vec<(String, TensorView)> = Vec::new();
    let mut put = |name: String, entry: &Entry, values| tensors.push((name, view(entry.shape.clone(), values)));
    for entry in student {
        put(entry.name.clone(), entry, &state.params[entry.range()]);
        put(format!("{}{}", MOMENTS[0], entry.name), entry, &state.m[entry.range()]);
        put(format!("{}{}", MOMENTS[1], entry.name), entry, &state.v[entry.range()]);
    }
    for entry in momentum {
        put(momentum_name(&entry.name), entry, &state.ema[entry.range()]);
    }
    for (name, queue) in ["image_queue", "text_queue"].into_iter().zip(&queues) {
        tensors.push((name.to_owned(), view(vec![width, queue.len() / width], queue)));
    }
    for (name, value) in [POINTER, STEP].into_iter().zip(&counters) {
        let view = TensorView::new(Dtype::I64, vec![1], value).expect("one integer of eight bytes");
        tensors.push((name.to_owned(), view));
    }
    save(tensors, path)
}

/// Writes tensors in the form that PyTorch's loaders take.
pub(super) fn save<'a>(tensors: impl IntoIterator<Item = (String, TensorView<'a>)>, path: &Path) -> Result<(), Error> {
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| Error::Write {
        path: path.to_owned(),
        problem: e.to_string(),
    })
}

fn has_moment(source: &Source, entry: &Entry) -> bool {
    MOMENTS
        .iter()
        .any(|prefix| source.has(&format!("{prefix}{}", entry.name)))
}

/// Reads every entry of a layout under any of its names; the names of a tied weight must agree.
fn entries(source: &mut Source, layout: &Layout, to: &mut [f32], rename: impl Fn(&str) -> String) {
    let mut names: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (name, id) in layout.names() {
        names.entry(id.index()).or_default().push(name);
    }
    for (index, entry) in layout.entries().iter().enumerate() {
        let mut present: Vec<String> = names[&index].iter().map(|name| rename(name)).collect();
        present.retain(|name| source.has(name));
        let name = present.first().cloned().unwrap_or_else(|| rename(&entry.name));
        let Some(values) = source.floats(&name, &entry.shape) else {
            continue;
        };
        for other in present.iter().skip(1) {
            let tied = source.floats(other, &entry.shape);
            if tied.is_some_and(|tied| tied != values) {
                source.refuse(
                    other.clone(),
                    format!("differs from {name}: they are one weight in BLIP"),
                );
            }
        }
        to[entry.range()].copy_from_slice(&values);
    }
}

fn queue(source: &mut Source, name: &str, blip: &Blip, to: &mut [f32]) {
    let (width, len) = (blip.model.embed_dim as usize, blip.model.queue as usize);
    if let Some(values) = source.floats(name, &[width, len]) {
        to.copy_from_slice(&transposed(&values, len));
    }
}

/// An integer from 0 to below `end`.
fn counter(source: &mut Source, name: &str, end: u64) -> u64 {
    let value = source.integer(name).unwrap_or(0);
    if value < 0 || value as u64 >= end {
        source.refuse(name, format!("is {value}: use 0 to {}", end - 1));
    }
    value as u64
}

/// Rows of `cols` values as columns.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    (0..values.len()).map(|i| values[i % rows * cols + i / rows]).collect()
}

fn unread(name: &str) -> bool {
    name.ends_with(".position_ids") || (name.starts_with("text_encoder_m.") && name.contains(".crossattention."))
}
