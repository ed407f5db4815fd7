//! The one place that writes to standard output and standard error.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people and programs")]

/// Prints text that is the command's result.
pub(crate) fn text(text: &str) {
    print!("{text}");
}

/// Prints one line that is part of the command's result.
pub(crate) fn line(line: &str) {
    println!("{line}");
}

/// Prints a line for the person at the terminal, beside the result.
pub(crate) fn note(line: &str) {
    eprintln!("{line}");
}

/// Prints a JSON document that is the command's result.
pub(crate) fn json(value: &serde_json::Value) {
    println!("{value:#}");
}
