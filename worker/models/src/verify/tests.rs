//! Artifacts that are whole, and artifacts that lack something.

use super::*;
use crate::{synth, testing};

fn made(precision: Precision) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    synth::safetensors(&testing::llama(), 1, precision, folder.path(), &mut |_, _| {}).unwrap();
    folder
}

fn change_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join(CONFIG);
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json[key] = value;
    std::fs::write(path, json.to_string()).unwrap();
}

fn message(folder: &Path, tokenizer: Tokenizer) -> String {
    verify(folder, tokenizer).unwrap_err().to_string()
}

#[test]
fn missing_and_wrong_tensors_are_listed() {
    let folder = made(Precision::F16);
    change_config(folder.path(), "num_hidden_layers", 3.into());
    let error = message(folder.path(), Tokenizer::Optional);
    assert!(error.contains("9 missing (model.layers.2.input_layernorm.weight, "), "{error}");
    assert!(error.contains(" and 1 more)"), "{error}");

    change_config(folder.path(), "num_hidden_layers", 1.into());
    let error = message(folder.path(), Tokenizer::Optional);
    assert!(error.contains("9 wrong (model.layers.1.input_layernorm.weight: not part of this network"), "{error}");

    change_config(folder.path(), "num_hidden_layers", 2.into());
    change_config(folder.path(), "vocab_size", 301.into());
    let error = message(folder.path(), Tokenizer::Optional);
    assert!(error.contains("model.embed_tokens.weight: shape [300, 64], expected [301, 64]"), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_shows_both_sizes() {
    let folder = made(Precision::F16);
    let error = message(folder.path(), Tokenizer::Required);
    assert!(error.contains("tokenizer missing: expected tokenizer.json"), "{error}");

    std::fs::write(folder.path().join(TOKENIZER), r#"{"model":{"vocab":{"a":0,"b":1}}}"#).unwrap();
    let error = message(folder.path(), Tokenizer::Optional);
    assert!(error.contains("the tokenizer has 2 tokens, the model's vocabulary has 300"), "{error}");

    let vocab: serde_json::Map<_, _> = (0..300).map(|id| (format!("t{id}"), id.into())).collect();
    let json = serde_json::json!({ "model": { "vocab": vocab } });
    std::fs::write(folder.path().join(TOKENIZER), json.to_string()).unwrap();
    assert_eq!(verify(folder.path(), Tokenizer::Required).unwrap().tokenizer_vocab, Some(300));
}

#[test]
fn an_unsupported_architecture_is_refused_in_both_formats() {
    let folder = made(Precision::F16);
    change_config(folder.path(), "model_type", "gemma".into());
    let error = message(folder.path(), Tokenizer::Optional);
    assert!(error.contains("architecture 'gemma' is not supported; supported are llama, mistral"), "{error}");

    let path = folder.path().join("x.gguf");
    let metadata = [("general.architecture".to_owned(), Value::String("gemma".to_owned()))];
    gguf::Writer::create(&path, &metadata, &[]).unwrap().finish().unwrap();
    let error = message(&path, Tokenizer::Optional);
    assert!(error.contains("architecture 'gemma' is not supported; supported are llama"), "{error}");
}

#[test]
fn a_pickle_is_refused_wherever_it_stands() {
    let folder = made(Precision::F16);
    std::fs::write(folder.path().join("model.safetensors"), b"\x80\x04\x95\0\0\0\0\0\0").unwrap();
    assert!(message(folder.path(), Tokenizer::Optional).contains("pickle magic found"));
    std::fs::write(folder.path().join("model.gguf"), b"PK\x03\x04").unwrap();
    assert!(message(folder.path(), Tokenizer::Optional).contains("zip magic found"));
}

#[test]
fn a_whole_folder_is_described() {
    let folder = made(Precision::Bf16);
    let verified = verify(folder.path(), Tokenizer::Optional).unwrap();
    assert_eq!(verified.shape, testing::llama());
    assert_eq!((verified.format, verified.precision), (Format::Safetensors, Some(Precision::Bf16)));
    assert_eq!(verified.tensors, 2 * 9 + 3);
    assert_eq!(verified.weight_bytes, 2 * testing::llama().parameters());
}
