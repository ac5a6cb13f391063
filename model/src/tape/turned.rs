//! Weights turned for products.
//!
//! A weight is stored (out, in), as everybody stores it, and a product with it first brings it into another order. With many rows
//! that costs little, with a row for each text that grows several times the product. Whoever reads weights and never
//! changes them turns them once, where they lie. The order of additions, and so every bit, stays.

use super::Weights;
use crate::device::{Buffer, Device, OwnParameters, Span};
use crate::flat::Flat;
use crate::layout::{Layout, ParamId};
use crate::ops::transpose::transpose;
use std::collections::BTreeMap;

/// Parameters of which some weights lie (in, out).
#[derive(Debug)]
pub struct Turned {
    params: OwnParameters,
    /// Whether an entry lies turned, by its number.
    lying: Vec<bool>,
    /// Turned copies of what is also read as it is stored.
    copies: BTreeMap<ParamId, Buffer>,
}

impl Turned {
    /// Parameters on a device, these weights of them turned; none, where the device does without. They serve products alone.
    pub fn new(layout: &Layout, mut params: Flat, weights: &[ParamId], device: &Device) -> Self {
        let mut lying = vec![false; layout.entries().len()];
        if device.turns_weights() {
            let mut stored = Vec::new();
            for id in weights {
                let entry = layout.entry(*id);
                let weight = &mut params[entry.range()];
                stored.clear();
                stored.extend_from_slice(weight);
                transpose(&stored, entry.len / entry.shape[0], weight);
                lying[id.index()] = true;
            }
        }
        Self {
            params: OwnParameters::hold(params, device),
            lying,
            copies: BTreeMap::new(),
        }
    }

    /// Turns a copy of a weight that is also read as it is stored, unless there is one.
    pub fn turn_copy(&mut self, layout: &Layout, id: ParamId, device: &Device) {
        if device.turns_weights() && !self.copies.contains_key(&id) {
            let (entry, mut copy) = (layout.entry(id), device.buffer(layout.entry(id).len));
            let stored = self.params.exact().range(entry.range()).host();
            transpose(stored, entry.len / entry.shape[0], copy.span_mut().host());
            self.copies.insert(id, copy);
        }
    }

    /// As a tape reads them; laid out as when they were turned.
    pub fn weights<'a>(&'a self, layout: &'a Layout) -> Weights<'a> {
        Weights {
            turned: Some(self),
            ..Weights::new(layout, &self.params)
        }
    }

    /// Whether a weight lies turned.
    pub(super) fn lies(&self, id: ParamId) -> bool {
        self.lying[id.index()]
    }

    /// The turned copy of a weight, if there is one.
    pub(super) fn copy(&self, id: ParamId) -> Option<Span<'_>> {
        self.copies.get(&id).map(Buffer::span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Pool;
    use crate::random::{Purpose, Stream};
    use crate::tape::Tape;

    #[test]
    fn a_turned_weight_gives_the_same_bits() {
        let stream = Stream::new(1, Purpose::Init);
        let noise = |len: usize, salt: u32| -> Vec<f32> {
            (0..len as u32).map(|i| stream.normals([i, salt, 0, 0])[0]).collect()
        };
        for (out, inner) in [(2, 96), (40, 33), (96, 384), (384, 96), (300, 1100)] {
            let mut layout = Layout::default();
            let (w, b) = (layout.add("w", &[out, inner]), layout.add("b", &[out]));
            let params = Flat::from_slice(&noise(layout.len(), 0));
            let in_place = Turned::new(&layout, params.clone(), &[w], &Device::Cpu);
            let mut copied = Turned::new(&layout, params.clone(), &[], &Device::Cpu);
            copied.turn_copy(&layout, w, &Device::Cpu);
            for rows in [1, 2, 4, 8, 50, 130, 400] {
                let x = noise(rows * inner, 1);
                let run = |weights: Weights| {
                    let mut pool = Pool::default();
                    let mut tape = Tape::inference(weights, &mut pool);
                    let x = tape.input(&x, inner);
                    let y = tape.linear(x, w, Some(b));
                    tape.read(y)
                };
                let stored = run(Weights::new(&layout, &params));
                for turned in [&in_place, &copied] {
                    assert!(turned.lies(w) || turned.copy(w).is_some());
                    assert_eq!(run(turned.weights(&layout)), stored, "{rows} × {inner} → {out}");
                }
            }
        }
    }
}
