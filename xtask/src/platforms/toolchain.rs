//! A compiler with a standard library for another system: the one in use where rustup has added the target, or one that comes with
//! the library's sources and compiles it along.

use std::path::{Path, PathBuf};

use crate::command::{Failure, Run, cargo, exists, root};
use crate::fixtures::{cache_dir, entries};

/// The variable that names a folder with Debian's rustc-web unpacked.
const VARIABLE: &str = "REGATTA_CROSS_RUST";

/// Debian's packages of a compiler and its library's sources; names with a version in them are looked up.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "libstd-rust-web-dev", "rust-web-src"];

/// What is needed to compile for a target.
pub(super) enum Toolchain {
    /// The compiler in use has the library.
    Own,
    /// Another one, in this folder, that compiles the library along.
    Sources(PathBuf),
}

/// Whether there is one.
pub(super) enum Found {
    Here(Toolchain),
    /// How to get one.
    Missing(String),
}

/// Looks for one, and fetches Debian's where that is possible.
pub(super) fn find(target: &str) -> Result<Found, Failure> {
    let sysroot = Run::new("rustc").args(&["--print", "sysroot"]).output().unwrap_or_default();
    if Path::new(&sysroot).join("lib/rustlib").join(target).join("lib").is_dir() {
        return Ok(Found::Here(Toolchain::Own));
    }
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let folder = named.clone().unwrap_or_else(|| cache_dir().join("rust-web"));
    if is_whole(&folder) {
        return Ok(Found::Here(Toolchain::Sources(folder)));
    }
    if named.is_some() {
        return Err(Failure(format!("{VARIABLE}: {} holds no usr/bin/rustc with library sources", folder.display())));
    }
    if exists("apt-get") && exists("dpkg") && fetch(&folder).is_ok() && is_whole(&folder) {
        return Ok(Found::Here(Toolchain::Sources(folder)));
    }
    Ok(Found::Missing(format!("the compiler has no standard library for {target}: rustup target add {target}")))
}

fn is_whole(folder: &Path) -> bool {
    folder.join("usr/bin/rustc").is_file() && folder.join("usr/lib/rustlib/src/rust/library/std").is_dir()
}

/// Unpacks Debian's packages, which installs nothing.
fn fetch(folder: &Path) -> Result<(), Failure> {
    println!("fetching Debian's rustc-web with the library's sources (300 MB, unpacked into {}) …", folder.display());
    let download = folder.join("download");
    std::fs::create_dir_all(&download).map_err(|error| Failure(format!("{}: {error}", download.display())))?;
    let script = format!(
        "cd '{}' && apt-get download {} $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
         --no-replaces --no-enhances rustc-web cargo-web | grep -E '^(libstd-rust-web|libllvm|libgit2|libhttp-parser|libmbed|libssh2)' | sort -u)",
        download.display(),
        PACKAGES.join(" ")
    );
    Run::new("sh").args(&["-c", &script]).run()?;
    for package in entries(&download).filter(|path| path.extension().is_some_and(|extension| extension == "deb")) {
        Run::new("dpkg").arg("-x").arg(&package).arg(folder).run()?;
    }
    std::fs::remove_dir_all(&download).ok();
    let sources = entries(&folder.join("usr/src")).find(|path| path.join("library/std").is_dir());
    let sources = sources.ok_or_else(|| Failure("Debian's rust-web-src holds no library".to_owned()))?;
    let link = folder.join("usr/lib/rustlib/src/rust");
    std::fs::remove_file(&link).ok();
    std::fs::create_dir_all(folder.join("usr/lib/rustlib/src")).map_err(|error| Failure(error.to_string()))?;
    symlink(&sources, &link)
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> Result<(), Failure> {
    std::os::unix::fs::symlink(to, at).map_err(|error| Failure(format!("{}: {error}", at.display())))
}

#[cfg(not(unix))]
fn symlink(_: &Path, at: &Path) -> Result<(), Failure> {
    Err(Failure(format!("{}: no links on this system", at.display())))
}

impl Toolchain {
    /// A command of cargo for the target.
    pub(super) fn cargo(&self, command: &str, target: &str) -> Run {
        match self {
            Self::Own => cargo(&[command, "--target", target]),
            Self::Sources(folder) => {
                let usr = folder.join("usr");
                let libraries = format!("{0}/lib/x86_64-linux-gnu:{0}/lib", usr.display());
                Run::new(usr.join("bin/cargo"))
                    .args(&[command, "-Zbuild-std=std,panic_unwind", "--target", target])
                    .in_folder(root())
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTC", usr.join("bin/rustc"))
                    // Of this process, which another cargo runs.
                    .env("CARGO", usr.join("bin/cargo"))
                    .env("LD_LIBRARY_PATH", libraries)
            }
        }
    }
}
