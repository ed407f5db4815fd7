//! Settings of the services: from a file, the environment and flags, each stronger than the one before.
//!
//! A struct of settings is at once the flags (`clap`), the keys of the file (`serde`) and the list of what there is.
//! The merge is pure: tables in, a table and the source of each value out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::exit::BadInput;

/// The largest file of settings, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Which file, and whether only to show what came of it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FileArgs {
    /// File of settings (TOML) [default: the one in the home folder, where there is one]
    #[arg(long, value_name = "FILE", env = "REGATTA_CONFIG")]
    config: Option<PathBuf>,
    /// Show the settings and where each came from, and do nothing else
    #[arg(long)]
    pub print_config: bool,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One setting that there is.
struct Key {
    name: String,
    flag: String,
    env: Option<String>,
}

/// What came of the settings.
#[derive(Debug)]
pub(crate) struct Settings<T> {
    /// The values.
    pub value: T,
    lines: Vec<(String, Value, Source)>,
}

/// A file of settings.
struct File {
    path: PathBuf,
    table: Table,
}

/// Merges what was typed (and set in the environment) with the file and the defaults.
pub(crate) fn resolve<T: Args + Serialize + DeserializeOwned>(
    typed: &T,
    matches: &ArgMatches,
    args: &FileArgs,
    standard: &Path,
    defaults: &T,
) -> Result<Settings<T>, BadInput> {
    let keys = keys::<T>();
    let file = match &args.config {
        Some(path) => Some(read::<T>(path, &keys)?),
        None if standard.is_file() => Some(read::<T>(standard, &keys)?),
        None => None,
    };
    let typed = table(typed)?;
    let source = |key: &Key| match matches.value_source(&key.name) {
        Some(ValueSource::EnvVariable) => Source::Environment(key.env.clone().unwrap_or_default()),
        _ => Source::Flag(key.flag.clone()),
    };
    let typed = keys.iter().filter_map(|key| Some((key.name.clone(), typed.get(&key.name)?.clone(), source(key))));
    merge(&keys, table(defaults)?, file, typed.collect())
}

fn merge<T: DeserializeOwned>(
    keys: &[Key],
    defaults: Table,
    file: Option<File>,
    typed: Vec<(String, Value, Source)>,
) -> Result<Settings<T>, BadInput> {
    let mut merged: std::collections::BTreeMap<String, (Value, Source)> =
        defaults.into_iter().map(|(key, value)| (key, (value, Source::Default))).collect();
    if let Some(File { path, table }) = file {
        merged.extend(table.into_iter().map(|(key, value)| (key, (value, Source::File(path.clone())))));
    }
    merged.extend(typed.into_iter().map(|(key, value, source)| (key, (value, source))));
    let table: Table = merged.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    let value = table.try_into().map_err(|error: toml::de::Error| BadInput(error.message().to_owned()))?;
    let in_order = keys.iter().filter_map(|key| merged.remove_entry(&key.name));
    let lines = in_order.map(|(key, (value, source))| (key, value, source)).collect();
    Ok(Settings { value, lines })
}

impl<T> Settings<T> {
    /// The settings as a file of settings, each line with where it came from.
    pub(crate) fn shown(&self) -> String {
        let line = |(key, value, _): &(String, Value, Source)| format!("{key} = {value}");
        let width = self.lines.iter().map(|setting| line(setting).chars().count()).max().unwrap_or(0);
        self.lines.iter().fold(String::new(), |mut text, setting| {
            let _ = writeln!(text, "{:<width$}  # {}", line(setting), setting.2);
            text
        })
    }
}

fn table<T: Serialize>(settings: &T) -> Result<Table, BadInput> {
    Table::try_from(settings).map_err(|error| BadInput(error.to_string()))
}

fn keys<T: Args>() -> Vec<Key> {
    let command = T::augment_args(clap::Command::new("settings"));
    let key = |argument: &clap::Arg| Key {
        name: argument.get_id().to_string(),
        flag: format!("--{}", argument.get_long().unwrap_or_default()),
        env: argument.get_env().map(|name| name.to_string_lossy().into_owned()),
    };
    command.get_arguments().map(key).collect()
}

