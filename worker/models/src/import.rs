//! Taking files that a person already has into the library, as the real weights of a model.

use std::fs;
use std::path::Path;

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::model::Model;

use crate::config;
use crate::error::ModelError;
use crate::library::{Install, Installed, Library};
use crate::verify::{self, Tokenizer, Verified};

/// Copies the weights at `source` (a GGUF file, or a folder of safetensors with `config.json`) into the library.
///
/// They must be the network that `model` describes, in a precision that has a name here. A tokenizer is optional, but
/// must fit where there is one.
pub fn import(library: &Library, source: &Path, model: &Model, replace: bool) -> Result<Installed, ModelError> {
    let verified = verify::verify(source, Tokenizer::Optional)?;
    check_shape(source, model, &verified)?;
    let precision = precision(source, &verified)?;
    let artifact = ArtifactRef { model: model.id.clone(), weights: Weights::Real, format: verified.format, precision };
    library.install(&artifact, Install { seed: None, replace }, |folder| copy(source, verified.format, folder))
}

fn check_shape(source: &Path, model: &Model, verified: &Verified) -> Result<(), ModelError> {
    let differences = config::differences(&verified.shape, &model.shape, verified.format == Format::Gguf);
    if differences.is_empty() {
        return Ok(());
    }
    Err(ModelError::OtherModel { path: source.to_owned(), model: model.id.to_string(), differences })
}

fn precision(source: &Path, verified: &Verified) -> Result<Precision, ModelError> {
    verified.precision.ok_or_else(|| ModelError::Storage {
        path: source.to_owned(),
        what: "the model".to_owned(),
        found: "a mixture or a type without a name here".to_owned(),
        supported: match verified.format {
            Format::Gguf => verify::FILE_TYPES.iter().map(|(_, precision)| precision.as_str()).collect(),
            Format::Safetensors => vec!["f32", "f16", "bf16"],
        },
    })
}

fn copy(source: &Path, format: Format, folder: &Path) -> Result<(), ModelError> {
    for (path, name) in verify::files(source, format)? {
        fs::copy(&path, folder.join(name)).map_err(ModelError::io("copy", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use regatta_core::artifact::Precision;

    use super::*;
    use crate::{synth, testing};

    fn model(shape: regatta_core::model::Shape) -> Model {
        Model {
            id: "tiny".parse().unwrap(),
            description: String::new(),
            licence: "MIT".to_owned(),
            shape,
            artifacts: Vec::new(),
        }
    }

    #[test]
    fn a_file_from_elsewhere_is_found_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(&folder.path().join("root")).unwrap();
        let shape = testing::mistral();
        let gguf = folder.path().join("downloaded.Q8_0.gguf");
        synth::gguf(&shape, "tiny", 1, Precision::Q8_0, &gguf, &mut |_, _| {}).unwrap();
        let safetensors = folder.path().join("checkpoint");
        fs::create_dir(&safetensors).unwrap();
        synth::safetensors(&shape, 1, Precision::Bf16, &safetensors, &mut |_, _| {}).unwrap();
        for source in [&gguf, &safetensors] {
            let installed = import(&library, source, &model(shape.clone()), false).unwrap();
            assert_eq!(library.find(&installed.manifest.artifact).unwrap(), installed);
        }
        let precisions: Vec<Precision> =
            library.list().unwrap().into_iter().map(|listed| listed.artifact.precision).collect();
        assert_eq!(precisions, [Precision::Bf16, Precision::Q8_0]);
    }

    #[test]
    fn another_network_is_refused_with_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(&folder.path().join("root")).unwrap();
        let gguf = folder.path().join("x.gguf");
        synth::gguf(&testing::llama(), "tiny", 1, Precision::F16, &gguf, &mut |_, _| {}).unwrap();
        let mut other = testing::llama();
        other.layers = 3;
        let error = import(&library, &gguf, &model(other), false).unwrap_err().to_string();
        assert!(error.contains("not the model tiny: layers 2, expected 3"), "{error}");
        assert!(library.list().unwrap().is_empty());
    }
}
