//! Kernels that do the work of two in one pass, against the two.

use super::optim::{self, AdamW};

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
