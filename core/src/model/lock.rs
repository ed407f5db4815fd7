//! The lock file of a manifest: what files turned out to be when they were first pulled.
//!
//! A manifest may name a branch, and files whose hash nobody wrote down. What a pull finds is pinned here, so that every
//! later pull gets the same bytes or none. Plain text, meant to be committed beside the manifest.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::source::{Origin, is_sha256};

/// The version of the format.
const SCHEMA: u32 = 1;

/// The pins of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    schema: u32,
    #[serde(default, rename = "file")]
    files: Vec<Locked>,
}

/// What one file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// `hub:OWNER/NAME@REVISION` or the address of a folder.
    pub origin: String,
    /// The name at its origin.
    pub name: String,
    /// The commit that the revision stood for, for repositories of the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// A lock file that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem} (fix: mend the line, or delete the file and pull again)")]
pub struct LockError {
    file: String,
    line: usize,
    problem: String,
}

impl Origin {
    /// How the origin is called in a lock file and in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Hub { repo, revision } => format!("hub:{repo}@{revision}"),
            Self::Url(url) => url.clone(),
        }
    }
}

impl Lock {
    /// Reads a lock file; an empty text is a lock without pins.
    pub fn parse(file: &str, text: &str) -> Result<Self, LockError> {
        let wrong = |line, problem: String| LockError { file: crate::id::shown(file), line, problem };
        if text.trim().is_empty() {
            return Ok(Self { schema: SCHEMA, files: Vec::new() });
        }
        let lock: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            wrong(line, error.message().lines().next().unwrap_or_default().to_owned())
        })?;
        if lock.schema != SCHEMA {
            return Err(wrong(1, format!("schema {} is not known, this program reads {SCHEMA}", lock.schema)));
        }
        if let Some(bad) = lock.files.iter().find(|locked| !is_sha256(&locked.sha256)) {
            let line = text.find(&format!("\"{}\"", bad.sha256)).map_or(1, |at| line_of(text, at));
            return Err(wrong(line, "sha256 must have 64 digits of 0-9 and a-f".to_owned()));
        }
        Ok(lock)
    }

    /// The pin of a file.
    pub fn find(&self, origin: &Origin, name: &str) -> Option<&Locked> {
        let origin = origin.name();
        self.files.iter().find(|locked| locked.origin == origin && locked.name == name)
    }

    /// The commit that an origin's revision stood for when it was first asked.
    pub fn commit(&self, origin: &Origin) -> Option<&str> {
        let origin = origin.name();
        self.files.iter().filter(|locked| locked.origin == origin).find_map(|locked| locked.commit.as_deref())
    }

    /// Pins a file. A pin that is there stays: it is what later pulls are held to.
    pub fn pin(&mut self, locked: Locked) {
        let is_there = self.files.iter().any(|old| old.origin == locked.origin && old.name == locked.name);
        if !is_there {
            self.files.push(locked);
            self.files.sort_by(|a, b| (&a.origin, &a.name).cmp(&(&b.origin, &b.name)));
        }
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Written by `regatta models pull`: what files were when they were first pulled. Later pulls get the same\n\
             # bytes or none. To take a newer version, delete its entries and pull again.\n\nschema = {SCHEMA}\n"
        );
        for Locked { origin, name, commit, bytes, sha256 } in &self.files {
            // Of an origin, names and hashes only characters are allowed that need no escaping.
            let _ = write!(text, "\n[[file]]\norigin = \"{origin}\"\nname = \"{name}\"\n");
            if let Some(commit) = commit {
                let _ = writeln!(text, "commit = \"{commit}\"");
            }
            let _ = write!(text, "bytes = {bytes}\nsha256 = \"{sha256}\"\n");
        }
        text
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin::Hub { repo: "a/b".to_owned(), revision: "main".to_owned() }
    }

    fn locked(name: &str, digit: &str) -> Locked {
        Locked {
            origin: origin().name(),
            name: name.to_owned(),
            commit: Some("c".repeat(40)),
            bytes: 7,
            sha256: digit.repeat(64),
        }
    }

    #[test]
    fn what_was_pinned_is_read_back_and_stays() {
        let mut lock = Lock::parse("models.lock", "").unwrap();
        lock.pin(locked("x.gguf", "1"));
        lock.pin(locked("a.gguf", "2"));
        lock.pin(locked("x.gguf", "3"));
        let read = Lock::parse("models.lock", &lock.to_text()).unwrap();
        assert_eq!(read, lock);
        assert_eq!(read.find(&origin(), "x.gguf").unwrap().sha256, "1".repeat(64));
        assert_eq!(read.commit(&origin()), Some("c".repeat(40).as_str()));
        assert_eq!(read.find(&Origin::Url("https://x/".to_owned()), "x.gguf"), None);
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let mut lock = Lock::parse("l", "").unwrap();
        lock.pin(locked("x.gguf", "1"));
        let text = lock.to_text();
        let said = |from: &str, to: &str| Lock::parse("l", &text.replacen(from, to, 1)).unwrap_err().to_string();
        assert_eq!(
            said(&"1".repeat(64), "12"),
            "l:11: sha256 must have 64 digits of 0-9 and a-f (fix: mend the line, or delete the file and pull again)"
        );
        assert!(
            said("bytes = 7", "bytes = -7").starts_with("l:10: invalid value"),
            "{}",
            said("bytes = 7", "bytes = -7")
        );
        assert!(said("schema = 1", "schema = 2").contains("schema 2 is not known"));
        assert!(said("commit", "comit").contains("unknown field `comit`"));
    }
}
