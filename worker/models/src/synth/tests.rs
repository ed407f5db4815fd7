//! Synthetic models: the same everywhere, and whole in both formats.

use std::path::PathBuf;

use super::*;
use crate::safetensors::SINGLE;
use crate::testing;
use crate::verify::{Tokenizer, verify};

fn sha256(path: &Path) -> String {
    crate::library::sha256(path).unwrap()
}

fn made(shape: &Shape, precision: Precision) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (weights, file) = (folder.path().join(SINGLE), folder.path().join("x.gguf"));
    safetensors(shape, 7, precision, folder.path(), &mut |_, _| {}).unwrap();
    gguf(shape, "tiny", 7, precision, &file, &mut |_, _| {}).unwrap();
    (folder, weights, file)
}

/// These hashes are the promise that a seed means the same weights on every machine and in every version. Where a change
/// here is meant, the numbers' method must get a new name as well.
#[test]
fn a_seed_gives_the_same_bytes_everywhere() {
    let (_plain, weights, file) = made(&testing::llama(), Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let quantised = folder.path().join("x.gguf");
    gguf(&testing::llama(), "tiny", 7, Precision::Q8_0, &quantised, &mut |_, _| {}).unwrap();
    let expected = [
        "52490970829c9887d7936823ec30fd93845bf40e02cadd2f486b8df8cba27e02",
        "9ea62753406cc6cc2f60a93ff7617b80c6695fa5eb48a2daabe495f1c3009058",
        "83022e7e070d3bf8255acf0251a17d1633303aada04c78fd68d59f4bd525d044",
    ];
    assert_eq!([weights, file, quantised].map(|path| sha256(&path)), expected);
}

#[test]
fn what_is_made_is_found_whole() {
    for shape in [testing::llama(), testing::mistral(), testing::tied()] {
        for (precision, bits) in [(Precision::F32, 32.0), (Precision::F16, 16.0), (Precision::Bf16, 16.0)] {
            let (_folder, weights, file) = made(&shape, precision);
            let plain = verify(&weights, Tokenizer::Optional).unwrap();
            assert_eq!((&plain.shape, plain.precision, plain.bits_per_weight), (&shape, Some(precision), bits));
            let gguf = verify(&file, Tokenizer::Required).unwrap();
            assert_eq!((gguf.parameters, gguf.precision), (shape.parameters(), Some(precision)));
            assert_eq!(gguf.tokenizer_vocab, Some(shape.vocab.into()));
            assert!(gguf.bits_per_weight >= bits, "norms are f32");
        }
    }
}

#[test]
fn quantised_weights_take_eight_and_a_half_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.gguf");
    gguf(&testing::llama(), "tiny", 7, Precision::Q8_0, &file, &mut |_, _| {}).unwrap();
    let found = verify(&file, Tokenizer::Required).unwrap();
    assert_eq!(found.precision, Some(Precision::Q8_0));
    assert!((8.5..8.6).contains(&found.bits_per_weight), "{}", found.bits_per_weight);
}

#[test]
fn precisions_that_are_made_elsewhere_are_refused_with_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let shape = testing::llama();
    let error = safetensors(&shape, 7, Precision::Q8_0, folder.path(), &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("q8_0 cannot be written as safetensors"), "{error}");
    let error = gguf(&shape, "tiny", 7, Precision::Q4KM, &folder.path().join("x"), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("use a worker with llama.cpp"), "{error}");
}

#[test]
fn rows_that_are_no_whole_blocks_cannot_be_quantised() {
    let folder = tempfile::tempdir().unwrap();
    let shape = Shape { hidden: 48, ..testing::llama() };
    let error = gguf(&shape, "tiny", 7, Precision::Q8_0, &folder.path().join("x"), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("blocks of 32"), "{error}");
}

#[test]
fn progress_ends_at_the_total() {
    let folder = tempfile::tempdir().unwrap();
    let shape = testing::llama();
    let mut last = (0, 0);
    safetensors(&shape, 7, Precision::F16, folder.path(), &mut |done, total| last = (done, total)).unwrap();
    assert_eq!(last, (shape.parameters(), shape.parameters()));
}
