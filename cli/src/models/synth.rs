//! `regatta models synth`: made-up weights in the shape of a model of the manifest, or of any `config.json`.

use std::path::{Path, PathBuf};

use clap::Args;
use regatta_core::artifact::{Format, Precision};
use regatta_core::id::ModelId;
use regatta_core::model::Shape;

use super::{Common, worker};
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;

/// Flags of `regatta models synth`.
#[derive(Debug, Args)]
pub(crate) struct Synth {
    /// A model's id, or the path of a config.json whose shape to take
    #[arg(value_name = "MODEL|CONFIG.JSON")]
    shape: String,
    /// The id to give a config.json's shape (default: its folder's name)
    #[arg(long, value_name = "ID")]
    id: Option<ModelId>,
    /// safetensors, gguf or onnx (default: safetensors and gguf, or gguf where the precision is quantised)
    #[arg(long)]
    format: Option<Format>,
    /// f32 or f16; for gguf and safetensors also bf16, for gguf `q8_0`, `q4_1`, `q4_k_m`
    #[arg(long, default_value = "f16")]
    precision: Precision,
    /// The same seed gives the same numbers everywhere
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

/// What the weights take their shape from.
#[derive(Debug, PartialEq)]
enum Of {
    Model(ModelId),
    Config(PathBuf, ModelId),
}

/// Makes the weights, one format after the other.
pub(super) async fn run(synth: &Synth, folders: &Folders) -> anyhow::Result<Exit> {
    let of = of(&synth.shape, synth.id.as_ref())?;
    let shape = match &of {
        Of::Model(_) => None,
        Of::Config(path, _) => Some(regatta_models::config::read(path).map_err(|error| BadInput(error.to_string()))?),
    };
    for format in formats(synth.format, synth.precision) {
        let mut arguments =
            ["--format", format.as_str(), "--precision", synth.precision.as_str()].map(str::to_owned).to_vec();
        arguments.extend(["--seed".to_owned(), synth.seed.to_string()]);
        let id = match &of {
            Of::Model(id) => id,
            Of::Config(path, id) => {
                arguments.extend(["--config".to_owned(), path.display().to_string()]);
                id
            }
        };
        let exit = worker::run(folders, "make", id, None, &arguments, &synth.common).await?;
        if exit != Exit::Done {
            return Ok(exit);
        }
    }
    if let (Of::Config(path, id), Some(shape)) = (&of, shape) {
        output::note("to use it in scenarios, put this into a manifest and name it with --models:");
        output::note(&manifest_entry(id, path, &shape));
    }
    Ok(Exit::Done)
}

/// Both formats where both can hold it.
fn formats(asked: Option<Format>, precision: Precision) -> Vec<Format> {
    match asked {
        Some(format) => vec![format],
        None if precision.is_quantised() => vec![Format::Gguf],
        None => vec![Format::Safetensors, Format::Gguf],
    }
}

/// Ids have no separators and don't end in `.json`, so nothing is both.
fn of(shape: &str, id: Option<&ModelId>) -> Result<Of, BadInput> {
    let path = Path::new(shape);
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if !is_json && !shape.contains(['/', '\\']) {
        let model = shape.parse().map_err(|error| BadInput(format!("{error}; or give the path of a config.json")))?;
        return match id {
            None => Ok(Of::Model(model)),
            Some(_) => Err(BadInput("--id is for a config.json; a model of the manifest has its own".to_owned())),
        };
    }
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let id = match id {
        Some(id) => id.clone(),
        None => named_after(&path)
            .ok_or_else(|| BadInput(format!("the folder of {} makes no id: give one with --id", path.display())))?,
    };
    Ok(Of::Config(path, id))
}

/// An id after the folder in which a file is.
fn named_after(path: &Path) -> Option<ModelId> {
    let folder = path.canonicalize().ok()?.parent()?.file_name()?.to_str()?.to_lowercase();
    let known = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    folder.chars().map(known).collect::<String>().trim_start_matches(['.', '-', '_']).parse().ok()
}

/// The shape as a manifest has it.
fn manifest_entry(id: &ModelId, path: &Path, shape: &Shape) -> String {
    let Shape { architecture, hidden, intermediate, layers, heads, kv_heads, vocab, context, .. } = shape;
    let window = shape.sliding_window.map(|window| format!("sliding_window = {window}\n")).unwrap_or_default();
    format!(
        "schema = 1\n\n[model.\"{id}\"]\ndescription = {:?}\nlicence = \"none\"\narchitecture = \"{architecture}\"\n\
         hidden = {hidden}\nintermediate = {intermediate}\nlayers = {layers}\nheads = {heads}\nkv_heads = {kv_heads}\n\
         vocab = {vocab}\ncontext = {context}\nrope_theta = {:?}\nnorm_eps = {:?}\ntied_embeddings = {}\n{window}",
        format!("the shape of {}", path.display()),
        shape.rope_theta,
        shape.norm_eps,
        shape.tied_embeddings,
    )
}

#[cfg(test)]
mod tests {
    use regatta_core::model::parse_manifest;

    use super::*;

    #[test]
    fn plain_precisions_are_made_in_both_formats_and_quantised_ones_in_gguf() {
        assert_eq!(formats(None, Precision::F16), [Format::Safetensors, Format::Gguf]);
        assert_eq!(formats(None, Precision::Q4KM), [Format::Gguf]);
        assert_eq!(formats(Some(Format::Safetensors), Precision::F32), [Format::Safetensors]);
    }

    #[test]
    fn a_path_is_told_from_an_id_and_gives_one() {
        assert_eq!(of("tinyllama-1.1b", None).unwrap(), Of::Model("tinyllama-1.1b".parse().unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("My Model");
        std::fs::create_dir(&mine).unwrap();
        let config = mine.join("config.json");
        std::fs::write(&config, "{}").unwrap();
        let expected = Of::Config(config.clone(), "my-model".parse().unwrap());
        assert_eq!(of(config.to_str().unwrap(), None).unwrap(), expected);
        assert_eq!(of(mine.to_str().unwrap(), None).unwrap(), expected);
        let other = "other".parse().unwrap();
        assert_eq!(of("no/config.json", Some(&other)).unwrap(), Of::Config("no/config.json".into(), other.clone()));
        assert!(of("no/config.json", None).unwrap_err().to_string().contains("--id"));
        assert!(of("tinyllama-1.1b", Some(&other)).unwrap_err().to_string().contains("--id"));
        assert!(of("UPPER", None).unwrap_err().to_string().contains("config.json"));
    }

    #[test]
    fn the_entry_for_a_manifest_is_one() {
        let models = parse_manifest("models.toml", regatta_core::model::BUILT_IN_MODELS).unwrap();
        for model in models {
            let text = manifest_entry(&model.id, Path::new("a\"b/config.json"), &model.shape);
            let read = parse_manifest("mine.toml", &text).unwrap();
            assert_eq!((&read[0].id, &read[0].shape), (&model.id, &model.shape), "{text}");
        }
    }
}
