//! What the tests of this crate share: tiny models, and engines on them.

use std::path::{Path, PathBuf};

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::device::DeviceId;
use regatta_core::model::{Architecture, Model, Shape};
use regatta_models::library::{Install, Library};
use regatta_worker::artifacts;
use regatta_worker::backend::{Backend, Load, Plan, load};

pub(crate) const VOCAB: u32 = 320;

/// A network that takes milliseconds, with grouped-query attention.
pub(crate) fn llama() -> Shape {
    Shape {
        architecture: Architecture::Llama,
        hidden: 256,
        intermediate: 512,
        layers: 3,
        heads: 8,
        kv_heads: 2,
        vocab: VOCAB,
        context: 256,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied_embeddings: false,
        sliding_window: None,
    }
}

pub(crate) fn tied() -> Shape {
    Shape { tied_embeddings: true, kv_heads: 8, ..llama() }
}

pub(crate) fn mistral() -> Shape {
    Shape { architecture: Architecture::Mistral, rope_theta: 1_000_000.0, ..llama() }
}

pub(crate) fn model(id: &str, shape: Shape) -> Model {
    Model {
        id: id.parse().unwrap(),
        description: String::new(),
        licence: "none".to_owned(),
        shape,
        artifacts: Vec::new(),
    }
}

/// A library of its own for one test.
pub(crate) struct Harbour {
    _folder: tempfile::TempDir,
    pub(crate) library: Library,
}

impl Harbour {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(folder.path()).unwrap();
        Self { _folder: folder, library }
    }

    /// Makes synthetic weights and returns their folder.
    pub(crate) fn make(&self, model: &Model, format: Format, precision: Precision) -> PathBuf {
        let options = Install { seed: Some(7), replace: false };
        artifacts::make(&self.library, model, format, precision, options, &mut |_, _| {}).unwrap().folder
    }

    /// Makes synthetic weights and loads them.
    pub(crate) fn load(
        &self,
        backend: BackendKind,
        model: &Model,
        format: Format,
        precision: Precision,
    ) -> Box<dyn Backend> {
        let folder = self.make(model, format, precision);
        load_from(backend, model, Weights::Synthetic, format, precision, &folder)
    }
}

pub(crate) fn load_from(
    backend: BackendKind,
    model: &Model,
    weights: Weights,
    format: Format,
    precision: Precision,
    folder: &Path,
) -> Box<dyn Backend> {
    let artifact = ArtifactRef { model: model.id.clone(), weights, format, precision };
    let request = Load { backend, device: DeviceId::CPU, artifact, folder: folder.to_owned(), threads: 2 };
    load(&request).unwrap()
}

pub(crate) fn plan(batch: usize, prompt: usize, generate: usize) -> Plan {
    let number = |n: usize| u32::try_from(n).unwrap();
    Plan { name: "test".to_owned(), batch: number(batch), prompt: number(prompt), generate: number(generate), depth: 0 }
}

/// What a backend generates, sequence after sequence.
pub(crate) fn generate(backend: &mut dyn Backend, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let mut session = backend.open(&plan(prompts.len(), prompts[0].len(), count)).unwrap();
    let mut out = vec![Vec::new(); prompts.len()];
    let mut step = vec![0; prompts.len()];
    session.reset().unwrap();
    session.prefill(prompts).unwrap();
    for at in 0..count {
        if at > 0 {
            session.decode(&step.clone()).unwrap();
        }
        session.sample(&mut step).unwrap();
        out.iter_mut().zip(&step).for_each(|(out, id)| out.push(*id));
    }
    out
}

/// Logits after a prompt.
pub(crate) fn logits(backend: &mut dyn Backend, prompt: &[u32]) -> Vec<f32> {
    let mut session = backend.open(&plan(1, prompt.len(), 1)).unwrap();
    session.reset().unwrap();
    session.prefill(&[prompt.to_vec()]).unwrap();
    session.logits(0).unwrap()
}

/// The largest difference, relative to the largest logit.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(0.0f32, |scale, x| scale.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |far, (x, y)| far.max((x - y).abs())) / scale
}
