//! What a file says about its network: `config.json` beside safetensors, metadata inside GGUF; both become a [`Shape`].
//!
//! Only what both engines compute alike is accepted. A Llama with scaled rotary positions, biases or a head size of its
//! own is a different network from the one that a [`Shape`] describes, so it is refused with the field's name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use regatta_core::artifact::Precision;
use regatta_core::model::{Architecture, Shape};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::ModelError;
use crate::gguf::{Header, Value};

/// The file beside safetensors.
pub const CONFIG: &str = "config.json";

/// The families that are run here, as `model_type` and `general.architecture` name them.
pub const SUPPORTED: &[&str] = &["llama", "mistral"];

/// GGUF's one name for both: llama.cpp's converter writes Mistral models as `llama` too.
pub const SUPPORTED_GGUF: &[&str] = &["llama"];

/// The longest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Rotary base where a file names none: what Llama's first version had, and what engines assume.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;

/// Ids of the tokens that begin and end a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: u32,
    /// Ends a text.
    pub eos: u32,
}

impl Default for SpecialTokens {
    /// As in Llama's and Mistral's vocabularies.
    fn default() -> Self {
        Self { bos: 1, eos: 2 }
    }
}

/// The fields that are read. What isn't listed has no influence on the computation.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    vocab_size: u32,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<Json>,
    /// Where version 5 of transformers puts the rotary base.
    rope_parameters: Option<RopeParameters>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<u32>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f32>,
    rope_type: Option<String>,
}

/// Reads the `config.json` at `path`.
pub fn read(path: &Path) -> Result<Shape, ModelError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CONFIG).read_to_string(&mut text))
        .map_err(ModelError::io("read", path))?;
    parse(&text, path)
}

/// Reads the text of a `config.json`. `path` is only for messages.
pub fn parse(text: &str, path: &Path) -> Result<Shape, ModelError> {
    let invalid = |error: serde_json::Error| ModelError::config(path, "fields", error.to_string());
    let json: Json = serde_json::from_str(text).map_err(invalid)?;
    // Before the other fields: another family may not even have them.
    let architecture = architecture(&json, path)?;
    let config: Config = serde_json::from_value(json).map_err(invalid)?;
    config.check_variants(path)?;
    let shape = config.shape(architecture);
    check(&shape, path)?;
    if let Some(head_dim) = config.head_dim.filter(|&head_dim| head_dim != shape.head_dim()) {
        let problem = format!("{head_dim}; only hidden_size / num_attention_heads = {} is read", shape.head_dim());
        return Err(ModelError::config(path, "head_dim", problem));
    }
    Ok(shape)
}

fn architecture(json: &Json, path: &Path) -> Result<Architecture, ModelError> {
    match json.get("model_type").and_then(Json::as_str) {
        Some("llama") => Ok(Architecture::Llama),
        Some("mistral") => Ok(Architecture::Mistral),
        other => Err(ModelError::Architecture {
            path: path.to_owned(),
            found: other.unwrap_or_default().to_owned(),
            supported: SUPPORTED,
        }),
    }
}

impl Config {
    /// Refuses variants that a [`Shape`] doesn't describe.
    fn check_variants(&self, path: &Path) -> Result<(), ModelError> {
        let bad = |key: &str, problem: &str| Err(ModelError::config(path, key, problem));
        if self.rope_scaling.as_ref().is_some_and(|scaling| !scaling.is_null()) {
            return bad("rope_scaling", "scaled rotary positions are not supported; only null is read");
        }
        let rope_type = self.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref());
        if rope_type.is_some_and(|kind| kind != "default") {
            return bad("rope_parameters.rope_type", "only 'default' is supported");
        }
        if self.hidden_act.as_deref().is_some_and(|act| act != "silu") {
            return bad("hidden_act", "only 'silu' is supported");
        }
        if self.attention_bias == Some(true) || self.mlp_bias == Some(true) {
            return bad("attention_bias / mlp_bias", "matrices with biases are not supported");
        }
        Ok(())
    }

    fn shape(&self, architecture: Architecture) -> Shape {
        let rope_theta = self.rope_theta.or(self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta));
        Shape {
            architecture,
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            vocab: self.vocab_size,
            context: self.max_position_embeddings,
            rope_theta: rope_theta.unwrap_or(DEFAULT_ROPE_THETA),
            norm_eps: self.rms_norm_eps,
            tied_embeddings: self.tie_word_embeddings.unwrap_or(false),
            // A Llama ignores the field.
            sliding_window: self.sliding_window.filter(|_| architecture == Architecture::Mistral),
        }
    }
}

