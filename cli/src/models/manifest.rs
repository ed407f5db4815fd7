//! The manifest that a command works with, and the lock file that belongs to it.

use std::path::{Path, PathBuf};

use regatta_core::id::ModelId;
use regatta_core::model::{BUILT_IN_MODELS, Model, parse_manifest};

use crate::exit::BadInput;

/// The lock file of the built-in manifest, in the model root.
const LOCK: &str = "models.lock";

/// The models of a manifest, the built-in one where none is named.
pub(super) fn read(file: Option<&Path>) -> Result<Vec<Model>, BadInput> {
    let (name, text) = match file {
        None => ("models.toml".to_owned(), BUILT_IN_MODELS.to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| BadInput(format!("failed to read {}: {error}", path.display())))?;
            (path.display().to_string(), text)
        }
    };
    parse_manifest(&name, &text).map_err(|errors| BadInput(errors.to_string()))
}

/// One model of a manifest.
pub(super) fn find(models: Vec<Model>, id: &ModelId) -> Result<Model, BadInput> {
    let known: Vec<String> = models.iter().map(|model| model.id.to_string()).collect();
    let unknown = || BadInput(format!("no model '{id}' in the manifest; there are {}", known.join(", ")));
    models.into_iter().find(|model| model.id == *id).ok_or_else(unknown)
}

/// The lock file: beside a manifest that is named, in the model root for the built-in one.
pub(super) fn lock_of(file: Option<&Path>, root: &Path) -> PathBuf {
    file.map_or_else(|| root.join(LOCK), |file| file.with_extension("lock"))
}
