//! One operation, written once for the tape and once as a formula, and their comparison.
//!
//! The loss is the result times fixed random cotangents, summed. On the tape each row of the result is looked up and
//! multiplied by a row of its own, so that what the operation's backward receives are the cotangents to the last bit; and
//! an input that is a value is looked up from a parameter, which receives its gradient to the last bit.

use crate::formulas::matrix;
use candle_core::{Result, Tensor, Var as Variable};
use medley_model::device::{Buffer, Pool, Span, Use};
use medley_model::layout::{Layout, ParamId};
use medley_model::random::{Purpose, Stream};
use medley_model::tape::{Tape, Var, Weights};
use std::collections::HashMap;

/// Values and gradients agree within this share of their norm.
const TOLERANCE: f64 = 2e-6;

struct Input {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<f32>,
    constant: bool,
}

type Ours = dyn Fn(&mut Recorder) -> Var;
type Formula = dyn Fn(&dyn Fn(&str) -> Tensor) -> Result<Tensor>;

/// Named inputs, and what is made of them.
pub(crate) struct Case {
    name: String,
    inputs: Vec<Input>,
    ours: Box<Ours>,
    plain: Box<Formula>,
}

/// A tape, and the inputs that are values on it.
pub(crate) struct Recorder<'t, 'a> {
    pub(crate) tape: &'t mut Tape<'a>,
    leaves: HashMap<&'static str, Var>,
}

impl<'a> Recorder<'_, 'a> {
    /// The parameter with this name.
    pub(crate) fn id(&self, name: &str) -> ParamId {
        self.tape.weights().layout.id(name)
    }

    /// The parameter with this name as a value: each row looked up once, plus zeros.
    pub(crate) fn var(&mut self, name: &'static str) -> Var {
        if let Some(var) = self.leaves.get(name) {
            return *var;
        }
        let (word, zeros) = (self.id(name), self.id("zeros"));
        let rows = self.tape.weights().layout.entry(word).shape[0] as u32;
        let ids = (0..rows).collect::<Vec<_>>().into();
        let var = self.tape.embed(&ids, &vec![0; rows as usize].into(), word, zeros);
        self.leaves.insert(name, var);
        var
    }

    /// The keys "near", as a constant of the tape, and "far".
    pub(crate) fn keys(&mut self, width: usize) -> (Var, Span<'a>) {
        let [near, far] = ["near", "far"].map(|name| self.tape.weights().get(self.id(name)));
        (self.tape.constant(near.host(), width), far)
    }
}

/// `len` numbers from the normal distribution, named.
pub(crate) fn normals(name: &str, len: usize) -> Vec<f32> {
    let stream = Stream::new(11, Purpose::Init).named(name);
    (0..len as u32)
        .flat_map(|i| stream.normals([i, 0, 0, 0]))
        .take(len)
        .collect()
}

