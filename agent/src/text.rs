//! Text that others wrote: bounded, and without characters that could change how a terminal shows what is around it.

use regatta_core::id::is_unprintable;

/// The longest reason that is stored with a result, in bytes.
pub(crate) const MAX_DETAIL: usize = 64 * 1024;

/// `text` without colour codes and control characters; line ends and tabs stay.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => out.push(c),
            c if is_unprintable(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// Skips what follows an escape character: `[`, parameters, and one letter; or a single character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    if chars.next() == Some('[') {
        for c in chars.by_ref() {
            if ('@'..='~').contains(&c) {
                break;
            }
        }
    }
}

/// The end of `text`, at most `limit` bytes of it.
pub(crate) fn tail(text: &str, limit: usize) -> &str {
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// A reason with what a program last wrote to standard error, cut so that it can be stored.
pub(crate) fn with_last_words(reason: &str, stderr: &str) -> String {
    let stderr = stderr.trim();
    if stderr.is_empty() {
        return tail(reason, MAX_DETAIL).to_owned();
    }
    let joint = "; standard error ends: ";
    let rest = MAX_DETAIL.saturating_sub(reason.len() + joint.len());
    format!("{reason}{joint}{}", tail(stderr, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_codes_and_control_characters_are_gone() {
        assert_eq!(clean("a\u{1b}[1;31mred\u{1b}[0m\r\n\tb\u{7}\u{202e}c"), "ared\n\tbc");
    }

    #[test]
    fn a_tail_never_cuts_a_character() {
        assert_eq!(tail("aäb", 2), "b");
        assert_eq!(tail("aäb", 3), "äb");
        assert_eq!(tail("ab", 10), "ab");
    }

    #[test]
    fn a_reason_stays_within_its_limit() {
        let text = with_last_words("why", &"x".repeat(2 * MAX_DETAIL));
        assert_eq!(text.len(), MAX_DETAIL);
        assert!(text.starts_with("why; "));
        assert_eq!(with_last_words("why", " \n"), "why");
    }
}
