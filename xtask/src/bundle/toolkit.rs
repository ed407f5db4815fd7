//! A CUDA toolkit: the one that is installed, or one from NVIDIA's Python packages, laid out as `nvcc` and `CMake` expect it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::command::{Failure, Run, exists};
use crate::fixtures::{cache_dir, entries, python};
use crate::platforms::write;

/// NVIDIA's packages: a compiler, headers and the shared libraries.
const PACKAGES: &str = "cuda-toolkit[nvcc,cudart,cublas,curand,nvrtc,cccl,crt]==13.0.*";
const VERSION: &str = "13.0";

/// Static libraries that llama.cpp's crate names on Linux and that the packages lack. Empty ones satisfy the linker, which takes what
/// they would hold from the shared libraries.
const STATIC: [&str; 4] = ["cudart_static", "cublas_static", "cublasLt_static", "culibos"];

/// A toolkit that can compile and link.
pub(super) struct Toolkit {
    pub(super) folder: PathBuf,
    /// Such as `13.0`.
    pub(super) version: String,
}

/// The toolkit that `CUDA_HOME` names, or one from Python's packages.
pub(super) fn find() -> Result<Toolkit, Failure> {
    if let Some(folder) = std::env::var_os("CUDA_HOME").map(PathBuf::from) {
        let version = version(&folder.join("bin/nvcc"))?;
        return Ok(Toolkit { folder, version });
    }
    let packages = cache_dir().join(format!("cuda-{VERSION}"));
    let done = packages.join("complete");
    if !done.is_file() {
        println!("fetching {PACKAGES} with pip (1.2 GB unpacked, NVIDIA's licence) …");
        python(&["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&packages).arg(PACKAGES).run()?;
        write(&done, "")?;
    }
    let folder = packages.join("toolkit");
    lay_out(&packages.join("nvidia/cu13"), &folder)?;
    let version = version(&folder.join("bin/nvcc"))?;
    Ok(Toolkit { folder, version })
}

/// `13.0` of what `nvcc --version` says.
fn version(nvcc: &Path) -> Result<String, Failure> {
    let text = Run::new(nvcc).args(&["--version"]).output().unwrap_or_default();
    let named = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    named.map(str::to_owned).ok_or_else(|| Failure(format!("{} does not say its version", nvcc.display())))
}

/// Links into the packages: `lib64` with names without versions, as linkers look for them, and stand-ins for what is not there.
fn lay_out(packages: &Path, toolkit: &Path) -> Result<(), Failure> {
    let libraries = toolkit.join("lib64");
    let stubs = libraries.join("stubs");
    std::fs::create_dir_all(&stubs).map_err(|error| Failure(format!("{}: {error}", stubs.display())))?;
    for name in ["bin", "include", "nvvm"] {
        link(&packages.join(name), &toolkit.join(name))?;
    }
    link(&libraries, &toolkit.join("lib"))?;
    for file in entries(&packages.join("lib")) {
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
        link(&file, &libraries.join(name))?;
        if let Some((plain, _)) = name.split_once(".so.") {
            link(&file, &libraries.join(format!("{plain}.so")))?;
        }
    }
    for name in STATIC {
        let archive = libraries.join(format!("lib{name}.a"));
        if !archive.exists() {
            compile(
                &stubs,
                name,
                "void regatta_stands_in(void) {}\n",
                &["-c", "-Dregatta_stands_in=regatta_stands_in_NAME"],
            )?;
            Run::new("ar").arg("rcs").arg(&archive).arg(stubs.join(format!("{name}.o"))).run()?;
        }
    }
    driver(packages, &stubs)
}

/// An empty `libcuda.so` with every function that the driver's header names.
fn driver(packages: &Path, stubs: &Path) -> Result<(), Failure> {
    let library = stubs.join("libcuda.so");
    if library.exists() {
        return Ok(());
    }
    let header = packages.join("include/cuda.h");
    let text = std::fs::read_to_string(&header).map_err(|error| Failure(format!("{}: {error}", header.display())))?;
    let empty = |name: &&str| format!("void {name}(void) {{}}");
    let functions = functions(&text).iter().map(empty).collect::<Vec<String>>().join("\n");
    compile(stubs, "libcuda", &functions, &["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"])?;
    std::fs::rename(stubs.join("libcuda.o"), &library)
        .map_err(|error| Failure(format!("{}: {error}", library.display())))
}

/// The functions that a header of the driver names, in all their versions.
fn functions(header: &str) -> BTreeSet<&str> {
    let words = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.strip_prefix("cu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase())))
        .collect()
}

/// Compiles a text to `NAME.o` in this folder.
fn compile(folder: &Path, name: &str, text: &str, flags: &[&str]) -> Result<(), Failure> {
    let (source, object) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.o")));
    write(&source, text)?;
    let compiler = if exists("cc") { "cc" } else { "gcc" };
    let flags: Vec<String> = flags.iter().map(|flag| flag.replace("NAME", name)).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Run::new(compiler).args(&flags).arg("-w").arg("-o").arg(&object).arg(&source).run()
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> Result<(), Failure> {
    if at.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(to, at).map_err(|error| Failure(format!("{}: {error}", at.display())))
}

#[cfg(not(unix))]
fn link(_: &Path, at: &Path) -> Result<(), Failure> {
    Err(Failure(format!("{}: no links on this system", at.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_driver_are_told_from_its_types() {
        let header = "#define cuMemAlloc cuMemAlloc_v2\nCUresult CUDAAPI cuInit(unsigned int Flags);\ntypedef cuuint64_t CUdeviceptr;\n";
        assert_eq!(functions(header), BTreeSet::from(["cuInit", "cuMemAlloc", "cuMemAlloc_v2"]));
    }
}
