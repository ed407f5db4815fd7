//! Every engine passes the same checks, on tiny synthetic models and, where its file is named, on a real one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says what it saw")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use regatta_core::artifact::{Format, Precision, Weights};
use regatta_core::backend::BackendKind::{self, Candle, LlamaCpp, OnnxRuntime};
use regatta_core::failure::FailureKind;
use regatta_core::model::{BUILT_IN_MODELS, Model, Shape, parse_manifest};
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_models::gguf::{self, GgmlType};
use regatta_models::library::Library;
use regatta_worker::artifacts;
use regatta_worker::backend::fake::Script;
use regatta_worker::backend::{Backend, Limits, Plan, fake, onnxruntime};
use regatta_worker::prompt::{Input, seeded};
use regatta_worker::tokenizer::Tokenizer;
use support::{Harbour, VOCAB, distance, generate, llama, load_from, logits, mistral, model, plan, tied};

/// Whether ONNX Runtime's library is here. Where the environment names one it must be: `cargo xtask test` does.
fn has_onnxruntime() -> bool {
    let Err(error) = onnxruntime::engine() else { return true };
    assert!(std::env::var_os("REGATTA_ONNXRUNTIME").is_none(), "{error}");
    println!("SKIPPED, NOTHING OF ONNX RUNTIME IS CHECKED: {error}");
    false
}

/// Every backend with everything it loads, on the smallest model.
fn everyone(harbour: &Harbour) -> Vec<(String, Box<dyn Backend>)> {
    let mut all: Vec<(String, Box<dyn Backend>)> =
        vec![("fake".to_owned(), Box::new(fake::Fake::new(Script { vocab: VOCAB, ..Script::INSTANT })))];
    let shapes = [("llama", llama()), ("mistral", mistral()), ("tied", tied())];
    for (name, shape) in shapes {
        let model = model(name, shape);
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let name = format!("candle {name} {precision}");
            all.push((name, harbour.load(Candle, &model, Format::Safetensors, precision)));
        }
        for &precision in OnnxRuntime.precisions().iter().filter(|_| has_onnxruntime()) {
            let name = format!("onnxruntime {name} {precision}");
            all.push((name, harbour.load(OnnxRuntime, &model, Format::Onnx, precision)));
        }
        for precision in Precision::ALL {
            let folder = harbour.make(&model, Format::Gguf, precision);
            for backend in [Candle, LlamaCpp] {
                let loaded = load_from(backend, &model, Weights::Synthetic, Format::Gguf, precision, &folder);
                all.push((format!("{backend} gguf {name} {precision}"), loaded));
            }
        }
    }
    all
}

#[test]
fn all_backends_are_deterministic_forget_on_reset_and_keep_sequences_apart() {
    let harbour = Harbour::new();
    for (name, mut backend) in everyone(&harbour) {
        let backend = &mut *backend;
        let prompts = seeded(3, 9, 3, VOCAB).unwrap();
        let alone = generate(backend, &prompts[..1], 6);
        assert_eq!(alone, generate(backend, &prompts[..1], 6), "{name}: a second time");
        reset_forgets(&name, backend, &prompts[0], &alone[0]);
        same_prompts_give_the_same(&name, backend, &prompts[0], &alone[0]);
        feeding_bit_by_bit_is_the_same(&name, backend, &prompts[0]);
    }
}

fn reset_forgets(name: &str, backend: &mut dyn Backend, prompt: &[u32], expected: &[u32]) {
    let mut session = backend.open(&plan(1, prompt.len(), 6)).unwrap();
    let mut id = [0];
    let other: Vec<u32> = prompt.iter().rev().copied().collect();
    session.prefill(&[other]).unwrap();
    session.sample(&mut id).unwrap();
    session.decode(&id).unwrap();
    session.reset().unwrap();
    session.prefill(&[prompt.to_vec()]).unwrap();
    session.sample(&mut id).unwrap();
    assert_eq!(id[0], expected[0], "{name}: after a reset");
}

