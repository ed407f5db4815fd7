//! What can be wrong with a model: each message says what, where, by which rule, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use regatta_core::artifact::{ArtifactRef, Precision};
use regatta_core::id::shown;

/// How many names a list in a message shows before it says how many more there are.
const LISTED: usize = 8;

/// Why a file of weights was refused, could not be made, or was not found.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The file is of a kind that may run code when it is loaded.
    #[error(
        "{}: {found} magic found; only safetensors, gguf and onnx are read (fix: get the model's safetensors or gguf files)",
        path.display()
    )]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// `pickle` or `zip`.
        found: &'static str,
    },

    /// The file is neither safetensors nor GGUF nor ONNX.
    #[error("{}: neither safetensors nor gguf nor onnx: the file starts with {start}", path.display())]
    UnknownContent {
        /// The file.
        path: PathBuf,
        /// Its first bytes, in hexadecimal.
        start: String,
    },

    /// An ONNX graph that was not written here: it may compute anything.
    #[error(
        "{}: not a graph that Regatta writes: {what}; only those are run (fix: 'regatta models convert MODEL --to onnx' \
         from the model's safetensors or gguf)",
        path.display()
    )]
    ForeignGraph {
        /// The graph's file.
        path: PathBuf,
        /// By what it is seen.
        what: String,
    },

    /// A field of a file's header breaks a rule of the format.
    #[error("{}: {field} at byte {offset}: {problem}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Which field, with the name of the key or tensor where there is one.
        field: String,
        /// Where the field starts, in bytes from the start of the file.
        offset: u64,
        /// The value, and the rule that it breaks.
        problem: String,
    },

    /// The file ends too early.
    #[error("{}: truncated: {what} needs {expected} bytes, found {found} (fix: fetch or make the file again)", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What doesn't fit.
        what: String,
        /// The least size of the file, in bytes.
        expected: u64,
        /// The file's size, in bytes.
        found: u64,
    },

    /// An installed file isn't as long as it was when it was installed.
    #[error("{}: expected {expected} bytes, found {found}; the file was left as it is (fix: {fix})", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Size when installed, in bytes.
        expected: u64,
        /// Size now, in bytes.
        found: u64,
        /// The command that mends it.
        fix: String,
    },

    /// An installed file doesn't hold what it held when it was installed.
    #[error("{}: expected SHA-256 {expected}, got {found}; the file was left as it is (fix: {fix})", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// SHA-256 when installed, in hexadecimal.
        expected: String,
        /// SHA-256 now, in hexadecimal.
        found: String,
        /// The command that mends it.
        fix: String,
    },

    /// Shards that an index names are not there.
    #[error("{}: {} of the shards it names are missing: {}", path.display(), missing.len(), listed(missing))]
    MissingShards {
        /// The index.
        path: PathBuf,
        /// The names of the missing files.
        missing: Vec<String>,
    },

    /// The tensors in a file are not the ones that its configuration demands.
    #[error("{}: tensors do not fit the model's shape: {}", path.display(), tensor_problems(missing, wrong))]
    Tensors {
        /// The file or folder.
        path: PathBuf,
        /// Names of the tensors that are not there.
        missing: Vec<String>,
        /// Tensors that are there but should not be, or have another shape or type; each a phrase.
        wrong: Vec<String>,
    },

    /// A field of `config.json`, of GGUF metadata or of `tokenizer.json` is missing or unusable.
    #[error("{}: {key}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: String,
        /// Its value, and the rule that it breaks.
        problem: String,
    },

    /// A network family that the engines here don't run.
    #[error("{}: architecture '{}' is not supported; supported are {}", path.display(), shown(found), supported.join(", "))]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: String,
        /// What it may say.
        supported: &'static [&'static str],
    },

    /// Weights are stored in a way that the operation can't use.
    #[error("{}: {what} is stored as {found}; supported here are {}", path.display(), supported.join(", "))]
    Storage {
        /// The file.
        path: PathBuf,
        /// Which tensor, or the weights as a whole.
        what: String,
        /// The type's name.
        found: String,
        /// Names of the types that would do.
        supported: Vec<&'static str>,
    },

    /// A precision that can't be made by this operation.
    #[error("{precision} cannot be written as {target}: {reason}")]
    Precision {
        /// The precision asked for.
        precision: Precision,
        /// What was to be written.
        target: &'static str,
        /// Why not, and what to do instead.
        reason: String,
    },

    /// There is no tokenizer.
    #[error("{}: tokenizer missing: expected {expected}", path.display())]
    TokenizerMissing {
        /// The folder or file.
        path: PathBuf,
        /// Which file or key would hold it.
        expected: &'static str,
    },

    /// The tokenizer belongs to another model.
    #[error("{}: the tokenizer has {tokenizer} tokens, the model's vocabulary has {model}; they must be equal", path.display())]
    Vocabulary {
        /// The tokenizer's file, or the GGUF file.
        path: PathBuf,
        /// Number of tokens in the tokenizer.
        tokenizer: u64,
        /// Size of the model's vocabulary.
        model: u64,
    },

    /// The files hold another network than the one they were said to hold.
    #[error("{}: not the model {model}: {}", path.display(), listed(differences))]
    OtherModel {
        /// The file or folder.
        path: PathBuf,
        /// The id it was to have.
        model: String,
        /// Each difference as `hidden 2048, expected 4096`.
        differences: Vec<String>,
    },

    /// Trained weights were to be fetched, and what came says that it is made up.
    #[error(
        "{}: these weights say that they are made up (seed {seed}), and trained ones were to be fetched (fix: name their \
         origin, or make synthetic ones with 'regatta models synth')",
        path.display()
    )]
    MadeUp {
        /// The file or folder.
        path: PathBuf,
        /// The seed that they were made of.
        seed: u64,
    },

    /// The library doesn't have the artifact.
    #[error("{artifact} is not installed in {} (fix: {fix})", path.display())]
    NotInstalled {
        /// What was looked for.
        artifact: ArtifactRef,
        /// Where.
        path: PathBuf,
        /// The command that gets it.
        fix: String,
    },

    /// The library already has the artifact.
    #[error("{artifact} is already installed in {} (fix: remove it first, or ask for it to be replaced)", path.display())]
    AlreadyInstalled {
        /// What was to be installed.
        artifact: ArtifactRef,
        /// Where it is.
        path: PathBuf,
    },

    /// A path leads out of the folder that it must stay in.
    #[error("{}: '{}' {problem}", path.display(), shown(name))]
    Escape {
        /// The folder, or the file that names the path.
        path: PathBuf,
        /// The path.
        name: String,
        /// The rule.
        problem: &'static str,
    },
}

impl ModelError {
    /// Makes the function that turns a system error into "cannot `action` `path`".
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// A field that can't be used.
    pub(crate) fn config(path: &Path, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { path: path.to_owned(), key: key.into(), problem: problem.into() }
    }
}

/// The first few of `names`, and how many more there are.
fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(LISTED).map(|name| printable(name)).collect();
    if names.len() > LISTED {
        shown.push(format!("and {} more", names.len() - LISTED));
    }
    shown.join(", ")
}

fn tensor_problems(missing: &[String], wrong: &[String]) -> String {
    [("missing", missing), ("wrong", wrong)]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(problem, names)| format!("{} {problem} ({})", names.len(), listed(names)))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Like [`shown`], for phrases that may be longer than a name.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if regatta_core::id::is_unprintable(c) { '\u{fffd}' } else { c }).collect()
}
