//! Naming a cell: by the beginning of its hash, or by words that stand in its label.

use regatta_core::id::shown;

use crate::exit::BadInput;

/// Candidates that are named at most.
const CANDIDATES: usize = 10;

/// Fewer digits of a hash are taken for a word.
const HASH_DIGITS: usize = 4;

/// Something that people name by a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named<T> {
    /// `tinyllama-1.1b · candle · q8_0 · chat on host-a cpu`.
    pub label: String,
    /// Its hash in hexadecimal digits.
    pub hash: String,
    /// What is meant.
    pub value: T,
}

/// The one that is named; where that is none or several, those that may have been meant.
pub(crate) fn choose<T>(words: &[String], all: Vec<Named<T>>) -> Result<T, BadInput> {
    let text = words.join(" ");
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let is_hash = |word: &String| word.len() >= HASH_DIGITS && word.bytes().all(|b| b.is_ascii_hexdigit());
    let fits = |named: &Named<T>| {
        let label = named.label.to_lowercase();
        words.iter().all(|word| label.contains(word) || (is_hash(word) && named.hash.starts_with(word)))
    };
    if all.is_empty() {
        return Err(BadInput("no cell was measured here yet: start a run with 'regatta run SCENARIO'".to_owned()));
    }
    let (mut fitting, others): (Vec<Named<T>>, Vec<Named<T>>) = all.into_iter().partition(fits);
    if fitting.len() == 1 && !words.is_empty() {
        return Ok(fitting.remove(0).value);
    }
    let what = match (words.is_empty(), fitting.is_empty()) {
        (true, _) => "name a cell".to_owned(),
        (_, true) => format!("no cell is called '{}'", shown(&text)),
        (_, false) => format!("'{}' may be any of {} cells", shown(&text), fitting.len()),
    };
    let candidates = if fitting.is_empty() { others } else { fitting };
    Err(BadInput(format!(
        "{what}: give words of one of these lines, or the beginning of its hash\n{}",
        listed(&candidates)
    )))
}

fn listed<T>(candidates: &[Named<T>]) -> String {
    let line = |named: &Named<T>| format!("  {}  {}", named.hash.get(..12).unwrap_or(&named.hash), named.label);
    let mut lines: Vec<String> = candidates.iter().take(CANDIDATES).map(line).collect();
    if candidates.len() > CANDIDATES {
        lines.push(format!("  … and {} more", candidates.len() - CANDIDATES));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(label: &str, hash: &str) -> Named<String> {
        Named { label: label.to_owned(), hash: hash.to_owned(), value: hash.to_owned() }
    }

    fn all() -> Vec<Named<String>> {
        vec![
            named("tiny · candle · q8_0 · chat on a cpu", "abcdef012345"),
            named("tiny · llama.cpp · q8_0 · chat on a cpu", "abc111012345"),
        ]
    }

    fn words(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn a_cell_is_named_by_words_or_by_the_beginning_of_its_hash() {
        assert_eq!(choose(&words("Candle q8_0"), all()).unwrap(), "abcdef012345");
        assert_eq!(choose(&words("abc1"), all()).unwrap(), "abc111012345");
    }

    #[test]
    fn where_none_or_several_fit_the_candidates_are_named() {
        for (text, part) in [("abc", "no cell is called"), ("q8_0", "any of 2 cells"), ("", "name a cell")] {
            let error = choose(&words(text), all()).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("abcdef012345  tiny · candle"), "{text}: {error}");
        }
        let error = choose(&words("x\u{202e}"), all()).unwrap_err().to_string();
        assert!(!error.contains('\u{202e}'), "{error}");
        assert!(choose::<()>(&words("x"), Vec::new()).unwrap_err().to_string().contains("regatta run"));
    }
}
