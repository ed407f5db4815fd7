//! Any bytes as a GGUF file: the header is read or refused, and what is read keeps its promises.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use regatta_models::config;
use regatta_models::gguf::Header;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzzed.gguf");
    let size = bytes.len() as u64;
    let Ok(header) = Header::read(&mut &*bytes, size, path) else { return };
    assert!(header.alignment.is_power_of_two() && header.data_start % header.alignment == 0);
    for tensor in &header.tensors {
        assert_eq!(tensor.kind.size(&tensor.dims), Some(tensor.bytes));
        assert_eq!(tensor.offset % header.alignment, 0);
        assert!(header.data_start + tensor.offset + tensor.bytes <= size, "a tensor reaches out of the file");
    }
    assert!(header.tensors.windows(2).all(|pair| pair[0].offset + pair[0].bytes <= pair[1].offset), "an overlap");
    // What the header says of the network is either a shape whose sizes can be computed, or refused.
    if let Ok(shape) = config::from_gguf(&header, path) {
        let _ = shape.parameters();
    }
});
