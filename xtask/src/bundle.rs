//! `bundle`: regatta with a worker for NVIDIA's GPUs, in an archive for machines that have a driver and CUDA's libraries.
//!
//! It is built without a GPU. Where there is no CUDA toolkit either, one comes from Python packages into the user's cache, and the
//! driver's library, which only a driver brings, is stood in for by an empty one while linking.

mod toolkit;

use std::path::{Path, PathBuf};

use self::toolkit::Toolkit;
use crate::command::{Failure, Run, cargo, root, target_dir};
use crate::platforms::{make_executable, write};

/// No archive is larger: it is carried to machines by hand.
const MAX_BYTES: u64 = 60_000_000;

/// The level of the processor's instructions: machines with such GPUs have it.
const CPU: &str = "x86-64-v3";

/// Named, so that flags are for what is built and not for programs that build it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The program in the archive, behind the script that starts it.
const PROGRAM: &str = "regatta-worker-cuda";

/// Builds a bundle for the GPUs of one generation.
pub(crate) fn run(arguments: &[&str]) -> Result<(), Failure> {
    let arch = match arguments {
        ["--cuda", "--arch", arch] => generation(arch)?,
        _ => {
            return Err(Failure(format!(
                "bundle {}: use --cuda --arch sm_NN, such as sm_90 for H100 and H200, sm_89 for Ada, sm_86 for Ampere's workstation cards",
                arguments.join(" ")
            )));
        }
    };
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Failure("bundles are built on Linux on x86-64, for the same".to_owned()));
    }
    let toolkit = toolkit::find()?;
    let built = build(&toolkit, arch)?;
    let folder = lay_out(&toolkit, arch, &built)?;
    let archive = pack(&folder)?;
    println!("{}", said_by(&folder.join(PROGRAM)));
    println!("archive: {}", archive.display());
    Ok(())
}

/// `90` of `sm_90`.
fn generation(arch: &str) -> Result<u32, Failure> {
    let number = arch.strip_prefix("sm_").and_then(|number| number.parse().ok());
    number
        .filter(|number| (50..=130).contains(number))
        .ok_or_else(|| Failure(format!("--arch {arch}: a generation of GPUs is sm_ and its number, such as sm_90")))
}

/// What is built for a GPU is kept apart from what is built for this machine, and kept: llama.cpp's kernels take half an hour.
fn build_dir() -> PathBuf {
    target_dir().join("bundle")
}

fn build(toolkit: &Toolkit, arch: u32) -> Result<PathBuf, Failure> {
    let target = build_dir().join(format!("sm_{arch}"));
    let home = &toolkit.folder;
    let libraries = [home.join("lib64"), home.join("lib64/stubs")].map(|path| path.display().to_string()).join(":");
    let path = std::env::var("PATH").unwrap_or_default();
    cargo(&["build", "--release", "--package", "regatta", "--package", "regatta-worker", "--bins"])
        .args(&["--target", TARGET, "--features", "regatta-worker/cuda"])
        .env("CARGO_TARGET_DIR", &target)
        .env("CUDA_HOME", home)
        .env("CUDA_PATH", home)
        .env("CUDA_ROOT", home)
        .env("CUDAToolkit_ROOT", home)
        .env("CUDA_COMPUTE_CAP", arch.to_string())
        .env("CMAKE_CUDA_ARCHITECTURES", arch.to_string())
        .env("CMAKE_CUDA_COMPILER", home.join("bin/nvcc"))
        .env("PATH", format!("{}:{path}", home.join("bin").display()))
        .env("LIBRARY_PATH", &libraries)
        .env("RUSTFLAGS", link_flags(home))
        .run()?;
    Ok(target.join(TARGET).join("release"))
}

/// llama.cpp's crate asks for static libraries of CUDA, which are empty here: what they hold comes from the shared ones.
fn link_flags(home: &Path) -> String {
    let search = [home.join("lib64"), home.join("lib64/stubs")].map(|path| format!("-L{}", path.display()));
    let libraries = ["-lcublas", "-lcublasLt", "-lcudart", "-lcuda"].map(str::to_owned);
    let arguments: Vec<String> =
        search.iter().chain(&libraries).map(|argument| format!("-Clink-arg={argument}")).collect();
    format!("-Ctarget-cpu={CPU} {}", arguments.join(" "))
}

