//! The operations of heads and losses.

use crate::case::{Case, check, normals};
use crate::formulas::{log_softmax, matrix, unit};
use candle_core::{Result, Tensor};
use std::rc::Rc;

const TEMPERATURE: f32 = 0.07;

pub(crate) fn all() -> Vec<Case> {
    let kinds = [units(), logits(), hard_losses(), soft_losses(), contrasts(), sums()];
    kinds.into_iter().flatten().collect()
}

fn units() -> Vec<Case> {
    let case = |rows: usize, cols: usize| {
        // Rows of norms from hundredths to hundreds.
        let mut values = normals("x", rows * cols);
        for (i, row) in values.chunks_mut(cols).enumerate() {
            row.iter_mut().for_each(|v| *v *= 10f32.powi(i as i32 % 5 - 2));
        }
        Case::new(format!("{rows} × {cols}"))
            .with("x", &[rows, cols], values)
            .ours(|t| {
                let x = t.var("x");
                t.tape.l2_norm(x)
            })
            .plain(|of| unit(&of("x")))
    };
    vec![case(1, 64), case(2, 70), case(63, 33), case(65, 256), case(130, 17)]
}

/// `x·[near, far]ᵀ / t`
fn similarities(of: &dyn Fn(&str) -> Tensor) -> Result<Tensor> {
    let keys = Tensor::cat(&[of("near"), of("far")], 0)?;
    of("x").matmul(&keys.t()?)?.broadcast_div(&of("t"))
}

/// A case with queries, two blocks of keys and a temperature.
fn compared(rows: usize, far: usize, width: usize) -> Case {
    let scaled = |name: &str, rows: usize| {
        let norm = (width as f32).sqrt();
        normals(name, rows * width).iter().map(|v| v / norm).collect()
    };
    let mut case = Case::new(format!("{rows} queries, {rows} + {far} keys of {width}"))
        .with("x", &[rows, width], scaled("x", rows))
        .with("t", &[1], vec![TEMPERATURE]);
    for (name, rows) in [("near", rows), ("far", far)] {
        case = case.fixed(name, &[rows, width], scaled(name, rows));
    }
    case
}

fn logits() -> Vec<Case> {
    let case = |rows, far, width| {
        compared(rows, far, width)
            .ours(move |t| {
                let (x, temperature) = (t.var("x"), t.id("t"));
                let (near, far) = t.keys(width);
                t.tape.logits(x, near, far, temperature)
            })
            .plain(similarities)
    };
    vec![case(1, 1, 64), case(2, 63, 33), case(64, 65, 70), case(65, 130, 256)]
}

/// Mean over rows of `−Σ targets · log p`.
fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let rows = logits.dim(0)?;
    ((targets * log_softmax(logits)?)?.sum_all()? / -(rows as f64))?.reshape((1, 1))
}

/// Logits about `height`, the target's higher by `lead`.
fn hard_loss((rows, cols): (usize, usize), smoothing: f32, height: f32, lead: f32) -> Case {
    let targets: Rc<[u32]> = (0..rows).map(|i| (i * i % cols) as u32).collect();
    let mut x: Vec<f32> = normals("x", rows * cols).iter().map(|v| v + height).collect();
    let mut distributions = vec![smoothing / cols as f32; rows * cols];
    for (row, target) in targets.iter().enumerate() {
        let at = row * cols + *target as usize;
        x[at] += lead;
        distributions[at] += 1.0 - smoothing;
    }
    let name = format!("{rows} rows of {cols} classes, smoothing {smoothing}, logits about {height}, lead {lead}");
    Case::new(name)
        .with("x", &[rows, cols], x)
        .ours(move |t| {
            // The loss consumes its logits, so it gets a copy.
            let (x, every) = (t.var("x"), (0..rows as u32).collect::<Vec<_>>());
            let x = t.tape.rows(x, &every.into());
            t.tape.cross_entropy(x, &targets, smoothing)
        })
        .plain(move |of| cross_entropy(&of("x"), &matrix(&distributions, cols)?))
}

