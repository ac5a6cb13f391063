//! The operations of the towers, attention aside.

use crate::case::{Case, check, normals};
use crate::formulas::{gelu, layer_norm, linear, mask};
use candle_core::{Device, Result, Tensor};
use medley_model::ops::dropout::{Dropout, Place};
use medley_model::random::{Purpose, Stream};
use medley_model::tape::Projections;
use std::rc::Rc;

/// Around the blocks of 64 rows that sums over rows are made of.
const ROWS: [usize; 6] = [1, 2, 63, 64, 65, 130];

pub(crate) fn all() -> Vec<Case> {
    let kinds = [linears(), tied(), gelus(), adds(), norms(), dropouts(), drop_paths()];
    let others = [projections(), embeddings(), gathers(), stacks(), patches()];
    kinds.into_iter().chain(others).flatten().collect()
}

fn index(values: &[u32]) -> Result<Tensor> {
    Tensor::new(values, &Device::Cpu)
}

fn linears() -> Vec<Case> {
    let shapes = ROWS
        .into_iter()
        .zip([(64, 128), (600, 2), (70, 33), (128, 70), (1030, 64), (37, 1)]);
    let cases = shapes.flat_map(|(rows, (inner, out))| {
        let case = |name: &str| {
            Case::new(format!("{rows} rows, {inner} to {out}, {name}"))
                .input("x", &[rows, inner])
                .input("w", &[out, inner])
        };
        let biased = case("with bias")
            .input("b", &[out])
            .ours(|t| {
                let (x, w, b) = (t.var("x"), t.id("w"), t.id("b"));
                t.tape.linear(x, w, Some(b))
            })
            .plain(|of| linear(&of("x"), &of("w"), &of("b")));
        let unbiased = case("without bias")
            .ours(|t| {
                let (x, w) = (t.var("x"), t.id("w"));
                t.tape.linear(x, w, None)
            })
            .plain(|of| of("x").matmul(&of("w").t()?));
        [biased, unbiased]
    });
    cases.collect()
}

fn tied() -> Vec<Case> {
    let layers = |rows: usize| {
        Case::new(format!("two layers of one weight, {rows} rows"))
            .input("x", &[rows, 70])
            .input("w", &[70, 70])
            .input("b", &[70])
            .ours(|t| {
                let (x, w, b) = (t.var("x"), t.id("w"), t.id("b"));
                let hidden = t.tape.linear(x, w, Some(b));
                t.tape.linear(hidden, w, Some(b))
            })
            .plain(|of| linear(&linear(&of("x"), &of("w"), &of("b"))?, &of("w"), &of("b")))
    };
    let ids = [3, 0, 3, 11, 40, 3];
    let words = Case::new("a word matrix read by embedding and head")
        .input("word", &[41, 64])
        .input("position", &[6, 64])
        .input("b", &[41])
        .ours(move |t| {
            let (word, position, b) = (t.id("word"), t.id("position"), t.id("b"));
            let x = t.tape.embed(&ids.into(), &[0, 1, 2, 3, 4, 5].into(), word, position);
            t.tape.linear(x, word, Some(b))
        })
        .plain(move |of| {
            let x = (of("word").index_select(&index(&ids)?, 0)? + of("position"))?;
            linear(&x, &of("word"), &of("b"))
        });
    vec![layers(2), layers(65), words]
}

