//! The network as an ONNX graph: Llama, and Mistral with its sliding window.
//!
//! Why it is as it is:
//!
//! - **Plain operators** of opset 17 only. Every execution provider has them, `onnx.checker` knows them, and ONNX Runtime
//!   fuses what it can by itself. Its own fused attention is a contributed operator that other runtimes lack.
//! - **A cache of fixed size**, `past_key_values.N.key` and `.value`, into which new positions are written by `ScatterND`;
//!   `present.N.…` is the whole cache again. Whoever runs the graph may give one buffer for both: then nothing is
//!   copied and nothing grows. Positions that are not yet filled are masked, and must hold numbers (zeros will do).
//! - **Grouped queries** stand side by side: the queries that share a key/value head become rows of one product, so keys and
//!   values are never repeated.
//! - **No shape is computed.** All lengths come from the inputs' dimensions (a 0 or −1 of `Reshape`), so every node can run
//!   where the weights are, and with fixed dimensions everything is known before the first step, as DirectML wants it.
//! - **Matrices** inside layers are stored with inputs as rows, ready for `MatMul`; embeddings and the output matrix as in
//!   safetensors, because one may be the other.
//! - **Rotary positions and norms** are computed in 32 bits whatever the weights are.

use regatta_core::model::Shape;

use super::proto::{
    Attribute, Dimension, EXTERNAL, Entry, Graph, Model, Node, OperatorSet, Tensor, TensorShape, TensorType, Type,
    ValueInfo, number,
};
use super::{DATA, Number};
use crate::layout::{self, Role, TensorSpec};
use crate::synth::SEED_KEY;

/// The version of the graph: another one computes the same in another way.
const GRAPH_VERSION: &str = "1";

/// The file format of 2022, which knows opset 17.
const IR_VERSION: i64 = 8;

/// The operators' version.
const OPSET: i64 = 17;

/// What the graph's file begins with.
pub(crate) const PRODUCER: &str = "regatta";

/// Weights begin at multiples of this, so that they can be mapped into memory.
const ALIGNMENT: u64 = 4096;

/// Where a tensor's bytes are in [`DATA`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The places of all tensors, in order, and the size of the file.
pub(crate) fn places(specs: &[TensorSpec], number: Number) -> (Vec<Place>, u64) {
    let mut end = 0u64;
    let place = |spec: &TensorSpec| {
        let (offset, length) = (end.next_multiple_of(ALIGNMENT), spec.elements() * number.bytes());
        end = offset + length;
        Place { offset, length }
    };
    let places = specs.iter().map(place).collect();
    (places, end)
}

/// Whether a tensor's rows and columns are exchanged in the file.
pub(crate) fn is_transposed(spec: &TensorSpec) -> bool {
    matches!(spec.role, Role::Linear | Role::AttentionOutput)
}

/// Dimensions as the graph has them.
pub(super) fn dims(spec: &TensorSpec) -> Vec<i64> {
    let mut dims: Vec<i64> = spec.shape().into_iter().map(signed).collect();
    if is_transposed(spec) {
        dims.reverse();
    }
    dims
}

/// The graph of a network; its weights are in [`DATA`]. `seed` is said where they are made up.
pub(super) fn model(shape: &Shape, number: Number, seed: Option<u64>) -> Model {
    let metadata = seed.map(|seed| entry(SEED_KEY, &seed.to_string()));
    Model {
        ir_version: IR_VERSION,
        producer_name: PRODUCER.to_owned(),
        producer_version: GRAPH_VERSION.to_owned(),
        graph: Some(Builder::new(shape, number).network()),
        opset_import: vec![OperatorSet { domain: Some(String::new()), version: OPSET }],
        metadata_props: metadata.into_iter().collect(),
    }
}

fn entry(key: &str, value: &str) -> Entry {
    Entry { key: key.to_owned(), value: value.to_owned() }
}

/// Dimensions are checked to be small before a graph is built.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A dimension of an input or output: a number, or a name for what is known when it is run.
enum Length {
    Known(u32),
    Named(&'static str),
}

use Length::{Known, Named};

/// Nodes and constants in the order of their making. Values are known by name; each helper returns its result's.
struct Builder<'a> {
    shape: &'a Shape,
    number: Number,
    graph: Graph,
}

