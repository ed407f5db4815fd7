//! What is wrong with a scenario or a model manifest: every problem at once, each with its place, its rule and a fix.

use std::fmt;

/// Problems shown at most. A file that is not a scenario at all could have thousands.
const MAX_SHOWN: usize = 50;

/// One problem of a scenario or a model manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioError {
    /// The file's name.
    pub file: String,
    /// The line, from 1. `None` where the problem is the file as a whole.
    pub line: Option<u32>,
    /// The key with the tables around it, such as `policy.warmup.min_time`. Empty where no key is meant.
    pub key: String,
    /// The offending value, cut and made printable. `None` where the rule says it all.
    pub value: Option<String>,
    /// The rule that is broken.
    pub rule: String,
    /// What to write instead, where that is known.
    pub fix: Option<String>,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, value, rule, fix } = self;
        f.write_str(file)?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if let Some(value) = value {
            write!(f, "{key} = {value}: ")?;
        }
        f.write_str(rule)?;
        if let Some(fix) = fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ScenarioError {}

/// Everything that is wrong, in the order of the file. Shown one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioErrors(pub Vec<ScenarioError>);

impl fmt::Display for ScenarioErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().take(MAX_SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        match self.0.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl std::error::Error for ScenarioErrors {}
