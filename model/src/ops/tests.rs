//! Kernels that do the work of two in one pass, against the two.

use super::optim::{self, AdamW};
use super::{blocks, elementwise, norm};

/// Rows and columns around the blocks of 64 rows, shared among threads and not.
const SHAPES: [(usize, usize); 8] = [
    (1, 1),
    (1, 770),
    (2, 33),
    (63, 96),
    (64, 7),
    (65, 768),
    (130, 300),
    (400, 129),
];

/// Numbers without a pattern, which differ by `salt`.
fn noise(len: usize, salt: u64) -> Vec<f32> {
    let at = |i: u64| ((i * 2_654_435_761 + salt * 40_503) % 2003) as f32 / 700.0 - 1.4;
    (0..len as u64).map(at).collect()
}

/// Runs `f` on some numbers of threads; the result must always be `expected`.
fn check<T: PartialEq + Send>(expected: &T, what: &str, f: impl Fn() -> T + Sync) {
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(&f) == *expected, "{what}, {threads} threads");
    }
}

#[test]
fn a_step_with_its_average_has_the_bits_of_one_after_the_other() {
    let unit = optim::UNIT;
    let adamw = AdamW::step(7, 3e-3, (0.9, 0.999), 1e-8, 0.05);
    for len in [0, 1, 63, 1000, unit, unit + 1, 3 * unit - 5, 7 * unit + 333] {
        let [p, g, m, v, e] = [1, 2, 3, 4, 5].map(|salt| noise(len, salt));
        let v: Vec<f32> = v.into_iter().map(f32::abs).collect();
        let state = (p, m, v, e);
        let mut expected = state.clone();
        let (p, m, v, e) = &mut expected;
        adamw.apply(p, &g, 0.25, m, v);
        optim::momentum_average(e, p, 0.995);
        check(&expected, &format!("{len} parameters"), || {
            let mut state = state.clone();
            let (p, m, v, e) = &mut state;
            adamw.apply_and_average(p, &g, 0.25, m, v, (e, 0.995));
            state
        });
    }
}

#[test]
fn a_sum_with_its_norm_has_the_bits_of_one_after_the_other() {
    for (rows, cols) in SHAPES {
        let (a, b) = (noise(rows * cols, 1), noise(rows * cols, 2));
        let (gamma, beta) = (noise(cols, 3), noise(cols, 4));
        let empty = || {
            (
                vec![f32::NAN; rows * cols],
                vec![f32::NAN; rows * cols],
                vec![f32::NAN; 2 * rows],
            )
        };
        let mut expected = empty();
        let (sum, y, stats) = &mut expected;
        elementwise::sum_of(&a, &b, sum);
        norm::layer_norm(sum, &gamma, &beta, 1e-6, y, stats);
        check(&expected, &format!("{rows} × {cols}"), || {
            let mut outputs = empty();
            let (sum, y, stats) = &mut outputs;
            norm::add_norm((&a, &b), (&gamma, &beta, 1e-6), sum, y, stats);
            outputs
        });
    }
}

#[test]
fn the_gradients_of_a_norm_have_the_same_bits_together_and_one_by_one() {
    for (rows, cols) in SHAPES {
        for fresh in [true, false] {
            let [x, dy, residual] = [1, 2, 3].map(|salt| noise(rows * cols, salt));
            let (gamma, mut stats) = (noise(cols, 4), vec![0.0; 2 * rows]);
            norm::layer_norm(&x, &gamma, &gamma, 1e-6, &mut vec![0.0; rows * cols], &mut stats);
            let start = (residual, vec![f32::NAN; 2 * cols]);
            let mut expected = start.clone();
            let (dx, both) = &mut expected;
            norm::layer_norm_params(&x, &stats, &dy, cols, both);
            norm::layer_norm_backward(&x, &stats, &gamma, &dy, dx, fresh);
            check(&expected, &format!("{rows} × {cols}, fresh {fresh}"), || {
                let mut grads = start.clone();
                let (dx, both) = &mut grads;
                norm::layer_norm_gradients(&x, &stats, &gamma, &dy, (dx, fresh), both);
                grads
            });
        }
    }
}

#[test]
fn a_slope_with_the_sums_of_columns_has_the_bits_of_one_after_the_other() {
    for (rows, cols) in SHAPES {
        for fresh in [true, false] {
            let x: Vec<f32> = noise(rows * cols, 1).into_iter().map(|x| 4.0 * x).collect();
            let start = (noise(rows * cols, 2), noise(cols, 3));
            let mut expected = start.clone();
            let (d, sums) = &mut expected;
            elementwise::gelu_backward(&x, d);
            blocks::sum_columns(d, sums, fresh);
            check(&expected, &format!("{rows} × {cols}, fresh {fresh}"), || {
                let mut grads = start.clone();
                let (d, sums) = &mut grads;
                elementwise::gelu_backward_columns(&x, d, sums, fresh);
                grads
            });
        }
    }
}
