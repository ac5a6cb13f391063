//! BERT's uncased tokenizer: clean, split, then longest pieces first.

use super::Vocabulary;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Longer words are unknown.
const MAX_WORD_CHARS: usize = 100;

/// Turns texts into token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
}

impl Tokenizer {
    /// A tokenizer over a vocabulary.
    pub fn new(vocabulary: Vocabulary) -> Self {
        Self { vocabulary }
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
        words(text).iter().flat_map(|word| self.word(word)).collect()
    }

    /// Longest matching pieces from the left; `[UNK]` if none fits.
    fn word(&self, word: &str) -> Vec<u32> {
        let unknown = vec![self.vocabulary.special("[UNK]")];
        let chars: Vec<char> = word.chars().collect();
        if chars.len() > MAX_WORD_CHARS {
            return unknown;
        }
        let mut ids = Vec::new();
        let mut start = 0;
        while start < chars.len() {
            let prefix = if start > 0 { "##" } else { "" };
            let piece = (start + 1..=chars.len()).rev().find_map(|end| {
                let piece: String = prefix.chars().chain(chars[start..end].iter().copied()).collect();
                self.vocabulary.id(&piece).map(|id| (id, end))
            });
            let Some((id, end)) = piece else { return unknown };
            ids.push(id);
            start = end;
        }
        ids
    }

    /// The text of some ids; special tokens are left out, pieces joined.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for &id in ids {
            let token = self.vocabulary.token(id);
            if let Some(rest) = token.strip_prefix("##") {
                text.push_str(rest);
            } else if !(token.starts_with('[') && token.ends_with(']') && token.len() > 2) {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(token);
            }
        }
        text
    }
}

/// Lower-cased words without accents; punctuation and CJK characters stand alone.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.to_lowercase().nfd().filter(|c| !is_combining_mark(*c)) {
        if c.is_whitespace() || c.is_control() {
            words.extend(take(&mut word));
        } else if is_punctuation(c) || is_cjk(c) {
            words.extend(take(&mut word));
            words.push(c.to_string());
        } else {
            word.push(c);
        }
    }
    words.extend(take(&mut word));
    words
}

fn take(word: &mut String) -> Option<String> {
    (!word.is_empty()).then(|| std::mem::take(word))
}

/// ASCII symbols count as punctuation, as in BERT.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c as u32, 0xa1..=0xbf | 0x2010..=0x2027 | 0x2030..=0x205e | 0x3001..=0x3003 | 0x3008..=0x3011)
}

fn is_cjk(c: char) -> bool {
    matches!(c as u32, 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x2fa1f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let lines = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\nun\n##aff\n##able\n,\ncafe";
        Tokenizer::new(Vocabulary::parse(lines).unwrap())
    }

    #[test]
    fn words_split_to_their_longest_pieces() {
        let t = tokenizer();
        assert_eq!(t.pieces("Unaffable, RED"), [5, 6, 7, 8, 4]);
        assert_eq!(t.pieces("unread"), [1]);
        assert_eq!(t.pieces("Café"), [9]);
        assert_eq!(t.decode(&t.encode("unaffable red", 10)), "unaffable red");
    }

    #[test]
    fn long_texts_keep_their_end_token() {
        let ids = tokenizer().encode("red red red red", 4);
        assert_eq!(ids, [2, 4, 4, 3]);
    }
}
