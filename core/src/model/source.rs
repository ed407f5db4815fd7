//! Where an artifact's files come from, and what they are known to be: the part of a manifest that `models pull` reads.

use serde::{Deserialize, Serialize};

use crate::artifact::{Format, Precision};
use crate::document::{At, Report, Section, closest, did_you_mean, grouped, quoted};

/// The largest file that a manifest may name, in bytes: 1 TiB.
pub const MAX_FILE: u64 = 1 << 40;

/// The longest address, repository or file name, in characters.
const MAX_NAME: usize = 255;

const KEYS: [&str; 6] = ["format", "precision", "hub", "revision", "url", "files"];
const FILE_KEYS: [&str; 3] = ["name", "bytes", "sha256"];

/// The name of a GGUF file in the library, whatever it is called where it comes from.
const GGUF: &str = "model.gguf";

/// The names of an ONNX graph and its weights; the graph itself names the latter.
const ONNX: [&str; 2] = ["model.onnx", "model.onnx.data"];

/// Weights of a model that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The file format.
    pub format: Format,
    /// How the weights are stored.
    pub precision: Precision,
    /// Where they are.
    pub origin: Origin,
    /// The files that make up the artifact.
    pub files: Vec<PublishedFile>,
}

/// Where the files of an artifact are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Origin {
    /// In a repository of the Hugging Face hub.
    Hub {
        /// Its name, `owner/name`.
        repo: String,
        /// A commit, a tag or a branch.
        revision: String,
    },
    /// Below an `https://` address that ends in a slash.
    Url(String),
}

/// A file of a published artifact. What is not known is found out at the first pull and pinned then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFile {
    /// Its name at its origin, with folders where there are any.
    pub name: String,
    /// Its size in bytes, where that is known.
    pub bytes: Option<u64>,
    /// Its SHA-256 in lower-case hexadecimal, where that is known.
    pub sha256: Option<String>,
}

impl Published {
    /// The name that a file gets in the library.
    pub fn local_name<'f>(&self, file: &'f PublishedFile) -> &'f str {
        match self.format {
            Format::Gguf => GGUF,
            Format::Safetensors | Format::Onnx => file.name.rsplit('/').next().unwrap_or(&file.name),
        }
    }

    /// Checks what did not come out of a manifest: an address and a file name that somebody typed.
    pub fn check(&self) -> Result<(), String> {
        if let Some(file) = self.files.iter().find(|file| !is_path(&file.name)) {
            let name = quoted(&file.name);
            return Err(format!("{name} is no name of a file: use letters, digits, '.', '_', '-' and '/'"));
        }
        match &self.origin {
            Origin::Url(url) if !is_plain_url(url) => Err(NOT_PLAIN.to_owned()),
            _ => Ok(()),
        }
    }

    /// The sum of the sizes that are known, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.bytes).sum()
    }
}

/// Whether `text` is a SHA-256 as it is written here.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reads the artifacts of a model. What is wrong is reported; a model without artifacts can't be pulled, no more.
pub(super) fn artifacts(report: &Report<'_>, model: &Section<'_, '_, '_>) -> Vec<Published> {
    let sections = model.sections("artifact", &KEYS).unwrap_or_default();
    let mut found: Vec<(u32, Published)> = Vec::new();
    for section in sections {
        let Some(published) = artifact(report, &section) else { continue };
        let same =
            |(_, other): &&(u32, Published)| (other.format, other.precision) == (published.format, published.precision);
        if let Some((line, _)) = found.iter().find(same) {
            let rule = format!("{} {} stands here twice, first on line {line}", published.format, published.precision);
            report.rule(Some(section.line()), &model.key("artifact"), rule, Some("remove one".to_owned()));
        }
        found.push((section.line(), published));
    }
    found.into_iter().map(|(_, published)| published).collect()
}

