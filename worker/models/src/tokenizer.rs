//! How many tokens a `tokenizer.json` has. Only counted here; the workers read it for good.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::ModelError;

/// The file beside safetensors.
pub const TOKENIZER: &str = "tokenizer.json";

/// The longest `tokenizer.json` that is read, in bytes. The largest vocabularies of today take 35 MB.
const MAX_TOKENIZER: u64 = 128 << 20;

#[derive(Deserialize)]
struct Tokenizer {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocab,
}

/// Ids by token, or for the Unigram kind a list of tokens with scores.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocab {
    Ids(HashMap<String, u32>),
    List(Vec<IgnoredAny>),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
}

/// The number of token ids in the `tokenizer.json` at `path`: one more than the highest.
pub fn vocab_size(path: &Path) -> Result<u64, ModelError> {
    let file = File::open(path).map_err(ModelError::io("open", path))?;
    let size = file.metadata().map_err(ModelError::io("read", path))?.len();
    if size > MAX_TOKENIZER {
        return Err(ModelError::config(path, "size", format!("{size} bytes; at most {MAX_TOKENIZER} are read")));
    }
    let tokenizer: Tokenizer = serde_json::from_reader(BufReader::new(file))
        .map_err(|error| ModelError::config(path, "model.vocab", error.to_string()))?;
    let listed = match &tokenizer.model.vocab {
        Vocab::Ids(ids) => ids.values().map(|&id| u64::from(id) + 1).max().unwrap_or(0),
        Vocab::List(list) => list.len() as u64,
    };
    let added = tokenizer.added_tokens.iter().map(|token| u64::from(token.id) + 1).max().unwrap_or(0);
    Ok(listed.max(added))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_with_those_added_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TOKENIZER);
        for (text, size) in [
            (
                r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "c"}]}"#,
                3,
            ),
            (r#"{"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}}"#, 2),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(vocab_size(&path).unwrap(), size);
        }
        std::fs::write(&path, "{}").unwrap();
        assert!(vocab_size(&path).unwrap_err().to_string().contains("model.vocab"));
    }
}