/// Refuses dimensions that no network has, so that sizes computed from them can't overflow.
pub fn check(shape: &Shape, path: &Path) -> Result<(), ModelError> {
    let ranges = [
        ("hidden size", shape.hidden, 1 << 20),
        ("intermediate size", shape.intermediate, 1 << 22),
        ("number of layers", shape.layers, 1 << 12),
        ("number of heads", shape.heads, 1 << 16),
        ("number of key/value heads", shape.kv_heads, 1 << 16),
        ("vocabulary size", shape.vocab, 1 << 24),
        ("context length", shape.context, 1 << 30),
    ];
    for (key, value, most) in ranges {
        if !(1..=most).contains(&value) {
            return Err(ModelError::config(path, key, format!("{value}; 1 to {most} are allowed")));
        }
    }
    let (hidden, heads, kv_heads) = (shape.hidden, shape.heads, shape.kv_heads);
    if !hidden.is_multiple_of(heads) || !shape.head_dim().is_multiple_of(2) {
        let problem = format!("{hidden} in {heads} heads; each must have an equal, even share");
        return Err(ModelError::config(path, "hidden size", problem));
    }
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads}; must divide the {heads} heads");
        return Err(ModelError::config(path, "number of key/value heads", problem));
    }
    for (key, value) in [("rotary base", shape.rope_theta), ("norm epsilon", shape.norm_eps)] {
        if !(value.is_finite() && value > 0.0) {
            return Err(ModelError::config(path, key, format!("{value}; must be a positive number")));
        }
    }
    Ok(())
}

/// The fields that are written: what candle's Llama and Mistral and Python's transformers (4 and 5) read.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are those of the file")]
struct Written<'a> {
    architectures: [&'a str; 1],
    model_type: &'a str,
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: u32,
    head_dim: u32,
    vocab_size: u32,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: f32,
    rope_scaling: Option<()>,
    sliding_window: Option<u32>,
    tie_word_embeddings: bool,
    hidden_act: &'a str,
    attention_bias: bool,
    mlp_bias: bool,
    attention_dropout: f32,
    initializer_range: f32,
    use_cache: bool,
    bos_token_id: u32,
    eos_token_id: u32,
    torch_dtype: &'a str,
}

/// The text of a `config.json` for weights of this shape; nothing for a precision that safetensors don't hold.
pub fn text(shape: &Shape, precision: Precision, tokens: SpecialTokens) -> Option<String> {
    let class = match shape.architecture {
        Architecture::Llama => "LlamaForCausalLM",
        Architecture::Mistral => "MistralForCausalLM",
    };
    let written = Written {
        architectures: [class],
        model_type: shape.architecture.as_str(),
        hidden_size: shape.hidden,
        intermediate_size: shape.intermediate,
        num_hidden_layers: shape.layers,
        num_attention_heads: shape.heads,
        num_key_value_heads: shape.kv_heads,
        head_dim: shape.head_dim(),
        vocab_size: shape.vocab,
        max_position_embeddings: shape.context,
        rms_norm_eps: shape.norm_eps,
        rope_theta: shape.rope_theta,
        rope_scaling: None,
        sliding_window: shape.sliding_window,
        tie_word_embeddings: shape.tied_embeddings,
        hidden_act: "silu",
        attention_bias: false,
        mlp_bias: false,
        attention_dropout: 0.0,
        initializer_range: 0.02,
        use_cache: true,
        bos_token_id: tokens.bos,
        eos_token_id: tokens.eos,
        torch_dtype: torch_dtype(precision)?,
    };
    serde_json::to_string_pretty(&written).ok()
}

fn torch_dtype(precision: Precision) -> Option<&'static str> {
    match precision {
        Precision::F32 => Some("float32"),
        Precision::F16 => Some("float16"),
        Precision::Bf16 => Some("bfloat16"),
        Precision::Q8_0 | Precision::Q4_1 | Precision::Q4KM => None,
    }
}

