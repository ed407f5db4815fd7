//! Files that are right, and files that are wrong in one place.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn path() -> &'static Path {
    Path::new("x.safetensors")
}

fn read(bytes: &[u8]) -> Result<Header, ModelError> {
    Header::read(&mut Cursor::new(bytes), bytes.len() as u64, path())
}

/// A file with this header and so much data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![7; data]);
    bytes
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},
    "b":{"dtype":"F16","shape":[2,3],"data_offsets":[8,20]},
    "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn tensors_come_in_the_order_of_their_bytes() {
    let header = read(&file(TWO, 20)).unwrap();
    assert_eq!(header.tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(header.metadata, [("format".to_owned(), "pt".to_owned())]);
    assert_eq!(header.tensor("b").unwrap().bytes(), 12);
    assert_eq!(header.data_start, 8 + TWO.len() as u64);
}

#[test]
fn each_broken_rule_is_named() {
    let one = |entry: &str| format!(r#"{{"a":{entry}}}"#);
    for (header, data, expected) in [
        (
            TWO.replace("[8,20]", "[4,16]"),
            20,
            "tensor 'b' at byte 8: data_offsets [4, 16] overlap 'a', which reaches to 8",
        ),
        (TWO.replace("[8,20]", "[10,22]"), 22, "data_offsets [10, 22] leave a hole after 'a', which reaches to 8"),
        (TWO.to_owned(), 19, "truncated: tensor 'b', whose data_offsets end at 20 of 19 bytes of data, needs"),
        (TWO.to_owned(), 21, "1 bytes follow the last tensor, which ends at 20; none may"),
        (TWO.replace("[8,20]", "[8,19]"), 20, "span 11 bytes, shape [2, 3] of F16 takes 12"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#), 4, "data_offsets [4, 0] end before they begin"),
        (one(r#"{"dtype":"F99","shape":[1],"data_offsets":[0,4]}"#), 4, "unknown dtype 'F99'; known are F64"),
        (one(r#"{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}"#), 4, "overflows"),
        (one(r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}"#), 4, "at most 8 dimensions"),
        (TWO.replace("\"b\"", "\"a\""), 20, "'a' occurs twice"),
        (one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#), 4, "header at byte 8: invalid value"),
        ("{".to_owned(), 0, "header at byte 8: EOF"),
    ] {
        let error = read(&file(&header, data)).unwrap_err().to_string();
        assert!(error.starts_with("x.safetensors: ") && error.contains(expected), "{error}\nlacks: {expected}");
    }
}

#[test]
fn a_header_longer_than_allowed_or_than_the_file_is_refused() {
    let mut bytes = 100_000_001u64.to_le_bytes().to_vec();
    bytes.push(b'{');
    let error = read(&bytes).unwrap_err().to_string();
    assert!(error.contains("header length at byte 0: 100000001; at most 100000000 bytes are allowed"), "{error}");
    let bytes = &file(TWO, 20)[..50];
    let error = read(bytes).unwrap_err().to_string();
    assert!(error.contains(&format!("truncated: the header needs {} bytes, found 50", 8 + TWO.len())), "{error}");
    assert!(read(&[1, 2]).unwrap_err().to_string().contains("needs 8 bytes, found 2"));
}

#[test]
fn the_formats_own_crate_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensors = [
        NewTensor { name: "z\"".to_owned(), dtype: Dtype::Bf16, shape: vec![3] },
        NewTensor { name: "a".to_owned(), dtype: Dtype::F32, shape: vec![1, 2] },
    ];
    let mut writer = Writer::create(&path, &[("seed", "7".to_owned())], &tensors).unwrap();
    writer.append("z\"", &[1; 6]).unwrap();
    writer.append("a", &[2; 3]).unwrap();
    writer.append("a", &[3; 5]).unwrap();
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("z\"").unwrap().data(), [1; 6]);
    assert_eq!(theirs.tensor("a").unwrap().data(), [2, 2, 2, 3, 3, 3, 3, 3]);
    assert_eq!(theirs.tensor("a").unwrap().shape(), [1, 2]);
    let ours = Header::open(&path).unwrap();
    assert!(ours.data_start.is_multiple_of(8));
    assert_eq!(ours.metadata, [("format".to_owned(), "pt".to_owned()), ("seed".to_owned(), "7".to_owned())]);
}

/// Two shards, `1.safetensors` with `a` and `2.safetensors` with `b`, and this index.
fn shards(index: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, name) in [("1.safetensors", "a"), ("2.safetensors", "b")] {
        let tensors = [NewTensor { name: name.to_owned(), dtype: Dtype::F32, shape: vec![1] }];
        let mut writer = Writer::create(&folder.path().join(file), &[], &tensors).unwrap();
        writer.append(name, &[0; 4]).unwrap();
        writer.finish().unwrap();
    }
    std::fs::write(folder.path().join(INDEX), index).unwrap();
    folder
}

#[test]
fn shards_are_read_through_their_index() {
    let folder = shards(r#"{"metadata":{}, "weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#);
    let weights = open_weights(folder.path()).unwrap();
    assert_eq!(weights.tensors().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(file_names(folder.path(), &weights), ["1.safetensors", "2.safetensors", INDEX]);
}

#[test]
fn missing_shards_are_listed() {
    let folder = shards(r#"{"weight_map":{"a":"1.safetensors","c":"3.safetensors","d":"4.safetensors"}}"#);
    let error = open_weights(folder.path()).unwrap_err().to_string();
    assert!(error.contains("2 of the shards it names are missing: 3.safetensors, 4.safetensors"), "{error}");
}

#[test]
fn an_index_that_leaves_its_folder_is_refused() {
    for name in ["../1.safetensors", "/etc/passwd", "a\\\\b.safetensors", "c:x.safetensors", "", "..", "1.bin"] {
        let folder = shards(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#));
        let error = open_weights(folder.path()).unwrap_err();
        assert!(matches!(error, ModelError::Escape { .. }), "{name}: {error}");
    }
}

#[test]
fn an_index_that_contradicts_its_shards_is_refused() {
    let folder = shards(r#"{"weight_map":{"a":"2.safetensors","b":"2.safetensors","c":"1.safetensors"}}"#);
    let error = open_weights(folder.path()).unwrap_err().to_string();
    assert!(error.contains("2 missing (a, c)"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = read(&file(&String::from_utf8_lossy(&bytes), 10));
    }

    #[test]
    fn a_changed_file_is_read_or_refused(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6)) {
        let mut bytes = file(TWO, 20);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(header) = read(&bytes) {
            for tensor in &header.tensors {
                prop_assert!(header.data_start + tensor.end <= bytes.len() as u64);
            }
        }
    }
}
