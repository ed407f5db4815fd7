//! Taking files that are there already into the library: those that a person has, and those that were fetched.

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
/// must fit where there is one. Weights that say they are made up stay synthetic ones.
pub fn import(library: &Library, source: &Path, model: &Model, replace: bool) -> Result<Installed, ModelError> {
    let verified = verify::verify(source, Tokenizer::Optional)?;
    check_shape(source, model, &verified)?;
    let precision = precision(source, &verified)?;
    let (weights, seed) = (verified.seed.map_or(Weights::Real, |_| Weights::Synthetic), verified.seed);
    let artifact = ArtifactRef { model: model.id.clone(), weights, format: verified.format, precision };
    library.install(&artifact, Install { seed, replace }, |folder| copy(source, verified.format, folder))
}

/// Installs files that were fetched as the real weights of `model`: `write` puts them into the folder that it is given,
/// under the names that they have in a library. They are verified before they are found under the artifact's name.
pub fn install_fetched(
    library: &Library,
    artifact: &ArtifactRef,
    model: &Model,
    replace: bool,
    write: impl FnOnce(&Path) -> Result<(), ModelError>,
) -> Result<Installed, ModelError> {
    library.install(artifact, Install { seed: None, replace }, |folder| {
        write(folder)?;
        let verified = verify::verify(folder, Tokenizer::Optional)?;
        if let Some(seed) = verified.seed {
            return Err(ModelError::MadeUp { path: folder.to_owned(), seed });
        }
        check_shape(folder, model, &verified)
    })
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
            Format::Onnx => vec!["f32", "f16"],
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
            // What says that it is made up stays so, with its seed.
            assert_eq!((installed.manifest.artifact.weights, installed.manifest.seed), (Weights::Synthetic, Some(1)));
            assert_eq!(library.find(&installed.manifest.artifact).unwrap(), installed);
        }
        let precisions: Vec<Precision> =
            library.list().unwrap().into_iter().map(|listed| listed.artifact.precision).collect();
        assert_eq!(precisions, [Precision::Bf16, Precision::Q8_0]);
    }

    #[test]
    fn made_up_weights_are_not_taken_for_trained_ones() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(folder.path()).unwrap();
        let model = model(testing::llama());
        let artifact =
            |format| ArtifactRef { model: model.id.clone(), weights: Weights::Real, format, precision: Precision::F16 };
        let gguf = |folder: &Path| {
            synth::gguf(&model.shape, "tiny", 7, Precision::F16, &folder.join(crate::gguf::FILE), &mut |_, _| {})
        };
        let safetensors = |folder: &Path| synth::safetensors(&model.shape, 7, Precision::F16, folder, &mut |_, _| {});
        let errors = [
            install_fetched(&library, &artifact(Format::Gguf), &model, false, gguf).unwrap_err(),
            install_fetched(&library, &artifact(Format::Safetensors), &model, false, safetensors).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("made up (seed 7)"), "{error}");
        }
        assert!(library.list().unwrap().is_empty());
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
