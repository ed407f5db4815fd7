//! The metadata of a synthetic GGUF file: what llama.cpp needs to load it, and a tokenizer that knows bytes.

use regatta_core::artifact::Precision;
use regatta_core::model::Shape;

use crate::config::SpecialTokens;
use crate::gguf::{Array, Value};
use crate::verify::FILE_TYPES;

/// The key, in both formats, that marks weights as made up and tells their seed.
pub const SEED_KEY: &str = "regatta.synthetic.seed";

/// The version of the quantised types' layout that llama.cpp expects.
const QUANTIZATION_VERSION: u32 = 2;

/// Token types as llama.cpp numbers them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// Tokens before those for bytes, and the end of those for bytes.
const SPECIAL: u32 = 3;
const BYTES_END: u32 = SPECIAL + 256;

/// All keys and values of a synthetic model.
pub(super) fn of(shape: &Shape, name: &str, seed: u64, precision: Precision) -> Vec<(String, Value)> {
    let mut all = of_shape(shape, name, Some(seed), precision);
    all.extend(tokenizer(shape, Some(seed)));
    all
}

/// Keys and values for a shape and a precision: all but the tokenizer.
///
/// Mistral is written as `llama` too, as llama.cpp's converter does it. Its sliding window is left out for the same
/// reason: llama.cpp has none for that architecture.
pub(crate) fn of_shape(shape: &Shape, name: &str, seed: Option<u64>, precision: Precision) -> Vec<(String, Value)> {
    let mut all = vec![
        ("general.architecture", Value::String("llama".to_owned())),
        ("general.type", Value::String("model".to_owned())),
        ("general.name", Value::String(name.to_owned())),
    ];
    all.extend(seed.map(|seed| (SEED_KEY, Value::U64(seed))));
    all.extend([
        ("llama.block_count", Value::U32(shape.layers)),
        ("llama.context_length", Value::U32(shape.context)),
        ("llama.embedding_length", Value::U32(shape.hidden)),
        ("llama.feed_forward_length", Value::U32(shape.intermediate)),
        ("llama.attention.head_count", Value::U32(shape.heads)),
        ("llama.attention.head_count_kv", Value::U32(shape.kv_heads)),
        ("llama.rope.freq_base", Value::F32(shape.rope_theta)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(shape.norm_eps)),
        ("llama.vocab_size", Value::U32(shape.vocab)),
        ("llama.rope.dimension_count", Value::U32(shape.head_dim())),
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
    ]);
    all.extend(file_type(precision).map(|id| ("general.file_type", Value::U32(id))));
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// `general.file_type` for a precision.
pub(crate) fn file_type(precision: Precision) -> Option<u32> {
    let (id, _) = FILE_TYPES.iter().find(|(_, known)| *known == precision)?;
    u32::try_from(*id).ok()
}

/// The tokenizer of weights that come without one: for made-up weights one that knows bytes, for trained ones none,
/// because another model's tokens would be a lie.
pub(crate) fn tokenizer(shape: &Shape, seed: Option<u64>) -> Vec<(String, Value)> {
    let none = || vec![("tokenizer.ggml.model", Value::String("no_vocab".to_owned()))];
    let keys = seed.map_or_else(none, |_| byte_tokenizer(shape.vocab));
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn byte_tokenizer(vocab: u32) -> Vec<(&'static str, Value)> {
    let special = SpecialTokens::default();
    let ids = || 0..vocab;
    vec![
        ("tokenizer.ggml.model", Value::String("llama".to_owned())),
        ("tokenizer.ggml.pre", Value::String("default".to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(ids().map(token).collect()))),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(ids().map(score).collect()))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(ids().map(token_type).collect()))),
        ("tokenizer.ggml.bos_token_id", Value::U32(special.bos)),
        ("tokenizer.ggml.eos_token_id", Value::U32(special.eos)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.ggml.add_eos_token", Value::Bool(false)),
    ]
}

/// The text of a token: three special ones, a token for each byte, then fillers that no text contains by chance.
fn token(id: u32) -> String {
    match id {
        0 => "<unk>".to_owned(),
        1 => "<s>".to_owned(),
        2 => "</s>".to_owned(),
        SPECIAL..BYTES_END => format!("<0x{:02X}>", id - SPECIAL),
        _ => format!("\u{2581}regatta{id}"),
    }
}

/// Merging prefers tokens of higher scores; fillers are ranked by their ids.
fn score(id: u32) -> f32 {
    if id < BYTES_END { 0.0 } else { -((id - BYTES_END) as f32) }
}

fn token_type(id: u32) -> i32 {
    match id {
        0 => UNKNOWN,
        1 | 2 => CONTROL,
        SPECIAL..BYTES_END => BYTE,
        _ => NORMAL,
    }
}
