//! What is told of a dataset version once a merge has made it: more than its size, if something about it should be looked at.

use super::Event;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::tasks::{Counts, Set};

/// Nearly nothing is kept of texts of which less than one in so many is.
const NEARLY_NONE: u64 = 100;

/// The events of a version of a job that a `stage` has made; `threshold` is that of CapFilt.
pub fn events(job: JobId, stage: StageId, version: u32, counts: &Counts, threshold: f64) -> Vec<Event> {
    let event = |(kind, message)| Event {
        job: Some(job),
        stage: Some(stage),
        node: None,
        kind,
        message,
    };
    let pairs = of(counts, "pairs");
    let made = format!("dataset version {version} is made: {pairs} pairs");
    // Later versions have the same samples.
    let left_out = (version == 0).then(|| left_out(counts)).flatten();
    let kept = (version > 0).then(|| kept_little(counts, threshold)).flatten();
    let kept = kept.map(|kept| format!("dataset version {version} {kept}"));
    [
        Some(("dataset-made", made)),
        left_out.map(|message| ("samples-left-out", message)),
        kept.map(|message| ("capfilt-kept-little", message)),
    ]
    .into_iter()
    .flatten()
    .map(event)
    .collect()
}

fn of(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// How many samples are left out, by reason and by set.
fn left_out(counts: &Counts) -> Option<String> {
    let broken = counts.iter().filter(|(_, count)| **count > 0);
    let broken = broken.filter_map(|(name, count)| Some((name.strip_prefix("broken.")?, *count)));
    let is_set = |name: &str| [Set::Human, Set::Web, Set::Test].iter().any(|set| set.name() == name);
    let (sets, reasons): (Vec<_>, Vec<_>) = broken.partition(|(name, _)| is_set(name));
    let all = reasons.iter().fold(0_u64, |all, (_, count)| all.saturating_add(*count));
    let listed = |counts: &[(&str, u64)]| {
        let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
        counts.collect::<Vec<_>>().join(", ")
    };
    (all > 0).then(|| {
        format!(
            "{all} broken samples are left out: {}; by set: {}",
            listed(&reasons),
            listed(&sets)
        )
    })
}

/// What CapFilt has kept, if that is nearly nothing of either kind of text.
fn kept_little(counts: &Counts, threshold: f64) -> Option<String> {
    let kinds = ["web", "synthetic"].map(|kind| {
        let (kept, dropped) = (format!("pairs.{kind}"), format!("dropped.{kind}"));
        let (kept, dropped) = (of(counts, &kept), of(counts, &dropped));
        (kind, kept, kept.saturating_add(dropped))
    });
    let is_little = |&(_, kept, all): &(&str, u64, u64)| kept.saturating_mul(NEARLY_NONE) < all;
    kinds.iter().any(is_little).then(|| {
        let kinds = kinds.map(|(kind, kept, all)| format!("{kept} of {all} {kind} texts"));
        format!(
            "keeps {} at capfilt.threshold {threshold}: captioner and filter may not have learned enough; train them longer, or lower \
             the threshold",
            kinds.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(version: u32, counts: &[(&str, u64)]) -> Vec<(&'static str, String)> {
        let counts = counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        let events = events(JobId::generate(), StageId::generate(), version, &counts, 0.5);
        events.into_iter().map(|event| (event.kind, event.message)).collect()
    }

    #[test]
    fn samples_that_are_left_out_are_told_once_by_reason_and_set() {
        let counts = [
            ("pairs", 160),
            ("broken.broken-image", 4),
            ("broken.empty-caption", 5),
            ("broken.human", 2),
            ("broken.test", 0),
            ("broken.web", 7),
        ];
        let made = |version| ("dataset-made", format!("dataset version {version} is made: 160 pairs"));
        let left_out = "9 broken samples are left out: broken-image 4, empty-caption 5; by set: human 2, web 7";
        assert_eq!(told(0, &counts), [made(0), ("samples-left-out", left_out.to_owned())]);
        assert_eq!(told(1, &counts), [made(1)]);
        assert_eq!(told(0, &[("pairs", 160), ("broken.web", 0)]), [made(0)]);
    }

    #[test]
    fn a_version_that_keeps_nearly_nothing_of_either_kind_of_text_is_told_with_figures_and_threshold() {
        let kept = |web: u64, synthetic: u64| {
            let counts = [
                ("pairs.web", web),
                ("dropped.web", 1000 - web),
                ("pairs.synthetic", synthetic),
                ("dropped.synthetic", 500 - synthetic),
            ];
            let mut told = told(1, &counts).into_iter();
            told.find(|(kind, _)| *kind == "capfilt-kept-little")
        };
        let told = |web, synthetic| {
            format!(
                "dataset version 1 keeps {web} of 1000 web texts and {synthetic} of 500 synthetic texts at capfilt.threshold 0.5"
            )
        };
        assert_eq!(kept(10, 5), None);
        for (web, synthetic) in [(9, 500), (1000, 4), (0, 0)] {
            let (_, message) = kept(web, synthetic).unwrap();
            assert!(message.starts_with(&told(web, synthetic)), "{message}");
        }
    }
}