fn same_prompts_give_the_same(name: &str, backend: &mut dyn Backend, prompt: &[u32], expected: &[u32]) {
    if name.starts_with("candle") && ["q8_0", "q4_1", "q4_k_m"].iter().any(|blocks| name.ends_with(blocks)) {
        let refused = backend.open(&plan(4, prompt.len(), expected.len())).err().map(|error| error.kind);
        assert_eq!(refused, Some(FailureKind::Unsupported), "{name}: a batch, which candle can't do with blocks");
        return;
    }
    let many = generate(backend, &vec![prompt.to_vec(); 4], expected.len());
    for (sequence, output) in many.iter().enumerate() {
        assert_eq!(output, &many[0], "{name}: sequence {sequence} of a batch");
    }
    // Engines may use other kernels for a batch, so a near tie may fall the other way; the first token must not.
    assert_eq!(many[0][0], expected[0], "{name}: first token of a batch against that of one sequence");
}

fn feeding_bit_by_bit_is_the_same(name: &str, backend: &mut dyn Backend, prompt: &[u32]) {
    let at_once = logits(backend, prompt);
    let mut session = backend.open(&plan(1, prompt.len(), 1)).unwrap();
    session.reset().unwrap();
    session.prefill(&[prompt[..1].to_vec()]).unwrap();
    for id in &prompt[1..] {
        session.decode(&[*id]).unwrap();
    }
    if name == "fake" {
        return;
    }
    let apart = distance(&at_once, &session.logits(0).unwrap());
    assert!(apart < 0.05, "{name}: token by token gives logits {apart} apart");
}

#[test]
fn a_reset_comes_back_to_what_was_kept() {
    let harbour = Harbour::new();
    let all = seeded(3, 40, 1, VOCAB).unwrap();
    let (depth, prompt) = ([all[0][..24].to_vec()], [all[0][24..].to_vec()]);
    for (name, mut backend) in everyone(&harbour) {
        let whole = generate(&mut *backend, &all, 6);
        let mut expected = None;
        let mut session = backend.open(&Plan { depth: 24, ..plan(1, 16, 6) }).unwrap();
        session.reset().unwrap();
        session.prefill(&depth).unwrap();
        session.keep().unwrap();
        for round in 0..3 {
            session.reset().unwrap();
            session.prefill(&prompt).unwrap();
            let mut output = vec![0; 6];
            for step in 0..6 {
                if step > 0 {
                    session.decode(&[output[step - 1]]).unwrap();
                    session.wait().unwrap();
                }
                session.sample(&mut output[step..=step]).unwrap();
            }
            assert_eq!(*expected.get_or_insert(output.clone()), output, "{name}, round {round}");
            // The fake's tokens depend on the prompt alone, and quantised products round by how much is fed at once.
            assert!(name.starts_with("fake") || output[0] == whole[0][0], "{name}: {output:?} {whole:?}");
        }
        drop(session);
        assert_eq!(generate(&mut *backend, &all, 6), whole, "{name}: the next cell begins with an empty cache");
    }
}

#[test]
fn a_batch_of_different_prompts_is_each_prompt_by_itself() {
    let harbour = Harbour::new();
    let model = model("llama", llama());
    let mut engines = vec![(Candle, Format::Safetensors), (LlamaCpp, Format::Gguf)];
    engines.extend(has_onnxruntime().then_some((OnnxRuntime, Format::Onnx)));
    for (backend, format) in engines {
        let mut backend_ = harbour.load(backend, &model, format, Precision::F32);
        let prompts = seeded(11, 17, 3, VOCAB).unwrap();
        let together = generate(&mut *backend_, &prompts, 12);
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = generate(&mut *backend_, std::slice::from_ref(prompt), 12);
            assert_eq!(&alone[0], together, "{backend}");
        }
    }
}

