//! Any bytes as a safetensors file: the header is read or refused, and what is read covers the data exactly.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use regatta_models::safetensors::Header;

fuzz_target!(|bytes: &[u8]| {
    let size = bytes.len() as u64;
    let Ok(header) = Header::read(&mut &*bytes, size, Path::new("fuzzed.safetensors")) else { return };
    let mut next = 0;
    for tensor in &header.tensors {
        assert_eq!(tensor.dtype.size(&tensor.shape), Some(tensor.bytes()));
        assert_eq!(tensor.begin, next, "a hole or an overlap");
        next = tensor.end;
    }
    assert_eq!(header.data_start + next, size, "the tensors end before or after the file");
});
