//! From captions to tokens: cleaning, the vocabulary and the tokenizer.

mod hugging_face;
mod tokenizer;
mod vocabulary;
mod words;

pub use tokenizer::Tokenizer;
pub use vocabulary::{BadVocabulary, Vocabulary, WordCounts};
pub use words::words;

/// Most words of a caption.
const MAX_WORDS: usize = 30;

/// A caption as the reference cleans it (its `pre_caption`): lower case, some punctuation blanked, runs of white space
/// collapsed to one blank, line ends and blanks cut off at the end, at most 30 words.
pub fn clean(caption: &str) -> String {
    let blanked = caption
        .to_lowercase()
        .replace(['.', '!', '"', '(', ')', '*', '#', ':', ';', '~'], " ");
    // Only runs of two or more are collapsed and words end at blanks alone, so a single tab stays within its word.
    let collapsed = collapse(&blanked);
    let words = collapsed.trim_end_matches('\n').trim_matches(' ').split(' ');
    words.take(MAX_WORDS).collect::<Vec<_>>().join(" ")
}

/// Replaces each run of two or more white-space characters by one blank.
fn collapse(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if is_space(c) && chars.peek().copied().is_some_and(is_space) {
            while chars.next_if(|next| is_space(*next)).is_some() {}
            out.push(' ');
        } else {
            out.push(c);
        }
    }
    out
}

/// White space to Python, which counts the separators of ASCII too.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
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