#[test]
fn engines_agree_on_the_same_numbers() {
    let harbour = Harbour::new();
    for (name, shape) in [("llama", llama()), ("mistral", mistral()), ("tied", tied())] {
        let model = model(name, shape);
        let mut candle = harbour.load(Candle, &model, Format::Safetensors, Precision::F32);
        let mut llama_cpp = harbour.load(LlamaCpp, &model, Format::Gguf, Precision::F32);
        for seed in 0..3 {
            let prompts = seeded(seed, 20, 1, VOCAB).unwrap();
            let apart = distance(&logits(&mut *candle, &prompts[0]), &logits(&mut *llama_cpp, &prompts[0]));
            assert!(apart < 1e-4, "{name}: logits {apart} apart");
            assert_eq!(generate(&mut *candle, &prompts, 32), generate(&mut *llama_cpp, &prompts, 32), "{name}");
        }
    }
}

#[test]
fn onnxruntime_agrees_with_candle_on_the_same_numbers() {
    if !has_onnxruntime() {
        return;
    }
    let harbour = Harbour::new();
    for (name, shape) in [("llama", llama()), ("mistral", mistral()), ("tied", tied())] {
        let model = model(name, shape);
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::F16, 0.01)] {
            let mut candle = harbour.load(Candle, &model, Format::Safetensors, precision);
            let mut onnx = harbour.load(OnnxRuntime, &model, Format::Onnx, precision);
            for seed in 0..3 {
                let prompts = seeded(seed, 20, 2, VOCAB).unwrap();
                let apart = distance(&logits(&mut *candle, &prompts[0]), &logits(&mut *onnx, &prompts[0]));
                println!("{name} {precision}: logits {apart:.1e} apart");
                assert!(apart < tolerance, "{name} {precision}: logits {apart} apart");
                if precision == Precision::F32 {
                    assert_eq!(generate(&mut *candle, &prompts, 32), generate(&mut *onnx, &prompts, 32), "{name}");
                }
            }
        }
    }
}

/// candle honours the window in prompts only, so beyond it prompts are compared; and it lets a token look one position
/// further back than the original network does, so it is given one less.
#[test]
fn onnxruntime_honours_a_sliding_window_in_prompts_and_in_steps() {
    if !has_onnxruntime() {
        return;
    }
    let harbour = Harbour::new();
    let model = model("windowed", Shape { sliding_window: Some(24), ..mistral() });
    let shape = Shape { sliding_window: Some(23), ..mistral() };
    let narrower = Model { id: "narrower".parse().unwrap(), shape, ..model.clone() };
    let mut candle = harbour.load(Candle, &narrower, Format::Safetensors, Precision::F32);
    let mut onnx = harbour.load(OnnxRuntime, &model, Format::Onnx, Precision::F32);
    let plain = Model { id: "plain".parse().unwrap(), shape: mistral(), ..model.clone() };
    let mut without = harbour.load(OnnxRuntime, &plain, Format::Onnx, Precision::F32);
    let prompt = &seeded(3, 96, 1, VOCAB).unwrap()[0];
    let at_once = logits(&mut *onnx, prompt);
    let apart = distance(&logits(&mut *candle, prompt), &at_once);
    assert!(apart < 1e-4, "logits {apart} apart");
    let apart = distance(&logits(&mut *without, prompt), &at_once);
    assert!(apart > 1e-2, "the window changes nothing: logits {apart} apart");
    let mut session = onnx.open(&plan(1, 1, 95)).unwrap();
    session.prefill(&[prompt[..1].to_vec()]).unwrap();
    for id in &prompt[1..] {
        session.decode(&[*id]).unwrap();
    }
    let apart = distance(&at_once, &session.logits(0).unwrap());
    assert!(apart < 1e-4, "token by token gives logits {apart} apart");
}

