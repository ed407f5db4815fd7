//! Reading back: whether a graph is one that was written here, and its weights are where it says.
//!
//! First the places of weights are checked, because that is where a hostile file reaches out; then tensors against the
//! shape in `config.json`; then the whole file byte for byte against what is written for that shape.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path};

use prost::Message;
use regatta_core::id::shown;
use regatta_core::model::Shape;

use super::proto::{EXTERNAL, Graph, Model, Tensor};
use super::{DATA, FILE, Number, START, graph};
use crate::config;
use crate::error::ModelError;
use crate::layout;
use crate::synth::SEED_KEY;

/// The longest graph that is read, in bytes. A network of a thousand layers has ten million.
const MAX_GRAPH: u64 = 64 << 20;

/// A graph that was found good, and what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Reader {
    /// The network's dimensions.
    pub shape: Shape,
    /// How its weights are stored.
    pub number: Number,
    /// The seed of weights that are made up.
    pub seed: Option<u64>,
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
}

impl Reader {
    /// Reads the graph in `folder`, which also holds `config.json` and the weights, and checks all three against each other.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(FILE);
        let bytes = bytes(&path)?;
        let model = decode(&bytes, &path)?;
        let graph = model.graph.as_ref().ok_or_else(|| ModelError::config(&path, "graph", "missing"))?;
        check_places(graph, folder, &path)?;
        let shape = config::read(&folder.join(config::CONFIG))?;
        let number = number(graph, &path)?;
        check_tensors(graph, &shape, &path)?;
        let seed = model.metadata_props.iter().find(|entry| entry.key == SEED_KEY);
        let seed = seed.and_then(|entry| entry.value.parse().ok());
        if graph::model(&shape, number, seed).encode_to_vec() != bytes {
            return Err(ModelError::ForeignGraph { path, what: difference(&model, &shape, number, seed) });
        }
        let specs = layout::tensors(&shape);
        let (places, size) = graph::places(&specs, number);
        check_data(&folder.join(DATA), size)?;
        Ok(Self {
            number,
            seed,
            tensors: specs.len() as u64,
            weight_bytes: places.iter().map(|place| place.length).sum(),
            shape,
        })
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = File::open(path).map_err(ModelError::io("open", path))?;
    let size = file.metadata().map_err(ModelError::io("read", path))?.len();
    if size > MAX_GRAPH {
        return Err(ModelError::config(path, "size", format!("{size} bytes; a graph has at most {MAX_GRAPH}")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_GRAPH).read_to_end(&mut bytes).map_err(ModelError::io("read", path))?;
    Ok(bytes)
}

fn decode(bytes: &[u8], path: &Path) -> Result<Model, ModelError> {
    let failed = |problem: String| ModelError::Header {
        path: path.to_owned(),
        field: "ONNX model".to_owned(),
        offset: 0,
        problem,
    };
    Model::decode(bytes).map_err(|error| failed(error.to_string()))
}

/// Weights are in the one file beside the graph, or in the graph itself.
fn check_places(graph: &Graph, folder: &Path, path: &Path) -> Result<(), ModelError> {
    graph.initializer.iter().try_for_each(|tensor| check_location(tensor, folder, path))
}

fn check_location(tensor: &Tensor, folder: &Path, path: &Path) -> Result<(), ModelError> {
    if tensor.data_location != Some(EXTERNAL) && tensor.external_data.is_empty() {
        return Ok(());
    }
    let location = tensor.external("location").unwrap_or_default();
    let refused = |problem| ModelError::Escape { path: path.to_owned(), name: location.to_owned(), problem };
    let mut parts = Path::new(location).components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
        return Err(refused("is named as a file of weights, and is not a plain file name in the graph's own folder"));
    };
    if location != DATA {
        return Err(refused("is named as a file of weights; only model.onnx.data is read"));
    }
    match folder.join(location).symlink_metadata() {
        Ok(metadata) if !metadata.is_file() => Err(refused("is not a plain file")),
        // A file that isn't there is told when its size is looked at.
        _ => Ok(()),
    }
}

/// The numbers of the embeddings, which every network has.
fn number(graph: &Graph, path: &Path) -> Result<Number, ModelError> {
    let weights = graph.initializer.iter().find(|tensor| tensor.data_location == Some(EXTERNAL));
    let found = weights.and_then(|tensor| Number::of_data_type(tensor.data_type));
    found.ok_or_else(|| ModelError::Storage {
        path: path.to_owned(),
        what: "the network".to_owned(),
        found: weights.map_or("no tensors in another file".to_owned(), |t| format!("ONNX type {}", t.data_type)),
        supported: vec!["f32", "f16"],
    })
}

/// The weights are those of the shape, by name and dimensions.
fn check_tensors(graph: &Graph, shape: &Shape, path: &Path) -> Result<(), ModelError> {
    let specs = layout::tensors(shape);
    let found = |name: &str| graph.initializer.iter().find(|tensor| tensor.name == name);
    let missing: Vec<String> =
        specs.iter().filter(|spec| found(&spec.hf).is_none()).map(|spec| spec.hf.clone()).collect();
    let wrong = specs.iter().filter_map(|spec| {
        let (expected, tensor) = (graph::dims(spec), found(&spec.hf)?);
        (tensor.dims != expected).then(|| format!("{}: shape {:?}, expected {expected:?}", spec.hf, tensor.dims))
    });
    let wrong: Vec<String> = wrong.collect();
    if missing.is_empty() && wrong.is_empty() {
        return Ok(());
    }
    Err(ModelError::Tensors { path: path.to_owned(), missing, wrong })
}

fn check_data(path: &Path, expected: u64) -> Result<(), ModelError> {
    let found = path.symlink_metadata().map_err(ModelError::io("find", path))?.len();
    if found == expected {
        return Ok(());
    }
    let what = "its graph's weights".to_owned();
    Err(ModelError::Truncated { path: path.to_owned(), what, expected, found })
}

/// What a person is told of a graph that isn't ours.
fn difference(found: &Model, shape: &Shape, number: Number, seed: Option<u64>) -> String {
    let expected = graph::model(shape, number, seed);
    if found.producer_name != expected.producer_name {
        return format!("it says that '{}' wrote it", shown(&found.producer_name));
    }
    if found.producer_version != expected.producer_version {
        let (found, expected) = (shown(&found.producer_version), &expected.producer_version);
        return format!("it is of version {found} of Regatta's graphs, this Regatta writes {expected}");
    }
    let nodes = |model: &Model| model.graph.as_ref().map(|graph| graph.node.clone()).unwrap_or_default();
    let (found, expected) = (nodes(found), nodes(&expected));
    let at = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    match at.or_else(|| (found.len() != expected.len()).then_some(found.len().min(expected.len()))) {
        Some(at) => {
            let name = found.get(at).map_or("its end", |node| node.name.as_str());
            format!("it differs from node {} on, '{}'", at + 1, shown(name))
        }
        None => "it has fields that are not written here".to_owned(),
    }
}

/// Whether these are the first bytes of a graph that was written here.
pub(crate) fn is_ours(start: &[u8]) -> bool {
    start.starts_with(&START)
}

/// Whether these may be the first bytes of anybody's ONNX file: its version, then another field of the model.
pub(crate) fn is_anybodys(start: &[u8]) -> bool {
    matches!(start, [0x08, 1..=20, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72, ..])
}
