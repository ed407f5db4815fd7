//! `cargo xtask parity`: Regatta's `prefill` and `decode` against llama-bench's `pp` and `tg`, both of the very same llama.cpp
//! sources, built with the same flags and run with the same threads, in turns.
//!
//! The crate that vendors llama.cpp leaves llama-bench's two files out; they come from the source distribution of a Python
//! package that has them. For checks only: nothing of it goes into what is built for users.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{Failure, Run, cargo, exists, root};
use crate::fixtures::{cache_dir, entries, find, python};
use crate::rates::{column, median, median_interval};

const PACKAGE: &str = "llama-cpp-python==0.3.36";
const TOOL: &str = "vendor/llama.cpp/tools/llama-bench";

/// What is run: model as llama-bench gets it, its precision, and the size of the two tests.
struct Check {
    model: &'static str,
    precision: &'static str,
    weights: &'static str,
    prompt: u32,
    steps: u32,
}

/// The models that are compared, for `--only`.
pub(crate) const MODELS: [&str; 2] = [CHECKS[0].model, CHECKS[1].model];

const CHECKS: [Check; 2] = [
    Check { model: "smollm2-135m", precision: "q4_1", weights: "real", prompt: 512, steps: 128 },
    Check { model: "tinyllama-1.1b", precision: "q4_k_m", weights: "synthetic", prompt: 128, steps: 32 },
];

const REPETITIONS: usize = 5;

/// One kind of forward pass of a check, as each of the two is told of it. A run of its own, so that few seconds lie between
/// what is compared.
struct Test {
    name: String,
    scenario: PathBuf,
    /// The column of Regatta's CSV with its rate.
    column: &'static str,
    /// llama-bench's flags.
    flags: [String; 4],
}

/// Compares in so many pairs, all models or one; `regatta` is the program that is measured.
pub(crate) fn run(regatta: &Path, pairs: usize, only: Option<&str>) -> Result<(), Failure> {
    let bench = llama_bench()?;
    let home = cache_dir().join("parity");
    for check in CHECKS.iter().filter(|check| only.is_none_or(|model| model == check.model)) {
        let file = weights(regatta, &home, check)?;
        let ours = |test: &Test| ours(regatta, &home, test);
        let theirs = |test: &Test| theirs(&bench, &file, test);
        for test in &check.tests(&home)? {
            let title = format!("{} {} {}", check.model, check.precision, test.name);
            let mut rates = Vec::new();
            for pair in 0..pairs {
                // Whoever is second finds the machine warmer, so they take turns at that too.
                let (ours, theirs) = if pair % 2 == 0 {
                    let ours = ours(test)?;
                    (ours, theirs(test)?)
                } else {
                    let theirs = theirs(test)?;
                    (ours(test)?, theirs)
                };
                println!("{title} pair {}: {ours:.2} / {theirs:.2} tokens/s, ratio {:.4}", pair + 1, ours / theirs);
                rates.push((ours, theirs));
            }
            println!("{title}: {}", summary(&rates));
        }
    }
    Ok(())
}

/// Regatta's rates beside llama-bench's.
fn summary(rates: &[(f64, f64)]) -> String {
    let (ours, theirs) = (median(rates.iter().map(|pair| pair.0)), median(rates.iter().map(|pair| pair.1)));
    let mut ratios: Vec<f64> = rates.iter().map(|(ours, theirs)| ours / theirs).collect();
    ratios.sort_by(f64::total_cmp);
    let (low, high, confidence) = median_interval(&ratios);
    format!(
        "Regatta {ours:.2}, llama-bench {theirs:.2} tokens/s; ratio of medians {:.4}; median of ratios {:.4}, {low:.4} to \
         {high:.4} ({:.1} %)",
        ours / theirs,
        median(ratios),
        confidence * 100.0
    )
}

