//! The model root: artifacts on disk, found by what they are and never by a path from outside.
//!
//! ```text
//! <root>/<weights>/<model>/<format>-<precision>/
//!     model.gguf                                   or
//!     model.safetensors, config.json, tokenizer.json        or
//!     model.onnx, model.onnx.data, config.json, tokenizer.json
//!     artifact.json       what is here: sizes, SHA-256, where it comes from
//!     artifact.verified   sizes and times of the files when their hashes were last computed; its own time is that of
//!                         the artifact's last use
//! ```
//!
//! An artifact is written in a hidden folder beside its place, checked, hashed, and then renamed: what stands in its
//! place is whole. Sizes are compared each time that an artifact is looked up; hashes only when the size or time of a
//! file has changed since they were last found right, because hashing 14 GB takes ten seconds and more.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::id::ModelId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ModelError;
use crate::verify::{self, Tokenizer, Verified};

/// The description of an artifact.
pub const MANIFEST: &str = "artifact.json";

/// The record of the last good hashes.
pub const MARKER: &str = "artifact.verified";

/// How folders of unfinished artifacts begin; no model id begins so.
const INCOMING: &str = ".incoming-";

/// The longest manifest or marker that is read, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;

/// A file of an artifact, as installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile {
    /// Its name in the artifact's folder.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

/// What `artifact.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What the artifact is.
    pub artifact: ArtifactRef,
    /// The seed, for synthetic weights.
    pub seed: Option<u64>,
    /// Its files.
    pub files: Vec<ArtifactFile>,
    /// Bytes of all tensors, without headers and padding.
    pub weight_bytes: u64,
    /// Number of weights.
    pub parameters: u64,
    /// The version of Regatta that installed it.
    pub created_by: String,
}

impl Manifest {
    /// One SHA-256 for the artifact as a whole, in hexadecimal: over the names and hashes of its files, by name.
    pub fn sha256(&self) -> String {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hash = Sha256::new();
        for file in files {
            hash.update(format!("{}  {}\n", file.sha256, file.name));
        }
        hexadecimal(&hash.finalize())
    }
}

/// An artifact that is there and unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its folder.
    pub folder: PathBuf,
    /// Its description.
    pub manifest: Manifest,
}

impl Installed {
    /// What an engine is pointed at: the GGUF file, the ONNX graph, or the folder of safetensors.
    pub fn path(&self) -> PathBuf {
        match self.manifest.artifact.format {
            Format::Gguf => self.folder.join(crate::gguf::FILE),
            Format::Onnx => self.folder.join(crate::onnx::FILE),
            Format::Safetensors => self.folder.clone(),
        }
    }
}

/// An entry of [`Library::list`].
#[derive(Debug)]
pub struct Listed {
    /// What its folder's name says it is.
    pub artifact: ArtifactRef,
    /// The folder.
    pub folder: PathBuf,
    /// Its description if its files have the right sizes (hashes aren't computed), else what is wrong.
    pub state: Result<Manifest, ModelError>,
    /// Whether its hashes were right when they were last computed, and nothing has changed since.
    pub verified: bool,
    /// When it was last looked up for use, where that is known.
    pub used: Option<SystemTime>,
}

/// How to install.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Install {
    /// The seed, for synthetic weights.
    pub seed: Option<u64>,
    /// Whether an artifact that is there already is replaced; it stays where the new one turns out bad.
    pub replace: bool,
}

/// The model root.
#[derive(Debug, Clone)]
pub struct Library {
    root: PathBuf,
}

/// What a program that was killed while it installed something has left behind is deleted after this long.
const ABANDONED: Duration = Duration::from_hours(24);

