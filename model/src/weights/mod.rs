//! Weights in the formats people have: reading them into a fresh state, and writing a state for other programs.
//!
//! **In.** A [`Source`] is an open file (safetensors, a PyTorch checkpoint, NumPy's npz) whose tensors are read one at a
//! time. [`names`] says what a tensor is called here; `fit` whether and how it fits; [`Start::load`] lays files over
//! fresh weights and accounts for every tensor and every entry in a [`Report`]. Files are not trusted: nothing in them is
//! executed, no size is allocated before it was compared with the file and the model, and whatever is wrong is an error that
//! names the tensor. [`Description`] finds out what model a file is of.
//!
//! **Out.** [`export`] writes what `transformers` loads with `from_pretrained`, and the released code's own layout.

mod description;
mod dtype;
mod error;
pub mod export;
mod fit;
mod load;
pub mod names;
mod npz;
mod pickle;
mod pth;
mod report;
mod safetensors;
mod shards;
mod source;

pub use description::Description;
pub use dtype::Dtype;
pub use error::Error;
pub use load::Start;
pub use names::Family;
pub use report::{FileReport, Initialised, Matched, Report, Unused};
pub use source::{Format, Source, Stored};
