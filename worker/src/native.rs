//! llama.cpp's functions that its Rust crate doesn't offer: what it was built with, where its devices are, and quantising. The
//! only module that calls C directly.

#![expect(unsafe_code, reason = "C functions that have no safe wrapper")]

use std::ffi::{CStr, CString, c_char};
use std::path::Path;

use llama_cpp_sys_2 as sys;
use regatta_core::artifact::Precision;
use regatta_core::device::{DeviceId, DeviceKind};
use regatta_core::worker::ListedDevice;
use regatta_models::gguf::{Block, GgmlType};

use crate::backend::BackendError;
use crate::backend::llama_cpp::engine;

/// What ggml calls the accelerators that it has code for. Apple's are named for the framework's prefix.
pub(crate) const REGISTRIES: [(&str, DeviceKind); 3] =
    [("CUDA", DeviceKind::Cuda), ("MTL", DeviceKind::Metal), ("Vulkan", DeviceKind::Vulkan)];

/// The accelerators that ggml lists, numbered among those of a kind, as [`REGISTRIES`] names the kinds.
pub(crate) fn accelerators() -> Vec<ListedDevice> {
    let mut listed: Vec<ListedDevice> = Vec::new();
    // SAFETY: the function takes nothing and returns a number.
    for index in 0..unsafe { sys::ggml_backend_dev_count() } {
        // SAFETY: devices live as long as the program, and the index is below their count. A struct of numbers and pointers may
        // be all zeros, and ggml fills it in.
        let (registry, props) = unsafe {
            let device = sys::ggml_backend_dev_get(index);
            let mut props = std::mem::zeroed();
            sys::ggml_backend_dev_get_props(device, &raw mut props);
            (text(sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(device))), props)
        };
        let Some((_, kind)) = REGISTRIES.into_iter().find(|(name, _)| *name == registry) else { continue };
        let before = listed.iter().filter(|device| device.id.kind == kind).count();
        listed.push(ListedDevice {
            id: DeviceId { kind, index: u32::try_from(before).unwrap_or(u32::MAX) },
            name: text(props.description),
            memory_bytes: u64::try_from(props.memory_total).ok().filter(|&bytes| bytes > 0),
            pci_address: Some(text(props.device_id)).filter(|id| !id.is_empty()),
        });
    }
    listed
}

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

/// Appends whole rows of `cols` numbers as blocks of `kind`, made by the function that llama.cpp's quantiser calls for its
/// own threads. False for rows that are no whole blocks.
pub fn quantize_rows(kind: GgmlType, numbers: &[f32], cols: usize, out: &mut Vec<u8>) -> bool {
    let Block { elements, bytes } = kind.block();
    let (Ok(elements), Ok(bytes), Ok(columns)) =
        (usize::try_from(elements), usize::try_from(bytes), i64::try_from(cols))
    else {
        return false;
    };
    if cols == 0 || !cols.is_multiple_of(elements) || !numbers.len().is_multiple_of(cols) {
        return false;
    }
    let (start, size) = (out.len(), numbers.len() / elements * bytes);
    let Ok(rows) = i64::try_from(numbers.len() / cols) else { return false };
    out.resize(start + size, 0);
    // SAFETY: the source has rows times columns numbers, the destination as many bytes as ggml's blocks for these take,
    // which was computed above from the same block sizes; no importance matrix is given, and the kinds that are quantised
    // here need none. The function keeps no pointer and may be called by several threads.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            kind.id(),
            numbers.as_ptr(),
            out[start..].as_mut_ptr().cast(),
            0,
            rows,
            columns,
            std::ptr::null(),
        )
    };
    written == size
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

#[cfg(test)]
mod tests {
    use regatta_models::codec;

    use super::*;

    /// Numbers of blocks as ggml itself reads them.
    fn theirs(kind: GgmlType, blocks: &[u8], count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count];
        // SAFETY: the traits are constants of the program; the blocks hold as many numbers as the output has room for.
        unsafe {
            let traits = &*sys::ggml_get_type_traits(kind.id());
            traits.to_float.unwrap()(blocks.as_ptr().cast(), out.as_mut_ptr(), i64::try_from(count).unwrap());
        }
        out
    }

    #[test]
    fn blocks_are_read_bit_for_bit_as_ggml_reads_them() {
        engine().unwrap();
        // Waves of many sizes, and steps, so that scales and minima take many values.
        let number = |i: u16| (f32::from(i) * 0.37).sin() * (1.0 + f32::from(i % 97)) - f32::from(i % 13);
        let numbers: Vec<f32> = (0..4096).map(number).collect();
        for kind in [
            GgmlType::Q4_0,
            GgmlType::Q4_1,
            GgmlType::Q5_0,
            GgmlType::Q8_0,
            GgmlType::Q4K,
            GgmlType::Q5K,
            GgmlType::Q6K,
        ] {
            let mut blocks = Vec::new();
            assert!(quantize_rows(kind, &numbers, 512, &mut blocks), "{kind}");
            let mut ours = vec![0.0; numbers.len()];
            assert!(codec::decode(kind, &blocks, &mut ours), "{kind}");
            let theirs = theirs(kind, &blocks, numbers.len());
            assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| ours.to_bits() == theirs.to_bits()), "{kind}");
        }
    }

    #[test]
    fn our_eight_bit_blocks_are_theirs() {
        let numbers: Vec<f32> = (0..1024u16).map(|i| (f32::from(i) * 0.11).cos() * f32::from(i % 31)).collect();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        assert!(codec::encode(GgmlType::Q8_0, &numbers, &mut ours));
        assert!(quantize_rows(GgmlType::Q8_0, &numbers, 256, &mut theirs));
        assert!(ours == theirs);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_declined() {
        assert!(!quantize_rows(GgmlType::Q4K, &[0.0; 128], 128, &mut Vec::new()));
        assert!(!quantize_rows(GgmlType::Q4_0, &[0.0; 96], 64, &mut Vec::new()));
        assert!(!quantize_rows(GgmlType::Q4_0, &[], 0, &mut Vec::new()));
    }
}
