//! Steps of the optimiser, momentum averages, and norms of whole buffers.

use super::elementwise::{LENGTHS, update};
use super::{Cases, Ops};
use medley_model::cuda::Format;
use medley_model::ops::digest::digest;
use medley_model::ops::optim::{self, AdamW};
use medley_model::ops::sum::squares_f64;

pub(crate) fn check(ops: &Ops) {
    let cuda = &ops.cuda;
    ops.op("adamw", |c| {
        for n in LENGTHS {
            let step = AdamW::step(3, 1e-3, (0.9, 0.999), 1e-8, 0.05);
            let (p0, g, m0) = (c.noise(n), c.noise(n), c.noise(n));
            let v0: Vec<f32> = c.noise(n).iter().map(|v| v * v).collect();
            let (mut p, mut m, mut v) = (p0.clone(), m0.clone(), v0.clone());
            step.apply(&mut p, &g, 0.3, &mut m, &mut v);
            let g = c.up(&g);
            c.compare(&format!("{n}"), &[p, m, v], || {
                let (mut p, mut m, mut v) = (c.up(&p0), c.up(&m0), c.up(&v0));
                let moments = (m.slice_mut(), v.slice_mut());
                cuda.adamw_all(
                    &[(0..n, step)],
                    p.slice_mut(),
                    g.slice(),
                    0.3,
                    moments.0,
                    moments.1,
                    None,
                );
                vec![p, m, v]
            });
        }
    });
    ops.op("momentum_average", |c| {
        let p = c.noise(LENGTHS[LENGTHS.len() - 1]);
        let on_device = c.up(&p);
        update(
            c,
            |e| optim::momentum_average(e, &p, 0.995),
            |e| cuda.momentum_all(&[(0, 0, e.len())], e, on_device.slice(), 0.995, None),
        );
    });
    ops.op("adamw_all", |c| {
        all_steps(c, &[(0, 1), (4, 768), (772, 3), (780, 40_001), (40_800, 20_000)]);
    });
    ops.op("momentum_all", |c| {
        all_averages(c, &[(0, 8, 1), (4, 12, 768), (772, 1_000, 3), (780, 2_001, 40_001)]);
    });
    ops.op("digest", digests);
    ops.op("squares", |c| {
        for n in LENGTHS.into_iter().chain([(5 << 20) + 1]) {
            let x = c.noise(n);
            let exact = squares_f64(&x);
            let x = c.up(&x);
            // Both in double precision: what differs is far below what a single precision number shows.
            c.compare(&format!("{n}"), &[vec![1.0]], || {
                vec![c.up(&[(1.0 + 1e6 * (cuda.squares(x.slice()) / exact - 1.0)) as f32])]
            });
        }
    });
}

/// Digests of a run, and of two runs, whose places may be beyond 32 bits.
fn digests(c: &Cases) {
    let lens = LENGTHS.into_iter().chain([(1 << 16) - 1, (1 << 16) + 1, (5 << 20) + 1]);
    for (n, place) in lens.zip([0, 7, 1 << 33].into_iter().cycle()) {
        let x = c.noise(n);
        let of = |x: &[f32], place| digest(x.iter().map(|x| x.to_bits()), place);
        let (whole, half) = (of(&x, place), n / 2);
        let two = of(&x[half..], 3).wrapping_add(of(&x[..half], place));
        let x = c.up(&x);
        c.compare(&format!("{n} at {place}"), &[vec![1.0, 1.0]], || {
            let runs = [(x.slice().range(half..n), 3), (x.slice().range(0..half), place)];
            let same = [
                c.cuda.digest(&[(x.slice(), place)]) == whole,
                c.cuda.digest(&runs) == two,
            ];
            vec![c.up(&same.map(|same| if same { 1.0 } else { 0.0 }))]
        });
    }
}

/// Steps of segments with numbers of their own, and a shadow of what they moved.
fn all_steps(c: &Cases, segments: &[(usize, usize)]) {
    let n = segments.iter().map(|(at, len)| at + len).max().unwrap_or(0) + 5;
    let (p0, g, m0) = (c.noise(n), c.noise(n), c.noise(n));
    let v0: Vec<f32> = c.noise(n).iter().map(|v| v * v).collect();
    let segment = |(i, (at, len)): (usize, &(usize, usize))| {
        let step = AdamW::step(3, 1e-3 * (i + 1) as f64, (0.9, 0.999), 1e-8, 0.05);
        (*at..at + len, step)
    };
    let segments: Vec<_> = segments.iter().enumerate().map(segment).collect();
    let (mut p, mut m, mut v) = (p0.clone(), m0.clone(), v0.clone());
    let mut shadow = vec![1.0; n];
    for (range, step) in &segments {
        let [p, m, v] = [&mut p, &mut m, &mut v].map(|all| &mut all[range.clone()]);
        step.apply(p, &g[range.clone()], 0.3, m, v);
        shadow[range.clone()].copy_from_slice(p);
    }
    let g = c.up(&g);
    c.compare("with a shadow", &[p.clone(), m.clone(), v.clone(), shadow], || {
        let (mut p, mut m, mut v) = (c.up(&p0), c.up(&m0), c.up(&v0));
        let mut shadow = c.up_as(&vec![1.0; n], Format::Bf16);
        let (p_all, m_all, v_all) = (p.slice_mut(), m.slice_mut(), v.slice_mut());
        c.cuda
            .adamw_all(&segments, p_all, g.slice(), 0.3, m_all, v_all, Some(shadow.slice_mut()));
        vec![p, m, v, shadow]
    });
    c.compare("without", &[p, m, v], || {
        let (mut p, mut m, mut v) = (c.up(&p0), c.up(&m0), c.up(&v0));
        let (p_all, m_all, v_all) = (p.slice_mut(), m.slice_mut(), v.slice_mut());
        c.cuda.adamw_all(&segments, p_all, g.slice(), 0.3, m_all, v_all, None);
        vec![p, m, v]
    });
}

/// Averages of segments, and a shadow of them.
fn all_averages(c: &Cases, segments: &[(usize, usize, usize)]) {
    let end = |start: fn(&(usize, usize, usize)) -> usize| {
        segments
            .iter()
            .map(|segment| start(segment) + segment.2)
            .max()
            .unwrap_or(0)
    };
    let (e0, p) = (
        c.noise(end(|segment| segment.0) + 5),
        c.noise(end(|segment| segment.1) + 5),
    );
    let (mut e, mut shadow) = (e0.clone(), vec![1.0; e0.len()]);
    for (at, from, len) in segments {
        let part = &mut e[*at..at + len];
        optim::momentum_average(part, &p[*from..from + len], 0.995);
        shadow[*at..at + len].copy_from_slice(part);
    }
    let (p, n) = (c.up(&p), e.len());
    c.compare("with a shadow", &[e, shadow], || {
        let (mut e, mut shadow) = (c.up(&e0), c.up_as(&vec![1.0; n], Format::Bf16));
        let shadow_all = Some(shadow.slice_mut());
        c.cuda
            .momentum_all(segments, e.slice_mut(), p.slice(), 0.995, shadow_all);
        vec![e, shadow]
    });
}
