//! Files that are right, and files that are wrong in one place.

use std::io::Cursor;

use proptest::prelude::*;
use regatta_core::artifact::Precision;

use super::*;
use crate::{synth, testing};

fn path() -> &'static Path {
    Path::new("x.gguf")
}

fn read(bytes: &[u8]) -> Result<Header, ModelError> {
    Header::read(&mut Cursor::new(bytes), bytes.len() as u64, path())
}

fn message(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

/// A file with one key and two tensors, 32 and 64 bytes long.
fn good() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let metadata = [("general.architecture".to_owned(), Value::String("llama".to_owned()))];
    let tensor =
        |name: &str, dims: &[u64]| NewTensor { name: name.to_owned(), dims: dims.to_vec(), kind: GgmlType::F32 };
    let mut writer = Writer::create(&path, &metadata, &[tensor("a", &[8]), tensor("b", &[4, 4])]).unwrap();
    writer.append("a", &[1; 32]).unwrap();
    writer.append("b", &[2; 60]).unwrap();
    writer.append("b", &[3; 4]).unwrap();
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// `bytes` with those at `at` replaced.
fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// Where `needle` starts.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).unwrap()
}

/// Where the description of the tensor `name` has its dimensions' count, type and offset.
fn tensor_fields(bytes: &[u8], name: u8) -> (usize, usize, usize) {
    let dims = find(bytes, &[1, 0, 0, 0, 0, 0, 0, 0, name]) + 9;
    let count = usize::from(bytes[dims]);
    (dims, dims + 4 + 8 * count, dims + 8 + 8 * count)
}

#[test]
fn what_is_written_is_read_back() {
    let bytes = good();
    let header = read(&bytes).unwrap();
    assert_eq!((header.version, header.alignment), (3, 32));
    assert_eq!(header.get("general.architecture"), Some(&Value::String("llama".to_owned())));
    let b = header.tensor("b").unwrap();
    assert_eq!((b.dims.as_slice(), b.kind, b.offset, b.bytes), (&[4, 4][..], GgmlType::F32, 32, 64));
    assert_eq!(header.data_start % 32, 0);
    assert_eq!(header.data_start + b.offset + b.bytes, bytes.len() as u64);
}

#[test]
fn every_kind_of_value_survives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let values = [
        Value::U8(1),
        Value::I8(-2),
        Value::U16(3),
        Value::I16(-4),
        Value::U32(5),
        Value::I32(-6),
        Value::F32(0.7),
        Value::Bool(true),
        Value::String("ä".to_owned()),
        Value::U64(8),
        Value::I64(-9),
        Value::F64(1.0),
        Value::Array(Array::I32(vec![1, -2])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::String(vec![String::new(), "x".to_owned()])),
        Value::Array(Array::F64(vec![])),
    ];
    let metadata: Vec<_> = values.into_iter().enumerate().map(|(index, value)| (format!("k{index}"), value)).collect();
    Writer::create(&path, &metadata, &[]).unwrap().finish().unwrap();
    assert_eq!(Reader::open(&path).unwrap().header().metadata, metadata);
}

#[test]
fn tensors_are_read_from_any_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, good()).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let b = reader.header().tensor("b").unwrap().clone();
    let mut buffer = [0; 8];
    reader.read(&b, 56, &mut buffer).unwrap();
    assert_eq!(buffer, [2, 2, 2, 2, 3, 3, 3, 3]);
}