/// The median rate of one run's repetitions, in tokens per second.
fn ours(regatta: &Path, home: &Path, test: &Test) -> Result<f64, Failure> {
    let out = home.join("out");
    let scenario = &test.scenario;
    let run =
        Run::new(regatta).env("REGATTA_HOME", home).args(&["run", "--quick"]).arg(scenario).arg("--out").arg(&out);
    run.output().ok_or_else(|| Failure(format!("regatta run {} failed", scenario.display())))?;
    let report = Run::new(regatta).env("REGATTA_HOME", home).args(&["report", "--format", "csv"]);
    let csv = report.output().ok_or_else(|| Failure("regatta report failed".to_owned()))?;
    Ok(median(column(&csv, test.column)))
}

/// The same of llama-bench, with memory asked for as agents do for workers.
fn theirs(bench: &Path, model: &Path, test: &Test) -> Result<f64, Failure> {
    let (repetitions, threads) = (REPETITIONS.to_string(), threads().to_string());
    let run = Run::new(bench).env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    let run = test.flags.iter().fold(run, |run, flag| run.args(&[flag]));
    let output = run
        .args(&["-r", &repetitions, "-t", &threads, "-fa", "1", "-o", "jsonl", "-m"])
        .arg(model)
        .output()
        .ok_or_else(|| Failure(format!("{} failed", bench.display())))?;
    let list = output.split_once("\"samples_ts\": [").and_then(|(_, rest)| rest.split_once(']'));
    let list = list.ok_or_else(|| Failure(format!("llama-bench printed no result:\n{output}")))?.0;
    Ok(median(list.split(',').filter_map(|number| number.trim().parse().ok())))
}

/// One thread a core; what Regatta takes by itself where cores have no siblings. Both get the same number.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

impl Check {
    fn tests(&self, home: &Path) -> Result<[Test; 2], Failure> {
        let (prompt, steps) = (self.prompt.to_string(), self.steps.to_string());
        Ok([
            Test {
                name: format!("pp{prompt}"),
                scenario: self.scenario(home, &format!("kind = \"prefill\"\nprompt_tokens = {prompt}\n"), "pp")?,
                column: "prefill_tokens_per_s",
                flags: ["-p".to_owned(), prompt, "-n".to_owned(), "0".to_owned()],
            },
            Test {
                name: format!("tg{steps}"),
                scenario: self.scenario(home, &format!("kind = \"decode\"\ngenerate = {steps}\n"), "tg")?,
                column: "decode_tokens_per_s",
                flags: ["-p".to_owned(), "0".to_owned(), "-n".to_owned(), steps],
            },
        ])
    }

    /// A scenario of one workload, warmed up as llama-bench does: once.
    fn scenario(&self, home: &Path, workload: &str, name: &str) -> Result<PathBuf, Failure> {
        let Self { model, precision, weights, .. } = self;
        let text = format!(
            "schema = 1\nname = \"parity\"\nmodels = [\"{model}\"]\nweights = \"{weights}\"\nbackends = [\"llama.cpp\"]\n\
             precisions = [\"{precision}\"]\n[policy]\nrepetitions = {REPETITIONS}\nthreads = {}\n[policy.warmup]\n\
             min_repetitions = 1\nmax_repetitions = 1\nmin_time = \"0s\"\n[[workload]]\nname = \"{name}\"\n{workload}",
            threads()
        );
        let path = home.join(format!("{model}-{name}.toml"));
        fs::write(&path, text).map_err(|error| Failure(format!("failed to write {}: {error}", path.display())))?;
        Ok(path)
    }
}

/// The GGUF file that both are given.
fn weights(regatta: &Path, home: &Path, check: &Check) -> Result<PathBuf, Failure> {
    fs::create_dir_all(home).map_err(|error| Failure(format!("failed to make {}: {error}", home.display())))?;
    let models = home.join("models");
    let file = |models: &Path| {
        let folder = models.join(check.weights).join(check.model).join(format!("gguf-{}", check.precision));
        folder.join("model.gguf")
    };
    if !file(&models).is_file() {
        let make = Run::new(regatta).env("REGATTA_HOME", home).arg("models");
        if check.weights == "real" {
            make.args(&["pull", check.model, "--from"]).arg(crate::fixtures::smollm2()?).run()?;
        } else {
            make.args(&["synth", check.model, "--format", "gguf", "--precision", check.precision]).run()?;
        }
    }
    Ok(file(&models))
}