/// Deletes what killed programs have left in a folder of artifacts. One that is at work now has begun lately.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(INCOMING);
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED));
        if is_ours && is_old {
            // Whoever looks next will try again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Library {
    /// Opens the model root, creating the folder where there is none.
    pub fn open(root: &Path) -> Result<Self, ModelError> {
        fs::create_dir_all(root).map_err(ModelError::io("create", root))?;
        let root = root.canonicalize().map_err(ModelError::io("find", root))?;
        Ok(Self { root })
    }

    /// The model root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an artifact is, or would be.
    pub fn folder(&self, artifact: &ArtifactRef) -> PathBuf {
        let ArtifactRef { model, weights, format, precision } = artifact;
        self.root.join(weights.as_str()).join(model.as_str()).join(format!("{format}-{precision}"))
    }

    /// Looks an artifact up: it is there, its files have their sizes, and their hashes were right when last changed.
    pub fn find(&self, artifact: &ArtifactRef) -> Result<Installed, ModelError> {
        let installed = self.look_up(artifact)?;
        installed.check_hashes()?;
        Ok(installed)
    }

    /// As [`Self::find`], but computes all hashes again whatever sizes and times say.
    pub fn find_hashed(&self, artifact: &ArtifactRef) -> Result<Installed, ModelError> {
        let installed = self.look_up(artifact)?;
        installed.hash_files()?;
        Ok(installed)
    }

    /// Looks an artifact up without its hashes.
    fn look_up(&self, artifact: &ArtifactRef) -> Result<Installed, ModelError> {
        let folder = self.folder(artifact);
        if !folder.join(MANIFEST).exists() {
            let fix = fix_command(artifact);
            return Err(ModelError::NotInstalled { artifact: artifact.clone(), path: folder, fix });
        }
        self.check_inside(&folder)?;
        let manifest: Manifest = read_json(&folder.join(MANIFEST))?;
        if manifest.artifact != *artifact {
            let problem = format!("says {}, its folder says {artifact}", manifest.artifact);
            return Err(ModelError::config(&folder.join(MANIFEST), "artifact", problem));
        }
        let installed = Installed { folder, manifest };
        installed.check_sizes()?;
        Ok(installed)
    }

    /// Installs an artifact: `write` puts its files into the empty folder that it is given. They are verified and hashed
    /// before they appear under the artifact's name.
    pub fn install(
        &self,
        artifact: &ArtifactRef,
        options: Install,
        write: impl FnOnce(&Path) -> Result<(), ModelError>,
    ) -> Result<Installed, ModelError> {
        let folder = self.folder(artifact);
        if folder.exists() && !options.replace {
            return Err(ModelError::AlreadyInstalled { artifact: artifact.clone(), path: folder });
        }
        let beside = folder.parent().unwrap_or(&self.root);
        fs::create_dir_all(beside).map_err(ModelError::io("create", beside))?;
        self.check_inside(beside)?;
        sweep(beside);
        let incoming = tempfile::Builder::new()
            .prefix(INCOMING)
            .tempdir_in(beside)
            .map_err(ModelError::io("create a folder in", beside))?;
        // A folder inside, because the outer one is readable by its owner only.
        let fresh = incoming.path().join("new");
        fs::create_dir(&fresh).map_err(ModelError::io("create", &fresh))?;
        write(&fresh)?;
        let manifest = describe(&fresh, artifact, options.seed)?;
        let installed = Installed { folder: fresh, manifest };
        write_json(&installed.folder.join(MANIFEST), &installed.manifest)?;
        write_json(&installed.folder.join(MARKER), &installed.marker()?)?;
        put_in_place(&installed.folder, &folder, &incoming.path().join("old"))?;
        Ok(Installed { folder, ..installed })
    }

    /// Removes an artifact, whatever state it is in.
    pub fn remove(&self, artifact: &ArtifactRef) -> Result<(), ModelError> {
        let folder = self.folder(artifact);
        if !folder.exists() {
            let fix = "nothing to remove".to_owned();
            return Err(ModelError::NotInstalled { artifact: artifact.clone(), path: folder, fix });
        }
        self.check_inside(&folder)?;
        fs::remove_dir_all(&folder).map_err(ModelError::io("remove", &folder))
    }

    /// Every artifact, ordered by model, weights, format and precision. Folders with other names are passed over.
    pub fn list(&self) -> Result<Vec<Listed>, ModelError> {
        let mut all = Vec::new();
        for weights in Weights::ALL {
            for (model, folder) in subfolders(&self.root.join(weights.as_str()))? {
                let Ok(model) = model.parse::<ModelId>() else { continue };
                for (name, folder) in subfolders(&folder)? {
                    let Some((format, precision)) = parse_name(&name) else { continue };
                    let artifact = ArtifactRef { model: model.clone(), weights, format, precision };
                    let found = self.look_up(&artifact);
                    let verified = found.as_ref().is_ok_and(Installed::is_as_marked);
                    let used = folder.join(MARKER).metadata().and_then(|marker| marker.modified()).ok();
                    let state = found.map(|installed| installed.manifest);
                    all.push(Listed { artifact, folder, state, verified, used });
                }
            }
        }
        all.sort_by(|a, b| a.artifact.cmp(&b.artifact));
        Ok(all)
    }

    /// Folders of parts of artifacts that are being fetched, or were.
    pub(crate) fn parts(&self) -> Vec<(ArtifactRef, PathBuf)> {
        let mut all = Vec::new();
        for (model, folder) in subfolders(&self.root.join(crate::incoming::FOLDER)).unwrap_or_default() {
            let Ok(model) = model.parse::<ModelId>() else { continue };
            for (name, folder) in subfolders(&folder).unwrap_or_default() {
                let Some((format, precision)) = parse_name(&name) else { continue };
                let weights = Weights::Real;
                all.push((ArtifactRef { model: model.clone(), weights, format, precision }, folder));
            }
        }
        all
    }

    /// Refuses a folder that a link has taken out of the root.
    fn check_inside(&self, folder: &Path) -> Result<(), ModelError> {
        let real = folder.canonicalize().map_err(ModelError::io("find", folder))?;
        if real.starts_with(&self.root) {
            return Ok(());
        }
        let name = real.to_string_lossy().into_owned();
        Err(ModelError::Escape { path: folder.to_owned(), name, problem: "is outside the model root" })
    }
}