/// The folder that is packed: `regatta`, the worker behind its script, a scenario, what to do.
fn lay_out(toolkit: &Toolkit, arch: u32, built: &Path) -> Result<PathBuf, Failure> {
    let name = format!("regatta-{}-linux-x86_64-cuda{}-sm_{arch}", env!("CARGO_PKG_VERSION"), toolkit.version);
    let folder = build_dir().join(name);
    let failed = |error: std::io::Error| Failure(format!("failed to write to {}: {error}", folder.display()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir_all(folder.join("lib")).map_err(failed)?;
    let copies = [
        (built.join("regatta"), folder.join("regatta")),
        (built.join("regatta-worker"), folder.join("lib").join(PROGRAM)),
        (root().join("scenarios/gpu-smoke.toml"), folder.join("gpu-smoke.toml")),
        (root().join("LICENSE-MIT"), folder.join("LICENSE-MIT")),
        (root().join("LICENSE-APACHE"), folder.join("LICENSE-APACHE")),
    ];
    for (from, to) in &copies {
        std::fs::copy(from, to).map_err(|error| Failure(format!("failed to copy {}: {error}", from.display())))?;
    }
    for program in [&copies[0].1, &copies[1].1] {
        Run::new("strip").arg(program).run()?;
    }
    let needed = needed(&copies[1].1)?;
    let script = launcher(&needed, &toolkit.version, &hash(&copies[1].1)?);
    write(&folder.join(PROGRAM), &script)?;
    make_executable(&folder.join(PROGRAM))?;
    write(&folder.join("README.txt"), &readme(toolkit, arch, &needed))?;
    Ok(folder)
}

/// CUDA's libraries that a program asks the loader for.
fn needed(program: &Path) -> Result<Vec<String>, Failure> {
    let text = Run::new("readelf").arg("--dynamic").arg(program).output();
    let text = text.ok_or_else(|| Failure(format!("readelf says nothing of {}", program.display())))?;
    Ok(needed_in(&text))
}

fn needed_in(dynamic: &str) -> Vec<String> {
    let library = |line: &str| {
        let name = line.split_once("(NEEDED)")?.1.split_once('[')?.1.split_once(']')?.0;
        (name.starts_with("libcu") || name.starts_with("libnv")).then(|| name.to_owned())
    };
    dynamic.lines().filter_map(library).collect()
}

/// The hash of a program. The script names it, so that scripts of different builds differ: agents tell builds by what they start.
fn hash(program: &Path) -> Result<String, Failure> {
    let sum = Run::new("sha256sum").arg(program).output();
    let sum = sum.and_then(|line| line.split_whitespace().next().map(str::to_owned));
    sum.ok_or_else(|| Failure(format!("sha256sum says nothing of {}", program.display())))
}

/// A script that starts the program with the host's libraries. The loader alone would name the first one that is missing and nothing
/// else, and would not look where CUDA's own installer and Python's packages put them.
fn launcher(needed: &[String], version: &str, build: &str) -> String {
    let fixes = format!(
        "of CUDA {version}: from NVIDIA's installer, a package such as libcublas, or python3 -m pip install \
         'cuda-toolkit[cudart,cublas,curand]=={version}.*'; name its folder in REGATTA_CUDA_LIB where it is not found"
    );
    format!(
        r#"#!/bin/sh
# Starts the worker for NVIDIA's GPUs with this machine's CUDA libraries, or says which one is missing.
# Build {build}
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
places=$REGATTA_CUDA_LIB
for place in /usr/local/cuda/lib64 /usr/local/cuda-{version}/lib64 /usr/local/cuda-{version}/targets/x86_64-linux/lib /opt/cuda/lib64 \
    /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib/wsl/lib /usr/local/nvidia/lib64 \
    /usr/lib/python3*/site-packages/nvidia/cu13/lib /usr/local/lib/python3*/*-packages/nvidia/cu13/lib \
    "$HOME"/.local/lib/python3*/site-packages/nvidia/cu13/lib; do
  [ -d "$place" ] && places=$places:$place
done
has() {{
  all=$places:$LD_LIBRARY_PATH
  IFS=:
  for place in $all; do
    if [ -e "$place/$1" ]; then unset IFS; return 0; fi
  done
  unset IFS
  {{ ldconfig -p || /sbin/ldconfig -p; }} 2>/dev/null | grep -q "$1"
}}
missing=
for library in {libraries}; do
  has "$library" || missing="$missing $library"
done
case $missing in
  '') ;;
  *libcuda.so*) echo "no CUDA driver: this machine lacks$missing (fix: install NVIDIA's driver; libraries {fixes})" >&2; exit 1 ;;
  *) echo "CUDA's libraries are not all here: this machine lacks$missing (fix: libraries {fixes})" >&2; exit 1 ;;
esac
LD_LIBRARY_PATH=${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}${{places#:}} exec "$here/lib/{PROGRAM}" "$@"
"#,
        libraries = needed.join(" "),
    )
}

fn readme(toolkit: &Toolkit, arch: u32, needed: &[String]) -> String {
    let version = &toolkit.version;
    format!(
        "Regatta for NVIDIA GPUs of generation sm_{arch}, on Linux on x86-64 with AVX2.\n\n\
         What this machine has to have: NVIDIA's driver for CUDA {version} or newer, and CUDA's libraries:\n  {}\n\
         From Python's packages they come with\n  \
         python3 -m pip install 'cuda-toolkit[cudart,cublas,curand]=={version}.*'\n\
         Where they are not found, name their folder in REGATTA_CUDA_LIB.\n\n\
         See what is here, then measure weights that are made up, without a network:\n  \
         ./regatta devices\n  ./regatta run gpu-smoke.toml\n",
        needed.join("\n  ")
    )
}

/// The archive, no larger than it may be.
fn pack(folder: &Path) -> Result<PathBuf, Failure> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let archive = folder.with_file_name(format!("{name}.tar.xz"));
    Run::new("tar")
        .args(&["--create", "--owner=0", "--group=0", "--sort=name", "--use-compress-program=xz -T0 -6", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(build_dir())
        .arg(&name)
        .run()?;
    let bytes = std::fs::metadata(&archive).map_or(0, |data| data.len());
    println!("{:.1} MB, of {:.1} MB unpacked", megabytes(bytes), megabytes(size_of(folder)));
    if bytes > MAX_BYTES {
        return Err(Failure(format!(
            "{} has {:.1} MB, more than the 60 it may have",
            archive.display(),
            megabytes(bytes)
        )));
    }
    Ok(archive)
}

#[expect(clippy::cast_precision_loss, reason = "for people, with one digit after the point")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn size_of(folder: &Path) -> u64 {
    let size =
        |path: PathBuf| if path.is_dir() { size_of(&path) } else { path.metadata().map_or(0, |data| data.len()) };
    crate::fixtures::entries(folder).map(size).sum()
}

/// What the worker says of itself here, or why it can't.
fn said_by(worker: &Path) -> String {
    let output = std::process::Command::new(worker).arg("probe").output();
    match output {
        Ok(output) if output.status.success() => format!("probe: {}", String::from_utf8_lossy(&output.stdout).trim()),
        Ok(output) => format!("probe, {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("probe: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_named_as_nvidia_does() {
        assert_eq!(generation("sm_90").unwrap(), 90);
        for odd in ["90", "sm_", "sm_9000", "compute_90"] {
            let error = generation(odd).unwrap_err().to_string();
            assert!(error.contains(odd) && error.contains("sm_90"), "{error}");
        }
        assert!(run(&["--rocm"]).unwrap_err().to_string().contains("--cuda --arch"));
    }

    #[test]
    fn cuda_s_libraries_are_those_a_program_needs() {
        let text = " 0x01 (NEEDED)  Shared library: [libcuda.so.1]\n 0x01 (NEEDED)  Shared library: [libcublas.so.13]\n\
                    0x01 (NEEDED)  Shared library: [libc.so.6]\n 0x0e (SONAME) Library soname: [libcu.so]\n";
        assert_eq!(needed_in(text), ["libcuda.so.1", "libcublas.so.13"]);
    }

    #[cfg(unix)]
    #[test]
    fn the_script_names_what_is_missing_and_starts_the_program_where_nothing_is() {
        let folder = std::env::temp_dir().join(format!("regatta-bundle-{}", std::process::id()));
        let (lib, libraries) = (folder.join("lib"), folder.join("cuda"));
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::create_dir_all(&libraries).unwrap();
        let needed = ["libcuda.so.1", "libregatta-none.so.13"].map(str::to_owned);
        let script = folder.join(PROGRAM);
        write(&script, &launcher(&needed, "13.0", "0")).unwrap();
        write(&lib.join(PROGRAM), "#!/bin/sh\necho \"started $1\"\n").unwrap();
        make_executable(&script).unwrap();
        make_executable(&lib.join(PROGRAM)).unwrap();
        let start = || {
            let mut command = std::process::Command::new(&script);
            command.arg("probe").env("REGATTA_CUDA_LIB", &libraries).output().unwrap()
        };
        write(&libraries.join("libcuda.so.1"), "").unwrap();
        let output = start();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains("lacks libregatta-none.so.13 (fix:"), "{said}");
        write(&libraries.join("libregatta-none.so.13"), "").unwrap();
        assert_eq!(String::from_utf8_lossy(&start().stdout), "started probe\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