/// Reads a file and checks each of its keys and values; everything that is wrong is said at once.
fn read<T: DeserializeOwned>(path: &Path, keys: &[Key]) -> Result<File, BadInput> {
    let shown = path.display();
    let wrong = |error: std::io::Error| BadInput(format!("settings {shown}: {error}"));
    let length = path.metadata().map_err(wrong)?.len();
    if length > MAX_FILE {
        return Err(BadInput(format!("settings {shown}: {length} bytes, at most {MAX_FILE} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(wrong)?;
    parse::<T>(path, &text, keys)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str, keys: &[Key]) -> Result<File, BadInput> {
    let shown = path.display();
    let at = |error: &toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("{shown}:{line}: {}", error.message())
    };
    let table: Table = text.parse().map_err(|error| BadInput(at(&error)))?;
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(key, value)| {
            let reason = if keys.iter().any(|known| known.name == *key) {
                let alone = Table::from_iter([(key.clone(), value.clone())]);
                let error = alone.try_into::<T>().err()?;
                format!("{key}: {}", error.message())
            } else {
                format!("unknown key '{}'{}", regatta_core::id::shown(key), meant(key, keys))
            };
            Some(format!("{shown}:{}: {reason}", line_of(text, key)))
        })
        .collect();
    if !wrong.is_empty() {
        return Err(BadInput(wrong.join("\n")));
    }
    Ok(File { path: path.to_owned(), table })
}

fn line_of(text: &str, key: &str) -> usize {
    let names = |line: &&str| {
        let rest = line.trim_start().trim_start_matches(['[', '"', '\'', ' ']).strip_prefix(key);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-')))
    };
    text.lines().take_while(|line| !names(line)).count() + 1
}

/// The key that was probably meant, or all there are.
fn meant(key: &str, keys: &[Key]) -> String {
    let names = keys.iter().map(|key| key.name.as_str());
    let closest = names.clone().map(|name| (strsim::damerau_levenshtein(key, name), name)).min();
    match closest {
        Some((distance, name)) if distance <= 2 || distance * 3 <= name.len() => format!("; did you mean '{name}'?"),
        _ => format!("; there are {}", names.collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Args, Serialize, Deserialize)]
    #[serde(default)]
    struct Some3 {
        #[arg(long, env = "TEST_LISTEN")]
        listen: Option<std::net::SocketAddr>,
        #[arg(long)]
        tls_cert: Option<PathBuf>,
        #[arg(long, env = "TEST_LIMIT")]
        limit: Option<u32>,
    }

    fn file(text: &str) -> Result<File, BadInput> {
        parse::<Some3>(Path::new("x.toml"), text, &keys::<Some3>())
    }

    #[test]
    fn flags_are_stronger_than_the_environment_than_the_file_than_defaults() {
        let value = |n: i64| Value::Integer(n);
        let typed = |source: Source| vec![("limit".to_owned(), value(7), source)];
        let defaults = || Table::from_iter([("limit".to_owned(), value(1))]);
        let merged = |file: Option<File>, typed| merge::<Some3>(&keys::<Some3>(), defaults(), file, typed).unwrap();
        let from_file = || Some(file("limit = 3\ntls_cert = 'a.pem'").unwrap());
        assert_eq!(merged(None, Vec::new()).shown(), "limit = 1  # default\n");
        assert_eq!(
            merged(from_file(), Vec::new()).shown(),
            "tls_cert = \"a.pem\"  # file x.toml\nlimit = 3           # file x.toml\n"
        );
        let settings = merged(from_file(), typed(Source::Environment("TEST_LIMIT".to_owned())));
        assert_eq!((settings.value.limit, settings.value.tls_cert.as_deref()), (Some(7), Some(Path::new("a.pem"))));
        assert!(settings.shown().contains("limit = 7           # environment TEST_LIMIT"), "{}", settings.shown());
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let settings = merge::<Some3>(
            &keys::<Some3>(),
            Table::new(),
            Some(file("listen = '[::1]:1'\nlimit = 2").unwrap()),
            Vec::new(),
        );
        let settings = settings.unwrap();
        assert_eq!(toml::from_str::<Some3>(&settings.shown()).unwrap(), settings.value);
    }

    #[test]
    fn mistakes_are_named_with_line_rule_and_a_suggestion() {
        for (text, parts) in [
            ("\nlisen = '127.0.0.1:1'", vec!["x.toml:2", "lisen", "did you mean 'listen'"]),
            ("limit = 1\n[server]\nx = 1", vec!["x.toml:2", "server", "there are listen, tls_cert, limit"]),
            ("listen = 'here'", vec!["x.toml:1", "socket address"]),
            ("limit = 1\nlimit = 2", vec!["x.toml:2", "duplicate"]),
            ("limit = 'many'", vec!["x.toml:1", "invalid type"]),
            ("tlscert = 1\nlimitt = 2", vec!["'tls_cert'", "'limit'"]),
        ] {
            let message = file(text).map(|_| ()).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
        }
    }
}
