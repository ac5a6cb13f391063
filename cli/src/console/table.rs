//! Tables of aligned columns.

/// Characters that a column keeps that is cut.
const MIN_ROOM: usize = 10;

/// Where a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns
                .iter()
                .map(|(name, align)| ((*name).to_owned(), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Columns separated by two spaces.
    pub(crate) fn plain(&self) -> String {
        let widths = self.widths();
        let head: Vec<String> = self.columns.iter().map(|(name, _)| name.to_uppercase()).collect();
        let line = |cells: &[String]| {
            let padded: Vec<String> = self.padded(cells, &widths);
            padded.join("  ").trim_end().to_owned() + "\n"
        };
        std::iter::once(&head)
            .chain(&self.rows)
            .map(|cells| line(cells))
            .collect()
    }

    /// As [`plain`](Self::plain), with the cells of the last column cut where lines would be wider than `width`, if that is
    /// known.
    pub(crate) fn within(&self, width: Option<usize>) -> String {
        let (Some(width), Some(last)) = (width, self.columns.len().checked_sub(1)) else {
            return self.plain();
        };
        let before: usize = self.widths()[..last].iter().map(|width| width + 2).sum();
        let room = width.saturating_sub(before).max(MIN_ROOM);
        let mut table = self.clone();
        for row in &mut table.rows {
            if row[last].chars().count() > room {
                row[last] = row[last].chars().take(room - 1).chain(['…']).collect();
            }
        }
        table.plain()
    }

    /// A Markdown table.
    pub(crate) fn markdown(&self) -> String {
        let widths = self.widths();
        let head: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let line = |cells: &[String]| format!("| {} |\n", self.padded(cells, &widths).join(" | "));
        let rule = self.columns.iter().zip(&widths).map(|((_, align), width)| match align {
            Align::Left => "-".repeat(*width),
            Align::Right => format!("{}:", "-".repeat(width.saturating_sub(1))),
        });
        let rule = format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
        line(&head) + &rule + &self.rows.iter().map(|cells| line(cells)).collect::<String>()
    }

    fn widths(&self) -> Vec<usize> {
        let cells = |c: usize| self.rows.iter().map(move |row| row[c].chars().count());
        let widths = self.columns.iter().enumerate();
        widths
            .map(|(c, (name, _))| cells(c).max().unwrap_or(0).max(name.chars().count()).max(2))
            .collect()
    }

    fn padded(&self, cells: &[String], widths: &[usize]) -> Vec<String> {
        let columns = cells.iter().zip(&self.columns).zip(widths);
        columns
            .map(|((cell, (_, align)), &width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[("name", Align::Left), ("steps", Align::Right)]);
        table.row(["é".to_owned(), "7".to_owned()]);
        table.row(["pretrain".to_owned(), "1500".to_owned()]);
        table
    }

    #[test]
    fn columns_line_up_by_characters_not_bytes() {
        assert_eq!(sample().plain(), "NAME      STEPS\né             7\npretrain   1500\n");
    }

    #[test]
    fn the_last_column_is_cut_where_the_screen_ends() {
        let mut table = Table::new(&[("stage", Align::Left), ("reason", Align::Left)]);
        table.row(["a".to_owned(), "12345678901234".to_owned()]);
        table.row(["b".to_owned(), "1234567890123".to_owned()]);
        assert_eq!(
            table.within(Some(20)),
            "STAGE  REASON\na      123456789012…\nb      1234567890123\n"
        );
        assert_eq!(table.within(Some(8)).lines().nth(1), Some("a      123456789…"));
        assert_eq!(table.within(None), table.plain());
        assert_eq!(table.within(Some(80)), table.plain());
    }

    #[test]
    fn markdown_says_which_columns_are_numbers() {
        let text = sample().markdown();
        assert_eq!(text.lines().nth(1), Some("| -------- | ----: |"));
    }
}
