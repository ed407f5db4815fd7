//! `cargo xtask …`: sets up what a build needs, then demonstrates, tests or benchmarks Regatta.
//!
//! Standard library only: this program is compiled before anything else, and must not take long.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]

#[cfg(test)]
mod bad_input;
mod bundle;
mod command;
#[cfg(test)]
mod faults;
mod fixtures;
mod overhead;
mod parity;
mod platforms;
mod rates;
mod setup;

use std::path::PathBuf;
use std::process::ExitCode;

use command::{Failure, cargo, root};

const HELP: &str = "\
usage: cargo xtask COMMAND [--no-install]

  demo     build, run scenarios/demo.toml on this machine, and say where the report is
  test     check format and lints, run all tests
  bench    run the benchmarks; `bench telemetry --pairs N` (20): what telemetry costs, on a quiet machine;
           with --control the same of nothing
  chaos    kill, stop and cut a fleet at random: --seeds N (200), --from S (0)
  parity   llama-bench against prefill and decode, in turns: --pairs N (10), --only MODEL
  bundle   regatta with a worker for NVIDIA's GPUs, as an archive: --cuda --arch sm_90
  check-platforms  what can be checked of macOS and Windows on Linux: --only STEP
  setup    only find and install what the build needs
  smollm2  fetch the real model that tests and scenarios/smollm2.toml use
  onnxruntime  fetch the library of the third backend, and say how to use it

  --no-install   say what is missing and stop, install nothing
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let install = !arguments.iter().any(|a| a == "--no-install");
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| *a != "--no-install").collect();
    let result = match words.as_slice() {
        ["demo", rest @ ..] => demo(install, rest),
        ["test"] => test(install),
        ["bench"] => bench(install),
        ["bench", "telemetry", rest @ ..] => bench_telemetry(install, rest),
        ["chaos", rest @ ..] => chaos(install, rest),
        ["parity", rest @ ..] => parity(install, rest),
        ["check-platforms", rest @ ..] => platforms::run(rest),
        ["bundle", rest @ ..] => bundle(install, rest),
        ["setup"] => setup::run(install, &setup::BUILD),
        ["smollm2"] => smollm2(install),
        ["onnxruntime"] => onnxruntime(install),
        ["help" | "--help" | "-h"] | [] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("unknown command: {}\n\n{HELP}", other.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What every command builds, with the same words each time: cargo then compiles the engines only once.
fn build() -> Result<(), Failure> {
    cargo(&["build", "--release", "--workspace", "--bins", "--example", "same_build"]).run()
}

fn program(name: &str) -> PathBuf {
    command::target_dir().join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

fn demo(install: bool, arguments: &[&str]) -> Result<(), Failure> {
    setup::run(install, &setup::BUILD)?;
    build()?;
    let out = command::target_dir().join("demo");
    command::Run::new(program("regatta"))
        .arg("run")
        .arg(root().join("scenarios/demo.toml"))
        .arg("--db")
        .arg(out.join("regatta.sqlite"))
        .arg("--out")
        .arg(&out)
        .args(arguments)
        .run()
}

fn test(install: bool) -> Result<(), Failure> {
    setup::run(install, &setup::BUILD)?;
    setup::run(install, &setup::FIXTURES)?;
    cargo(&["fmt", "--all", "--check"]).run()?;
    build()?;
    let model = fixtures::smollm2()?;
    cargo(&["test", "--release", "--workspace"])
        .env("REGATTA_SMOLLM2_GGUF", model)
        .env("REGATTA_ONNXRUNTIME", fixtures::onnxruntime()?)
        .env("REGATTA_REQUIRE_WORKER", "1")
        .run()?;
    println!("files of weights, read by the formats' own Python packages:");
    fixtures::formats_python()?
        .arg(root().join("worker/tests/reference/formats.py"))
        .arg(program("regatta-worker"))
        .run()?;
    println!("ONNX graphs, checked and run by ONNX's own Python packages:");
    fixtures::onnx_python()?
        .arg(root().join("worker/tests/reference/graphs.py"))
        .arg(program("regatta-worker"))
        .run()?;
    cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    if command::exists("cargo-deny") {
        // Not the advisories: they change without a commit, and come over the network.
        cargo(&["deny", "--all-features", "check", "bans", "licenses", "sources"]).run()?;
    } else {
        println!("cargo-deny is not installed: licences were not checked (cargo install cargo-deny)");
    }
    Ok(())
}

fn bench(install: bool) -> Result<(), Failure> {
    setup::run(install, &setup::BUILD)?;
    build()?;
    cargo(&["bench", "--workspace", "--benches"]).run()
}

fn parity(install: bool, arguments: &[&str]) -> Result<(), Failure> {
    let (mut pairs, mut only) = (10, None);
    for pair in arguments.chunks(2) {
        match pair {
            ["--pairs", number] if number.parse::<usize>().is_ok() => pairs = number.parse().unwrap_or(pairs),
            ["--only", model] if parity::MODELS.contains(model) => only = Some(*model),
            _ => {
                let models = parity::MODELS.join(" or ");
                return Err(Failure(format!("parity {}: use --pairs N, --only {models}", arguments.join(" "))));
            }
        }
    }
    setup::run(install, &setup::BUILD)?;
    setup::run(install, &setup::FIXTURES)?;
    build()?;
    parity::run(&program("regatta"), pairs, only)
}

fn bundle(install: bool, arguments: &[&str]) -> Result<(), Failure> {
    setup::run(install, &setup::BUILD)?;
    bundle::run(arguments)
}

/// What telemetry costs a real model's decode rate.
fn bench_telemetry(install: bool, arguments: &[&str]) -> Result<(), Failure> {
    let control = arguments.last() == Some(&"--control");
    let pairs = match arguments.strip_suffix(&["--control"]).unwrap_or(arguments) {
        [] => Some(overhead::PAIRS),
        ["--pairs", number] => number.parse().ok().filter(|pairs| *pairs >= overhead::MIN_PAIRS),
        _ => None,
    };
    let (words, least) = (arguments.join(" "), overhead::MIN_PAIRS);
    let usage = format!(
        "bench telemetry {words}: use --pairs N, {least} at least, and --control to measure nothing against nothing"
    );
    let pairs = pairs.ok_or(Failure(usage))?;
    setup::run(install, &setup::BUILD)?;
    setup::run(install, &setup::FIXTURES)?;
    build()?;
    overhead::run(&fixtures::smollm2()?, pairs, control)
}

/// One run of a fleet under random faults for each seed. Its workers have the scripted engine only.
fn chaos(install: bool, arguments: &[&str]) -> Result<(), Failure> {
    let (mut seeds, mut from) = (200, 0);
    for pair in arguments.chunks(2) {
        let number = pair.get(1).and_then(|text| text.parse::<u64>().ok());
        match (pair[0], number) {
            ("--seeds", Some(number)) => seeds = number,
            ("--from", Some(number)) => from = number,
            _ => return Err(Failure(format!("chaos: {}: use --seeds N --from S", pair.join(" ")))),
        }
    }
    setup::run(install, &setup::BUILD)?;
    build()?;
    let test = "chaos::nothing_is_lost_and_nothing_is_counted_twice";
    cargo(&["test", "--release", "--workspace", "--test", "fleet", "--", "--exact", test, "--nocapture"])
        .env("REGATTA_CHAOS", format!("{from}..{}", from + seeds))
        .run()
}

/// Fetches ONNX Runtime's library. Nothing is copied: what lies beside a worker program is loaded by it from then on.
fn onnxruntime(install: bool) -> Result<(), Failure> {
    setup::run(install, &setup::FIXTURES)?;
    let library = fixtures::onnxruntime()?;
    println!("ONNX Runtime's library is here: {}", library.display());
    println!("use it by name:     REGATTA_ONNXRUNTIME={}", library.display());
    println!("or for good:        copy it beside the worker, {}", program("regatta-worker").display());
    Ok(())
}

fn smollm2(install: bool) -> Result<(), Failure> {
    setup::run(install, &setup::BUILD)?;
    setup::run(install, &setup::FIXTURES)?;
    build()?;
    let model = fixtures::smollm2()?;
    let models = |arguments: &[&str]| command::Run::new(program("regatta")).arg("models").args(arguments);
    models(&["pull", "smollm2-135m", "--replace", "--from"]).arg(&model).run()?;
    for format in ["gguf", "safetensors", "onnx"] {
        let words = ["convert", "smollm2-135m", "--replace", "--format", format, "--precision", "f32", "--from"];
        models(&words).arg(&model).run()?;
    }
    println!("now: {} run scenarios/smollm2.toml", program("regatta").display());
    Ok(())
}
