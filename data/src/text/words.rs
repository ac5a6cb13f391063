//! BERT's first split, into words: lower case, no accents; punctuation and CJK characters stand alone.
//!
//! What a character is follows its Unicode general category, as in the reference's slow `BertTokenizer`: ASCII symbols are
//! punctuation too, and control characters, unassigned ones included, vanish and join what they stood between. The
//! categories are those of the `unicode-properties` crate; a character that a later Unicode version assigned is known here
//! and vanishes in a Python that is older.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// What becomes of a character at first sight.
enum Kind {
    /// Part of a word, or punctuation.
    Kept,
    /// A word of its own.
    Ideograph,
    /// Ends a word.
    Space,
    /// Leaves no trace.
    Nothing,
}

/// The words of a text.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    // Each character is lowered by itself, without regard to its place: a final sigma stays an ordinary one.
    for c in text.chars().flat_map(char::to_lowercase) {
        match kind(c) {
            Kind::Kept => word.push(c),
            Kind::Nothing => {}
            Kind::Space => part(&mut word, &mut words),
            Kind::Ideograph => {
                part(&mut word, &mut words);
                word.push(c);
                part(&mut word, &mut words);
            }
        }
    }
    part(&mut word, &mut words);
    words
}

/// Moves a word without its accents to `words`, parted at punctuation. Some symbols become punctuation by losing a stroke,
/// so accents go first.
fn part(word: &mut String, words: &mut Vec<String>) {
    let mut piece = String::new();
    for c in word
        .nfd()
        .filter(|c| c.general_category() != GeneralCategory::NonspacingMark)
    {
        if is_punctuation(c) {
            words.extend(take(&mut piece));
            words.push(c.to_string());
        } else {
            piece.push(c);
        }
    }
    words.extend(take(&mut piece));
    word.clear();
}

fn take(word: &mut String) -> Option<String> {
    (!word.is_empty()).then(|| std::mem::take(word))
}

fn kind(c: char) -> Kind {
    match c {
        ' ' | '\t' | '\n' | '\r' => Kind::Space,
        '\u{fffd}' => Kind::Nothing,
        c if is_cjk(c) => Kind::Ideograph,
        c => match c.general_category_group() {
            GeneralCategoryGroup::Separator => Kind::Space,
            GeneralCategoryGroup::Other => Kind::Nothing,
            _ => Kind::Kept,
        },
    }
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The blocks of CJK ideographs that BERT splits; kana and hangul are letters.
fn is_cjk(c: char) -> bool {
    matches!(
        c as u32,
        0x3400..=0x4dbf
            | 0x4e00..=0x9fff
            | 0xf900..=0xfaff
            | 0x2_0000..=0x2_a6df
            | 0x2_a700..=0x2_b73f
            | 0x2_b740..=0x2_b81f
            | 0x2_b820..=0x2_ceaf
            | 0x2_f800..=0x2_fa1f
    )
}
