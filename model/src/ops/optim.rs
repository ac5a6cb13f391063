//! AdamW and the momentum average: one pass over flat memory each, or together.

use super::blocks::for_rows;
use super::meter::{self, Kind};

/// One step of AdamW with decoupled weight decay (Loshchilov and Hutter, algorithm 2, as torch computes it).
///
/// Whatever does not depend on the element is computed in double precision and rounded once: 1 − β₂ of a β₂ that was already
/// rounded would be wrong in its fifth digit, and every update with it.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate over 1 − β₁ᵗ.
    pub(crate) step: f32,
    /// What weight decay leaves of a parameter.
    pub(crate) keep: f32,
    /// 1 − β₁.
    pub(crate) new1: f32,
    /// β₂.
    pub(crate) beta2: f32,
    /// 1 − β₂.
    pub(crate) new2: f32,
    /// √(1 − β₂ᵗ).
    pub(crate) correction2_sqrt: f32,
    /// ε.
    pub(crate) eps: f32,
}

impl AdamW {
    /// The step with number `t`, counted from 1.
    pub fn step(t: u64, lr: f64, betas: (f64, f64), eps: f64, decay: f64) -> Self {
        let t = t as f64;
        Self {
            step: (lr / (1.0 - libm::pow(betas.0, t))) as f32,
            keep: (1.0 - lr * decay) as f32,
            new1: (1.0 - betas.0) as f32,
            beta2: betas.1 as f32,
            new2: (1.0 - betas.1) as f32,
            correction2_sqrt: libm::sqrt(1.0 - libm::pow(betas.1, t)) as f32,
            eps: eps as f32,
        }
    }

    /// Moves parameters `p` by gradient `g · scale` with moments `m` and `v`.
    pub fn apply(&self, p: &mut [f32], g: &[f32], scale: f32, m: &mut [f32], v: &mut [f32]) {
        let _kind = meter::kind(Kind::AdamW);
        let moved = Moved { p, g, m, v, e: &mut [] };
        moved.for_units(&|Moved { p, g, m, v, .. }| self.unit(p, g, scale, m, v));
    }

    /// [`apply`](Self::apply), and the [`momentum_average`] `e` of what it moved, in one pass over memory.
    pub fn apply_and_average(
        &self,
        p: &mut [f32],
        g: &[f32],
        scale: f32,
        m: &mut [f32],
        v: &mut [f32],
        (e, momentum): (&mut [f32], f64),
    ) {
        assert_eq!(e.len(), p.len(), "every parameter has its average");
        let _kind = meter::kind(Kind::AdamW);
        let average = Average::new(momentum);
        Moved { p, g, m, v, e }.for_units(&|Moved { p, g, m, v, e }| {
            self.unit(p, g, scale, m, v);
            let _kind = meter::kind(Kind::Average);
            average.unit(e, p);
        });
    }

    #[inline]
    fn unit(&self, p: &mut [f32], g: &[f32], scale: f32, m: &mut [f32], v: &mut [f32]) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * scale;
            *m = (g - *m).mul_add(self.new1, *m);
            *v = (g * g).mul_add(self.new2, *v * self.beta2);
            let denominator = v.sqrt() / self.correction2_sqrt + self.eps;
            *p = (*p * self.keep) - self.step * (*m / denominator);
        }
    }
}

/// `e = momentum·e + (1 − momentum)·p`.
pub fn momentum_average(e: &mut [f32], p: &[f32], momentum: f64) {
    let _kind = meter::kind(Kind::Average);
    const STRIP: usize = 256;
    let average = Average::new(momentum);
    for_rows(e, STRIP, |row, e| average.unit(e, &p[row * STRIP..][..e.len()]));
}

/// A momentum average, with what does not depend on the element computed in double precision and rounded once.
#[derive(Clone, Copy)]
struct Average {
    old: f32,
    new: f32,
}

impl Average {
    fn new(momentum: f64) -> Self {
        Self {
            old: momentum as f32,
            new: (1.0 - momentum) as f32,
        }
    }

    #[inline]
    fn unit(self, e: &mut [f32], p: &[f32]) {
        for (e, p) in e.iter_mut().zip(p) {
            *e = e.mul_add(self.old, p * self.new);
        }
    }
}

/// Elements of a unit of work: its five buffers stay in the second cache of any processor.
pub(super) const UNIT: usize = 1 << 13;

/// Some parameters with what a step reads and changes of them. `e` is empty where no average is made.
struct Moved<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    e: &'a mut [f32],
}

impl Moved<'_> {
    /// Calls `f` for each unit.
    fn for_units(self, f: &(impl Fn(Moved) + Sync)) {
        if self.p.len() <= UNIT {
            return f(self);
        }
        let (head, tail) = self.halves();
        if rayon::current_num_threads() > 1 {
            rayon::join(|| head.for_units(f), || tail.for_units(f));
        } else {
            head.for_units(f);
            tail.for_units(f);
        }
    }

    /// Two parts, the first of whole units.
    fn halves(self) -> (Self, Self) {
        let at = self.p.len().div_ceil(UNIT) / 2 * UNIT;
        let (g, g_tail) = self.g.split_at(at);
        let [(p, p_tail), (m, m_tail), (v, v_tail)] = [self.p, self.m, self.v].map(|part| part.split_at_mut(at));
        let (e, e_tail) = self.e.split_at_mut(at.min(self.e.len()));
        let tail = Self {
            p: p_tail,
            g: g_tail,
            m: m_tail,
            v: v_tail,
            e: e_tail,
        };
        (Self { p, g, m, v, e }, tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adamw_agrees_with_the_formula_in_double_precision() {
        let (mut p, mut m, mut v) = (vec![1.0f32, -2.0, 0.5], vec![0.0; 3], vec![0.0; 3]);
        let (mut p64, mut m64, mut v64) = (vec![1.0f64, -2.0, 0.5], vec![0.0; 3], vec![0.0; 3]);
        for t in 1..=10u64 {
            let g: Vec<f32> = (0..3).map(|i| ((t * 7 + i * 3) % 5) as f32 - 2.0).collect();
            AdamW::step(t, 1e-2, (0.9, 0.999), 1e-8, 0.5).apply(&mut p, &g, 1.0, &mut m, &mut v);
            for i in 0..3 {
                let g = f64::from(g[i]);
                p64[i] *= 1.0 - 1e-2 * 0.5;
                m64[i] = 0.9 * m64[i] + 0.1 * g;
                v64[i] = 0.999 * v64[i] + 0.001 * g * g;
                let (mh, vh) = (
                    m64[i] / (1.0 - 0.9f64.powi(t as i32)),
                    v64[i] / (1.0 - 0.999f64.powi(t as i32)),
                );
                p64[i] -= 1e-2 * mh / (vh.sqrt() + 1e-8);
            }
        }
        for i in 0..3 {
            assert!(
                (f64::from(p[i]) - p64[i]).abs() < 1e-5 * p64[i].abs().max(1e-2),
                "{} {}",
                p[i],
                p64[i]
            );
        }
    }
}
