//! Pictures on a machine that has nothing: no fonts, no fontconfig, no settings, no other file than this program and the
//! libraries that it is linked with. The test copies itself into such a root and draws there.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use regatta_reporter::chart::{self, Layout};
use regatta_reporter::view;
use sha2::{Digest as _, Sha256};

use crate::common;

/// Where the test tells itself what the pictures are to be.
const EXPECTED: &str = "REGATTA_TEST_PICTURES";

/// A hash over the pictures of a report.
fn pictures() -> String {
    let report = view::report(&common::troubled(), common::start());
    let mut hash = Sha256::new();
    for chart in report.runs.iter().flat_map(|run| &run.sections).flat_map(|section| &section.charts) {
        hash.update(chart::png("bare", &chart::svg(chart, Layout::WIDE).unwrap()).unwrap());
    }
    BASE64.encode(hash.finalize())
}

fn run(program: &str, args: &[&Path]) -> Result<Output, String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(output) } else { Err(format!("{program}: {}: {said}", output.status)) }
}

/// Files that the program is linked with.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let text = String::from_utf8_lossy(&run("ldd", &[program])?.stdout).into_owned();
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn copy_into(root: &Path, file: &Path) -> PathBuf {
    let to = root.join(file.strip_prefix("/").unwrap());
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(file, &to).unwrap();
    to
}

#[test]
fn pictures_are_the_same_where_there_is_no_font() {
    let program = std::env::current_exe().unwrap();
    let libraries = run("unshare", &["-r", "true"].map(Path::new)).and_then(|_| libraries(&program));
    let libraries = match libraries {
        Ok(libraries) => libraries,
        Err(reason) => {
            #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
            {
                println!("skipped: no bare root here: {reason}");
            }
            return;
        }
    };
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(&program, root.path().join("draw")).unwrap();
    for library in libraries {
        copy_into(root.path(), &library);
    }
    let output = Command::new("unshare")
        .args(["-r", "chroot"])
        .arg(root.path())
        .args(["/draw", "--exact", "bare::inside_of_the_bare_root", "--ignored", "--nocapture"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env(EXPECTED, pictures())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "the other test calls it, inside of a bare root"]
fn inside_of_the_bare_root() {
    let expected = std::env::var(EXPECTED).unwrap();
    for absent in ["/usr/share/fonts", "/etc/fonts", "/etc", "/tmp", "/proc"] {
        assert!(!Path::new(absent).exists(), "{absent} is here: the root is not bare");
    }
    assert_eq!(pictures(), expected);
}
