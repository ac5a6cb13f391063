//! WordPiece vocabularies out of a Hugging Face `tokenizer.json`.

use super::{BadVocabulary, Vocabulary};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The parts of the file that decide about ids.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Normalizer>,
    pre_tokenizer: Option<Kind>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Normalizer {
    #[serde(rename = "type")]
    kind: String,
    clean_text: Option<bool>,
    handle_chinese_chars: Option<bool>,
    strip_accents: Option<bool>,
    lowercase: Option<bool>,
}

#[derive(Deserialize)]
struct Model {
    /// Absent from files of old versions.
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    max_input_chars_per_word: Option<u32>,
    #[serde(default)]
    vocab: serde_json::Value,
}

impl Vocabulary {
    /// Reads a `tokenizer.json` of an uncased BERT: its vocabulary with the tokens added to it. What would split texts
    /// otherwise than [`Tokenizer`](super::Tokenizer) does is refused by the field's name.
    ///
    /// # Errors
    /// [`BadVocabulary`]
    pub fn parse_json(text: &str) -> Result<Self, BadVocabulary> {
        let file: File = serde_json::from_str(text).map_err(|e| BadVocabulary::Json(e.to_string()))?;
        file.check()?;
        let vocab: BTreeMap<String, u32> =
            serde_json::from_value(file.model.vocab).map_err(|e| BadVocabulary::Json(format!("model.vocab: {e}")))?;
        let added = file.added_tokens.into_iter().map(|token| (token.id, token.content));
        let mut tokens: BTreeMap<u32, String> = BTreeMap::new();
        for (id, token) in vocab.into_iter().map(|(token, id)| (id, token)).chain(added) {
            let there = tokens.entry(id).or_insert_with(|| token.clone());
            if *there != token {
                return Err(BadVocabulary::Ids(format!("{id} is both {there:?} and {token:?}")));
            }
        }
        // Sorted and distinct ids have no gap if the last one is their number less one.
        match tokens.keys().zip(0..).find(|(id, place)| **id != *place) {
            Some((_, missing)) => Err(BadVocabulary::Ids(format!("none is {missing}"))),
            None => Self::from_tokens(tokens.into_values().collect()),
        }
    }
}

impl File {
    fn check(&self) -> Result<(), BadVocabulary> {
        let normalizer = self.normalizer.as_ref();
        let flag = |read: fn(&Normalizer) -> Option<bool>| normalizer.and_then(read).map(|flag| flag.to_string());
        let name = |name: &Option<String>| name.clone();
        let model = &self.model;
        let rules: [(&'static str, Option<String>, &'static str); 10] = [
            (
                "model.type",
                Some(model.kind.clone().unwrap_or_else(|| "WordPiece".into())),
                "WordPiece",
            ),
            ("model.unk_token", name(&model.unk_token), "[UNK]"),
            (
                "model.continuing_subword_prefix",
                name(&model.continuing_subword_prefix),
                "##",
            ),
            (
                "model.max_input_chars_per_word",
                model.max_input_chars_per_word.map(|n| n.to_string()),
                "100",
            ),
            ("normalizer.type", normalizer.map(|n| n.kind.clone()), "BertNormalizer"),
            ("normalizer.clean_text", flag(|n| n.clean_text), "true"),
            (
                "normalizer.handle_chinese_chars",
                flag(|n| n.handle_chinese_chars),
                "true",
            ),
            ("normalizer.lowercase", flag(|n| n.lowercase), "true"),
            // Not said means: as `lowercase` says.
            (
                "normalizer.strip_accents",
                flag(|n| Some(n.strip_accents.unwrap_or(true))),
                "true",
            ),
            (
                "pre_tokenizer.type",
                self.pre_tokenizer.as_ref().map(|p| p.kind.clone()),
                "BertPreTokenizer",
            ),
        ];
        let wrong = rules
            .into_iter()
            .find(|(_, found, needed)| found.as_deref() != Some(*needed));
        wrong.map_or(Ok(()), |(field, found, needed)| {
            Err(BadVocabulary::Kind {
                field,
                found: found.unwrap_or_else(|| "missing".into()),
                needed,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn file() -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [
                {"id": 0, "content": "[PAD]", "special": true}, {"id": 5, "content": "[ENC]", "special": true}
            ],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100,
                      "vocab": {"red": 4, "[SEP]": 3, "[CLS]": 2, "[UNK]": 1, "[PAD]": 0}}
        })
    }

    fn refusal(pointer: &str, value: Value) -> String {
        let mut file = file();
        *file.pointer_mut(pointer).unwrap() = value;
        Vocabulary::parse_json(&file.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn vocabulary_and_added_tokens_keep_their_ids() {
        let vocabulary = Vocabulary::parse_json(&file().to_string()).unwrap();
        let ids = ["[PAD]", "[SEP]", "red", "[ENC]", "[DEC]"].map(|token| vocabulary.id(token));
        assert_eq!(ids, [Some(0), Some(3), Some(4), Some(5), Some(6)]);
    }

    #[test]
    fn what_splits_otherwise_is_refused_by_its_field() {
        for (pointer, value) in [
            ("/model/type", json!("BPE")),
            ("/model/continuing_subword_prefix", json!("@@")),
            ("/normalizer/lowercase", json!(false)),
            ("/normalizer/strip_accents", json!(false)),
            ("/normalizer", Value::Null),
            ("/pre_tokenizer/type", json!("Whitespace")),
        ] {
            let refusal = refusal(pointer, value);
            let field = pointer[1..].replace('/', ".");
            assert!(
                refusal.contains(&field) && refusal.contains("uncased BERT"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn ids_with_a_gap_or_used_twice_are_refused() {
        assert!(refusal("/model/vocab/red", json!(9)).contains("none is 4"));
        assert!(refusal("/added_tokens/1/id", json!(4)).contains("4 is both"));
    }
}