/// What candle and ONNX Runtime generate with made-up weights of TinyLlama's shape, with fewer layers.
fn agree_on_tinyllama(layers: u32) {
    if !has_onnxruntime() {
        return;
    }
    let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
    let mut model = models.into_iter().find(|model| model.id.as_str() == "tinyllama-1.1b").unwrap();
    model.shape.layers = layers;
    let harbour = Harbour::new();
    let prompts = seeded(7, 48, 1, model.shape.vocab).unwrap();
    let said = |backend, format| {
        let mut backend = harbour.load(backend, &model, format, Precision::F32);
        (logits(&mut *backend, &prompts[0]), generate(&mut *backend, &prompts, 32))
    };
    let (candle, onnx) = (said(Candle, Format::Safetensors), said(OnnxRuntime, Format::Onnx));
    let apart = distance(&candle.0, &onnx.0);
    println!("{layers} layers of tinyllama-1.1b: logits {apart:.1e} apart; 32 tokens: {:?}", onnx.1[0]);
    assert!(apart < 1e-3, "logits {apart} apart");
    assert_eq!(candle.1, onnx.1);
}

#[test]
fn onnxruntime_agrees_with_candle_on_two_layers_of_tinyllama() {
    agree_on_tinyllama(2);
}

#[test]
#[ignore = "writes and reads 9 GB: cargo test --release --workspace --test conformance -- --ignored tinyllama"]
fn onnxruntime_agrees_with_candle_on_the_whole_of_tinyllama() {
    agree_on_tinyllama(22);
}

/// Within the window, that is: beyond it they compute different things, and cells are refused.
#[test]
fn engines_agree_on_a_mistral_with_grouped_queries_and_a_sliding_window() {
    let harbour = Harbour::new();
    let shape = Shape { sliding_window: Some(128), ..mistral() };
    assert!(shape.kv_heads < shape.heads);
    let model = model("windowed", shape);
    let mut candle = harbour.load(Candle, &model, Format::Safetensors, Precision::F32);
    let mut llama_cpp = harbour.load(LlamaCpp, &model, Format::Gguf, Precision::F32);
    assert_eq!(candle.limits().context, 128);
    for seed in 0..3 {
        let prompts = seeded(seed, 96, 1, VOCAB).unwrap();
        let apart = distance(&logits(&mut *candle, &prompts[0]), &logits(&mut *llama_cpp, &prompts[0]));
        assert!(apart < 1e-4, "logits {apart} apart");
        assert_eq!(generate(&mut *candle, &prompts, 32), generate(&mut *llama_cpp, &prompts, 32));
    }
}

#[test]
fn made_up_weights_stay_finite_and_do_not_fall_to_one_token() {
    let harbour = Harbour::new();
    for (name, shape) in [("llama", llama()), ("mistral", mistral()), ("tied", tied())] {
        let model = model(name, shape);
        for precision in [Precision::F32, Precision::F16, Precision::Q4KM] {
            let mut backend = harbour.load(LlamaCpp, &model, Format::Gguf, precision);
            let prompts = seeded(4, 16, 1, VOCAB).unwrap();
            let logits = logits(&mut *backend, &prompts[0]);
            assert!(logits.iter().all(|logit| logit.is_finite()), "{name} {precision}");
            let different: HashSet<u32> = generate(&mut *backend, &prompts, 64)[0].iter().copied().collect();
            println!("{name} {precision}: {} different tokens in 64", different.len());
            assert!(different.len() >= 32, "{name} {precision}: {} different tokens in 64", different.len());
        }
    }
}

/// All tensors of a GGUF file: kinds and bytes, by name.
fn tensors(path: &Path) -> BTreeMap<String, (GgmlType, Vec<u8>)> {
    let mut reader = gguf::Reader::open(path).unwrap();
    let infos = reader.header().tensors.clone();
    let mut read = |info: gguf::TensorInfo| {
        let mut bytes = vec![0; usize::try_from(info.bytes).unwrap()];
        reader.read(&info, 0, &mut bytes).unwrap();
        (info.name, (info.kind, bytes))
    };
    infos.into_iter().map(&mut read).collect()
}

