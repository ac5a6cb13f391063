//! What the filter kept, against the known noise.

use super::captions::{CaptionQuality, is_exact, score};
use super::inputs::Round;
use anyhow::{Result, anyhow};
use medley_data::dataset::OverlayEntry;
use medley_data::synth::{Noise, Truth};
use serde::Serialize;
use std::collections::HashMap;

/// Kinds of noise in the order of the report.
pub(super) const KINDS: [Noise; 4] = [Noise::Right, Noise::HalfTrue, Noise::Other, Noise::Boilerplate];

/// One round of CapFilt. Shares are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Filtering {
    /// The dataset version it made.
    pub(crate) version: u32,
    /// Texts with at least this match probability are kept.
    pub(crate) threshold: f64,
    /// The web's texts.
    pub(crate) web: WebTexts,
    /// The captioner's texts.
    pub(crate) synthetic: SyntheticTexts,
}

/// What became of the web's texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WebTexts {
    /// Texts.
    pub(crate) texts: u64,
    /// Kept.
    pub(crate) kept: u64,
    /// Dropped.
    pub(crate) dropped: u64,
    /// Share of the kept texts that are right.
    pub(crate) precision: f64,
    /// Share of the right texts that are kept.
    pub(crate) recall: f64,
    /// By kind of noise.
    pub(crate) by_noise: Vec<OfKind>,
}

/// Web texts of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct OfKind {
    /// The kind.
    pub(crate) noise: Noise,
    /// Texts of it.
    pub(crate) texts: u64,
    /// Kept.
    pub(crate) kept: u64,
}

/// What became of the captioner's texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SyntheticTexts {
    /// Texts.
    pub(crate) texts: u64,
    /// Kept.
    pub(crate) kept: u64,
    /// Dropped.
    pub(crate) dropped: u64,
    /// Share of the exact texts that are kept.
    pub(crate) exact_kept: f64,
    /// Share of the other texts that are kept.
    pub(crate) inexact_kept: f64,
    /// Truth of all texts.
    pub(crate) before: CaptionQuality,
    /// Truth of the kept texts.
    pub(crate) after: CaptionQuality,
}

/// Truth by shard and key.
pub(super) type Known<'a> = HashMap<(&'a str, &'a str), &'a Truth>;

/// Truth made searchable.
pub(super) fn known(truth: &[Truth]) -> Known<'_> {
    truth.iter().map(|t| ((t.shard.as_str(), t.key.as_str()), t)).collect()
}

/// A captioned sample with its truth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged<'a> {
    /// The shard's file.
    pub(super) file: &'a str,
    /// Position in the shard's index.
    pub(super) sample: usize,
    /// What CapFilt found.
    pub(super) entry: &'a OverlayEntry,
    /// The truth.
    pub(super) truth: &'a Truth,
    threshold: f64,
}

impl Judged<'_> {
    /// Whether the web's text is in the version.
    pub(super) fn keeps_web(&self) -> bool {
        f64::from(self.entry.web_probability) >= self.threshold
    }

    /// Whether the captioner's text is in the version.
    pub(super) fn keeps_synthetic(&self) -> bool {
        f64::from(self.entry.synthetic_probability) >= self.threshold && !self.entry.synthetic.is_empty()
    }

    /// Whether the captioner's text is right in every attribute.
    pub(super) fn is_exact(&self) -> bool {
        is_exact(&self.entry.synthetic, self.truth.scene)
    }
}

/// Every captioned sample of a round.
///
/// # Errors
/// Names a sample that the truth does not know.
pub(super) fn judged<'a>(round: &'a Round, known: &Known<'a>) -> Result<Vec<Judged<'a>>> {
    let mut all = Vec::new();
    for shard in &round.shards {
        for (sample, (found, entry)) in shard.index.samples.iter().zip(&shard.overlay.entries).enumerate() {
            let truth = known.get(&(shard.file.as_str(), found.key.as_str()));
            let truth = truth.ok_or_else(|| anyhow!("no truth is known about {} in {}", found.key, shard.file))?;
            all.push(Judged {
                file: &shard.file,
                sample,
                entry,
                truth,
                threshold: round.threshold,
            });
        }
    }
    Ok(all)
}

/// The figures of a round.
///
/// # Errors
/// As for [`judged`].
pub(super) fn figures(round: &Round, web: &[Truth]) -> Result<Filtering> {
    let all = judged(round, &known(web))?;
    Ok(Filtering {
        version: round.dataset.version,
        threshold: round.threshold,
        web: web_texts(&all),
        synthetic: synthetic_texts(&all),
    })
}

fn count<'a>(all: &[Judged<'a>], of: impl Fn(&Judged<'a>) -> bool) -> u64 {
    all.iter().filter(|judged| of(judged)).count() as u64
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn web_texts(all: &[Judged]) -> WebTexts {
    let of_kind = |noise: Noise| OfKind {
        noise,
        texts: count(all, |j| j.truth.noise == noise),
        kept: count(all, |j| j.truth.noise == noise && j.keeps_web()),
    };
    let (texts, kept) = (all.len() as u64, count(all, Judged::keeps_web));
    let right = of_kind(Noise::Right);
    WebTexts {
        texts,
        kept,
        dropped: texts - kept,
        precision: share(right.kept, kept),
        recall: share(right.kept, right.texts),
        by_noise: KINDS.map(of_kind).to_vec(),
    }
}

fn synthetic_texts(all: &[Judged]) -> SyntheticTexts {
    let (texts, kept) = (all.len() as u64, count(all, Judged::keeps_synthetic));
    let exact = count(all, Judged::is_exact);
    let exact_kept = count(all, |j| j.is_exact() && j.keeps_synthetic());
    SyntheticTexts {
        texts,
        kept,
        dropped: texts - kept,
        exact_kept: share(exact_kept, exact),
        inexact_kept: share(kept - exact_kept, texts - exact),
        before: score(all.iter().map(|j| (j.entry.synthetic.as_str(), &j.truth.scene))),
        after: score(
            all.iter()
                .filter(|j| j.keeps_synthetic())
                .map(|j| (j.entry.synthetic.as_str(), &j.truth.scene)),
        ),
    }
}
