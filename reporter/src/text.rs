//! Text: labels from outside made harmless, numbers and times made readable.

use jiff::Timestamp;
use regatta_core::id::is_unprintable;

/// The longest label, in characters.
pub const MAX_LABEL: usize = 128;

/// The longest reason for a failure, in characters: engines explain at length.
pub const MAX_REASON: usize = 500;

/// The longest scenario text, in characters.
const MAX_BLOCK: usize = 200_000;

/// What stands where a number is missing.
pub const MISSING: &str = "–";

/// A label from outside: one line, nothing invisible, at most [`MAX_LABEL`] characters.
pub fn label(text: &str) -> String {
    cut(text, MAX_LABEL)
}

/// As [`label`], with the room that an error message needs.
pub fn reason(text: &str) -> String {
    cut(text, MAX_REASON)
}

/// Text of several lines: as it is, without invisible characters other than line breaks and tabs.
pub fn block(text: &str) -> String {
    text.chars().take(MAX_BLOCK).filter(|c| matches!(c, '\n' | '\t') || !is_invisible(*c)).collect()
}

fn cut(text: &str, max: usize) -> String {
    // Line breaks become spaces, so that words stay apart.
    let spaced = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    let mut clean = spaced.filter(|c| !is_invisible(*c));
    let mut out: String = clean.by_ref().take(max).collect();
    if clean.next().is_some() {
        out.pop();
        out.push('…');
    }
    out.trim().to_owned()
}

/// Characters that show nothing or change how others show: controls, direction marks, zero-width characters, tags.
fn is_invisible(c: char) -> bool {
    is_unprintable(c)
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A number with about three significant digits: `1,234`, `123`, `12.3`, `1.23`, `0.123`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        MISSING.to_owned()
    } else if size >= 999.5 {
        grouped(value)
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.9995 {
        format!("{value:.2}")
    } else if size == 0.0 {
        "0".to_owned()
    } else if size >= 0.000_95 {
        format!("{value:.3}")
    } else {
        format!("{value:.1e}")
    }
}

/// A number, or a dash.
pub fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| MISSING.to_owned(), number)
}

/// A whole number with commas: `1,234,567`.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

/// A share as percent: `1.2 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 0.05 { "0 %".to_owned() } else { format!("{percent:.1} %") }
}

/// A factor: `1.83×`.
pub fn factor(ratio: f64) -> String {
    if ratio >= 9.95 { format!("{ratio:.1}×") } else { format!("{ratio:.2}×") }
}

/// Bytes in the largest binary unit that leaves a number of at least 1.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{} {unit}", number(value))
}

/// A wall-clock time in UTC, to the minute: `2026-03-02 21:40 UTC`.
pub fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A wall-clock time in UTC, to the second: `2026-03-02 21:40:07`.
pub fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `1 cell`, `2 cells`.
pub fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {one}s", grouped(n as f64)) }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// A text as part of a file name: letters, digits, dots, underscores and single dashes.
pub fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(MAX_LABEL) {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') && !out.is_empty() {
            out.push('-');
        }
    }
    out.trim_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let cases = [
            (1234.5, "1,234"),
            (999.6, "1,000"),
            (123.4, "123"),
            (12.345, "12.3"),
            (1.2345, "1.23"),
            (0.1234, "0.123"),
            (0.0, "0"),
            (0.000_01, "1.0e-5"),
            (1_234_567.0, "1,234,567"),
            (-1234.0, "-1,234"),
            (f64::NAN, "–"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn labels_hold_nothing_invisible_and_end() {
        assert_eq!(label("a\0b\u{202e}c\u{200b}d\x1b[31me\nf"), "abcd[31me f");
        let long = label(&"x".repeat(10_000));
        assert_eq!(long.chars().count(), MAX_LABEL);
        assert!(long.ends_with('…'));
        assert_eq!(label(&"y".repeat(MAX_LABEL)).chars().count(), MAX_LABEL);
    }

    #[test]
    fn slugs_are_file_names() {
        assert_eq!(slug("TinyLlama 1.1B/../x <cpu>"), "tinyllama-1.1b-..-x-cpu");
        assert_eq!(slug("../.."), "");
    }

    #[test]
    fn lists_read_as_sentences() {
        let items = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!((list(&items(1)), list(&items(3))), ("0".into(), "0, 1 and 2".into()));
        assert_eq!((count(1, "cell"), count(1200, "cell")), ("1 cell".into(), "1,200 cells".into()));
    }
}