/// The mixtures are made row by row on the way to the file; llama.cpp makes them of a whole file.
#[test]
fn quantised_mixtures_are_byte_for_byte_what_llama_cpp_makes_of_the_whole_model() {
    let harbour = Harbour::new();
    let deep = Shape { layers: 9, kv_heads: 1, ..llama() };
    // No multiple of 256: llama.cpp falls back to other types.
    let odd = Shape { hidden: 160, intermediate: 288, heads: 5, kv_heads: 1, ..llama() };
    for (name, shape) in [("llama", llama()), ("deep", deep), ("tied", tied()), ("odd", odd)] {
        let model = model(name, shape);
        let plain = harbour.make(&model, Format::Gguf, Precision::F32).join(gguf::FILE);
        for precision in [Precision::Q8_0, Precision::Q4_1, Precision::Q4KM] {
            let expected = plain.with_extension(precision.as_str());
            regatta_worker::native::quantize(&plain, &expected, precision, 2).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let library = Library::open(folder.path()).unwrap();
            let ours = artifacts::convert(&library, &model, &plain, Format::Gguf, precision, false, &mut |_, _| {});
            let ours = ours.unwrap().installed.path();
            assert!(tensors(&ours) == tensors(&expected), "{name} {precision}");
        }
    }
}

#[test]
fn weights_become_the_same_gguf_from_either_format() {
    let harbour = Harbour::new();
    let model = model("llama", llama());
    let safetensors = harbour.make(&model, Format::Safetensors, Precision::F32);
    for precision in Precision::ALL {
        let made = harbour.make(&model, Format::Gguf, precision).join(gguf::FILE);
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(folder.path()).unwrap();
        let converted =
            artifacts::convert(&library, &model, &safetensors, Format::Gguf, precision, false, &mut |_, _| {}).unwrap();
        assert_eq!(converted.installed.manifest.artifact.weights, Weights::Synthetic, "made-up weights stay that");
        assert!(std::fs::read(made).unwrap() == std::fs::read(converted.installed.path()).unwrap(), "{precision}");
    }
}

#[test]
fn engines_agree_on_quantised_files_and_those_are_near_the_plain_numbers() {
    let harbour = Harbour::new();
    let model = model("llama", llama());
    let mut plain = harbour.load(LlamaCpp, &model, Format::Gguf, Precision::F32);
    let prompt = &seeded(5, 24, 1, VOCAB).unwrap()[0];
    let reference = logits(&mut *plain, prompt);
    for (precision, tolerance) in [
        (Precision::F16, 0.01),
        (Precision::Bf16, 0.05),
        (Precision::Q8_0, 0.05),
        (Precision::Q4_1, 0.5),
        (Precision::Q4KM, 0.5),
    ] {
        let folder = harbour.make(&model, Format::Gguf, precision);
        let load = |backend| load_from(backend, &model, Weights::Synthetic, Format::Gguf, precision, &folder);
        let (mut candle, mut llama_cpp) = (load(Candle), load(LlamaCpp));
        let (of_candle, of_llama) = (logits(&mut *candle, prompt), logits(&mut *llama_cpp, prompt));
        let near = [distance(&reference, &of_candle), distance(&reference, &of_llama), distance(&of_llama, &of_candle)];
        println!(
            "{precision}: candle {:.4}, llama.cpp {:.4} from f32, {:.4} from each other",
            near[0], near[1], near[2]
        );
        assert!(near[0] < tolerance && near[1] < tolerance, "{precision}: {near:?}");
        assert!(near[2] < 0.1, "{precision}: {near:?}");
        let agreeing = agreement(&mut *candle, &mut *llama_cpp);
        assert!(agreeing >= 0.75, "{precision}: the engines agree on {agreeing} of first tokens");
    }
}

/// The share of prompts after which two engines find the same token likeliest.
fn agreement(a: &mut dyn Backend, b: &mut dyn Backend) -> f64 {
    let prompts = seeded(77, 12, 16, VOCAB).unwrap();
    let same = prompts.iter().filter(|prompt| {
        let prompt = std::slice::from_ref(*prompt);
        generate(a, prompt, 1) == generate(b, prompt, 1)
    });
    same.count() as f64 / prompts.len() as f64
}

