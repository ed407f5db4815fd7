//! Tiny networks for tests.

use regatta_core::model::{Architecture, Shape};

/// Grouped-query attention: four heads share two key/value heads.
pub(crate) fn llama() -> Shape {
    Shape {
        architecture: Architecture::Llama,
        hidden: 64,
        intermediate: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocab: 300,
        context: 128,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied_embeddings: false,
        sliding_window: None,
    }
}

/// The same as a Mistral with a window.
pub(crate) fn mistral() -> Shape {
    Shape { architecture: Architecture::Mistral, sliding_window: Some(32), rope_theta: 1e6, ..llama() }
}

/// The same with one matrix for input and output.
pub(crate) fn tied() -> Shape {
    Shape { tied_embeddings: true, ..llama() }
}
