//! WordPiece vocabularies: read from a BERT `vocab.txt` or `tokenizer.json`, or trained on the words of a corpus.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How often each word occurs, after the tokenizer's splitting.
pub type WordCounts = BTreeMap<String, u64>;

/// The first lines of a trained vocabulary.
const SPECIAL: [&str; 6] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "[ENC]"];
/// Special to BERT, and of no use here.
const MASK: &str = "[MASK]";

/// Tokens and their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

/// A vocabulary that cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVocabulary {
    /// A special token is not there.
    #[error("the vocabulary lacks the token {0}")]
    Lacks(&'static str),
    /// A token stands twice.
    #[error("line {line} of the vocabulary repeats the token {token:?}")]
    Repeats {
        /// Line, from 1.
        line: usize,
        /// The token.
        token: String,
    },
    /// A `tokenizer.json` cannot be read.
    #[error("not a tokenizer.json: {0}")]
    Json(String),
    /// A `tokenizer.json` of another kind of tokenizer.
    #[error("{field} is {found} instead of {needed}: only the tokenizer of an uncased BERT is known")]
    Kind {
        /// The field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        needed: &'static str,
    },
    /// The ids of a `tokenizer.json` are not those of a list.
    #[error("the ids of model.vocab and added_tokens do not count the tokens: {0}")]
    Ids(String),
}

impl Vocabulary {
    /// Reads one token a line. `[DEC]` and `[ENC]` are appended where they are missing, as the reference adds them to BERT's
    /// vocabulary.
    ///
    /// # Errors
    /// [`BadVocabulary`]
    pub fn parse(text: &str) -> Result<Self, BadVocabulary> {
        Self::from_tokens(text.lines().map(str::to_owned).collect())
    }

    /// Tokens in the order of their ids; see [`Vocabulary::parse`].
    ///
    /// # Errors
    /// [`BadVocabulary`]
    pub fn from_tokens(mut tokens: Vec<String>) -> Result<Self, BadVocabulary> {
        for added in ["[DEC]", "[ENC]"] {
            if !tokens.iter().any(|t| t == added) {
                tokens.push(added.to_owned());
            }
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (i, token) in tokens.iter().enumerate() {
            if ids.insert(token.clone(), i as u32).is_some() {
                return Err(BadVocabulary::Repeats {
                    line: i + 1,
                    token: token.clone(),
                });
            }
        }
        let vocabulary = Self { tokens, ids };
        match SPECIAL.iter().find(|token| vocabulary.id(token).is_none()) {
            Some(missing) => Err(BadVocabulary::Lacks(missing)),
            None => Ok(vocabulary),
        }
    }

    /// A vocabulary of at most `max_size` tokens: the special ones, every character alone and within a word, then whole words
    /// by falling count. Rare words are spelled.
    pub fn train(words: &WordCounts, max_size: usize) -> Self {
        let characters: BTreeSet<char> = words.keys().flat_map(|word| word.chars()).collect();
        let mut tokens: Vec<String> = SPECIAL.iter().map(|&t| t.to_owned()).collect();
        tokens.extend(characters.iter().map(char::to_string));
        tokens.extend(characters.iter().map(|c| format!("##{c}")));
        let mut ranked: Vec<(&String, &u64)> = words.iter().filter(|(word, _)| word.chars().count() > 1).collect();
        ranked.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        tokens.extend(ranked.into_iter().map(|(word, _)| word.clone()));
        tokens.truncate(max_size.max(SPECIAL.len()));
        let ids = tokens.iter().enumerate().map(|(i, t)| (t.clone(), i as u32)).collect();
        Self { tokens, ids }
    }

    /// One token a line.
    pub fn to_text(&self) -> String {
        let mut text = self.tokens.join("\n");
        text.push('\n');
        text
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens; never, in practice.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Id of a special token.
    ///
    /// # Panics
    /// Never for the six special tokens: every vocabulary has them.
    pub fn special(&self, token: &str) -> u32 {
        self.id(token).expect("every vocabulary has the special tokens")
    }

    /// Whether a token is special.
    pub fn is_special(&self, id: u32) -> bool {
        let token = self.token(id);
        token == MASK || SPECIAL.contains(&token)
    }

    /// The first special token that is written in a text: where, its name and its id.
    pub fn find_special(&self, text: &str) -> Option<(usize, &'static str, u32)> {
        let names = SPECIAL.into_iter().chain([MASK]);
        names
            .filter_map(|name| Some((text.find(name)?, name, self.id(name)?)))
            .min_by_key(|(at, ..)| *at)
    }

    /// A token; `[UNK]` for ids that do not exist.
    pub fn token(&self, id: u32) -> &str {
        self.tokens.get(id as usize).map_or("[UNK]", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_added_tokens_follow_berts() {
        let mut lines = vec!["[PAD]".to_owned()];
        lines.extend((1..100).map(|i| format!("[unused{i}]")));
        lines.extend(["[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned));
        let vocabulary = Vocabulary::parse(&lines.join("\n")).unwrap();
        assert_eq!(vocabulary.special("[DEC]") as usize, lines.len());
        assert_eq!(vocabulary.special("[ENC]") as usize, lines.len() + 1);
    }

    #[test]
    fn a_vocabulary_without_a_special_token_is_refused() {
        assert_eq!(
            Vocabulary::parse("[PAD]\n[UNK]\n[SEP]").unwrap_err(),
            BadVocabulary::Lacks("[CLS]")
        );
    }

    #[test]
    fn training_takes_frequent_words_and_can_spell_the_rest() {
        let words = [("red", 9), ("ring", 5), ("rare", 1)]
            .map(|(w, n)| (w.to_owned(), n))
            .into();
        let trained = Vocabulary::train(&words, 6 + 2 * 7 + 2);
        assert!(trained.id("red").is_some() && trained.id("ring").is_some() && trained.id("rare").is_none());
        assert!(trained.id("##a").is_some());
        assert_eq!(Vocabulary::parse(&trained.to_text()).unwrap(), trained);
    }
}
