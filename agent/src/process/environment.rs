//! Which environment variables a worker gets to see: those it needs to start and to find its devices, and what is set for
//! every worker.
//!
//! An allow-list, because what an engine reads from its environment changes what is measured (CUDA graphs, thread
//! counts), and because tokens of the person who started the agent are none of a worker's business.

use std::ffi::{OsStr, OsString};

/// Names that are passed on, without regard to case.
const ALLOWED: [&str; 35] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "TMP",
    "TEMP",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "SYSTEMROOT",
    "WINDIR",
    "COMSPEC",
    "PATHEXT",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "PROGRAMDATA",
    "NUMBER_OF_PROCESSORS",
    "PROCESSOR_ARCHITECTURE",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "XDG_RUNTIME_DIR",
    // Which library the worker loads; it says so in what it tells of its engine.
    "REGATTA_ONNXRUNTIME",
    // Where the one for CUDA looks for its libraries.
    "REGATTA_CUDA_LIB",
    // The script of the fake backend: no engine reads it.
    "REGATTA_FAKE",
];

/// Beginnings of names that change how engines work. They are not passed on, and that is said.
const TELLING: [&str; 7] = ["GGML_", "LLAMA_", "CANDLE_", "OMP_", "ORT_", "MTL_", "CUDA_"];

/// Names that change how engines work and begin like nothing else.
const TELLING_NAMES: [&str; 3] = ["RAYON_NUM_THREADS", "MKL_NUM_THREADS", "GLIBC_TUNABLES"];

/// What every worker gets: glibc asks the kernel for huge pages. With small ones a decode rate in host memory depends on where
/// in the machine's memory the weights happen to lie, from one process to the next. It can be asked for from outside only.
#[cfg(target_os = "linux")]
pub(crate) const GIVEN: [(&str, &str); 1] = [("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")];

/// What every worker gets: nothing is known that would help.
#[cfg(not(target_os = "linux"))]
pub(crate) const GIVEN: [(&str, &str); 0] = [];

/// The variables of `all` that a worker gets.
pub(crate) fn allowed(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    all.filter(|(name, _)| is_allowed(name)).collect()
}

fn is_allowed(name: &OsStr) -> bool {
    ALLOWED.iter().any(|allowed| name.eq_ignore_ascii_case(allowed))
}

/// Names among `all` that would have changed what is measured, had they been passed on. Whether they have a value doesn't
/// matter: of some, engines ask only whether they are there (`GGML_CUDA_DISABLE_GRAPHS`).
pub(crate) fn withheld<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let telling = |name: &&str| TELLING.iter().any(|t| name.starts_with(t)) || TELLING_NAMES.contains(name);
    let telling = |name: &&str| telling(name) && !is_allowed(OsStr::new(name));
    let mut names: Vec<_> = all.filter(telling).map(str::to_owned).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_the_list_gets_through() {
        let all = ["PATH", "Path", "AWS_SECRET_ACCESS_KEY", "GGML_CUDA_DISABLE_GRAPHS", "OMP_NUM_THREADS"];
        let passed = allowed(all.iter().map(|name| (OsString::from(name), OsString::new())));
        let names: Vec<_> = passed.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["PATH", "Path"]);
        assert_eq!(withheld(all.into_iter()), ["GGML_CUDA_DISABLE_GRAPHS", "OMP_NUM_THREADS"]);
        assert_eq!(withheld(["CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH"].into_iter()), ["CUDA_CACHE_PATH"]);
    }
}
