//! Where the tensors of a state lie among its canonical bytes.

use super::State;
use super::bytes::HEADER;
use crate::blip::Blip;
use crate::layout::Layout;
use std::ops::Range;

/// A tensor of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The section of the state that it is in.
    pub section: &'static str,
    /// Its name, unique in the section.
    pub name: String,
    /// Its canonical bytes.
    pub bytes: Range<usize>,
}

impl State {
    /// The tensors of any state of this model, in canonical order; a queue is one. What lies between tensors is zero.
    pub fn tensors_of(blip: &Blip) -> Vec<Tensor> {
        let mut tensors = Vec::new();
        let mut begin = HEADER;
        let (student, momentum) = (&blip.student_layout, &blip.momentum_layout);
        for (section, layout) in [("params", student), ("m", student), ("v", student), ("ema", momentum)] {
            tensors.extend(of_layout(section, layout, begin));
            begin += 4 * layout.len();
        }
        let (queue, width) = (blip.model.queue as usize, blip.model.embed_dim as usize);
        let queues = [
            ("image_queue", 4 * queue * width),
            ("text_queue", 4 * queue * width),
            ("queued_identities", 8 * queue),
        ];
        for (section, size) in queues {
            tensors.push(Tensor {
                section,
                name: section.into(),
                bytes: begin..begin + size,
            });
            begin += size;
        }
        tensors
    }
}

fn of_layout(section: &'static str, layout: &Layout, begin: usize) -> impl Iterator<Item = Tensor> {
    layout.entries().iter().map(move |entry| Tensor {
        section,
        name: entry.name.clone(),
        bytes: begin + 4 * entry.offset..begin + 4 * (entry.offset + entry.len),
    })
}
