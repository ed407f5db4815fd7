//! llama.cpp's functions that its Rust crate doesn't offer: what it was built with, and quantising a file. The only
//! module that calls C directly.

#![expect(unsafe_code, reason = "C functions that have no safe wrapper")]

use std::ffi::{CStr, CString, c_char};
use std::path::Path;

use llama_cpp_sys_2 as sys;
use regatta_core::artifact::Precision;

use crate::backend::BackendError;
use crate::backend::llama_cpp::engine;

/// Version of ggml, the library of kernels in llama.cpp.
pub fn ggml_version() -> String {
    // SAFETY: the function takes nothing and returns a constant of the program.
    text(unsafe { sys::ggml_version() })
}

/// What llama.cpp says it was built with: instruction sets and accelerators.
pub fn system_info() -> String {
    // SAFETY: the function returns a pointer into a buffer of its own that is never freed. It rewrites that buffer on
    // each call; a worker calls it from one thread at a time.
    text(unsafe { sys::llama_print_system_info() }).trim().trim_end_matches('|').trim().to_owned()
}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: llama.cpp's strings end in a zero and stay where they are; see the callers.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// Writes the GGUF file `from` in another precision to `to`, tensor types mixed as llama.cpp does it.
pub fn quantize(from: &Path, to: &Path, precision: Precision, threads: u32) -> Result<(), BackendError> {
    engine()?;
    let (input, output) = (c_path(from)?, c_path(to)?);
    // SAFETY: the function takes nothing and returns a plain struct.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.nthread = i32::try_from(threads).unwrap_or(0);
    params.ftype = file_type(precision);
    // SAFETY: both paths are valid strings that end in a zero, the parameters come from llama.cpp itself with numbers
    // changed only, and all three outlive the call.
    let code = unsafe { sys::llama_model_quantize(input.as_ptr(), output.as_ptr(), &raw const params) };
    if code == 0 {
        return Ok(());
    }
    Err(BackendError::engine(format!("llama.cpp can't write {} as {precision}: code {code}", from.display())))
}

fn c_path(path: &Path) -> Result<CString, BackendError> {
    let text = path.to_str().ok_or_else(|| BackendError::unsupported(format!("{}: not UTF-8", path.display())))?;
    CString::new(text).map_err(BackendError::unsupported)
}

fn file_type(precision: Precision) -> sys::llama_ftype {
    match precision {
        Precision::F32 => sys::LLAMA_FTYPE_ALL_F32,
        Precision::F16 => sys::LLAMA_FTYPE_MOSTLY_F16,
        Precision::Bf16 => sys::LLAMA_FTYPE_MOSTLY_BF16,
        Precision::Q8_0 => sys::LLAMA_FTYPE_MOSTLY_Q8_0,
        Precision::Q4_1 => sys::LLAMA_FTYPE_MOSTLY_Q4_1,
        Precision::Q4KM => sys::LLAMA_FTYPE_MOSTLY_Q4_K_M,
    }
}
