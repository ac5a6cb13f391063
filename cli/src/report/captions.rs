//! How true captions are, attribute by attribute.

use medley_data::synth::{Attribute, Scene, parse};
use serde::Serialize;
use std::collections::BTreeMap;

/// Truth of a set of captions. Shares are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CaptionQuality {
    /// Number of captions.
    pub(crate) captions: u64,
    /// Share with every attribute right.
    pub(crate) exact: f64,
    /// Attributes that are wrong or not named, per caption.
    pub(crate) wrong_attributes: f64,
    /// Share of captions that name an attribute rightly, by attribute.
    pub(crate) attributes: BTreeMap<&'static str, f64>,
}

/// Which attributes a caption names rightly, in the order of [`Attribute::ALL`].
pub(crate) fn right(caption: &str, scene: Scene) -> [bool; 5] {
    let named = parse(caption);
    std::array::from_fn(|i| named[i] == Some(scene.get(Attribute::ALL[i])))
}

/// Whether a caption names every attribute rightly.
pub(crate) fn is_exact(caption: &str, scene: Scene) -> bool {
    right(caption, scene) == [true; 5]
}

/// Scores captions against the scenes they should describe.
pub(crate) fn score<'a>(captions: impl Iterator<Item = (&'a str, &'a Scene)>) -> CaptionQuality {
    let (mut count, mut exact, mut by_attribute) = (0u64, 0u64, [0u64; 5]);
    for (caption, scene) in captions {
        let right = right(caption, *scene);
        count += 1;
        exact += u64::from(right == [true; 5]);
        for (total, right) in by_attribute.iter_mut().zip(right) {
            *total += u64::from(right);
        }
    }
    let share = |hits: u64| hits as f64 / count.max(1) as f64;
    let all_right: f64 = by_attribute.iter().copied().map(share).sum();
    CaptionQuality {
        captions: count,
        exact: share(exact),
        wrong_attributes: if count == 0 { 0.0 } else { 5.0 - all_right },
        attributes: Attribute::ALL
            .iter()
            .zip(by_attribute)
            .map(|(a, hits)| (a.name(), share(hits)))
            .collect(),
    }
}

/// A scene in words, for people.
pub(crate) fn in_words(scene: Scene) -> String {
    let word = |a: Attribute| a.words()[scene.get(a) as usize][0];
    format!(
        "{} {} {}, {}, on {}",
        word(Attribute::Size),
        word(Attribute::Colour),
        word(Attribute::Shape),
        word(Attribute::Place),
        word(Attribute::Ground)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENE: Scene = Scene {
        size: 0,
        colour: 4,
        shape: 1,
        place: 4,
        ground: 0,
    };

    #[test]
    fn a_synonym_is_right_and_a_missing_attribute_is_wrong() {
        assert!(is_exact("a tiny violet donut middle on white", SCENE));
        assert_eq!(
            right("a tiny violet donut on white", SCENE),
            [true, true, true, false, true]
        );
    }

    #[test]
    fn quality_counts_captions_and_attributes() {
        let captions = [
            "a small purple ring centre on white",
            "a large purple ring left on white",
        ];
        let quality = score(captions.into_iter().map(|caption| (caption, &SCENE)));
        assert_eq!(
            (quality.captions, quality.exact, quality.wrong_attributes),
            (2, 0.5, 1.0)
        );
        assert_eq!(quality.attributes["size"], 0.5);
        assert_eq!(quality.attributes["colour"], 1.0);
    }

    #[test]
    fn no_captions_are_neither_right_nor_wrong() {
        let quality = score(std::iter::empty());
        assert_eq!(
            (quality.captions, quality.exact, quality.wrong_attributes),
            (0, 0.0, 0.0)
        );
    }

    #[test]
    fn a_scene_in_words_names_every_attribute() {
        assert_eq!(in_words(SCENE), "small purple ring, centre, on white");
        assert!(is_exact(&in_words(SCENE).replace(',', ""), SCENE));
    }
}
