//! The candle backend against a bare loop over candle-transformers, in turns, in one process:
//!
//! ```text
//! cargo run --release --workspace --example bare -- FOLDER [PROMPT GENERATE PAIRS [ours|bare]]
//! ```
//!
//! The bare loop is what candle's own examples do: a tensor of the token, a forward pass, the likeliest id read back. It knows
//! no cells, no repetitions, no samples. Both hold a model of their own and take turns step by step, so that what is compared
//! lies milliseconds apart. They decode the same tokens, and the example fails where they differ. Where in memory a model
//! comes to lie makes a difference of its own, so the last argument says whose is loaded first: run it both ways.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::gguf_file;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, quantized_llama};
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::device::DeviceId;
use regatta_core::model::Shape;
use regatta_models::verify::{Tokenizer, verify};
use regatta_worker::backend::{Backend, Load, Plan, Session, load};
use regatta_worker::prompt::seeded;
use regatta_worker::{cpu, process};

/// One of the two loops.
trait Loop {
    /// Forgets everything, reads the prompt, and returns the first id.
    fn start(&mut self, ids: &[u32]) -> Result<u32>;

    /// Reads an id and returns the next one.
    fn step(&mut self, id: u32) -> Result<u32>;
}

fn main() -> Result<()> {
    process::fix_threads(cpu::default_threads());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = PathBuf::from(arguments.first().context("usage: bare FOLDER [PROMPT GENERATE PAIRS [ours|bare]]")?);
    let number = |at: usize, default: u32| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (prompt, generate, pairs) = (number(1, 128)?, number(2, 64)?, number(3, 10)?);
    let found = verify(&folder, Tokenizer::Optional)?;
    let precision = found.precision.context("weights of one precision")?;
    let ids = seeded(1, prompt, 1, found.shape.vocab)?.concat();
    let load_bare = || Bare::load(&folder, &found.shape, found.format, precision);
    let load_ours = || backend(&folder, found.format, precision);
    let (mut bare, mut backend) = match arguments.get(4).map(String::as_str) {
        Some("ours") => {
            let ours = load_ours()?;
            (load_bare()?, ours)
        }
        _ => (load_bare()?, load_ours()?),
    };
    let plan = Plan { name: "bare".to_owned(), batch: 1, prompt, generate, depth: 0 };
    let mut ours = Ours(backend.open(&plan)?);
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let mut turns = Turns { ours: &mut ours, bare: &mut bare, next: pair % 2 == 0 };
        let (mut id, times) = turns.take(|side| side.start(&ids))?;
        let mut steps = Vec::new();
        for _ in 1..generate {
            let (next, times) = turns.take(|side| side.step(id))?;
            id = next;
            steps.push(times);
        }
        // The first pair warms up.
        if pair > 0 {
            prefill.push(times.1 / times.0);
            let ours = median(steps.iter().map(|times| times.0).collect());
            let bare = median(steps.iter().map(|times| times.1).collect());
            decode.push(median(steps.iter().map(|times| times.1 / times.0).collect()));
            writeln!(
                std::io::stdout(),
                "{pair}: prefill {:.1} / {:.1}, decode {:.2} / {:.2} tokens/s",
                f64::from(prompt) / times.0,
                f64::from(prompt) / times.1,
                1.0 / ours,
                1.0 / bare
            )?;
        }
    }
    writeln!(std::io::stdout(), "median ratio: prefill {:.4}, decode {:.4}", median(prefill), median(decode))?;
    Ok(())
}

/// Both loops, of which the one that was second is first the next time.
struct Turns<'a> {
    ours: &'a mut dyn Loop,
    bare: &'a mut dyn Loop,
    next: bool,
}