/// What all layers share.
struct Common {
    cos: String,
    sin: String,
    /// What is added to scores: nothing, or so little that nothing is left.
    mask: String,
}

impl<'a> Builder<'a> {
    fn new(shape: &'a Shape, number: Number) -> Self {
        let mut builder = Self { shape, number, graph: Graph { name: "network".to_owned(), ..Graph::default() } };
        let specs = layout::tensors(shape);
        let (places, _) = places(&specs, number);
        builder.graph.initializer.extend(specs.iter().zip(&places).map(|(spec, place)| weights(spec, place, number)));
        builder
    }

    fn network(mut self) -> Graph {
        self.inputs();
        let common = self.common();
        let mut residual = self.node("embed", "Gather", &["model.embed_tokens.weight", "input_ids"], &[]);
        for layer in 0..self.shape.layers {
            residual = self.layer(layer, &residual, &common);
        }
        self.head(&residual);
        self.graph
    }

    fn inputs(&mut self) {
        let heads = Known(self.shape.kv_heads);
        let ints = |name: &str, dims: &[Length]| value(name, number::INT64, dims);
        self.graph.input.extend([
            ints("input_ids", &[Named("batch"), Named("sequence")]),
            ints("position_ids", &[Named("sequence")]),
            ints("cache_positions", &[Named("capacity")]),
            ints("cache_slots", &[Named("batch"), heads, Named("sequence"), Known(3)]),
        ]);
    }

    /// A cache as input and output, and the node that writes into it.
    fn cached(&mut self, layer: u32, what: &str, new: &str) -> String {
        let (past, present) = (format!("past_key_values.{layer}.{what}"), format!("present.{layer}.{what}"));
        let heads = Known(self.shape.kv_heads);
        let dims = [Named("batch"), heads, Named("capacity"), Known(self.shape.head_dim())];
        let kind = self.number.data_type();
        self.graph.input.push(value(&past, kind, &dims));
        self.graph.output.push(value(&present, kind, &dims));
        self.named(&present, "ScatterND", &[&past, "cache_slots", new], &[])
    }

    fn common(&mut self) -> Common {
        let column = self.ints("column", &[-1, 1]);
        let positions = self.node("positions", "Reshape", &["position_ids", &column], &[]);
        let exact = self.node("positions_f32", "Cast", &[&positions], &[to(number::FLOAT)]);
        let frequencies = self.frequencies();
        let angles = self.node("angles", "Mul", &[&exact, &frequencies], &[]);
        let cos = self.node("cos", "Cos", &[&angles], &[]);
        let sin = self.node("sin", "Sin", &[&angles], &[]);
        let (cos, sin) = (self.rounded("cos_f16", cos), self.rounded("sin_f16", sin));
        let visible = self.visible(&positions);
        let (shown, hidden) = (self.numbers("shown", &[], &[0.0]), self.lowest());
        let mask = self.node("mask", "Where", &[&visible, &shown, &hidden], &[]);
        Common { cos, sin, mask }
    }

    /// Which positions of the cache a token may look at: those up to its own, and within its window.
    fn visible(&mut self, positions: &str) -> String {
        let past = self.node("past", "LessOrEqual", &["cache_positions", positions], &[]);
        let Some(window) = self.shape.sliding_window else { return past };
        let window = self.scalar("window", i64::from(window));
        let start = self.node("window_start", "Sub", &[positions, &window], &[]);
        let near = self.node("near", "Greater", &["cache_positions", &start], &[]);
        self.node("visible", "And", &[&past, &near], &[])
    }

    /// One over the base to the power of `2j/d`. In 64 bits, because the last bit of a power in 32 depends on the platform,
    /// and the same network must give the same file everywhere.
    fn frequencies(&mut self) -> String {
        let head = f64::from(self.shape.head_dim());
        let theta = f64::from(self.shape.rope_theta);
        #[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
        let number = |at| theta.powf(-f64::from(at) / head) as f32;
        let numbers: Vec<f32> = (0..self.shape.head_dim()).step_by(2).map(number).collect();
        let dims = [1, signed(numbers.len() as u64)];
        self.constant("frequencies", &dims, number::FLOAT, bytes(numbers.into_iter().map(f32::to_le_bytes)))
    }