/// The real model, where the environment names its file.
fn smollm2() -> Option<(PathBuf, Model)> {
    let Some(path) = std::env::var_os("REGATTA_SMOLLM2_GGUF") else {
        println!("skipped: REGATTA_SMOLLM2_GGUF names no file");
        return None;
    };
    let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
    Some((path.into(), models.into_iter().find(|model| model.id.as_str() == "smollm2-135m").unwrap()))
}

const TEXT: &str = "<|im_start|>user\nWhat is the capital of France, and which river runs through it?<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn engines_agree_on_a_real_model() {
    let Some((path, model)) = smollm2() else { return };
    let harbour = Harbour::new();
    let convert = |format| {
        let library = &harbour.library;
        let converted =
            artifacts::convert(library, &model, &path, format, Precision::F32, false, &mut |_, _| {}).unwrap();
        assert!(converted.without_tokenizer.is_none(), "{:?}", converted.without_tokenizer);
        converted.installed.folder
    };
    let original = regatta_models::import::import(&harbour.library, &path, &model, false).unwrap().folder;
    let (safetensors, gguf) = (convert(Format::Safetensors), convert(Format::Gguf));
    let tokenizer = Tokenizer::of_artifact(&safetensors, Format::Safetensors).unwrap().unwrap();
    let prompt = tokenizer.encode(TEXT).unwrap();
    every_format_gives_the_same_prompt(&[
        tokenizer.clone(),
        Tokenizer::of_artifact(&gguf, Format::Gguf).unwrap().unwrap(),
        Tokenizer::of_artifact(&original, Format::Gguf).unwrap().unwrap(),
    ]);
    the_way_back_is_the_same_model(&model, &safetensors, &gguf);
    let load = |backend: BackendKind, format, precision, folder: &PathBuf| {
        load_from(backend, &model, Weights::Real, format, precision, folder)
    };
    let mut candle = load(Candle, Format::Safetensors, Precision::F32, &safetensors);
    let mut llama_cpp = load(LlamaCpp, Format::Gguf, Precision::F32, &gguf);
    let mut quantised = load(Candle, Format::Gguf, Precision::Q4_1, &original);
    let mut llama_q4 = load(LlamaCpp, Format::Gguf, Precision::Q4_1, &original);
    let reference = logits(&mut *llama_cpp, &prompt);
    let apart = distance(&reference, &logits(&mut *candle, &prompt));
    let prompts = [prompt.clone()];
    let output = generate(&mut *llama_cpp, &prompts, 32);
    println!("f32 logits {apart:.2e} apart; says: {}", tokenizer.decode(&output[0]).unwrap());
    assert!(apart < 1e-3);
    assert_eq!(generate(&mut *candle, &prompts, 32), output);
    if has_onnxruntime() {
        let graph = convert(Format::Onnx);
        every_format_gives_the_same_prompt(&[
            tokenizer.clone(),
            Tokenizer::of_artifact(&graph, Format::Onnx).unwrap().unwrap(),
        ]);
        let mut onnx = load(OnnxRuntime, Format::Onnx, Precision::F32, &graph);
        let apart = distance(&reference, &logits(&mut *onnx, &prompt));
        println!("onnxruntime f32 logits {apart:.2e} apart");
        assert!(apart < 1e-3);
        assert_eq!(generate(&mut *onnx, &prompts, 32), output);
    }
    for (name, backend) in [("candle", &mut quantised), ("llama.cpp", &mut llama_q4)] {
        let output = generate(&mut **backend, &prompts, 32);
        println!("{name} q4_1 says: {}", tokenizer.decode(&output[0]).unwrap());
        // The f32 files hold the q4_1 numbers, so what differs is how activations are rounded.
        let apart = distance(&reference, &logits(&mut **backend, &prompt));
        println!("{name} q4_1 logits {apart:.2e} from f32");
        assert!(apart < 0.1, "{name}");
    }
}

