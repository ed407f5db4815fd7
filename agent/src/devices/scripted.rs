//! Accelerators from a file, for tests: the file that [`SCRIPT`] names is a JSON list of sightings and stands for everything that
//! systems and workers would list.

use std::path::Path;

use super::accelerators::Sighting;

/// The environment variable with the file's name.
const SCRIPT: &str = "REGATTA_FAKE_DEVICES";

/// The scripted accelerators, if the environment names a script. One that can't be read is a machine without any.
pub(super) fn of_environment() -> Option<Vec<Sighting>> {
    let path = std::env::var_os(SCRIPT)?;
    tracing::warn!(path = %path.display(), "devices are scripted: {SCRIPT} is set");
    let seen = read(Path::new(&path)).inspect_err(|reason| tracing::error!(reason, "the script can't be used"));
    Some(seen.unwrap_or_default())
}

fn read(path: &Path) -> Result<Vec<Sighting>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_a_list_of_devices() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.json");
        let script = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path)
        };
        let seen = script(r#"[{"id":"cuda:1","name":"H","facts":{"stable_id":"GPU-a"}}]"#).unwrap();
        assert_eq!((seen[0].id.to_string(), seen[0].facts.stable_id.as_deref()), ("cuda:1".to_owned(), Some("GPU-a")));
        assert!(script(r#"[{"id":"gpu","name":"H"}]"#).unwrap_err().contains("is not a device"));
        assert!(script(r#"[{"id":"cpu","nam":"H"}]"#).unwrap_err().contains("nam"));
    }
}