/// llama-bench, built at the first call from the sources that the worker is built of.
fn llama_bench() -> Result<PathBuf, Failure> {
    let sources = vendored()?;
    let version =
        sources.parent().and_then(Path::file_name).map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let folder = cache_dir().join(format!("llama-bench-{version}"));
    let program = folder.join("build/bin/llama-bench");
    if program.is_file() {
        return Ok(program);
    }
    if !exists("cmake") {
        return Err(Failure("cmake is missing: cargo xtask setup".to_owned()));
    }
    println!("building llama-bench in {} (about six minutes on two cores) …", folder.display());
    let io = |what: &Path| {
        let what = what.display().to_string();
        move |error: std::io::Error| Failure(format!("{what}: {error}"))
    };
    let tree = folder.join("llama.cpp");
    fs::create_dir_all(&folder).map_err(io(&folder))?;
    Run::new("cp").args(&["-r"]).arg(&sources).arg(&tree).run()?;
    python(&["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", PACKAGE, "--dest"])
        .arg(&folder)
        .run()?;
    let archive = entries(&folder).find(|path| path.to_string_lossy().ends_with(".tar.gz"));
    let archive = archive.ok_or_else(|| Failure(format!("pip left no archive in {}", folder.display())))?;
    Run::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(&folder)
        .args(&["--wildcards"])
        .arg(format!("*/{TOOL}/*"))
        .run()?;
    let main = find(&folder, "llama-bench/main.cpp").and_then(|path| path.parent().map(Path::to_owned));
    let main = main.ok_or_else(|| Failure(format!("{TOOL} is not in {}", archive.display())))?;
    Run::new("cp").args(&["-r"]).arg(&main).arg(tree.join("tools")).run()?;
    let lists = tree.join("tools/CMakeLists.txt");
    fs::write(&lists, "find_package(Threads REQUIRED)\nllama_add_compile_flags()\nadd_subdirectory(llama-bench)\n")
        .map_err(io(&lists))?;
    // The tree names a folder that the crate leaves out.
    let app = tree.join("app");
    fs::create_dir_all(&app).map_err(io(&app))?;
    fs::write(app.join("CMakeLists.txt"), "").map_err(io(&app))?;
    let build = folder.join("build");
    let flags = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON",
        "-DGGML_OPENMP=ON",
        "-DBUILD_SHARED_LIBS=OFF",
        "-DLLAMA_CURL=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_SERVER=OFF",
    ];
    let kernels = format!("-DCMAKE_PROJECT_llama.cpp_INCLUDE={}", root().join("cmake/amx.cmake").display());
    Run::new("cmake").arg("-S").arg(&tree).arg("-B").arg(&build).args(&flags).arg(kernels).run()?;
    Run::new("cmake").arg("--build").arg(&build).args(&["--target", "llama-bench", "--parallel"]).run()?;
    Ok(program)
}

/// The folder of llama.cpp's sources that the worker is compiled of.
fn vendored() -> Result<PathBuf, Failure> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked"]).output();
    let metadata = metadata.ok_or_else(|| Failure("cargo metadata failed".to_owned()))?;
    let paths = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split_once('"'));
    let found =
        paths.map(|(path, _)| Path::new(path)).find(|path| path.to_string_lossy().contains("/llama-cpp-sys-2-"));
    let folder = found.and_then(Path::parent).map(|folder| folder.join("llama.cpp"));
    folder.ok_or_else(|| Failure("llama-cpp-sys-2 is not among the dependencies".to_owned()))
}
