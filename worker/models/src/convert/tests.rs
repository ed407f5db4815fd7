//! There and back again.

use regatta_core::artifact::Format;

use super::*;
use crate::codec::encode;
use crate::{synth, testing};

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

#[test]
fn gguf_made_from_a_seed_becomes_the_safetensors_made_from_it_bit_for_bit() {
    for shape in [testing::llama(), testing::mistral(), testing::tied()] {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let folder = tempfile::tempdir().unwrap();
            let [made, converted] = ["made", "converted"].map(|name| folder.path().join(name));
            std::fs::create_dir(&made).unwrap();
            std::fs::create_dir(&converted).unwrap();
            let gguf = folder.path().join("x.gguf");
            synth::gguf(&shape, "tiny", 3, precision, &gguf, &mut |_, _| {}).unwrap();
            synth::safetensors(&shape, 3, precision, &made, &mut |_, _| {}).unwrap();
            let found = gguf_to_safetensors(&gguf, precision, Some(&shape), &converted, &mut |_, _| {}).unwrap();
            assert_eq!(found, shape);
            assert_eq!(tensors(&converted), tensors(&made));
            let configs =
                [&made, &converted].map(|folder| std::fs::read_to_string(folder.join("config.json")).unwrap());
            assert_eq!(configs[0], configs[1]);
        }
    }
}

#[test]
fn tied_embeddings_have_no_output_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("x.gguf");
    synth::gguf(&testing::tied(), "tiny", 3, Precision::F16, &gguf, &mut |_, _| {}).unwrap();
    let shape = gguf_to_safetensors(&gguf, Precision::F16, None, folder.path(), &mut |_, _| {}).unwrap();
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
    gguf_to_gguf(&quantised, Precision::F32, &plain, &mut |_, _| {}).unwrap();
    gguf_to_gguf(&plain, Precision::F16, &again, &mut |_, _| {}).unwrap();

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
    // The same file again with one matrix in Q4_K.
    let header = gguf::Reader::open(&gguf).unwrap().header().clone();
    let kind = |name: &str| if name == "blk.1.ffn_up.weight" { GgmlType::Q4K } else { GgmlType::F32 };
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
    let error =
        gguf_to_safetensors(&mixed, Precision::F16, None, folder.path(), &mut |_, _| {}).unwrap_err().to_string();
    let expected =
        "tensor 'blk.1.ffn_up.weight' is stored as Q4_K; supported here are F32, F16, BF16, Q4_0, Q4_1, Q8_0";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("x.gguf");
    synth::gguf(&testing::llama(), "tiny", 3, Precision::F16, &gguf, &mut |_, _| {}).unwrap();
    let other = Shape { rope_theta: 5.0, ..testing::llama() };
    let error = gguf_to_safetensors(&gguf, Precision::F16, Some(&other), folder.path(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("rope_theta 10000, expected 5"), "{error}");
}