    fn layer(&mut self, layer: u32, residual: &str, common: &Common) -> String {
        let name = |what: &str| format!("layers.{layer}.{what}");
        let weight = |what: &str| format!("model.layers.{layer}.{what}.weight");
        let normed = self.norm(&name("attention_norm"), residual, &weight("input_layernorm"));
        let attended = self.attention(layer, &normed, common);
        let out = self.product(&name("attention_out"), &attended, &weight("self_attn.o_proj"));
        let residual = self.node(&name("attended"), "Add", &[residual, &out], &[]);
        let normed = self.norm(&name("mlp_norm"), &residual, &weight("post_attention_layernorm"));
        let gate = self.product(&name("gate"), &normed, &weight("mlp.gate_proj"));
        let up = self.product(&name("up"), &normed, &weight("mlp.up_proj"));
        let sigmoid = self.node(&name("sigmoid"), "Sigmoid", &[&gate], &[]);
        let swish = self.node(&name("swish"), "Mul", &[&gate, &sigmoid], &[]);
        let gated = self.node(&name("gated"), "Mul", &[&swish, &up], &[]);
        let down = self.product(&name("down"), &gated, &weight("mlp.down_proj"));
        self.node(&name("out"), "Add", &[&residual, &down], &[])
    }

    fn attention(&mut self, layer: u32, normed: &str, common: &Common) -> String {
        let name = |what: &str| format!("layers.{layer}.{what}");
        let weight = |what: &str| format!("model.layers.{layer}.self_attn.{what}_proj.weight");
        let [heads, kv_heads, head] = [self.shape.heads, self.shape.kv_heads, self.shape.head_dim()].map(i64::from);
        let query = self.product(&name("query"), normed, &weight("q"));
        let query = self.heads(&name("query"), &query, heads);
        let query = self.rotated(&name("query"), &query, common);
        let scale = self.numbers("scale", &[], &[1.0 / f64::from(self.shape.head_dim()).sqrt()]);
        let query = self.node(&name("query_scaled"), "Mul", &[&query, &scale], &[]);
        let query = self.reshaped(&name("query_grouped"), &query, "grouped", &[0, kv_heads, -1, head]);

        let key = self.product(&name("key"), normed, &weight("k"));
        let key = self.heads(&name("key"), &key, kv_heads);
        let key = self.rotated(&name("key"), &key, common);
        let key = self.cached(layer, "key", &key);
        let key = self.node(&name("key_columns"), "Transpose", &[&key], &[permutation(&[0, 1, 3, 2])]);

        let values = self.product(&name("value"), normed, &weight("v"));
        let values = self.heads(&name("value"), &values, kv_heads);
        let values = self.cached(layer, "value", &values);

        let scores = self.node(&name("scores"), "MatMul", &[&query, &key], &[]);
        let scores = self.reshaped(&name("scores_by_head"), &scores, "by_head", &[0, heads, -1, 0]);
        let scores = self.node(&name("scores_masked"), "Add", &[&scores, &common.mask], &[]);
        let shares = self.node(&name("shares"), "Softmax", &[&scores], &[integer("axis", -1)]);
        let shares = self.reshaped(&name("shares_grouped"), &shares, "shares_grouped", &[0, kv_heads, -1, 0]);
        let found = self.node(&name("found"), "MatMul", &[&shares, &values], &[]);
        let found = self.reshaped(&name("found_by_head"), &found, "found_by_head", &[0, heads, -1, head]);
        let found = self.node(&name("found_by_token"), "Transpose", &[&found], &[permutation(&[0, 2, 1, 3])]);
        self.reshaped(&name("found_rows"), &found, "rows", &[0, 0, heads * head])
    }

