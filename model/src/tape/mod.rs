//! A small tape: models and losses are written forward only, each operation records its backward.
//!
//! A [`Tape`] runs one lane. Its values are matrices (rows × columns) named by [`Var`]; its parameters are read from one flat
//! buffer under a [`Layout`](crate::layout::Layout). [`Tape::backward`] runs the record in reverse and puts parameter gradients straight into the
//! lane's flat buffer: a parameter's first contribution overwrites, later ones of the same lane add. Activations are given
//! back to the pool as they are consumed. Values that need no gradient (images, masks, the momentum towers) record nothing.
//!
//! Nodes are an enum without closures, so a record can be printed, counted and walked.

mod backward;
mod forward;
mod growing;
mod heads;
mod node;
mod projections;
mod recompute;
mod settled;
mod turned;
mod weights;

pub use heads::Teaching;
pub use node::{Head, Node};
pub use projections::Projections;
pub use settled::{Gradient, Watch};
pub use turned::Turned;
pub use weights::Weights;

use crate::device::{Asked, Buffer, Device, Pool, Span, SpanMut, Use};
use crate::layout::ParamId;
use crate::ops::meter::{self, Part};
use recompute::Forgotten;
use settled::Settled;

/// A value on a tape: a matrix of rows × columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Var(u32);

/// What a [`scope`](Tape::scope) yields.
pub trait Results: Copy {
    /// The same with other values, in their order.
    fn map(self, f: impl FnMut(Var) -> Var) -> Self;
}

impl Results for Var {
    fn map(self, mut f: impl FnMut(Var) -> Var) -> Self {
        f(self)
    }
}

impl Results for (Option<Var>, Option<Var>) {
    fn map(self, mut f: impl FnMut(Var) -> Var) -> Self {
        (self.0.map(&mut f), self.1.map(&mut f))
    }
}

/// Where a lane's parameter gradients go.
struct Sink<'a> {
    grad: SpanMut<'a>,
    trainable: &'a [bool],
    writes: Vec<u32>,
    told: Option<(Settled<'a>, Watch<'a>)>,
}

impl Sink<'_> {
    /// Counts a contribution, and tells if more is final by it.
    fn wrote(&mut self, id: ParamId) {
        self.writes[id.index()] += 1;
        if let Some((settled, watch)) = &mut self.told
            && let Some(from) = settled.wrote(id)
        {
            watch(from, self.grad.as_span());
        }
    }
}

struct Value {
    rows: usize,
    cols: usize,
    data: Option<Buffer>,
    grad: Option<Buffer>,
    needs_grad: bool,
    purpose: Use,
    /// Part of the step that made it, for the account of its backward.
    part: Part,
}

impl Value {
    /// This value; nothing stays in its place.
    fn take(&mut self) -> Self {
        Self {
            data: self.data.take(),
            grad: self.grad.take(),
            ..*self
        }
    }
}

/// A parameter was not written as often as the model declares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the gradient of {name} was written {written} times in this lane, the model declares {declared}")]
pub struct WriteCount {
    /// Official name.
    pub name: String,
    /// Contributions of this lane.
    pub written: u32,
    /// Contributions the model declares.
    pub declared: u32,
}

/// The record of one lane, or of one inference.
pub struct Tape<'a> {
    device: Device,
    weights: Weights<'a>,
    pool: &'a mut Pool,
    sink: Option<Sink<'a>>,
    values: Vec<Value>,
    nodes: Vec<Node<'a>>,
    recomputes: bool,
    forgotten: Vec<Forgotten>,
}

impl<'a> Tape<'a> {
    /// A tape that records nothing: inference, and the momentum towers.
    pub fn inference(weights: Weights<'a>, pool: &'a mut Pool) -> Self {
        Self {
            device: pool.device().clone(),
            weights,
            pool,
            sink: None,
            values: Vec::new(),
            nodes: Vec::new(),
            recomputes: false,
            forgotten: Vec::new(),
        }
    }

    /// A tape that records, with gradients going to `grad` (laid out as the weights) for the entries that are `trainable`.
    /// Weights, pool and gradient are of one device.
    pub fn training(
        weights: Weights<'a>,
        pool: &'a mut Pool,
        grad: impl Into<SpanMut<'a>>,
        trainable: &'a [bool],
    ) -> Self {
        let grad = grad.into();
        assert_eq!(
            grad.len(),
            weights.layout.len(),
            "gradient and weights share one layout"
        );
        let writes = vec![0; trainable.len()];
        let mut tape = Self::inference(weights, pool);
        tape.sink = Some(Sink {
            grad,
            trainable,
            writes,
            told: None,
        });
        tape
    }

    /// This tape, which tells `watch` during its backward pass what is final of the gradient: what was written as often as `declared`.
    pub fn telling(mut self, declared: &[u32], watch: Option<Watch<'a>>) -> Self {
        if let (Some(sink), Some(watch)) = (&mut self.sink, watch) {
            sink.told = Some((Settled::new(self.weights.layout, declared), watch));
        }
        self
    }

    /// This tape, which keeps of a [`scope`](Self::scope) its result alone if `recomputes`: the backward pass computes the rest again.
    pub fn recomputing(mut self, recomputes: bool) -> Self {
        self.recomputes = recomputes;
        self
    }