/// What an operation gives, and the gradient of each input that is no constant.
struct Outcome {
    kind: &'static str,
    value: Vec<f32>,
    grads: HashMap<&'static str, Vec<f32>>,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            inputs: Vec::new(),
            ours: Box::new(|_| unreachable!("a case says what is recorded")),
            plain: Box::new(|_| unreachable!("a case has a formula")),
        }
    }

    /// An input with these values.
    pub(crate) fn with(mut self, name: &'static str, shape: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        self.inputs.push(Input {
            name,
            shape: shape.to_vec(),
            values,
            constant: false,
        });
        self
    }

    /// An input from the normal distribution.
    pub(crate) fn input(self, name: &'static str, shape: &[usize]) -> Self {
        self.with(name, shape, normals(name, shape.iter().product()))
    }

    /// An input with these values that gets no gradient.
    pub(crate) fn fixed(self, name: &'static str, shape: &[usize], values: Vec<f32>) -> Self {
        let mut case = self.with(name, shape, values);
        case.inputs.last_mut().unwrap().constant = true;
        case
    }

    /// What is recorded.
    pub(crate) fn ours(mut self, ours: impl Fn(&mut Recorder) -> Var + 'static) -> Self {
        self.ours = Box::new(ours);
        self
    }

    /// Its formula over the inputs by name.
    pub(crate) fn plain(mut self, plain: impl Fn(&dyn Fn(&str) -> Tensor) -> Result<Tensor> + 'static) -> Self {
        self.plain = Box::new(plain);
        self
    }

    /// The kind of the node that the case ends in.
    pub(crate) fn kind(&self) -> &'static str {
        let (value, _) = self.exact(1);
        self.run(value.dims2().unwrap(), 1, |input| !input.constant).kind
    }

    /// Compares values and gradients, of the operation recorded once and twice (every gradient's first contribution
    /// overwrites, the second adds), and with each input trained alone.
    fn check(&self) {
        for times in [1, 2] {
            let (value, grads) = self.exact(times);
            let shape = value.dims2().unwrap();
            let ours = self.run(shape, times, |input| !input.constant);
            self.close("value", &ours.value, &value);
            for (name, exact) in &grads {
                self.close(
                    &format!("gradient of {name}, recorded {times}×"),
                    &ours.grads[name],
                    exact,
                );
                let alone = self.run(shape, times, |input| input.name == *name);
                assert!(
                    alone.grads[name] == ours.grads[name],
                    "{}: {name} trained alone",
                    self.name
                );
                assert_eq!(alone.grads.len(), 1);
            }
        }
    }

    fn close(&self, what: &str, ours: &[f32], exact: &Tensor) {
        let exact: Vec<f64> = exact.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(ours.len(), exact.len());
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let size = norm(&mut exact.iter().copied());
        let difference = norm(&mut ours.iter().zip(&exact).map(|(a, b)| f64::from(*a) - b));
        assert!(
            size > 0.0 && difference <= TOLERANCE * size,
            "{}, {what}: {difference:.3e} off a norm of {size:.3e}, a share of {:.2e}",
            self.name,
            difference / size
        );
    }

    /// Value and gradients of the formula, for the sum of the cotangents of that many recordings.
    fn exact(&self, times: usize) -> (Tensor, HashMap<&'static str, Tensor>) {
        let variable = |input: &Input| {
            let flat = matrix(&input.values, input.values.len()).unwrap();
            let value = Variable::from_tensor(&flat.reshape(input.shape.as_slice()).unwrap());
            (input.name, value.unwrap())
        };
        let variables: HashMap<_, _> = self.inputs.iter().map(variable).collect();
        let value = (self.plain)(&|name| variables[name].as_tensor().clone()).unwrap();
        let (rows, cols) = value.dims2().unwrap();
        let weigh = |time| (&value * matrix(&cotangent(time, rows * cols), cols)?)?.sum_all();
        let total = (0..times)
            .map(|time| weigh(time).unwrap())
            .reduce(|a, b| (a + b).unwrap());
        let grads = total.unwrap().backward().unwrap();
        let trained = self.inputs.iter().filter(|input| !input.constant);
        let of = |input: &Input| (input.name, grads.get(&variables[input.name]).unwrap().clone());
        (value.clone(), trained.map(of).collect())
    }

    /// Inputs, the zeros of [`Recorder::var`], and cotangents by rows in one buffer.
    fn place(&self, cols: usize, cotangents: &[f32]) -> (Layout, Vec<f32>) {
        let (mut layout, mut data) = (Layout::default(), Vec::new());
        let mut place = |name: &str, shape: &[usize], values: &[f32]| {
            layout.add(name, shape);
            data.extend(values);
            data.resize(layout.len(), 0.0);
        };
        for input in &self.inputs {
            place(input.name, &input.shape, &input.values);
        }
        let widest = self.inputs.iter().filter_map(|input| input.shape.last()).max();
        place("zeros", &[1, *widest.unwrap()], &[]);
        for (i, row) in cotangents.chunks(cols).enumerate() {
            place(&format!("cotangent.{i}"), &[1, cols], row);
        }
        (layout, data)
    }

    /// Records the operation some times on a tape, then the sum of all results times their cotangents, and reverses.
    fn run(&self, (rows, cols): (usize, usize), times: usize, trains: impl Fn(&Input) -> bool) -> Outcome {
        let cotangents: Vec<f32> = (0..times).flat_map(|time| cotangent(time, rows * cols)).collect();
        let (layout, data) = self.place(cols, &cotangents);
        let trained: Vec<_> = self
            .inputs
            .iter()
            .filter(|input| trains(input))
            .map(|input| input.name)
            .collect();
        let trainable: Vec<bool> = layout
            .entries()
            .iter()
            .map(|e| trained.contains(&e.name.as_str()))
            .collect();
        let weights = Weights::new(&layout, &data);
        let (mut pool, mut grad) = (used_pool(), vec![f32::NAN; layout.len()]);
        let mut tape = Tape::training(weights, &mut pool, &mut grad[..], &trainable);
        let mut recorder = Recorder {
            tape: &mut tape,
            leaves: HashMap::new(),
        };
        let results: Vec<_> = (0..times).map(|_| (self.ours)(&mut recorder)).collect();
        let last = tape
            .nodes()
            .last()
            .expect("an operation with a trained input is recorded");
        assert_eq!(last.output(), results[times - 1], "{}: the last node", self.name);
        let (kind, value) = (crate::kind(last), tape.read(results[0]));
        let weigh = |i: usize| {
            let row = tape.rows(results[i / rows], &[(i % rows) as u32].into());
            (tape.linear(row, layout.id(&format!("cotangent.{i}")), None), 1.0)
        };
        let terms: Vec<_> = (0..times * rows).map(weigh).collect();
        let loss = tape.weighted_sum(&terms);
        tape.backward(loss, 1.0);
        drop(tape);
        let gradient = |name| (name, grad[layout.entry(layout.id(name)).range()].to_vec());
        Outcome {
            kind,
            value,
            grads: trained.into_iter().map(gradient).collect(),
        }
    }
}

/// What the elements of a recording's result weigh in the loss.
fn cotangent(time: usize, len: usize) -> Vec<f32> {
    normals(&format!("cotangent {time}"), len)
}

/// A pool whose buffers hold no numbers, as one in use holds the remains of others.
fn used_pool() -> Pool {
    let mut pool = Pool::default();
    let classes = (0..10).flat_map(|octave| (4..8).map(move |quarters| 16 * (quarters << octave)));
    let buffers: Vec<Buffer> = classes
        .flat_map(|len| [len; 4])
        .map(|len| pool.take(len, Use::Activation))
        .collect();
    for mut buffer in buffers {
        buffer.span_mut().host().fill(f32::NAN);
        pool.give(buffer);
    }
    pool
}

/// Compares every case.
pub(crate) fn check(cases: &[Case]) {
    cases.iter().for_each(Case::check);
}