    /// From rows of all heads to heads of rows.
    fn heads(&mut self, name: &str, rows: &str, heads: i64) -> String {
        let head = i64::from(self.shape.head_dim());
        let split = self.reshaped(&format!("{name}_split"), rows, &format!("split_in_{heads}"), &[0, 0, heads, head]);
        self.node(&format!("{name}_heads"), "Transpose", &[&split], &[permutation(&[0, 2, 1, 3])])
    }

    /// Rotary positions: number `j` of a head is turned with number `j + d/2`.
    fn rotated(&mut self, name: &str, heads: &str, common: &Common) -> String {
        let at = |what: &str| format!("{name}_{what}");
        let (first, second) = (at("first"), at("second"));
        let split = node_of(&at("halves"), "Split", &[heads], &[&first, &second], &[integer("axis", -1)]);
        self.graph.node.push(split);
        let a = self.node(&at("first_cos"), "Mul", &[&first, &common.cos], &[]);
        let b = self.node(&at("second_sin"), "Mul", &[&second, &common.sin], &[]);
        let c = self.node(&at("second_cos"), "Mul", &[&second, &common.cos], &[]);
        let d = self.node(&at("first_sin"), "Mul", &[&first, &common.sin], &[]);
        let turned = self.node(&at("first_turned"), "Sub", &[&a, &b], &[]);
        let too = self.node(&at("second_turned"), "Add", &[&c, &d], &[]);
        self.node(&at("rotated"), "Concat", &[&turned, &too], &[integer("axis", -1)])
    }

    /// An RMS norm, in the form that ONNX Runtime fuses.
    fn norm(&mut self, name: &str, rows: &str, weight: &str) -> String {
        let at = |what: &str| format!("{name}_{what}");
        let exact = match self.number {
            Number::F32 => rows.to_owned(),
            Number::F16 => self.node(&at("f32"), "Cast", &[rows], &[to(number::FLOAT)]),
        };
        let two = self.exact("two", 2.0);
        let epsilon = self.exact("epsilon", self.shape.norm_eps);
        let squares = self.node(&at("squares"), "Pow", &[&exact, &two], &[]);
        let mean =
            self.node(&at("mean"), "ReduceMean", &[&squares], &[integers("axes", &[-1]), integer("keepdims", 1)]);
        let mean = self.node(&at("mean_above_zero"), "Add", &[&mean, &epsilon], &[]);
        let root = self.node(&at("root"), "Sqrt", &[&mean], &[]);
        let normed = self.node(&at("normed"), "Div", &[&exact, &root], &[]);
        let normed = self.rounded(&at("f16"), normed);
        self.node(name, "Mul", &[&normed, weight], &[])
    }

    /// Logits of each sequence's last position.
    fn head(&mut self, residual: &str) {
        let last = self.scalar("last", -1);
        let rows = self.node("last_rows", "Gather", &[residual, &last], &[integer("axis", 1)]);
        let normed = self.norm("norm", &rows, "model.norm.weight");
        let matrix = if self.shape.tied_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let transposed = [integer("transB", 1)];
        match self.number {
            Number::F32 => self.named("logits", "Gemm", &[&normed, matrix], &transposed),
            Number::F16 => {
                let logits = self.node("logits_f16", "Gemm", &[&normed, matrix], &transposed);
                self.named("logits", "Cast", &[&logits], &[to(number::FLOAT)])
            }
        };
        let dims = [Named("batch"), Known(self.shape.vocab)];
        self.graph.output.insert(0, value("logits", number::FLOAT, &dims));
    }

    fn product(&mut self, name: &str, rows: &str, matrix: &str) -> String {
        self.node(&format!("{name}_product"), "MatMul", &[rows, matrix], &[])
    }

    /// To 16 bits, where the network computes in those.
    fn rounded(&mut self, name: &str, exact: String) -> String {
        match self.number {
            Number::F32 => exact,
            Number::F16 => self.node(name, "Cast", &[&exact], &[to(number::FLOAT16)]),
        }
    }

    fn reshaped(&mut self, name: &str, from: &str, shape_name: &str, dims: &[i64]) -> String {
        let dims = self.ints(shape_name, dims);
        self.node(name, "Reshape", &[from, &dims], &[])
    }

