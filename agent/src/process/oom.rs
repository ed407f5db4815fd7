//! Evidence that a process was killed because the host ran out of memory.

use std::fs;
use std::path::PathBuf;

/// Counters of the system that go up when a process is killed for memory, and where they stood.
#[derive(Debug, Clone)]
pub(super) struct OomWatch {
    files: Vec<PathBuf>,
    before: u64,
}

impl OomWatch {
    /// Remembers where the counters stand. Files that can't be read count nothing.
    pub(super) fn start(files: Vec<PathBuf>) -> Self {
        let before = sum(&files);
        Self { files, before }
    }

    /// Whether a process was killed for memory since.
    pub(super) fn has_seen_kill(&self) -> bool {
        sum(&self.files) > self.before
    }
}

fn sum(files: &[PathBuf]) -> u64 {
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).map(|text| count(&text)).sum()
}

/// The number on the line `oom_kill N`.
fn count(text: &str) -> u64 {
    let number = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    number.unwrap_or(0)
}

/// Whether the last words are those of a program whose request for memory was refused: of Rust, of C++, of ggml.
pub(super) fn speaks_of_memory(stderr: &str) -> bool {
    let rust = stderr.contains("memory allocation of ") && stderr.contains(" bytes failed");
    rust || stderr.contains("std::bad_alloc") || stderr.contains("failed to allocate CPU buffer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_seen_when_a_counter_goes_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        fs::write(&file, "low 0\noom 1\noom_kill 2\noom_group_kill 9\n").unwrap();
        let watch = OomWatch::start(vec![file.clone(), folder.path().join("absent")]);
        assert!(!watch.has_seen_kill());
        fs::write(&file, "low 0\noom 1\noom_kill 3\n").unwrap();
        assert!(watch.has_seen_kill());
    }

    #[test]
    fn refused_requests_for_memory_are_recognised() {
        assert!(speaks_of_memory("memory allocation of 16777216 bytes failed\n"));
        assert!(speaks_of_memory("terminate called after throwing an instance of 'std::bad_alloc'"));
        assert!(!speaks_of_memory("thread 'main' panicked"));
    }
}
