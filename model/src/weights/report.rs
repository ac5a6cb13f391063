//! What became of the tensors of some files of weights, for people and for scripts.

use super::names::Family;
use super::source::Format;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Unused tensors that people are shown for one reason; JSON has them all.
const MAX_SHOWN: usize = 4;

/// What was taken from which file, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The files, in the order in which they were laid over each other.
    pub files: Vec<FileReport>,
    /// Entries of the trained model that no file gave, or gave in part: they start from the seed.
    pub initialised: Vec<Initialised>,
    /// What became of momentum encoders, queues and temperature.
    pub notes: Vec<String>,
}

/// What became of the tensors of one file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Whose names it uses.
    pub family: Family,
    /// Tensors that were taken.
    pub matched: Vec<Matched>,
    /// Tensors that were not.
    pub unused: Vec<Unused>,
}

/// A tensor that was taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Matched {
    /// Its name in the file.
    pub tensor: String,
    /// The entries it gave.
    pub entries: Vec<String>,
    /// What was done to make it fit; empty for nothing.
    pub note: String,
}

/// A tensor that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unused {
    /// Its name in the file.
    pub tensor: String,
    /// Why.
    pub reason: String,
}

/// An entry that starts from the seed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Initialised {
    /// Its official name.
    pub entry: String,
    /// How many of its rows; all of them if no file gave any.
    pub rows: usize,
    /// Rows in all.
    pub of_rows: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            let (taken, all) = (file.matched.len(), file.matched.len() + file.unused.len());
            let path = file.path.display();
            writeln!(
                f,
                "{path}: {}, {}: {taken} of {all} tensors taken",
                file.family, file.format
            )?;
            for matched in file.matched.iter().filter(|matched| !matched.note.is_empty()) {
                writeln!(f, "  {}: {}", matched.tensor, matched.note)?;
            }
            let unused = file
                .unused
                .iter()
                .map(|unused| (unused.tensor.as_str(), unused.reason.clone()));
            let names = |(name, reason, count): (String, String, String)| (reason, format!("{name}{count}"));
            for (reason, names) in by_reason(grouped(unused).into_iter().map(names)) {
                let shown = &names[..names.len().min(MAX_SHOWN)];
                let more = if shown.len() < names.len() { ", …" } else { "" };
                writeln!(f, "  unused: {}{more}: {reason}", shown.join(", "))?;
            }
        }
        let drawn = self
            .initialised
            .iter()
            .map(|drawn| (drawn.entry.as_str(), drawn.part()));
        for (name, part, count) in grouped(drawn) {
            writeln!(f, "initialised from the seed: {name}{count}{part}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// Names under their reasons, in order of their first.
fn by_reason(named: impl Iterator<Item = (String, String)>) -> Vec<(String, Vec<String>)> {
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for (reason, name) in named {
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => reasons.push((reason, vec![name])),
        }
    }
    reasons
}

impl Initialised {
    fn part(&self) -> String {
        if self.rows == self.of_rows {
            String::new()
        } else {
            format!(", the last {} of {} rows", self.rows, self.of_rows)
        }
    }
}

/// Names that differ in numbers only are one line, in order of their first.
fn grouped<'a>(named: impl Iterator<Item = (&'a str, String)>) -> Vec<(String, String, String)> {
    let mut groups: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for (at, (name, what)) in named.enumerate() {
        let numberless = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = name
            .split('.')
            .map(|part| if numberless(part) { "*" } else { part })
            .collect();
        groups.entry((parts.join("."), what)).or_insert((at, 0)).1 += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (first, _))| *first);
    let counted = |count| {
        if count > 1 {
            format!(" ({count})")
        } else {
            String::new()
        }
    };
    groups
        .into_iter()
        .map(|((name, what), (_, count))| (name, what, counted(count)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_one_line() {
        let names = ["b.0.w", "a", "b.1.w", "b.x.w"];
        let groups = grouped(names.into_iter().map(|name| (name, String::new())));
        let shown: Vec<String> = groups.iter().map(|(name, _, count)| format!("{name}{count}")).collect();
        assert_eq!(shown, ["b.*.w (2)", "a", "b.x.w"]);
    }

    #[test]
    fn a_reason_is_said_once_for_a_few_names() {
        let unused = |i: u32| Unused {
            tensor: format!("head{i}"),
            reason: "no part of the model".into(),
        };
        let file = FileReport {
            path: "/w/vit.pth".into(),
            format: Format::Pth,
            family: Family::Vit,
            matched: Vec::new(),
            unused: (0..6).map(unused).collect(),
        };
        let report = Report {
            files: vec![file],
            initialised: Vec::new(),
            notes: vec!["momentum encoder: a copy of the trained model".into()],
        };
        let expected = "/w/vit.pth: ViT of timm or DeiT, PyTorch checkpoint: 0 of 6 tensors taken\n  \
                        unused: head0, head1, head2, head3, …: no part of the model\n\
                        momentum encoder: a copy of the trained model\n";
        assert_eq!(report.to_string(), expected);
    }
}