/// The command that gets a missing artifact, or a good copy of a damaged one.
pub fn fix_command(artifact: &ArtifactRef) -> String {
    let ArtifactRef { model, weights, format, precision } = artifact;
    match weights {
        // Nobody publishes these: they are made of what is published.
        Weights::Real if *format == Format::Onnx => {
            format!(
                "regatta models convert {model} --to onnx --precision {precision} --from FOLDER, its safetensors or gguf"
            )
        }
        Weights::Real => format!("regatta models pull {model} --format {format} --precision {precision}"),
        Weights::Synthetic => format!("regatta models synth {model} --format {format} --precision {precision}"),
    }
}

fn parse_name(name: &str) -> Option<(Format, Precision)> {
    let (format, precision) = name.split_once('-')?;
    Some((format.parse().ok()?, precision.parse().ok()?))
}

/// Folders in `folder` by name; none where it isn't there.
fn subfolders(folder: &Path) -> Result<Vec<(String, PathBuf)>, ModelError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(ModelError::io("read", folder))? {
        let entry = entry.map_err(ModelError::io("read", folder))?;
        let path = entry.path();
        if path.is_dir() {
            all.extend(entry.file_name().into_string().ok().map(|name| (name, path)));
        }
    }
    Ok(all)
}

/// What a marker says: a file's hash, and by what it would be noticed that the file was changed since.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    name: String,
    bytes: u64,
    /// Time of the last change, in nanoseconds since 1970; text, because JSON numbers end at 2⁶⁴.
    modified: String,
    sha256: String,
}

impl Installed {
    /// Compares each file's size with the manifest. Links are refused: a file is where it was installed.
    fn check_sizes(&self) -> Result<(), ModelError> {
        let manifest = self.folder.join(MANIFEST);
        if self.manifest.files.is_empty() {
            return Err(ModelError::config(&manifest, "files", "names no files"));
        }
        for file in &self.manifest.files {
            let path = self.file(file)?;
            let metadata = match path.symlink_metadata() {
                Ok(metadata) if metadata.is_file() => metadata,
                Ok(_) => {
                    let (name, problem) = (file.name.clone(), "is not a plain file");
                    return Err(ModelError::Escape { path: self.folder.clone(), name, problem });
                }
                Err(source) => return Err(ModelError::Io { action: "find", path, source }),
            };
            if metadata.len() != file.bytes {
                let fix = fix_command(&self.manifest.artifact);
                return Err(ModelError::Size { path, expected: file.bytes, found: metadata.len(), fix });
            }
        }
        Ok(())
    }