fn projections() -> Vec<Case> {
    let case = |(rows, (inner, out)): (usize, (usize, usize))| {
        let layers = [["q.w", "q.b"], ["k.w", "k.b"], ["v.w", "v.b"]];
        let named = Case::new(format!("{rows} rows, {inner} to 3 × {out}")).input("x", &[rows, inner]);
        let with = |case: Case, [w, b]: [&'static str; 2]| case.input(w, &[out, inner]).input(b, &[out]);
        layers
            .into_iter()
            .fold(named, with)
            .ours(move |t| {
                let [w, b] = [0, 1].map(|i: usize| layers.map(|layer| t.id(layer[i])));
                let x = t.var("x");
                t.tape.project_at_once(x, Projections { w, b })
            })
            .plain(move |of| {
                let each = layers.map(|[w, b]| linear(&of("x"), &of(w), &of(b)));
                Tensor::cat(&each.into_iter().collect::<Result<Vec<_>>>()?, 1)
            })
    };
    let shapes = [(48, 48), (600, 2), (70, 33), (96, 96), (64, 64), (33, 70)];
    ROWS.into_iter().zip(shapes).map(case).collect()
}

fn gelus() -> Vec<Case> {
    let case = |rows: usize, cols: usize| {
        let name = format!("{rows} × {cols}");
        // From −6 to 6, beyond where the error function is clamped.
        let wide = (0..rows * cols).map(|i| (i * 7919 % 12_007) as f32 / 1000.0 - 6.0);
        Case::new(name)
            .with("x", &[rows, cols], wide.collect())
            .ours(|t| {
                let x = t.var("x");
                t.tape.gelu(x)
            })
            .plain(|of| gelu(&of("x")))
    };
    let biased = |rows: usize| {
        Case::new(format!("of a linear layer, {rows} rows"))
            .input("x", &[rows, 40])
            .input("w", &[70, 40])
            .input("b", &[70])
            .ours(|t| {
                let (x, w, b) = (t.var("x"), t.id("w"), t.id("b"));
                let hidden = t.tape.linear(x, w, Some(b));
                t.tape.gelu(hidden)
            })
            .plain(|of| gelu(&linear(&of("x"), &of("w"), &of("b"))?))
    };
    let twice = Case::new("beside what it is of")
        .input("x", &[65, 40])
        .input("w", &[70, 40])
        .input("b", &[70])
        .ours(|t| {
            let (x, w, b) = (t.var("x"), t.id("w"), t.id("b"));
            let hidden = t.tape.linear(x, w, Some(b));
            let active = t.tape.gelu(hidden);
            t.tape.add(active, hidden)
        })
        .plain(|of| {
            let hidden = linear(&of("x"), &of("w"), &of("b"))?;
            gelu(&hidden)? + hidden
        });
    let plain = ROWS.into_iter().map(|rows| case(rows, 70));
    plain.chain(ROWS.into_iter().map(biased)).chain([twice]).collect()
}

fn adds() -> Vec<Case> {
    let residual = |rows: usize| {
        Case::new(format!("{rows} rows"))
            .input("a", &[rows, 70])
            .input("b", &[rows, 70])
            .ours(|t| {
                let (a, b) = (t.var("a"), t.var("b"));
                t.tape.add(a, b)
            })
            .plain(|of| of("a") + of("b"))
    };
    let same = Case::new("a value to itself")
        .input("a", &[65, 33])
        .ours(|t| {
            let a = t.var("a");
            t.tape.add(a, a)
        })
        .plain(|of| of("a") + of("a"));
    let branch = Case::new("a residual branch")
        .input("x", &[65, 70])
        .input("w", &[70, 70])
        .input("b", &[70])
        .ours(|t| {
            let (x, w, b) = (t.var("x"), t.id("w"), t.id("b"));
            let y = t.tape.linear(x, w, Some(b));
            t.tape.add(y, x)
        })
        .plain(|of| linear(&of("x"), &of("w"), &of("b"))? + of("x"));
    let others = [masked(65), masked(130), dropped()].into_iter().chain([same, branch]);
    ROWS.into_iter().map(residual).chain(others).collect()
}

fn places(rows: usize, first: Place) -> Rc<[Place]> {
    let place = |position| Place { position, ..first };
    (first.position..first.position + rows as u32).map(place).collect()
}

/// A linear layer's masked result, before or behind what it is added to.
fn masked(rows: usize) -> Case {
    let stream = Stream::new(1, Purpose::Dropout).at(9);
    let (dropout, first) = (Dropout { stream, rate: 0.3 }, Place { sample: 4, position: 2 });
    let places = places(rows, first);
    Case::new(format!("a masked branch of {rows} rows"))
        .input("x", &[rows, 33])
        .input("a", &[rows, 70])
        .input("w", &[70, 33])
        .input("b", &[70])
        .ours(move |t| {
            let (x, a, w, b) = (t.var("x"), t.var("a"), t.id("w"), t.id("b"));
            let y = t.tape.linear(x, w, Some(b));
            let y = t.tape.dropout(y, Some(dropout), &places);
            t.tape.add(y, a)
        })
        .plain(move |of| {
            let y = linear(&of("x"), &of("w"), &of("b"))?;
            (y * mask(&dropout, first, 0, (rows, 70))?)? + of("a")
        })
}

/// A stream of three samples with two branches, of which samples lose the second.
fn dropped() -> Case {
    let factors: Rc<[f32]> = [0.0, 2.0, 1.25].into();
    let each: Vec<f64> = factors.iter().flat_map(|f| vec![f64::from(*f); 30]).collect();
    Case::new("branches that samples lose")
        .input("a", &[90, 70])
        .input("w", &[70, 70])
        .input("b", &[70])
        .ours(move |t| {
            let (a, w, b) = (t.var("a"), t.id("w"), t.id("b"));
            let y = t.tape.linear(a, w, Some(b));
            let x = t.tape.add(a, y);
            let hidden = t.tape.gelu(x);
            let y = t.tape.linear(hidden, w, Some(b));
            let y = t.tape.drop_path(y, &factors);
            t.tape.add(x, y)
        })
        .plain(move |of| {
            let x = (linear(&of("a"), &of("w"), &of("b"))? + of("a"))?;
            let y = linear(&gelu(&x)?, &of("w"), &of("b"))?;
            x + y.broadcast_mul(&Tensor::from_vec(each.clone(), (90, 1), &Device::Cpu)?)?
        })
}

fn norms() -> Vec<Case> {
    let case = |rows: usize, cols: usize, eps: f32| {
        Case::new(format!("{rows} × {cols}, eps {eps:e}"))
            .input("x", &[rows, cols])
            .input("gamma", &[cols])
            .input("beta", &[cols])
            .ours(move |t| {
                let (x, gamma, beta) = (t.var("x"), t.id("gamma"), t.id("beta"));
                t.tape.layer_norm(x, gamma, beta, eps)
            })
            .plain(move |of| layer_norm(&of("x"), &of("gamma"), &of("beta"), f64::from(eps)))
    };
    let residual = |rows: usize, cols: usize, reads_sum: bool| {
        let what = if reads_sum { "a sum beside its norm" } else { "of a sum" };
        Case::new(format!("{what}, {rows} × {cols}"))
            .input("a", &[rows, cols])
            .input("b", &[rows, cols])
            .input("gamma", &[cols])
            .input("beta", &[cols])
            .ours(move |t| {
                let (a, b, gamma, beta) = (t.var("a"), t.var("b"), t.id("gamma"), t.id("beta"));
                let (sum, y) = t.tape.add_norm(a, b, gamma, beta, 1e-6);
                if reads_sum { t.tape.add(sum, y) } else { y }
            })
            .plain(move |of| {
                let sum = (of("a") + of("b"))?;
                let y = layer_norm(&sum, &of("gamma"), &of("beta"), 1e-6)?;
                if reads_sum { sum + y } else { Ok(y) }
            })
    };
    let shapes = ROWS.into_iter().zip([64, 70, 768, 17, 128, 96]);
    let cases = shapes.flat_map(|(rows, cols)| {
        [
            case(rows, cols, 1e-6),
            case(rows, cols, 1e-12),
            residual(rows, cols, false),
            residual(rows, cols, true),
        ]
    });
    cases.collect()
}

fn dropouts() -> Vec<Case> {
    let case = |rows: usize, cols: usize, rate: f32| {
        let stream = Stream::new(1, Purpose::Dropout).at(4);
        let (dropout, first) = (Dropout { stream, rate }, Place { sample: 2, position: 5 });
        let places = places(rows, first);
        Case::new(format!("{rows} × {cols}, rate {rate}"))
            .input("x", &[rows, cols])
            .ours(move |t| {
                let x = t.var("x");
                t.tape.dropout(x, Some(dropout), &places)
            })
            .plain(move |of| of("x") * mask(&dropout, first, 0, (rows, cols))?)
    };
    ROWS.into_iter()
        .flat_map(|rows| [case(rows, 70, 0.1), case(rows, 33, 0.5)])
        .collect()
}

fn drop_paths() -> Vec<Case> {
    let case = |rows_of: usize, factors: &[f32]| {
        let (rows, factors): (_, Rc<[f32]>) = (rows_of * factors.len(), factors.into());
        let each: Vec<f64> = factors.iter().flat_map(|f| vec![f64::from(*f); rows_of]).collect();
        Case::new(format!("{} samples of {rows_of} rows", factors.len()))
            .input("x", &[rows, 70])
            .ours(move |t| {
                let x = t.var("x");
                t.tape.drop_path(x, &factors)
            })
            .plain(move |of| of("x").broadcast_mul(&Tensor::from_vec(each.clone(), (rows, 1), &Device::Cpu)?))
    };
    let kept = 1.0 / (1.0 - 0.1);
    vec![
        case(1, &[kept]),
        case(13, &[kept, 0.0, kept, kept, 0.0]),
        case(65, &[0.0, kept]),
    ]
}

fn embeddings() -> Vec<Case> {
    let case = |rows: u32, cols: usize| {
        // Many tokens of few words: most are repeated, some absent, also among the positions.
        let ids: Rc<[u32]> = (0..rows).map(|i| i * i % 19).collect();
        let positions: Rc<[u32]> = (0..rows).map(|i| i % 23).collect();
        let (words, places) = (ids.clone(), positions.clone());
        Case::new(format!("{rows} tokens of {cols}"))
            .input("word", &[20, cols])
            .input("position", &[24, cols])
            .ours(move |t| {
                let (word, position) = (t.id("word"), t.id("position"));
                t.tape.embed(&words, &places, word, position)
            })
            .plain(move |of| {
                let words = of("word").index_select(&index(&ids)?, 0)?;
                words + of("position").index_select(&index(&positions)?, 0)?
            })
    };
    ROWS.into_iter().map(|rows| case(rows as u32, 70)).collect()
}

fn gathers() -> Vec<Case> {
    let case = |from: usize, rows: u32| {
        let which: Rc<[u32]> = (0..rows).map(|i| (i * i + 1) % from as u32).collect();
        let ours = which.clone();
        Case::new(format!("{rows} of {from} rows"))
            .input("x", &[from, 70])
            .ours(move |t| {
                let x = t.var("x");
                t.tape.rows(x, &ours)
            })
            .plain(move |of| of("x").index_select(&index(&which)?, 0))
    };
    vec![case(1, 1), case(65, 3), case(7, 64), case(64, 65), case(130, 130)]
}

fn stacks() -> Vec<Case> {
    let case = |above: usize, below: usize| {
        Case::new(format!("{above} rows on {below}"))
            .input("a", &[above, 70])
            .input("b", &[below, 70])
            .ours(|t| {
                let (a, b) = (t.var("a"), t.var("b"));
                t.tape.stack(a, b)
            })
            .plain(|of| Tensor::cat(&[of("a"), of("b")], 0))
    };
    let same = Case::new("a value on itself")
        .input("a", &[65, 33])
        .ours(|t| {
            let a = t.var("a");
            t.tape.stack(a, a)
        })
        .plain(|of| Tensor::cat(&[of("a"), of("a")], 0));
    vec![case(1, 2), case(64, 1), case(65, 130), same]
}

fn patches() -> Vec<Case> {
    let tokens = |samples: usize, patches: usize, cols: usize| {
        let given = move |of: &dyn Fn(&str) -> Tensor, x: Tensor| -> Result<Tensor> {
            let sample =
                |i: usize| Tensor::cat(&[of("class"), x.narrow(0, i * patches, patches)?], 0)? + of("position");
            Tensor::cat(&(0..samples).map(sample).collect::<Result<Vec<_>>>()?, 0)
        };
        let name = format!("{samples} images of {patches} patches");
        let case = Case::new(&name)
            .input("x", &[samples * patches, cols])
            .input("class", &[1, cols])
            .input("position", &[1 + patches, cols])
            .ours(move |t| {
                let (x, class, position) = (t.var("x"), t.id("class"), t.id("position"));
                t.tape.tokens(x, samples, class, position)
            })
            .plain(move |of| given(of, of("x")));
        let embedded = Case::new(format!("{name}, embedded"))
            .fixed(
                "pixels",
                &[samples * patches, 48],
                normals("pixels", samples * patches * 48),
            )
            .input("w", &[cols, 48])
            .input("b", &[cols])
            .input("class", &[1, cols])
            .input("position", &[1 + patches, cols])
            .ours(move |t| {
                let (class, position, w, b) = (t.id("class"), t.id("position"), t.id("w"), t.id("b"));
                let pixels = t.tape.weights().get(t.id("pixels"));
                let x = t.tape.input(pixels.host(), 48);
                let x = t.tape.linear(x, w, Some(b));
                t.tape.tokens(x, samples, class, position)
            })
            .plain(move |of| given(of, linear(&of("pixels"), &of("w"), &of("b"))?));
        [case, embedded]
    };
    let shapes = [(1, 1, 64), (3, 16, 70), (65, 4, 33), (2, 130, 64)];
    shapes.into_iter().flat_map(|(b, n, d)| tokens(b, n, d)).collect()
}

#[test]
fn a_linear_layer_agrees_with_its_formula() {
    check(&linears());
}

#[test]
fn layers_side_by_side_agree_with_their_formula() {
    check(&projections());
}

#[test]
fn a_weight_that_is_read_twice_collects_both_gradients() {
    check(&tied());
}

#[test]
fn gelu_agrees_with_its_formula() {
    check(&gelus());
}

#[test]
fn a_residual_hands_its_gradient_to_both_branches() {
    check(&adds());
}

#[test]
fn layer_norm_agrees_with_its_formula() {
    check(&norms());
}

#[test]
fn dropout_masks_the_gradient_as_it_masks_the_value() {
    check(&dropouts());
}

#[test]
fn a_dropped_path_has_no_gradient_and_a_kept_one_its_factor() {
    check(&drop_paths());
}

#[test]
fn an_embedding_sums_the_gradients_of_a_word_and_of_a_position() {
    check(&embeddings());
}

#[test]
fn a_row_that_is_gathered_twice_sums_both_gradients() {
    check(&gathers());
}

#[test]
fn a_stack_splits_its_gradient() {
    check(&stacks());
}

#[test]
fn image_tokens_agree_with_their_formula() {
    check(&patches());
}
