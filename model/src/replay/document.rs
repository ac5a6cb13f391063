//! The state under the reference's names: parameters, momentum encoders (`visual_encoder_m.` and so on), queues, and the
//! optimiser's moments. An objective's document holds what it reads: of the parameters those that it trains, momentum encoders
//! and queues unless it is a captioner's, and the identities of queued images for a filter.
//!
//! The reference keeps a queue as e × queue, one column an entry; here an entry is a row. What it stores and nobody reads
//! (position ids, the momentum encoder's cross-attention) is passed over. Moments are `exp_avg.NAME` and
//! `exp_avg_sq.NAME` with `optimizer_step`; without any of them they are zero and the step is the first.

use super::batch::identity;
use super::source::{Error, Source};
use super::{trained, view};
use crate::blip::Blip;
use crate::layout::{Entry, Layout};
use crate::loss::itc::UNKNOWN;
use crate::params::Objective;
use crate::state::State;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

const STEP: &str = "optimizer_step";
const QUEUES: [&str; 2] = ["image_queue", "text_queue"];
const IDENTITIES: &str = "idx_queue";
/// The number of no image, in the reference.
const NOBODY: i64 = -100;
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];

/// Name of a momentum encoder's tensor: the student's with `_m` after its first part.
pub fn momentum_name(name: &str) -> String {
    let (root, rest) = name.split_once('.').unwrap_or((name, ""));
    format!("{root}_m.{rest}")
}

/// Name of the position in the queues: the reference's two models call it differently.
fn pointer(objective: Objective) -> &'static str {
    match objective {
        Objective::Filter => "ptr_queue",
        Objective::Pretrain | Objective::Captioner => "queue_ptr",
    }
}

/// Reads a state; `file` is the file's name in errors. What the objective does not read stays zero.
///
/// # Errors
/// [`Error`] that names every tensor that does not fit.
pub fn read(file: &str, bytes: &[u8], blip: &Blip, objective: Objective) -> Result<State, Error> {
    let mut source = Source::open(file, bytes)?;
    let mut state = State::zeros(blip);
    let student = Group {
        layout: &blip.student_layout,
        entries: trained(blip, objective).collect(),
    };
    student.read(&mut source, &mut state.params, str::to_owned);
    if objective.understands() {
        let momentum = Group {
            layout: &blip.momentum_layout,
            entries: blip.momentum_layout.entries().iter().collect(),
        };
        momentum.read(&mut source, &mut state.ema, momentum_name);
        for (name, to) in QUEUES.into_iter().zip([&mut state.image_queue, &mut state.text_queue]) {
            queue(&mut source, name, blip, to);
        }
        state.queue_next = counter(&mut source, pointer(objective), u64::from(blip.model.queue));
    }
    if objective == Objective::Filter {
        identities(&mut source, &mut state.queued_identities);
    }
    if source.has(STEP) || student.entries.iter().any(|entry| has_moment(&source, entry)) {
        for (prefix, flat) in MOMENTS.into_iter().zip([&mut state.m, &mut state.v]) {
            student.read(&mut source, flat, |name| format!("{prefix}{name}"));
        }
        state.step = counter(&mut source, STEP, 1 << 53);
    }
    source.finish(|name| is_unread(name, blip))?;
    Ok(state)
}

/// Writes a state, each tied weight under its first name.
///
/// # Errors
/// [`Error::Write`] with the path.
pub fn write(state: &State, blip: &Blip, objective: Objective, path: &Path) -> Result<(), Error> {
    let width = blip.model.embed_dim as usize;
    let queues = [&state.image_queue, &state.text_queue].map(|queue| transposed(queue, width));
    let counters = [state.queue_next, state.step].map(|n| (n as i64).to_le_bytes());
    let numbers: Vec<i64> = state.queued_identities.iter().map(|id| number(*id)).collect();
    let mut tensors: Vec<(String, TensorView)> = Vec::new();
    let mut put = |name: String, entry: &Entry, values| tensors.push((name, view(entry.shape.clone(), values)));
    for entry in trained(blip, objective) {
        put(entry.name.clone(), entry, &state.params[entry.range()]);
        put(format!("{}{}", MOMENTS[0], entry.name), entry, &state.m[entry.range()]);
        put(format!("{}{}", MOMENTS[1], entry.name), entry, &state.v[entry.range()]);
    }
    tensors.push((STEP.to_owned(), integers(vec![1], &counters[1])));
    if objective.understands() {
        for entry in blip.momentum_layout.entries() {
            let values = view(entry.shape.clone(), &state.ema[entry.range()]);
            tensors.push((momentum_name(&entry.name), values));
        }
        for (name, queue) in QUEUES.into_iter().zip(&queues) {
            tensors.push((name.to_owned(), view(vec![width, queue.len() / width], queue)));
        }
        tensors.push((pointer(objective).to_owned(), integers(vec![1], &counters[0])));
    }
    if objective == Objective::Filter {
        let numbers = integers(vec![1, numbers.len()], bytemuck::cast_slice(&numbers));
        tensors.push((IDENTITIES.to_owned(), numbers));
    }
    save(tensors, path)
}

fn integers(shape: Vec<usize>, bytes: &[u8]) -> TensorView<'_> {
    TensorView::new(Dtype::I64, shape, bytes).expect("a tensor has as many values as its shape")
}

/// The reference's number of an image.
fn number(identity: u64) -> i64 {
    match identity {
        UNKNOWN => NOBODY,
        identity => (identity - 1) as i64,
    }
}

fn identities(source: &mut Source, to: &mut [u64]) {
    let Some((shape, numbers)) = source.integers(IDENTITIES) else {
        return;
    };
    if shape != [1, to.len()] {
        source.refuse(IDENTITIES, format!("has shape {shape:?}, not {:?}", [1, to.len()]));
        return;
    }
    to.iter_mut()
        .zip(numbers)
        .for_each(|(to, number)| *to = identity(number));
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

/// Entries of a layout that are read.
struct Group<'a> {
    layout: &'a Layout,
    entries: Vec<&'a Entry>,
}

impl Group<'_> {
    /// Reads every entry under any of its names; the names of a tied weight must agree.
    fn read(&self, source: &mut Source, to: &mut [f32], rename: impl Fn(&str) -> String) {
        let mut names: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (name, id) in self.layout.names() {
            names.entry(self.layout.entry(id).offset).or_default().push(name);
        }
        for entry in &self.entries {
            let mut present: Vec<String> = names[&entry.offset].iter().map(|name| rename(name)).collect();
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

/// Whether a tensor may be there without being asked for: what another objective has, and what the reference stores and
/// nobody reads.
fn is_unread(name: &str, blip: &Blip) -> bool {
    let weight = MOMENTS
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let followed = || {
        blip.momentum_layout
            .entries()
            .iter()
            .map(|entry| momentum_name(&entry.name))
    };
    let buffers = [QUEUES[0], QUEUES[1], IDENTITIES, "queue_ptr", "ptr_queue"];
    blip.student_layout.find(weight).is_some()
        || buffers.contains(&name)
        || name.ends_with(".position_ids")
        || (name.starts_with("text_encoder_m.") && name.contains(".crossattention."))
        || followed().any(|momentum| momentum == name)
}