    /// The path of a file, whose name must be one plain component.
    pub fn file(&self, file: &ArtifactFile) -> Result<PathBuf, ModelError> {
        let mut parts = Path::new(&file.name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(name)), None) if name == file.name.as_str() => Ok(self.folder.join(name)),
            _ => Err(ModelError::Escape {
                path: self.folder.join(MANIFEST),
                name: file.name.clone(),
                problem: "is not a plain file name",
            }),
        }
    }

    /// Computes hashes unless the marker says that nothing changed since they were last right.
    fn check_hashes(&self) -> Result<(), ModelError> {
        if self.is_as_marked() {
            self.note_use();
            return Ok(());
        }
        self.hash_files()?;
        // A root that can't be written to is no error: the hashes will be computed again next time.
        let _ = self.marker().and_then(|marker| write_json(&self.folder.join(MARKER), &marker));
        Ok(())
    }

    /// Whether nothing changed since the hashes were last right.
    fn is_as_marked(&self) -> bool {
        let marker = read_json::<Vec<Seen>>(&self.folder.join(MARKER));
        marker.is_ok_and(|marker| self.marker().is_ok_and(|now| now == marker))
    }

    /// The marker's time is that of the last use, for whoever makes room. One that can't be set is an old use.
    fn note_use(&self) {
        let marker = File::options().append(true).open(self.folder.join(MARKER));
        let _ = marker.and_then(|marker| marker.set_modified(SystemTime::now()));
    }

    fn hash_files(&self) -> Result<(), ModelError> {
        for file in &self.manifest.files {
            let path = self.file(file)?;
            let found = sha256(&path)?;
            if found != file.sha256 {
                let fix = fix_command(&self.manifest.artifact);
                return Err(ModelError::Hash { path, expected: file.sha256.clone(), found, fix });
            }
        }
        Ok(())
    }

    /// The marker for the files as they are now, given that they have the manifest's hashes.
    fn marker(&self) -> Result<Vec<Seen>, ModelError> {
        self.manifest.files.iter().map(|file| self.seen(file)).collect()
    }

    fn seen(&self, file: &ArtifactFile) -> Result<Seen, ModelError> {
        let path = self.file(file)?;
        let metadata = path.symlink_metadata().map_err(ModelError::io("find", &path))?;
        let modified = metadata.modified().map_err(ModelError::io("find", &path))?;
        let modified = match modified.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos().to_string(),
            Err(before) => format!("-{}", before.duration().as_nanos()),
        };
        Ok(Seen { name: file.name.clone(), bytes: metadata.len(), modified, sha256: file.sha256.clone() })
    }
}

/// Verifies what was written and describes it.
fn describe(folder: &Path, artifact: &ArtifactRef, seed: Option<u64>) -> Result<Manifest, ModelError> {
    let verified = verify::verify(folder, Tokenizer::Optional)?;
    check_kind(folder, artifact, &verified)?;
    let mut files = Vec::new();
    for (path, name) in verify::files(folder, artifact.format)? {
        let bytes = path.symlink_metadata().map_err(ModelError::io("find", &path))?.len();
        files.push(ArtifactFile { sha256: sha256(&path)?, name, bytes });
    }
    Ok(Manifest {
        artifact: artifact.clone(),
        seed,
        files,
        weight_bytes: verified.weight_bytes,
        parameters: verified.parameters,
        created_by: concat!("regatta ", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// What was written is of the format and precision that it will be found under.
fn check_kind(folder: &Path, artifact: &ArtifactRef, verified: &Verified) -> Result<(), ModelError> {
    let found = verified.precision.map_or("other types", Precision::as_str);
    if verified.format == artifact.format && verified.precision == Some(artifact.precision) {
        return Ok(());
    }
    Err(ModelError::OtherModel {
        path: folder.to_owned(),
        model: artifact.to_string(),
        differences: vec![format!("weights are {} {found}", verified.format)],
    })
}

/// Renames the finished folder to its place. What was there before is moved to `old`, and back if that fails.
fn put_in_place(fresh: &Path, place: &Path, old: &Path) -> Result<(), ModelError> {
    let replaced = place.exists();
    if replaced {
        fs::rename(place, old).map_err(ModelError::io("move aside", place))?;
    }
    fs::rename(fresh, place).map_err(|source| {
        if replaced {
            let _ = fs::rename(old, place);
        }
        ModelError::Io { action: "create", path: place.to_owned(), source }
    })
}

/// The SHA-256 of a file, in lower-case hexadecimal.
pub fn sha256(path: &Path) -> Result<String, ModelError> {
    let mut file = File::open(path).map_err(ModelError::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).map_err(ModelError::io("read", path))?;
        if length == 0 {
            return Ok(hexadecimal(&hash.finalize()));
        }
        hash.update(&buffer[..length]);
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ModelError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_MANIFEST).read_to_string(&mut text))
        .map_err(ModelError::io("read", path))?;
    serde_json::from_str(&text).map_err(|error| ModelError::config(path, "content", error.to_string()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ModelError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| ModelError::config(path, "content", error.to_string()))?;
    fs::write(path, text + "\n").map_err(ModelError::io("write", path))
}

#[cfg(test)]
mod tests;
