//! Logs, on standard error: for people or as JSON, one object a line.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::exit::BadInput;

/// What the log is to look like, for services.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LogArgs {
    #[arg(
        long,
        value_name = "LEVEL",
        env = "REGATTA_LOG",
        help = "What to log: error, warn, info, debug, trace, or a list such as info,regatta_agent=debug"
    )]
    pub log: Option<String>,
    /// Lines for people, or JSON objects for programs
    #[arg(long, value_name = "FORMAT", env = "REGATTA_LOG_FORMAT")]
    pub log_format: Option<Format>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The level of our own programs; what they are made of says less.
fn own(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("regatta", level)
}

/// Logs of a command that does one thing: errors, and more for each `-v`.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::ERROR,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    init(own(level), Format::Human);
}

/// Logs of a service: what goes on, and more for each `-v`.
pub(crate) fn start_service(args: &LogArgs, verbose: u8) -> Result<(), BadInput> {
    let filter = match (verbose, &args.log) {
        (0, Some(text)) => parse(text)?,
        (0, None) => own(LevelFilter::INFO),
        (1, _) => own(LevelFilter::DEBUG),
        _ => own(LevelFilter::TRACE),
    };
    init(filter, args.log_format.unwrap_or(Format::Human));
    Ok(())
}

fn parse(text: &str) -> Result<Targets, BadInput> {
    // An empty text would be taken for an error level.
    if let Some(level) = text.parse::<LevelFilter>().ok().filter(|_| !text.is_empty()) {
        return Ok(own(level));
    }
    // A word alone would be taken for the name of a part of the program, of which everything is logged.
    let is_rule = |part: &str| part.contains('=') || (!part.is_empty() && part.parse::<LevelFilter>().is_ok());
    let parsed = text.parse().ok().filter(|_| text.split(',').all(is_rule));
    parsed.ok_or_else(|| {
        BadInput(format!(
            "log '{}' is no level: use error, warn, info, debug, trace, or a list such as info,regatta_agent=debug",
            regatta_core::id::shown(text)
        ))
    })
}

fn init(filter: Targets, format: Format) {
    let registry = tracing_subscriber::registry();
    match format {
        Format::Human => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
            registry.with(layer.with_filter(filter)).init();
        }
        Format::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            registry.with(layer.with_filter(filter)).init();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_lists_are_understood_and_others_are_bad_input() {
        for good in ["info", "debug", "info,regatta_agent=debug", "off"] {
            parse(good).unwrap();
        }
        for wrong in ["loud", "info,regatta_agent=loud", "info,loud", ""] {
            let message = parse(wrong).unwrap_err().to_string();
            assert!(message.contains(wrong) && message.contains("trace"), "{message}");
        }
    }
}
