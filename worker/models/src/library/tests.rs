//! Artifacts come and go, and are looked after while they stay.

use regatta_core::model::Shape;

use super::*;
use crate::{synth, testing};

fn artifact(format: Format, precision: Precision) -> ArtifactRef {
    ArtifactRef { model: "tiny".parse().unwrap(), weights: Weights::Synthetic, format, precision }
}

fn installed(library: &Library, format: Format, precision: Precision) -> Installed {
    let options = Install { seed: Some(5), replace: false };
    library
        .install(&artifact(format, precision), options, |folder| make(&testing::llama(), format, precision, folder))
        .unwrap()
}

fn make(shape: &Shape, format: Format, precision: Precision, folder: &Path) -> Result<(), ModelError> {
    match format {
        Format::Safetensors => synth::safetensors(shape, 5, precision, folder, &mut |_, _| {}),
        Format::Onnx => synth::onnx(shape, 5, precision, folder, &mut |_, _| {}),
        Format::Gguf => synth::gguf(shape, "tiny", 5, precision, &folder.join(crate::gguf::FILE), &mut |_, _| {}),
    }
}

fn root() -> (tempfile::TempDir, Library) {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(&folder.path().join("models")).unwrap();
    (folder, library)
}

#[test]
fn what_is_installed_is_found_under_its_name() {
    let (_folder, library) = root();
    for (format, precision) in
        [(Format::Gguf, Precision::Q8_0), (Format::Safetensors, Precision::F16), (Format::Onnx, Precision::F32)]
    {
        let installed = installed(&library, format, precision);
        let place = library.root().join(format!("synthetic/tiny/{format}-{precision}"));
        assert_eq!(installed.folder, place);
        assert!(installed.path().starts_with(&place) && installed.path().exists());
        assert_eq!(library.find(&installed.manifest.artifact).unwrap(), installed);
        assert_eq!(library.find_hashed(&installed.manifest.artifact).unwrap(), installed);
        assert_eq!(installed.manifest.seed, Some(5));
        assert_eq!(installed.manifest.parameters, testing::llama().parameters());
    }
    let names: Vec<String> = fs::read_dir(library.root().join("synthetic/tiny"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "something was left behind: {names:?}");
}

#[cfg(unix)]
#[test]
fn what_a_killed_program_left_behind_is_swept_and_what_another_one_is_at_is_not() {
    let (_folder, library) = root();
    let beside = library.root().join("synthetic/tiny");
    for name in [".incoming-old", ".incoming-new", "notes"] {
        fs::create_dir_all(beside.join(name).join("new")).unwrap();
    }
    for name in [".incoming-old", "notes"] {
        let two_days_ago = std::time::SystemTime::now() - 2 * ABANDONED;
        File::open(beside.join(name)).unwrap().set_modified(two_days_ago).unwrap();
    }
    installed(&library, Format::Gguf, Precision::Q8_0);
    assert!(!beside.join(".incoming-old").exists());
    assert!(beside.join(".incoming-new").exists() && beside.join("notes").exists());
}

#[test]
fn a_missing_artifact_comes_with_the_command_that_gets_it() {
    let (_folder, library) = root();
    let error = library.find(&artifact(Format::Gguf, Precision::Q4KM)).unwrap_err().to_string();
    assert!(error.contains("regatta models synth tiny --format gguf --precision q4_k_m"), "{error}");
    let real = ArtifactRef { weights: Weights::Real, ..artifact(Format::Gguf, Precision::F16) };
    let error = library.find(&real).unwrap_err().to_string();
    assert!(error.contains("regatta models pull tiny --format gguf --precision f16"), "{error}");
}

#[test]
fn a_changed_file_is_noticed_by_its_hash_and_left_alone() {
    let (_folder, library) = root();
    let installed = installed(&library, Format::Gguf, Precision::F16);
    let path = installed.path();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = library.find(&installed.manifest.artifact).unwrap_err();
    let ModelError::Hash { path: named, expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!((named, expected), (&path, &installed.manifest.files[0].sha256));
    assert_ne!(expected, found);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    // Set right again, it is found again, and the marker is renewed.
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    library.find(&installed.manifest.artifact).unwrap();
}

#[test]
fn a_truncated_file_is_noticed_by_its_size() {
    let (_folder, library) = root();
    let installed = installed(&library, Format::Safetensors, Precision::F16);
    let path = installed.folder.join("model.safetensors");
    let size = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(size - 1).unwrap();
    let error = library.find(&installed.manifest.artifact).unwrap_err().to_string();
    assert!(error.contains(&format!("expected {size} bytes, found {}", size - 1)), "{error}");
    let listed = library.list().unwrap();
    assert!(matches!(listed[0].state, Err(ModelError::Size { .. })));
}

#[test]
fn hashes_are_computed_again_only_when_files_changed() {
    let (_folder, library) = root();
    let mut installed = installed(&library, Format::Gguf, Precision::F16);
    let reference = installed.manifest.artifact.clone();
    // A wrong hash in both manifest and marker goes unnoticed while size and time stand …
    installed.manifest.files[0].sha256 = "0".repeat(64);
    write_json(&installed.folder.join(MANIFEST), &installed.manifest).unwrap();
    write_json(&installed.folder.join(MARKER), &installed.marker().unwrap()).unwrap();
    library.find(&reference).unwrap();
    // … and is noticed when they don't, when it is in the manifest only, or when hashes are asked for.
    assert!(matches!(library.find_hashed(&reference), Err(ModelError::Hash { .. })));
    fs::remove_file(installed.folder.join(MARKER)).unwrap();
    assert!(matches!(library.find(&reference), Err(ModelError::Hash { .. })));
}

#[test]
fn an_artifact_is_replaced_only_when_asked_and_only_by_a_whole_one() {
    let (_folder, library) = root();
    let old = installed(&library, Format::Gguf, Precision::F16);
    let reference = old.manifest.artifact.clone();
    let again = |replace, seed| {
        library.install(&reference, Install { seed: Some(seed), replace }, |folder| {
            synth::gguf(&testing::llama(), "tiny", seed, Precision::F16, &folder.join("model.gguf"), &mut |_, _| {})
        })
    };
    assert!(matches!(again(false, 6), Err(ModelError::AlreadyInstalled { .. })));
    let broken = library.install(&reference, Install { seed: None, replace: true }, |folder| {
        fs::write(folder.join("model.gguf"), b"GGUF").map_err(ModelError::io("write", folder))
    });
    assert!(broken.is_err());
    assert_eq!(library.find(&reference).unwrap(), old);
    let new = again(true, 6).unwrap();
    assert_eq!(library.find(&reference).unwrap(), new);
    assert_ne!(new.manifest.sha256(), old.manifest.sha256());
    library.remove(&reference).unwrap();
    assert!(matches!(library.find(&reference), Err(ModelError::NotInstalled { .. })));
}

#[test]
fn weights_of_another_precision_are_not_installed() {
    let (_folder, library) = root();
    let error = library
        .install(&artifact(Format::Gguf, Precision::Q8_0), Install::default(), |folder| {
            make(&testing::llama(), Format::Gguf, Precision::F16, folder)
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("weights are gguf f16"), "{error}");
}

#[test]
fn a_manifest_that_names_a_path_is_refused() {
    let (_folder, library) = root();
    let mut installed = installed(&library, Format::Gguf, Precision::F16);
    for name in ["../../../secret", "/etc/passwd", "a/b", "", "."] {
        installed.manifest.files[0].name = name.to_owned();
        write_json(&installed.folder.join(MANIFEST), &installed.manifest).unwrap();
        let error = library.find(&installed.manifest.artifact).unwrap_err();
        assert!(matches!(error, ModelError::Escape { .. }), "{name}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn a_folder_that_a_link_takes_out_of_the_root_is_refused() {
    let (folder, library) = root();
    let installed = installed(&library, Format::Gguf, Precision::F16);
    let outside = folder.path().join("outside");
    fs::rename(&installed.folder, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &installed.folder).unwrap();
    let error = library.find(&installed.manifest.artifact).unwrap_err();
    assert!(matches!(error, ModelError::Escape { .. }), "{error}");
}
