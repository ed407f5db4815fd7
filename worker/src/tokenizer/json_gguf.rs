//! From the text of a `tokenizer.json` to GGUF metadata: the inverse of [`super::gguf_json`].
//!
//! Two kinds are known: byte-level BPE (`gpt2`), for which GGUF must have a name for how text is cut, and `SentencePiece`'s
//! BPE with bytes as a last resort (`llama`), where scores take the place of merges. Anything else is an error, because
//! llama.cpp would find other tokens.

use std::collections::HashMap;

use regatta_models::config::SpecialTokens;
use regatta_models::gguf::{Array, Value};
use serde_json::Value as Json;

use super::TokenizerError;
use super::gguf_json::{KNOWN_PRE, SPACE, pre_tokenizer};

/// How text may be cut, each by one of its names.
const PRE: [&str; 5] = ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"];

// llama.cpp's `llama_token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// All keys of the tokenizer.
pub(super) fn metadata(
    json: &Json,
    special: SpecialTokens,
    vocab: u32,
) -> Result<Vec<(String, Value)>, TokenizerError> {
    if json["model"]["type"].as_str().is_some_and(|kind| kind != "BPE") {
        let found = json["model"]["type"].as_str().unwrap_or_default().to_owned();
        return Err(TokenizerError::Unknown { what: "kind", found, known: "BPE" });
    }
    let tokens = Tokens::read(json, vocab)?;
    let merges = merges(json)?;
    let (mut begin, mut end) = (special.bos, special.eos);
    let (before, after) = around(json);
    (begin, end) = (before.unwrap_or(begin), after.unwrap_or(end));
    let mut keys = if json["model"]["byte_fallback"] == true {
        sentence_piece(json, &tokens, &merges)?
    } else {
        byte_level(json, &merges)?
    };
    keys.push(("token_type", Value::Array(Array::I32(tokens.kinds))));
    keys.push(("tokens", Value::Array(Array::String(tokens.texts))));
    keys.push(("bos_token_id", Value::U32(begin)));
    keys.push(("eos_token_id", Value::U32(end)));
    keys.extend(tokens.unknown.map(|id| ("unknown_token_id", Value::U32(id))));
    keys.push(("add_bos_token", Value::Bool(before.is_some())));
    keys.push(("add_eos_token", Value::Bool(after.is_some())));
    Ok(keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect())
}

/// The vocabulary, by id.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i32>,
    unknown: Option<u32>,
}

impl Tokens {
    fn read(json: &Json, vocab: u32) -> Result<Self, TokenizerError> {
        let unusable = |what: &str| TokenizerError::Metadata(what.to_owned());
        let mut found: HashMap<u32, (String, i32)> = HashMap::new();
        let bytes = json["model"]["byte_fallback"] == true;
        let listed =
            json["model"]["vocab"].as_object().ok_or_else(|| unusable("model.vocab must name ids by token"))?;
        let id = |id: &Json| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| id < vocab);
            id.ok_or_else(|| TokenizerError::Metadata(format!("a token's id is not below the vocabulary's {vocab}")))
        };
        for (text, at) in listed {
            let is_byte = bytes && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            found.insert(id(at)?, (text.clone(), if is_byte { BYTE } else { NORMAL }));
        }
        let unknown = json["model"]["unk_token"].as_str();
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let text = added["content"].as_str().ok_or_else(|| unusable("an added token has no content"))?;
            let kind = match () {
                () if Some(text) == unknown => UNKNOWN,
                () if added["special"] == true => CONTROL,
                () => USER_DEFINED,
            };
            found.insert(id(&added["id"])?, (text.to_owned(), kind));
        }
        let mut texts = Vec::new();
        let mut kinds = Vec::new();
        for id in 0..vocab {
            // Models have rows for ids that no text gives; llama.cpp's converter names them like this.
            let (text, kind) = found.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
            texts.push(text);
            kinds.push(kind);
        }
        let unknown = unknown.and_then(|unknown| texts.iter().position(|text| text == unknown));
        Ok(Self { texts, kinds, unknown: unknown.and_then(|id| u32::try_from(id).ok()) })
    }
}

/// Merges in either of the forms that files have: `"a b"`, or `["a", "b"]`.
fn merges(json: &Json) -> Result<Vec<(String, String)>, TokenizerError> {
    let merge = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Json::Array(pair) => match pair.as_slice() {
            [Json::String(left), Json::String(right)] => Some((left.clone(), right.clone())),
            _ => None,
        },
        _ => None,
    };
    let merges: Option<Vec<_>> = json["model"]["merges"].as_array().into_iter().flatten().map(merge).collect();
    merges.ok_or_else(|| TokenizerError::Metadata("a merge is not two tokens".to_owned()))
}

