//! `check-platforms`: what can be checked of macOS and Windows on a Linux machine. Types for both, a Windows build that links, and
//! that build's agent under Wine.
//!
//! Nothing here is needed by any other command. A step whose tools are missing is skipped and says what is missing; a step
//! that is begun must succeed. `docs/platforms.md` keeps what was seen.

mod toolchain;
mod wine;

use std::path::{Path, PathBuf};

use self::toolchain::{Found, Toolchain};
use crate::command::{Failure, Run, exists, target_dir};
use crate::fixtures::cache_dir;

/// How a step ended that did not fail.
pub(super) enum Outcome {
    /// It was done.
    Passed,
    /// It was not begun: what is missing, and how to get it.
    Skipped(String),
}

/// One thing that is checked.
struct Step {
    name: &'static str,
    what: &'static str,
    check: fn() -> Result<Outcome, Failure>,
}

const STEPS: [Step; 4] = [
    Step {
        name: "macos",
        what: "types of the whole workspace for Apple's processors, candle with metal",
        check: macos,
    },
    Step { name: "windows", what: "types of the whole workspace for Windows, without llama.cpp", check: windows },
    Step {
        name: "windows-build",
        what: "regatta.exe and regatta-worker.exe with candle and llama.cpp, linked",
        check: windows_build,
    },
    Step { name: "wine", what: "the Windows agent under Wine measures for a coordinator on Linux", check: wine::check },
];

pub(super) const MAC: &str = "aarch64-apple-darwin";
pub(super) const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// Compilers of the package mingw-w64 whose C++ has threads.
const MINGW: &str = "x86_64-w64-mingw32";

/// Runs all steps, or one.
pub(crate) fn run(arguments: &[&str]) -> Result<(), Failure> {
    let only = match arguments {
        [] => None,
        ["--only", name] if STEPS.iter().any(|step| step.name == *name) => Some(*name),
        _ => {
            let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
            return Err(Failure(format!(
                "check-platforms {}: use --only with one of {}",
                arguments.join(" "),
                names.join(", ")
            )));
        }
    };
    let mut lines = Vec::new();
    let mut failed = 0;
    for step in STEPS.iter().filter(|step| only.is_none_or(|name| name == step.name)) {
        println!("== {}: {}", step.name, step.what);
        let line = match (step.check)() {
            Ok(Outcome::Passed) => "passed".to_owned(),
            Ok(Outcome::Skipped(reason)) => format!("skipped: {reason}"),
            Err(failure) => {
                failed += 1;
                format!("FAILED: {failure}")
            }
        };
        println!("{line}\n");
        lines.push(format!("  {:<14}{line}", step.name));
    }
    println!("{}", lines.join("\n"));
    if failed == 0 { Ok(()) } else { Err(Failure(format!("{failed} of {} steps failed", lines.len()))) }
}

fn macos() -> Result<Outcome, Failure> {
    let toolchain = match toolchain::find(MAC)? {
        Found::Here(toolchain) => toolchain,
        Found::Missing(reason) => return Ok(Outcome::Skipped(reason)),
    };
    let Some(compiler) = mac_compiler()? else {
        return Ok(Outcome::Skipped(
            "no C compiler for macOS: python3 -m pip install ziglang (its zig cc is one)".to_owned(),
        ));
    };
    check(&toolchain, MAC, "regatta-worker/candle,regatta-worker/metal")
        .env("CC_aarch64_apple_darwin", &compiler)
        .env("AR_aarch64_apple_darwin", compiler.with_file_name("zig-ar"))
        .env("RUSTFLAGS", "-Ctarget-cpu=apple-m1")
        .run()?;
    Ok(Outcome::Passed)
}

fn windows() -> Result<Outcome, Failure> {
    match windows_tools()? {
        Err(reason) => Ok(Outcome::Skipped(reason)),
        Ok(toolchain) => {
            check(&toolchain, WINDOWS, "regatta-worker/candle").env("RUSTFLAGS", "-Ctarget-cpu=x86-64-v3").run()?;
            Ok(Outcome::Passed)
        }
    }
}

fn check(toolchain: &Toolchain, target: &str, features: &str) -> Run {
    let run = toolchain.cargo("check", target).args(&["--workspace", "--no-default-features", "--features", features]);
    run.env("CARGO_TARGET_DIR", cross_dir())
}

/// What is built for others is kept apart from what is built for this machine.
pub(super) fn cross_dir() -> PathBuf {
    target_dir().join("platforms")
}

/// Where the programs of the Windows build are.
pub(super) fn windows_dir() -> PathBuf {
    cross_dir().join(WINDOWS).join("debug")
}

/// What compiling for Windows needs, or what is missing of it.
fn windows_tools() -> Result<Result<Toolchain, String>, Failure> {
    if !exists(&format!("{MINGW}-gcc")) {
        return Ok(Err(
            "no C compiler for Windows: apt-get install gcc-mingw-w64-x86-64 g++-mingw-w64-x86-64".to_owned()
        ));
    }
    Ok(match toolchain::find(WINDOWS)? {
        Found::Here(toolchain) => Ok(toolchain),
        Found::Missing(reason) => Err(reason),
    })
}

