//! From the tokenizer in GGUF metadata to the text of a `tokenizer.json`.
//!
//! GGUF names a kind (`gpt2`: byte-level BPE with merges; `llama`: `SentencePiece` BPE with scores) and, for the first,
//! how text is cut before the merges. A kind that is not known here is an error: a guess would give other ids than
//! llama.cpp's own tokenizer.

use std::collections::HashMap;

use regatta_models::gguf::{Array, Header, Value};
use serde_json::{Map, Value as Json, json};

use super::TokenizerError;

/// How GPT-2 cuts text; the expression is built into the library's `ByteLevel`.
pub(super) const KNOWN_PRE: &str = "gpt-2, smollm, llama-bpe, qwen2, tekken";

/// How Llama 3 cuts text.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How Qwen 2 cuts text.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How Mistral's Tekken cuts text.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The mark that `SentencePiece` writes for a space.
pub(super) const SPACE: &str = "\u{2581}";

// llama.cpp's `llama_token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The `tokenizer.json` that a GGUF header describes; `None` where it describes no tokenizer.
pub(super) fn tokenizer_json(header: &Header) -> Result<Option<Json>, TokenizerError> {
    let kind = header.get("tokenizer.ggml.model").and_then(Value::as_str).unwrap_or("none");
    match kind {
        "none" | "no_vocab" => Ok(None),
        "gpt2" => byte_level(header).map(Some),
        "llama" => sentence_piece(header).map(Some),
        other => Err(TokenizerError::Unknown { what: "kind", found: other.to_owned(), known: "gpt2, llama" }),
    }
}

fn byte_level(header: &Header) -> Result<Json, TokenizerError> {
    let tokens = strings(header, "tokenizer.ggml.tokens")?;
    let merges = strings(header, "tokenizer.ggml.merges")?;
    let merges: Option<Vec<(&str, &str)>> = merges.iter().map(|merge| merge.split_once(' ')).collect();
    let merges = merges.ok_or_else(|| TokenizerError::Metadata("a merge is not two tokens".to_owned()))?;
    let pre = header.get("tokenizer.ggml.pre").and_then(Value::as_str).unwrap_or("default");
    let (cut, ignore_merges) = pre_tokenizer(pre)?;
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
        "vocab": vocabulary(tokens), "merges": merges,
    });
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    Ok(assemble(header, tokens, Json::Null, cut, decoder, model))
}

/// How text is cut before merging, and whether a piece that is a token as a whole is taken without merging.
pub(super) fn pre_tokenizer(name: &str) -> Result<(Json, bool), TokenizerError> {
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |regex: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    };
    Ok(match name {
        "gpt-2" | "gpt2" => (byte_level(true), false),
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}), false)
        }
        "llama-bpe" | "llama3" | "llama-v3" => (split(LLAMA3), true),
        "qwen2" => (split(QWEN2), false),
        "tekken" => (split(TEKKEN), true),
        other => {
            return Err(TokenizerError::Unknown { what: "pre-tokenizer", found: other.to_owned(), known: KNOWN_PRE });
        }
    })
}

fn sentence_piece(header: &Header) -> Result<Json, TokenizerError> {
    let tokens = strings(header, "tokenizer.ggml.tokens")?;
    let scores = match header.get("tokenizer.ggml.scores").and_then(Value::as_array) {
        Some(Array::F32(scores)) if scores.len() == tokens.len() => scores,
        _ => {
            return Err(TokenizerError::Metadata(
                "tokenizer.ggml.scores must have one score for each token".to_owned(),
            ));
        }
    };
    let unknown = header.get("tokenizer.ggml.unknown_token_id").and_then(Value::as_u64).unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| tokens.get(id));
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": vocabulary(tokens), "merges": merges_by_score(tokens, scores),
    });
    let prefix = flag(header, "tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let normalizers = if prefix { vec![prepend, replace] } else { vec![replace] };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    Ok(assemble(header, tokens, normalizer, Json::Null, decoder, model))
}

/// `SentencePiece` joins the pair whose joint token has the highest score. As a list of merges: every way to cut each
/// token in two tokens, best score first. So do Hugging Face's converters.
fn merges_by_score<'t>(tokens: &'t [String], scores: &[f32]) -> Vec<(&'t str, &'t str)> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut pairs: Vec<_> =
            cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right))).collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(.., left, right)| (score, left, right)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    merges.into_iter().map(|(_, left, right)| (left, right)).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "the parts end up in the whole; json! takes references")]
fn assemble(header: &Header, tokens: &[String], normalizer: Json, cut: Json, decoder: Json, model: Json) -> Json {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(header, tokens),
        "normalizer": normalizer, "pre_tokenizer": cut,
        "post_processor": post_processor(header, tokens),
        "decoder": decoder, "model": model,
    })
}

fn vocabulary(tokens: &[String]) -> Map<String, Json> {
    tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect()
}