type Keys = Vec<(&'static str, Value)>;

fn byte_level(json: &Json, merges: &[(String, String)]) -> Result<Keys, TokenizerError> {
    let unknown = |found: &str| TokenizerError::Unknown {
        what: "pre-tokenizer",
        found: found.chars().take(200).collect(),
        known: KNOWN_PRE,
    };
    if !json["normalizer"].is_null() {
        return Err(TokenizerError::Unknown {
            what: "normalizer",
            found: json["normalizer"]["type"].as_str().unwrap_or("?").to_owned(),
            known: "none",
        });
    }
    let ignore_merges = json["model"]["ignore_merges"] == true;
    let cut = steps(&json["pre_tokenizer"]);
    let name = PRE.iter().find(|name| {
        pre_tokenizer(name).is_ok_and(|(known, ignores)| steps(&known) == cut && ignores == ignore_merges)
    });
    let name = name.ok_or_else(|| unknown(&json["pre_tokenizer"].to_string()))?;
    if merges.iter().any(|(left, right)| left.contains(' ') || right.contains(' ')) {
        return Err(TokenizerError::Metadata("a merge has a space, which GGUF can't hold".to_owned()));
    }
    let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    Ok(vec![
        ("model", Value::String("gpt2".to_owned())),
        ("pre", Value::String((*name).to_owned())),
        ("merges", Value::Array(Array::String(merges))),
    ])
}

/// What a pre-tokenizer does, step by step, without what changes no tokens.
fn steps(cut: &Json) -> Vec<String> {
    let inner = cut["pretokenizers"].as_array();
    inner.map_or_else(|| vec![step(cut)], |steps| steps.iter().map(step).collect())
}

fn step(cut: &Json) -> String {
    match cut["type"].as_str() {
        Some("Split") => format!("split {} {} {}", cut["pattern"], cut["behavior"], cut["invert"]),
        Some("Digits") => format!("digits {}", cut["individual_digits"]),
        // Files before this key meant true.
        Some("ByteLevel") => format!("bytes {} {}", cut["add_prefix_space"], cut["use_regex"] != false),
        _ => cut.to_string(),
    }
}

fn sentence_piece(json: &Json, tokens: &Tokens, merges: &[(String, String)]) -> Result<Keys, TokenizerError> {
    let (replaces, prefix) = spaces(json);
    if !replaces {
        return Err(TokenizerError::Unknown {
            what: "normalizer",
            found: json["normalizer"].to_string().chars().take(200).collect(),
            known: "one that writes spaces as \u{2581}",
        });
    }
    // The best merge is the one whose joint token has the best score: so the first to be made gets the highest.
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (left, right) in merges {
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    let worst = ranks.len();
    let score = |text: &String| -(ranks.get(text).copied().unwrap_or(worst) as f32);
    let scores =
        tokens.texts.iter().zip(&tokens.kinds).map(|(text, &kind)| if kind == NORMAL { score(text) } else { 0.0 });
    Ok(vec![
        ("model", Value::String("llama".to_owned())),
        ("pre", Value::String("default".to_owned())),
        ("scores", Value::Array(Array::F32(scores.collect()))),
        ("add_space_prefix", Value::Bool(prefix)),
    ])
}

/// Whether spaces become the mark, and whether one is put before the text. Older files say so in the normalizer, newer
/// ones in the pre-tokenizer.
fn spaces(json: &Json) -> (bool, bool) {
    let metaspace = &json["pre_tokenizer"];
    if metaspace["type"] == "Metaspace" {
        let always = metaspace["add_prefix_space"] == true || metaspace["prepend_scheme"] != "never";
        return (
            json["normalizer"].is_null() && metaspace["replacement"] == SPACE && metaspace["split"] == false,
            always,
        );
    }
    let single = std::slice::from_ref(&json["normalizer"]);
    let steps = json["normalizer"]["normalizers"].as_array().map_or(single, Vec::as_slice);
    let replaces =
        |step: &&Json| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE;
    let prepends = |step: &&Json| step["type"] == "Prepend" && step["prepend"] == SPACE;
    let known = steps.iter().all(|step| replaces(&step) || prepends(&step));
    (
        known && json["pre_tokenizer"].is_null() && steps.iter().any(|step| replaces(&step)),
        steps.iter().any(|step| prepends(&step)),
    )
}

/// The tokens that the post-processor puts before and after a text.
fn around(json: &Json) -> (Option<u32>, Option<u32>) {
    let templates = match json["post_processor"]["processors"].as_array() {
        Some(several) => several.as_slice(),
        None => std::slice::from_ref(&json["post_processor"]),
    };
    let Some(template) = templates.iter().find(|step| step["type"] == "TemplateProcessing") else {
        return (None, None);
    };
    let id = |piece: &Json| {
        let name = piece["SpecialToken"]["id"].as_str()?;
        template["special_tokens"][name]["ids"][0].as_u64().and_then(|id| u32::try_from(id).ok())
    };
    let pieces = template["single"].as_array().map_or(&[][..], Vec::as_slice);
    (pieces.first().and_then(id), pieces.last().and_then(id))
}

#[cfg(test)]
mod tests {
    use regatta_models::gguf::Header;
    use serde_json::json;

    use super::*;
    use crate::tokenizer::Tokenizer;
    use crate::tokenizer::gguf_json;

    const SPECIAL: SpecialTokens = SpecialTokens { bos: 1, eos: 2 };

    /// The tokenizer itself, and the one that was made into metadata and back.
    fn both(json: &Json, vocab: u32) -> [Tokenizer; 2] {
        let metadata = metadata(json, SPECIAL, vocab).unwrap();
        let header = Header { version: 3, alignment: 32, metadata, tensors: Vec::new(), data_start: 0 };
        let back = gguf_json::tokenizer_json(&header).unwrap().unwrap();
        [json, &back].map(|json| Tokenizer(tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap()))
    }

    fn added(id: u32, content: &str) -> Json {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    }

    fn llama() -> Json {
        let mut vocab = serde_json::Map::new();
        for (id, text) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
            vocab.insert(text.to_owned(), id.into());
        }
        for byte in 0..256 {
            vocab.insert(format!("<0x{byte:02X}>"), (3 + byte).into());
        }
        for text in ["\u{2581}", "a", "b", "ba", "\u{2581}a", "\u{2581}ab", "ab"] {
            let id = vocab.len();
            vocab.insert(text.to_owned(), id.into());
        }
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
            "pre_tokenizer": null,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                "merges": ["b a", format!("{SPACE} a"), format!("{SPACE}a b"), "a b"]},
        })
    }

    #[test]
    fn sentence_piece_comes_back_with_the_same_ids() {
        let [original, back] = both(&llama(), 266);
        for text in ["ab aba", "bab  ab\u{e4}", "", "</s>a<s>", "\u{1f600}"] {
            assert_eq!(original.encode(text).unwrap(), back.encode(text).unwrap(), "{text:?}");
        }
        assert_eq!(back.encode("ba").unwrap()[0], 1, "a text begins with its token");
        let newer = {
            let mut json = llama();
            json["normalizer"] = Json::Null;
            json["pre_tokenizer"] =
                json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false});
            json
        };
        let [original, back] = both(&newer, 270);
        assert_eq!(original.encode("ab aba").unwrap(), back.encode("ab aba").unwrap());
    }

    #[test]
    fn byte_level_comes_back_with_the_same_ids_whatever_the_way_text_is_cut() {
        for name in PRE {
            let (cut, ignore_merges) = pre_tokenizer(name).unwrap();
            let json = json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added(0, "<|end|>")],
                "normalizer": null, "pre_tokenizer": cut, "post_processor": null,
                "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
                    "vocab": {"<|end|>": 0, "h": 1, "i": 2, "hi": 3, "\u{120}": 4, "\u{120}hi": 5, "1": 6, "2": 7, "12": 8},
                    "merges": [["h", "i"], ["\u{120}", "hi"], ["1", "2"]]},
            });
            let [original, back] = both(&json, 9);
            assert_eq!(original.encode("hi hi12<|end|>").unwrap(), back.encode("hi hi12<|end|>").unwrap(), "{name}");
        }
    }

    #[test]
    fn what_llama_cpp_would_do_differently_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Json)| {
            let mut json = llama();
            change(&mut json);
            metadata(&json, SPECIAL, 266).unwrap_err().to_string()
        };
        assert!(refused(&|json| json["model"]["type"] = "Unigram".into()).contains("kind 'Unigram'"));
        assert!(refused(&|json| json["normalizer"] = json!({"type": "NFC"})).contains("normalizer"));
        let byte_level = refused(&|json| {
            json["model"]["byte_fallback"] = false.into();
            json["normalizer"] = Json::Null;
            json["pre_tokenizer"] = json!({"type": "Whitespace"});
        });
        assert!(byte_level.contains("Whitespace") && byte_level.contains("smollm"), "{byte_level}");
        assert!(refused(&|json| json["model"]["vocab"]["zz"] = 266.into()).contains("266"));
    }
}
