//! Where the tensors of a state lie among its canonical bytes.

use super::{HEADER, State};
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

#[cfg(test)]
mod tests {
    use super::super::tests::{blip, commit};
    use super::*;

    #[test]
    fn each_tensor_is_found_among_the_canonical_bytes_and_nothing_is_between_them() {
        let (blip, train) = blip();
        let mut state = State::fresh(&blip, 1);
        commit(&mut state, &blip, &train, 100);
        let bytes = state.copy_bytes(0..state.num_bytes());
        let tensors = State::tensors_of(&blip);
        let mut end = HEADER;
        for tensor in &tensors {
            assert!(
                bytes[end..tensor.bytes.start].iter().all(|byte| *byte == 0),
                "{tensor:?}"
            );
            end = tensor.bytes.end;
        }
        assert_eq!(end, bytes.len());
        let of = |section: &str, name: &str| {
            let is_it = |tensor: &&Tensor| (tensor.section, tensor.name.as_str()) == (section, name);
            &bytes[tensors.iter().find(is_it).unwrap().bytes.clone()]
        };
        let entry = &blip.student_layout.entries()[3];
        let of_buffer = |buffer: &[f32]| bytemuck::cast_slice::<f32, u8>(&buffer[entry.range()]).to_vec();
        assert_eq!(of("v", &entry.name), of_buffer(&state.v));
        assert_ne!(of("v", &entry.name), of("m", &entry.name));
        assert_eq!(of("text_queue", "text_queue"), state.text_queue.as_bytes());
        assert_eq!(of("queued_identities", "queued_identities").len(), 8 * 16);
    }
}
