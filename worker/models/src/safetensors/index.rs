//! A model's safetensors files as a whole: one file, or shards with an index that says which tensor is where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Header, TensorInfo};
use crate::error::ModelError;

/// The file of a model that is in one piece.
pub const SINGLE: &str = "model.safetensors";

/// The index of a model in shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The longest index that is read, in bytes.
const MAX_INDEX: u64 = 64 << 20;

/// The headers of all files of a model.
#[derive(Debug)]
pub struct Weights {
    /// Files with their headers, by name.
    pub files: Vec<(PathBuf, Header)>,
}

impl Weights {
    /// Every tensor of every file.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.files.iter().flat_map(|(_, header)| &header.tensors)
    }

    /// What the files say under `key`, the first of them that says something.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let entries = self.files.iter().flat_map(|(_, header)| &header.metadata);
        entries.filter(|(found, _)| found == key).map(|(_, value)| value.as_str()).next()
    }
}

#[derive(Deserialize)]
struct Index {
    /// File name by tensor name.
    weight_map: BTreeMap<String, String>,
}

/// Reads and checks the headers of the safetensors model in `folder`.
pub fn open_weights(folder: &Path) -> Result<Weights, ModelError> {
    let index = folder.join(INDEX);
    let single = folder.join(SINGLE);
    if !single.exists() && index.exists() {
        return open_shards(folder, &index);
    }
    let header = Header::open(&single)?;
    Ok(Weights { files: vec![(single, header)] })
}

/// The names of the weight files (and of the index) of the safetensors model in `folder`.
pub(crate) fn file_names(folder: &Path, weights: &Weights) -> Vec<String> {
    let mut names: Vec<String> = weights
        .files
        .iter()
        .filter_map(|(path, _)| path.file_name().and_then(|name| name.to_str()).map(str::to_owned))
        .collect();
    if names != [SINGLE] && folder.join(INDEX).exists() {
        names.push(INDEX.to_owned());
    }
    names
}

fn open_shards(folder: &Path, index: &Path) -> Result<Weights, ModelError> {
    let map = read_index(index)?.weight_map;
    let names: BTreeSet<&str> = map.values().map(String::as_str).collect();
    if names.is_empty() {
        return Err(ModelError::config(index, "weight_map", "names no tensors"));
    }
    for name in &names {
        check_name(name, index)?;
    }
    let missing: Vec<String> =
        names.iter().filter(|name| !folder.join(name).is_file()).map(|&name| name.to_owned()).collect();
    if !missing.is_empty() {
        return Err(ModelError::MissingShards { path: index.to_owned(), missing });
    }
    let open = |name: &&str| {
        let path = folder.join(name);
        Header::open(&path).map(|header| (path, header))
    };
    let files = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    check_map(&map, &files, index)?;
    Ok(Weights { files })
}

fn read_index(path: &Path) -> Result<Index, ModelError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_INDEX).read_to_string(&mut text))
        .map_err(ModelError::io("read", path))?;
    serde_json::from_str(&text).map_err(|error| ModelError::config(path, "weight_map", error.to_string()))
}

/// A shard lies beside its index: its name is a plain file name on every platform.
fn check_name(name: &str, index: &Path) -> Result<(), ModelError> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0']);
    if plain && Path::new(name).extension().is_some_and(|extension| extension == "safetensors") {
        return Ok(());
    }
    Err(ModelError::Escape {
        path: index.to_owned(),
        name: name.to_owned(),
        problem: "is refused: shards are .safetensors files in the index's own folder, without a path",
    })
}

/// Every tensor is in the shard that the index names, and no shard has a tensor that the index doesn't.
fn check_map(map: &BTreeMap<String, String>, files: &[(PathBuf, Header)], index: &Path) -> Result<(), ModelError> {
    let found: BTreeMap<&str, &Path> = files
        .iter()
        .flat_map(|(path, header)| header.tensors.iter().map(move |tensor| (tensor.name.as_str(), path.as_path())))
        .collect();
    let is_there = |name: &str, file: &str| found.get(name).is_some_and(|path| path.ends_with(file));
    let missing =
        map.iter().filter(|(name, file)| !is_there(name, file)).map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let total: usize = files.iter().map(|(_, header)| header.tensors.len()).sum();
    let mut wrong: Vec<String> =
        found.keys().filter(|name| !map.contains_key(**name)).map(|name| format!("{name}: not in the index")).collect();
    if total > found.len() {
        wrong.push(format!("{} tensors occur in two shards", total - found.len()));
    }
    if missing.is_empty() && wrong.is_empty() {
        return Ok(());
    }
    Err(ModelError::Tensors { path: index.to_owned(), missing, wrong })
}
