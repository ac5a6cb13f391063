//! Queries, keys and values of the same rows: three products that a device may compute at once.
//!
//! Their weights lie equally far apart in the layout, and so do their biases and all gradients. The results lie side by side in one
//! value, as those of an image tower's layer do.

use super::backward::start;
use super::node::Head;
use super::{Node, Tape, Var};
use crate::device::{Buffer, Factor, SpanMut};
use crate::layout::{ParamId, Three};
use crate::ops::gemm::{Batch, Start};

/// Weights and biases of queries, keys and values, all of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Projections {
    /// Weights.
    pub w: [ParamId; 3],
    /// Biases.
    pub b: [ParamId; 3],
}

/// What is true of every layer's parameters.
const EVEN: &str = "what is projected at once lies equally far apart";

/// Of gradients side by side, `out` columns each, the one with this number, and those behind it.
fn part(dy: &Buffer, number: usize, out: usize) -> Factor<'_> {
    let (rows, first) = (dy.len() / (3 * out), (number * out).min(dy.len()));
    let from = dy.span().range(first..dy.len());
    Factor::apart(from, (rows, out), 3 * out)
}

impl Tape<'_> {
    /// `x·wᵀ + b` for queries, keys and values: columns of one value where the device computes them at once, else three values.
    ///
    /// # Shapes
    /// x: rows × in → rows × out each
    pub fn project(&mut self, x: Var, of: Projections) -> [Head; 3] {
        if self.device.attends_within() {
            let var = self.project_at_once(x, of);
            let width = self.dims(var).1 / 3;
            [0, 1, 2].map(|i| Head { var, offset: i * width })
        } else {
            [0, 1, 2].map(|i| self.linear(x, of.w[i], Some(of.b[i])).into())
        }
    }

    /// `x·wᵀ + b` for queries, keys and values, side by side.
    ///
    /// # Shapes
    /// x: rows × in → rows × (3·out)
    pub fn project_at_once(&mut self, x: Var, of: Projections) -> Var {
        let (y, (rows, inner)) = (self.projected(x, of), self.dims(x));
        let out = self.weights.layout.entry(of.w[0]).len / inner;
        let trains = self.needs(x) || of.w.iter().chain(&of.b).any(|id| self.trains(*id));
        let y = self.push(rows, 3 * out, y, trains);
        self.record(y, || Node::Project { x, of, y });
        y
    }

    pub(super) fn projected(&mut self, x: Var, of: Projections) -> Buffer {
        let (rows, inner) = self.dims(x);
        let out = self.weights.layout.entry(of.w[0]).len / inner;
        let mut y = self.take(rows * 3 * out);
        self.multiply(x, of, y.span_mut(), (out, 3 * out));
        y
    }

    /// Queries, keys and values into `y`: their first elements `apart` from each other, their rows `stride`.
    pub(super) fn multiply(&self, x: Var, of: Projections, y: SpanMut, (apart, stride): (usize, usize)) {
        let (weights, inner) = (self.weights, self.dims(x).1);
        let left = Factor::new(self.value(x), inner);
        if self.device.attends_within() {
            let [w, b] = [of.w, of.b].map(|ids| weights.layout.three(ids).expect(EVEN));
            let right = Factor::apart(weights.factors(w), (w.len / inner, inner), inner).t();
            let batch = Batch {
                count: 3,
                a: 0,
                b: w.distance,
                c: apart,
                bias: b.distance,
            };
            let start = Start::Bias(weights.factors(b));
            return self.device.gemm_batch(left, right, y, stride, start, batch);
        }
        let (mut y, len) = (y, self.dims(x).0 * stride);
        for i in 0..3 {
            let (w, b) = (weights.right(of.w[i], inner), Start::Bias(weights.factor(of.b[i])));
            let end = y.len().min(i * apart + len);
            let y = y.reborrow().range(i * apart..end);
            self.device.gemm_strided(left, w, y, stride, b);
        }
    }

    pub(super) fn project_backward(&mut self, x: Var, of: Projections, dy: &Buffer) {
        let inner = self.dims(x).1;
        let out = self.weights.layout.entry(of.w[0]).len / inner;
        if let Some((lie, fresh)) = self.train_together(of.w) {
            let batch = Batch {
                count: 3,
                a: out,
                b: 0,
                c: lie.distance,
                bias: 0,
            };
            self.params_within(of.w, lie, |tape, d| {
                let (dy, x) = (part(dy, 0, out).t(), Factor::new(tape.value(x), inner));
                tape.device.gemm_batch(dy, x, d, inner, start(fresh), batch);
            });
        } else {
            for (i, w) in of.w.into_iter().enumerate() {
                self.param(w, |tape, d, fresh| {
                    let (dy, x) = (part(dy, i, out).t(), Factor::new(tape.value(x), inner));
                    tape.device.gemm(dy, x, d, start(fresh));
                });
            }
        }
        self.bias_gradients(of.b, dy, out);
        self.contribute(x, |tape, mut d, fresh| {
            for (i, w) in of.w.into_iter().enumerate() {
                let w = Factor::new(tape.weights.factor(w), inner);
                tape.device
                    .gemm(part(dy, i, out), w, d.reborrow(), start(fresh && i == 0));
            }
        });
    }

    fn bias_gradients(&mut self, ids: [ParamId; 3], dy: &Buffer, out: usize) {
        if let Some((lie, fresh)) = self.train_together(ids) {
            self.params_within(ids, lie, |tape, d| {
                tape.device
                    .sum_columns_apart(dy.span(), (d, 3 * out), (out, lie.distance), fresh);
            });
            return;
        }
        let mut sums = self.take_exact(3 * out);
        self.device.sum_columns(dy.span(), sums.span_mut(), true);
        for (i, id) in ids.into_iter().enumerate() {
            let sums = sums.span().range(i * out..(i + 1) * out);
            self.param(id, |tape, d, fresh| tape.device.put(sums, d, fresh));
        }
        self.pool.give(sums);
    }

    /// Where three parameters lie and whether nothing has been written to the gradient of any, if all of them train and are alike.
    fn train_together(&self, ids: [ParamId; 3]) -> Option<(Three, bool)> {
        let sink = self.sink.as_ref()?;
        let fresh = ids.map(|id| sink.writes[id.index()] == 0);
        let alike = ids.iter().all(|id| sink.trainable[id.index()]) && fresh == [fresh[0]; 3];
        let lie = self.weights.layout.three(ids)?;
        alike.then_some((lie, fresh[0]))
    }

    /// Lets `f` write the gradients of three parameters, which train together, but nothing between them.
    fn params_within(&mut self, ids: [ParamId; 3], lie: Three, f: impl FnOnce(&mut Self, SpanMut)) {
        let Some(mut sink) = self.sink.take() else { return };
        f(self, sink.grad.reborrow().range(lie.range()));
        ids.into_iter().for_each(|id| sink.wrote(id));
        self.sink = Some(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Pool;
    use crate::flat::Flat;
    use crate::layout::Layout;
    use crate::ops::attention::Sequence;
    use crate::ops::dropout::Place;
    use crate::random::{Purpose, Stream};
    use crate::tape::Weights;
    use std::rc::Rc;

    const WIDTH: usize = 48;

    fn noise(len: usize, salt: u32) -> Vec<f32> {
        let stream = Stream::new(1, Purpose::Init);
        (0..len as u32).map(|i| stream.normals([i, salt, 0, 0])[0]).collect()
    }

    fn layout() -> (Layout, ParamId, Projections) {
        let mut layout = Layout::default();
        let word = layout.add("word", &[9, WIDTH]);
        let [q, k, v] = ["query", "key", "value"].map(|name| {
            let w = layout.add(format!("{name}.weight"), &[WIDTH, WIDTH]);
            [w, layout.add(format!("{name}.bias"), &[WIDTH])]
        });
        let of = [0, 1].map(|i| [q[i], k[i], v[i]]);
        (layout, word, Projections { w: of[0], b: of[1] })
    }

    /// What `project` makes of 67 rows, attended to, and all gradients, of two layers of the same weights.
    fn run(project: impl Fn(&mut Tape, Var, Projections) -> [Head; 3], recomputes: bool) -> (Vec<f32>, Flat) {
        let (layout, word, of) = layout();
        let params = Flat::from_slice(&noise(layout.len(), 3));
        let (mut pool, mut grad) = (Pool::default(), Flat::zeros(layout.len()));
        let trainable = vec![true; layout.entries().len()];
        let seqs: Rc<[Sequence]> = [0..3, 3..40, 40..67]
            .map(|rows| Sequence {
                queries: rows.clone(),
                keys: rows,
                causal_from: Some(0),
                place: Place { sample: 0, position: 0 },
            })
            .into();
        let ids: Rc<[u32]> = (0..67).map(|i| i * i % 9).collect();
        let weights = Weights::new(&layout, &params);
        let tape = Tape::training(weights, &mut pool, &mut grad, &trainable);
        let mut tape = tape.recomputing(recomputes);
        let mut x = tape.embed(&ids, &ids, word, word);
        for _ in 0..2 {
            x = tape.scope(|tape| {
                let [q, k, v] = project(tape, x, of);
                tape.attention((q, k, v), (3, WIDTH / 3), &seqs, None)
            });
        }
        let value = tape.read(x);
        let logits = tape.linear(x, word, None);
        let loss = tape.cross_entropy(logits, &ids, 0.1);
        tape.backward(loss, 1.0);
        drop(tape);
        (value, grad)
    }

    fn apart(tape: &mut Tape, x: Var, of: Projections) -> [Head; 3] {
        // Recorded so that the gradients of `x` are added in the order of queries, keys and values.
        let [v, k, q] = [2, 1, 0].map(|i: usize| tape.linear(x, of.w[i], Some(of.b[i])).into());
        [q, k, v]
    }

    fn at_once(tape: &mut Tape, x: Var, of: Projections) -> [Head; 3] {
        let var = tape.project_at_once(x, of);
        [0, 1, 2].map(|i| Head { var, offset: i * WIDTH })
    }

    #[test]
    fn projections_at_once_and_their_gradients_are_those_one_by_one() {
        let (value, grad) = run(apart, false);
        assert!(grad.iter().all(|g| g.is_finite()) && grad.iter().any(|g| *g != 0.0));
        let (others, kept) = run(at_once, false);
        assert_eq!(value, others);
        for entry in layout().0.entries() {
            let (one, other) = (&grad[entry.range()], &kept[entry.range()]);
            if entry.name.ends_with("bias") {
                // Sums of columns are of three matrices side by side, in blocks of other sizes.
                let largest = one.iter().fold(0.0, |largest: f32, g| largest.max(g.abs()));
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * largest;
                assert!(one.iter().zip(other).all(near), "{}: {one:?} {other:?}", entry.name);
            } else {
                assert_eq!(one, other, "{}", entry.name);
            }
        }
        assert_eq!(run(at_once, true).1[..], kept[..], "computed again");
    }

    #[test]
    fn the_processor_projects_one_by_one() {
        let (layout, word, of) = layout();
        let params = Flat::zeros(layout.len());
        let mut pool = Pool::default();
        let mut tape = Tape::inference(Weights::new(&layout, &params), &mut pool);
        let x = tape.embed(&[0, 1].into(), &[0, 0].into(), word, word);
        let heads = tape.project(x, of);
        assert!(
            heads
                .iter()
                .all(|head| head.offset == 0 && tape.dims(head.var) == (2, WIDTH))
        );
    }
}
