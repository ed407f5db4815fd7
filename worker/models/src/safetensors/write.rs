//! Writing: the header first, then the tensors one by one, so that no more than a piece of one is in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Dtype, INDEX, LENGTH_BYTES, SINGLE};
use crate::error::ModelError;
use crate::stream::TensorStream;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its number type.
    pub dtype: Dtype,
    /// Its dimensions, row length last.
    pub shape: Vec<u64>,
}

/// A file being written.
#[derive(Debug)]
pub struct Writer(TensorStream);

impl Writer {
    /// Creates the file and writes its header. The tensors' bytes must follow in the same order.
    ///
    /// `metadata` are added to `format = "pt"`, without which Python's transformers doesn't load a file.
    pub fn create(path: &Path, metadata: &[(&str, String)], tensors: &[NewTensor]) -> Result<Self, ModelError> {
        let sizes = tensors.iter().map(|tensor| size(tensor, path)).collect::<Result<Vec<_>, _>>()?;
        let header = header(metadata, tensors, &sizes, path)?;
        let named = tensors.iter().map(|tensor| tensor.name.clone()).zip(sizes);
        TensorStream::create(path, &header, named, 1).map(Self)
    }

    /// Appends bytes of the tensor `name`: all of them, or piece by piece.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        self.0.append(name, bytes)
    }

    /// Ends the file and brings it to the disk.
    pub fn finish(self) -> Result<(), ModelError> {
        self.0.finish()
    }
}

fn size(tensor: &NewTensor, path: &Path) -> Result<u64, ModelError> {
    tensor.dtype.size(&tensor.shape).ok_or_else(|| ModelError::Header {
        path: path.to_owned(),
        field: format!("tensor '{}'", tensor.name),
        offset: LENGTH_BYTES,
        problem: format!("shape {:?} of {} overflows", tensor.shape, tensor.dtype),
    })
}

/// One tensor's entry. Written by hand from parts, because the order of keys in a `serde_json::Map` depends on how the
/// whole program is built, and the same tensors must give the same bytes everywhere.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'a str,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

fn header(
    metadata: &[(&str, String)],
    tensors: &[NewTensor],
    sizes: &[u64],
    path: &Path,
) -> Result<Vec<u8>, ModelError> {
    let failed = |error: serde_json::Error| ModelError::config(path, "header", error.to_string());
    let mut texts = BTreeMap::from([("format", "pt")]);
    texts.extend(metadata.iter().map(|(key, value)| (*key, value.as_str())));
    let mut json = format!("{{\"__metadata__\":{}", serde_json::to_string(&texts).map_err(failed)?);
    let mut begin = 0;
    for (NewTensor { name, dtype, shape }, size) in tensors.iter().zip(sizes) {
        let entry = Entry { dtype: dtype.as_str(), shape, data_offsets: [begin, begin + size] };
        json.push(',');
        json.push_str(&serde_json::to_string(name).map_err(failed)?);
        json.push(':');
        json.push_str(&serde_json::to_string(&entry).map_err(failed)?);
        begin += size;
    }
    json.push('}');
    // The format wants the data aligned to eight bytes, and pads the JSON with spaces for it.
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.into_bytes());
    Ok(out)
}

/// The most bytes of tensors in one file of a model, as Hugging Face's own tools split them.
const SHARD: u64 = 5_000_000_000;

/// A model's files being written: one, or where it has more than [`SHARD`] bytes shards and an index, like the originals.
#[derive(Debug)]
pub struct Shards {
    folder: PathBuf,
    metadata: Vec<(String, String)>,
    /// The files that are still to be begun, with their tensors.
    waiting: std::vec::IntoIter<(String, Vec<NewTensor>)>,
    /// The file being written, and how many of its tensors' bytes are still to come.
    open: Option<(Writer, u64)>,
    /// The index's text, where there are shards.
    index: Option<String>,
}

impl Shards {
    /// Begins the files in the existing folder. Tensors' bytes must follow in the same order.
    pub fn create(folder: &Path, metadata: &[(&str, String)], tensors: Vec<NewTensor>) -> Result<Self, ModelError> {
        Self::with_limit(folder, metadata, tensors, SHARD)
    }

    fn with_limit(
        folder: &Path,
        metadata: &[(&str, String)],
        tensors: Vec<NewTensor>,
        limit: u64,
    ) -> Result<Self, ModelError> {
        let sizes = tensors.iter().map(|tensor| size(tensor, folder)).collect::<Result<Vec<_>, _>>()?;
        let mut files: Vec<(u64, Vec<NewTensor>)> = Vec::new();
        for (tensor, &size) in tensors.into_iter().zip(&sizes) {
            match files.last_mut() {
                Some((bytes, file)) if *bytes + size <= limit => {
                    *bytes += size;
                    file.push(tensor);
                }
                _ => files.push((size, vec![tensor])),
            }
        }
        let count = files.len();
        let name = |at: usize| match count {
            0 | 1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", at + 1),
        };
        let named: Vec<_> = files.into_iter().enumerate().map(|(at, (_, tensors))| (name(at), tensors)).collect();
        let index = if count > 1 { Some(index(&named, sizes.iter().sum(), folder)?) } else { None };
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let mut shards = Self { folder: folder.to_owned(), metadata, waiting: named.into_iter(), open: None, index };
        shards.next()?;
        Ok(shards)
    }

