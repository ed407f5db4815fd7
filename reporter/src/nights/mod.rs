//! Nights for people and programs: the series of a cell, and what is said of a night.

mod chart;
mod gate;
mod history;
mod junit;

pub(crate) use self::gate::counted;
pub use self::gate::{Event, Gate, GateVerdict, gate};
pub use self::history::{HistoryView, history};
pub use self::junit::junit;

/// Columns under each other; the last one is as long as it is.
fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(text, &width)| format!("{text:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The beginning of an id by which people name it.
fn short(id: &str) -> &str {
    // Runs of the same minute share the first eight digits.
    id.get(..13).unwrap_or(id)
}
