//! Fitting a stored tensor into an entry: the order of its axes, and the two sizes that may differ.

use super::names::Axes;
use crate::params::Vocabulary;
use crate::positions;

/// How a tensor fits an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Element by element.
    Whole,
    /// A position table of another image size.
    Resampled {
        /// Patches along a side in the file.
        from: usize,
        /// Patches along a side in the model.
        to: usize,
    },
    /// A vocabulary without the two added tokens, which are the last: these rows are given.
    Rows(usize),
}

/// The shape of a tensor once its axes are in the model's order; none if it has too few or too many.
pub(super) fn arranged(axes: Axes, shape: &[usize]) -> Option<Vec<usize>> {
    match (axes, shape) {
        (Axes::Same, _) => Some(shape.to_vec()),
        (Axes::Linear, &[i, o]) => Some(vec![o, i]),
        (Axes::ToHeads, &[i, h, d]) => Some(vec![h.checked_mul(d)?, i]),
        (Axes::Heads, &[h, d]) => Some(vec![h.checked_mul(d)?]),
        (Axes::FromHeads, &[h, d, o]) => Some(vec![o, h.checked_mul(d)?]),
        (Axes::Convolution, &[y, x, i, o]) => Some(vec![o, i, y, x]),
        _ => None,
    }
}

/// Brings values into the model's order of axes.
///
/// # Panics
/// If the values are not of this shape.
pub(super) fn arrange(axes: Axes, shape: &[usize], values: Vec<f32>) -> Vec<f32> {
    match (axes, shape) {
        (Axes::Linear, &[i, o]) => transpose(&values, i, o),
        (Axes::ToHeads, &[i, h, d]) => transpose(&values, i, h * d),
        (Axes::FromHeads, &[h, d, o]) => transpose(&values, h * d, o),
        (Axes::Convolution, &[y, x, i, o]) => {
            // (y·x) × i × o → o × i × (y·x)
            let out_first = transpose(&values, y * x * i, o);
            out_first
                .chunks_exact(y * x * i)
                .flat_map(|filter| transpose(filter, y * x, i))
                .collect()
        }
        _ => values,
    }
}

/// rows × columns → columns × rows.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * columns, "values are of their shape");
    let at = |i: usize| values[(i % rows) * columns + i / rows];
    (0..values.len()).map(at).collect()
}

/// Whether a tensor of shape `from` fits the entry `name` of shape `to`.
///
/// # Errors
/// The two shapes, and what may help.
pub(super) fn fit(name: &str, from: &[usize], to: &[usize], vocab: &Vocabulary) -> Result<Fit, String> {
    if from == to {
        return Ok(Fit::Whole);
    }
    if let (true, &[1, rows, width], &[1, wanted, to_width]) = (name.ends_with("pos_embed"), from, to)
        && width == to_width
        && let Some(side) = side(rows)
    {
        let to = (wanted - 1).isqrt();
        return Ok(Fit::Resampled { from: side, to });
    }
    let of_words = (name.ends_with("word_embeddings.weight")
        || name.ends_with("predictions.bias")
        || name.contains(".predictions.decoder."))
        && to.first() == Some(&(vocab.size as usize))
        && from.len() == to.len()
        && from[1..] == to[1..];
    if of_words && from[0] + 2 == to[0] && vocab.dec.min(vocab.enc) as usize == from[0] {
        return Ok(Fit::Rows(from[0]));
    }
    let hint = if of_words {
        ": the vocabulary of the weights has another size; set vocab.file to the vocab.txt they were trained with"
    } else if name.ends_with("pos_embed") {
        ": not a class token and a square of patches"
    } else {
        ": the spec's model has other dimensions"
    };
    Err(format!("has the shape {from:?}, {name} has {to:?}{hint}"))
}

/// Fills an entry, or a third of it.
pub(super) fn fill(fit: Fit, values: &[f32], width: usize, entry: &mut [f32]) {
    match fit {
        Fit::Whole | Fit::Rows(_) => entry[..values.len()].copy_from_slice(values),
        Fit::Resampled { .. } => entry.copy_from_slice(&positions::resample(values, entry.len() / width, width)),
    }
}

/// Patches along a side of a table of one class token and a square grid.
fn side(rows: usize) -> Option<usize> {
    let side = rows.checked_sub(1)?.isqrt();
    (side > 0 && side * side + 1 == rows).then_some(side)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: Vocabulary = Vocabulary {
        size: 12,
        pad: 0,
        cls: 2,
        sep: 3,
        dec: 10,
        enc: 11,
    };

    #[test]
    fn axes_are_brought_into_order() {
        let count = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
        assert_eq!(arrange(Axes::Linear, &[2, 3], count(6)), [0., 3., 1., 4., 2., 5.]);
        // One input of two heads of two, and back.
        assert_eq!(arranged(Axes::ToHeads, &[3, 2, 2]), Some(vec![4, 3]));
        assert_eq!(arrange(Axes::FromHeads, &[2, 1, 3], count(6)), [0., 3., 1., 4., 2., 5.]);
        // Two by one pixels, two channels, two filters: element (y, 0, i, o) is 4y + 2i + o.
        assert_eq!(
            arrange(Axes::Convolution, &[2, 1, 2, 2], count(8)),
            [0., 4., 2., 6., 1., 5., 3., 7.]
        );
        assert_eq!(arranged(Axes::Linear, &[2]), None);
    }

    #[test]
    fn only_position_tables_and_a_plain_vocabulary_may_differ() {
        let of = |name: &str, from: &[usize], to: &[usize]| fit(name, from, to, &VOCAB);
        assert_eq!(
            of("x.pos_embed", &[1, 5, 8], &[1, 10, 8]),
            Ok(Fit::Resampled { from: 2, to: 3 })
        );
        assert!(
            of("x.pos_embed", &[1, 6, 8], &[1, 10, 8])
                .unwrap_err()
                .contains("square")
        );
        assert_eq!(of("x.word_embeddings.weight", &[10, 4], &[12, 4]), Ok(Fit::Rows(10)));
        assert!(
            of("x.word_embeddings.weight", &[11, 4], &[12, 4])
                .unwrap_err()
                .contains("vocab.file")
        );
        assert!(
            of("x.word_embeddings.weight", &[10, 5], &[12, 4])
                .unwrap_err()
                .contains("[10, 5]")
        );
    }
}