    /// Begins the next file, if there is one.
    fn next(&mut self) -> Result<(), ModelError> {
        let Some((name, tensors)) = self.waiting.next() else { return Ok(()) };
        let path = self.folder.join(name);
        let bytes = tensors.iter().map(|tensor| size(tensor, &path)).sum::<Result<u64, _>>()?;
        let metadata: Vec<_> = self.metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        self.open = Some((Writer::create(&path, &metadata, &tensors)?, bytes));
        Ok(())
    }

    /// Appends bytes of the tensor `name`: all of them, or piece by piece.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        if matches!(self.open, Some((_, 0)))
            && let Some((full, _)) = self.open.take()
        {
            full.finish()?;
            self.next()?;
        }
        let Some((writer, left)) = &mut self.open else {
            return Err(ModelError::config(&self.folder, name, "came after the last tensor"));
        };
        writer.append(name, bytes)?;
        *left = left.saturating_sub(bytes.len() as u64);
        Ok(())
    }

    /// Ends the last file, writes the index, and brings both to the disk.
    pub fn finish(self) -> Result<(), ModelError> {
        if let Some((writer, _)) = self.open {
            writer.finish()?;
        }
        if let Some((name, _)) = self.waiting.as_slice().first() {
            return Err(ModelError::config(&self.folder, name, "its tensors were not written"));
        }
        let Some(index) = self.index else { return Ok(()) };
        let path = self.folder.join(INDEX);
        std::fs::write(&path, index).map_err(ModelError::io("write", &path))
    }
}

#[derive(Serialize)]
struct Index<'a> {
    metadata: TotalSize,
    weight_map: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct TotalSize {
    total_size: u64,
}

fn index(files: &[(String, Vec<NewTensor>)], total_size: u64, folder: &Path) -> Result<String, ModelError> {
    let places = files.iter().flat_map(|(file, tensors)| tensors.iter().map(move |tensor| (&*tensor.name, &**file)));
    let index = Index { metadata: TotalSize { total_size }, weight_map: places.collect() };
    let text = serde_json::to_string_pretty(&index);
    text.map(|text| text + "\n").map_err(|error| ModelError::config(folder, INDEX, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors::open_weights;

    fn tensors() -> Vec<NewTensor> {
        let tensor =
            |(name, rows): (&str, u64)| NewTensor { name: name.to_owned(), dtype: Dtype::F32, shape: vec![rows] };
        [("a", 2), ("b", 3), ("c", 1), ("d", 9)].map(tensor).to_vec()
    }

    fn write(limit: u64) -> (tempfile::TempDir, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let mut shards = Shards::with_limit(folder.path(), &[("seed", "1".to_owned())], tensors(), limit).unwrap();
        for tensor in tensors() {
            for byte in 0..tensor.shape[0] * 4 {
                shards.append(&tensor.name, &[u8::try_from(byte).unwrap()]).unwrap();
            }
        }
        shards.finish().unwrap();
        let weights = open_weights(folder.path()).unwrap();
        assert!(weights.files.iter().all(|(_, header)| header.metadata.contains(&("seed".into(), "1".into()))));
        let file = |(path, header): &(PathBuf, super::super::Header)| {
            let names: Vec<_> = header.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            format!("{}: {}", path.file_name().unwrap().to_str().unwrap(), names.join(" "))
        };
        let files = weights.files.iter().map(file).collect();
        (folder, files)
    }

    #[test]
    fn a_small_model_is_one_file_without_an_index() {
        let (folder, files) = write(60);
        assert_eq!(files, ["model.safetensors: a b c d"]);
        assert!(!folder.path().join(INDEX).exists());
    }

    #[test]
    fn a_large_model_is_cut_between_tensors_and_has_an_index() {
        let (folder, files) = write(24);
        let expected = [
            "model-00001-of-00002.safetensors: a b c",
            // Larger than the limit by itself.
            "model-00002-of-00002.safetensors: d",
        ];
        assert_eq!(files, expected);
        let index = std::fs::read_to_string(folder.path().join(INDEX)).unwrap();
        assert!(index.contains("\"total_size\": 60") && index.contains("\"d\": \"model-00002-of-00002.safetensors\""));
    }

    #[test]
    fn files_that_were_not_written_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut shards = Shards::with_limit(folder.path(), &[], tensors(), 8).unwrap();
        shards.append("a", &[0; 8]).unwrap();
        let error = shards.finish().unwrap_err().to_string();
        assert!(error.contains("model-00002-of-00004.safetensors"), "{error}");
    }
}
