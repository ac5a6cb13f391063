//! What a finished demo shows: how well the models retrieve and caption before and after CapFilt, and what CapFilt kept.
//!
//! [`inputs`] reads everything over REST and from the truth beside the generated corpus; [`figures`] and its parts
//! ([`retrieval`], [`captions`], [`filtering`]) are pure; [`mod@markdown`] and [`sheet`] write it down. Figures are those of this
//! run, favourable or not.

mod captions;
mod figures;
mod filtering;
mod inputs;
mod markdown;
mod retrieval;
mod sheet;

pub(crate) use figures::{Places, Report};
pub(crate) use inputs::{Inputs, gather};
pub(crate) use markdown::markdown;

use anyhow::{Context, Result};
use std::path::Path;

/// File names in the report's folder.
pub(crate) const FILES: [&str; 4] = ["report.json", "report.md", "contact-sheet.html", "contact-sheet.png"];

/// Writes all forms of the report into `dir`.
///
/// # Errors
/// Names the file that cannot be written, or the shard that cannot be read.
pub(crate) fn write(report: &Report, inputs: &Inputs, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let cards = sheet::choose(inputs)?;
    let contents: [Vec<u8>; 4] = [
        serde_json::to_vec_pretty(report)?,
        markdown(report).into_bytes(),
        sheet::html(&cards).into_bytes(),
        sheet::png(&cards)?,
    ];
    for (name, bytes) in FILES.iter().zip(contents) {
        let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
