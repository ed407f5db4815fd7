//! There and back again.

use proptest::prelude::*;

use super::*;
use crate::codec::encode;
use crate::safetensors::SINGLE;
use crate::testing;

/// All tensors of a safetensors file with their bytes.
fn tensors(folder: &Path) -> Vec<(String, Vec<u64>, Vec<u8>)> {
    let mut reader = safetensors::Reader::open(&folder.join(SINGLE)).unwrap();
    let infos = reader.header().tensors.clone();
    let mut read = |info: safetensors::TensorInfo| {
        let mut bytes = vec![0; usize::try_from(info.bytes()).unwrap()];
        reader.read(&info, 0, &mut bytes).unwrap();
        (info.name, info.shape, bytes)
    };
    infos.into_iter().map(&mut read).collect()
}

/// Writes an artifact in another format.
fn convert(from: &Path, format: Format, precision: Precision, model: Option<&Shape>, out: &Path) {
    let input = Input::open(from).unwrap();
    match format {
        Format::Safetensors => {
            std::fs::create_dir_all(out).unwrap();
            to_safetensors(input, precision, model, out, &mut |_, _| {}).unwrap();
        }
        Format::Onnx => {
            std::fs::create_dir_all(out).unwrap();
            to_onnx(input, precision, model, out, &mut |_, _| {}).unwrap();
        }
        Format::Gguf => {
            to_gguf(input, "tiny", None, Storage::plain(precision).unwrap(), out, &mut |_, _| {}).unwrap();
        }
    }
}

#[test]
fn either_format_made_from_a_seed_becomes_the_other_made_from_it_byte_for_byte() {
    for shape in [testing::llama(), testing::mistral(), testing::tied()] {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let folder = tempfile::tempdir().unwrap();
            let [made, converted] = ["made", "converted"].map(|name| folder.path().join(name));
            let [gguf, back] = ["x.gguf", "y.gguf"].map(|name| folder.path().join(name));
            std::fs::create_dir(&made).unwrap();
            synth::gguf(&shape, "tiny", 3, precision, &gguf, &mut |_, _| {}).unwrap();
            synth::safetensors(&shape, 3, precision, &made, &mut |_, _| {}).unwrap();
            convert(&gguf, Format::Safetensors, precision, Some(&shape), &converted);
            convert(&converted, Format::Gguf, precision, None, &back);
            for name in [SINGLE, "config.json"] {
                assert!(std::fs::read(made.join(name)).unwrap() == std::fs::read(converted.join(name)).unwrap());
            }
            assert!(std::fs::read(&gguf).unwrap() == std::fs::read(&back).unwrap());
        }
    }
}

/// Any bits at all, those of numbers that are none included.
fn random_safetensors(shape: &Shape, dtype: Dtype, seed: u64, folder: &Path) {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let describe = |spec: &TensorSpec| safetensors::NewTensor { name: spec.hf.clone(), dtype, shape: spec.shape() };
    let described: Vec<_> = layout::tensors(shape).iter().map(describe).collect();
    let mut writer = safetensors::Writer::create(&folder.join(SINGLE), &[], &described).unwrap();
    for tensor in &described {
        let mut bytes = vec![0; index(tensor.dtype.size(&tensor.shape).unwrap())];
        random.fill_bytes(&mut bytes);
        writer.append(&tensor.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    let precision = if dtype == Dtype::F32 { Precision::F32 } else { Precision::F16 };
    write_config(shape, precision, SpecialTokens::default(), folder).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Norms are f32 in GGUF whatever the matrices are, so they are compared as numbers.
    #[test]
    fn there_and_back_is_bit_for_bit_what_it_was(
        heads in 1u32..5, group in 1u32..4, half in 1u32..5, layers in 1u32..3, tied: bool, plain: bool, seed: u64,
    ) {
        let shape = Shape {
            hidden: heads * group * 2 * half, intermediate: 2 * half + 3, layers, heads: heads * group,
            kv_heads: heads, vocab: 17, tied_embeddings: tied, ..testing::llama()
        };
        let (dtype, precision) = if plain { (Dtype::F32, Precision::F32) } else { (Dtype::F16, Precision::F16) };
        let folder = tempfile::tempdir().unwrap();
        let [from, back] = ["from", "back"].map(|name| folder.path().join(name));
        std::fs::create_dir(&from).unwrap();
        random_safetensors(&shape, dtype, seed, &from);
        let gguf = folder.path().join("x.gguf");
        convert(&from, Format::Gguf, precision, None, &gguf);
        convert(&gguf, Format::Safetensors, precision, None, &back);
        for ((name, _, was), (_, _, is)) in tensors(&from).into_iter().zip(tensors(&back)) {
            if name.contains("norm") && dtype == Dtype::F16 {
                let numbers = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&half| half::f16::from_le_bytes(half)).collect::<Vec<_>>();
                let same = numbers(&was).iter().zip(numbers(&is)).all(|(was, is)| *was == is || was.is_nan() && is.is_nan());
                prop_assert!(same, "{}", name);
            } else {
                prop_assert!(was == is, "{}", name);
            }
        }
    }
}

#[test]
fn trained_weights_get_no_tokenizer_that_is_not_theirs() {
    let folder = tempfile::tempdir().unwrap();
    random_safetensors(&testing::llama(), Dtype::F16, 1, folder.path());
    let gguf = folder.path().join("x.gguf");
    convert(folder.path(), Format::Gguf, Precision::Q8_0, None, &gguf);
    let header = gguf::Reader::open(&gguf).unwrap().header().clone();
    assert_eq!(header.get("tokenizer.ggml.model").and_then(Value::as_str), Some("no_vocab"));
    assert_eq!((header.tokenizer_vocab(), header.get(SEED_KEY)), (None, None));
    assert_eq!(Input::open(&gguf).unwrap().seed(), None);
}

#[test]
fn tied_embeddings_have_no_output_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("x.gguf");
    synth::gguf(&testing::tied(), "tiny", 3, Precision::F16, &gguf, &mut |_, _| {}).unwrap();
    let input = Input::open(&gguf).unwrap();
    assert_eq!(input.seed(), Some(3));
    let shape = to_safetensors(input, Precision::F16, None, folder.path(), &mut |_, _| {}).unwrap();
    assert!(shape.tied_embeddings);
    assert!(tensors(folder.path()).iter().all(|(name, ..)| name != "lm_head.weight"));
    let verified = verify::verify(folder.path(), Tokenizer::Optional).unwrap();
    assert_eq!((verified.shape, verified.format), (shape, Format::Safetensors));
}

