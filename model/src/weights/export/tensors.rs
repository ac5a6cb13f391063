//! Which tensors a file holds, under which names.

use crate::blip::Blip;
use crate::state::State;
use crate::weights::fit::transpose;
use crate::weights::names::to_hf;
use std::borrow::Cow;

/// A tensor to be written.
pub(super) struct Tensor<'a> {
    /// Its name, and those of tensors tied to it.
    pub(super) names: Vec<String>,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values<'a>,
}

pub(super) enum Values<'a> {
    Floats(Cow<'a, [f32]>),
    Ints(Vec<i64>),
}

impl Values<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Floats(floats) => bytemuck::cast_slice(floats),
            Self::Ints(ints) => bytemuck::cast_slice(ints),
        }
    }
}

/// Everything the released pre-training code keeps in its model: the student, the momentum encoders, the queues.
///
/// The momentum encoder's cross-attention, which nobody reads, is the student's.
pub(super) fn official<'a>(blip: &'a Blip, state: &'a State) -> Vec<Tensor<'a>> {
    let student = &blip.student_layout;
    let mut tensors = Vec::new();
    for (id, entry) in student.iter() {
        let aliases = student.names().filter(|(name, of)| *of == id && *name != entry.name);
        let names = std::iter::once(entry.name.clone()).chain(aliases.map(|(name, _)| name.to_owned()));
        tensors.push(floats(names.collect(), &entry.shape, &state.params[entry.range()]));
    }
    for entry in blip.momentum_layout.entries() {
        tensors.push(floats(
            vec![of_momentum(&entry.name)],
            &entry.shape,
            &state.ema[entry.range()],
        ));
    }
    let cross = student
        .entries()
        .iter()
        .filter(|entry| entry.name.contains(".crossattention."));
    for entry in cross {
        tensors.push(floats(
            vec![of_momentum(&entry.name)],
            &entry.shape,
            &state.params[entry.range()],
        ));
    }
    let (width, length) = (blip.model.embed_dim as usize, blip.model.queue as usize);
    for (name, queue) in [("image_queue", &state.image_queue), ("text_queue", &state.text_queue)] {
        tensors.push(Tensor {
            names: vec![name.into()],
            shape: vec![width, length],
            values: Values::Floats(Cow::Owned(transpose(queue, length, width))),
        });
    }
    tensors.push(ints("queue_ptr", vec![1], vec![state.queue_next as i64]));
    let positions = i64::from(blip.model.text.positions);
    for tower in ["text_encoder", "text_encoder_m", "text_decoder.bert"] {
        let name = format!("{tower}.embeddings.position_ids");
        tensors.push(ints(&name, vec![1, positions as usize], (0..positions).collect()));
    }
    tensors
}

/// `BlipForConditionalGeneration`: image tower and decoder. The vocabulary's matrix and bias stand there under both of
/// their names: some versions of `transformers` tie them before loading, some after, some not at all.
pub(super) fn captioner<'a>(blip: &'a Blip, params: &'a [f32]) -> Vec<Tensor<'a>> {
    let roots = ["visual_encoder.", "text_decoder."];
    hf(blip, params, |name| roots.iter().any(|root| name.starts_with(root)))
}

/// `BlipForImageTextRetrieval`: image tower, encoder, projections and matching head.
pub(super) fn matcher<'a>(blip: &'a Blip, params: &'a [f32]) -> Vec<Tensor<'a>> {
    let roots = [
        "visual_encoder.",
        "text_encoder.",
        "vision_proj.",
        "text_proj.",
        "itm_head.",
    ];
    hf(blip, params, |name| roots.iter().any(|root| name.starts_with(root)))
}

/// The tensors whose official name or alias is wanted, as `transformers` names them.
fn hf<'a>(blip: &'a Blip, params: &'a [f32], wanted: impl Fn(&str) -> bool) -> Vec<Tensor<'a>> {
    let layout = &blip.student_layout;
    let named = layout.names().filter(|(name, _)| wanted(name));
    let tensor = |(name, id)| {
        let entry = layout.entry(id);
        floats(vec![to_hf(name)], &entry.shape, &params[entry.range()])
    };
    named.map(tensor).collect()
}

fn of_momentum(student: &str) -> String {
    match student.split_once('.') {
        Some((root, rest)) => format!("{root}_m.{rest}"),
        None => format!("{student}_m"),
    }
}

fn floats<'a>(names: Vec<String>, shape: &[usize], values: &'a [f32]) -> Tensor<'a> {
    Tensor {
        names,
        shape: shape.to_vec(),
        values: Values::Floats(Cow::Borrowed(values)),
    }
}

fn ints(name: &str, shape: Vec<usize>, values: Vec<i64>) -> Tensor<'static> {
    Tensor {
        names: vec![name.into()],
        shape,
        values: Values::Ints(values),
    }
}