/// The texts that scenarios come with are the same token ids for every engine, whichever file's tokenizer makes them.
fn every_format_gives_the_same_prompt(tokenizers: &[Tokenizer]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/prompts");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let texts: Vec<String> = files.chain([TEXT.to_owned()]).collect();
    assert!(texts.len() > 2);
    let limits = Limits { vocab: 49_152, context: 2048 };
    for text in texts {
        let prompt = Prompt::Text { text, tokens: Some(64) };
        let workload =
            Workload { kind: Kind::Generate, name: "w".parse().unwrap(), prompt, generate: 1, batch: 2, replicas: 1 };
        let digests = tokenizers.iter().map(|t| Input::new(&workload, limits, Some(t)).unwrap().digest);
        let digests: BTreeSet<_> = digests.collect();
        assert_eq!(digests.len(), 1, "{workload:?}");
    }
}

/// Safetensors with their `tokenizer.json`, made into GGUF again: the same numbers, and tokens that llama.cpp finds too.
fn the_way_back_is_the_same_model(model: &Model, safetensors: &Path, gguf: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(folder.path()).unwrap();
    let (format, precision) = (Format::Gguf, Precision::F32);
    let back = artifacts::convert(&library, model, safetensors, format, precision, false, &mut |_, _| {}).unwrap();
    assert!(back.without_tokenizer.is_none(), "{:?}", back.without_tokenizer);
    let back = back.installed.path();
    assert!(tensors(&back) == tensors(&gguf.join(gguf::FILE)));
    let header = gguf::Reader::open(&back).unwrap().header().clone();
    let original = gguf::Reader::open(&gguf.join(gguf::FILE)).unwrap().header().clone();
    for key in ["model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id"] {
        let key = format!("tokenizer.ggml.{key}");
        assert!(header.get(&key) == original.get(&key), "{key}");
    }
    let tokenizer = Tokenizer::from_gguf(&header).unwrap().unwrap();
    assert_eq!(tokenizer.encode(TEXT).unwrap(), llama_cpp_ids(&back, TEXT));
}

/// The ids that llama.cpp's own tokenizer finds.
fn llama_cpp_ids(path: &Path, text: &str) -> Vec<u32> {
    let engine = regatta_worker::backend::llama_cpp::engine().unwrap();
    let params = llama_cpp_2::model::params::LlamaModelParams::default().with_vocab_only(true);
    let model = llama_cpp_2::model::LlamaModel::load_from_file(engine, path, &params).unwrap();
    let ids = model.vocab().tokenize(text.as_bytes(), true, true);
    ids.iter().map(|token| u32::try_from(token.0).unwrap()).collect()
}

#[test]
fn the_tokenizer_gives_what_llama_cpp_gives() {
    let Some((path, _)) = smollm2() else { return };
    let reader = regatta_models::gguf::Reader::open(&path).unwrap();
    let tokenizer = Tokenizer::from_gguf(reader.header()).unwrap().unwrap();
    let engine = regatta_worker::backend::llama_cpp::engine().unwrap();
    let params = llama_cpp_2::model::params::LlamaModelParams::default().with_vocab_only(true);
    let theirs = llama_cpp_2::model::LlamaModel::load_from_file(engine, &path, &params).unwrap();
    for text in [
        "Hello, world!",
        TEXT,
        "In 1984, 12345 people paid $3.50 (or 2,75 \u{20ac}) each.",
        "  leading, trailing and   inner spaces  ",
        "tabs\tand\nnew\n\nlines\r\n",
        "fn main() { let x = a[i] << 3; } // don't, we'll, it's",
        "Stra\u{df}e, na\u{ef}ve, \u{4f60}\u{597d}, \u{43f}\u{440}\u{438}\u{432}\u{435}\u{442}, \u{1f600}\u{1f44d}\u{1f3fd}",
        "",
    ] {
        let vocab = theirs.vocab();
        let expected: Vec<u32> =
            vocab.tokenize(text.as_bytes(), true, true).iter().map(|token| u32::try_from(token.0).unwrap()).collect();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, expected, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}