    /// The parameters this tape reads.
    pub fn weights(&self) -> Weights<'a> {
        self.weights
    }

    /// What is recorded, in order.
    pub fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }

    /// The elements of a value, row by row.
    pub fn value(&self, v: Var) -> Span<'_> {
        let data = self.values[v.0 as usize].data.as_ref();
        data.expect("a value is read before the backward pass consumes it")
            .span()
    }

    /// Rows and columns of a value.
    pub fn dims(&self, v: Var) -> (usize, usize) {
        let value = &self.values[v.0 as usize];
        (value.rows, value.cols)
    }

    /// A copy of a value in the memory of the process.
    pub fn read(&self, v: Var) -> Vec<f32> {
        self.device.to_vec(self.value(v))
    }

    /// Asks for a value, which comes to the memory of the process.
    pub fn ask(&self, v: Var) -> Asked {
        self.device.ask(self.value(v))
    }

    /// Asks for the first `cols` columns of a value.
    pub fn ask_columns(&mut self, v: Var, cols: usize) -> Asked {
        let (rows, stride) = self.dims(v);
        let mut part = self.take_exact(rows * cols);
        let from = (self.value(v), (0, stride));
        self.device
            .rectangle(from, (part.span_mut(), (0, cols)), (rows, cols), true);
        self.pool.spend(part)
    }

    /// Takes a value's memory from the tape, which is done with it.
    pub fn detach(&mut self, v: Var) -> Buffer {
        let data = self.values[v.0 as usize].data.take();
        data.expect("a value is detached once, before the backward pass")
    }

    /// A constant that another tape of this device has detached.
    pub fn adopt(&mut self, data: Buffer, cols: usize, purpose: Use) -> Var {
        self.push_as(purpose, (data.len() / cols, cols), data, false)
    }

    /// Asks for a parameter.
    pub fn ask_weight(&self, id: ParamId) -> Asked {
        self.device.ask(self.weights.get(id))
    }

    /// Runs `f` and gives back every value it made but its results: if nothing is recorded, for good; on a tape that is
    /// [`recomputing`](Self::recomputing), until the backward pass reads them.
    pub fn scope<R: Results>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        let (mark, node) = (self.values.len(), self.nodes.len());
        let results = f(self);
        if self.sink.is_some() {
            if self.recomputes {
                self.forget(node, results);
            }
            return results;
        }
        let mut kept = Vec::new();
        let results = results.map(|v| {
            if (v.0 as usize) < mark {
                return v;
            }
            kept.push(self.values[v.0 as usize].take());
            Var((mark + kept.len() - 1) as u32)
        });
        self.rewind(mark);
        self.values.append(&mut kept);
        results
    }

    /// A point to [`rewind`](Self::rewind) to.
    pub fn mark(&self) -> usize {
        self.values.len()
    }

    /// Gives back every value made since `mark`. Only for tapes that record nothing.
    pub fn rewind(&mut self, mark: usize) {
        assert!(
            self.sink.is_none(),
            "a recording tape needs its values for the backward pass"
        );
        for value in self.values.drain(mark..) {
            value.data.into_iter().for_each(|buffer| self.pool.give(buffer));
        }
    }

    /// Checks that each trainable parameter was written as often as declared.
    ///
    /// # Errors
    /// The first parameter, in order of the layout, that was not.
    pub fn check_writes(&self, declared: &[u32]) -> Result<(), WriteCount> {
        let Some(sink) = &self.sink else { return Ok(()) };
        for (id, entry) in self.weights.layout.iter() {
            let (written, declared) = (sink.writes[id.index()], declared[id.index()]);
            if sink.trainable[id.index()] && written != declared {
                return Err(WriteCount {
                    name: entry.name.clone(),
                    written,
                    declared,
                });
            }
        }
        Ok(())
    }

    fn trains(&self, id: ParamId) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.trainable[id.index()])
    }

    fn needs(&self, v: Var) -> bool {
        self.values[v.0 as usize].needs_grad
    }

    /// A buffer for an activation.
    fn take(&mut self, len: usize) -> Buffer {
        self.pool.take(len, Use::Activation)
    }

    /// A buffer for an activation of the shape of `x`.
    fn take_like(&mut self, x: Var) -> Buffer {
        let (rows, cols) = self.dims(x);
        self.take(rows * cols)
    }

    /// A buffer for what is kept in single precision.
    fn take_exact(&mut self, len: usize) -> Buffer {
        self.pool.take(len, Use::Exact)
    }

    /// A new activation.
    fn push(&mut self, rows: usize, cols: usize, data: Buffer, needs_grad: bool) -> Var {
        self.push_as(Use::Activation, (rows, cols), data, needs_grad)
    }

    /// A new value in single precision.
    fn push_exact(&mut self, rows: usize, cols: usize, data: Buffer, needs_grad: bool) -> Var {
        self.push_as(Use::Exact, (rows, cols), data, needs_grad)
    }

    fn push_as(&mut self, purpose: Use, (rows, cols): (usize, usize), data: Buffer, needs_grad: bool) -> Var {
        debug_assert_eq!(rows * cols, data.len());
        let needs_grad = needs_grad && self.sink.is_some();
        self.values.push(Value {
            rows,
            cols,
            data: Some(data),
            grad: None,
            needs_grad,
            purpose,
            part: meter::present(),
        });
        Var(self.values.len() as u32 - 1)
    }

    fn record(&mut self, output: Var, node: impl FnOnce() -> Node<'a>) {
        if self.needs(output) {
            let node = node();
            self.nodes.push(node);
        }
    }
}

impl Drop for Tape<'_> {
    fn drop(&mut self) {
        for value in self.values.drain(..) {
            value
                .data
                .into_iter()
                .chain(value.grad)
                .for_each(|buffer| self.pool.give(buffer));
        }
        for node in self.nodes.drain(..) {
            node.saved().into_iter().for_each(|buffer| self.pool.give(buffer));
        }
    }
}
