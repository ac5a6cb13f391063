//! Rows by index, and their backward; image patches and tokens: [`ops::embedding`](crate::ops::embedding) and what
//! [`vision`](crate::vision) and the tape do about rows.

use super::Cuda;
use super::format::{Format, common, single};
use super::launch::{Kernel, THREADS, args, rows_grid};
use super::memory::{Slice, SliceMut};
use std::ops::Range;

/// The first of rows that stand one after the other, and behind the last.
fn block(index: &[u32]) -> Option<Range<usize>> {
    let first = *index.first()?;
    let successive = index.iter().zip(first..).all(|(row, expected)| *row == expected);
    successive.then(|| first as usize..first as usize + index.len())
}

/// Whether every row of a matrix of `cols` can be named by these indices.
fn named(index: &[u32], rows: usize) -> bool {
    index.iter().all(|&i| (i as usize) < rows)
}

impl Cuda {
    /// `y[i] = words[ids[i]] + table[positions[i]]` for rows of `cols`.
    pub fn embed(
        &self,
        ids: &[u32],
        positions: &[u32],
        words: Slice<'_>,
        table: Slice<'_>,
        cols: usize,
        y: SliceMut<'_>,
    ) {
        let rows = ids.len();
        assert!(
            rows == positions.len() && named(ids, words.len() / cols) && named(positions, table.len() / cols),
            "every token has its word and its position"
        );
        assert!(rows * cols <= y.len(), "the rows leave their slice");
        single("embed", &[&words, &table]);
        let aligned = words.is_aligned() && table.is_aligned() && y.has_aligned_rows(cols);
        let index = self.bring(&[ids, positions].concat());
        let args = args![words, table, &index, &y, rows, cols, aligned];
        let grid = rows_grid(rows, cols, y.format());
        self.launch(Kernel::Embed.of(y.format()), grid, THREADS, args);
    }

    /// `y[i] = x[index[i]]` for rows of `cols`.
    pub fn gather(&self, x: Slice<'_>, index: &[u32], cols: usize, y: SliceMut<'_>) {
        let rows = index.len();
        assert!(named(index, x.len() / cols), "an index leaves its slice");
        assert!(rows * cols <= y.len(), "the rows leave their slice");
        let format = common("gather", &[&x, &y]);
        if let Some(block) = block(index) {
            return self.copy(x.range(block.start * cols..block.end * cols), y.range(0..rows * cols));
        }
        let aligned = x.has_aligned_rows(cols) && y.is_aligned();
        let index = self.bring(index);
        let args = args![x, &index, &y, rows, cols, aligned];
        self.launch(Kernel::Gather.of(format), rows_grid(rows, cols, format), THREADS, args);
    }

    /// `dx[index[i]] += dy[i]` for rows of `cols`: the rows of one target in ascending order. `dx` has the format of `dy` or single
    /// precision.
    pub fn scatter_add(&self, dy: Slice<'_>, index: &[u32], cols: usize, dx: SliceMut<'_>) {
        assert!(index.len() * cols <= dy.len(), "every index has its row");
        assert!(named(index, dx.len() / cols), "an index leaves its slice");
        let kernel = match (dy.format(), dx.format()) {
            (Format::Bf16, Format::F32) => Kernel::ScatterAddWiden.into(),
            _ => Kernel::ScatterAdd.of(common("scatter_add", &[&dy, &dx])),
        };
        if let Some(block) = block(index) {
            return self.add(dy, dx.range(block.start * cols..block.end * cols));
        }
        let (targets, words) = by_target(index);
        let words = self.bring(&words);
        let grid = (targets as u32, cols.div_ceil(THREADS as usize) as u32);
        self.launch(kernel, grid, THREADS, args![dy, &words, targets, &dx, cols]);
    }

    /// Image tokens: the class token before the patches of each sample, plus the position table.
    pub fn tokens(
        &self,
        x: Slice<'_>,
        samples: usize,
        class: Slice<'_>,
        table: Slice<'_>,
        cols: usize,
        y: SliceMut<'_>,
    ) {
        let patches = (x.len() / cols).checked_div(samples).unwrap_or(0);
        let rows = samples * (patches + 1);
        assert!(
            rows * cols <= y.len() && (patches + 1) * cols <= table.len() && cols <= class.len(),
            "every token has its place"
        );
        let format = common("tokens", &[&x, &y]);
        single("tokens", &[&class, &table]);
        let aligned = x.has_aligned_rows(cols) && class.is_aligned() && table.is_aligned() && y.is_aligned();
        let args = args![x, class, table, &y, rows, cols, patches, aligned];
        self.launch(Kernel::Tokens.of(format), rows_grid(rows, cols, format), THREADS, args);
    }

    /// Non-overlapping patches of square images of three channels, row by row, each flattened as (channel, y, x).
    pub fn patches(&self, pixels: Slice<'_>, images: usize, patch: usize, y: SliceMut<'_>) {
        let side = (pixels.len() / images / 3).isqrt();
        assert_eq!(
            3 * side * side * images,
            pixels.len(),
            "images are square and have three channels"
        );
        let (grid, cols) = (side / patch, 3 * patch * patch);
        let rows = images * grid * grid;
        assert!(rows * cols <= y.len(), "the patches leave their slice");
        single("patches", &[&pixels]);
        let format = y.format();
        // Every pack of columns is a part of a line of pixels.
        let whole = patch.is_multiple_of(format.pack()) && side.is_multiple_of(4);
        let aligned = whole && pixels.is_aligned() && y.is_aligned();
        let args = args![pixels, &y, rows, cols, side, patch, aligned];
        self.launch(Kernel::Patches.of(format), rows_grid(rows, cols, format), THREADS, args);
    }
}

/// Rows grouped by target, targets ascending and a target's rows ascending: how many targets; then, in one array, the targets,
/// where the rows of each begin and the last end, and the rows.
fn by_target(index: &[u32]) -> (usize, Vec<u32>) {
    let mut order: Vec<u32> = (0..index.len() as u32).collect();
    order.sort_by_key(|&row| (index[row as usize], row));
    let groups: Vec<&[u32]> = order
        .chunk_by(|a, b| index[*a as usize] == index[*b as usize])
        .collect();
    let mut words: Vec<u32> = groups.iter().map(|group| index[group[0] as usize]).collect();
    let mut start = 0;
    words.push(start);
    for group in &groups {
        start += group.len() as u32;
        words.push(start);
    }
    let targets = groups.len();
    words.extend(&order);
    (targets, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_one_after_the_other_are_a_block() {
        assert_eq!(block(&[3, 4, 5]), Some(3..6));
        assert_eq!(block(&[7]), Some(7..8));
        assert_eq!(block(&[3, 4, 6]), None);
        assert_eq!(block(&[]), None);
    }

    #[test]
    fn rows_are_grouped_by_ascending_target() {
        let (targets, words) = by_target(&[7, 2, 7, 2, 2, 9]);
        assert_eq!(targets, 3);
        assert_eq!(words, [2, 7, 9, 0, 3, 5, 6, 1, 3, 4, 0, 2, 5]);
        assert_eq!(by_target(&[]), (0, vec![0]));
    }
}
