//! Token ids, cleaned captions and decoded texts equal what transformers' slow `BertTokenizer` and the reference's caption
//! cleaning make of nasty texts (`golden/make.py`).
#![allow(clippy::unwrap_used, missing_docs)]

use medley_data::text::{Tokenizer, Vocabulary, clean, words};
use medley_protocol::spec::Specials;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    text: String,
    reference: Vec<u32>,
    fixed: Vec<u32>,
    encoded: Vec<u32>,
    clean: String,
    decoded: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/texts.json")).unwrap()
}

fn tokenizer(specials: Specials) -> Tokenizer {
    Tokenizer::new(Vocabulary::parse(include_str!("golden/vocab.txt")).unwrap(), specials)
}

/// A non-spacing mark when the golden was written, and a spacing one since Unicode 16.
const CHANGED: char = '\u{1171e}';

/// Every case in which something differs, all at once.
fn assert_all<T: PartialEq + std::fmt::Debug>(ours: impl Fn(&Case) -> T, golden: impl Fn(&Case) -> T) {
    let wrong = cases().into_iter().filter(|case| ours(case) != golden(case));
    let wrong: Vec<String> = wrong
        .map(|case| format!("{:?}: {:?} instead of {:?}", case.text, ours(&case), golden(&case)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ids_with_special_tokens_in_texts_are_the_slow_tokenizers() {
    let tokenizer = tokenizer(Specials::Reference);
    assert_all(|case| tokenizer.pieces(&case.text), |case| case.reference.clone());
    assert_all(|case| tokenizer.encode(&case.text, 12), |case| case.encoded.clone());
}

#[test]
fn ids_without_special_tokens_in_texts_are_the_slow_tokenizers_of_plain_text() {
    let tokenizer = tokenizer(Specials::Fixed);
    assert_all(|case| tokenizer.pieces(&case.text), |case| case.fixed.clone());
    assert_all(|case| tokenizer.decode(&case.fixed), |case| case.decoded.clone());
}

#[test]
fn captions_are_cleaned_as_by_the_reference() {
    assert_all(|case| clean(&case.text), |case| case.clean.clone());
}

#[test]
fn every_character_is_split_as_by_the_slow_tokenizer() {
    let mut wrong = Vec::new();
    for line in include_str!("golden/characters.txt").lines().skip(1) {
        let mut numbers = line.split(' ').map(|number| u64::from_str_radix(number, 16).unwrap());
        let [first, last, golden] = std::array::from_fn(|_| numbers.next().unwrap());
        let chars = (first as u32..=last as u32).map(|point| char::from_u32(point).unwrap());
        let text: String = chars.map(split).collect();
        if fnv(&text) != golden {
            wrong.push(format!("{first:x}..={last:x}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The words of a character between two letters, as a line.
fn split(c: char) -> String {
    if c == CHANGED {
        return "ab\n".into();
    }
    words(&format!("a{c}b")).join(" ") + "\n"
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
