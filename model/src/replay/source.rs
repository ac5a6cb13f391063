//! Reading tensors by name from a safetensors file, every problem collected.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// A field or tensor that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its name.
    pub name: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    pub(super) fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            message: message.into(),
        }
    }
}

/// Why a step cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not JSON of this form, or not a safetensors file.
    #[error("{file}: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// What its parser says.
        problem: String,
    },
    /// Fields or tensors that do not fit.
    #[error("{file}:{}", Lines(.problems))]
    Misfit {
        /// The file.
        file: String,
        /// All of them; never empty.
        problems: Vec<Problem>,
    },
    /// A result could not be written.
    #[error("{path}: {problem}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

/// One problem a line.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {}: {}", problem.name, problem.message))
    }
}

pub(super) fn refuse_if_any(file: &str, problems: Vec<Problem>) -> Result<(), Error> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Misfit {
        file: file.to_owned(),
        problems,
    })
}

/// A safetensors file that is being read.
pub(super) struct Source<'a> {
    file: &'a str,
    tensors: SafeTensors<'a>,
    asked: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Source<'a> {
    pub(super) fn open(file: &'a str, bytes: &'a [u8]) -> Result<Self, Error> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::Syntax {
            file: file.to_owned(),
            problem: format!("not a safetensors file: {e}"),
        })?;
        Ok(Self {
            file,
            tensors,
            asked: BTreeSet::new(),
            problems: Vec::new(),
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    pub(super) fn refuse(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(name, message));
    }

    /// Finite numbers of this shape; none, and a problem, if there are no such.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        self.doubles(name, shape)
            .map(|values| values.into_iter().map(|v| v as f32).collect())
    }

    /// One finite number.
    pub(super) fn scalar(&mut self, name: &str) -> Option<f64> {
        self.doubles(name, &[])?.pop()
    }

    fn doubles(&mut self, name: &str, shape: &[usize]) -> Option<Vec<f64>> {
        let view = self.view(name)?;
        if !same_shape(view.shape(), shape) {
            self.refuse(name, format!("has shape {:?}, not {shape:?}", view.shape()));
            return None;
        }
        let Some(values) = doubles(&view) else {
            self.refuse(name, format!("holds {:?}, not F32 or F64", view.dtype()));
            return None;
        };
        if values.iter().any(|v| !(*v as f32).is_finite()) {
            self.refuse(name, "holds a number that is not finite in single precision");
            return None;
        }
        Some(values)
    }

    /// Integers of any width, with their shape.
    pub(super) fn integers(&mut self, name: &str) -> Option<(Vec<usize>, Vec<i64>)> {
        let view = self.view(name)?;
        let Some(values) = integers(&view) else {
            self.refuse(name, format!("holds {:?}, not integers", view.dtype()));
            return None;
        };
        Some((view.shape().to_vec(), values))
    }

    /// The only one of some integers.
    pub(super) fn integer(&mut self, name: &str) -> Option<i64> {
        match self.integers(name)? {
            (_, values) if values.len() == 1 => Some(values[0]),
            (shape, _) => {
                self.refuse(name, format!("has shape {shape:?}, not [1]"));
                None
            }
        }
    }

    /// Shape of a tensor that is there.
    pub(super) fn shape(&mut self, name: &str) -> Option<Vec<usize>> {
        self.view(name).map(|view| view.shape().to_vec())
    }

    /// Refuses tensors that nobody asked for, but for those of which `ignored` is true, and reports all problems.
    pub(super) fn finish(mut self, ignored: impl Fn(&str) -> bool) -> Result<(), Error> {
        let mut unknown: Vec<String> = self
            .tensors
            .names()
            .into_iter()
            .filter(|name| !self.asked.contains(*name) && !ignored(name))
            .map(str::to_owned)
            .collect();
        unknown.sort_unstable();
        for name in unknown {
            self.refuse(name, "is no tensor of this model or file");
        }
        refuse_if_any(self.file, self.problems)
    }

    fn view(&mut self, name: &str) -> Option<TensorView<'a>> {
        self.asked.insert(name.to_owned());
        if let Ok(view) = self.tensors.tensor(name) {
            return Some(view);
        }
        self.refuse(name, "is missing");
        None
    }
}

/// A single number may have the shape [] or [1].
fn same_shape(found: &[usize], wanted: &[usize]) -> bool {
    found == wanted || (wanted.is_empty() && found == [1])
}

fn doubles(view: &TensorView) -> Option<Vec<f64>> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => Some(words(data).map(|w| f64::from(f32::from_le_bytes(w))).collect()),
        Dtype::F64 => Some(words(data).map(f64::from_le_bytes).collect()),
        _ => None,
    }
}

fn integers(view: &TensorView) -> Option<Vec<i64>> {
    let data = view.data();
    match view.dtype() {
        Dtype::I64 => Some(words(data).map(i64::from_le_bytes).collect()),
        Dtype::I32 => Some(words(data).map(|w| i64::from(i32::from_le_bytes(w))).collect()),
        Dtype::U32 => Some(words(data).map(|w| i64::from(u32::from_le_bytes(w))).collect()),
        Dtype::U8 | Dtype::BOOL => Some(data.iter().map(|&byte| i64::from(byte)).collect()),
        _ => None,
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.chunks_exact(N)
        .map(|chunk| chunk.try_into().expect("chunks of this size"))
}
