//! Which tensors a Llama-type network has: their names in both formats, their sizes, and the order of their rows.
//!
//! Rotary positions turn pairs of numbers of each attention head. Safetensors files (in Hugging Face's layout) pair
//! number `j` of a head with number `j + d/2`; GGUF's `llama` architecture pairs `2j` with `2j + 1`. So the rows of the
//! query and key matrices are in another order in each format, head by head. With grouped-query attention, the key
//! matrix has `kv_heads` heads and is reordered by those. Whole rows move, so quantised rows can be moved as they are.

use regatta_core::model::Shape;

/// What a tensor is for, which decides its numbers when it is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One row per token: the network's input.
    Embedding,
    /// Factors of an RMS norm: one row.
    Norm,
    /// A matrix inside a layer.
    Linear,
    /// The matrix that brings what attention found back into the residual stream.
    AttentionOutput,
    /// One row per token: the network's output.
    Output,
}

/// One tensor of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in safetensors files.
    pub hf: String,
    /// Its name in GGUF files.
    pub gguf: String,
    /// What it is for.
    pub role: Role,
    /// Number of outputs; 1 for norms, which have one dimension only.
    pub rows: u64,
    /// Number of inputs.
    pub cols: u64,
    /// Rows of one attention head, where GGUF orders rows within each head differently.
    pub head: Option<u64>,
}

impl TensorSpec {
    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.rows * self.cols
    }

    /// Dimensions as safetensors files have them, row length last.
    pub fn shape(&self) -> Vec<u64> {
        match self.role {
            Role::Norm => vec![self.cols],
            _ => vec![self.rows, self.cols],
        }
    }

    /// Dimensions as GGUF files have them, row length first.
    pub fn dims(&self) -> Vec<u64> {
        let mut dims = self.shape();
        dims.reverse();
        dims
    }

    /// The row of the safetensors tensor that stands at `row` in GGUF.
    pub fn hf_row(&self, row: u64) -> u64 {
        self.head.map_or(row, |head| within_head(row, head, |at| (at % 2) * (head / 2) + at / 2))
    }

    /// The row of the GGUF tensor that stands at `row` in safetensors: the inverse of [`Self::hf_row`].
    pub fn gguf_row(&self, row: u64) -> u64 {
        self.head.map_or(row, |head| within_head(row, head, |at| (at % (head / 2)) * 2 + at / (head / 2)))
    }
}

fn within_head(row: u64, head: u64, reorder: impl Fn(u64) -> u64) -> u64 {
    row - row % head + reorder(row % head)
}

/// Every tensor of a network of this shape, in the order in which both formats' files are written here.
pub fn tensors(shape: &Shape) -> Vec<TensorSpec> {
    let [hidden, vocab] = [shape.hidden, shape.vocab].map(u64::from);
    let mut all = vec![spec("model.embed_tokens", "token_embd", Role::Embedding, vocab, hidden)];
    for layer in 0..shape.layers {
        all.extend(layer_tensors(shape, layer));
    }
    all.push(spec("model.norm", "output_norm", Role::Norm, 1, hidden));
    if !shape.tied_embeddings {
        all.push(spec("lm_head", "output", Role::Output, vocab, hidden));
    }
    all
}

fn layer_tensors(shape: &Shape, layer: u32) -> Vec<TensorSpec> {
    let [hidden, inner, head] = [shape.hidden, shape.intermediate, shape.head_dim()].map(u64::from);
    let queries = u64::from(shape.heads) * head;
    let keys = u64::from(shape.kv_heads) * head;
    let norm = |hf: &str, gguf: &str| in_layer(layer, hf, gguf, Role::Norm, 1, hidden);
    let linear = |hf: &str, gguf: &str, rows, cols| in_layer(layer, hf, gguf, Role::Linear, rows, cols);
    vec![
        norm("input_layernorm", "attn_norm"),
        TensorSpec { head: Some(head), ..linear("self_attn.q_proj", "attn_q", queries, hidden) },
        TensorSpec { head: Some(head), ..linear("self_attn.k_proj", "attn_k", keys, hidden) },
        linear("self_attn.v_proj", "attn_v", keys, hidden),
        TensorSpec { role: Role::AttentionOutput, ..linear("self_attn.o_proj", "attn_output", hidden, queries) },
        norm("post_attention_layernorm", "ffn_norm"),
        linear("mlp.gate_proj", "ffn_gate", inner, hidden),
        linear("mlp.up_proj", "ffn_up", inner, hidden),
        linear("mlp.down_proj", "ffn_down", hidden, inner),
    ]
}

fn in_layer(layer: u32, hf: &str, gguf: &str, role: Role, rows: u64, cols: u64) -> TensorSpec {
    spec(&format!("model.layers.{layer}.{hf}"), &format!("blk.{layer}.{gguf}"), role, rows, cols)
}

fn spec(hf: &str, gguf: &str, role: Role, rows: u64, cols: u64) -> TensorSpec {
    TensorSpec { hf: format!("{hf}.weight"), gguf: format!("{gguf}.weight"), role, rows, cols, head: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn the_tensors_have_as_many_weights_as_the_shape_says() {
        for shape in [testing::llama(), testing::mistral(), testing::tied()] {
            let elements: u64 = tensors(&shape).iter().map(TensorSpec::elements).sum();
            assert_eq!(elements, shape.parameters());
        }
    }

    #[test]
    fn rows_are_reordered_as_llama_cpp_converts_them() {
        // What `w.reshape(heads, 2, d/2, …).swapaxes(1, 2)` does to the rows of two heads of four.
        let spec = TensorSpec { head: Some(4), ..spec("q", "q", Role::Linear, 8, 1) };
        let order: Vec<u64> = (0..8).map(|row| spec.hf_row(row)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn keys_are_reordered_by_the_rows_of_a_head_whatever_the_number_of_heads() {
        let shape = testing::llama();
        assert_ne!(shape.heads, shape.kv_heads);
        for spec in tensors(&shape).iter().filter(|spec| spec.head.is_some()) {
            assert_eq!(spec.head, Some(u64::from(shape.head_dim())));
            assert_eq!(spec.rows % u64::from(shape.head_dim()), 0);
        }
    }

    proptest! {
        #[test]
        fn there_and_back_is_where_it_was(heads in 1u64..9, half in 1u64..65, row in 0u64..1024) {
            let head = 2 * half;
            let row = row % (heads * head);
            let spec = TensorSpec { head: Some(head), ..spec("q", "q", Role::Linear, heads * head, 1) };
            prop_assert_eq!(spec.gguf_row(spec.hf_row(row)), row);
            prop_assert_eq!(spec.hf_row(spec.gguf_row(row)), row);
            prop_assert!(spec.hf_row(row) / head == row / head, "a row left its head");
        }
    }
}