/// Not optimised: what it measures is not looked at, and it takes a third of the time.
fn windows_build() -> Result<Outcome, Failure> {
    let toolchain = match windows_tools()? {
        Ok(toolchain) => toolchain,
        Err(reason) => return Ok(Outcome::Skipped(reason)),
    };
    if !exists(&format!("{MINGW}-g++-posix")) {
        return Ok(Outcome::Skipped(
            "no C++ compiler for Windows with threads: apt-get install g++-mingw-w64-x86-64-posix".to_owned(),
        ));
    }
    let header = cross_dir().join("throttling.h");
    write(&header, THROTTLING)?;
    let flags = format!("-include {}", header.display());
    toolchain
        .cargo("build", WINDOWS)
        .args(&["--package", "regatta", "--package", "regatta-worker", "--bins"])
        .env("CARGO_TARGET_DIR", cross_dir())
        .env("CC_x86_64_pc_windows_gnu", format!("{MINGW}-gcc-posix"))
        .env("CXX_x86_64_pc_windows_gnu", format!("{MINGW}-g++-posix"))
        .env("CFLAGS_x86_64_pc_windows_gnu", &flags)
        .env("CXXFLAGS_x86_64_pc_windows_gnu", &flags)
        .env(
            "BINDGEN_EXTRA_CLANG_ARGS_x86_64_pc_windows_gnu",
            "--sysroot=/usr/x86_64-w64-mingw32 -I/usr/x86_64-w64-mingw32/include",
        )
        .env("RUSTFLAGS", link_flags())
        .run()?;
    Ok(Outcome::Passed)
}

/// On MinGW ggml's archives have no `lib` before their names, and the crate's build script does not find them.
fn link_flags() -> String {
    let libraries = [
        ":ggml.a",
        ":ggml-cpu.a",
        ":ggml-base.a",
        "stdc++",
        "gomp",
        "pthread",
        "m",
        "mingw32",
        "mingwex",
        "msvcrt",
        "kernel32",
        "advapi32",
    ];
    let group = std::iter::once("-Wl,--start-group".to_owned())
        .chain(libraries.iter().map(|library| format!("-l{library}")))
        .chain(std::iter::once("-Wl,--end-group".to_owned()));
    let arguments: Vec<String> = group.map(|argument| format!("-Clink-arg={argument}")).collect();
    format!("-Ctarget-cpu=x86-64-v3 -Clinker={MINGW}-gcc-posix {}", arguments.join(" "))
}

/// What headers of mingw-w64 before version 11 lack and ggml uses.
const THROTTLING: &str = "\
#ifndef REGATTA_THROTTLING
#define REGATTA_THROTTLING
#ifndef THREAD_POWER_THROTTLING_CURRENT_VERSION
#define THREAD_POWER_THROTTLING_CURRENT_VERSION 1
#define THREAD_POWER_THROTTLING_EXECUTION_SPEED 1
typedef struct { unsigned long Version; unsigned long ControlMask; unsigned long StateMask; } THREAD_POWER_THROTTLING_STATE;
#endif
#endif
";

/// A C compiler for macOS: zig's, behind a script that drops what it doesn't know.
fn mac_compiler() -> Result<Option<PathBuf>, Failure> {
    let Some(zig) = zig() else { return Ok(None) };
    let folder = cross_dir().join("zig");
    let script = |name: &str, text: String| {
        let path = folder.join(name);
        write(&path, &text)?;
        make_executable(&path)?;
        Ok::<PathBuf, Failure>(path)
    };
    script("zig-ar", format!("#!/bin/sh\nexec {zig} ar \"$@\"\n"))?;
    let compiler = format!(
        "#!/bin/bash\n# Drops what zig does not know.\nkept=()\nskip=\nfor word in \"$@\"; do\n  if [ -n \"$skip\" ]; then skip=; \
         continue; fi\n  case \"$word\" in\n    -arch|--target=*) [ \"$word\" = -arch ] && skip=1;;\n    -mmacosx-version-min=*|-gfull) ;;\n    \
         *) kept+=(\"$word\");;\n  esac\ndone\nexec {zig} cc -target aarch64-macos \"${{kept[@]}}\"\n"
    );
    script("zig-cc", compiler).map(Some)
}

/// How zig is called here: by itself, or as the Python package that brings it.
fn zig() -> Option<String> {
    if exists("zig") {
        return Some("zig".to_owned());
    }
    let own = cache_dir().join("ziglang/ziglang/zig");
    let python = "import ziglang, os; print(os.path.join(os.path.dirname(ziglang.__file__), 'zig'))";
    let packaged = || Run::new("python3").args(&["-c", python]).output().map(PathBuf::from);
    Some(own).filter(|zig| zig.is_file()).or_else(packaged).map(|zig| zig.display().to_string())
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure(format!("failed to write {}: {error}", path.display()));
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
    std::fs::write(path, text).map_err(failed)
}

#[cfg(unix)]
pub(crate) fn make_executable(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure(format!("failed to make {} executable: {error}", path.display())))
}

#[cfg(not(unix))]
pub(crate) fn make_executable(_: &Path) -> Result<(), Failure> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_step_is_refused_with_those_there_are() {
        let error = run(&["--only", "beos"]).unwrap_err().to_string();
        assert!(error.contains("beos") && error.contains("macos, windows, windows-build, wine"), "{error}");
        assert!(run(&["--seeds", "3"]).is_err());
    }

    #[test]
    fn every_step_is_told_of_in_the_docs() {
        let text = include_str!("../../docs/platforms.md");
        for step in &STEPS {
            assert!(text.contains(&format!("`{}`", step.name)), "docs/platforms.md does not tell of {}", step.name);
        }
    }
}
