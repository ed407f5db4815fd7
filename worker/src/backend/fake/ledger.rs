//! The fake's own book of the samples that it has given away, for tests that ask whether any was lost on its way.
//!
//! It is kept beside the way of the data, in a file that an environment variable names: a line before a sample is written
//! to the agent's pipe, and another one when the agent has answered that the sample is on its disk. What was *taken* must
//! reach the database whatever is killed afterwards; what was only *given* may have died with the pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use regatta_core::digest::Digest;
use regatta_core::sample::Sample;

/// The environment variable that names the file. For tests only.
pub const LEDGER: &str = "REGATTA_FAKE_LEDGER";

/// The book.
#[derive(Debug)]
pub struct Ledger {
    file: File,
}

impl Ledger {
    /// The book that the environment names, if it names one.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Some(path) = std::env::var_os(LEDGER) else { return Ok(None) };
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Some(Self { file }))
    }

    /// The sample is about to be written to the agent.
    pub fn given(&mut self, sample: &Sample) -> io::Result<()> {
        self.write("given", sample)
    }

    /// The agent has it on disk.
    pub fn taken(&mut self, sample: &Sample) -> io::Result<()> {
        self.write("taken", sample)
    }

    fn write(&mut self, what: &str, sample: &Sample) -> io::Result<()> {
        // One write, so that lines of workers that write at the same time stay whole.
        self.file.write_all(format!("{what} {}\n", entry(sample)).as_bytes())
    }
}

/// A sample in one word: which it is, and a hash of what was measured.
fn entry(sample: &Sample) -> String {
    let mut measured: Vec<u8> = sample.times.tokens.iter().flat_map(|time| time.to_le_bytes()).collect();
    measured.extend(sample.output.iter().flat_map(|id| id.to_le_bytes()));
    measured.extend(sample.times.end.to_le_bytes());
    let key = &sample.key;
    format!("{}/{}/{}/{}", key.cell.0, key.epoch.0, key.repetition, Digest::of(&measured))
}
