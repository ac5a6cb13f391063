//! From captions to tokens: cleaning, the vocabulary and the tokenizer.

mod tokenizer;
mod vocabulary;

pub use tokenizer::{Tokenizer, words};
pub use vocabulary::{BadVocabulary, Vocabulary, WordCounts};

/// Most words of a caption.
const MAX_WORDS: usize = 30;

/// A caption as the reference cleans it: lower case, some punctuation blanked, runs of white space collapsed, at most 30
/// words.
pub fn clean(caption: &str) -> String {
    let lower = caption.to_lowercase();
    let blanked = lower.replace(['.', '!', '"', '(', ')', '*', '#', ':', ';', '~'], " ");
    let mut out = String::with_capacity(blanked.len());
    // The reference collapses runs of two or more blanks and splits on single spaces, so a lone tab stays in its word.
    let collapsed = collapse(&blanked);
    let words = collapsed.trim_end_matches('\n').trim_matches(' ').split(' ');
    for (i, word) in words.take(MAX_WORDS).enumerate() {
        if i > 0 {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// Replaces each run of two or more white-space characters by one space.
fn collapse(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_whitespace() && chars.peek().is_some_and(|next| next.is_whitespace()) {
            while chars.next_if(|next| next.is_whitespace()).is_some() {}
            out.push(' ');
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn captions_are_cleaned_as_the_reference_does() {
        assert_eq!(clean("  A *Small*, red   Ring.\n"), "a small , red ring");
        assert_eq!(clean("it's 50% - off?"), "it's 50% - off?");
        assert_eq!(clean(" . ! "), "");
        assert_eq!(clean(&"word ".repeat(50)).split(' ').count(), 30);
    }
}
