//! `regatta models verify`.

use regatta_models::library::Library;
use regatta_models::verify::{self, Tokenizer};

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;

/// Checks every file of the library.
pub(super) fn run(folders: &Folders) -> anyhow::Result<Exit> {
    let library = Library::open(&folders.model_root()?)?;
    let installed = library.list()?;
    if installed.is_empty() {
        return Err(BadInput(format!("no weights in {}", library.root().display())).into());
    }
    let mut exit = Exit::Done;
    for listed in installed {
        match library.find_hashed(&listed.artifact).and_then(|found| verify::verify(&found.path(), Tokenizer::Optional))
        {
            Ok(_) => output::line(&format!("ok      {}", listed.artifact)),
            Err(error) => {
                exit = Exit::Failed;
                output::line(&format!("broken  {}: {error}", listed.artifact));
            }
        }
    }
    Ok(exit)
}
