//! Tells the program what it is built from: the engines' versions and the instructions the compiler may use.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Asked when it runs: a folder of built crates may serve several checkouts.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let lock = Path::new(&folder).join("../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = std::fs::read_to_string(lock).unwrap_or_default();
    for (key, package) in [
        ("REGATTA_CANDLE", "candle-core"),
        ("REGATTA_LLAMA_CPP_2", "llama-cpp-2"),
        ("REGATTA_LLAMA_CPP", "llama-cpp-sys-2"),
        ("REGATTA_ORT", "ort"),
    ] {
        println!("cargo::rustc-env={key}={}", version(&lock, package));
    }
    for (key, variable) in [("REGATTA_TARGET_FEATURES", "CARGO_CFG_TARGET_FEATURE"), ("REGATTA_OPT_LEVEL", "OPT_LEVEL")]
    {
        println!("cargo::rustc-env={key}={}", std::env::var(variable).unwrap_or_default());
    }
}

/// The version of a package in a lock file; engines don't say theirs by themselves.
fn version(lock: &str, package: &str) -> String {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    lines
        .next()
        .and_then(|line| line.strip_prefix("version = \""))
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or("unknown")
        .to_owned()
}