#[test]
fn plain_gguf_has_the_quantised_files_numbers_and_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let [quantised, plain, again] = ["q.gguf", "f.gguf", "g.gguf"].map(|name| folder.path().join(name));
    synth::gguf(&testing::llama(), "tiny", 3, Precision::Q8_0, &quantised, &mut |_, _| {}).unwrap();
    convert(&quantised, Format::Gguf, Precision::F32, None, &plain);
    convert(&plain, Format::Gguf, Precision::F16, None, &again);

    let mut from = gguf::Reader::open(&quantised).unwrap();
    let mut to = gguf::Reader::open(&plain).unwrap();
    let infos = from.header().tensors.clone();
    for info in infos {
        let mut stored = vec![0; index(info.bytes)];
        from.read(&info, 0, &mut stored).unwrap();
        let mut numbers = vec![0.0; index(info.dims.iter().product())];
        assert!(codec::decode(info.kind, &stored, &mut numbers));
        let mut expected = Vec::new();
        assert!(encode(GgmlType::F32, &numbers, &mut expected));
        let written = to.header().tensor(&info.name).unwrap().clone();
        let mut found = vec![0; index(written.bytes)];
        to.read(&written, 0, &mut found).unwrap();
        assert_eq!(found, expected, "{}", info.name);
    }
    let without_type = |reader: &gguf::Reader| {
        let mut metadata = reader.header().metadata.clone();
        metadata.retain(|(key, _)| key != "general.file_type");
        metadata
    };
    assert_eq!(without_type(&from), without_type(&to));
    for (path, precision) in [(&plain, Precision::F32), (&again, Precision::F16)] {
        let verified = verify::verify(path, Tokenizer::Required).unwrap();
        assert_eq!(verified.precision, Some(precision));
    }
}

#[test]
fn a_type_that_cannot_be_read_is_named_with_those_that_can() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("x.gguf");
    let shape = Shape { hidden: 256, intermediate: 256, ..testing::llama() };
    synth::gguf(&shape, "tiny", 3, Precision::F32, &gguf, &mut |_, _| {}).unwrap();
    // The same file again with one matrix in Q2_K.
    let header = gguf::Reader::open(&gguf).unwrap().header().clone();
    let kind = |name: &str| if name == "blk.1.ffn_up.weight" { GgmlType::Q2K } else { GgmlType::F32 };
    let described: Vec<_> = header
        .tensors
        .iter()
        .map(|info| gguf::NewTensor { name: info.name.clone(), dims: info.dims.clone(), kind: kind(&info.name) })
        .collect();
    let mixed = folder.path().join("mixed.gguf");
    let mut writer = gguf::Writer::create(&mixed, &header.metadata, &described).unwrap();
    for new in &described {
        writer.append(&new.name, &vec![0; index(new.kind.size(&new.dims).unwrap())]).unwrap();
    }
    writer.finish().unwrap();
    let error = Input::open(&mixed).unwrap_err().to_string();
    let expected = "tensor 'blk.1.ffn_up.weight' is stored as Q2_K; supported here are F32, F16, BF16, Q4_0, Q4_1, \
                    Q5_0, Q8_0, Q4_K, Q5_K, Q6_K";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("x.gguf");
    synth::gguf(&testing::llama(), "tiny", 3, Precision::F16, &gguf, &mut |_, _| {}).unwrap();
    let other = Shape { rope_theta: 5.0, ..testing::llama() };
    let input = Input::open(&gguf).unwrap();
    let error = to_safetensors(input, Precision::F16, Some(&other), folder.path(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("rope_theta 10000, expected 5"), "{error}");
}