fn hard_losses() -> Vec<Case> {
    let shapes = [(1, 2), (2, 70), (63, 33), (64, 2), (65, 1003), (130, 128)];
    let cases = [0.0, 0.1].into_iter().flat_map(|smoothing| {
        // With a lead of 9 a row is eight parts in ten sure. Much surer ones are beyond single precision, in candle too:
        // their gradient is what cancellation leaves of `p − target`, at a lead of 12 good to one part in 10⁵.
        let sure = hard_loss((65, 1003), smoothing, 50.0, 9.0);
        shapes
            .map(|shape| hard_loss(shape, smoothing, 0.0, 0.0))
            .into_iter()
            .chain([sure])
    });
    cases.collect()
}

/// Distributions whose mass is 1, but for rounding.
fn distributions(rows: usize, cols: usize) -> Vec<f32> {
    let mut targets: Vec<f32> = normals("targets", rows * cols).iter().map(|v| v.exp()).collect();
    for row in targets.chunks_mut(cols) {
        let mass: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= mass);
    }
    targets
}

fn soft_losses() -> Vec<Case> {
    let case = |rows: usize, cols: usize| {
        let targets = distributions(rows, cols);
        let ours: Rc<[f32]> = targets.clone().into();
        Case::new(format!("{rows} rows of {cols} classes"))
            .with(
                "x",
                &[rows, cols],
                normals("x", rows * cols).iter().map(|v| 3.0 * v).collect(),
            )
            .ours(move |t| {
                let (x, targets) = (t.var("x"), t.tape.constant(&ours, cols));
                t.tape.soft_cross_entropy(x, targets)
            })
            .plain(move |of| cross_entropy(&of("x"), &matrix(&targets, cols)?))
    };
    vec![
        case(1, 2),
        case(2, 70),
        case(63, 33),
        case(64, 64),
        case(65, 1003),
        case(130, 128),
    ]
}

fn contrasts() -> Vec<Case> {
    let case = |rows: usize, far: usize, width: usize| {
        let targets = distributions(rows, rows + far);
        let ours: Rc<[f32]> = targets.clone().into();
        compared(rows, far, width)
            .ours(move |t| {
                let (x, temperature) = (t.var("x"), t.id("t"));
                let (near, far) = t.keys(width);
                let features = t.tape.l2_norm(x);
                let logits = t.tape.logits(features, near, far, temperature);
                let targets = t.tape.constant(&ours, ours.len() / rows);
                t.tape.soft_cross_entropy(logits, targets)
            })
            .plain(move |of| {
                let features = |name: &str| if name == "x" { unit(&of("x")).unwrap() } else { of(name) };
                cross_entropy(&similarities(&features)?, &matrix(&targets, rows + far)?)
            })
    };
    vec![case(2, 63, 33), case(64, 130, 70), case(65, 1, 256)]
}

fn sums() -> Vec<Case> {
    let case = Case::new("three scalars, one of them twice")
        .input("a", &[1, 1])
        .input("b", &[1, 1])
        .input("c", &[1, 1])
        .ours(|t| {
            let (a, b, c) = (t.var("a"), t.var("b"), t.var("c"));
            t.tape.weighted_sum(&[(a, 0.5), (b, -3.0), (c, 1.0), (a, 0.7)])
        })
        .plain(|of| (of("a") * f64::from(0.5f32 + 0.7))? + ((of("b") * -3.0)? + of("c"))?);
    vec![case]
}

#[test]
fn unit_rows_agree_with_their_formula() {
    check(&units());
}

#[test]
fn logits_agree_with_their_formula_down_to_the_temperature() {
    check(&logits());
}

#[test]
fn cross_entropy_agrees_with_its_formula_smoothed_or_not() {
    check(&hard_losses());
}

#[test]
fn cross_entropy_against_distributions_agrees_with_its_formula() {
    check(&soft_losses());
}

#[test]
fn a_contrast_hands_gradients_to_features_and_temperature() {
    check(&contrasts());
}

#[test]
fn a_weighted_sum_agrees_with_its_formula() {
    check(&sums());
}