/// Tokens that are found in a text as a whole, before it is cut.
fn added_tokens(header: &Header, tokens: &[String]) -> Vec<Json> {
    let kinds = match header.get("tokenizer.ggml.token_type").and_then(Value::as_array) {
        Some(Array::I32(kinds)) => kinds.iter().map(|&kind| i64::from(kind)).collect(),
        Some(Array::U32(kinds)) => kinds.iter().map(|&kind| i64::from(kind)).collect(),
        _ => Vec::new(),
    };
    let added = kinds.into_iter().zip(tokens).enumerate();
    let added = added.filter(|(_, (kind, _))| matches!(*kind, UNKNOWN | CONTROL | USER_DEFINED));
    added
        .map(|(id, (kind, token))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind != USER_DEFINED,
            })
        })
        .collect()
}

/// Puts the begin and end tokens around a text, where the metadata ask for them.
fn post_processor(header: &Header, tokens: &[String]) -> Json {
    let is_sentence_piece = header.get("tokenizer.ggml.model").and_then(Value::as_str) == Some("llama");
    let special = |wanted: bool, key: &str| {
        let id = header.get(key).and_then(Value::as_u64).filter(|_| wanted)?;
        Some((id, tokens.get(usize::try_from(id).ok()?)?))
    };
    let begin = flag(header, "tokenizer.ggml.add_bos_token").unwrap_or(is_sentence_piece);
    let begin = special(begin, "tokenizer.ggml.bos_token_id");
    let end = special(flag(header, "tokenizer.ggml.add_eos_token").unwrap_or(false), "tokenizer.ggml.eos_token_id");
    if begin.is_none() && end.is_none() {
        return Json::Null;
    }
    let around = |sequence: &str| {
        let piece = |token: &(u64, &String)| json!({"SpecialToken": {"id": token.1, "type_id": 0}});
        let mut pieces: Vec<Json> = begin.iter().map(piece).collect();
        pieces.push(json!({"Sequence": {"id": sequence, "type_id": 0}}));
        pieces.extend(end.iter().map(piece));
        pieces
    };
    let pair: Vec<Json> = around("A").into_iter().chain(around("B")).collect();
    let special: Map<String, Json> = begin
        .iter()
        .chain(&end)
        .map(|(id, token)| ((*token).clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": around("A"), "pair": pair, "special_tokens": special})
}

fn strings<'h>(header: &'h Header, key: &'static str) -> Result<&'h [String], TokenizerError> {
    match header.get(key).and_then(Value::as_array) {
        Some(Array::String(strings)) => Ok(strings),
        _ => Err(TokenizerError::Metadata(format!("{key} must be a list of texts"))),
    }
}

fn flag(header: &Header, key: &str) -> Option<bool> {
    match header.get(key) {
        Some(Value::Bool(flag)) => Some(*flag),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    fn header(metadata: Vec<(&str, Value)>) -> Header {
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Header { version: 3, alignment: 32, metadata, tensors: Vec::new(), data_start: 0 }
    }

    fn texts(texts: &[&str]) -> Value {
        Value::Array(Array::String(texts.iter().map(|&text| text.to_owned()).collect()))
    }

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn digits_are_cut_one_by_one_and_special_tokens_are_found_in_text() {
        let tokens = ["<|end|>", "h", "i", "hi", "\u{120}", "\u{120}hi", "1", "2", "12"];
        let header = header(vec![
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            ("tokenizer.ggml.tokens", texts(&tokens)),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![3, 1, 1, 1, 1, 1, 1, 1, 1]))),
            ("tokenizer.ggml.merges", texts(&["h i", "\u{120} hi", "1 2"])),
        ]);
        let tokenizer = Tokenizer::from_gguf(&header).unwrap().unwrap();
        assert_eq!(tokenizer.encode("hi hi12<|end|>").unwrap(), [3, 5, 6, 7, 0]);
        assert_eq!(tokenizer.decode(&[3, 5, 6, 7, 0]).unwrap(), "hi hi12<|end|>");
    }

    #[test]
    fn sentence_piece_merges_by_score_begins_with_a_space_and_falls_back_to_bytes() {
        let tokens = ["<unk>", "<s>", "<0xC3>", "<0xA4>", "\u{2581}", "a", "b", "ab", "\u{2581}a", "\u{2581}ab", "ba"];
        let scores = vec![0.0, 0.0, 0.0, 0.0, -10.0, -10.0, -10.0, -1.0, -3.0, -2.0, -0.5];
        let kinds = vec![2, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1];
        let header = header(vec![
            ("tokenizer.ggml.model", text("llama")),
            ("tokenizer.ggml.tokens", texts(&tokens)),
            ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ]);
        let tokenizer = Tokenizer::from_gguf(&header).unwrap().unwrap();
        // "ba" has the best score and is merged first, although "ab" comes earlier in the text.
        assert_eq!(tokenizer.encode("ab aba").unwrap(), [1, 9, 8, 10]);
        assert_eq!(tokenizer.encode("\u{e4}").unwrap(), [1, 4, 2, 3]);
        assert_eq!(tokenizer.decode(&[9, 9]).unwrap(), "ab ab");
    }

    #[test]
    fn kinds_that_are_not_known_are_not_guessed() {
        let unknown = header(vec![("tokenizer.ggml.model", text("bert"))]);
        assert!(Tokenizer::from_gguf(&unknown).unwrap_err().to_string().contains("'bert'"));
        assert!(Tokenizer::from_gguf(&header(Vec::new())).unwrap().is_none());
        assert!(pre_tokenizer("default").unwrap_err().to_string().contains("smollm"));
    }
}
