//! Every operation on the CPU and on the device.
//!
//! Each case is run on memory aligned to 16 bytes and on memory that is not, twice each. Results are written into memory that is
//! poisoned inside and has guards around it.

mod attention;
mod elementwise;
mod losses;
mod products;
mod rows;

use medley_model::cuda::{Cuda, Memory, Slice, SliceMut};
use medley_model::random::{Purpose, Stream, WORDS_AT_ONCE};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

/// Largest relative error ‖a − b‖ / ‖b‖ that is rounding.
const BAR: f64 = 1e-5;
/// Elements on either side of a part, and what they hold.
const GUARD: usize = 8;
const SENTINEL: f32 = -7.5e11;

/// Runs all operations.
pub(crate) fn check(cuda: &Arc<Cuda>) -> ExitCode {
    let ops = Ops {
        cuda: cuda.clone(),
        wrong: Cell::new(0),
    };
    println!("{:<24} {:>5}  {:>9}", "operation", "cases", "error");
    elementwise::check(&ops);
    rows::check(&ops);
    products::check(&ops);
    losses::check(&ops);
    attention::check(&ops);
    match ops.wrong.get() {
        0 => {
            println!("all right");
            ExitCode::SUCCESS
        }
        wrong => {
            println!("{wrong} operations are wrong");
            ExitCode::FAILURE
        }
    }
}

/// All operations.
pub(crate) struct Ops {
    cuda: Arc<Cuda>,
    wrong: Cell<usize>,
}

impl Ops {
    /// Runs the cases of an operation that may differ from the CPU by rounding.
    fn op(&self, name: &str, cases: impl Fn(&Cases)) {
        self.run(name, BAR, cases);
    }

    /// Runs the cases of an operation that gives the CPU's bits.
    fn exact(&self, name: &str, cases: impl Fn(&Cases)) {
        self.run(name, 0.0, cases);
    }

    fn run(&self, name: &str, bar: f64, cases: impl Fn(&Cases)) {
        print!("{name:<24} ");
        let _ = std::io::stdout().flush();
        let of = Cases {
            cuda: self.cuda.clone(),
            bar,
            shift: Cell::new(0),
            drawn: Cell::new(0),
            count: Cell::new(0),
            worst: Cell::new(0.0),
            faults: RefCell::default(),
        };
        for shift in [0, 1] {
            of.shift.set(shift);
            cases(&of);
        }
        let faults = of.faults.into_inner();
        let verdict = if faults.is_empty() { "OK" } else { "WRONG" };
        println!("{:>5}  {:>9.1e}  {verdict}", of.count.get(), of.worst.get());
        faults.iter().for_each(|fault| println!("    {fault}"));
        self.wrong.set(self.wrong.get() + usize::from(!faults.is_empty()));
    }
}

/// Elements of device memory between guards.
pub(crate) struct Part {
    memory: Memory,
    start: usize,
    len: usize,
}

impl Part {
    pub(crate) fn slice(&self) -> Slice<'_> {
        self.memory.slice().range(self.start..self.start + self.len)
    }

    pub(crate) fn slice_mut(&mut self) -> SliceMut<'_> {
        self.memory.slice_mut().range(self.start..self.start + self.len)
    }
}

/// The cases of an operation.
pub(crate) struct Cases {
    cuda: Arc<Cuda>,
    bar: f64,
    shift: Cell<usize>,
    drawn: Cell<u64>,
    count: Cell<usize>,
    worst: Cell<f64>,
    faults: RefCell<Vec<String>>,
}

impl Cases {
    /// Numbers between −√3 and √3, of variance 1, others at each call.
    pub(crate) fn noise(&self, n: usize) -> Vec<f32> {
        self.drawn.set(self.drawn.get() + 1);
        let stream = Stream::new(1, Purpose::Init).at(self.drawn.get());
        let words = (0..n.div_ceil(WORDS_AT_ONCE) as u32).flat_map(|i| stream.many(8 * i, [0; 3]));
        words
            .take(n)
            .map(|word| (word as f32 / 2f32.powi(31) - 1.0) * 3f32.sqrt())
            .collect()
    }

    /// Numbers below `end`, others at each call.
    pub(crate) fn indices(&self, n: usize, end: usize) -> Vec<u32> {
        self.drawn.set(self.drawn.get() + 1);
        let stream = Stream::new(2, Purpose::Init).at(self.drawn.get());
        (0..n as u32)
            .map(|i| stream.words([i, 0, 0, 0])[0] % end as u32)
            .collect()
    }

    /// These values on the device.
    pub(crate) fn up(&self, values: &[f32]) -> Part {
        let start = GUARD + self.shift.get();
        let mut all = vec![SENTINEL; start + values.len() + GUARD];
        all[start..start + values.len()].copy_from_slice(values);
        let mut memory = self.cuda.memory(all.len());
        self.cuda.upload(&all, memory.slice_mut());
        Part {
            memory,
            start,
            len: values.len(),
        }
    }

    /// Poison on the device: what stays of it is not a number.
    pub(crate) fn poison(&self, n: usize) -> Part {
        self.up(&vec![f32::NAN; n])
    }

    /// Runs an operation twice and compares what it gives with what is expected.
    pub(crate) fn compare(&self, case: &str, expected: &[Vec<f32>], run: impl Fn() -> Vec<Part>) {
        self.count.set(self.count.get() + 1);
        let [first, second] = [(); 2].map(|()| run().iter().map(|part| self.down(case, part)).collect::<Vec<_>>());
        if let Err(error) = self.cuda.check() {
            self.fault(case, &error.to_string());
        }
        if first.len() != expected.len() {
            self.fault(case, "another number of results");
        }
        for (i, (a, b)) in first.iter().zip(expected).enumerate() {
            let error = relative_error(a, b);
            self.worst.set(self.worst.get().max(error));
            if error > self.bar {
                self.fault(
                    case,
                    &format!("result {i} is off by {error:.1e}{}", first_difference(a, b)),
                );
            }
        }
        let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        if bits(&first) != bits(&second) {
            self.fault(case, "other bits the second time");
        }
    }

    fn down(&self, case: &str, part: &Part) -> Vec<f32> {
        let mut all = vec![0.0; part.memory.len()];
        self.cuda.download(part.memory.slice(), &mut all);
        let (head, rest) = all.split_at(part.start);
        let (values, tail) = rest.split_at(part.len);
        if head.iter().chain(tail).any(|v| *v != SENTINEL) {
            self.fault(case, "memory beside the result is overwritten");
        }
        values.to_vec()
    }

    fn fault(&self, case: &str, what: &str) {
        let place = if self.shift.get() == 0 { "aligned" } else { "shifted" };
        self.faults.borrow_mut().push(format!("{case}, {place}: {what}"));
    }
}

fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let square = |v: f64| v * v;
    let off: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let size: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    if off == 0.0 {
        0.0
    } else if off.is_nan() || size == 0.0 {
        f64::INFINITY
    } else {
        (off / size).sqrt()
    }
}

/// Where two results first differ by more than rounding, for a person to look at.
fn first_difference(a: &[f32], b: &[f32]) -> String {
    let differ = |(a, b): (&f32, &f32)| {
        let apart = (a - b).abs();
        apart.is_nan() || apart > 1e-4 * b.abs().max(1e-3)
    };
    let at = a.iter().zip(b).position(differ);
    at.map_or(String::new(), |at| {
        format!("; element {at} of {} is {} and not {}", b.len(), a[at], b[at])
    })
}
