//! Readings from a file, for tests: the file that [`SCRIPT`] names is read each time, in place of every real source. It
//! holds one [`Reading`] as JSON. A test changes it while a run goes on; one that is gone is a source that died.

use std::collections::BTreeSet;
use std::path::PathBuf;

use regatta_core::telemetry::Reading;

use super::{Snapshot, Source};

/// The environment variable with the file's name.
const SCRIPT: &str = "REGATTA_FAKE_TELEMETRY";

pub(super) struct Script(PathBuf);

impl Script {
    /// The script that the environment names, if it names one.
    pub(super) fn of_environment() -> Option<Self> {
        let path = std::env::var_os(SCRIPT)?;
        tracing::warn!(path = %path.display(), "telemetry is scripted: {SCRIPT} is set");
        Some(Self(path.into()))
    }
}

impl Source for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn read(&mut self, _: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        let shown = self.0.display();
        let text = std::fs::read_to_string(&self.0).map_err(|error| format!("{shown}: {error}"))?;
        let reading: Reading = serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}"))?;
        into.scripted = Some(reading);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_one_reading_and_says_what_it_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reading.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut snapshot = Snapshot::default();
            Script(path.clone()).read(&BTreeSet::new(), &mut snapshot).map(|()| snapshot.scripted)
        };
        let expected = Reading { foreign_processes: Some(1), ..Reading::default() };
        assert_eq!(read(r#"{"foreign_processes": 1}"#), Ok(Some(expected)));
        assert!(read(r#"{"strangers": 1}"#).unwrap_err().contains("strangers"));
        std::fs::remove_file(&path).unwrap();
        assert!(Script(path).read(&BTreeSet::new(), &mut Snapshot::default()).is_err());
    }
}