/// The shape that GGUF metadata describe. `path` is only for messages.
///
/// GGUF says `llama` for Mistral too and doesn't keep its sliding window, which llama.cpp ignores there: so the result
/// is always a Llama without a window.
pub fn from_gguf(header: &Header, path: &Path) -> Result<Shape, ModelError> {
    let keys = Keys { header, path };
    let architecture = keys.text("general.architecture")?;
    if !SUPPORTED_GGUF.contains(&architecture) {
        let found = architecture.to_owned();
        return Err(ModelError::Architecture { path: path.to_owned(), found, supported: SUPPORTED_GGUF });
    }
    let heads = keys.number("llama.attention.head_count")?;
    let shape = Shape {
        architecture: Architecture::Llama,
        hidden: keys.number("llama.embedding_length")?,
        intermediate: keys.number("llama.feed_forward_length")?,
        layers: keys.number("llama.block_count")?,
        heads,
        kv_heads: keys.number_or("llama.attention.head_count_kv", heads)?,
        vocab: keys.vocab()?,
        context: keys.number("llama.context_length")?,
        rope_theta: keys.float("llama.rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA),
        norm_eps: keys.required_float("llama.attention.layer_norm_rms_epsilon")?,
        tied_embeddings: header.tensor("output.weight").is_none(),
        sliding_window: None,
    };
    check(&shape, path)?;
    keys.check_variants(&shape)?;
    Ok(shape)
}

/// The begin and end tokens that GGUF metadata name.
pub fn special_tokens(header: &Header) -> SpecialTokens {
    let id = |key: &str| header.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let default = SpecialTokens::default();
    SpecialTokens {
        bos: id("tokenizer.ggml.bos_token_id").unwrap_or(default.bos),
        eos: id("tokenizer.ggml.eos_token_id").unwrap_or(default.eos),
    }
}

/// The begin and end tokens that a `config.json` names; of several that end a text, the first.
pub fn special_tokens_of(path: &Path) -> SpecialTokens {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_CONFIG).read_to_string(&mut text));
    let json: Json = read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
    let id = |key: &str| {
        let value = json.get(key)?;
        let value = value.as_array().map_or(Some(value), |several| several.first());
        value.and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok())
    };
    let default = SpecialTokens::default();
    SpecialTokens { bos: id("bos_token_id").unwrap_or(default.bos), eos: id("eos_token_id").unwrap_or(default.eos) }
}

/// Access to metadata with errors that name the key.
struct Keys<'a> {
    header: &'a Header,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    fn bad(&self, key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::config(self.path, key, problem)
    }

    fn text(&self, key: &str) -> Result<&'a str, ModelError> {
        let value = self.header.get(key).ok_or_else(|| self.bad(key, "missing"))?;
        value.as_str().ok_or_else(|| self.bad(key, "must be text"))
    }

    fn optional(&self, key: &str) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.header.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| self.bad(key, "must be one number from 0 to 4294967295"))
    }

    fn number(&self, key: &str) -> Result<u32, ModelError> {
        self.optional(key)?.ok_or_else(|| self.bad(key, "missing"))
    }

    fn number_or(&self, key: &str, default: u32) -> Result<u32, ModelError> {
        self.optional(key).map(|number| number.unwrap_or(default))
    }

    fn float(&self, key: &str) -> Result<Option<f32>, ModelError> {
        let Some(value) = self.header.get(key) else { return Ok(None) };
        value.as_f32().map(Some).ok_or_else(|| self.bad(key, "must be a 32-bit float"))
    }

    fn required_float(&self, key: &str) -> Result<f32, ModelError> {
        self.float(key)?.ok_or_else(|| self.bad(key, "missing"))
    }

    /// The vocabulary's size: said outright in newer files, else the tokenizer's.
    fn vocab(&self) -> Result<u32, ModelError> {
        let key = "llama.vocab_size";
        if let Some(size) = self.optional(key)? {
            return Ok(size);
        }
        let tokens = self.header.tokenizer_vocab().and_then(|size| u32::try_from(size).ok());
        tokens.ok_or_else(|| self.bad(key, "missing, and there is no tokenizer to count"))
    }

    /// Refuses variants that a [`Shape`] doesn't describe.
    fn check_variants(&self, shape: &Shape) -> Result<(), ModelError> {
        let head_dim = shape.head_dim();
        let head_keys = ["llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"];
        for key in head_keys {
            let found = self.number_or(key, head_dim)?;
            if found != head_dim {
                let problem = format!("{found}; only embedding_length / head_count = {head_dim} is read");
                return Err(self.bad(key, problem));
            }
        }
        let key = "llama.rope.scaling.type";
        if self.header.get(key).is_some_and(|kind| kind.as_str() != Some("none")) {
            return Err(self.bad(key, "scaled rotary positions are not supported"));
        }
        let key = "llama.expert_count";
        match self.number_or(key, 0)? {
            0 => Ok(()),
            experts => Err(self.bad(key, format!("{experts}; mixtures of experts are not supported"))),
        }
    }
}

