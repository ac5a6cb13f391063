//! BERT's uncased tokenizer: special tokens, words, then longest pieces first.

use super::{Vocabulary, words};
use medley_protocol::spec::Specials;

/// Longer words are unknown.
const MAX_WORD_CHARS: usize = 100;
/// Blanks that are taken out of a decoded text.
const TIGHT: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Turns texts into token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    specials: Specials,
}

impl Tokenizer {
    /// A tokenizer over a vocabulary; `specials` says what the name of a special token within a text is.
    pub fn new(vocabulary: Vocabulary, specials: Specials) -> Self {
        Self { vocabulary, specials }
    }

    /// Its vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Ids of a text between `[CLS]` and `[SEP]`, at most `max_tokens` in all.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Vec<u32> {
        let mut ids = vec![self.vocabulary.special("[CLS]")];
        ids.extend(self.pieces(text));
        ids.truncate(max_tokens.saturating_sub(1).max(1));
        ids.push(self.vocabulary.special("[SEP]"));
        ids
    }

    /// Ids of a text alone.
    pub fn pieces(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut rest = text;
        if self.specials == Specials::Reference {
            while let Some((at, name, id)) = self.vocabulary.find_special(rest) {
                self.plain(&rest[..at], &mut ids);
                ids.push(id);
                rest = &rest[at + name.len()..];
            }
        }
        self.plain(rest, &mut ids);
        ids
    }

    fn plain(&self, text: &str, ids: &mut Vec<u32>) {
        for word in words(text) {
            self.word(&word, ids);
        }
    }

    /// Longest matching pieces from the left; `[UNK]` if none fits.
    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut piece = String::new();
        let mut rest = word;
        let short = word.chars().count() <= MAX_WORD_CHARS;
        while short && !rest.is_empty() {
            piece.clear();
            piece.push_str(if rest.len() < word.len() { "##" } else { "" });
            piece.push_str(rest);
            let Some((id, left)) = self.longest(&mut piece, rest.len()) else {
                break;
            };
            ids.push(id);
            rest = &rest[rest.len() - left..];
        }
        if !short || !rest.is_empty() {
            ids.truncate(before);
            ids.push(self.vocabulary.special("[UNK]"));
        }
    }

    /// The longest beginning of `piece`, of whose bytes the last `length` are the word's, and how many bytes it leaves.
    fn longest(&self, piece: &mut String, length: usize) -> Option<(u32, usize)> {
        let prefix = piece.len() - length;
        let whole = piece.len();
        while piece.len() > prefix {
            if let Some(id) = self.vocabulary.id(piece) {
                return Some((id, whole - piece.len()));
            }
            piece.pop();
        }
        None
    }

    /// The text of some ids, as the reference decodes it: special tokens are left out, pieces joined, blanks before
    /// punctuation taken out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let tokens = ids.iter().filter(|&&id| !self.vocabulary.is_special(id));
        let tokens: Vec<&str> = tokens.map(|&id| self.vocabulary.token(id)).collect();
        let joined = tokens.join(" ").replace(" ##", "");
        TIGHT.iter().fold(joined.trim().to_owned(), |text, (loose, tight)| {
            text.replace(loose, tight)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(specials: Specials) -> Tokenizer {
        let lines = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\nun\n##aff\n##able\n,\ncafe\n[\n]\nsep\n'\ns";
        Tokenizer::new(Vocabulary::parse(lines).unwrap(), specials)
    }

    #[test]
    fn words_split_to_their_longest_pieces() {
        let t = tokenizer(Specials::Fixed);
        assert_eq!(t.pieces("Unaffable, RED"), [5, 6, 7, 8, 4]);
        assert_eq!(t.pieces("unread"), [1]);
        assert_eq!(t.pieces("Café"), [9]);
        assert_eq!(t.decode(&t.encode("unaffable red", 10)), "unaffable red");
    }

    #[test]
    fn long_texts_keep_their_end_token() {
        let ids = tokenizer(Specials::Fixed).encode("red red red red", 4);
        assert_eq!(ids, [2, 4, 4, 3]);
    }

    #[test]
    fn a_special_tokens_name_in_a_text_is_special_only_as_in_the_reference() {
        let text = "red[SEP]red";
        assert_eq!(tokenizer(Specials::Fixed).pieces(text), [4, 10, 12, 11, 4]);
        assert_eq!(tokenizer(Specials::Reference).pieces(text), [4, 3, 4]);
    }

    #[test]
    fn decoded_texts_have_no_blanks_before_punctuation() {
        let t = tokenizer(Specials::Fixed);
        assert_eq!(t.decode(&t.pieces("red, red's")), "red, red's");
    }
}
