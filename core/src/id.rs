//! Identifiers: one newtype per kind of thing, so that a run id can't be passed where an agent id is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest identifier that people choose (model ids, workload names, agent names), in bytes.
pub const MAX_NAME: usize = 64;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is not a valid {what}: {rule}", rule = name_rule())]
pub struct InvalidName {
    what: &'static str,
    shown: String,
}

/// What an identifier may look like, for messages.
pub(crate) fn name_rule() -> String {
    format!("use 1 to {MAX_NAME} of a-z, 0-9, '.', '_', '-', starting with a letter or digit")
}

/// Device and file names that Windows reserves: a folder of that name can't be made there.
const RESERVED: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let stem = text.split('.').next().unwrap_or_default();
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'))
        && !text.contains("..")
        && !RESERVED.contains(&stem)
}

/// Text from outside, cut and with control characters replaced, safe to show in a message.
pub fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(MAX_NAME).map(|c| if is_unprintable(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().count() > MAX_NAME {
        out.push('…');
    }
    out
}

/// Control characters and the marks that reverse the direction of text.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { what: $what, shown: shown(text) })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A model, such as `tinyllama-1.1b`. Also a folder name under the model root.
    ModelId,
    "model id"
);
name!(
    /// One of several builds of a worker program that are measured in turns, such as `candidate`.
    BuildName,
    "name of a build"
);
name!(
    /// A workload of a scenario, such as `long-prompt`.
    WorkloadName,
    "workload name"
);
name!(
    /// An agent, chosen by the person who starts it; the host's name by default.
    AgentId,
    "agent name"
);
name!(
    /// A run: a time-ordered UUID, so that sorting ids sorts runs by age.
    RunId,
    "run id"
);
name!(
    /// A schedule of the coordinator, such as `nightly`.
    ScheduleName,
    "schedule name"
);
name!(
    /// A trial: the run's id and a number.
    TrialId,
    "trial id"
);

impl TrialId {
    /// The id of the `ordinal`-th trial (from 0) of `run`.
    pub fn of(run: &RunId, ordinal: u32) -> Self {
        Self(format!("{run}.t{ordinal}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["", "../x", "a/b", "a\\b", "A", ".hidden", "a..b", "con", "nul.gguf", "a\0b", "ä"] {
            assert!(bad.parse::<ModelId>().is_err(), "{bad:?} was accepted");
        }
        for good in ["tinyllama-1.1b", "a", "0", "smollm2-135m_x.y"] {
            assert!(good.parse::<ModelId>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_message_about_a_bad_name_shows_no_control_characters() {
        let error = "a\u{202e}b\x1b[31m".parse::<ModelId>().unwrap_err().to_string();
        assert!(!error.chars().any(is_unprintable), "{error:?}");
    }
}