impl Turns<'_> {
    /// Has both do the same, and returns what came out and how long each took, in seconds: ours, bare.
    fn take(&mut self, what: impl Fn(&mut dyn Loop) -> Result<u32>) -> Result<(u32, (f64, f64))> {
        let timed = |side: &mut dyn Loop| -> Result<(u32, f64)> {
            let start = Instant::now();
            let id = what(side)?;
            Ok((id, start.elapsed().as_secs_f64()))
        };
        self.next = !self.next;
        let (ours, bare) = if self.next {
            let ours = timed(self.ours)?;
            (ours, timed(self.bare)?)
        } else {
            let bare = timed(self.bare)?;
            (timed(self.ours)?, bare)
        };
        ensure!(ours.0 == bare.0, "the two loops gave other tokens");
        Ok((ours.0, (ours.1, bare.1)))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn backend(folder: &Path, format: Format, precision: Precision) -> Result<Box<dyn Backend>> {
    let artifact = ArtifactRef { model: "bare".parse()?, weights: Weights::Real, format, precision };
    let (backend, device, folder) = (BackendKind::Candle, DeviceId::CPU, folder.to_owned());
    Ok(load(&Load { backend, device, artifact, folder, threads: cpu::default_threads() })?)
}

/// A session as the worker's timing loop uses it.
struct Ours<'m>(Box<dyn Session + 'm>);

impl Loop for Ours<'_> {
    fn start(&mut self, ids: &[u32]) -> Result<u32> {
        self.0.reset()?;
        self.0.prefill(&[ids.to_vec()])?;
        let mut id = [0];
        self.0.sample(&mut id)?;
        Ok(id[0])
    }

    fn step(&mut self, id: u32) -> Result<u32> {
        self.0.decode(&[id])?;
        let mut next = [0];
        self.0.sample(&mut next)?;
        Ok(next[0])
    }
}

/// candle-transformers, and nothing else.
struct Bare {
    network: Network,
    position: usize,
}

enum Network {
    Llama { model: Box<llama::Llama>, config: Box<llama::Config>, dtype: DType, cache: Box<llama::Cache> },
    Quantised(Box<quantized_llama::ModelWeights>),
}

impl Bare {
    fn load(folder: &Path, shape: &Shape, format: Format, precision: Precision) -> Result<Self> {
        if format == Format::Gguf {
            let mut file = BufReader::new(File::open(folder.join("model.gguf"))?);
            let content = gguf_file::Content::read(&mut file)?;
            let model = quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
            return Ok(Self { network: Network::Quantised(Box::new(model)), position: 0 });
        }
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
            _ => DType::BF16,
        };
        let config = Box::new(llama::Config {
            hidden_size: shape.hidden as usize,
            intermediate_size: shape.intermediate as usize,
            vocab_size: shape.vocab as usize,
            num_hidden_layers: shape.layers as usize,
            num_attention_heads: shape.heads as usize,
            num_key_value_heads: shape.kv_heads as usize,
            use_flash_attn: false,
            rms_norm_eps: f64::from(shape.norm_eps),
            rope_theta: shape.rope_theta,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: shape.context as usize,
            tie_word_embeddings: shape.tied_embeddings,
        });
        let bytes = std::fs::read(folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, dtype, &Device::Cpu)?;
        let model = Box::new(llama::Llama::load(weights, &config)?);
        let cache = Box::new(llama::Cache::new(true, dtype, &config, &Device::Cpu)?);
        Ok(Self { network: Network::Llama { model, config, dtype, cache }, position: 0 })
    }

    fn forward(&mut self, ids: &[u32]) -> Result<u32> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match &mut self.network {
            Network::Llama { model, cache, .. } => model.forward(&input, self.position, cache)?,
            Network::Quantised(model) => model.forward(&input, self.position)?,
        };
        self.position += ids.len();
        Ok(logits.squeeze(0)?.to_dtype(DType::F32)?.argmax(D::Minus1)?.to_scalar::<u32>()?)
    }
}

impl Loop for Bare {
    fn start(&mut self, ids: &[u32]) -> Result<u32> {
        match &mut self.network {
            Network::Llama { config, dtype, cache, .. } => {
                **cache = llama::Cache::new(true, *dtype, config, &Device::Cpu)?;
            }
            Network::Quantised(model) => model.clear_kv_cache(),
        }
        self.position = 0;
        self.forward(ids)
    }

    fn step(&mut self, id: u32) -> Result<u32> {
        self.forward(&[id])
    }
}
