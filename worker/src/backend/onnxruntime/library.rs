//! ONNX Runtime's library: where it is found, which version it is, and what is said where there is none.
//!
//! It is never linked, so that a worker starts without it, and never fetched by a build. What is looked at, in this order:
//! the file that `REGATTA_ONNXRUNTIME` names, the worker's own folder, the system's folders of libraries. A file that is
//! named and can't be loaded is an error; nothing else is tried in its place.

#![expect(unsafe_code, reason = "a library is loaded, and asked for its version through its C interface")]

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::{CStr, c_char, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;

/// The variable that names the library.
const VARIABLE: &str = "REGATTA_ONNXRUNTIME";

/// How a library is got.
const FIX: &str = "get it from the Python package onnxruntime (on Windows onnxruntime-directml: onnxruntime.dll and \
                   DirectML.dll), from its folder onnxruntime/capi, and put it beside the worker or name it in \
                   REGATTA_ONNXRUNTIME";

/// The library of this process, loaded for good.
#[derive(Debug)]
pub(super) struct Library {
    /// The file, or the name by which the system found it.
    pub(super) path: PathBuf,
    /// As it says itself, such as `1.32.0`.
    pub(super) version: String,
    /// What it says of its build.
    pub(super) build: String,
    /// What sessions are made in.
    pub(super) environment: Environment,
}

/// Why there is no library.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum LibraryError {
    /// None was found.
    #[error("ONNX Runtime's library was not found: looked for {} (fix: {FIX})", .0.join(", "))]
    Absent(Vec<String>),
    /// One was found that is none, or can't be used.
    #[error("ONNX Runtime's library {} can't be used: {reason} (fix: {FIX})", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was said.
        reason: String,
    },
}

/// The library, loaded at the first call.
pub(super) fn library() -> Result<&'static Library, LibraryError> {
    static LIBRARY: OnceLock<Result<Library, LibraryError>> = OnceLock::new();
    LIBRARY.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Library, LibraryError> {
    let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = named {
        return open(&path);
    }
    let folder = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    if let Some(path) = folder.as_deref().and_then(beside) {
        return open(&path);
    }
    let system = PathBuf::from(name());
    open(&system).map_err(|_| {
        let beside = folder.map(|folder| folder.join(name()).display().to_string());
        let places = beside.into_iter().chain([format!("{} where the system has its libraries", name())]);
        LibraryError::Absent(places.collect())
    })
}

/// The library's name without a version: `libonnxruntime.so`, `onnxruntime.dll`.
fn name() -> String {
    format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}")
}

/// The library in a folder; its version may be in its name, on Linux at the end and on macOS before it. Of several the last
/// by name.
fn beside(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(name());
    if plain.is_file() {
        return Some(plain);
    }
    let start = format!("{DLL_PREFIX}onnxruntime.");
    let is_library = |name: &str| name.starts_with(&start) && name.contains(DLL_SUFFIX);
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries.filter(|entry| is_library(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).max()
}

fn open(path: &Path) -> Result<Library, LibraryError> {
    let unusable = |reason: String| LibraryError::Unusable { path: path.to_owned(), reason };
    let version = version(path).map_err(|error| unusable(error.to_string()))?;
    let environment = ort::init_from(path).map_err(|error| unusable(error.to_string()))?;
    // It would tell its maker what is run.
    let environment = environment.with_telemetry(false).build().map_err(|error| unusable(error.to_string()))?;
    Ok(Library { path: path.to_owned(), version, build: ort::info().to_owned(), environment })
}

/// Which `DirectML.dll` Windows loads for a worker: the one beside it, else the one that came with Windows, which may be too
/// old for today's ONNX Runtime.
pub(super) fn directml() -> String {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("DirectML.dll"));
    let of_system = std::env::var_os("SystemRoot").map(|root| PathBuf::from(root).join("System32/DirectML.dll"));
    let found = beside.into_iter().chain(of_system).find_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes)));
    let Some((path, bytes)) = found else { return "DirectML.dll of the system".to_owned() };
    let version = file_version(&bytes).map_or_else(String::new, |version| format!(" {version}"));
    format!("DirectML{version} ({})", path.display())
}

/// The version in a Windows program's resources: `1.15.4.0`. It stands behind a signature (`VS_FIXEDFILEINFO`, winver.h) as four numbers of
/// 16 bits.
fn file_version(program: &[u8]) -> Option<String> {
    const SIGNATURE: [u8; 4] = 0xFEEF_04BD_u32.to_le_bytes();
    let at = program.windows(SIGNATURE.len()).position(|bytes| bytes == SIGNATURE)?;
    let number = |offset: usize| {
        let bytes = program.get(at + offset..at + offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let (high, low) = (number(8)?, number(12)?);
    Some(format!("{}.{}.{}.{}", high >> 16, high & 0xFFFF, low >> 16, low & 0xFFFF))
}

/// The beginning of the one table that the library exports, which has not changed since its first version.
#[repr(C)]
struct ApiBase {
    get_api: *const c_void,
    get_version: unsafe extern "C" fn() -> *const c_char,
}

/// The version that the library says it has. `ort` reads it too, but keeps it to itself.
fn version(path: &Path) -> Result<String, libloading::Error> {
    // SAFETY: the library is the one that a person has put in place for this program; loading it runs its initialisers, as
    // linking it would. It is loaded for good right after, so that nothing outlives it.
    let library = unsafe { libloading::Library::new(path) }?;
    // SAFETY: the function has had this signature in every version of the library.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase") }?;
    // SAFETY: the table that comes back is static, and its second entry returns static text.
    let version = unsafe { CStr::from_ptr(((*base()).get_version)()) };
    Ok(version.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_windows_library_is_in_its_resources() {
        let mut program = b"MZ and much else ".to_vec();
        for number in [0xFEEF_04BD_u32, 0x0001_0000, 0x0001_000F, 0x0004_0000] {
            program.extend(number.to_le_bytes());
        }
        assert_eq!(file_version(&program).as_deref(), Some("1.15.4.0"));
        assert_eq!(file_version(&program[..program.len() - 1]), None);
        assert_eq!(file_version(b"MZ"), None);
    }

    #[test]
    fn a_library_beside_the_worker_is_found_with_and_without_a_version() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(beside(folder.path()), None);
        for other in ["libonnxruntime_providers_shared.so", "onnxruntime.lib", "onnxruntime.txt"] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        assert_eq!(beside(folder.path()), None);
        let versioned = folder.path().join(format!("{DLL_PREFIX}onnxruntime.1.32.0{DLL_SUFFIX}"));
        fs::write(&versioned, "").unwrap();
        assert_eq!(beside(folder.path()), Some(versioned));
        let plain = folder.path().join(name());
        fs::write(&plain, "").unwrap();
        assert_eq!(beside(folder.path()), Some(plain));
    }

    #[test]
    fn what_is_no_library_is_said_with_its_path_and_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name());
        fs::write(&path, "not a library").unwrap();
        let error = open(&path).map(|library| library.version).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains("REGATTA_ONNXRUNTIME"), "{error}");
        let absent = LibraryError::Absent(vec!["a".to_owned(), "b".to_owned()]).to_string();
        assert!(absent.contains("looked for a, b") && absent.contains("Python package onnxruntime"), "{absent}");
    }
}
