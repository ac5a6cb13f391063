//! Texts that come from elsewhere, made fit for people and for the job table.
//!
//! What a rank says may hold anything: the names of tensors and of the members of archives come from users' files. Whoever
//! takes such a text in makes it [`plain`], so that it is one line of a sensible length, which the database stores and a
//! terminal shows as it is. A name, a path or an address that is not plain is refused instead.

use std::iter::once;

/// Most characters of what a rank or an agent says of one thing.
pub const MAX_REASON: usize = 4000;

/// The text in one line of at most `most` characters: control characters are written as Rust writes them (`\n`, `\0`,
/// `\u{1b}`), and what is too long ends with `…`. A text that is plain already stays as it is.
pub fn plain(text: &str, most: usize) -> String {
    let mut shown = text.chars().flat_map(shown);
    let mut plain: String = shown.by_ref().take(most).collect();
    if shown.next().is_some() {
        plain.pop();
        plain.push('…');
    }
    plain
}

/// Whether a text holds no control characters.
pub fn is_plain(text: &str) -> bool {
    !text.chars().any(is_control)
}

/// Control characters, with those that end lines and turn the direction of writing: a line with them does not look as it reads.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown(c: char) -> impl Iterator<Item = char> {
    let escaped = is_control(c).then(|| c.escape_debug());
    let as_it_is = escaped.is_none().then(|| once(c));
    escaped.into_iter().flatten().chain(as_it_is.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_text_stays_as_it_is() {
        for text in ["", "its tensors (a.b …) are of no model", "Bäume, \"木\" and C:\\n"] {
            assert!(is_plain(text), "{text:?}");
            assert_eq!(plain(text, MAX_REASON), text);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_and_a_database_refuse_is_written_out() {
        let odd = "a\0b\n\u{1b}]0;OWNED\u{7}\r\u{85}\u{202e}";
        assert!(!is_plain(odd));
        let fit = plain(odd, MAX_REASON);
        assert_eq!(fit, r"a\0b\n\u{1b}]0;OWNED\u{7}\r\u{85}\u{202e}");
        assert!(is_plain(&fit));
    }

    #[test]
    fn a_long_text_ends_with_an_ellipsis_and_is_not_cut_twice() {
        assert_eq!(plain("äöü", 3), "äöü");
        assert_eq!(plain("äöüß", 3), "äö…");
        let long = plain(&"\0".repeat(5_000_000), MAX_REASON);
        assert_eq!((long.chars().count(), long.chars().last()), (MAX_REASON, Some('…')));
        assert_eq!(plain(&long, MAX_REASON), long);
    }
}
