//! llama-bench's rows: read from its files, and written as it writes them.
//!
//! Versions of llama-bench differ in their columns, and no row says which version it follows. So a row here is a JSON
//! object as it came; of its fields only those are looked at that are needed, under the names that llama-bench gives
//! them, and all others are kept.

mod read;
mod write;

pub use self::read::{ImportError, Imported, read};
pub(crate) use self::write::{jsonl, markdown, sql};

use serde_json::{Map, Value};

/// A row of llama-bench as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Map<String, Value>);

impl Row {
    /// A text; empty where there is none.
    pub fn text(&self, field: &str) -> String {
        match self.0.get(field) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// A number; csv and SQL write them as text.
    pub fn number(&self, field: &str) -> Option<f64> {
        let number = match self.0.get(field)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number: &f64| number.is_finite())
    }

    /// A count; 0 where there is none.
    pub fn count(&self, field: &str) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        self.number(field).filter(|number| (0.0..1e15).contains(number)).map_or(0, |number| number as u64)
    }

    /// Tokens per second of each repetition; empty where the format has none.
    pub fn samples(&self) -> Vec<f64> {
        let samples = self.0.get("samples_ts").and_then(Value::as_array);
        samples.into_iter().flatten().filter_map(Value::as_f64).collect()
    }

    /// What was measured, as llama-bench names it: `pp512`, `tg128 @ d4096`, `pp512+tg128`.
    pub fn test(&self) -> String {
        let (prompt, generate, depth) = (self.count("n_prompt"), self.count("n_gen"), self.count("n_depth"));
        let test = match (prompt, generate) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generate) => format!("tg{generate}"),
            (prompt, generate) => format!("pp{prompt}+tg{generate}"),
        };
        if depth > 0 { format!("{test} @ d{depth}") } else { test }
    }
}