#[test]
fn each_broken_rule_names_the_field_and_its_offset() {
    let good = good();
    let (a_dims, a_kind, a_offset) = tensor_fields(&good, b'a');
    let (_, _, b_offset) = tensor_fields(&good, b'b');
    let huge = u64::MAX.to_le_bytes();
    let cases: Vec<(Vec<u8>, String)> = vec![
        (with(good.clone(), 0, b"GGML"), "magic at byte 0: found 'GGML', expected 'GGUF'".to_owned()),
        (with(good.clone(), 4, &[1]), "version at byte 4: 1; 2 and 3 are read".to_owned()),
        (with(good.clone(), 4, &[0, 0, 0, 3]), "version at byte 4: the file is big-endian".to_owned()),
        (with(good.clone(), 8, &huge), "tensor count at byte 8: 18446744073709551615".to_owned()),
        (with(good.clone(), 16, &huge), "metadata count at byte 16: 18446744073709551615".to_owned()),
        (with(good.clone(), 24, &huge), "metadata key 0 at byte 24: length 18446744073709551615".to_owned()),
        (with(good.clone(), 52, &[77]), "metadata 'general.architecture' at byte 52: unknown value type 77".to_owned()),
        (with(good.clone(), 56, &(2u64 << 20).to_le_bytes()), "at byte 56: length 2097152; at most 1048576".to_owned()),
        (with(good.clone(), 64, &[0xff]), "at byte 56: not valid UTF-8".to_owned()),
        (with(good.clone(), a_dims, &[5]), format!("tensor 'a' at byte {a_dims}: 5 dimensions; 1 to 4")),
        (with(good.clone(), a_dims + 4, &[0]), format!("tensor 'a' at byte {a_dims}: dimensions [0] have a zero")),
        (
            with(good.clone(), a_dims + 4, &huge),
            format!("tensor 'a' at byte {a_dims}: dimensions [18446744073709551615]"),
        ),
        (
            with(good.clone(), a_kind, &[4]),
            format!("tensor 'a' at byte {a_kind}: unknown tensor type 4; known are F32"),
        ),
        (with(good.clone(), a_kind, &[8]), "rows of 8 numbers are no multiple of Q8_0's blocks of 32".to_owned()),
        (with(good.clone(), a_offset, &[1]), format!("offset of tensor 'a' at byte {a_offset}: 1 is not a multiple")),
        (with(good.clone(), b_offset, &[0]), format!("offset of tensor 'b' at byte {b_offset}: 0 overlaps")),
        (with(good.clone(), b_offset, &[64]), format!("offset of tensor 'b' at byte {b_offset}: 64 leaves a hole")),
        (with(good.clone(), find(&good, b"b\x02\0\0\0"), b"a"), "the name was there before".to_owned()),
    ];
    for (bytes, expected) in cases {
        let message = message(&bytes);
        assert!(message.starts_with("x.gguf: ") && message.contains(&expected), "{message}\nlacks: {expected}");
    }
}

#[test]
fn alignment_must_be_a_power_of_two_of_the_right_type() {
    for (value, expected) in [
        (Value::U32(24), "general.alignment at byte 49: 24 is not a power of two"),
        (Value::U64(32), "unsigned 32-bit"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        Writer::create(&path, &[(ALIGNMENT_KEY.to_owned(), value)], &[]).unwrap().finish().unwrap();
        let error = Reader::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn another_alignment_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let metadata = [(ALIGNMENT_KEY.to_owned(), Value::U32(256))];
    let tensors = ["a", "b"].map(|name| NewTensor { name: name.to_owned(), dims: vec![1], kind: GgmlType::F32 });
    let mut writer = Writer::create(&path, &metadata, &tensors).unwrap();
    writer.append("a", &[0; 4]).unwrap();
    writer.append("b", &[0; 4]).unwrap();
    writer.finish().unwrap();
    assert_eq!(Reader::open(&path).unwrap().header().tensors[1].offset, 256);
}

#[test]
fn a_truncated_file_says_how_long_it_should_be() {
    let good = good();
    let (whole, cut) = (good.len(), good.len() - 5);
    let message = message(&good[..cut]);
    assert!(message.contains(&format!("truncated: tensor 'b' needs {whole} bytes, found {cut}")), "{message}");
    for length in 0..good.len() {
        assert!(read(&good[..length]).is_err(), "{length} bytes were accepted");
    }
}

#[test]
fn a_count_beyond_the_file_allocates_nothing() {
    // An array that claims 2⁶⁰ strings, and one of 2⁶⁰ bytes.
    for element in [8u32, 0] {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.push(b'k');
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(element.to_le_bytes());
        bytes.extend((1u64 << 60).to_le_bytes());
        assert!(matches!(read(&bytes), Err(ModelError::Truncated { .. })));
    }
}

#[test]
fn tensors_out_of_turn_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let tensors = ["a", "b"].map(|name| NewTensor { name: name.to_owned(), dims: vec![1], kind: GgmlType::F32 });
    let mut writer = Writer::create(&path, &[], &tensors).unwrap();
    assert!(writer.append("b", &[0; 4]).is_err());
    assert!(writer.append("a", &[0; 5]).is_err());
    writer.append("a", &[0; 4]).unwrap();
    assert!(writer.finish().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let mut bytes = bytes;
        bytes.splice(0..0, *b"GGUF\x03\0\0\0");
        let _ = read(&bytes);
    }

    #[test]
    fn a_changed_file_is_read_or_refused(changes in prop::collection::vec((0usize..260, any::<u8>()), 1..6)) {
        static GOOD: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut bytes = GOOD.get_or_init(good).clone();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(header) = read(&bytes) {
            // Whatever was accepted lies inside the file.
            for tensor in &header.tensors {
                prop_assert!(header.data_start + tensor.offset + tensor.bytes <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn a_changed_model_never_breaks_verification(changes in prop::collection::vec((0usize..14_000, any::<u8>()), 1..4)) {
        static MODEL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let model = MODEL.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.gguf");
            synth::gguf(&testing::llama(), "tiny", 1, Precision::Q8_0, &path, &mut |_, _| {}).unwrap();
            std::fs::read(path).unwrap()
        });
        let mut bytes = model.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(header) = read(&bytes) {
            let _ = crate::config::from_gguf(&header, path());
        }
    }
}
