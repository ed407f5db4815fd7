//! What a file is, by its first bytes: a file's extension says what somebody called it, not what it holds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use regatta_core::artifact::Format;

use crate::error::ModelError;
use crate::onnx;
use crate::safetensors::MAX_HEADER;

/// How many bytes decide.
const START: usize = 9;

/// What the first bytes of a file say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A format that is read here.
    Weights(Format),
    /// An ONNX graph, by the look of it, of another program.
    Onnx,
    /// A Python pickle, as old `PyTorch` checkpoints are: loading one runs the code in it.
    Pickle,
    /// A zip archive, as `PyTorch` checkpoints are since 1.6: a pickle in a box.
    Zip,
    /// Something else.
    Unknown,
}

/// Judges a file by its first bytes (nine are enough).
pub fn of(start: &[u8]) -> Content {
    match start {
        [b'G', b'G', b'U', b'F', ..] => Content::Weights(Format::Gguf),
        _ if onnx::is_ours(start) => Content::Weights(Format::Onnx),
        // Before pickle and zip: a header of 640 bytes starts with the bytes 0x80 0x02, just as a pickle does. The
        // brace in ninth place settles it, because no pickle or zip has it there after six such bytes.
        _ if is_safetensors(start) => Content::Weights(Format::Safetensors),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Content::Zip,
        [0x80, 2..=5, ..] => Content::Pickle,
        _ if onnx::is_anybodys(start) => Content::Onnx,
        _ => Content::Unknown,
    }
}

/// A little-endian header length that is allowed, and then the brace that opens the header.
fn is_safetensors(start: &[u8]) -> bool {
    let Some((length, [b'{', ..])) = start.split_first_chunk::<8>() else { return false };
    u64::from_le_bytes(*length) <= MAX_HEADER
}

/// The format of the weights in the file at `path`; refuses pickles and zips whatever their extension.
pub fn check(path: &Path) -> Result<Format, ModelError> {
    let start = first_bytes(path).map_err(ModelError::io("read", path))?;
    match of(&start) {
        Content::Weights(format) => Ok(format),
        Content::Pickle => Err(ModelError::Forbidden { path: path.to_owned(), found: "pickle" }),
        Content::Zip => Err(ModelError::Forbidden { path: path.to_owned(), found: "zip" }),
        Content::Onnx => {
            let what = "another program wrote it".to_owned();
            Err(ModelError::ForeignGraph { path: path.to_owned(), what })
        }
        Content::Unknown => Err(ModelError::UnknownContent { path: path.to_owned(), start: hexadecimal(&start) }),
    }
}

/// As [`check`], for a file that must be of one format: anything unknown is left to that format's reader, whose message
/// says more about what is wrong.
pub(crate) fn refuse_code(path: &Path) -> Result<(), ModelError> {
    match check(path) {
        Ok(_) | Err(ModelError::UnknownContent { .. } | ModelError::ForeignGraph { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn first_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(START);
    File::open(path)?.take(START as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn hexadecimal(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing (it is empty)".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_pickle_or_zip_is_refused_by_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for (bytes, name) in [(&b"\x80\x02}q\x00(X\x05\x00"[..], "pickle"), (b"PK\x03\x04\x14\0\0\0\x08", "zip")] {
            std::fs::write(&path, bytes).unwrap();
            let error = check(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} magic found; only safetensors, gguf and onnx")), "{error}");
            assert!(error.contains("model.safetensors"), "{error}");
        }
    }

    #[test]
    fn a_safetensors_header_of_640_bytes_is_no_pickle() {
        let mut start = 640u64.to_le_bytes().to_vec();
        start.push(b'{');
        assert_eq!(start[..2], [0x80, 2]);
        assert_eq!(of(&start), Content::Weights(Format::Safetensors));
    }

    #[test]
    fn graphs_of_other_programs_are_refused_with_the_way_to_one_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, b"\x08\x07\x12\x07pytorch\x1a\x052.1.0").unwrap();
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("another program wrote it") && error.contains("convert MODEL --to onnx"), "{error}");
        std::fs::write(&path, onnx::START).unwrap();
        assert_eq!(check(&path).unwrap(), Format::Onnx);
    }

    #[test]
    fn short_and_unknown_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        std::fs::write(&path, b"").unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("it is empty"));
        std::fs::write(&path, b"GGML").unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("47 47 4d 4c"));
    }
}