fn artifact(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<Published> {
    section.require("format", "format = \"gguf\"");
    section.require("precision", "precision = \"q8_0\"");
    let format = named(report, section, "format", Format::ALL.map(Format::as_str));
    let precision = named(report, section, "precision", Precision::ALL.map(Precision::as_str));
    let origin = origin(report, section);
    section.require("files", "files = [{ name = \"model.safetensors\" }, { name = \"config.json\" }]");
    let files: Vec<At<PublishedFile>> = section
        .sections("files", &FILE_KEYS)
        .unwrap_or_default()
        .iter()
        .filter_map(|section| file(report, section))
        .collect();
    let (format, precision) = (format?, precision?);
    check_files(report, section, format, precision, &files);
    Some(Published { format, precision, origin: origin?, files: files.into_iter().map(|at| at.value).collect() })
}

fn named<T: std::str::FromStr, const N: usize>(
    report: &Report<'_>,
    section: &Section<'_, '_, '_>,
    key: &str,
    known: [&'static str; N],
) -> Option<T> {
    let At { value, line } = section.text(key)?;
    let found = value.parse().ok();
    if found.is_none() {
        let fix = closest(value, known).map(did_you_mean);
        report.value(line, &section.key(key), &quoted(value), format!("must be one of {}", known.join(", ")), fix);
    }
    found
}

fn origin(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<Origin> {
    match (section.has("hub"), section.has("url")) {
        (true, false) => hub(report, section),
        (false, true) => url(report, section),
        (both, _) => {
            let rule = if both { "names two origins, a hub and a url" } else { "names no origin" };
            let fix = "give one of hub = \"OWNER/NAME\" with revision, and url = \"https://HOST/FOLDER/\"".to_owned();
            report.rule(Some(section.line()), &section.key("hub"), format!("the artifact {rule}"), Some(fix));
            None
        }
    }
}

fn hub(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<Origin> {
    section.require("revision", "revision = \"main\", or better the commit's 40 digits");
    let repo = section.text("hub")?;
    let repo_is_good =
        repo.value.split_once('/').is_some_and(|(owner, name)| is_component(owner) && is_component(name))
            && repo.value.len() <= MAX_NAME;
    if !repo_is_good {
        let rule = "must be OWNER/NAME of letters, digits, '.', '_' and '-'".to_owned();
        report.value(repo.line, &section.key("hub"), &quoted(repo.value), rule, None);
    }
    let revision = section.text("revision")?;
    let revision_is_good = is_path(revision.value);
    if !revision_is_good {
        let rule = "must be a commit, a tag or a branch of letters, digits, '.', '_', '-' and '/'".to_owned();
        report.value(revision.line, &section.key("revision"), &quoted(revision.value), rule, None);
    }
    (repo_is_good && revision_is_good)
        .then(|| Origin::Hub { repo: repo.value.to_owned(), revision: revision.value.to_owned() })
}

/// Only what the address looks like is checked here; whether it may be asked is for the policy of whoever pulls.
fn url(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<Origin> {
    let At { value, line } = section.text("url")?;
    let wrong = |rule: &str, fix: Option<&str>| {
        report.value(line, &section.key("url"), &quoted(value), rule.to_owned(), fix.map(str::to_owned));
        None
    };
    if section.has("revision") {
        return wrong("only hub repositories have a revision", Some("remove the line"));
    }
    let Some(rest) = value.strip_prefix("https://") else {
        return wrong("must start with https://", None);
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        // The value is not shown: it may hold a password.
        let rule = format!("{} holds a user or a password, which no manifest may", section.key("url"));
        report.rule(Some(line), &section.key("url"), rule, Some("remove what stands before '@'".to_owned()));
        return None;
    }
    if authority.is_empty() {
        return wrong("must name a host", None);
    }
    if !is_plain_url(value) {
        return wrong(NOT_PLAIN, None);
    }
    if !value.ends_with('/') {
        return wrong("must name a folder, which file names are put behind", Some("end it with '/'"));
    }
    Some(Origin::Url(value.to_owned()))
}

fn file(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<At<PublishedFile>> {
    section.require("name", "name = \"model.safetensors\"");
    let bytes = section.int("bytes", 1..=MAX_FILE).map(|at| at.value);
    let sha256 = section.text("sha256");
    if let Some(At { value, line }) = sha256.as_ref().filter(|at| !is_sha256(at.value)) {
        let rule = format!("must have 64 digits of 0-9 and a-f, has {} characters", grouped(value.len() as u64));
        report.value(*line, &section.key("sha256"), &quoted(value), rule, None);
    }
    let At { value, line } = section.text("name")?;
    if !is_path(value) {
        let rule = "must be a path inside its origin, of letters, digits, '.', '_', '-' and '/'".to_owned();
        report.value(line, &section.key("name"), &quoted(value), rule, None);
        return None;
    }
    let sha256 = sha256.map(|at| at.value.to_owned());
    Some(At { value: PublishedFile { name: value.to_owned(), bytes, sha256 }, line })
}

/// The files are those of the format: nothing that runs code when it is loaded, nothing twice, nothing missing.
fn check_files(
    report: &Report<'_>,
    section: &Section<'_, '_, '_>,
    format: Format,
    precision: Precision,
    files: &[At<PublishedFile>],
) {
    let key = section.key("files");
    let (endings, extra): (&[&str], _) = match format {
        Format::Gguf => (&[".gguf"], ""),
        Format::Safetensors => (&[".safetensors", ".json"], "; pickle files such as .bin and .pt may run code"),
        Format::Onnx => (&[".onnx", ".data", ".json"], "; only graphs that Regatta has written are run"),
    };
    for At { value: file, line } in files {
        if !endings.iter().any(|ending| file.name.ends_with(ending)) {
            let rule = format!("{format} takes files that end in {}{extra}", endings.join(" or "));
            report.value(*line, &key, &quoted(&file.name), rule, None);
        }
    }
    let local = |file: &PublishedFile| file.name.rsplit('/').next().unwrap_or_default().to_owned();
    for (i, At { value, line }) in files.iter().enumerate() {
        if files[..i].iter().any(|earlier| local(&earlier.value) == local(value)) {
            report.value(*line, &key, &quoted(&value.name), "a file of this name stands here twice".to_owned(), None);
        }
    }
    let rule = |rule: &str, fix: &str| report.rule(Some(section.line()), &key, rule.to_owned(), Some(fix.to_owned()));
    let count = |ending: &str| files.iter().filter(|at| at.value.name.ends_with(ending)).count();
    let names = |name: &str| files.iter().any(|at| local(&at.value) == name);
    match format {
        Format::Gguf if files.len() != 1 => rule("a gguf artifact is one file", "name the one with this precision"),
        Format::Safetensors if count(".safetensors") == 0 => rule("no .safetensors file is named", "add one"),
        Format::Safetensors | Format::Onnx if !names("config.json") => {
            rule("config.json is not named", "add { name = \"config.json\" }");
        }
        Format::Onnx if !ONNX.iter().all(|name| names(name)) => {
            rule("an onnx artifact is model.onnx with model.onnx.data", "name both, as Regatta has written them");
        }
        _ => {}
    }
    if !format.holds(precision) {
        let held: Vec<&str> = Precision::ALL.into_iter().filter(|p| format.holds(*p)).map(Precision::as_str).collect();
        rule(&format!("{format} has no precision {precision}"), &format!("write one of {}", held.join(", ")));
    }
}

/// Why an address is not plain.
const NOT_PLAIN: &str = "an address must have at most 255 plain characters, no '?', '#', quotes or backslashes";

/// Whether an address can stand in a lock file as it is.
fn is_plain_url(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_graphic() && !b"?#\"\\".contains(&b);
    text.len() <= MAX_NAME && text.bytes().all(is_plain)
}

/// A part of a path that leads nowhere but down.
fn is_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= MAX_NAME && text != "." && text != ".." && text.bytes().all(plain)
}

/// A relative path of such parts.
fn is_path(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('/').all(is_component)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::model::{BUILT_IN_MODELS, parse_manifest};

    const GOOD: &str = r#"schema = 1
[model.m]
licence = "MIT"
architecture = "llama"
hidden = 256
intermediate = 768
layers = 2
heads = 8
kv_heads = 4
vocab = 1000
context = 2048
rope_theta = 10000.0
norm_eps = 1e-5
tied_embeddings = false

[[model.m.artifact]]
format = "safetensors"
precision = "bf16"
hub = "owner/name"
revision = "main"
files = [
  { name = "model.safetensors", bytes = 1000, sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" },
  { name = "config.json" },
]

[[model.m.artifact]]
format = "gguf"
precision = "q8_0"
url = "https://example.org/m/"
files = [{ name = "sub/m.Q8_0.gguf" }]
"#;

    /// What is said about a good manifest in which one piece of text is replaced.
    fn changed(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        match parse_manifest("m.toml", &GOOD.replacen(from, to, 1)) {
            Ok(_) => "accepted".to_owned(),
            Err(errors) => errors.to_string(),
        }
    }

    #[test]
    fn artifacts_are_read_with_what_is_known_of_their_files() {
        let model = parse_manifest("m.toml", GOOD).unwrap().remove(0);
        let [safetensors, gguf] = model.artifacts.as_slice() else { panic!("{:?}", model.artifacts) };
        assert_eq!(safetensors.origin.name(), "hub:owner/name@main");
        assert_eq!(safetensors.bytes(), 1000);
        assert_eq!(safetensors.files[1], PublishedFile { name: "config.json".to_owned(), bytes: None, sha256: None });
        assert_eq!(gguf.origin, Origin::Url("https://example.org/m/".to_owned()));
        assert_eq!(gguf.local_name(&gguf.files[0]), "model.gguf");
        assert_eq!(model.published(Format::Gguf, Precision::Q8_0), Some(gguf));
        assert_eq!(model.published(Format::Gguf, Precision::F16), None);
    }

    #[test]
    fn the_models_of_the_study_can_be_pulled() {
        let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap_or_else(|errors| panic!("{errors}"));
        let has = |id: &str, format, precision| {
            let model = models.iter().find(|model| model.id.as_str() == id).unwrap();
            model.published(format, precision).is_some()
        };
        for id in ["smollm2-135m", "tinyllama-1.1b", "mistral-7b"] {
            assert!(has(id, Format::Safetensors, Precision::Bf16), "{id}");
            for precision in [Precision::F16, Precision::Q8_0, Precision::Q4KM] {
                // The smallest has rows that q4_k_m does not fit.
                let fits = id != "smollm2-135m" || precision != Precision::Q4KM;
                assert_eq!(has(id, Format::Gguf, precision), fits, "{id} {precision}");
            }
        }
        assert!(has("mistral-7b-v0.1", Format::Safetensors, Precision::Bf16));
        assert!(has("mistral-7b-v0.1", Format::Gguf, Precision::Q4KM));
    }

    #[test]
    fn mistakes_in_artifacts_are_named_with_line_rule_and_fix() {
        assert_snapshot!(changed("format = \"gguf\"", "format = \"ggml\""), @r#"m.toml:27: model.m.artifact.format = "ggml": must be one of safetensors, gguf, onnx"#);
        assert_snapshot!(changed("precision = \"q8_0\"", "precision = \"q8\""), @r#"m.toml:28: model.m.artifact.precision = "q8": must be one of f32, bf16, f16, q8_0, q4_1, q4_k_m; did you mean 'q8_0'?"#);
        assert_snapshot!(changed("hub = \"owner/name\"", "hub = \"name\""), @r#"m.toml:19: model.m.artifact.hub = "name": must be OWNER/NAME of letters, digits, '.', '_' and '-'"#);
        assert_snapshot!(changed("revision = \"main\"", "revision = \"../main\""), @r#"m.toml:20: model.m.artifact.revision = "../main": must be a commit, a tag or a branch of letters, digits, '.', '_', '-' and '/'"#);
        assert_snapshot!(changed("revision = \"main\"\n", ""), @r#"m.toml:16: missing key 'model.m.artifact.revision'; add revision = "main", or better the commit's 40 digits"#);
        assert_snapshot!(changed("hub = \"owner/name\"\n", ""), @r#"m.toml:16: the artifact names no origin; give one of hub = "OWNER/NAME" with revision, and url = "https://HOST/FOLDER/""#);
        assert_snapshot!(changed("revision = \"main\"", "revision = \"main\"\nurl = \"https://example.org/\""), @r#"m.toml:16: the artifact names two origins, a hub and a url; give one of hub = "OWNER/NAME" with revision, and url = "https://HOST/FOLDER/""#);
        assert_snapshot!(changed("https://example.org/m/", "http://example.org/m/"), @r#"m.toml:29: model.m.artifact.url = "http://example.org/m/": must start with https://"#);
        assert_snapshot!(changed("https://example.org/m/", "https://me:secret@example.org/m/"), @r#"m.toml:29: model.m.artifact.url holds a user or a password, which no manifest may; remove what stands before '@'"#);
        assert_snapshot!(changed("https://example.org/m/", "https://example.org/m"), @r#"m.toml:29: model.m.artifact.url = "https://example.org/m": must name a folder, which file names are put behind; end it with '/'"#);
        assert_snapshot!(changed("0123456789abcdef0123", "123"), @r#"m.toml:22: model.m.artifact.files.sha256 = "123456789abcdef0123456789abcdef0123456789abcdef": must have 64 digits of 0-9 and a-f, has 47 characters"#);
        assert_snapshot!(changed("bytes = 1000", "bytes = 0"), @"m.toml:22: model.m.artifact.files.bytes = 0: must be 1 to 1,099,511,627,776");
        assert_snapshot!(changed("model.safetensors", "../model.safetensors"), @r#"
        m.toml:16: no .safetensors file is named; add one
        m.toml:22: model.m.artifact.files.name = "../model.safetensors": must be a path inside its origin, of letters, digits, '.', '_', '-' and '/'
        "#);
        assert_snapshot!(changed("model.safetensors", "pytorch_model.bin"), @r#"
        m.toml:16: no .safetensors file is named; add one
        m.toml:22: model.m.artifact.files = "pytorch_model.bin": safetensors takes files that end in .safetensors or .json; pickle files such as .bin and .pt may run code
        "#);
        assert_snapshot!(changed("config.json", "other.json"), @r#"m.toml:16: config.json is not named; add { name = "config.json" }"#);
        assert_snapshot!(changed("config.json", "x/model.safetensors"), @r#"
        m.toml:16: config.json is not named; add { name = "config.json" }
        m.toml:23: model.m.artifact.files = "x/model.safetensors": a file of this name stands here twice
        "#);
        assert_snapshot!(changed("{ name = \"sub/m.Q8_0.gguf\" }", "{ name = \"a.gguf\" }, { name = \"b.gguf\" }"), @"m.toml:26: a gguf artifact is one file; name the one with this precision");
        assert_snapshot!(changed("precision = \"bf16\"", "precision = \"q8_0\""), @"m.toml:16: safetensors has no precision q8_0; write one of f32, bf16, f16");
        assert_snapshot!(changed("bytes = 1000", "size = 1000"), @"m.toml:22: unknown key 'size' (allowed: name, bytes, sha256)");
        assert_snapshot!(changed(
            "format = \"gguf\"\nprecision = \"q8_0\"",
            "format = \"safetensors\"\nprecision = \"bf16\""
        ), @r#"
        m.toml:26: no .safetensors file is named; add one
        m.toml:26: safetensors bf16 stands here twice, first on line 16; remove one
        m.toml:30: model.m.artifact.files = "sub/m.Q8_0.gguf": safetensors takes files that end in .safetensors or .json; pickle files such as .bin and .pt may run code
        "#);
    }
}
