//! Every operation on the CPU and on the device.
//!
//! Each case is run on memory aligned to 16 bytes and on memory that is not, twice each. Results are written into memory that is
//! poisoned inside and has guards around it.
//!
//! Operations on what may be stored as bf16 are tried with both formats: the CPU's are given numbers that bf16 holds exactly, so that
//! results differ by one rounding.

mod attention;
mod decode;
mod elementwise;
mod losses;
mod optimiser;
mod products;
mod rows;

use medley_model::cuda::{Cuda, Format, Memory, Slice, SliceMut};
use medley_model::random::{Purpose, Stream, WORDS_AT_ONCE};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

/// Largest relative error ‖a − b‖ / ‖b‖ that is rounding.
const BAR: f64 = 1e-5;
/// The same of results of single precision from factors of bf16, and of results of bf16: half of its last digit.
const MIXED_BAR: f64 = 1e-4;
const BF16_BAR: f64 = 4e-3;
/// Elements on either side of a part, and what they hold.
const GUARD: usize = 8;
const SENTINEL: f32 = -549_755_813_888.0;

/// Operations of a kind.
type Kind = (&'static str, fn(&Ops));

const KINDS: [Kind; 7] = [
    ("elementwise", elementwise::check),
    ("rows", rows::check),
    ("products", products::check),
    ("losses", losses::check),
    ("optimiser", optimiser::check),
    ("attention", attention::check),
    ("decode", decode::check),
];

/// Runs operations of these kinds, of all if none is named.
pub(crate) fn check(cuda: &Arc<Cuda>, kinds: &[&str]) -> ExitCode {
    let names = KINDS.map(|(name, _)| name);
    if let Some(unknown) = kinds.iter().find(|kind| !names.contains(kind)) {
        eprintln!("gpu ops: {unknown} is none of {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let ops = Ops {
        cuda: cuda.clone(),
        wrong: Cell::new(0),
    };
    println!("{:<28} {:>5}  {:>9}", "operation", "cases", "error");
    for (name, check) in KINDS {
        if kinds.is_empty() || kinds.contains(&name) {
            check(&ops);
        }
    }
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

/// How an operation is tried.
#[derive(Clone, Copy)]
struct Trial {
    /// How what may be stored either way is stored.
    format: Format,
    /// Largest errors of results of single precision and of bf16. Without any, a result has the bits of the CPU's, rounded.
    bars: [f64; 2],
}

impl Ops {
    /// Runs the cases of an operation of single precision that may differ from the CPU by rounding.
    fn op(&self, name: &str, cases: impl Fn(&Cases)) {
        self.run(name, single([BAR, BF16_BAR]), cases);
    }

    /// Runs the cases of an operation of single precision that gives the CPU's bits.
    fn exact(&self, name: &str, cases: impl Fn(&Cases)) {
        self.run(name, single([0.0; 2]), cases);
    }

    /// As [`op`](Self::op), with both formats.
    fn both(&self, name: &str, cases: impl Fn(&Cases)) {
        self.op(name, &cases);
        self.bf16(name, BF16_BAR, &cases);
    }

    /// As [`exact`](Self::exact), with both formats.
    fn both_exact(&self, name: &str, cases: impl Fn(&Cases)) {
        self.exact(name, &cases);
        self.run(&format!("{name}, bf16"), bf16([0.0; 2]), &cases);
    }

    /// Runs the cases of an operation with bf16, of which results may be off by `bar`.
    fn bf16(&self, name: &str, bar: f64, cases: impl Fn(&Cases)) {
        self.run(&format!("{name}, bf16"), bf16([MIXED_BAR, bar]), cases);
    }

    fn run(&self, name: &str, trial: Trial, cases: impl Fn(&Cases)) {
        print!("{name:<28} ");
        let _ = std::io::stdout().flush();
        let of = Cases {
            cuda: self.cuda.clone(),
            trial,
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

const fn single(bars: [f64; 2]) -> Trial {
    let format = Format::F32;
    Trial { format, bars }
}

const fn bf16(bars: [f64; 2]) -> Trial {
    let format = Format::Bf16;
    Trial { format, bars }
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
    trial: Trial,
    shift: Cell<usize>,
    drawn: Cell<u64>,
    count: Cell<usize>,
    worst: Cell<f64>,
    faults: RefCell<Vec<String>>,
}

impl Cases {
    /// Formats of a result that may have the format of the trial or single precision.
    pub(crate) fn formats(&self) -> Vec<Format> {
        match self.trial.format {
            Format::F32 => vec![Format::F32],
            Format::Bf16 => vec![Format::Bf16, Format::F32],
        }
    }

    /// These numbers as the format of the trial holds them.
    pub(crate) fn rounded(&self, values: impl IntoIterator<Item = f32>) -> Vec<f32> {
        let values = values.into_iter();
        match self.trial.format {
            Format::F32 => values.collect(),
            Format::Bf16 => values.map(rounded).collect(),
        }
    }

    /// Numbers between −√3 and √3, of variance 1, that the format of the trial holds, others at each call.
    pub(crate) fn noise(&self, n: usize) -> Vec<f32> {
        self.drawn.set(self.drawn.get() + 1);
        let stream = Stream::new(1, Purpose::Init).at(self.drawn.get());
        let words = (0..n.div_ceil(WORDS_AT_ONCE) as u32).flat_map(|i| stream.many(8 * i, [0; 3]));
        let number = |word: u32| (word as f32 / 2f32.powi(31) - 1.0) * 3f32.sqrt();
        self.rounded(words.take(n).map(number))
    }

    /// Numbers below `end`, others at each call.
    pub(crate) fn indices(&self, n: usize, end: usize) -> Vec<u32> {
        self.drawn.set(self.drawn.get() + 1);
        let stream = Stream::new(2, Purpose::Init).at(self.drawn.get());
        (0..n as u32)
            .map(|i| stream.words([i, 0, 0, 0])[0] % end as u32)
            .collect()
    }

    /// These values on the device, in the format of the trial.
    pub(crate) fn up(&self, values: &[f32]) -> Part {
        self.up_as(values, self.trial.format)
    }

    /// These values on the device, in single precision.
    pub(crate) fn up_single(&self, values: &[f32]) -> Part {
        self.up_as(values, Format::F32)
    }

    /// These values on the device.
    pub(crate) fn up_as(&self, values: &[f32], format: Format) -> Part {
        if format == Format::Bf16 && values.iter().any(|v| !v.is_nan() && *v != rounded(*v)) {
            self.fault("an input", "is not what bf16 holds");
        }
        let start = GUARD + self.shift.get();
        let mut all = vec![SENTINEL; start + values.len() + GUARD];
        all[start..start + values.len()].copy_from_slice(values);
        let mut memory = self.cuda.memory_of(all.len(), format);
        self.cuda.upload(&all, memory.slice_mut());
        Part {
            memory,
            start,
            len: values.len(),
        }
    }

    /// Poison on the device, in the format of the trial: what stays of it is not a number.
    pub(crate) fn poison(&self, n: usize) -> Part {
        self.poison_as(n, self.trial.format)
    }

    /// Poison in single precision.
    pub(crate) fn poison_single(&self, n: usize) -> Part {
        self.poison_as(n, Format::F32)
    }

    /// Poison on the device.
    pub(crate) fn poison_as(&self, n: usize, format: Format) -> Part {
        self.up_as(&vec![f32::NAN; n], format)
    }

    /// Runs an operation twice and compares what it gives with what is expected.
    pub(crate) fn compare(&self, case: &str, expected: &[Vec<f32>], run: impl Fn() -> Vec<Part>) {
        self.compare_beside(case, expected, &[], run);
    }

    /// Runs an operation twice and compares what it gives with the bits of these.
    pub(crate) fn same(&self, case: &str, expected: &[Part], run: impl Fn() -> Vec<Part>) {
        let expected: Vec<Vec<f32>> = expected.iter().map(|part| self.down(case, part)).collect();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let parts = run();
        let differs = |(part, expected): (&Part, &Vec<f32>)| bits(&self.down(case, part)) != bits(expected);
        if parts.iter().zip(&expected).any(differs) {
            self.fault(case, "other bits than by single operations");
        }
        self.compare(case, &expected, run);
    }

    /// As [`compare`](Self::compare), with errors relative to the size of `beside` where that is larger than the result.
    pub(crate) fn compare_beside(
        &self,
        case: &str,
        expected: &[Vec<f32>],
        beside: &[f32],
        run: impl Fn() -> Vec<Part>,
    ) {
        self.count.set(self.count.get() + 1);
        let [first, second] = [(); 2].map(|()| {
            let parts = run();
            let down = |part: &Part| (part.memory.format(), self.down(case, part));
            parts.iter().map(down).collect::<Vec<_>>()
        });
        if let Err(error) = self.cuda.check() {
            self.fault(case, &error.to_string());
        }
        if first.len() != expected.len() {
            self.fault(case, "another number of results");
        }
        for (i, ((format, a), b)) in first.iter().zip(expected).enumerate() {
            let bar = self.trial.bars[*format as usize];
            let is_rounded = bar == 0.0 && *format == Format::Bf16;
            let b = if is_rounded {
                b.iter().map(|v| rounded(*v)).collect()
            } else {
                b.clone()
            };
            let error = relative_error(a, &b, norm(beside));
            self.worst.set(self.worst.get().max(error));
            if error > bar {
                let difference = first_difference(a, &b);
                self.fault(case, &format!("result {i} is off by {error:.1e}{difference}"));
            }
        }
        let bits = |all: &[(Format, Vec<f32>)]| {
            let numbers = all.iter().flat_map(|(_, values)| values);
            numbers.map(|v| v.to_bits()).collect::<Vec<_>>()
        };
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

/// The number of bf16 that is nearest, the even one of two.
fn rounded(v: f32) -> f32 {
    let bits = v.to_bits();
    if v.is_nan() {
        return v;
    }
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// ‖a − b‖ / ‖b‖, or over `size` where that is larger.
fn relative_error(a: &[f32], b: &[f32], size: f64) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let apart = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    let (off, size) = (apart.sum::<f64>().sqrt(), norm(b).max(size));
    if off == 0.0 {
        0.0
    } else if off.is_nan() || size == 0.0 {
        f64::INFINITY
    } else {
        off / size
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
