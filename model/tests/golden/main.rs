//! The model against PyTorch: forward passes, losses, gradients, whole steps, optimiser, schedules and sampling.
//!
//! `make_goldens.py` beside this file made the numbers, in double precision, from a model written in plain PyTorch; `make parity`
//! makes them again. Bars are norms, never elementwise ratios: what is zero in exact arithmetic has no ratio.
#![allow(clippy::unwrap_used, missing_docs)]

mod base;
mod dropout;
mod finetune;
mod parts;
mod small;
mod support;
