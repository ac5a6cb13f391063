//! Attention of texts that grow, and what keeps their keys.

use super::{Cases, Ops};
use medley_model::ops::attention::{Columns, Inputs};
use medley_model::ops::decode::{self, Blocks};

/// Largest relative error with bf16: keys and values are what bf16 holds, and the result is rounded once.
const BAR: f64 = 6e-3;

/// Heads, columns of a head, texts, queries of each, and rows that they have or read: ViT-B at 224 and 384 pixels, small presets, odd heads.
const SHAPES: [((usize, usize), usize, usize, usize); 9] = [
    ((12, 64), 5, 1, 197),
    ((12, 64), 3, 4, 577),
    ((12, 64), 7, 1, 1),
    ((12, 64), 6, 3, 20),
    ((16, 64), 2, 1, 39),
    ((4, 24), 9, 2, 17),
    ((4, 8), 4, 1, 65),
    ((3, 5), 5, 3, 130),
    ((1, 33), 2, 1, 64),
];

pub(crate) fn check(ops: &Ops) {
    ops.op("attend_blocks", blocks);
    ops.bf16("attend_blocks", BAR, blocks);
    ops.op("attend_kept", kept);
    ops.bf16("attend_kept", BAR, kept);
    ops.both_exact("pick", pick);
}

fn inputs([q, k, v]: [&[f32]; 3], (heads, dim): (usize, usize)) -> Inputs<&[f32]> {
    let columns = |data| Columns {
        data,
        stride: heads * dim,
        offset: 0,
    };
    Inputs {
        q: columns(q),
        k: columns(k),
        v: columns(v),
        heads,
        dim,
    }
}

/// Texts that read images, several of them the same one.
fn blocks(c: &Cases) {
    for ((heads, dim), texts, per, tokens) in SHAPES {
        let width = heads * dim;
        let images = texts.div_ceil(2);
        let of: Vec<u32> = (0..texts as u32).map(|text| text / 2).collect();
        let blocks = Blocks {
            of: &of,
            every: tokens,
            per,
            seen: tokens,
            grows: false,
        };
        let (q, k, v) = (
            c.noise(texts * per * width),
            c.noise(images * tokens * width),
            c.noise(images * tokens * width),
        );
        let mut y = vec![0.0; q.len()];
        decode::attend(&inputs([&q, &k, &v], (heads, dim)), &blocks, &mut y);
        let [q, k, v] = [q, k, v].map(|values| c.up(&values));
        c.compare(&format!("{heads} × {dim}, {texts} × {per} of {tokens}"), &[y], || {
            let mut y = c.poison(texts * per * width);
            let x = [q.slice(), k.slice(), v.slice()];
            c.cuda.attend_blocks(x, &blocks, (heads, dim), y.slice_mut());
            vec![y]
        });
    }
}

/// Texts that read their own tokens, the new ones among them.
fn kept(c: &Cases) {
    for ((heads, dim), texts, per, taken) in SHAPES {
        let (width, taken) = (heads * dim, taken - 1);
        let every = taken + per + 2;
        let of: Vec<u32> = (0..texts as u32).collect();
        let blocks = Blocks {
            of: &of,
            every,
            per,
            seen: taken + 1,
            grows: true,
        };
        let [q, k, v] = [(); 3].map(|()| c.noise(texts * per * width));
        let starts = [(); 2].map(|()| c.noise(texts * every * width));
        let [mut keys, mut values] = starts.clone();
        decode::keep(&k, &mut keys, (every, taken), (texts, per), width);
        decode::keep(&v, &mut values, (every, taken), (texts, per), width);
        let mut y = vec![0.0; q.len()];
        decode::attend(&inputs([&q, &keys, &values], (heads, dim)), &blocks, &mut y);
        let [q, k, v] = [q, k, v].map(|values| c.up(&values));
        let case = format!("{heads} × {dim}, {texts} × {per} behind {taken}");
        let expected = [y, keys, values];
        c.compare(&case, &expected, || {
            let mut y = c.poison(texts * per * width);
            let [mut keys, mut values] = starts.each_ref().map(|values| c.up(values));
            let (x, to) = (
                [q.slice(), k.slice(), v.slice()],
                [keys.slice_mut(), values.slice_mut()],
            );
            c.cuda.attend_kept(x, to, (&blocks, None), (heads, dim), y.slice_mut());
            vec![y, keys, values]
        });
        if per > 1 {
            continue;
        }
        // The same, where the device alone knows how many rows there are.
        let lengths = c.up_single(&vec![f32::from_bits(taken as u32 + 1); texts]);
        let unknown = Blocks { seen: 1, ..blocks };
        c.compare(&format!("{case}, as it sees"), &expected, || {
            let mut y = c.poison(texts * width);
            let [mut keys, mut values] = starts.each_ref().map(|values| c.up(values));
            let x = [q.slice(), k.slice(), v.slice()];
            let (to, known) = ([keys.slice_mut(), values.slice_mut()], Some(lengths.slice()));
            c.cuda
                .attend_kept(x, to, (&unknown, known), (heads, dim), y.slice_mut());
            vec![y, keys, values]
        });
    }
}

fn pick(c: &Cases) {
    for (blocks, every, taken, width) in [
        (1, 1, 1, 1),
        (3, 5, 2, 7),
        (4, 20, 20, 96),
        (9, 21, 6, 768),
        (2, 3, 0, 8),
    ] {
        let x = c.noise(blocks * every * width);
        let parents = c.indices(blocks + 2, blocks);
        let start = c.noise(parents.len() * every * width);
        let mut y = start.clone();
        decode::pick(&x, &parents, (every, taken), width, &mut y);
        let x = c.up(&x);
        c.compare(&format!("{taken} of {every} × {width}"), &[y], || {
            let mut y = c.up(&start);
            c.cuda.pick(x.slice(), &parents, (every, taken), width, y.slice_mut());
            vec![y]
        });
    }
}