    /// A node with one result, which has its name.
    fn node(&mut self, name: &str, op: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        self.named(name, op, inputs, attributes)
    }

    fn named(&mut self, output: &str, op: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        self.graph.node.push(node_of(output, op, inputs, &[output], attributes));
        output.to_owned()
    }

    /// The most negative number there is: with it added, a score's share is exactly zero.
    fn lowest(&mut self) -> String {
        let lowest = match self.number {
            Number::F32 => f64::from(f32::MIN),
            Number::F16 => half::f16::MIN.to_f64(),
        };
        self.numbers("hidden", &[], &[lowest])
    }

    /// A constant in the network's numbers.
    fn numbers(&mut self, name: &str, dims: &[i64], numbers: &[f64]) -> String {
        #[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
        let bytes = match self.number {
            Number::F32 => bytes(numbers.iter().map(|&number| (number as f32).to_le_bytes())),
            Number::F16 => bytes(numbers.iter().map(|&number| half::f16::from_f64(number).to_le_bytes())),
        };
        self.constant(name, dims, self.number.data_type(), bytes)
    }

    /// A constant of 32 bits.
    fn exact(&mut self, name: &str, number: f32) -> String {
        self.constant(name, &[], number::FLOAT, number.to_le_bytes().to_vec())
    }

    fn scalar(&mut self, name: &str, number: i64) -> String {
        self.constant(name, &[], number::INT64, number.to_le_bytes().to_vec())
    }

    fn ints(&mut self, name: &str, numbers: &[i64]) -> String {
        let dims = [signed(numbers.len() as u64)];
        self.constant(name, &dims, number::INT64, bytes(numbers.iter().map(|number| number.to_le_bytes())))
    }

    /// A constant, once for all that ask for it by the same name.
    fn constant(&mut self, name: &str, dims: &[i64], data_type: i32, bytes: Vec<u8>) -> String {
        let name = format!("constant.{name}");
        if self.graph.initializer.iter().rev().all(|tensor| tensor.name != name) {
            let tensor = Tensor {
                dims: dims.to_vec(),
                data_type,
                name: name.clone(),
                raw_data: Some(bytes),
                ..Tensor::default()
            };
            self.graph.initializer.push(tensor);
        }
        name
    }
}

fn bytes<const N: usize>(numbers: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    numbers.flatten().collect()
}

fn weights(spec: &TensorSpec, place: &Place, number: Number) -> Tensor {
    Tensor {
        dims: dims(spec),
        data_type: number.data_type(),
        name: spec.hf.clone(),
        raw_data: None,
        external_data: vec![
            entry("location", DATA),
            entry("offset", &place.offset.to_string()),
            entry("length", &place.length.to_string()),
        ],
        data_location: Some(EXTERNAL),
    }
}

fn value(name: &str, elem_type: i32, dims: &[Length]) -> ValueInfo {
    let dim = |length: &Length| match length {
        Known(number) => Dimension { dim_value: Some(i64::from(*number)), dim_param: None },
        Named(name) => Dimension { dim_value: None, dim_param: Some((*name).to_owned()) },
    };
    let shape = Some(TensorShape { dim: dims.iter().map(dim).collect() });
    ValueInfo { name: name.to_owned(), kind: Some(Type { tensor_type: Some(TensorType { elem_type, shape }) }) }
}

fn node_of(name: &str, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Attribute]) -> Node {
    let texts = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect();
    Node {
        input: texts(inputs),
        output: texts(outputs),
        name: name.to_owned(),
        op_type: op.to_owned(),
        attribute: attributes.to_vec(),
    }
}

fn integer(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_owned(), i: Some(value), ints: Vec::new(), kind: 2 }
}

fn integers(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.to_owned(), i: None, ints: values.to_vec(), kind: 7 }
}

fn permutation(axes: &[i64]) -> Attribute {
    integers("perm", axes)
}

fn to(data_type: i32) -> Attribute {
    integer("to", i64::from(data_type))
}