/// How `found` differs from `expected`, a phrase for each field. GGUF doesn't keep the family and the window (see
/// [`from_gguf`]), so `from_gguf` leaves these out of the comparison.
pub fn differences(found: &Shape, expected: &Shape, from_gguf: bool) -> Vec<String> {
    let mut all = Vec::new();
    let mut compare = |field: &str, found: String, expected: String| {
        if found != expected {
            all.push(format!("{field} {found}, expected {expected}"));
        }
    };
    if !from_gguf {
        compare("architecture", found.architecture.to_string(), expected.architecture.to_string());
        compare("sliding_window", format!("{:?}", found.sliding_window), format!("{:?}", expected.sliding_window));
    }
    compare("hidden", found.hidden.to_string(), expected.hidden.to_string());
    compare("intermediate", found.intermediate.to_string(), expected.intermediate.to_string());
    compare("layers", found.layers.to_string(), expected.layers.to_string());
    compare("heads", found.heads.to_string(), expected.heads.to_string());
    compare("kv_heads", found.kv_heads.to_string(), expected.kv_heads.to_string());
    compare("vocab", found.vocab.to_string(), expected.vocab.to_string());
    compare("context", found.context.to_string(), expected.context.to_string());
    compare("rope_theta", found.rope_theta.to_string(), expected.rope_theta.to_string());
    compare("norm_eps", found.norm_eps.to_string(), expected.norm_eps.to_string());
    compare("tied_embeddings", found.tied_embeddings.to_string(), expected.tied_embeddings.to_string());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn path() -> &'static Path {
        Path::new("config.json")
    }

    #[test]
    fn what_is_written_is_read_back() {
        for shape in [testing::llama(), testing::mistral(), testing::tied()] {
            let text = text(&shape, Precision::Bf16, SpecialTokens::default()).unwrap();
            assert_eq!(parse(&text, path()).unwrap(), shape);
        }
    }

    #[test]
    fn the_written_epsilon_is_the_short_number() {
        let text = text(&testing::llama(), Precision::F32, SpecialTokens::default()).unwrap();
        let json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(json["rms_norm_eps"].as_f64(), Some(1e-5));
        assert_eq!(json["torch_dtype"], "float32");
    }

    #[test]
    fn another_architecture_is_refused_with_the_list() {
        let error = parse(r#"{"model_type": "gemma"}"#, path()).unwrap_err().to_string();
        assert_eq!(error, "config.json: architecture 'gemma' is not supported; supported are llama, mistral");
    }

    #[test]
    fn variants_that_would_be_computed_differently_are_refused_by_name() {
        let good = text(&testing::llama(), Precision::F32, SpecialTokens::default()).unwrap();
        for (key, value) in [
            ("rope_scaling", r#"{"rope_type": "llama3", "factor": 8.0}"#),
            ("head_dim", "128"),
            ("hidden_act", r#""gelu""#),
            ("attention_bias", "true"),
            ("num_key_value_heads", "3"),
            ("num_hidden_layers", "4294967295"),
            ("rope_theta", "-1"),
        ] {
            let mut json: Json = serde_json::from_str(&good).unwrap();
            json[key] = serde_json::from_str(value).unwrap();
            assert!(parse(&json.to_string(), path()).is_err(), "{key} = {value} was accepted");
        }
    }

    #[test]
    fn a_window_in_a_llama_config_means_nothing() {
        let text = text(&testing::llama(), Precision::F32, SpecialTokens::default()).unwrap();
        let mut json: Json = serde_json::from_str(&text).unwrap();
        json["sliding_window"] = 4096.into();
        assert_eq!(parse(&json.to_string(), path()).unwrap().sliding_window, None);
    }

    #[test]
    fn the_rotary_base_may_stand_where_newer_versions_put_it() {
        let text = text(&testing::llama(), Precision::F32, SpecialTokens::default()).unwrap();
        let mut json: Json = serde_json::from_str(&text).unwrap();
        json["rope_theta"] = Json::Null;
        json["rope_parameters"] = serde_json::json!({ "rope_theta": 5000, "rope_type": "default" });
        let expected = Shape { rope_theta: 5000.0, ..testing::llama() };
        assert_eq!(parse(&json.to_string(), path()).unwrap(), expected);
    }
}
