//! What a build or a test needs from the system: finds it, says what is missing, installs it.

use std::path::{Path, PathBuf};

use crate::command::{Failure, Run, exists};

/// One thing that has to be there.
pub(crate) struct Need {
    name: &'static str,
    why: &'static str,
    found: fn() -> bool,
    packages: &'static [(Manager, &'static str)],
}

#[derive(Clone, Copy, PartialEq)]
enum Manager {
    Apt,
    Dnf,
    Brew,
    Winget,
}

use Manager::{Apt, Brew, Dnf, Winget};

/// What compiling needs.
pub(crate) const BUILD: [Need; 3] = [
    Need {
        name: "cmake",
        why: "llama.cpp is built with it",
        found: || exists("cmake"),
        packages: &[(Apt, "cmake"), (Dnf, "cmake"), (Brew, "cmake"), (Winget, "Kitware.CMake")],
    },
    Need {
        name: "a C++ compiler",
        why: "llama.cpp is C++",
        found: has_cpp_compiler,
        packages: &[(Apt, "g++"), (Dnf, "gcc-c++"), (Brew, "llvm"), (Winget, "Microsoft.VisualStudio.2022.BuildTools")],
    },
    Need {
        name: "libclang",
        why: "the Rust bindings of llama.cpp are generated with it",
        found: has_libclang,
        packages: &[(Apt, "libclang-dev"), (Dnf, "clang-devel"), (Brew, "llvm"), (Winget, "LLVM.LLVM")],
    },
];

/// What the tests' real model needs.
pub(crate) const FIXTURES: [Need; 1] = [Need {
    name: "python3 with pip",
    why: "the tests' real model comes in a Python package",
    found: || Run::new("python3").args(&["-m", "pip", "--version"]).output().is_some(),
    packages: &[(Apt, "python3-pip"), (Dnf, "python3-pip"), (Brew, "python"), (Winget, "Python.Python.3.12")],
}];

/// Makes sure that everything is there. Without `install` only says what is missing.
pub(crate) fn run(install: bool, needs: &[Need]) -> Result<(), Failure> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.found)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        println!("missing: {} ({})", need.name, need.why);
    }
    let Some(manager) = manager() else {
        return Err(Failure(
            "no known package manager here (apt, dnf, brew, winget): install the above by hand".into(),
        ));
    };
    let packages: Vec<&str> = missing
        .iter()
        .filter_map(|need| need.packages.iter().find(|(m, _)| *m == manager).map(|(_, package)| *package))
        .collect();
    let commands = install_commands(manager, &packages);
    if !install {
        let lines: Vec<String> = commands.iter().map(|words| format!("  {}", words.join(" "))).collect();
        return Err(Failure(format!("install what is missing with\n{}", lines.join("\n"))));
    }
    for words in commands {
        println!("> {}", words.join(" "));
        Run::new(&words[0]).args(&words[1..].iter().map(String::as_str).collect::<Vec<_>>()).run()?;
    }
    let still: Vec<&str> = missing.iter().filter(|need| !(need.found)()).map(|need| need.name).collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(Failure(format!("still missing after installing: {} (a new terminal may be needed)", still.join(", "))))
    }
}

fn manager() -> Option<Manager> {
    [("apt-get", Apt), ("dnf", Dnf), ("brew", Brew), ("winget", Winget)]
        .into_iter()
        .find(|(program, _)| exists(program))
        .map(|(_, manager)| manager)
}

fn install_commands(manager: Manager, packages: &[&str]) -> Vec<Vec<String>> {
    let (start, each): (&[&[&str]], &[&str]) = match manager {
        Apt => (&[&["apt-get", "update", "-qq"]], &["apt-get", "install", "-y", "-qq", "--no-install-recommends"]),
        Dnf => (&[], &["dnf", "install", "-y", "-q"]),
        Brew => (&[], &["brew", "install"]),
        Winget => (&[], &["winget", "install", "--accept-package-agreements", "--accept-source-agreements"]),
    };
    let sudo: &[&str] = if matches!(manager, Apt | Dnf) && !is_root() && exists("sudo") { &["sudo"] } else { &[] };
    let words = |words: &[&str], more: &[&str]| {
        sudo.iter().chain(words).chain(more).map(|word| (*word).to_owned()).collect::<Vec<String>>()
    };
    let mut commands: Vec<Vec<String>> = start.iter().map(|command| words(command, &[])).collect();
    commands.push(words(each, packages));
    commands
}

fn is_root() -> bool {
    Run::new("id").args(&["-u"]).output().is_some_and(|uid| uid == "0")
}

fn has_cpp_compiler() -> bool {
    let named = std::env::var_os("CXX").is_some();
    // Visual Studio's compiler is not on the path outside its own prompt; its installer's query tool is at a fixed place.
    let msvc = || Path::new(r"C:\Program Files (x86)\Microsoft Visual Studio\Installer\vswhere.exe").is_file();
    named || ["c++", "g++", "clang++"].iter().any(|program| exists(program)) || (cfg!(windows) && msvc())
}

/// Looks where bindgen looks: the variable, `llvm-config`, and the usual folders of each system.
fn has_libclang() -> bool {
    let mut folders: Vec<PathBuf> = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    folders.extend(Run::new("llvm-config").args(&["--libdir"]).output().map(PathBuf::from));
    for fixed in [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/opt/homebrew/opt/llvm/lib",
        "/usr/local/opt/llvm/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
        "/Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib",
        r"C:\Program Files\LLVM\bin",
    ] {
        folders.push(fixed.into());
    }
    folders.extend(entries(Path::new("/usr/lib")).filter(|dir| is_llvm(dir)).map(|dir| dir.join("lib")));
    folders.iter().any(|folder| entries(folder).any(|file| is_libclang(&file)))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_llvm(folder: &Path) -> bool {
    file_name(folder).starts_with("llvm-")
}

/// `libclang.so`, `libclang-14.so.1`, `libclang.dylib`, `libclang.dll`; not `libclang-cpp.so`.
fn is_libclang(file: &Path) -> bool {
    let name = file_name(file);
    let library = [".so", ".dylib", ".dll"].iter().any(|end| name.contains(end));
    library && name.starts_with("libclang") && !name.starts_with("libclang-cpp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_cpp_sibling() {
        for (name, expected) in [
            ("libclang.so", true),
            ("libclang-14.so.1", true),
            ("libclang.dylib", true),
            ("libclang-cpp.so.14", false),
            ("libclangAST.a", false),
            ("libc.so", false),
        ] {
            assert_eq!(is_libclang(Path::new(name)), expected, "{name}");
        }
    }
}
