//! The optimiser.

use super::{Device, Span, SpanMut};
use crate::ops::optim::{self, AdamW};
use std::collections::BTreeMap;
use std::ops::Range;

impl Device {
    /// One step of AdamW on each range; what is rounded follows.
    pub(crate) fn adamw(
        &self,
        segments: &[(Range<usize>, AdamW)],
        (p, rounded): (SpanMut, Option<SpanMut>),
        (g, scale): (Span, f32),
        [m, v]: [SpanMut; 2],
    ) {
        on!(self, {
            let _ = rounded;
            let (p, g, m, v) = (p.host(), g.host(), m.host(), v.host());
            for (at, step) in segments {
                let (m, v) = (&mut m[at.clone()], &mut v[at.clone()]);
                step.apply(&mut p[at.clone()], &g[at.clone()], scale, m, v);
            }
        }, cuda => {
            let rounded = rounded.map(SpanMut::cuda);
            cuda.adamw_all(segments, p.cuda(), g.cuda(), scale, m.cuda(), v.cuda(), rounded);
        });
    }

    /// The momentum average of each segment: where it begins in `e` and in `p`, and its length; what is rounded follows.
    pub(crate) fn momentum_average(
        &self,
        segments: &[(usize, usize, usize)],
        (e, rounded): (SpanMut, Option<SpanMut>),
        p: Span,
        momentum: f64,
    ) {
        on!(self, {
            let _ = rounded;
            let (e, p) = (e.host(), p.host());
            for &(to, from, len) in segments {
                optim::momentum_average(&mut e[to..to + len], &p[from..from + len], momentum);
            }
        }, cuda => cuda.momentum_all(segments, e.cuda(), p.cuda(), momentum, rounded.map(SpanMut::cuda)));
    }

    /// [`adamw`](Self::adamw), and the [`momentum_average`](Self::momentum_average) of what it leaves; on the processor, a segment
    /// of averages that is a range of the step is made in the same pass over memory.
    pub(crate) fn adamw_and_average(
        &self,
        steps: &[(Range<usize>, AdamW)],
        (p, p_rounded): (SpanMut, Option<SpanMut>),
        (g, scale): (Span, f32),
        [m, v]: [SpanMut; 2],
        segments: &[(usize, usize, usize)],
        (e, e_rounded): (SpanMut, Option<SpanMut>),
        momentum: f64,
    ) {
        on!(self, {
            let _ = (p_rounded, e_rounded);
            let (p, g, m, v, e) = (p.host(), g.host(), m.host(), v.host(), e.host());
            let mut averages: BTreeMap<_, _> = segments.iter().map(|(to, from, len)| ((*from, *len), *to)).collect();
            for (at, step) in steps {
                let (m, v) = (&mut m[at.clone()], &mut v[at.clone()]);
                let (p, g) = (&mut p[at.clone()], &g[at.clone()]);
                if let Some(to) = averages.remove(&(at.start, at.len())) {
                    step.apply_and_average(p, g, scale, m, v, (&mut e[to..to + at.len()], momentum));
                } else {
                    step.apply(p, g, scale, m, v);
                }
            }
            for ((from, len), to) in averages {
                optim::momentum_average(&mut e[to..to + len], &p[from..from + len], momentum);
            }
        }, cuda => {
            let mut p = p.cuda();
            let rounded = p_rounded.map(SpanMut::cuda);
            cuda.adamw_all(steps, p.reborrow(), g.cuda(), scale, m.cuda(), v.cuda(), rounded);
            cuda.momentum_all(segments, e.cuda(), p.as_slice(), momentum, e_rounded.map(SpanMut::cuda));
        });
    }

    pub(crate) fn clamp(&self, y: SpanMut, min: f32, max: f32) {
        on!(self, y.host().iter_mut().for_each(|y| *y = y.clamp(min, max)), cuda => cuda.clamp(y.cuda(), min, max));
    }
}
